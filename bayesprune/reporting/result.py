"""``Report``: a report's findings shown in a terminal, a notebook, as plain data or as a page."""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Group
from rich.markup import escape
from rich.table import Table as RichTable

from bayesprune.reporting.findings import Findings
from bayesprune.reporting.page import fragment, write_page
from bayesprune.reporting.tables import costs_table, models_table, plan_table, sizes_table, weights_table
from bayesprune.reporting.versions import versions
from bayesprune.reporting.weights import median_snr
from bayesprune.reporting.wording import verdict_lines
from bayesprune.tables import as_text

__all__ = ["Report"]


@dataclass(frozen=True, repr=False)
class Report(Findings):
    """What :func:`bayesprune.report` found. ``print`` it, show it in a notebook, or take :meth:`to_dict` or
    :meth:`to_html`; its attributes are those of :class:`~bayesprune.reporting.findings.Findings`."""

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
        state = self.subject.bnet.state()
        for row in self.weights:
            now = median_snr(state, row.name, self.subject.masks[row.name])
            if not (math.isclose(now, row.snr, rel_tol=1e-3) or (math.isnan(now) and math.isnan(row.snr))):
                raise ValueError(f"the posterior of {row.name!r} has changed since this report: make a new one")
        write_page(self, Path(path), model, state)

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
            weights_table(self.weights),
            plan_table(self.weights, self.plan),
            sizes_table(self.sizes),
            models_table(self.models),
            costs_table(self.models, self.batch, self.plan),
        )

    def __str__(self) -> str:
        return as_text(self, 120)

    __repr__ = __str__

    def _repr_html_(self) -> str:
        return fragment(self)
