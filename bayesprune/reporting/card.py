"""The model card of a packed net: what it is, what pruning cost, how to load it, in the hub's markdown."""

from collections.abc import Iterable, Sequence

from bayesprune.reporting.bottom_line import bottom_line
from bayesprune.reporting.findings import Findings
from bayesprune.reporting.tables import costs_table, models_table, weights_table
from bayesprune.reporting.versions import versions
from bayesprune.reporting.wording import verdict_lines
from bayesprune.tables import Table

__all__ = ["model_card"]

_HEAD = """---
library_name: bayesprune
tags:
- pytorch
- pruning
- sparsity
---
"""


def model_card(report: Findings, name: str, file: str = "model.safetensors") -> str:
    """A report as a model card: markdown with the hub's metadata at its head.

    Args:
        report: what :func:`bayesprune.report` found of the net in the file.
        name: the repository, as ``from_pretrained`` takes it.
        file: the name of the saved net in it.
    """
    lines = verdict_lines(report)
    about = ", ".join(f"{package} {version}" for package, version in versions().items())
    parts = [
        _HEAD + f"\n# {_plain(name)}",
        "A net pruned by a posterior over its weights and packed by bayesprune. Figures are on "
        f"{report.models[0].score.n:,} held-out examples.",
        f"**{_plain(str(bottom_line(report)))}**",
        _rows(("", "", ""), ((line.title, line.value, line.told) for line in lines)),
        *(f"**Warning:** {_plain(warning.text)}" for warning in report.warnings),
        "## Load it",
        f'```python\nimport bayesprune as bp\n\nnet = bp.from_pretrained("{name}")  # or bp.load("{file}")\n```',
        *map(_table, (models_table(report.models), costs_table(report.models, report.batch, report.plan))),
        _table(weights_table(report.weights)),
        f"Made with {about}.",
    ]
    return "\n\n".join(parts) + "\n"


def _plain(text: str) -> str:
    """Text that markdown shows as it is, on one line."""
    for mark in "\\`*_[]<>|#":
        text = text.replace(mark, f"\\{mark}")
    return " ".join(text.split())


def _table(table: Table) -> str:
    note = f"\n\n{table.note[:1].upper()}{table.note[1:]}." if table.note else ""
    return f"## {table.title}\n\n{_rows(table.headings, table.rows)}{note}"


def _rows(headings: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [headings, ["---"] * len(headings), *([_plain(cell) for cell in row] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
