"""Nets and data by name: our own, or the user's as ``module:attribute``."""

import inspect
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from types import ModuleType
from typing import Any

from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from bayesprune import data, nets
from bayesprune.fitting.given import loader_of
from bayesprune.likelihoods.batch import count_examples, parted
from bayesprune.runs.expressions import arguments
from bayesprune.runs.files import is_file, read
from bayesprune.runs.own import attribute, module_of, telling
from bayesprune.runs.suggestions import suggestion

__all__ = ["Data", "find_data", "find_net"]


@dataclass(frozen=True)
class Data:
    """What a run trains on and is judged on: batches ``(x, y)``.

    Attributes:
        train: batches in a new order each epoch.
        size: how many training examples there are.
        val, test: batches in a fixed order; ``None`` where there is no such part.
        classifies: whether targets are class labels, rather than real numbers.
        classes: the classes' names, where they are known.
    """

    train: Iterable[Any]
    size: int
    val: Iterable[Any] | None
    test: Iterable[Any] | None
    classifies: bool
    classes: tuple[str, ...] = ()

    def part(self, name: str) -> Iterable[Any]:
        """The part ``"val"`` or ``"test"``. Raises ``ValueError`` where there is no such part."""
        held_out = {"val": self.val, "test": self.test}
        if name not in held_out:
            raise ValueError(f"the parts to look at are val and test; got {name!r}")
        batches = held_out[name]
        if batches is None:
            raise ValueError(f"the data have no {name} part: say --on {'test' if name == 'val' else 'val'}")
        return batches


def find_net(text: str) -> nn.Module:
    """The net of a name: ``lenet_300_100(inputs=64)``, or ``my_module:make_net``, with or without literal arguments.

    The user's attribute is a module, or a class or function that gives one.

    Raises:
        ValueError: no such net, or it cannot be made.

    >>> find_net("mlp(8, (50,), 1)").fc1
    Linear(in_features=8, out_features=50, bias=True)
    """
    made = _made(text, _functions(nets), "net", nn.Module)
    if not isinstance(made, nn.Module):
        raise ValueError(f"net {text!r} is no torch.nn.Module: got {type(made).__name__}")
    return made


def find_data(text: str, batch: int) -> Data:
    """The data of a name: ``digits``, ``uci:yacht(split=1)``, a file (``csv:…``, ``images:…``, ``npz:…``, ``hf:…``), or
    ``my_module:make_data``.

    The user's attribute is, or gives, a :class:`bayesprune.data.Splits`, or a pair (train, test) or triple (train,
    validation, test) of datasets or of loaders.

    Args:
        text: the name.
        batch: examples a batch; loaders of the user's keep their own.

    Raises:
        FileNotFoundError: there is no such file or folder.
        ValueError: no such data, or they are nothing of the kind.

    >>> find_data("digits", batch=64).size
    1258
    """
    ours = _functions(data)
    if text.startswith("uci:"):
        name, parenthesis, rest = text.removeprefix("uci:").partition("(")
        text = f"uci({name.strip()!r}, {rest}" if parenthesis else f"uci({name.strip()!r})"
    found = read(text) if is_file(text) else _made(text, ours, "data", (data.Splits, tuple, list))
    classes = found.classes if isinstance(found, data.Splits) else ()
    if isinstance(found, data.Splits):
        found = found.train, found.val, found.test
    if not isinstance(found, (tuple, list)) or len(found) not in (2, 3):
        raise ValueError(
            f"data {text!r} must be bayesprune.data.Splits, or (train, test) or (train, val, test) of datasets or "
            f"loaders; got {type(found).__name__}"
        )
    train, *held_out = found
    val, test = (None, *held_out) if len(held_out) == 1 else held_out
    loader = _loader(train, batch, shuffle=True)
    first = next(iter(loader or ()), None)
    if loader is None or first is None:
        raise ValueError(f"data {text!r} have no training examples")
    _, y = parted(first)
    if not isinstance(y, Tensor):
        raise ValueError(
            f"data {text!r} must give batches (x, y) of tensors, or dicts with labels, got {type(first).__name__}"
        )
    classifies = not y.is_floating_point()
    return Data(loader, _size(loader), _loader(val, batch), _loader(test, batch), classifies, classes)


def _functions(module: ModuleType) -> Mapping[str, Callable[..., Any]]:
    """The public functions that a module defines."""
    found = inspect.getmembers(module, inspect.isfunction)
    return {name: f for name, f in found if f.__module__ == module.__name__ and not name.startswith("_")}


def _made(text: str, ours: Mapping[str, Callable[..., Any]], what: str, kinds: Any) -> Any:
    """What the name stands for, called unless it already is of one of ``kinds``."""
    module = module_of(text)
    try:
        name, args, kwargs = arguments(text if module is None else text.partition(":")[2])
    except ValueError as error:
        raise ValueError(f"{what} {text!r}: {error}; {suggestion(text, ours)}") from None
    if module is not None:
        found = attribute(module, name, what)
    elif name in ours:
        found = ours[name]
    else:
        raise ValueError(
            f"there is no {what} {name!r}: {suggestion(name, ours)} (your own is my_module:{name}, looked for "
            "in this folder and on PYTHONPATH)"
        )
    if isinstance(found, kinds) and not (args or kwargs):
        return found
    if not callable(found):
        raise ValueError(f"{what} {text!r} is of type {type(found).__name__}, which cannot be called")
    try:
        inspect.signature(found).bind(*args, **kwargs)
    except TypeError as error:
        raise ValueError(f"{what} {text!r}: {error}; write it as in '{text.partition('(')[0]}(…)'") from None
    with telling(f"{what} {text!r}"):
        return found(*args, **kwargs)


def _loader(part: Any, batch: int, shuffle: bool = False) -> Iterable[Any] | None:
    if part is None or (isinstance(part, Dataset) and hasattr(part, "__len__") and len(part) == 0):
        return None
    if isinstance(part, Dataset):
        return loader_of(part, batch, shuffle)
    if isinstance(part, Iterable) and iter(part) is not part:
        return part
    raise ValueError(f"a part of the data is a dataset or an iterable over batches, got {type(part).__name__}")


def _size(loader: Iterable[Any]) -> int:
    if isinstance(loader, DataLoader) and hasattr(loader.dataset, "__len__"):
        return len(loader.dataset)
    return sum(count_examples(*parted(batch)) for batch in loader)
