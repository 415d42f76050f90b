"""Register arithmetic in LLVM IR: loads and stores of every dtype as float32, transposes."""

from llvmlite import ir

from bayesprune.sparse.native.emit import BF16, F16, F32, I8, I16, I32, I64, PTR, Emitter, Value, vector

__all__ = ["ITEM", "itemsize", "looked_up", "narrow", "transpose", "widened"]

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
    half, one, quiet, nearly = (e.number(bits, n) for n in (16, 1, 0x40, 0x7FFF))
    high = e.b.lshr(bits, half)
    rounded = e.b.lshr(e.b.add(bits, e.b.add(e.b.and_(high, one), nearly)), half)
    is_nan = e.b.fcmp_unordered("uno", value, value)
    return e.b.trunc(e.b.select(is_nan, e.b.or_(high, quiet), rounded), vector(I16, lanes))


def transpose(e: Emitter, rows: list[Value]) -> list[Value]:
    """Transpose n vectors of n numbers (n a power of two) by log₂ n rounds of interleaving."""
    n = len(rows)
    low = [i // 2 + (n if i % 2 else 0) for i in range(n)]
    high = [i // 2 + n // 2 + (n if i % 2 else 0) for i in range(n)]
    for _ in range(n.bit_length() - 1):
        half = n // 2
        rows = [e.shuffle(rows[i // 2], rows[i // 2 + half], high if i % 2 else low) for i in range(n)]
    return rows
