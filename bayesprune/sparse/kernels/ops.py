"""The custom op ``bayesprune::sparse_linear`` and its two gradients: what autograd and the compiler see of a product.

They take plain buffers, the format as it is written and the name of a kernel, so that a compiled or exported graph
holds one opaque call. A kernel that does not support the weight it meets (a dtype that ``.to`` brought in) gives way to
the reference.
"""

import warnings
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import FunctionCtx
from torch.library import Library

from bayesprune.sparse.activations import ACTIVATIONS
from bayesprune.sparse.formats import Operands, written
from bayesprune.sparse.kernels import KERNELS, Kernel
from bayesprune.sparse.kernels.base import weight_in

__all__ = [
    "check_operands",
    "chosen_kernel",
    "composite",
    "grad_before",
    "grads_of",
    "multiply",
    "reference_for",
    "refuse_second",
    "sparse_linear",
    "wants",
    "without_autocast",
]

_BUFFERS = "Tensor values, Tensor crow, Tensor col"
_LINEAR = (
    f"sparse_linear(Tensor x, {_BUFFERS}, Tensor? bias, Tensor? scale, SymInt out_features, SymInt in_features, "
    "str format, str kernel, str activation) -> Tensor"
)
_GRAD_X = (
    f"sparse_linear_grad_x(Tensor grad, {_BUFFERS}, Tensor? scale, SymInt in_features, str format, str kernel) "
    "-> Tensor"
)
_GRAD_VALUES = f"sparse_linear_grad_values(Tensor grad, Tensor x, {_BUFFERS}, str format, str kernel) -> Tensor"


def check_operands(x: Tensor, weight: Operands) -> None:
    """Raise ``ValueError`` unless dtypes and devices go together."""
    values, bias = weight.values, weight.bias
    own = x.dtype if x.is_floating_point() else torch.float32  # integers with a scale take any
    wanted = values.dtype if values.is_floating_point() else own
    for what, tensor in (("x", x), ("bias", bias)):
        if tensor is not None and (tensor.dtype != wanted or tensor.device != values.device):
            raise ValueError(
                f"expected {what} in {wanted} on {values.device}, as the weight is, got {tensor.dtype} on "
                f"{tensor.device}; convert one of them with .to(...)"
            )


def chosen_kernel(kernel: str, activation: str) -> Kernel:
    """The kernel of that name. Raises ``ValueError`` where there is none, or no such activation."""
    chosen = KERNELS.get(kernel)
    if chosen is None:
        raise ValueError(f"no kernel is called {kernel!r}; there are {', '.join(KERNELS)}")
    if activation not in ACTIVATIONS:
        raise ValueError(f"activation is one of {', '.join(map(repr, ACTIVATIONS))}, got {activation!r}")
    return chosen


def reference_for(kernel: Kernel, weight: Operands, inputs: torch.dtype) -> Kernel:
    """The reference, for what ``kernel`` does not take; Python shows one warning of a kind."""
    reference = KERNELS["reference"]
    if kernel is reference:
        return reference
    values, block = weight.values, weight.format.block
    blocks = "{}×{} blocks of ".format(*block) if block else ""
    why = kernel.why_not(weight)
    warnings.warn(
        f"the kernel {kernel.name!r} does not take {blocks}{values.dtype} on {values.device} here, with x in {inputs}"
        f"{f' ({why})' if why else ''}: the reference runs, and is slow",
        stacklevel=2,
    )
    return reference


def without_autocast(x: Tensor) -> AbstractContextManager:
    """Autocast reaches into an op's implementation too: there the products keep the dtype that the fake promised."""
    device = x.device.type
    return torch.autocast(device, enabled=False) if torch.is_autocast_enabled(device) else nullcontext()


