"""Do one thing many times and say by how much memory grew after the first ones; ``test_leaks.py`` runs it alone.

    python tests/support/leaks.py <what> <times>

Prints the bytes.
"""

import sys
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path

import torch
from torch import nn

import bayesprune as bp
from support.fits import N, batches, convolution
from support.measured import settled

FIRST = 10  # that are not counted: imports, caches, kernels


def steps(times: int) -> int:
    """Steps of one fit: what grows is seen at its callbacks."""
    bnet = convolution()
    seen: list[int] = []

    class Watch(bp.Callback):
        def on_step(self, run: bp.Run) -> None:
            if run.step in (FIRST, times):
                seen.append(settled())

    bp.fit(bp.classify(bnet, N), bnet.guide, batches(16), epochs=-(-times // 3), callbacks=[Watch()], progress=False)
    return seen[1] - seen[0]


def exported() -> tuple[nn.Module, dict[str, torch.Tensor], torch.Tensor]:
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(3, 16, 3), nn.ReLU(), nn.Flatten(), nn.Linear(576, 128), nn.ReLU(), nn.Linear(128, 10)
    )
    masks = {name: torch.rand_like(p) < 0.1 for name, p in net.named_parameters() if p.dim() > 1}
    return net, masks, torch.randn(8, 3, 8, 8)


def exports(folder: Path) -> Callable[[], object]:
    net, masks, x = exported()

    def once() -> None:
        sparse = bp.export(net, {}, masks, example=x, formats={"0": bp.BSR(4, 1), "3": bp.CSR(), "5": bp.Dense()})
        for compress in (False, True):
            bp.save(sparse, folder / "m", compress=compress)
            bp.load(folder / "m")(x)

    return once


def plans(folder: Path) -> Callable[[], object]:
    net, masks, x = exported()
    return lambda: bp.plan(net, masks, example=x)


def grown(once: Callable[[], object], times: int) -> int:
    for _ in range(FIRST):
        once()
    before = settled()
    for _ in range(times - FIRST):
        once()
    return settled() - before


def main() -> None:
    what, times = sys.argv[1], int(sys.argv[2])
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    if what == "steps":
        print(steps(times))
        return
    with tempfile.TemporaryDirectory() as folder:
        print(grown({"exports": exports, "plans": plans}[what](Path(folder)), times))


if __name__ == "__main__":
    main()
