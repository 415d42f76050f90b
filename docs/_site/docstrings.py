"""Docstrings as the site shows them: doctests as code, and the roles that name functions as links to them."""

import re

import griffe

_DOCTEST = re.compile(r"(?:^>>> .*\n?)(?:^.+\n?)*", re.MULTILINE)
_ROLE = re.compile(r":(?:func|class|meth|mod|attr|data):`~?([\w.]+)`")


def _link(role: re.Match[str]) -> str:
    name = role[1].removeprefix("bayesprune.")
    return f'<autoref optional identifier="bayesprune.{name}"><code>{name}</code></autoref>'


def as_markdown(text: str) -> str:
    """``text`` with each doctest in a fence, and each role as a link where its target is on the site."""
    text = _ROLE.sub(_link, text)
    return _DOCTEST.sub(lambda block: f"```pycon\n{block[0].rstrip()}\n```\n", text)


class Doctests(griffe.Extension):
    """Rewrites each docstring before it is read."""

    def on_object(self, *, obj: griffe.Object, **kwargs: object) -> None:
        if obj.docstring is not None:
            obj.docstring.value = as_markdown(obj.docstring.value)
