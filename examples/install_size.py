"""What an install brings, measured in fresh virtual environments: packages, megabytes, seconds, seconds to import.

    python examples/install_size.py              # the serving core, then [all]
    python examples/install_size.py core fit     # these
    PIP_CONSTRAINT=.ci/constraints.txt python examples/install_size.py   # with torch's build for CPUs

Packages are counted beside torch and what torch brings; megabytes, with and without them. Seconds are the processor's,
so that the network and what else runs count for nothing (on Windows, the clock's); of an import, the median of five.
"""

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory

ROOT = Path(__file__).resolve().parents[1]
IMPORTS = {"core": "bp.load", "fit": "bp.load, bp.fit", "all": "bp.load, bp.fit, bp.plots, bp.loo"}
COUNT = """
import json
from importlib.metadata import distributions
print(json.dumps({d.name: sum(f.locate().stat().st_size for f in d.files or () if f.locate().is_file())
                  for d in distributions() if d.name not in ("pip", "setuptools")}))
"""


def run(*command: str | Path) -> str:
    """What a command prints."""
    return subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout


def seconds(*command: str | Path) -> float:
    """How long a command takes of the processor, or of the clock where the system does not tell."""
    start, before = time.perf_counter(), os.times()
    run(*command)
    after = os.times()
    took = sum(now - was for now, was in zip(after[2:4], before[2:4], strict=True))  # of processes that were started
    return took or time.perf_counter() - start


def measured(folder: Path, extra: str) -> str:
    """A row of the table: the packages of an extra over those of torch alone."""
    subprocess.run([sys.executable, "-m", "venv", folder], check=True)
    python = folder / ("Scripts" if sys.platform == "win32" else "bin") / "python"
    torch_took = seconds(python, "-m", "pip", "install", "-q", "torch")
    torch = json.loads(run(python, "-c", COUNT))
    wanted = str(ROOT) if extra == "core" else f"{ROOT}[{extra}]"
    took = seconds(python, "-m", "pip", "install", "-q", wanted)
    here = json.loads(run(python, "-c", COUNT))
    more = {name: size for name, size in here.items() if name not in torch and name != "bayesprune"}
    use = IMPORTS.get(extra, "bp.load")
    imported = median(seconds(python, "-c", f"import bayesprune as bp; {use}") for _ in range(5))
    alone = median(seconds(python, "-c", "import torch") for _ in range(5))
    print(f"{extra}: {', '.join(sorted(more))}", file=sys.stderr)
    return (
        f"| {extra} | {len(more)} | {sum(more.values()) / 1e6:.0f} MB | {sum(here.values()) / 1e6:.0f} MB "
        f"| {took:.0f} s, and torch {torch_took:.0f} s | `{use}`: {imported:.1f} s, torch alone {alone:.1f} s |"
    )


def main() -> None:
    """Print the table."""
    print("| extra | packages beside torch's | they take | with torch | installed in | imported in |")
    print("|---|---|---|---|---|---|")
    for extra in sys.argv[1:] or ["core", "all"]:
        with TemporaryDirectory() as folder:
            print(measured(Path(folder) / "venv", extra), flush=True)


if __name__ == "__main__":
    main()
