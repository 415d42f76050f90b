"""Compaction rules for operators that work along some axes (pooling, sums, sorting), each channel by itself."""

from typing import Any

import torch
from torch import fx

from bayesprune.sparse.compact.atoms import combine, core, relabel, tight, varies, varying
from bayesprune.sparse.compact.facts import Flow, Mix
from bayesprune.sparse.compact.graph import arguments, where
from bayesprune.sparse.compact.pointwise import pointwise
from bayesprune.sparse.compact.walk import Result, Value, Walk, rule

__all__ = ["reduced"]

aten = torch.ops.aten
# A channel that is one constant comes out as that constant; as 0, where it is 0; or as something else.
_KEEPS = (aten.mean, aten.amax, aten.amin, aten.max, aten.min, aten.median, aten.nanmedian, aten.mode, aten.kthvalue,
          aten.sort, aten.topk, aten.cummax, aten.cummin, aten.nanmean)  # fmt: skip
_ZERO = (aten.sum, aten.nansum, aten.cumsum, aten.cumprod, aten.prod, aten.var, aten.std, aten.norm, aten.tril,
         aten.triu, aten.linalg_vector_norm, aten.any, aten.all, aten.fft_fft, aten.fft_ifft, aten.fft_rfft,
         aten.fft_irfft, aten.fft_fft2, aten.fft_ifft2, aten.fft_rfft2, aten.fft_irfft2, aten.fft_fftn, aten.fft_ifftn,
         aten.fft_rfftn, aten.fft_irfftn, aten.fft_fftshift, aten.fft_ifftshift, aten._fft_c2c, aten._fft_r2c,
         aten._fft_c2r)  # fmt: skip
_CHANGES = (aten.logsumexp, aten.argmax, aten.argmin, aten.argsort, aten.logcumsumexp, aten.count_nonzero)
_TWO = (aten.fft_fft2, aten.fft_ifft2, aten.fft_rfft2, aten.fft_irfft2, aten.tril, aten.triu)  # the last axes


def reduced(
    walk: Walk, value: Value, axes: list[int], keeps: bool, zero: bool = True, linear: fx.Node | None = None
) -> Value:
    """One atom for all entries along ``axes``, in the shape of ``value``; it ``keeps`` constants, or ``zero`` alone.

    Where the operator is ``linear``, and the same for all channels, other constants become factors of what it makes.
    """
    first = value.labels
    for axis in axes:
        first = first.narrow(axis, 0, 1)
    index, (firsts,) = combine([tight(first)], walk.facts.atoms.count)
    place = index.expand(value.shape)
    if any(varies(value.labels, axis) for axis in axes):
        spots = varying(value.labels)
        pairs = torch.unique(core(place, spots) * walk.facts.atoms.count + core(value.labels, spots))
        index_of, atoms = pairs // walk.facts.atoms.count, pairs % walk.facts.atoms.count
    else:
        index_of, atoms = torch.arange(len(firsts)), firsts
    constant, shapes = walk.facts.atoms.shaped(index_of, atoms, len(firsts))
    fine = (shapes == 0) & keeps | (constant == 0) & zero
    if linear is None:
        constant, shapes = torch.where(fine, constant, torch.nan), torch.zeros_like(shapes)
    else:
        shapes = torch.where(fine | constant.isnan(), 0, walk.facts.atoms.after(linear, shapes))
    out = walk.facts.atoms.new(len(firsts), constant, shapes)
    walk.facts.tie(out[index_of], atoms)
    walk.facts.steps.append(Flow(out[index_of], atoms))
    return Value(tight(relabel(out, index).expand(value.shape)))


@rule(*_KEEPS, *_ZERO, *_CHANGES)
def along(walk: Walk, node: fx.Node) -> Result:
    """Reductions, sorting, transforms: along positions each channel by itself; along the channels they all stay."""
    packet = node.target.overloadpacket  # type: ignore[union-attr]
    given = arguments(node)
    value = walk.value(node.args[0])
    if walk.value(given.get("other")) is not None:
        return pointwise(walk, node)  # the larger of two
    if value is None:
        return walk.unknown(node)
    dims = value.labels.dim()
    told: Any = given.get("dim", given.get("dims"))
    default = [-2, -1] if packet in _TWO else range(dims)
    axes = sorted({axis % dims for axis in ([told] if isinstance(told, int) else told or default)}) if dims else []
    others = [axis for axis in range(dims) if axis not in axes]
    if any(varies(value.labels, axis) for axis in axes) and not any(varies(value.labels, axis) for axis in others):
        return walk.barrier(node, f"{packet.__name__} in {where(node) or 'the net'} is over the channels")
    return _made(walk, node, value, axes, packet in _KEEPS, packet not in _CHANGES)


def _made(
    walk: Walk, node: fx.Node, value: Value, axes: list[int], keeps: bool, zero: bool = True, linear: bool = False
) -> Result:
    """The operator's results, each channel by itself over ``axes``; integers beside a result tell places."""
    metas, found = node.meta["val"], []
    for i, meta in enumerate(metas if isinstance(metas, tuple | list) else [metas]):
        labels = reduced(walk, value, axes, keeps and not i, zero and not i, node if linear else None).labels
        for axis in reversed(axes):
            labels = labels.narrow(axis, 0, 1)
            labels = labels if meta.dim() == value.labels.dim() else labels.squeeze(axis)
        found.append(Value(labels.expand(meta.shape)))
    return found if isinstance(metas, tuple | list) else found[0]


