"""Functions on float32 registers that LLVM has no instruction for, and the emitter that has them."""

from llvmlite import ir

from bayesprune.sparse.native.emit import I32, Emitter, Value, vector

__all__ = ["Functions"]

# Rational functions z · P(z²)/Q(z²), fitted for this file on |z| ≤ the bound; beyond it the function is ±1 in float32.
_ERF = (
    4.0,
    (1.1283791, 0.2071348, 0.051526155, 0.0039910036, 0.00014729884, -1.9423967e-06, 1.9111273e-08),
    (1.0, 0.5168997, 0.117974706, 0.014958906, 0.0010212244),
)
_TANH = (
    9.0,
    (1.0, 0.1368085, 0.0038694998, 2.8031154e-05, 3.064218e-08, -1.2246014e-11),
    (1.0, 0.47014183, 0.027250126, 0.0003940699, 1.2890245e-06),
)
# exp(r) = 1 + r + r² · P(r) for |r| ≤ ½ ln 2: the coefficients of Cephes' expf
_EXP = (5.0000001201e-1, 1.6666665459e-1, 4.1665795894e-2, 8.3334519073e-3, 1.3981999507e-3, 1.9875691500e-4)
_LOG2_E = 1.4426950408889634
_LN2 = (0.693359375, -2.12194440e-4)  # in two parts, the first of few bits
_ROUND = 1.5 * 2**23  # added to a small number, it leaves it rounded in the lowest bits
_BIAS, _FRACTION = 127, 23  # of the exponent, and bits behind it


class Functions(Emitter):
    """An emitter with what activations are made of: see :class:`bayesprune.sparse.activations.Registers`."""

    def positive(self, x: Value) -> Value:
        """x where it is not below 0, else 0; NaN stays."""
        zero = self.number(x, 0.0)
        return self.b.select(self.b.fcmp_ordered("<", x, zero), zero, x)

    def erf(self, x: Value) -> Value:
        """The error function, within 5e-7."""
        return self._rational(x, *_ERF)

    def tanh(self, x: Value) -> Value:
        """The hyperbolic tangent, within 5e-7, and ±1 from ±9 on."""
        return self._rational(x, *_TANH)

    def exp(self, x: Value) -> Value:
        """e to the x: 2ᵏ · eʳ with a whole k. Infinity from 88.4 on, 1.2e-38 below −87.3."""
        x = self.within(x, -87.3, 89.0)
        shifted = self.fma(x, self.number(x, _LOG2_E), self.number(x, _ROUND))
        k = self.b.fsub(shifted, self.number(x, _ROUND))
        r = x
        for part in _LN2:
            r = self.fma(k, self.number(x, -part), r)
        series = self._polynomial(r, _EXP)
        power = self.plus(self.fma(self.times(r, r), series, r), self.number(x, 1.0))
        lanes = x.type.count if isinstance(x.type, ir.VectorType) else 1
        bits = self.b.bitcast(shifted, vector(I32, lanes))  # its lowest bits are k; what lies above is shifted out
        exponent = self.b.shl(self.b.add(bits, self.number(bits, _BIAS)), self.number(bits, _FRACTION))
        return self.times(power, self.b.bitcast(exponent, x.type))

    def _polynomial(self, x: Value, coefficients: tuple[float, ...]) -> Value:
        total = self.number(x, coefficients[-1])
        for c in coefficients[-2::-1]:
            total = self.fma(total, x, self.number(x, c))
        return total

    def _rational(self, x: Value, bound: float, above: tuple[float, ...], below: tuple[float, ...]) -> Value:
        z = self.within(x, -bound, bound)
        square = self.times(z, z)
        found = self.over(self.times(z, self._polynomial(square, above)), self._polynomial(square, below))
        for sign, end in (("<=", -1.0), (">=", 1.0)):  # at the bounds what is fitted is a rounding away from ±1
            beyond = self.b.fcmp_ordered(sign, x, self.number(x, end * bound))
            found = self.b.select(beyond, self.number(x, end), found)
        return found
