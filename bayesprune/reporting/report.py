"""The report itself: what it holds, how it shows itself, and how it is made."""

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from io import StringIO
from pathlib import Path
from typing import Any

import torch
from accelerate.utils import send_to_device
from rich import box
from rich.console import Console, Group
from rich.markup import escape
from rich.table import Table as RichTable
from torch import Tensor

from bayesprune.likelihoods import parted
from bayesprune.network import BayesianNet
from bayesprune.prediction import check_masks
from bayesprune.reporting.cautions import Caution, cautions
from bayesprune.reporting.tables import costs_table, models_table, plan_table, sizes_table, weights_table
from bayesprune.reporting.verdict import ClassChange, Verdict, class_changes, class_names, judge
from bayesprune.reporting.versions import versions
from bayesprune.reporting.weights import WeightRow, weight_rows
from bayesprune.reporting.wording import verdict_lines
from bayesprune.sparse import Plan
from bayesprune.sparse import plan as make_plan
from bayesprune.sparse.byte_counts import ByteCount
from bayesprune.verification import ModelRow, Rival, Verification, verify

__all__ = ["Report", "Subject", "report"]


@dataclass(frozen=True)
class Subject:
    """What a report's pictures are made from: the net with its posterior, the masks, what was measured, and the names
    of the classes, none for real targets."""

    bnet: BayesianNet
    masks: Mapping[str, Tensor]
    found: Verification
    names: tuple[str, ...]


@dataclass(frozen=True, repr=False)
class Report:
    """What :func:`report` found. ``print`` it, show it in a notebook, or take :meth:`to_dict` or :meth:`to_html`.

    Attributes:
        verdict: what packing gains over the dense net, what it costs, and whom.
        warnings: what to beware of.
        weights: what was fitted, what stays, and how it runs.
        models: what was compared.
        classes: what pruning did to each class, the largest rise first; empty for real targets.
        sizes: the bytes of each pruned weight, of all else and of the whole: dense, packed, and in a compressed file.
        plan: how weights run; hand it to :func:`bayesprune.export`.
        batch: examples in the batch that was timed.
        draws, seed: of the posterior predictive.
    """

    verdict: Verdict
    warnings: tuple[Caution, ...]
    weights: tuple[WeightRow, ...]
    models: tuple[ModelRow, ...]
    classes: tuple[ClassChange, ...]
    sizes: tuple[ByteCount, ...]
    plan: Plan
    batch: int
    draws: int
    seed: int | None
    subject: Subject = field(repr=False, compare=False)

    def to_dict(self) -> dict[str, Any]:
        """Plain data, for JSON."""
        return {
            "verdict": self.verdict.to_dict(),
            "warnings": [vars(w) for w in self.warnings],
            "weights": [w.to_dict() for w in self.weights],
            "models": [m.to_dict() for m in self.models],
            "classes": [{**vars(c), "rise": c.rise} for c in self.classes],
            "sizes": [s.to_dict() for s in self.sizes],
            "batch": self.batch,
            "draws": self.draws,
            "seed": self.seed,
            "device": self.plan.device,
            "threads": self.plan.threads,
            "versions": versions(),
        }

    def to_html(self, path: str | Path, *, model: str = "model.safetensors") -> None:
        """Write one page that needs nothing else, no network either; a file that is there is replaced by the whole.

        Args:
            path: the file to write.
            model: the name of the saved model, for the lines that say how to load it.

        Raises:
            FileNotFoundError: there is no such folder.
            IsADirectoryError: ``path`` is a folder itself.
            ValueError: the posterior has changed since the report was made, so the pictures would show another.
        """
        from bayesprune.reporting.page import write_page  # matplotlib, for a page alone

        now = weight_rows(self.subject.bnet, self.subject.masks, self.plan)
        for row, then in zip(now, self.weights, strict=True):
            if not (math.isclose(row.snr, then.snr, rel_tol=1e-3) or (math.isnan(row.snr) and math.isnan(then.snr))):
                raise ValueError(f"the posterior of {row.name!r} has changed since this report: make a new one")
        write_page(self, Path(path), model)

    def __rich__(self) -> Group:
        lines = RichTable(
            title="Verdict", title_justify="left", show_header=False, box=box.SIMPLE, padding=(0, 1, 0, 0)
        )
        lines.add_column(max_width=22)
        lines.add_column(max_width=22)
        lines.add_column()
        for line in verdict_lines(self.verdict, self.batch, self.plan):
            colour = {True: "green", False: "red", None: "default"}[line.good]
            lines.add_row(escape(line.title), f"[{colour}]{line.value}[/]", escape(line.detail))
        warned = [f"[yellow]Warning:[/] {escape(w.text)}" for w in self.warnings]
        return Group(
            lines,
            *warned,
            "",
            weights_table(self.weights).rich(),
            plan_table(self.weights, self.plan).rich(),
            sizes_table(self.sizes).rich(),
            models_table(self.models).rich(),
            costs_table(self.models, self.batch, self.plan).rich(),
        )

    def __str__(self) -> str:
        console = Console(file=StringIO(), width=120, color_system=None)
        console.print(self)
        assert isinstance(console.file, StringIO)
        return console.file.getvalue()

    __repr__ = __str__

    def _repr_html_(self) -> str:
        from bayesprune.reporting.page import fragment  # Jinja, for notebooks and pages alone

        return fragment(self)


def report(
    bnet: BayesianNet,
    masks: Mapping[str, Tensor],
    loader: Iterable[Any],
    *,
    draws: int = 20,
    baseline: Rival | Mapping[str, Rival] | None = None,
    plan: Plan | None = None,
    classes: Sequence[str] | None = None,
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
        classes: the classes' names; by default their numbers.
        seed: fixes the draws, and leaves the global generator as it was.

    Raises:
        ValueError: masks that do not fit, no data, a loader whose order changes, no observation model, another number
            of names than of classes, or a baseline named as one of the report's own rows.

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
    example = send_to_device(parted(first)[0], next(iter(bnet.parameters())).device)
    rivals = {"trained rival": baseline} if isinstance(baseline, tuple) else dict(baseline or {})
    plan = make_plan(bnet.net, masks, example=example) if plan is None else plan
    with torch.random.fork_rng(enabled=seed is not None):
        if seed is not None:
            torch.manual_seed(seed)
        found = verify(bnet, masks, loader, plan, example, draws=draws, rivals=rivals)
    names = class_names(found, classes)
    by_class = class_changes(found, names)
    return Report(
        verdict=judge(bnet.net, found, by_class),
        warnings=cautions(bnet, masks, plan, found, by_class),
        weights=weight_rows(bnet, masks, plan),
        models=found.rows,
        classes=by_class,
        sizes=found.sizes,
        plan=plan,
        batch=_batch(example),
        draws=draws,
        seed=seed,
        subject=Subject(bnet, masks, found, names),
    )


def _batch(example: Any) -> int:
    if isinstance(example, Mapping):
        return _batch(next(iter(example.values())))
    return len(example[0]) if isinstance(example, (tuple, list)) else len(example)
