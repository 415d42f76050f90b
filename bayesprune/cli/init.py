"""The ``bayesprune init`` command."""

from pathlib import Path
from typing import Annotated

import typer

from bayesprune._files import replace
from bayesprune.cli.output import tell

_MODULE = '''"""A net and data for bayesprune: change both into your own."""

import torch
from sklearn.datasets import load_breast_cancer
from torch import nn
from torch.utils.data import TensorDataset, random_split


def net() -> nn.Module:
    """Any module: a row of features in, a number a class out. Give it trained weights, or let --pretrain train it."""
    return nn.Sequential(nn.Linear(30, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 2))


def data() -> tuple:
    """Training, validation and test: datasets, or loaders, of pairs (x, y). Whole numbers are classes, real ones are
    regression."""
    x, y = (torch.from_numpy(array) for array in load_breast_cancer(return_X_y=True))
    x = ((x - x.mean(0)) / x.std(0)).float()
    parts = random_split(TensorDataset(x, y), [0.6, 0.2, 0.2], torch.Generator().manual_seed(0))
    return tuple(parts)
'''


def run(
    path: Annotated[Path, typer.Argument(metavar="MODULE", help="The file to write.")] = Path("my_net.py"),
    force: Annotated[bool, typer.Option("--force", help="Replace a file that is there.")] = False,
) -> None:
    """Write a module with a net and data to start from, which runs as it is.

    Example: bayesprune init my_net.py
    """
    if path.suffix != ".py" or not path.stem.isidentifier():
        raise ValueError(f"name a module, as in my_net.py; got {str(path)!r}")
    if not path.absolute().parent.is_dir():
        raise FileNotFoundError(f"{path}: there is no folder {path.parent}")
    if path.exists() and not force:
        raise FileExistsError(f"{path} is there already: name another file, or add --force to replace it")
    replace(path, lambda fresh: fresh.write_text(_MODULE, encoding="utf-8"))
    where = "" if path.parent == Path() else f"cd {path.parent}; "
    tell(f"wrote {path}; change net() and data() into your own")
    tell(f"next: {where}bayesprune fit --net {path.stem}:net --data {path.stem}:data --pretrain 20 --out run")
