"""What the pages name is there: files of the repository, linked pages, public names."""

import re
from pathlib import Path
from types import ModuleType

import pytest
from support.paths import ROOT

import bayesprune as bp

PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
_LINK = re.compile(r"\]\((?!https?://|#)([^)#\s]+)[^)]*\)")
_FOLDERS = "bayesprune|docs|examples|notebooks|tests|[.]ci"
_PATH = re.compile(rf"(?<![\w/.<-])(?:{_FOLDERS})/[\w./-]*\w/?")
_NAME = re.compile(r"\bbp((?:\.[A-Za-z_]\w*)+)")


def broken_links(page: Path, text: str) -> list[str]:
    """Relative links that lead nowhere, seen from the page's folder."""
    return [link for link in _LINK.findall(text) if not (page.parent / link).exists()]


def missing_paths(text: str) -> list[str]:
    """Paths below a folder of the repository at which nothing is."""
    return [path for path in _PATH.findall(text) if not (ROOT / path).exists()]


def private_names(text: str) -> list[str]:
    """Names written ``bp.name`` or ``bp.module.name`` that are not public there."""
    wrong = []
    for dotted in _NAME.findall(text):
        first, *rest = dotted[1:].split(".")
        public = first in bp.__all__
        if public and rest and isinstance(module := getattr(bp, first), ModuleType):  # looked into by name
            public = rest[0] in module.__all__
        if not public:
            wrong.append(dotted[1:])
    return wrong


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    assert broken_links(page, page.read_text()) == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_paths_of_the_repository_exist(page: Path) -> None:
    assert missing_paths(page.read_text()) == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_names_are_public(page: Path) -> None:
    assert private_names(page.read_text()) == []


def test_what_is_wrong_is_found() -> None:
    text = "see [a](gone.md), [b](README.md#top), `bayesprune/gone.py`, `bp.gone(x)`, `bp.plots.gone`, `bp.fit(model)`"
    assert broken_links(ROOT / "README.md", text) == ["gone.md"]
    assert missing_paths(text) == ["bayesprune/gone.py"]
    assert private_names(text) == ["gone", "plots.gone"]


def test_every_page_is_in_the_index() -> None:
    index = ROOT / "docs" / "index.md"
    linked = {(index.parent / link).resolve() for link in _LINK.findall(index.read_text())}
    assert {page for page in PAGES if page != index} - linked == set()