@rule(aten.max_pool1d, aten.max_pool2d, aten.max_pool3d, aten.adaptive_avg_pool1d, aten.adaptive_avg_pool2d,
      aten.adaptive_avg_pool3d, aten.adaptive_max_pool1d, aten.adaptive_max_pool2d, aten.adaptive_max_pool3d,
      aten.max_pool1d_with_indices, aten.max_pool2d_with_indices, aten.max_pool3d_with_indices,
      aten.upsample_nearest1d, aten.upsample_nearest2d, aten.upsample_nearest3d, aten.upsample_linear1d,
      aten.upsample_bilinear2d, aten.upsample_trilinear3d, aten.upsample_bicubic2d, aten._upsample_nearest_exact1d,
      aten._upsample_nearest_exact2d, aten._upsample_nearest_exact3d, aten._upsample_bilinear2d_aa,
      aten._upsample_bicubic2d_aa, aten.reflection_pad1d, aten.reflection_pad2d, aten.reflection_pad3d,
      aten.replication_pad1d, aten.replication_pad2d, aten.replication_pad3d)  # fmt: skip
def resize(walk: Walk, node: fx.Node) -> Result:
    """Pooling and resizing that keep a constant channel constant."""
    return _positions(walk, node, keeps=True)


@rule(aten.avg_pool1d, aten.avg_pool2d, aten.avg_pool3d)
def avg_pool(walk: Walk, node: fx.Node) -> Result:
    """Average pooling: a mean over windows, into which the padding's zeros count."""
    given = arguments(node)
    padding: Any = given["padding"]
    padded = any(padding) if isinstance(padding, tuple | list) else bool(padding)
    keeps = given.get("divisor_override") is None and not (padded and given["count_include_pad"])
    return _positions(walk, node, keeps, linear=True)


def _positions(walk: Walk, node: fx.Node, keeps: bool, linear: bool = False) -> Result:
    """Each channel by itself, over all axes but the batch's and the channels'."""
    value, meta = walk.value(node.args[0]), node.meta["val"]
    assert value is not None
    shape = meta[0].shape if isinstance(meta, tuple | list) else meta.shape
    axes = [axis for axis in range(value.labels.dim()) if value.shape[axis] != shape[axis] or axis > 1]
    return _made(walk, node, value, axes, keeps, linear=linear)


@rule(aten.grid_sampler, aten.grid_sampler_2d, aten.grid_sampler_3d)
def grid_sample(walk: Walk, node: fx.Node) -> Result:
    """Reads each channel at places that are the same for all."""
    grid = walk.value(node.args[1])
    made = _positions(walk, node, keeps=False)
    assert grid is not None and isinstance(made, Value)
    walk.facts.pin(grid.atoms, f"grid_sample in {where(node) or 'the net'} takes places from it")
    walk.facts.steps.append(Mix(made.atoms, grid.atoms))
    return made


@rule(aten.bucketize.Tensor)
def bucketize(walk: Walk, node: fx.Node) -> Result:
    """Counts each entry among boundaries that are the same for all."""
    value, bounds = walk.value(node.args[0]), walk.value(node.args[1])
    if value is None or bounds is None:
        return walk.unknown(node)
    made = reduced(walk, value, [], keeps=False, zero=False)
    walk.facts.pin(bounds.atoms, f"bucketize in {where(node) or 'the net'} reads all of it")
    walk.facts.steps.append(Mix(made.atoms, bounds.atoms))
    return made


@rule(aten.im2col)
def unfold(walk: Walk, node: fx.Node) -> Result:
    """``F.unfold``: the windows of each channel, one below the other."""
    value, shape = walk.value(node.args[0]), node.meta["val"].shape
    if value is None or value.labels.dim() != 4:
        return walk.unknown(node)
    padded = any(arguments(node)["padding"])
    labels = reduced(walk, value, [2, 3], keeps=not padded).labels[:, :, 0, :1]
    return Value(tight(labels.repeat_interleave(shape[1] // labels.shape[1], 1).expand(shape)))


@rule(aten.col2im)
def fold(walk: Walk, node: fx.Node) -> Result:
    """``F.fold``: the windows of each channel summed where they overlap."""
    value, shape = walk.value(node.args[0]), node.meta["val"].shape
    if value is None or value.labels.dim() != 3:
        return walk.unknown(node)
    windows = Value(tight(value.labels.unflatten(1, (shape[1], -1))))
    labels = reduced(walk, windows, [2, 3], keeps=False).labels
    return Value(labels[:, :, :1, :1].expand(shape))


@rule(aten.view_as_complex)
def view_as_complex(walk: Walk, node: fx.Node) -> Result:
    """Real and imaginary parts go together."""
    value = walk.value(node.args[0])
    assert value is not None
    return Value(reduced(walk, value, [value.labels.dim() - 1], keeps=False).labels.select(-1, 0))


@rule(aten.view_as_real)
def view_as_real(walk: Walk, node: fx.Node) -> Result:
    """The two parts of each complex number, neither a constant but where it is 0."""
    value = walk.value(node.args[0])
    assert value is not None
    return Value(value.labels.unsqueeze(-1).expand(node.meta["val"].shape))
