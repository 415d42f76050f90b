"""The report: per weight what was kept and how it runs, and what that is worth beside the rivals."""

import math
import platform
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from io import StringIO
from typing import Any

import torch
from accelerate.utils import send_to_device
from rich.console import Console, Group
from rich.table import Table
from torch import Tensor

from bayesprune.network import BayesianNet
from bayesprune.prediction import check_masks
from bayesprune.scoring import standard_error
from bayesprune.sparse import Choice, Plan
from bayesprune.sparse import plan as make_plan
from bayesprune.verification import ModelRow, Rival, verify

__all__ = ["Report", "WeightRow", "report", "versions"]


@dataclass(frozen=True)
class WeightRow:
    """One weight of the net.

    Attributes:
        name, shape: the parameter's.
        kept: the fraction of its entries that stays.
        snr: the median signal-to-noise ratio of the groups that stay; NaN if none does.
        method, pattern: what fitted it, and what was pruned together.
        local: whether its activations were sampled in training, rather than the weight.
        choice: how it runs, why, and its bytes.
    """

    name: str
    shape: tuple[int, ...]
    kept: float
    snr: float
    method: str
    pattern: str
    local: bool
    choice: Choice

    def to_dict(self) -> dict[str, Any]:
        """Plain data, for JSON."""
        return {**vars(self), "shape": list(self.shape), "choice": self.choice.to_dict()}


@dataclass(frozen=True)
class Report:
    """What :func:`report` found. ``print`` it, show it in a notebook, or take :meth:`to_dict`."""

    weights: tuple[WeightRow, ...]
    models: tuple[ModelRow, ...]
    plan: Plan
    batch: int

    def to_dict(self) -> dict[str, Any]:
        """Plain data, for JSON."""
        return {
            "weights": [w.to_dict() for w in self.weights],
            "models": [m.to_dict() for m in self.models],
            "batch": self.batch,
            "device": self.plan.device,
            "threads": self.plan.threads,
            "versions": versions(),
        }

    def __rich__(self) -> Group:
        return Group(_weights_table(self.weights), "", _models_table(self.models, self.batch, self.plan))

    def __str__(self) -> str:
        console = Console(file=StringIO(), width=120, color_system=None)
        console.print(self)
        assert isinstance(console.file, StringIO)
        return console.file.getvalue()

    def _repr_html_(self) -> str:
        console = Console(file=StringIO(), width=120, record=True)
        console.print(self)
        return console.export_html(inline_styles=True, code_format="<pre>{code}</pre>")


def report(
    bnet: BayesianNet,
    masks: Mapping[str, Tensor],
    loader: Iterable[Any],
    *,
    draws: int = 20,
    baseline: Rival | Mapping[str, Rival] | None = None,
    plan: Plan | None = None,
    seed: int | None = None,
) -> Report:
    """Compare a pruned posterior with the dense net and with magnitude pruning, on one data set.

    Args:
        bnet: the net with its posterior, fitted.
        masks: weight name → bool, as :func:`bayesprune.masks` gives.
        loader: batches ``(x, y)`` in a fixed order. Latency is measured on the first one.
        draws: draws of the posterior predictive.
        baseline: (means, masks) of a rival that was trained to the same sparsity, say by gradual magnitude pruning;
            or several by name.
        plan: how weights run; by default measured here.
        seed: fixes the draws, and leaves the global generator as it was.

    Raises:
        ValueError: masks that do not fit, no data, or no observation model.

    >>> from bayesprune import SparseVD, classify, masks
    >>> bnet = BayesianNet(torch.nn.Sequential(torch.nn.Linear(40, 3)), {"0.weight": SparseVD()})
    >>> model = classify(bnet, size=8)
    >>> data = [(torch.randn(8, 40), torch.arange(8) % 3)]
    >>> found = report(bnet, masks(bnet, keep=0.5), data, draws=2)
    >>> [row.name for row in found.models][:2], found.weights[0].kept
    (['dense', 'posterior mean, pruned'], 0.5)
    """
    check_masks(bnet, masks)
    if isinstance(loader, Iterator):
        loader = list(loader)
    first = next(iter(loader), None)
    if first is None:
        raise ValueError("the loader holds no batches")
    example = _example(first, next(iter(bnet.parameters())).device)
    rivals = {"trained rival": baseline} if isinstance(baseline, tuple) else dict(baseline or {})
    plan = make_plan(bnet.net, masks, example=example) if plan is None else plan
    with torch.random.fork_rng(enabled=seed is not None):
        if seed is not None:
            torch.manual_seed(seed)
        models = verify(bnet, masks, loader, plan, example, draws=draws, rivals=rivals)
    snr = bnet.snr()
    weights = tuple(
        WeightRow(
            name=name,
            shape=tuple(mask.shape),
            kept=int(mask.sum()) / max(mask.numel(), 1),
            snr=_median(bnet, name, snr[name], mask),
            method=type(bnet.methods[name]).__name__,
            pattern=str(bnet.methods[name].pattern),
            local=name in bnet.sampled_locally,
            choice=plan[name],
        )
        for name, mask in masks.items()
    )
    return Report(weights, tuple(models), plan, _batch(example))