def multiply(x: Tensor, weight: Operands, kernel: str) -> Tensor:
    """What the op computes: ``activation(x @ weight.T * scale + bias)`` for x ``(*lead, in)``.

    Raises:
        ValueError: x does not fit the weight, or no such kernel or activation.
    """
    out_features, in_features = weight.shape
    if x.dim() == 0 or x.shape[-1] != in_features:
        raise ValueError(f"expected x with {in_features} features in its last dimension, got shape {tuple(x.shape)}")
    check_operands(x, weight)
    chosen = chosen_kernel(kernel, weight.activation)
    if not chosen.takes(weight, x.dtype):
        chosen = reference_for(chosen, weight, x.dtype)
    if x.dim() == 2 and x.shape[0]:
        return chosen.run_fused(x, weight)
    lead = x.shape[:-1]
    tokens = x.reshape(-1, in_features) if in_features else x.new_zeros(lead.numel(), 0)
    if not tokens.shape[0]:
        return x.new_empty((*lead, out_features))
    return chosen.run_fused(tokens, weight).reshape(*lead, out_features)


def _linear(
    x: Tensor,
    values: Tensor,
    crow: Tensor,
    col: Tensor,
    bias: Tensor | None,
    scale: Tensor | None,
    out_features: int,
    in_features: int,
    form: str,
    kernel: str,
    activation: str,
) -> Tensor:
    with without_autocast(x):
        shape = (out_features, in_features)
        return multiply(x, Operands(values, crow, col, bias, scale, shape, activation, written(form)), kernel)


def _fake_linear(x, values, crow, col, bias, scale, out_features, *rest):  # type: ignore[no-untyped-def]
    return x.new_empty((*x.shape[:-1], out_features))


def _by_token(x: Tensor) -> Tensor:
    return x.reshape(x.shape[:-1].numel(), x.shape[-1])


def _grad_x(
    grad: Tensor,
    values: Tensor,
    crow: Tensor,
    col: Tensor,
    scale: Tensor | None,
    in_features: int,
    form: str,
    kernel: str,
) -> Tensor:
    weight = Operands(values, crow, col, None, scale, (grad.shape[-1], in_features), "", written(form))
    with without_autocast(grad):
        into = chosen_kernel(kernel, "").grad_x(_by_token(grad), weight)
        return into.reshape(*grad.shape[:-1], in_features)


def _grad_values(grad: Tensor, x: Tensor, values: Tensor, crow: Tensor, col: Tensor, form: str, kernel: str) -> Tensor:
    weight = Operands(values, crow, col, None, None, (grad.shape[-1], x.shape[-1]), "", written(form))
    with without_autocast(grad):
        return chosen_kernel(kernel, "").grad_values(_by_token(grad), _by_token(x), weight)


def _remember(ctx: FunctionCtx, inputs: tuple, output: Tensor) -> None:
    x, values, crow, col, bias, scale, *rest = inputs
    wants_values = values.requires_grad  # else x need not be kept alive
    kept = x if wants_values or rest[-1] else None
    ctx.save_for_backward(kept, values, crow, col, bias, scale)  # type: ignore[arg-type]
    ctx.rest = rest  # type: ignore[attr-defined]


def grad_before(activation: str, before: Tensor, grad: Tensor) -> Tensor:
    """The gradient of what went into the activation, from that of what came out."""
    before = before.detach()
    with torch.enable_grad():
        before.requires_grad_()
        return torch.autograd.grad(ACTIVATIONS[activation](before), before, grad)[0]


def refuse_second(ctx: FunctionCtx, *grads: Tensor) -> None:
    """Backward pass of a gradient op, which a layer never calls where derivatives of it are wanted."""
    raise NotImplementedError("the gradient ops of a sparse layer have no derivatives: differentiate the layer twice")


def wants(ctx: Any) -> tuple[bool, bool, bool]:
    """Whether gradients of x, the values and the bias are wanted of a backward pass."""
    x, values, _, _, bias, *_ = ctx.needs_input_grad
    return x, values, bias


