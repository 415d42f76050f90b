"""README's links made absolute, for pages on which the files beside it are not; all else is in pyproject.toml."""

import re
import tomllib
from pathlib import Path

from setuptools import setup

ROOT = Path(__file__).parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
_LINK = re.compile(r"(?P<picture>!?)\[(?P<text>[^][]*)\]\((?!https?:|#|mailto:)(?P<path>[^)\s]+)\)")


def absolute(markdown: str, repository: str) -> str:
    """Markdown whose links to files beside it lead to the repository; pictures, to the files themselves."""

    def link(found: re.Match[str]) -> str:
        where = "raw" if found["picture"] else "blob"
        return f"{found['picture']}[{found['text']}]({repository}/{where}/main/{found['path']})"

    return _LINK.sub(link, markdown)


if __name__ == "__main__":
    readme = absolute((ROOT / "README.md").read_text(encoding="utf-8"), PROJECT["urls"]["Repository"])
    setup(long_description=readme, long_description_content_type="text/markdown")
