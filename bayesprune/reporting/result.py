"""``Report``: a report's findings shown in a terminal, a notebook, as plain data or as a page."""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich import box
from rich.console import Group
from rich.markup import escape
from rich.table import Table as RichTable
from rich.text import Text

from bayesprune.reporting.bottom_line import bottom_line
from bayesprune.reporting.findings import Findings
from bayesprune.reporting.page import Origin, fragment, write_page
from bayesprune.reporting.tables import costs_table, models_table, plan_table, sizes_table, weights_table
from bayesprune.reporting.versions import versions
from bayesprune.reporting.weights import median_snr
from bayesprune.reporting.wording import footnotes, verdict_lines
from bayesprune.tables import as_text

if TYPE_CHECKING:
    from bayesprune.reporting.curve import Curve

__all__ = ["Report"]


@dataclass(frozen=True, repr=False)
class Report(Findings):
    """What :func:`bayesprune.report` found. ``print`` it, show it in a notebook, or take :meth:`to_dict` or
    :meth:`to_html`; its attributes are those of :class:`~bayesprune.reporting.findings.Findings`."""

    def to_dict(self) -> dict[str, Any]:
        """Plain data, for JSON."""
        said = bottom_line(self)
        return {
            "made": self.made.isoformat(),
            "bottom_line": {"answer": said.answer, "text": str(said)},
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

    def to_html(
        self,
        path: str | Path,
        *,
        model: str = "model.safetensors",
        net: str | None = None,
        data: str | None = None,
        run: str | None = None,
        recipe: str | None = None,
        curve: "Curve | None" = None,
    ) -> None:
        """Write one page that needs nothing else, no network either; a file that is there is replaced by the whole.

        Args:
            path: the file to write.
            model: the name of the saved model, for the lines that say how to load it.
            net, data, run: what they are called, for the title; by default the net's class, and nothing. A net that is
                named as ``my_module:make(3)`` is also loaded so.
            recipe: a text that repeats the run, to stand at the page's end.
            curve: what :func:`bayesprune.sweep` found of the same net, to draw with this net on it.

        Raises:
            FileNotFoundError: there is no such folder.
            IsADirectoryError: ``path`` is a folder itself.
            ValueError: the posterior has changed since the report was made, so the pictures would show another; or a
                curve without the figure that the report is about.
        """
        state = self.subject.bnet.state()
        for row in self.weights:
            now = median_snr(state, row.name, self.subject.masks[row.name])
            if not (math.isclose(now, row.snr, rel_tol=1e-3) or (math.isnan(now) and math.isnan(row.snr))):
                raise ValueError(f"the posterior of {row.name!r} has changed since this report: make a new one")
        write_page(self, Path(path), Origin(model, net, data, run, recipe, curve), state)

    def __rich__(self) -> Group:
        lines = RichTable(
            title="Verdict", title_justify="left", show_header=False, box=box.SIMPLE, padding=(0, 1, 0, 0)
        )
        lines.add_column(max_width=22)
        lines.add_column(max_width=22)
        lines.add_column()
        shown = verdict_lines(self)
        marks = footnotes(shown)
        for line in shown:
            colour = {True: "green", False: "red", None: "default"}[line.good]
            told = line.told + "".join(f" {marks[note]}" for note in line.notes)
            lines.add_row(escape(line.title), f"[{colour}]{line.value}[/]", escape(told))
        said = bottom_line(self)
        colour = {"ship": "green", "do not ship": "red"}.get(said.answer, "yellow")
        notes = [Text(f"{mark} {note}", style="dim") for note, mark in marks.items()]
        warned = [f"[yellow]Warning:[/] {escape(w.text)}" for w in self.warnings]
        return Group(
            Text(str(said), style=f"bold {colour}"),
            "",
            lines,
            *notes,
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
