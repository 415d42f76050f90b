"""The custom ops ``bayesprune::csr_linear`` and ``bayesprune::bsr_linear``: what autograd and the compiler see.

Both take plain buffers and the name of a kernel, so that a compiled or exported graph holds one opaque call. A kernel
that does not support the values it meets (a dtype that ``.to`` brought in) gives way to the reference.
"""

from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor
from torch.autograd.function import FunctionCtx
from torch.library import Library

from bayesprune.sparse.kernels import KERNELS
from bayesprune.sparse.kernels.reference import dense_of, grad_values

__all__ = ["bsr_linear", "csr_linear"]

_LINEAR = (
    "(Tensor x, Tensor values, Tensor crow, Tensor col, Tensor? bias, "
    "SymInt out_features, SymInt in_features, str kernel) -> Tensor"
)
_GRAD_X = "(Tensor grad, Tensor values, Tensor crow, Tensor col, SymInt in_features) -> Tensor"
_GRAD_VALUES = "(Tensor grad, Tensor x, Tensor values, Tensor crow, Tensor col) -> Tensor"


def _check(x: Tensor, values: Tensor, bias: Tensor | None, in_features: int) -> None:
    if x.dim() == 0 or x.shape[-1] != in_features:
        raise ValueError(f"expected x with {in_features} features in its last dimension, got shape {tuple(x.shape)}")
    for what, tensor in (("x", x), ("bias", bias)):
        if tensor is not None and (tensor.dtype != values.dtype or tensor.device != values.device):
            raise ValueError(
                f"expected {what} in the weight's {values.dtype} on {values.device}, got {tensor.dtype} on "
                f"{tensor.device}; convert one of them with .to(...)"
            )


def _without_autocast(x: Tensor) -> AbstractContextManager:
    """Autocast reaches into an op's implementation too: there the products keep the dtype that the fake promised."""
    device = x.device.type
    return torch.autocast(device, enabled=False) if torch.is_autocast_enabled(device) else nullcontext()


def _linear(
    x: Tensor,
    values: Tensor,
    crow: Tensor,
    col: Tensor,
    bias: Tensor | None,
    out_features: int,
    in_features: int,
    kernel: str,
) -> Tensor:
    _check(x, values, bias, in_features)
    shape = (out_features, in_features)
    chosen = KERNELS.get(kernel)
    if chosen is None:
        raise ValueError(f"no kernel is called {kernel!r}; there are {', '.join(KERNELS)}")
    if not chosen.supports(values, shape):
        chosen = KERNELS["reference"]
    lead = x.shape[:-1]
    tokens = x.reshape(-1, in_features) if in_features else x.new_zeros(lead.numel(), 0)
    if not tokens.shape[0]:
        return x.new_empty((*lead, out_features))
    with _without_autocast(x):
        return chosen.run(tokens, values, crow, col, bias, shape).reshape(*lead, out_features)


def _fake_linear(
    x: Tensor,
    values: Tensor,
    crow: Tensor,
    col: Tensor,
    bias: Tensor | None,
    out_features: int,
    in_features: int,
    kernel: str,
) -> Tensor:
    return x.new_empty((*x.shape[:-1], out_features))


def _grad_x(grad: Tensor, values: Tensor, crow: Tensor, col: Tensor, in_features: int) -> Tensor:
    with _without_autocast(grad):
        return grad @ dense_of(values, crow, col, (grad.shape[-1], in_features))


def _grad_values(grad: Tensor, x: Tensor, values: Tensor, crow: Tensor, col: Tensor) -> Tensor:
    with _without_autocast(grad):
        return grad_values(grad.reshape(-1, grad.shape[-1]), x.reshape(-1, x.shape[-1]), values, crow, col)


def _remember(ctx: FunctionCtx, inputs: tuple, output: Tensor) -> None:
    x, values, crow, col, bias, _, in_features, _ = inputs
    wants_values = values.requires_grad  # else x need not be kept alive
    ctx.save_for_backward(x if wants_values else None, values, crow, col)  # type: ignore[arg-type]
    ctx.in_features, ctx.has_bias = in_features, bias is not None  # type: ignore[attr-defined]


def _no_second(ctx: FunctionCtx, *grads: Tensor) -> None:
    raise NotImplementedError(
        "a sparse linear layer has first derivatives only; for second derivatives use the masked dense net"
    )


_library = Library("bayesprune", "FRAGMENT")


def _define(name: str) -> None:
    def backward(ctx, grad):  # type: ignore[no-untyped-def]
        x, values, crow, col = ctx.saved_tensors
        wants_x, wants_values, _, _, wants_bias, *_ = ctx.needs_input_grad
        ops = torch.ops.bayesprune
        into_x = getattr(ops, f"{name}_grad_x")(grad, values, crow, col, ctx.in_features) if wants_x else None
        into_values = getattr(ops, f"{name}_grad_values")(grad, x, values, crow, col) if wants_values else None
        into_bias = grad.reshape(-1, grad.shape[-1]).sum(0) if ctx.has_bias and wants_bias else None
        return into_x, into_values, None, None, into_bias, None, None, None

    _library.define(name + _LINEAR)
    _library.define(f"{name}_grad_x" + _GRAD_X)
    _library.define(f"{name}_grad_values" + _GRAD_VALUES)
    _library.impl(name, _linear, "CompositeExplicitAutograd")
    _library.impl(f"{name}_grad_x", _grad_x, "CompositeExplicitAutograd")
    _library.impl(f"{name}_grad_values", _grad_values, "CompositeExplicitAutograd")
    own = f"bayesprune::{name}"
    torch.library.register_fake(own, _fake_linear, lib=_library)
    torch.library.register_fake(
        f"{own}_grad_x", lambda grad, values, crow, col, n: grad.new_empty((*grad.shape[:-1], n)), lib=_library
    )
    torch.library.register_fake(
        f"{own}_grad_values", lambda grad, x, values, crow, col: values.new_empty(values.shape), lib=_library
    )
    torch.library.register_autograd(own, backward, setup_context=_remember, lib=_library)
    for gradient in ("grad_x", "grad_values"):
        torch.library.register_autograd(f"{own}_{gradient}", _no_second, lib=_library)


_define("csr_linear")
_define("bsr_linear")
csr_linear = torch.ops.bayesprune.csr_linear.default
bsr_linear = torch.ops.bayesprune.bsr_linear.default
