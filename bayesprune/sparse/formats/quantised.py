"""Values in 8 bits with a scale per output."""

import torch
from jaxtyping import Float, Int8
from torch import Tensor

__all__ = ["check_bits", "check_scale", "quantise", "scaled"]


def check_bits(bits: int | None) -> None:
    """Raise ``ValueError`` unless ``bits`` is 8 or None."""
    if bits not in (None, 8):
        raise ValueError(f"bits is 8 (integers with a scale per output) or None (the weight's own dtype), got {bits!r}")


def quantise(weight: Float[Tensor, "out in"]) -> tuple[Int8[Tensor, "out in"], Float[Tensor, " out"]]:
    """Integers q in −127…127 and the scales s with ``q * s[:, None]`` nearest to the weight; s is 1 for a row of zeros.

    >>> quantise(torch.tensor([[1.0, -127.0], [0.0, 0.0]]))
    (tensor([[   1, -127],
            [   0,    0]], dtype=torch.int8), tensor([1., 1.]))
    """
    largest = weight.abs().amax(1).float() if weight.shape[1] else weight.new_zeros(weight.shape[0])
    if not bool(torch.isfinite(largest).all()):
        raise ValueError("a weight of 8 bits is finite, this one holds NaN or infinity")
    scale = torch.where(largest > 0, largest / 127, 1.0)
    return (weight / scale[:, None]).round().clamp(-127, 127).to(torch.int8), scale


def scaled(dense: Tensor, scale: Tensor | None) -> Tensor:
    """The weight that the integers stand for."""
    return dense if scale is None else dense.to(scale.dtype) * scale[:, None]


def check_scale(values: Tensor, scale: Tensor | None, bits: int | None, rows: int) -> None:
    """Raise ``ValueError`` unless values and scale are what ``bits`` says."""
    if bits is None:
        if scale is not None or not values.is_floating_point():
            raise ValueError(f"expected floating-point values and no scale, got {values.dtype}")
        return
    if values.dtype != torch.int8 or scale is None:
        raise ValueError(
            f"8 bits are int8 values and a scale, got {values.dtype} {'without' if scale is None else 'and'} one"
        )
    if scale.shape != (rows,) or not scale.is_floating_point() or not bool((torch.isfinite(scale) & (scale > 0)).all()):
        raise ValueError(f"the scale is {rows} finite numbers above 0, one per output, got shape {tuple(scale.shape)}")
