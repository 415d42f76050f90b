"""What the site has beside ``docs/``: README before the index, the notebooks, and a reference page for each room.

MkDocs calls these functions by their names. The pages stay links into the repository when they are read there, so links
are turned here, when the site is built.
"""

import ast
import re
from collections import defaultdict
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

ROOT = Path(__file__).parents[2]
_LINK = re.compile(r"(\]\()(?!https?://|#)([^)#\s]+)")
_AS_THEY_ARE = ("CONTRIBUTING.md", "CHANGELOG.md")
_ROOMS = {
    "runs": "In one call",
    "one_shot": "Without training",
    "network": "A net with a posterior",
    "methods": "Methods",
    "patterns": "Patterns",
    "likelihoods": "Likelihoods",
    "fitting": "Fitting",
    "pruning": "Deciding what stays",
    "evaluation": "Predictions and scores",
    "inspection": "ArviZ",
    "reporting": "Reports",
    "sparse": "Export, files, smaller nets",
    "plots": "Pictures",
}


def names() -> dict[str, list[str]]:
    """Room → the public names that it hands on, in the order of the package's own list."""
    rooms = defaultdict(list)
    for node in ast.parse((ROOT / "bayesprune/__init__.pyi").read_text()).body:
        if isinstance(node, ast.ImportFrom) and node.module:
            rooms[node.module.split(".")[0]] += [alias.name for alias in node.names]
    for room in ("plots", "likelihoods"):
        tree = ast.parse((ROOT / f"bayesprune/{room}/__init__.py").read_text())
        lists = [
            n.value for n in tree.body if isinstance(n, ast.Assign) and getattr(n.targets[0], "id", "") == "__all__"
        ]
        rooms[room] = [f"{room}.{name}" for name in ast.literal_eval(lists[0])]
    return rooms


def reference(room: str, found: list[str]) -> str:
    return f"# {_ROOMS[room]}\n\n" + "\n".join(f"::: bayesprune.{name}\n" for name in found)


def overview(rooms: dict[str, list[str]]) -> str:
    lines = [
        f"- [{title}]({room}.md): " + ", ".join(f"`bp.{n}`" for n in rooms[room]) for room, title in _ROOMS.items()
    ]
    return "# Reference\n\nThe names of `import bayesprune as bp`, room by room.\n\n" + "\n".join(lines) + "\n"


def on_files(files: Files, config: Any) -> Files:
    for page in _AS_THEY_ARE:
        files.append(File.generated(config, page, content=(ROOT / page).read_text()))
    for notebook in sorted((ROOT / "notebooks").glob("*.ipynb")):
        files.append(File.generated(config, f"notebooks/{notebook.name}", abs_src_path=str(notebook)))
    rooms = names()
    if missing := set(rooms) - set(_ROOMS) - {"corruptions"}:
        raise ValueError(f"public names of {sorted(missing)} have no page in the reference: add a line to {__file__}")
    files.append(File.generated(config, "reference/index.md", content=overview(rooms)))
    for room in _ROOMS:
        files.append(File.generated(config, f"reference/{room}.md", content=reference(room, rooms[room])))
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, files: Files) -> str:
    at = Path("." if page.file.src_uri in _AS_THEY_ARE else "docs")
    if page.file.src_uri.startswith(("reference/", "notebooks/")):
        return markdown
    if page.file.src_uri == "index.md":
        readme = turned((ROOT / "README.md").read_text(), Path(), files, config.repo_url)
        return readme + "\n" + turned(markdown.replace("# The pages", "## The pages"), at, files, config.repo_url)
    return turned(markdown, at, files, config.repo_url)


def turned(text: str, folder: Path, files: Files, repository: str) -> str:
    """``text`` of a file in ``folder`` with its links to pages of the site, or else to the repository."""

    def turn(match: re.Match[str]) -> str:
        path = (ROOT / folder / match[2]).resolve().relative_to(ROOT)
        inside = path.relative_to("docs") if path.is_relative_to("docs") else path
        if path == Path("README.md"):
            inside = Path("index.md")
        found = files.get_file_from_path(inside.as_posix())
        return match[1] + (inside.as_posix() if found else f"{repository.rstrip('/')}/blob/main/{path.as_posix()}")

    return _LINK.sub(turn, text)
