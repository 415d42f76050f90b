"""Candidates of a plan: each format that a mask fills, with each kernel that takes it."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn

from bayesprune.sparse.formats import CSR, Format, SemiStructured
from bayesprune.sparse.formats.block_shapes import GPU_HEIGHTS, HEIGHTS, block_shapes
from bayesprune.sparse.kernels import KERNELS
from bayesprune.sparse.layers.linear import SparseLinear
from bayesprune.sparse.surgery.eligibility import conv_geometry, packed_layer

__all__ = ["Piece", "formats_of", "packed_layers", "runner"]


@dataclass(frozen=True)
class Piece:
    """A layer of the net, its weight and mask as matrices, and the shape of its input on the example.

    A masked weight is one piece, or several that lie one below the other in it.
    """

    layer: nn.Module
    weight: Tensor
    mask: Tensor
    called: torch.Size

    def input(self) -> Tensor:
        """A random input of that shape."""
        generator = torch.Generator().manual_seed(0)
        x = torch.randn(self.called, generator=generator).to(self.weight.device, self.weight.dtype)
        if conv_geometry(self.layer) is not None and x.dim() == 4:
            x = x.contiguous(memory_format=torch.channels_last)  # as the layer before hands it on, packed or not
        return x


def formats_of(layer: nn.Module, mask: Tensor) -> list[Format]:
    """What the mask of a weight, as a matrix, can be packed as: single entries only where it fills no block.

    On a GPU blocks are as high as its kernels want them, and two of four inputs are a choice too.
    """
    heights = GPU_HEIGHTS if mask.is_cuda else HEIGHTS
    if not isinstance(layer, nn.Conv2d):
        two_of_four = [SemiStructured()] if mask.is_cuda and SemiStructured().refusal(mask) is None else []
        blocks: list[Format] = [*block_shapes(mask, heights=heights)]
        return [*(blocks or [CSR()]), *two_of_four]
    channels, outputs = layer.in_channels // layer.groups, layer.out_channels // layer.groups
    return [*block_shapes(mask, fits=lambda h, w: channels % w == 0 and outputs % h == 0, heights=heights)]


def _layers(piece: Piece, formats: Sequence[Format]) -> dict[str, SparseLinear]:
    layers = {}
    geometry, dtype = conv_geometry(piece.layer), piece.weight.dtype
    for form in formats:
        if form.refusal(piece.mask) is not None:
            continue
        packed = form.pack(piece.weight, piece.mask)
        if geometry is None:
            kernels = [k for k in KERNELS.values() if k.takes(packed, dtype)]
        else:
            kernels = [k for k in KERNELS.values() if k.takes_conv(packed, dtype, geometry)]
        for kernel in [k for k in kernels if not k.fallback] or kernels:
            layers[f"{form} {kernel.name}"] = packed_layer(piece.layer, packed, kernel.name)
    return layers


def packed_layers(
    pieces: Sequence[Piece], forced: Format | None, bits: int | None = None
) -> dict[str, list[SparseLinear]]:
    """For each format and each kernel that takes it, by label: a packed layer for each piece.

    With ``bits``, in place of the mask's own formats these with integers of so many; ``forced`` stays as it is.
    """
    found = [form for piece in pieces for form in formats_of(piece.layer, piece.mask)]
    if bits is not None:
        found = [form.in_bits(bits) for form in found if form.quantisable]
    formats = [forced] if forced else list(dict.fromkeys(found))
    each = [_layers(piece, [form for form in formats if not form.is_dense]) for piece in pieces]
    return {label: [layers[label] for layers in each] for label in each[0] if all(label in layers for layers in each)}


def _run(layers: Sequence[nn.Module], inputs: Sequence[Tensor]) -> None:
    for layer, x in zip(layers, inputs, strict=True):
        layer(x)


def runner(layers: Sequence[nn.Module], inputs: Sequence[Tensor]) -> Callable[[], object]:
    """The call of each layer on its input, as one."""
    return partial(layers[0], inputs[0]) if len(layers) == 1 else partial(_run, layers, inputs)
