"""Two gloo processes: DistributedDataParallel over the bound, and `fit` launched through Accelerate, stay in step."""

import os
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import torch
from support.paths import ROOT

WORKER = """
import os, sys
import torch, pyro
import torch.distributed as dist
from torch import nn
import bayesprune as bp

rank, out = int(os.environ["RANK"]), sys.argv[1]
torch.set_num_threads(1)
torch.manual_seed(5)
x = torch.randn(64, 1, 8, 8)
y = (x.mean((1, 2, 3)) > 0).long()

def make(seed=0):
    torch.manual_seed(seed)
    net = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(144, 2))
    bnet = bp.BayesianNet(net, {"0.weight": bp.SparseVD(bp.Channel(0)), "4.weight": bp.Gaussian(bp.Block(1, 4))})
    return bnet, bp.classify(bnet, 64)

def finish(**found):
    torch.save({**found, "store": len(pyro.get_param_store())}, f"{out}/{rank}.pt")
    if dist.is_initialized():
        dist.destroy_process_group()
"""

DDP = """
from bayesprune.fitting.elbo import MeanFieldELBO
from bayesprune.pruning import Run
from pyro.infer import TraceMeanField_ELBO

def train(elbo):
    bnet, model = make()
    before = {name: value.clone() for name, value in bnet.state_dict().items()}
    ddp = nn.parallel.DistributedDataParallel(elbo(model, bnet.guide))
    optimizer = torch.optim.Adam(bnet.parameters(), lr=0.02)
    run, cubic = Run(bnet, optimizer, steps=12), bp.Cubic(keep=0.4, every=3)
    torch.manual_seed(100 + rank)  # own batches and own draws
    seen = 0.0
    for _ in range(run.steps):
        batch = torch.randperm(64)[:16]
        seen += float(x[batch].sum())
        optimizer.zero_grad()
        ddp(x[batch], y[batch]).backward()
        optimizer.step()
        run.step += 1
        cubic.on_step(run)
    return {"before": before, "after": bnet.state_dict(), "seen": seen}

dist.init_process_group("gloo")
finish(ours=train(MeanFieldELBO()), pyros=train(TraceMeanField_ELBO()))
"""

FIT = """
from torch.utils.data import DataLoader, TensorDataset

class Watch(bp.Callback):
    batches = 0
    def on_step(self, run):
        self.batches += 1

watch = Watch()
bnet, model = make()
before = {name: value.clone() for name, value in bnet.state_dict().items()}
loader = DataLoader(TensorDataset(x, y), batch_size=8, shuffle=True)
def fit(epochs, **kwargs):
    return bp.fit(model, bnet.guide, loader, epochs=epochs, lr=0.02, prune=bp.Cubic(keep=0.4, every=3),
                  callbacks=[watch], seed=3, progress=False, checkpoint=f"{out}/checkpoint", **kwargs)
history = fit(3)
after = {name: value.clone() for name, value in bnet.state_dict().items()}
bnet, model = make(seed=1)  # a finished run, found again by both ranks
again = fit(3)
finish(before=before, after=after, again=bnet.state_dict(), batches=watch.batches, kept=history.kept, nll=history.nll,
       kl=history.kl, nll_again=again.nll)
"""


def launch(tmp_path: Path, body: str) -> list[dict[str, Any]]:
    """Run ``body`` in two processes that torchrun starts on a free port; what each rank found."""
    script = tmp_path / "worker.py"
    script.write_text(textwrap.dedent(WORKER) + body)
    out = tmp_path / "out"
    out.mkdir()
    root = ROOT
    env = {**os.environ, "PYTHONPATH": str(root), "OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true"}
    command = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--standalone",
        "--nproc-per-node=2",
        str(script),
        str(out),
    ]
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr[-4000:]
    return [torch.load(out / f"{rank}.pt") for rank in range(2)]


def assert_in_step(ranks: list[dict[str, Any]]) -> None:
    one, two = ranks
    assert list(one["after"]) == list(two["after"])
    apart = [name for name, value in one["after"].items() if not torch.equal(value, two["after"][name])]
    # batch statistics are each rank's own between forward passes, as in any DDP training
    assert [name for name in apart if "running" not in name] == []
    same = [name for name, value in one["before"].items() if torch.equal(value, one["after"][name])]
    assert [name for name in same if not name.endswith(".kept")] == []
    assert all(bool(torch.isfinite(value).all()) for value in one["after"].values())
    kept = [value for name, value in one["after"].items() if name.endswith(".kept")]
    entries = [int(k.sum()) * size for k, size in zip(kept, (9, 4), strict=True)]  # in a channel, in a block
    assert abs(sum(entries) / (36 + 288) - 0.4) < 9 / (36 + 288)


def test_ddp_keeps_ranks_equal_while_pruning(tmp_path: Path) -> None:
    """Over our own bound and over Pyro's, on different data and with different draws."""
    ranks = launch(tmp_path, DDP)
    assert [rank["store"] for rank in ranks] == [0, 0]
    for which in ("ours", "pyros"):
        assert ranks[0][which]["seen"] != ranks[1][which]["seen"]
        assert_in_step([rank[which] for rank in ranks])


def test_fit_in_two_processes_keeps_ranks_equal_and_shares_the_data(tmp_path: Path) -> None:
    ranks = launch(tmp_path, FIT)
    assert [rank["store"] for rank in ranks] == [0, 0]
    assert_in_step(ranks)
    assert [rank["batches"] for rank in ranks] == [3 * 64 // 8 // 2] * 2  # half the batches each
    assert ranks[0]["nll"] != ranks[1]["nll"]
    parameters = [name for name in ranks[0]["after"] if "running" not in name]
    for rank in ranks:
        assert rank["kl"] == ranks[0]["kl"]
        assert rank["kept"] == ranks[0]["kept"]
        assert rank["nll_again"] == ranks[0]["nll"]  # the checkpoint is the main process's
        assert all(torch.equal(rank["again"][name], ranks[0]["after"][name]) for name in parameters)
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["0.pt", "1.pt", "checkpoint"]
