"""The custom op of a sparse convolution, ``bayesprune::sparse_conv2d``: what autograd and torch.compile see."""

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import FunctionCtx
from torch.library import Library

from bayesprune.sparse.activations import ACTIVATIONS
from bayesprune.sparse.buffers.geometry import Geometry, conv_weight, plainly_strided
from bayesprune.sparse.formats import Operands, written
from bayesprune.sparse.kernels.base import weight_in
from bayesprune.sparse.kernels.ops import (
    check_operands,
    chosen_kernel,
    grad_before,
    grads_of,
    reference_for,
    refuse_second,
    wants,
    without_autocast,
)

__all__ = ["composite_conv", "convolve", "sparse_conv2d"]

_GEOMETRY = "int[] kernel_size, int[] stride, int[] padding, int[] dilation, int groups"
_CONV = (
    "sparse_conv2d(Tensor x, Tensor values, Tensor crow, Tensor col, Tensor? bias, Tensor? scale, "
    f"int out_channels, int in_channels, {_GEOMETRY}, str format, str kernel, str activation) -> Tensor"
)
_GRADS = (
    "sparse_conv2d_grads(Tensor grad, Tensor x, Tensor values, Tensor crow, Tensor col, Tensor? scale, "
    f"int out_channels, int in_channels, {_GEOMETRY}, str format, str kernel) -> (Tensor, Tensor)"
)


def _geometry(*sizes: list[int] | int) -> Geometry:
    kernel, stride, padding, dilation = [(size[0], size[1]) for size in sizes[:-1] if not isinstance(size, int)]
    groups = sizes[-1]
    assert isinstance(groups, int)
    return Geometry(kernel, stride, padding, dilation, groups)


def _matrix(out_channels: int, in_channels: int, geometry: Geometry) -> tuple[int, int]:
    return out_channels, geometry.kernel[0] * geometry.kernel[1] * in_channels // geometry.groups


def convolve(x: Tensor, weight: Operands, geometry: Geometry, kernel: str) -> Tensor:
    """What the op computes, for x ``(images, channels, rows, columns)`` or one image.

    Raises:
        ValueError: x does not fit the weight, or no such kernel or activation.
    """
    channels = weight.shape[1] // (geometry.kernel[0] * geometry.kernel[1])
    if x.dim() not in (3, 4) or x.shape[-3] != channels * geometry.groups:
        raise ValueError(
            f"expected x (images, {channels * geometry.groups}, rows, columns), or one image without the first, "
            f"got shape {tuple(x.shape)}"
        )
    check_operands(x, weight)
    chosen = chosen_kernel(kernel, weight.activation)
    if not chosen.takes_conv(weight, x.dtype, geometry):
        chosen = reference_for(chosen, weight, x.dtype)
    images = x if x.dim() == 4 else x[None]
    rows, columns = geometry.output(*images.shape[2:])
    if min(rows, columns) < 1:
        raise ValueError(f"an image of {tuple(images.shape[2:])} pixels is smaller than the kernel {geometry.kernel}")
    if not images.shape[0]:
        return x.new_empty(0, weight.shape[0], rows, columns)
    y = _laid(chosen.run_conv(images, weight, geometry))
    return y if x.dim() == 4 else y[0]


def _laid(y: Tensor) -> Tensor:
    """The result of a convolution as it is handed on: channels-last, but of one channel plainly strided."""
    if y.shape[-3] == 1:
        return plainly_strided(y)
    return y.contiguous(memory_format=torch.channels_last)


def _conv(
    x: Tensor,
    values: Tensor,
    crow: Tensor,
    col: Tensor,
    bias: Tensor | None,
    scale: Tensor | None,
    out_channels: int,
    in_channels: int,
    kernel_size: list[int],
    stride: list[int],
    padding: list[int],
    dilation: list[int],
    groups: int,
    form: str,
    kernel: str,
    activation: str,
) -> Tensor:
    geometry = _geometry(kernel_size, stride, padding, dilation, groups)
    shape = _matrix(out_channels, in_channels, geometry)
    with without_autocast(x):
        return convolve(x, Operands(values, crow, col, bias, scale, shape, activation, written(form)), geometry, kernel)


def _fake_conv(x, values, crow, col, bias, scale, out_channels, in_channels, *rest):  # type: ignore[no-untyped-def]
    geometry = _geometry(*rest[:5])
    y = x.new_empty((*x.shape[:-3], *geometry.output(*x.shape[-2:]), out_channels))
    return plainly_strided(y).view(*y.shape[:-3], 1, *y.shape[-3:-1]) if out_channels == 1 else y.movedim(-1, -3)


def _by_pixel(x: Tensor) -> Tensor:
    return x.movedim(-3, -1).reshape(-1, x.shape[-3])