def composite(x: Tensor, weight: Operands) -> Tensor:
    """The same product by torch's own dense operators, which every transform and every derivative sees through."""
    check_operands(x, weight)
    dense = weight_in(x.dtype, weight)
    if weight.scale is not None:
        dense = dense * weight.scale.to(x.dtype)[:, None]
    return ACTIVATIONS[weight.activation](F.linear(x, dense, weight.bias))


def grads_of(
    function: Callable[..., Tensor], given: tuple[Tensor | None, ...], wanted: tuple[bool, ...], grad: Tensor
) -> list[Tensor | None]:
    """The gradients of the wanted arguments of ``function(*given)``, from that of its result; differentiable again.

    An argument that was worked out of another one counts as itself alone.
    """
    own = [t.view_as(t) if t is not None and want else t for t, want in zip(given, wanted, strict=True)]
    needed = [t for t, want in zip(own, wanted, strict=True) if t is not None and want]
    found = iter(torch.autograd.grad(function(*own), needed, grad, create_graph=True))
    return [next(found) if want else None for want in wanted]


def _differentiable(ctx, grad):  # type: ignore[no-untyped-def]
    """The backward pass where a derivative of it may be wanted."""
    x, values, crow, col, bias, scale = ctx.saved_tensors
    *shape, form, _, activation = ctx.rest
    if x is None:  # nothing but the gradient of x is wanted, which x plays no part in
        x = grad.new_zeros((*grad.shape[:-1], shape[1]), requires_grad=True)
    with without_autocast(grad):
        into_x, into_values, into_bias = grads_of(
            lambda x, values, bias: composite(
                x, Operands(values, crow, col, bias, scale, tuple(shape), activation, written(form))
            ),
            (x, values, bias),
            wants(ctx),
            grad,
        )
    return into_x, into_values, None, None, into_bias, *[None] * 6


def _backward(ctx, grad):  # type: ignore[no-untyped-def]
    if torch.is_grad_enabled():
        return _differentiable(ctx, grad)
    x, values, crow, col, bias, scale = ctx.saved_tensors
    out_features, in_features, form, kernel, activation = ctx.rest
    wants_x, wants_values, wants_bias = wants(ctx)
    ops = torch.ops.bayesprune
    if activation:  # what went into it is worked out anew, which costs less than keeping it
        sizes = (out_features, in_features, form, kernel)
        before = ops.sparse_linear(x, values.detach(), crow, col, bias, scale, *sizes, "")
        grad = grad_before(activation, before, grad)
    into_x = into_values = None
    if wants_x:
        into_x = ops.sparse_linear_grad_x(grad, values, crow, col, scale, in_features, form, kernel)
    if wants_values:
        into_values = ops.sparse_linear_grad_values(grad, x, values, crow, col, form, kernel)
    into_bias = grad.reshape(-1, grad.shape[-1]).sum(0) if wants_bias else None
    return into_x, into_values, None, None, into_bias, *[None] * 6


_library = Library("bayesprune", "FRAGMENT")
for _schema, _body in ((_LINEAR, _linear), (_GRAD_X, _grad_x), (_GRAD_VALUES, _grad_values)):
    _library.define(_schema)
    _library.impl(_schema.partition("(")[0], _body, "CompositeExplicitAutograd")
torch.library.register_fake("bayesprune::sparse_linear", _fake_linear, lib=_library)
torch.library.register_fake(
    "bayesprune::sparse_linear_grad_x",
    lambda grad, values, crow, col, scale, n, *rest: grad.new_empty((*grad.shape[:-1], n)),
    lib=_library,
)
torch.library.register_fake(
    "bayesprune::sparse_linear_grad_values",
    lambda grad, x, values, *rest: values.new_empty(values.shape),
    lib=_library,
)
torch.library.register_autograd("bayesprune::sparse_linear", _backward, setup_context=_remember, lib=_library)
for _gradient in ("grad_x", "grad_values"):
    torch.library.register_autograd(f"bayesprune::sparse_linear_{_gradient}", refuse_second, lib=_library)
sparse_linear = torch.ops.bayesprune.sparse_linear.default
