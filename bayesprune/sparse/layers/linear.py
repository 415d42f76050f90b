"""A linear layer with a packed weight."""

import torch
from torch import Tensor, nn

from bayesprune.sparse.formats import Format, Operands, SparseWeight
from bayesprune.sparse.kernels.dispatch import transformed, unwatched
from bayesprune.sparse.kernels.ops import composite, multiply, sparse_linear

__all__ = ["SparseLinear"]


class SparseLinear(nn.Module):
    """``nn.Linear`` with a packed weight, as :func:`bayesprune.sparse.export` puts it into a net.

    ``values`` and ``bias`` are ordinary strided Parameters: an optimiser finds them, so that fine-tuning runs on the
    kept entries alone, and ``deepcopy``, ``.to(...)`` and ``torch.export`` meet nothing unusual, as they would with a
    sparse-layout tensor. The indices ``crow`` and ``col`` are int32 buffers, which ``.to(dtype)`` leaves alone.
    ``kernel`` names what multiplies; where it does not support the values' dtype or device, the reference does.
    Under autocast it computes in the values' dtype.

    Args:
        packed: the weight, ``(out, in)``.
        bias: ``(out,)`` or None.
        kernel: a name from ``bayesprune.sparse.kernels.KERNELS``.
        activation: applied to the result: a name from ``bayesprune.sparse.activations.ACTIVATIONS``, ``""`` for none.

    >>> from bayesprune.sparse import CSR
    >>> packed = CSR().pack(torch.eye(3), torch.eye(3, dtype=torch.bool))
    >>> SparseLinear(packed, None)(torch.tensor([1.0, 2.0, 3.0]))
    tensor([1., 2., 3.], grad_fn=...)
    """

    scale: Tensor | None
    variance: Tensor | None  # of the posterior of each value, from the export until the layer is saved
    output_scale: Tensor | None = (
        None  # by what a batch normalisation that was worked in has scaled the weight, by output
    )

    def __init__(
        self, packed: SparseWeight, bias: Tensor | None, kernel: str = "reference", activation: str = ""
    ) -> None:
        super().__init__()
        self.out_features, self.in_features = packed.shape
        self.format: Format = packed.format
        self._written = str(packed.format)  # as the op takes it
        self.kernel, self.activation = kernel, activation
        self.values = nn.Parameter(packed.values.detach(), requires_grad=packed.values.is_floating_point())
        self.crow: Tensor
        self.col: Tensor
        self.register_buffer("crow", packed.crow)
        self.register_buffer("col", packed.col)
        self.register_buffer("scale", packed.scale)
        self.register_buffer("variance", None, persistent=False)
        if bias is None or isinstance(bias, nn.Parameter):
            self.register_parameter("bias", bias)
        else:
            self.bias = nn.Parameter(bias.detach())

    @property
    def sparse_weight(self) -> SparseWeight:
        """The packed weight over the layer's own memory."""
        shape = (self.out_features, self.in_features)
        return SparseWeight(self.format, shape, self.values, self.crow, self.col, self.scale)

    @property
    def weight(self) -> Tensor:
        """A dense copy ``(out, in)``, for code that reads ``layer.weight``; writing to it changes nothing here."""
        return self.sparse_weight.dense()

    def as_matrix(self, x: Tensor) -> Tensor:
        """``x``, of the shape of ``weight``, as the matrix ``(out, in)`` that is packed."""
        return x

    def carry_variance(self, variance: Tensor) -> None:
        """Keep ``variance``, one number for each entry of the matrix ``(out, in)`` as it was packed, of each value."""
        variance = variance.to(self.values.device)
        if self.output_scale is not None:
            variance = variance * self.output_scale[:, None] ** 2
        self.variance = self.format.gather(variance, self.crow, self.col)

    def forward(self, x: Tensor) -> Tensor:
        """``x`` is ``(*lead, in)``; returns ``(*lead, out)``."""
        if self.format.is_dense:
            return self.sparse_weight.linear(self._cast(x), self.bias, self.kernel, self.activation)
        if type(self) is SparseLinear and unwatched(x, self._parameters.get("values")):
            return multiply(x, self._operands(), self.kernel)
        if transformed():
            return composite(self._cast(x), self._operands())
        return sparse_linear(
            *(self._cast(x), self.values, self.crow, self.col, self.bias, self.scale),
            *(self.out_features, self.in_features, self._written, self.kernel, self.activation),
        )

    def _operands(self) -> Operands:
        """The layer's own tensors, read where ``nn.Module`` keeps them, which is quicker than by attribute."""
        shape = self.out_features, self.in_features
        own, buffers = self._parameters, self._buffers
        values, crow, col = own["values"], buffers["crow"], buffers["col"]
        assert values is not None and crow is not None and col is not None
        return Operands(values, crow, col, own["bias"], buffers["scale"], shape, self.activation, self.format)

    def _cast(self, x: Tensor) -> Tensor:
        """Under autocast, ``x`` in the dtype of the values, unless these are integers with a scale."""
        own = self.values.dtype if self.scale is None else x.dtype
        wanted = x.dtype != own and not x.is_meta and torch.is_autocast_enabled(x.device.type)
        return x.to(own) if wanted else x

    def extra_repr(self) -> str:
        return (
            f"in_features={self.in_features}, out_features={self.out_features}, bias={self.bias is not None}, "
            f"format={self.format}, kernel={self.kernel!r}, stored={self.values.numel()}"
            + (f", activation={self.activation!r}" if self.activation else "")
        )

    def _load_from_state_dict(self, state_dict, prefix, local_metadata, strict, missing, unexpected, errors):  # type: ignore[no-untyped-def]
        """As usual, but indices that point outside the weight are refused before they are copied."""
        values, crow, col = new = [
            state_dict.get(prefix + name, getattr(self, name)) for name in ("values", "crow", "col")
        ]
        if all(a.shape == b.shape for a, b in zip(new, (self.values, self.crow, self.col), strict=True)):
            try:
                scale = None if self.scale is None else state_dict.get(prefix + "scale", self.scale)
                shape = (self.out_features, self.in_features)
                self.format.check(SparseWeight(self.format, shape, values, crow, col, scale))
            except ValueError as error:
                errors.append(f"{prefix.rstrip('.')}: {error}")
                return
        super()._load_from_state_dict(state_dict, prefix, local_metadata, strict, missing, unexpected, errors)