def _grads(grad, x, values, crow, col, scale, out_channels, in_channels, *rest):  # type: ignore[no-untyped-def]
    *sizes, form, kernel = rest
    geometry = _geometry(*sizes)
    shape = _matrix(out_channels, in_channels, geometry)
    packed, chosen = Operands(values, crow, col, None, scale, shape, "", written(form)), chosen_kernel(kernel, "")
    with without_autocast(grad):
        if geometry.pointwise:
            into_x = chosen.grad_x(_by_pixel(grad), packed).view(*x.shape[:-3], *x.shape[-2:], in_channels)
            return into_x.movedim(-1, -3).contiguous(), chosen.grad_values(_by_pixel(grad), _by_pixel(x), packed)
        weight = conv_weight(weight_in(grad.dtype, packed), geometry)
        if scale is not None:
            weight = weight * scale.to(grad.dtype)[:, None, None, None]
        batched = (plainly_strided(t if t.dim() == 4 else t[None]) for t in (grad, x))
        g = geometry
        walk, both = (g.stride, g.padding, g.dilation, False, [0, 0], g.groups), [True, True, False]
        weight = plainly_strided(weight)
        into_x, into_weight, _ = torch.ops.aten.convolution_backward(*batched, weight, None, *walk, both)
        matrix = into_weight.permute(0, 2, 3, 1).reshape(shape)
        return into_x.reshape(x.shape), packed.format.gather(matrix, crow, col)


def _remember(ctx: FunctionCtx, inputs: tuple, output: Tensor) -> None:
    x, values, crow, col, bias, scale, *rest = inputs
    ctx.save_for_backward(x, values, crow, col, bias, scale)
    ctx.rest = rest  # type: ignore[attr-defined]


def composite_conv(x: Tensor, weight: Operands, geometry: Geometry) -> Tensor:
    """The same convolution by torch's own dense operators, which every transform and every derivative sees through."""
    dense = weight_in(x.dtype, weight)
    if weight.scale is not None:
        dense = dense * weight.scale.to(x.dtype)[:, None]
    g, dense = geometry, plainly_strided(conv_weight(dense, geometry))
    y = F.conv2d(plainly_strided(x), dense, weight.bias, g.stride, g.padding, g.dilation, g.groups)
    return ACTIVATIONS[weight.activation](y)


def _differentiable(ctx, grad):  # type: ignore[no-untyped-def]
    """The backward pass where a derivative of it may be wanted."""
    x, values, crow, col, bias, scale = ctx.saved_tensors
    out_channels, in_channels, *sizes, form, _, activation = ctx.rest
    geometry = _geometry(*sizes)
    shape = _matrix(out_channels, in_channels, geometry)
    with without_autocast(grad):
        into_x, into_values, into_bias = grads_of(
            lambda x, values, bias: composite_conv(
                x, Operands(values, crow, col, bias, scale, shape, activation, written(form)), geometry
            ),
            (x, values, bias),
            wants(ctx),
            grad,
        )
    return into_x, into_values, None, None, into_bias, *[None] * 11


def _backward(ctx, grad):  # type: ignore[no-untyped-def]
    if torch.is_grad_enabled():
        return _differentiable(ctx, grad)
    x, values, crow, col, bias, scale = ctx.saved_tensors
    *sizes, kernel, activation = ctx.rest
    wants_x, wants_values, wants_bias = wants(ctx)
    if activation:  # what went into it is worked out anew, which costs less than keeping it
        before = sparse_conv2d(x, values.detach(), crow, col, bias, scale, *sizes, kernel, "")
        grad = grad_before(activation, before, grad)
    into_x = into_values = None
    if wants_x or wants_values:
        into_x, into_values = torch.ops.bayesprune.sparse_conv2d_grads(
            grad, x, values, crow, col, scale, *sizes, kernel
        )
    into_bias = grad.sum([axis for axis in range(grad.dim()) if axis != grad.dim() - 3]) if wants_bias else None
    return into_x if wants_x else None, into_values if wants_values else None, None, None, into_bias, *[None] * 11


_library = Library("bayesprune", "FRAGMENT")
_library.define(_CONV)
_library.define(_GRADS)
_library.impl("sparse_conv2d", _conv, "CompositeExplicitAutograd")
_library.impl("sparse_conv2d_grads", _grads, "CompositeExplicitAutograd")
torch.library.register_fake("bayesprune::sparse_conv2d", _fake_conv, lib=_library)
torch.library.register_fake(
    "bayesprune::sparse_conv2d_grads",
    lambda grad, x, values, *rest: (x.new_empty(x.shape), values.new_empty(values.shape)),
    lib=_library,
)
torch.library.register_autograd("bayesprune::sparse_conv2d", _backward, setup_context=_remember, lib=_library)
torch.library.register_autograd("bayesprune::sparse_conv2d_grads", refuse_second, lib=_library)
sparse_conv2d = torch.ops.bayesprune.sparse_conv2d.default
