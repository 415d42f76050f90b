"""Local reparameterization and flipout for every torch function that is linear in a weight.

One table, :data:`LOCAL`, for all layers: a function is read as a :class:`Product` ``apply(x, weight, bias)``, and a
product can be sampled in two ways, :func:`local` and :func:`flipout`, from the weight's mean and variance alone.

Kingma, Salimans & Welling 2015, *Variational Dropout and the Local Reparameterization Trick*, arXiv:1506.02557.
Wen et al. 2018, *Flipout: Efficient Pseudo-Independent Weight Perturbations on Mini-Batches*, arXiv:1803.04386.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from types import FunctionType
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd import forward_ad

__all__ = [
    "COMPOSITE",
    "LOCAL",
    "AddNoise",
    "DifferentiatedError",
    "Pass",
    "Product",
    "flipout",
    "local",
    "refuse_transforms",
    "refuse_within_pass",
    "undifferentiated",
]


@dataclass(frozen=True)
class Product:
    """One call of a function that is linear in a weight.

    ``apply(x, weight, bias, power)`` repeats the call on other tensors; ``power`` is 2 where variances go through,
    so that scalar factors are squared. ``signs(t)`` is the shape of flipout's random signs for a tensor like ``x``
    or like the result.
    """

    x: Tensor
    weight: Tensor
    bias: Tensor | None
    apply: Callable[[Tensor, Tensor, Tensor | None, int], Tensor]
    signs: Callable[[Tensor], list[int]]


class AddNoise(torch.autograd.Function):
    """``mean + √var · noise``, whose gradient is 0, not NaN, where the variance is 0."""

    generate_vmap_rule = True

    @staticmethod
    def forward(mean: Tensor, var: Tensor, noise: Tensor) -> Tensor:
        return torch.addcmul(mean, var.clamp_min(0).sqrt(), noise)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor, Tensor], output: Tensor) -> None:
        ctx.save_for_backward(inputs[1], inputs[2])
        ctx.save_for_forward(inputs[1], inputs[2])

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, None]:
        return grads[0], grads[0] * _slope(*ctx.saved_tensors), None

    @staticmethod
    def jvp(ctx: Any, *tangents: Tensor) -> Tensor:
        var, noise = ctx.saved_tensors
        mean, spread, drawn = tangents
        return mean + spread * _slope(var, noise) + var.clamp_min(0).sqrt() * drawn


def _slope(var: Tensor, noise: Tensor) -> Tensor:
    return torch.where(var > 0, 0.5 * noise * var.clamp_min(torch.finfo(var.dtype).tiny).rsqrt(), 0.0)


class DifferentiatedError(RuntimeError):
    """A forward pass differentiates a sampled activation, whose slope is not that of a draw of the weight.

    Or it does what may do so out of sight: a transform of ``torch.func``, forward mode, a function below torch's own.
    """


@dataclass
class Pass:
    """A forward pass under way, and whether a :class:`DifferentiatedError` was met in it: TorchScript wraps that."""

    differentiated: bool = False


_under_way: ContextVar[Pass | None] = ContextVar("the forward pass under way", default=None)


@contextmanager
def undifferentiated(forward_pass: Pass) -> Iterator[None]:
    """For a forward pass: raise :class:`DifferentiatedError` where it differentiates a sampled activation."""
    before = _under_way.set(forward_pass)
    try:
        yield
    finally:
        _under_way.reset(before)


def refuse_within_pass(why: str) -> None:
    """Raise :class:`DifferentiatedError` where a forward pass is under way; elsewhere do nothing."""
    forward_pass = _under_way.get()
    if forward_pass is not None:
        forward_pass.differentiated = True
        raise DifferentiatedError(why)


def refuse_transforms() -> None:
    """:func:`refuse_within_pass` within a transform of ``torch.func``, or where forward mode is at work."""
    if forward_ad._current_level >= 0 or torch._C._functorch.peek_interpreter_stack() is not None:
        refuse_within_pass("the forward pass transforms what is to be sampled")


class AddActivationNoise(AddNoise):
    """The noise of a sampled activation, which no derivative may pass while the forward pass is under way."""

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, None]:
        refuse_within_pass("the forward pass differentiates what was sampled")
        return AddNoise.backward(ctx, *grads)


def local(call: Product, loc: Tensor, var: Tensor, bias_loc: Tensor | None, bias_var: Tensor | None) -> Tensor:
    """Sample the result of ``call`` from its own mean and variance (local reparameterisation).

    Every element of the result gets noise of its own. Rows of a matrix product are independent given the weights, so
    there gradients are unbiased; over the positions of a convolution and the tokens of a sequence, which share a
    weight draw, independence is the approximation of Molchanov et al. 2017: mean and variance per element are exact,
    the covariance between positions is left out. Under autocast both products are low precision, and the noise is that
    of float32, rounded: a seed gives the same draws.
    """
    mean = call.apply(call.x, loc, bias_loc, 1)
    variance = call.apply(call.x.square(), var, bias_var, 2)
    noise = torch.randn_like(mean, dtype=torch.promote_types(mean.dtype, torch.float32))
    return AddActivationNoise.apply(mean, variance, noise.to(mean.dtype))


def flipout(call: Product, loc: Tensor, delta: Tensor, bias: Tensor | None) -> Tensor:
    """One draw ``loc + delta`` for the batch, its sign flipped per example and channel (Wen et al. 2018)."""
    mean = call.apply(call.x, loc, bias, 1)
    flipped = call.apply(call.x * _signs(call.signs(call.x), mean), delta, None, 1)
    return mean + flipped * _signs(call.signs(mean), mean)


def _signs(shape: list[int], like: Tensor) -> Tensor:
    return torch.randint(0, 2, shape, device=like.device).to(like.dtype).mul_(2).sub_(1)


def _axes(*axes: int) -> Callable[[Tensor], list[int]]:
    """Signs that vary along ``axes`` alone."""

    def shape(t: Tensor) -> list[int]:
        vary = {a % t.dim() for a in axes if -t.dim() <= a < t.dim()}
        return [n if i in vary else 1 for i, n in enumerate(t.shape)]

    return shape


def _everywhere(t: Tensor) -> list[int]:
    return list(t.shape)


Reader = Callable[[tuple[Any, ...], Mapping[str, Any]], Product]


def _layer(function: Callable[..., Tensor], rank: int) -> Reader:
    """``function(input, weight, bias, ...)``: linear (rank 0), and convolutions over ``rank`` axes."""

    def read(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Product:
        named = dict(kwargs)
        lead = list(args[:3]) + [named.pop(k, None) for k in ("input", "weight", "bias")[len(args) :]]
        x, weight, bias = lead

        def apply(x: Tensor, w: Tensor, b: Tensor | None, power: int) -> Tensor:
            return function(x, w, b, *args[3:], **named)

        return Product(x, weight, bias, apply, _axes(0, -1 - rank))  # unbatched, axis 0 holds the channels itself

    return read


def _matmul(swapped: bool = False) -> Reader:
    def read(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Product:
        named = dict(kwargs)
        lead = list(args) + [named.pop(k) for k in ("input", "other", "mat2") if k in named]
        first, second = (lead[1], lead[0]) if swapped else (lead[0], lead[1])
        if hasattr(first, "loc"):  # weight @ x

            def left(x: Tensor, w: Tensor, b: Tensor | None, power: int) -> Tensor:
                return torch.matmul(w, x)

            return Product(second, first, None, left, _axes(0, -2) if second.dim() > 2 else _everywhere)

        def right(x: Tensor, w: Tensor, b: Tensor | None, power: int) -> Tensor:
            return torch.matmul(x, w)

        shared = second.dim() == 2 and first.dim() > 1
        return Product(first, second, None, right, _axes(0, -1) if shared else _everywhere)

    return read


def _addmm(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Product:
    named = dict(kwargs)
    beta, alpha = named.pop("beta", 1), named.pop("alpha", 1)
    bias, first, second = list(args) + [named[k] for k in ("input", "mat1", "mat2")[len(args) :]]
    weight_first = hasattr(first, "loc")

    def apply(x: Tensor, w: Tensor, b: Tensor | None, power: int) -> Tensor:
        first, second = (w, x) if weight_first else (x, w)
        if b is None:
            return first @ second * alpha**power
        return torch.addmm(b, first, second, beta=beta**power, alpha=alpha**power)

    x, weight = (second, first) if weight_first else (first, second)
    return Product(x, weight, bias, apply, _everywhere)


_LAYERS: dict[Callable[..., Tensor], int] = {
    F.linear: 0,
    F.conv1d: 1,
    F.conv2d: 2,
    F.conv3d: 3,
    F.conv_transpose1d: 1,
    F.conv_transpose2d: 2,
    F.conv_transpose3d: 3,
}
_PRODUCTS = (torch.matmul, torch.mm, torch.bmm, torch.Tensor.matmul, torch.Tensor.mm, torch.Tensor.bmm)

LOCAL: dict[Callable[..., Any], Reader] = {
    **{function: _layer(function, rank) for function, rank in _LAYERS.items()},
    **{function: _matmul() for function in (*_PRODUCTS, torch.Tensor.__matmul__)},
    torch.Tensor.__rmatmul__: _matmul(swapped=True),
    torch.addmm: _addmm,
    torch.Tensor.addmm: _addmm,
}
"""Function → how to read a call of it as a :class:`Product`."""


def _undispatched(function: Callable[..., Any]) -> Callable[..., Any]:
    """``function``'s own body, which asks nobody to override it; what it calls inside is still met one by one."""
    if not isinstance(function, FunctionType):
        raise TypeError(f"{function!r} is not written in Python")
    world = {**function.__globals__, "has_torch_function": lambda tensors: False}
    body = FunctionType(function.__code__, world, function.__name__, function.__defaults__, function.__closure__)
    body.__kwdefaults__ = function.__kwdefaults__
    return body


COMPOSITE: dict[Callable[..., Any], Callable[..., Any]] = {
    F.multi_head_attention_forward: _undispatched(F.multi_head_attention_forward),
}
"""Functions written in terms of others, opened so that the products inside are met one by one."""
