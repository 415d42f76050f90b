"""Batch-norm folding: scale and shift per output worked into the packed layer before it."""

import torch
from torch import Tensor, nn

from bayesprune.sparse.layers.conv import SparseConv2d
from bayesprune.sparse.layers.linear import SparseLinear

__all__ = ["BatchNorm", "cannot_fold", "fold"]

BatchNorm = nn.BatchNorm1d | nn.BatchNorm2d


def cannot_fold(layer: nn.Module, norm: BatchNorm) -> str | None:
    """Why ``norm`` cannot be worked into the layer before it; None where it can, a linear one's results being rows."""
    kind = nn.BatchNorm2d if isinstance(layer, SparseConv2d | nn.Conv2d) else nn.BatchNorm1d
    if type(norm) is not kind:
        return f"is no {kind.__name__}"
    if norm.training or norm.running_mean is None or norm.running_var is None:
        return "takes statistics over the batch"
    return None


def _by_row(factor: Tensor, layer: SparseLinear) -> Tensor:
    """``factor``, one number an output, where each of the layer's values has it."""
    return layer.format.gather(factor[:, None].expand(-1, layer.in_features), layer.crow, layer.col)


def fold(layer: SparseLinear, norm: BatchNorm) -> None:
    """Make ``layer`` compute ``norm(layer(x))``: ``(W x + b − mean) · γ / √(var + eps) + β`` is one product again.

    In place of its values (or scale) and bias come new ones, within rounding.

    >>> from bayesprune.sparse import CSR
    >>> norm = nn.BatchNorm1d(2, eps=0.0).eval()
    >>> _ = norm.running_mean.fill_(3.0), norm.running_var.fill_(4.0)
    >>> layer = SparseLinear(CSR().pack(torch.eye(2), torch.eye(2, dtype=torch.bool)), torch.ones(2))
    >>> fold(layer, norm)
    >>> layer.values.tolist(), layer.bias.tolist()
    ([0.5, 0.5], [-1.0, -1.0])
    """
    mean, variance = norm.running_mean, norm.running_var
    assert mean is not None and variance is not None
    with torch.no_grad():
        factor = (variance.double() + norm.eps).rsqrt()
        factor = factor if norm.weight is None else factor * norm.weight.double()
        shift = -mean.double() if layer.bias is None else layer.bias.double() - mean.double()
        shift = shift * factor if norm.bias is None else shift * factor + norm.bias.double()
        values, scale = layer.values, layer.scale
        if scale is None:
            wide = torch.promote_types(values.dtype, torch.float32)
            folded = (values * _by_row(factor.to(wide), layer)).to(values.dtype)
        else:  # integers keep their size; a scale is above 0
            folded = values * _by_row(factor.sign(), layer).to(values.dtype)
            layer.scale = (scale.double() * torch.where(factor == 0, 1.0, factor.abs())).to(scale.dtype)
        dtype = layer.bias.dtype if layer.bias is not None else mean.dtype if scale is not None else values.dtype
    layer.output_scale = (
        factor.abs().float() if layer.output_scale is None else layer.output_scale * factor.abs().float()
    )
    if layer.variance is not None:
        layer.variance = layer.variance * _by_row((factor**2).to(layer.variance.dtype), layer)
    trained = values.requires_grad if layer.bias is None else layer.bias.requires_grad
    layer.values = nn.Parameter(folded, requires_grad=values.requires_grad)
    layer.bias = nn.Parameter(shift.to(dtype), requires_grad=trained)
