"""State dicts: a net's values as its own ``state_dict`` lists them, and beside them what it does not save."""

from collections import OrderedDict
from collections.abc import Iterator, Mapping
from typing import Any

from torch import Tensor, nn

__all__ = ["StateDict", "is_unset", "saved_names", "set_buffer", "whole"]

_EXTRA = "_extra_state"


class StateDict(OrderedDict[str, Tensor]):
    """What ``net.load_state_dict`` takes strictly: parameters and buffers, tied ones under each of their names.

    Attributes:
        unsaved: the buffers that a net has and does not save (``persistent=False``), by name.

    ``state[name]`` gives these too, though they are not listed. Copies of it keep ``unsaved``, and so does
    ``torch.save``; ``{**state}`` and ``dict(state)`` do not.

    >>> import torch
    >>> net = nn.BatchNorm1d(2, affine=False)
    >>> net.register_buffer("ones", torch.ones(2), persistent=False)
    >>> state = StateDict.of(net, dict(net.named_buffers()))
    >>> list(state), list(state.unsaved), net.load_state_dict(state)
    (['running_mean', 'running_var', 'num_batches_tracked'], ['ones'], <All keys matched successfully>)
    """

    unsaved: dict[str, Tensor]

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self.unsaved = {}
        super().__init__(*args, **kwargs)

    @classmethod
    def of(cls, net: nn.Module, values: Mapping[str, Tensor]) -> "StateDict":
        """``values``, each by its first name, as ``net`` lists its own."""
        own = net.state_dict(keep_vars=True)
        first = {key: name for key, name in saved_names(net).items() if name in values}
        made = cls((key, values[first[key]] if key in first else value) for key, value in own.items())
        made.unsaved = {name: value for name, value in values.items() if name not in {*first.values()}}
        vars(made)["_metadata"] = getattr(own, "_metadata", None)  # by which modules read what older ones wrote
        return made

    def __missing__(self, name: str) -> Tensor:
        return self.unsaved[name]

    def __reduce__(self) -> tuple[Any, ...]:
        """As an ``OrderedDict`` with attributes, which ``torch.load`` takes as it takes any state dict."""
        return OrderedDict, (), dict(vars(self)), None, iter(self.items())

    def __copy__(self) -> "StateDict":
        made = type(self)(self)
        vars(made).update(vars(self))
        return made

    copy = __copy__


def saved_names(net: nn.Module) -> dict[str, str]:
    """The keys of ``net.state_dict()`` that are parameters or buffers → the first name of each in the net.

    >>> tied = nn.Sequential(nn.Linear(2, 2, bias=False), nn.Linear(2, 2, bias=False))
    >>> tied[1].weight = tied[0].weight
    >>> saved_names(tied)
    {'0.weight': '0.weight', '1.weight': '0.weight'}
    """
    first = {id(tensor): name for name, tensor in _tensors(net)}
    return {key: first[id(x)] for key, x in net.state_dict(keep_vars=True).items() if id(x) in first}


def whole(values: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
    """``values`` with what a state dict keeps aside, and without what modules say of themselves beside tensors.

    >>> whole({"weight": 1.0})
    {'weight': 1.0}
    """
    if not isinstance(values, Mapping):
        return values  # whoever reads it says what it should be
    listed = {name: value for name, value in values.items() if not name.endswith(_EXTRA)}
    return {**getattr(values, "unsaved", {}), **listed}


def is_unset(net: nn.Module, name: str) -> bool:
    """Whether ``name`` is a buffer of ``net`` that is None as yet.

    >>> layer = nn.Linear(1, 1)
    >>> layer.register_buffer("centre", None)
    >>> is_unset(layer, "centre"), is_unset(layer, "weight"), is_unset(layer, "nowhere.centre")
    (True, False, False)
    """
    path, _, leaf = name.rpartition(".")
    try:
        buffers = net.get_submodule(path)._buffers
    except AttributeError:
        return False
    return leaf in buffers and buffers[leaf] is None


def set_buffer(net: nn.Module, name: str, value: Tensor) -> None:
    """Have the buffer ``name`` of ``net`` be ``value``, whatever it was."""
    path, _, leaf = name.rpartition(".")
    net.get_submodule(path)._buffers[leaf] = value


def _tensors(net: nn.Module) -> Iterator[tuple[str, Tensor]]:
    yield from net.named_parameters()
    yield from net.named_buffers()
