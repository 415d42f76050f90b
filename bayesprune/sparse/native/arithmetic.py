"""Register arithmetic in LLVM IR: loads and stores of every dtype as float32, activations, transposes."""

from llvmlite import ir

from bayesprune.sparse.native.emit import BF16, F16, F32, I8, I16, I32, I64, PTR, Emitter, Value, vector

__all__ = ["ITEM", "activate", "itemsize", "looked_up", "narrow", "transpose", "widened"]

ITEM = {"f32": F32, "bf16": I16, "f16": F16, "i8": I8}  # bfloat16 is moved as its bits


def itemsize(dtype: str) -> int:
    """Bytes of one number."""
    return {"f32": 4, "bf16": 2, "f16": 2, "i8": 1}[dtype]


def widened(e: Emitter, pointer: Value, dtype: str, lanes: int) -> Value:
    """Load ``lanes`` numbers of ``dtype`` as float32."""
    raw = e.load(pointer, vector(ITEM[dtype], lanes), itemsize(dtype))
    if dtype == "f32":
        return raw
    to = vector(F32, lanes)
    if dtype == "f16":
        return e.b.fpext(raw, to)
    if dtype == "i8":
        return e.b.sitofp(raw, to)
    bits = e.b.zext(raw, vector(I32, lanes))
    shift = ir.Constant(vector(I32, lanes), [16] * lanes if lanes > 1 else 16)
    return e.b.bitcast(e.b.shl(bits, shift), to)


def looked_up(e: Emitter, pointer: Value) -> Value:
    """Load an 8-bit integer as float32 by way of a table: a conversion would take an arithmetic unit from the sums."""
    number = e.load(pointer, I8, 1)
    kind = ir.ArrayType(F32, 256)
    table = e.module.globals.get("numbers")
    if table is None:
        table = ir.GlobalVariable(e.module, kind, "numbers")
        table.initializer = ir.Constant(kind, [float(n) for n in range(-128, 128)])
        table.linkage, table.global_constant = "internal", True
    start = e.b.inttoptr(e.b.ptrtoint(table, I64), PTR)
    return e.load(e.at(start, e.add(e.b.sext(number, I64), 128), F32), F32, 4)


def narrow(e: Emitter, value: Value, dtype: str, has_bf16: bool) -> Value:
    """float32 to the dtype, rounded to nearest even, as it is stored.

    Where the processor has no bfloat16 (``has_bf16``), LLVM would call a function of the compiler's library, and there
    is none here: the bits are rounded as integers.
    """
    if dtype == "f32":
        return value
    lanes = value.type.count if isinstance(value.type, ir.VectorType) else 1
    if dtype == "f16":
        return e.b.fptrunc(value, vector(F16, lanes))
    if has_bf16:
        return e.b.bitcast(e.b.fptrunc(value, vector(BF16, lanes)), vector(I16, lanes))
    bits = e.b.bitcast(value, vector(I32, lanes))
    half, one, quiet, nearly = (_constant(bits.type, n) for n in (16, 1, 0x40, 0x7FFF))
    high = e.b.lshr(bits, half)
    rounded = e.b.lshr(e.b.add(bits, e.b.add(e.b.and_(high, one), nearly)), half)
    is_nan = e.b.fcmp_unordered("uno", value, value)
    return e.b.trunc(e.b.select(is_nan, e.b.or_(high, quiet), rounded), vector(I16, lanes))


def _constant(kind: ir.Type, value: float) -> Value:
    return ir.Constant(kind, [value] * kind.count if isinstance(kind, ir.VectorType) else value)


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


def _rational(e: Emitter, z: Value, bound: float, above: tuple[float, ...], below: tuple[float, ...]) -> Value:
    high, low = _constant(z.type, bound), _constant(z.type, -bound)
    z = e.b.select(e.b.fcmp_ordered(">", z, high), high, z)
    z = e.b.select(e.b.fcmp_ordered("<", z, low), low, z)
    u = e.b.fmul(z, z)
    sums = []
    for coefficients in (above, below):
        total = _constant(z.type, coefficients[-1])
        for c in coefficients[-2::-1]:
            total = e.fma(total, u, _constant(z.type, c))
        sums.append(total)
    return e.b.fdiv(e.b.fmul(z, sums[0]), sums[1])


def activate(e: Emitter, value: Value, activation: str) -> Value:
    """The activation, elementwise on float32; both forms of GELU within 5e-7 · |value|."""
    one, half = _constant(value.type, 1.0), _constant(value.type, 0.5)
    if activation == "relu":
        zero = _constant(value.type, 0.0)
        return e.b.select(e.b.fcmp_ordered("<", value, zero), zero, value)  # NaN stays NaN
    if activation == "gelu":
        z = e.b.fmul(value, _constant(value.type, 0.5**0.5))
        return e.b.fmul(e.b.fmul(value, half), e.b.fadd(one, _rational(e, z, *_ERF)))
    if activation == "gelu_tanh":
        cube = e.b.fmul(e.b.fmul(value, value), e.b.fmul(value, _constant(value.type, 0.044715)))
        z = e.b.fmul(e.b.fadd(value, cube), _constant(value.type, (2 / 3.141592653589793) ** 0.5))
        return e.b.fmul(e.b.fmul(value, half), e.b.fadd(one, _rational(e, z, *_TANH)))
    return value


def transpose(e: Emitter, rows: list[Value]) -> list[Value]:
    """Transpose n vectors of n numbers (n a power of two) by log₂ n rounds of interleaving."""
    n = len(rows)
    low = [i // 2 + (n if i % 2 else 0) for i in range(n)]
    high = [i // 2 + n // 2 + (n if i % 2 else 0) for i in range(n)]
    for _ in range(n.bit_length() - 1):
        half = n // 2
        rows = [e.shuffle(rows[i // 2], rows[i // 2 + half], high if i % 2 else low) for i in range(n)]
    return rows
