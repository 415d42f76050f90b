"""Make the pictures of docs/pictures.md: run its blocks of code from top to bottom, in docs/.

python examples/pictures.py
"""

import os
import re
from pathlib import Path

import matplotlib

PAGE = Path(__file__).resolve().parent.parent / "docs" / "pictures.md"


def blocks(page: Path = PAGE) -> list[str]:
    """The page's blocks of Python, each after as many empty lines as stand before it, so that tracebacks say where."""
    text = page.read_text()
    found = re.finditer(r"^```python\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    return ["\n" * text.count("\n", 0, block.start(1)) + block[1] for block in found]


def main() -> None:
    matplotlib.use("Agg")
    matplotlib.rcParams["savefig.dpi"] = 100
    os.chdir(PAGE.parent)
    names: dict[str, object] = {}
    for block in blocks():
        exec(compile(block, str(PAGE), "exec"), names)


if __name__ == "__main__":
    main()
