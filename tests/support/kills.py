"""Kill a fit again and again, between its saves and within them, and let it go on; ``fitting/test_kills.py`` runs it.

    python tests/support/kills.py <kills> <seed>

Prints one JSON line: how many kills of each sort there were, how many runs they took, and what went wrong: a run that
does not resume from the last whole checkpoint or the one before, or does not end bit for bit as one that nobody killed.
Children are forked, so that none takes seconds to start.
"""

import json
import os
import random
import signal
import sys
import tempfile
import threading
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from support.fits import Note, assert_same_run, checkpointed

EPOCHS, OURS = 10, "bayesprune-checkpoints"
HOW = ("timer", "timer", "fsync", "fsync", "rename", "open", "remove")  # a moment, or a call within a save


def end() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def dying(real: Callable[..., Any], at: int, before: bool) -> Callable[..., Any]:
    """``real``, in whose ``at``-th call the process dies, before it or after it."""
    calls = 0

    def call(*args: Any, **kwargs: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == at and before:
            end()
        found = real(*args, **kwargs)
        if calls == at:
            end()
        return found

    return call


def doomed(how: str, choose: random.Random) -> None:
    """Arrange for this process's death: at a moment, or at a call of the system's within a save."""
    if how == "timer":
        threading.Timer(choose.expovariate(1 / 0.1), end).start()
    elif how == "fsync":
        os.fsync = dying(os.fsync, choose.randrange(1, 24), choose.random() < 0.5)
    elif how == "rename":
        Path.rename = dying(Path.rename, choose.randrange(1, 5), choose.random() < 0.5)  # type: ignore[method-assign]
    elif how == "open":
        Path.open = dying(Path.open, choose.randrange(1, 12), choose.random() < 0.5)  # type: ignore[method-assign]
    elif how == "remove":
        os.unlink = dying(os.unlink, choose.randrange(1, 8), choose.random() < 0.5)


def in_a_child(run: Callable[[], None]) -> int:
    """Run it in a process of its own; minus the signal that ended it, or its exit code."""
    child = os.fork()
    if child:
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    try:
        run()
        os._exit(0)
    except BaseException as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr, flush=True)
        os._exit(1)


def saved(folder: Path) -> int:
    """The last epoch that is among the checkpoints; -1 without any."""
    return max((int(p.name[6:]) for p in (folder / OURS).glob("epoch-*")), default=-1)


class First(Note):
    """Writes at which step a run begins."""

    def __init__(self, file: Path) -> None:
        super().__init__()
        self.file = file

    def on_step(self, run: Any) -> None:
        if not self.steps:
            self.file.write_text(str(run.step))
        super().on_step(run)


class Kills:
    """Runs that are killed until they end, and what came of them."""

    def __init__(self, seed: int, where: Path) -> None:
        self.choose, self.where = random.Random(seed), where
        self.counts: Counter[str] = Counter()
        self.wrong: list[str] = []
        self.whole = checkpointed(None, epochs=EPOCHS)

    @property
    def done(self) -> int:
        return sum(self.counts.values()) - self.counts["runs"]

    def one_run(self) -> None:
        """Kill a run until it ends."""
        name = f"run {self.counts['runs']}"
        folder, out = self.where / name, self.where / f"{name}.pt"
        self.counts["runs"] += 1
        while not out.exists():
            if not self.go_on(folder, out):
                return
        try:
            assert_same_run(torch.load(out, weights_only=False), self.whole)
        except AssertionError:
            self.wrong.append(f"{name}: ends otherwise")

    def go_on(self, folder: Path, out: Path) -> bool:
        """Run it until it ends or is killed; False where it fails."""
        how, seed, before = self.choose.choice(HOW), self.choose.random(), saved(folder)
        first = self.where / "first"
        first.write_text("")

        def run() -> None:
            doomed(how, random.Random(seed))
            found = checkpointed(folder, epochs=EPOCHS, callbacks=[First(first)])
            torch.save(found, out.with_suffix(".part"))
            out.with_suffix(".part").rename(out)

        code = in_a_child(run)
        self.counts[how] += code == -signal.SIGKILL
        if code not in (0, -signal.SIGKILL):
            self.wrong.append(f"{folder.name} {how}: ended with {code} after epoch {before}")
            return False
        if first.read_text() and before >= 0:
            begun = (int(first.read_text()) - 1) // 3
            if begun not in (before, before - 1):
                self.wrong.append(f"{folder.name} {how}: went on from epoch {begun}, and {before} was saved")
        return True


def main() -> None:
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as found:
        kills = Kills(int(sys.argv[2]), Path(found))
        while kills.done < int(sys.argv[1]) and not kills.wrong:
            kills.one_run()
    print(json.dumps({"counts": kills.counts, "wrong": kills.wrong}))


if __name__ == "__main__":
    main()
