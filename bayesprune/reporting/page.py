"""The report as HTML: a fragment for notebooks, and a self-contained page."""

from functools import cache
from pathlib import Path
from typing import Any

import jinja2

from bayesprune._files import replace
from bayesprune.network.state import PosteriorState
from bayesprune.reporting.findings import Findings
from bayesprune.reporting.tables import (
    classes_table,
    costs_table,
    models_table,
    plan_table,
    sizes_table,
    weights_table,
)
from bayesprune.reporting.versions import versions
from bayesprune.reporting.wording import verdict_lines

__all__ = ["fragment", "write_page"]


def fragment(report: Findings) -> str:
    """The verdict, the warnings and the tables, with their style."""
    return _template("fragment.html").render(_content(report))


def write_page(report: Findings, path: Path, model: str, state: PosteriorState) -> None:
    """Write the whole page, with pictures of ``state``; ``path`` is replaced by it at once, or not at all.

    Raises:
        FileNotFoundError: there is no such folder.
        IsADirectoryError: ``path`` is a folder.
    """
    if not path.parent.is_dir():
        raise FileNotFoundError(f"there is no folder {str(path.parent)!r} to write the report into; make it first")
    if path.is_dir():
        raise IsADirectoryError(f"{str(path)!r} is a folder: name a file in it, such as report.html")
    from bayesprune.reporting.pictures import pictures  # matplotlib, for a page alone

    page = _template("page.html").render(_content(report), pictures=pictures(report, state), model=model)
    replace(path, lambda fresh: fresh.write_text(page, encoding="utf-8"))


def _content(report: Findings) -> dict[str, Any]:
    tables = [models_table(report.models), costs_table(report.models, report.batch, report.plan)]
    if report.classes:
        tables.append(classes_table(report.classes))
    tables += [weights_table(report.weights), plan_table(report.weights, report.plan), sizes_table(report.sizes)]
    return {
        "lines": verdict_lines(report.verdict, report.batch, report.plan),
        "warnings": report.warnings,
        "tables": tables,
        "report": report,
        "versions": versions(),
    }


@cache
def _template(name: str) -> jinja2.Template:
    return jinja2.Environment(
        loader=jinja2.PackageLoader("bayesprune.reporting"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    ).get_template(name)
