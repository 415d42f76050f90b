"""Read forged files, a kind after another; ``sparse/saving/test_mutations.py`` runs it alone.

    python tests/support/forged.py <kind>[,<kind>…] <first> <count>

The file numbered ``n`` of a kind is always the same one. Each is read by ``load``, ``contents`` and ``bayesprune info``
(a text by the readers of recipes and expressions), and what loads is run. Prints one JSON line: how many were refused,
loaded to the same outputs or to others (which only a file whose checksums were made right again may do), the most
memory beyond four times a file, and what went wrong: an error that is not ours, a file that took more than 64 MB beyond
that. Where the process dies, as it does after 10 s of work, the last line of its errors says at which file.
"""

import gc
import json
import random
import resource
import signal
import sys
import tempfile
import warnings
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import torch
from torch import nn

from bayesprune.cli import info
from bayesprune.methods import Method
from bayesprune.pruning import Callback
from bayesprune.runs.expressions import arguments, assigned, parsed
from bayesprune.runs.recipe import Recipe
from bayesprune.sparse import FileError, load, save
from bayesprune.sparse.saving.contents import contents
from support.designed import DESIGNED
from support.fuzzed_texts import expression, recipe
from support.measured import allocated, give_back, memory
from support.mutations import MODELS, mutation, spliced, valid_file

SECONDS, FREE = 10.0, 2**26
Read = tuple[str, Callable[[], object], Callable[[object], bool]]


class Survey:
    """What came of the files."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        self.wrong: list[str] = []
        self.bytes = 0

    def read(self, where: str, size: int, reads: list[Read]) -> object:
        """What the first reader gave; each has its time, its memory and its kind of error looked at."""
        first: object = None
        give_back()
        for i, (name, read, ours) in enumerate(reads):
            signal.setitimer(signal.ITIMER_PROF, SECONDS)  # of work: what takes longer ends the process
            signal.alarm(300)  # and so does what hangs
            result, most = allocated(read)
            self.bytes = max(self.bytes, most - 4 * size)
            said = f"{type(result).__name__}: {str(result)[:300]}"
            if isinstance(result, Exception) and not ours(result):
                self.wrong.append(f"{where} {name}: {said}")
            if most > FREE + 4 * size or "allocate memory" in said:
                self.wrong.append(f"{where} {name}: took {most:,} bytes for {size:,}: {said}")
            if i == 0:
                first = result
        return first


def is_file_error(error: object) -> bool:
    return isinstance(error, FileError)


def readers(path: Path, skeleton: nn.Module | None) -> list[Read]:
    shown = lambda: [str(table) for table in info._of_model(path)[1]]  # noqa: E731
    loads = [("load", lambda: load(path, skeleton), is_file_error)]
    if skeleton is not None:
        loads.append(("load alone", lambda: load(path), is_file_error))
    return [*loads, ("contents", lambda: contents(path), is_file_error), ("info", shown, is_file_error)]


def of_models(name: str, first: int, count: int, survey: Survey, folder: Path) -> None:
    """Mutations of a valid file."""
    path, other = folder / "model.safetensors", folder / "other"
    x, y, skeleton = valid_file(name, path)
    data = path.read_bytes()
    valid_file(MODELS[(MODELS.index(name) // 4 * 4 + first) % 3], other)
    theirs = other.read_bytes()
    for n in range(first, first + count):
        print(n, file=sys.stderr, flush=True)
        choose = random.Random(f"{name} {n}")
        same_kind = data[:4] == theirs[:4]
        new, holds = (
            (spliced(data, theirs, choose), True) if same_kind and choose.random() < 0.15 else mutation(data, choose)
        )
        path.write_bytes(new)
        net = survey.read(f"{name} {n}", max(len(new), len(data)), readers(path, skeleton))
        if isinstance(net, nn.Module):
            try:
                with torch.no_grad():
                    same = torch.equal(net(x), y)
            except Exception:  # a net that is another one now may refuse this input
                same = False
            survey.counts["same" if same else "other"] += 1
            if not same and not holds:
                survey.wrong.append(f"{name} {n}: loads to other outputs")
        else:
            survey.counts["refused"] += 1


def of_designs(name: str, first: int, count: int, survey: Survey, folder: Path) -> None:
    """Files made to cost more than they are."""
    path, made = folder / "forged", DESIGNED[name]
    for n in range(first, first + count):
        print(n, file=sys.stderr, flush=True)
        path.write_bytes(made(random.Random(f"{name} {n}")))
        net = survey.read(f"{name} {n}", path.stat().st_size, readers(path, None))
        survey.counts["other" if isinstance(net, nn.Module) else "refused"] += 1


def is_value_error(error: object) -> bool:
    return isinstance(error, ValueError)


def of_expressions(name: str, first: int, count: int, survey: Survey, folder: Path) -> None:
    """What stands in a recipe and on the command line."""
    for n in range(first, first + count):
        print(n, file=sys.stderr, flush=True)
        text = expression(random.Random(f"{name} {n}"))
        reads: list[Read] = [
            ("method", lambda text=text: parsed(text, Method, "SparseVD()"), is_value_error),
            ("schedule", lambda text=text: parsed(text, Callback, "Cubic(keep=0.5)"), is_value_error),
            ("rules", lambda text=text: assigned([text], Method, "a=SparseVD()"), is_value_error),
            ("call", lambda text=text: arguments(text), is_value_error),
        ]
        found = survey.read(f"{name} {n} {text[:80]!r}", len(text), reads)
        survey.counts["refused" if isinstance(found, Exception) else "other"] += 1


def of_recipes(name: str, first: int, count: int, survey: Survey, folder: Path) -> None:
    """Recipes."""
    path = folder / "recipe.toml"
    for n in range(first, first + count):
        print(n, file=sys.stderr, flush=True)
        text = recipe(random.Random(f"{name} {n}")).encode("utf-8", "surrogatepass")
        path.write_bytes(text)
        found = survey.read(f"{name} {n}", len(text), [("recipe", lambda: Recipe.read(path), is_value_error)])
        survey.counts["refused" if isinstance(found, Exception) else "other"] += 1


Kind = Callable[[str, int, int, Survey, Path], None]
KINDS: dict[str, Kind] = {
    **dict.fromkeys(MODELS, of_models),
    **dict.fromkeys(DESIGNED, of_designs),
    "expressions": of_expressions,
    "recipes": of_recipes,
}


def warm(folder: Path) -> None:
    """What is imported and made ready once is no file's cost."""
    for compress in (False, True):
        save(
            nn.Sequential(nn.Linear(100, 100), nn.TransformerEncoderLayer(4, 2, 4)), folder / "warm", compress=compress
        )
        for _, read, _ in readers(folder / "warm", None):
            read()


def main() -> None:
    names, first, count = sys.argv[1].split(","), int(sys.argv[2]), int(sys.argv[3])
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    survey = Survey()
    with tempfile.TemporaryDirectory() as found:
        warm(Path(found))
        limit = memory()["VmSize"] + 2**30
        gc.freeze()  # what is there already is not looked through before each file
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))  # what asks for more fails, and is seen
        for name in names:
            KINDS[name](name, first, count, survey, Path(found))
    print(json.dumps(vars(survey)))


if __name__ == "__main__":
    main()
