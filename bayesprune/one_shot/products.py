"""The products of a net's weights in a forward pass: what goes into each, and what comes out.

A layer's type does not matter: every torch function that is linear in a weight is met on its way, as in
:mod:`bayesprune.draws.local`, in layers of one's own and in torch's attention too.
"""

from collections.abc import Callable, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode

from bayesprune.draws.gaussian import METADATA
from bayesprune.draws.local import COMPOSITE
from bayesprune.layout import Layout

__all__ = ["Products", "UnfollowedError", "rows_in", "rows_out"]

_CONVOLUTIONS = (F.conv1d, F.conv2d, F.conv3d)
_ADDMM = (torch.addmm, torch.Tensor.addmm)
_NAMES: dict[Any, tuple[str, ...]] = {
    F.linear: ("input", "weight", "bias"),
    **dict.fromkeys(_CONVOLUTIONS, ("input", "weight", "bias")),
    **dict.fromkeys(_ADDMM, ("input", "mat1", "mat2")),
    **dict.fromkeys((torch.matmul, torch.Tensor.matmul, torch.Tensor.__matmul__), ("input", "other")),
    **dict.fromkeys((torch.mm, torch.Tensor.mm), ("input", "mat2")),
}

_LOOKED_AT = METADATA | {torch.equal, torch.Tensor.equal}  # which nothing goes on from

Seen = Callable[[str, Callable[[Tensor], Tensor], Tensor, Tensor | None, Tensor], None]


class UnfollowedError(ValueError):
    """A weight that a forward pass does not use, or in a way of which no inputs and outputs are known."""

    def __init__(self, name: str, message: str) -> None:
        super().__init__(f"{message}: leave {name!r} out by a rule of its own, None")
        self.name = name


class Products(TorchFunctionMode):
    """Calls ``seen`` for each product with a watched weight in the block.

    Args:
        weights: name → the tensor that the net is run on, the very object.
        layouts: name → the roles of the weight's axes.
        seen: called with the weight's name, a function that gives the inputs row by row (see :func:`rows_in`), what it
            is to be called on, the bias that the same call adds or ``None``, and the result that the net goes on with.

    Raises:
        UnfollowedError: a weight is read otherwise: tied to an embedding, transposed, normalised by a hook.
    """

    def __init__(self, weights: Mapping[str, Tensor], layouts: Mapping[str, Layout], seen: Seen) -> None:
        super().__init__()
        self.names = {id(tensor): name for name, tensor in weights.items()}
        self.layouts, self.seen = layouts, seen

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if func in COMPOSITE:
            with self:
                return COMPOSITE[func](*args, **kwargs)
        result = func(*args, **kwargs)
        given = {**dict(zip(_NAMES.get(func, ()), args, strict=False)), **kwargs}
        found = [(place, self.names[id(t)]) for place, t in given.items() if id(t) in self.names]
        if not found:
            if func not in _LOOKED_AT:
                for tensor in args:
                    if id(tensor) in self.names:
                        raise self._unfollowed(self.names[id(tensor)], func)
            return result
        (place, name), layout = found[0], self.layouts[found[0][1]]
        x, patches = self._read(func, place, given, args, layout)
        bias = given.get("input" if func in _ADDMM else "bias")
        if x is None or len(found) > 1:
            raise self._unfollowed(name, func)
        self.seen(name, patches, x, bias, result)
        return result

    def _read(
        self, func: Any, place: str, given: Mapping[str, Any], args: tuple[Any, ...], layout: Layout
    ) -> tuple[Tensor | None, Callable[[Tensor], Tensor]]:
        """What a product is of, and its inputs row by row; ``None`` where the weight is not its second factor."""
        if func in _CONVOLUTIONS and place == "weight":
            rest, named = args[3:], {k: v for k, v in given.items() if k not in ("input", "weight", "bias")}
            return given["input"], lambda x: _patches(func, x, layout, rest, named)
        upright = {F.linear: False}.get(func, True)  # x @ weight: its first axis counts inputs
        second = place == _NAMES[func][-1] if func is not F.linear else place == "weight"
        if not second or len(layout.shape) != 2 or layout.transposed != upright:
            return None, rows_in
        if func in _ADDMM:
            plain = given.get("alpha", 1) == 1 == given.get("beta", 1)
            return (given["mat1"] if plain else None), rows_in
        return given["input"], rows_in

    def _unfollowed(self, name: str, func: Any) -> UnfollowedError:
        how = getattr(func, "__name__", str(func))
        if how == "__get__":
            how = getattr(getattr(func, "__self__", None), "__name__", how)
        return UnfollowedError(
            name, f"the forward reads {name!r} by {how!r}, of which its inputs and outputs are not known"
        )


def rows_in(x: Tensor) -> Tensor:
    """The inputs of a matrix product, (1, rows, inputs): a row an example, position or token."""
    return x.reshape(1, -1, x.shape[-1])


def _patches(func: Any, x: Tensor, layout: Layout, rest: tuple[Any, ...], named: Mapping[str, Any]) -> Tensor:
    """The inputs of a convolution, (groups, rows, inputs · positions): a row an example and place.

    The convolution itself takes them out, with a kernel of ones and zeros; whatever its strides, padding and dilation.
    """
    groups, _, into, positions = layout.roles
    x = x if x.dim() == len(layout.kernel) + 2 else x[None]
    eye = torch.eye(into * positions, dtype=x.dtype, device=x.device).reshape(-1, into, *layout.kernel)
    taken = func(x, eye.repeat(groups, *[1] * (eye.dim() - 1)), None, *rest, **named)
    return rows_out(taken, groups, len(layout.kernel))


def rows_out(result: Tensor, groups: int, rank: int) -> Tensor:
    """A product's result, or its gradient, as (groups, rows, outputs per group); ``rank`` axes of places at the end."""
    if not rank:
        return result.reshape(1, -1, result.shape[-1])
    result = result if result.dim() == rank + 2 else result[None]
    n, channels = result.shape[:2]
    parts = result.reshape(n, groups, channels // groups, -1)
    return parts.permute(1, 0, 3, 2).reshape(groups, -1, channels // groups)