def versions() -> dict[str, str]:
    """The versions that a result depends on."""
    found = {"python": platform.python_version(), "machine": platform.machine()}
    for package in ("bayesprune", "torch", "pyro-ppl", "numpy", "safetensors", "accelerate"):
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "not installed"
    return found


def _median(bnet: BayesianNet, name: str, snr: Tensor, mask: Tensor) -> float:
    p = bnet.posteriors[name]
    staying = snr[p.pattern.pool(mask.int(), p.layout) > 0]
    return float(staying.median()) if staying.numel() else math.nan


def _example(batch: Any, device: torch.device) -> Any:
    x = batch[:-1] if isinstance(batch, (tuple, list)) and len(batch) > 1 else (batch,)
    return send_to_device(x[0] if len(x) == 1 else tuple(x), device)


def _batch(example: Any) -> int:
    if isinstance(example, Mapping):
        return _batch(next(iter(example.values())))
    return len(example[0]) if isinstance(example, (tuple, list)) else len(example)


def _weights_table(weights: tuple[WeightRow, ...]) -> Table:
    table = Table(title="Weights", title_justify="left")
    for heading, justify in (("weight", "left"), ("shape", "left"), ("kept", "right"), ("median SNR, kept", "right")):
        table.add_column(heading, justify=justify, no_wrap=True)  # type: ignore[arg-type]
    table.add_column("format", no_wrap=True)
    table.add_column("why")
    table.add_column("bytes", justify="right")
    for row in weights:
        shape = "×".join(str(n) for n in row.shape)
        choice = row.choice
        table.add_row(
            row.name,
            shape,
            f"{row.kept:.2%}",
            f"{row.snr:.3g}",
            str(choice.format),
            choice.reason,
            f"{choice.nbytes:,}",
        )
    return table


def _models_table(models: tuple[ModelRow, ...], batch: int, plan: Plan) -> Table:
    classes = models[0].score.error is not None
    table = Table(
        title=f"Models on {models[0].score.n:,} examples; latency of a batch of {batch} on {plan.device}, "
        f"{plan.threads} thread{'s' * (plan.threads != 1)}, against dense in turns",
        title_justify="left",
    )
    table.add_column("model")
    for heading in (
        "kept",
        "error" if classes else "RMSE",
        "NLL",
        *(("ECE",) if classes else ()),
        "bytes",
        "latency",
        "vs dense",
    ):
        table.add_column(heading, justify="right", no_wrap=True)
    for row in models:
        s = row.score
        if s.error is not None and s.ece is not None:
            figures = [f"{s.error:.2%} ± {standard_error(s.error, s.n):.2%}", f"{s.nll:.3f}", f"{s.ece:.3f}"]
        else:
            figures = [f"{s.rmse:.4g}", f"{s.nll:.3f}"]
        size = "" if row.nbytes is None else f"{row.nbytes:,}"
        time = "" if row.seconds is None else f"{row.seconds * 1e6:,.0f} µs"
        speed = "" if row.speedup is None else f"{row.speedup:.3g}×"
        table.add_row(row.name, f"{row.kept:.2%}", *figures, size, time, speed)
    return table
