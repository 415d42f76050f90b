"""Quantised values: 8 or 4 bits with a scale per output."""

from collections.abc import Iterable, Mapping
from typing import TypeAlias

import torch
from jaxtyping import Bool, Float, Int8
from torch import Tensor

__all__ = ["BITS", "Bits", "check_bits", "check_scale", "held_in", "precision", "quantise"]

BITS = (4, 8)
Bits: TypeAlias = int | Mapping[str, int | None] | None
_CLIPPED = [1 - i / 32 for i in range(24)]  # shares of a row's largest weight that the largest integer may stand for


def held_in(bits: Bits, names: Iterable[str]) -> dict[str, int | None]:
    """In how many bits each named weight is held: the least of 4 and 8 that is enough; None for its own dtype.

    Raises:
        ValueError: other bits than 4 and 8 for all, no positive integer for one, or a name that is not among these.

    >>> held_in({"a": 3, "b": 5, "c": 11}, "abcd")
    {'a': 4, 'b': 8, 'c': None, 'd': None}
    """
    names = list(names)
    if not isinstance(bits, Mapping):
        check_bits(bits)
        return dict.fromkeys(names, bits)
    for name, width in bits.items():
        if name not in names:
            raise ValueError(f"bits name {name!r}, which is no masked weight; they are {', '.join(names) or 'none'}")
        if width is not None and (not isinstance(width, int) or isinstance(width, bool) or width < 1):
            raise ValueError(f"bits[{name!r}] is an integer ≥ 1, or None for the weight's own dtype, got {width!r}")
    return {name: next((b for b in BITS if (bits.get(name) or b + 1) <= b), None) for name in names}


def check_bits(bits: int | None) -> None:
    """Raise ``ValueError`` unless ``bits`` is 8, 4 or None."""
    if bits is not None and (not isinstance(bits, int) or bits not in BITS):
        raise ValueError(
            f"bits is 8 or 4 (integers with a scale per output) or None (the weight's own dtype), got {bits!r}"
        )


def _largest(bits: int) -> int:
    return 2 ** (bits - 1) - 1


def precision(variance: Float[Tensor, "out in"] | None, mask: Bool[Tensor, "out in"]) -> Float[Tensor, "out in"] | None:
    """How much a rounding error of each kept weight counts: ``1 / (variance + the mean variance of what is kept)``.

    A posterior whose sd follows the weight's size would have the smallest weights alone decide; the mean keeps them
    from that. 0 where nothing is kept; all alike where no weight has a variance.

    >>> precision(torch.tensor([[1.0, 3.0, 9.0]]), torch.tensor([[True, True, False]]))
    tensor([[0.3333, 0.2000, 0.0000]])
    """
    if variance is None:
        return None
    variance = variance.to(torch.promote_types(variance.dtype, torch.float32))
    mean = torch.where(mask, variance, 0).sum() / mask.count_nonzero().clamp_min(1)
    return torch.where(mask, (variance + mean).reciprocal() if mean > 0 else torch.ones_like(variance), 0)


def quantise(
    weight: Float[Tensor, "out in"], bits: int = 8, importance: Float[Tensor, "out in"] | None = None
) -> tuple[Int8[Tensor, "out in"], Float[Tensor, " out"]]:
    """Integers q, −127…127 or −7…7, and scales s so that ``q * s[:, None]`` is near the weight; s is 1 for zeros.

    The largest integer stands for a row's largest weight. With ``importance``, ≥ 0, scales from there down to a quarter
    are tried, 24 a row, each made the best for its integers, and that with the least ``Σ importance · (weight − q s)²``
    is taken: what is larger than the largest integer then is cut off.

    >>> quantise(torch.tensor([[1.0, -127.0], [0.0, 0.0]]))
    (tensor([[   1, -127],
            [   0,    0]], dtype=torch.int8), tensor([1., 1.]))
    >>> quantise(torch.tensor([[7.0, 1.5, 3.0]]), 4, torch.tensor([[0.0, 1.0, 1.0]]))
    (tensor([[7, 2, 4]], dtype=torch.int8), tensor([0.7500]))
    """
    largest = weight.abs().amax(1).float() if weight.shape[1] else weight.new_zeros(weight.shape[0])
    if not bool(torch.isfinite(largest).all()):
        raise ValueError(f"a weight of {bits} bits is finite, this one holds NaN or infinity")
    most = _largest(bits)
    scale = torch.where(largest > 0, largest / most, 1.0)

    def rounded(scale: Tensor) -> Tensor:
        return (weight / scale[:, None]).round().clamp(-most, most)

    if importance is not None:
        first, least = scale, torch.full_like(scale, torch.inf)
        for share in _CLIPPED:
            tried = first * share
            whole = rounded(tried)
            square = (importance * whole.square()).sum(1)  # the best scale for these integers is by least squares
            tried = torch.where(square > 0, (importance * whole * weight).sum(1) / square, tried).float()
            error = ((weight - rounded(tried) * tried[:, None]).square() * importance).sum(1)
            better = error < least
            least, scale = torch.where(better, error, least), torch.where(better, tried, scale)
    return rounded(scale).to(torch.int8), scale


def check_scale(values: Tensor, scale: Tensor | None, bits: int | None, rows: int) -> None:
    """Raise ``ValueError`` unless values and scale are what ``bits`` says."""
    if bits is None:
        if scale is not None or not values.is_floating_point():
            raise ValueError(f"expected floating-point values and no scale, got {values.dtype}")
        return
    if values.dtype != torch.int8 or scale is None:
        raise ValueError(
            f"{bits} bits are int8 values and a scale, got {values.dtype} {'without' if scale is None else 'and'} one"
        )
    most = _largest(bits)
    if values.numel() and (int(values.min()) < -most or int(values.max()) > most):
        raise ValueError(
            f"{bits} bits are integers from −{most} to {most}, got {int(values.min())} to {int(values.max())}"
        )
    if scale.shape != (rows,) or not scale.is_floating_point() or not bool((torch.isfinite(scale) & (scale > 0)).all()):
        raise ValueError(f"the scale is {rows} finite numbers above 0, one per output, got shape {tuple(scale.shape)}")
