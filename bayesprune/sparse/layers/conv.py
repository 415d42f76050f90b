"""A 2d convolution with a packed weight."""

import torch
from torch import Tensor, nn

from bayesprune.sparse.buffers.geometry import Geometry, conv_weight
from bayesprune.sparse.formats import SparseWeight
from bayesprune.sparse.kernels.conv_op import composite_conv, convolve, sparse_conv2d
from bayesprune.sparse.kernels.dispatch import transformed, unwatched
from bayesprune.sparse.layers.linear import SparseLinear

__all__ = ["SparseConv2d", "channels_last"]


class SparseConv2d(SparseLinear):
    """``nn.Conv2d`` with a packed weight, as :func:`bayesprune.sparse.export` puts it into a net.

    The packed weight is a matrix ``(out_channels, kernel rows · kernel columns · channels a group)``, the channels
    fastest; a block lies at one kernel position. All else is as in :class:`SparseLinear`. The result is channels-last;
    with ``contiguous`` it lies as torch's do by default, for a net that takes a view of it which needs that.

    Args:
        packed: the matrix.
        bias: ``(out_channels,)`` or None.
        geometry: kernel, stride, padding, dilation and groups.
        kernel: a name from ``bayesprune.sparse.kernels.KERNELS``.
        activation: see :class:`SparseLinear`.
        contiguous: whether the result is.

    >>> import torch
    >>> from bayesprune.sparse import BSR
    >>> packed = BSR(4, 2).pack(torch.ones(4, 18), torch.ones(4, 18, dtype=torch.bool))
    >>> SparseConv2d(packed, None, Geometry((3, 3)))(torch.ones(1, 2, 5, 4)).shape
    torch.Size([1, 4, 3, 2])
    """

    def __init__(
        self,
        packed: SparseWeight,
        bias: Tensor | None,
        geometry: Geometry,
        kernel: str = "reference",
        activation: str = "",
        contiguous: bool = False,
    ) -> None:
        super().__init__(packed, bias, kernel, activation)
        self.geometry, self.contiguous = geometry, contiguous
        self.out_channels = packed.shape[0]
        rows, columns = geometry.kernel
        self.in_channels = packed.shape[1] // (rows * columns) * geometry.groups

    @property
    def weight(self) -> Tensor:
        """A dense copy ``(out_channels, channels a group, rows, columns)``."""
        return conv_weight(self.sparse_weight.dense(), self.geometry)

    def as_matrix(self, x: Tensor) -> Tensor:
        return x.permute(0, 2, 3, 1).reshape(x.shape[0], -1)

    @property
    def groups(self) -> int:
        """As of ``nn.Conv2d``."""
        return self.geometry.groups

    def forward(self, input: Tensor) -> Tensor:
        """``input``, named as torch's: ``(images, in_channels, rows, columns)`` or one image; the result likewise."""
        y = self._convolved(input)
        return y.contiguous() if self.contiguous else y

    def _convolved(self, input: Tensor) -> Tensor:
        g = self.geometry
        if type(self) is SparseConv2d and unwatched(input, self._parameters.get("values")):
            return convolve(input, self._operands(), g, self.kernel)
        if transformed():
            return composite_conv(self._cast(input), self._operands(), g)
        return sparse_conv2d(
            *(self._cast(input), self.values, self.crow, self.col, self.bias, self.scale),
            *(self.out_channels, self.in_channels),
            *(list(size) for size in (g.kernel, g.stride, g.padding, g.dilation)),
            *(g.groups, self._written, self.kernel, self.activation),
        )

    def extra_repr(self) -> str:
        told = f"{self.in_channels}, {self.out_channels}, {self.geometry}, {super().extra_repr()}"
        return f"{told}, contiguous=True" if self.contiguous else told


def channels_last(net: nn.Module, *, off: bool = False) -> nn.Module:
    """``net`` with the weights of its dense convolutions channels-last, so that what they give is; in place.

    Those of one channel stay: their strides would be those of both layouts, which torch 2.13 mixes up in rare shapes.
    With ``off`` they are laid out again as torch does.
    """
    wanted = torch.contiguous_format if off else torch.channels_last
    for x in (*net.parameters(), *net.buffers()):
        if x.dim() == 4 and x.shape[1] > 1:
            x.data = x.data.contiguous(memory_format=wanted)
    return net
