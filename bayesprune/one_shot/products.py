"""The products of a net's weights in a forward pass: what goes into each, and what comes out.

A layer's type does not matter: every torch function that is linear in a weight is met on its way, as
:data:`bayesprune.draws.local.LOCAL` reads it, in layers of one's own and in torch's attention too.
"""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves

from bayesprune.draws.gaussian import METADATA
from bayesprune.draws.local import COMPOSITE, LOCAL, Product
from bayesprune.layout import Layout

__all__ = ["Products", "UnfollowedError", "rows_out"]

_OUTPUTS_FIRST = (F.linear, F.conv1d, F.conv2d, F.conv3d)  # the other products are x @ weight
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
        seen: called with the weight's name, a function that gives the inputs row by row, (groups, rows, inputs ·
            positions), what it is to be called on, the bias that the call adds or ``None``, and the result that the net
            goes on with.

    Raises:
        UnfollowedError: a weight is read otherwise: tied to an embedding, transposed, stacked, normalised by a hook.
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
        held = [self.names[id(part)] for part in tree_leaves((args, dict(kwargs))) if id(part) in self.names]
        if not held or func in _LOOKED_AT:
            return result
        name, layout = held[0], self.layouts[held[0]]
        call = LOCAL[func](args, kwargs) if func in LOCAL else None
        if call is None or len(held) > 1 or self.names.get(id(call.weight)) != name or not _known(func, kwargs, layout):
            raise self._unfollowed(name, func)
        self.seen(name, partial(_rows, call, layout), call.x, call.bias, result)
        return result

    def _unfollowed(self, name: str, func: Any) -> UnfollowedError:
        how = getattr(func, "__name__", str(func))
        if how == "__get__":
            how = getattr(getattr(func, "__self__", None), "__name__", how)
        return UnfollowedError(
            name, f"the forward reads {name!r} by {how!r}, of which its inputs and outputs are not known"
        )


def _known(func: Any, kwargs: Mapping[str, Any], layout: Layout) -> bool:
    """Whether the weight's outputs lie where the product has them, with no factor on it."""
    upright = func in _OUTPUTS_FIRST
    plain = kwargs.get("alpha", 1) == kwargs.get("beta", 1) == 1
    return plain and layout.transposed != upright and (upright or len(layout.shape) == 2)


def _rows(call: Product, layout: Layout, x: Tensor) -> Tensor:
    """A product's inputs, (groups, rows, inputs · positions): a row an example, place or token.

    A convolution takes its patches out itself, with a kernel of ones and zeros; whatever its strides and padding.
    """
    if not layout.kernel:
        return x.reshape(1, -1, x.shape[-1])
    groups, _, into, positions = layout.roles
    x = x if x.dim() == len(layout.kernel) + 2 else x[None]
    eye = torch.eye(into * positions, dtype=x.dtype, device=x.device).reshape(-1, into, *layout.kernel)
    taken = call.apply(x, eye.repeat(groups, *[1] * (eye.dim() - 1)), None, 1)
    return rows_out(taken, groups, len(layout.kernel))


def rows_out(result: Tensor, groups: int, rank: int) -> Tensor:
    """A product's result, or its gradient, as (groups, rows, outputs per group); ``rank`` axes of places at the end."""
    if not rank:
        return result.reshape(1, -1, result.shape[-1])
    result = result if result.dim() == rank + 2 else result[None]
    n, channels = result.shape[:2]
    parts = result.reshape(n, groups, channels // groups, -1)
    return parts.permute(1, 0, 3, 2).reshape(groups, -1, channels // groups)
