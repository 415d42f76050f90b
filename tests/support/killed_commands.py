"""Kill each command of a run at each call that writes, and give it again; ``cli/test_kills.py`` runs it alone.

    python tests/support/killed_commands.py <every>

Of the moments at which a command writes, syncs, renames or removes, every so many are tried, each in a folder of its
own. Prints one JSON line: how many kills each command had, and what went wrong afterwards.
"""

import contextlib
import importlib
import io
import json
import os
import shutil
import signal
import sys
import tempfile
import warnings
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

import bayesprune as bp
from bayesprune import reporting, runs
from bayesprune.cli import main as bayesprune
from support.command import FIT
from support.kills import end, in_a_child

COMMANDS = {
    "fit": (*FIT, "--epochs", "2", "--pretrain", "1", "--out"),
    "masks": ("masks", "--keep", "0.3"),
    "report": ("report", "--draws", "2", "--html", "page.html"),
    "export": ("export", "--format", "*=CSR()"),
}
SAME = ("recipe.toml", "dense.safetensors", "posterior.safetensors", "masks.safetensors")
CALLS = ((os, "fsync"), (Path, "replace"), (Path, "rename"), (Path, "write_bytes"), (Path, "write_text"))


def dying_at(at: int) -> None:
    """Let this process die at the ``at``-th of all such calls: before it, or where it writes, in its midst."""
    done = 0

    def dying(real: Callable[..., Any], name: str) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            nonlocal done
            done += 1
            if done == at:
                if name.startswith("write"):
                    real(args[0], args[1][: len(args[1]) // 2], **kwargs)
                end()
            return real(*args, **kwargs)

        return call

    for owner, name in CALLS:
        setattr(owner, name, dying(getattr(owner, name), name))


def run(command: str, folder: Path, at: int = 0) -> tuple[int, str]:
    """Its exit code, and what it said; killed at a moment where ``at`` is one."""
    said = folder.with_suffix(".said")

    def go() -> None:
        os.chdir(folder.parent)
        words = COMMANDS[command]
        sys.argv = ["bayesprune", *words[:1], *([] if command == "fit" else [folder.name]), *words[1:]]
        sys.argv += [folder.name] if command == "fit" else []
        told = io.StringIO()
        if at:
            dying_at(at)
        try:
            with contextlib.redirect_stdout(told), contextlib.redirect_stderr(told):
                bayesprune()
        except SystemExit as stop:
            with said.open("w") as file:
                file.write(told.getvalue())
            os._exit(int(stop.code or 0))

    code = in_a_child(go)
    return code, said.read_text() if said.exists() else ""


def wrong_with(folder: Path, like: Path) -> list[str]:
    """In what a folder differs from one that nobody killed."""
    names = {file.name for file in folder.iterdir()} ^ {file.name for file in like.iterdir()}
    found = [f"one alone has {', '.join(sorted(names))}"] if names else []
    for name in SAME:
        one, two = folder / name, like / name
        if one.exists() and two.exists() and one.read_bytes() != two.read_bytes():
            found.append(f"{name} differs")
    if (like / "model.safetensors").exists():
        x = torch.linspace(-1, 1, 64 * 3).view(3, 64)
        mine, theirs = (bp.load(where / "model.safetensors")(x) for where in (folder, like))
        if not torch.allclose(mine, theirs, atol=1e-5):
            found.append("the model is another")
    for name in ("fit.json", "report.json", "plan.json"):
        if (like / name).exists():
            json.loads((folder / name).read_text())
    return found


def preload() -> None:
    """Import here what each child would otherwise."""
    _ = runs.prepare, runs.train, runs.open_run, reporting.report, bp.fit, bp.export, bp.plan, bp.load
    importlib.import_module("rich.progress")
    importlib.import_module("sklearn.metrics")


def main() -> None:
    preload()
    every = int(sys.argv[1])
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    counts: Counter[str] = Counter()
    wrong: list[str] = []
    with tempfile.TemporaryDirectory() as found:
        before, like = Path(found) / "before", Path(found) / "like"
        for command in COMMANDS:
            if before.exists():
                shutil.copytree(before, like, dirs_exist_ok=True)
            code, said = run(command, like)
            assert code == 0, said
            at = 1
            while True:
                folder = Path(found) / "run"
                shutil.rmtree(folder, ignore_errors=True)
                if before.exists():
                    shutil.copytree(before, folder)
                code, said = run(command, folder, at)
                if code != -signal.SIGKILL:
                    assert code == 0, said
                    break
                counts[command] += 1
                again, said = run(command, folder)
                finished = command == "fit" and again == 2 and "finished" in said
                if again != 0 and not finished:
                    wrong.append(f"{command}, killed at call {at}: {again}, {said[-300:]}")
                wrong += [f"{command}, killed at call {at}: {what}" for what in wrong_with(folder, like)]
                at += every
            shutil.rmtree(before, ignore_errors=True)
            shutil.copytree(like, before)
    print(json.dumps({"counts": counts, "wrong": wrong}))


if __name__ == "__main__":
    main()
