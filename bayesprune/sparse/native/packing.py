"""Packing of an input tile: the numbers that one block needs of all its tokens laid side by side."""

from llvmlite import ir

from bayesprune.sparse.native.arithmetic import ITEM, transpose, widened
from bayesprune.sparse.native.emit import F32, I16, I32, Emitter, Value, vector
from bayesprune.sparse.native.spec import Spec

__all__ = ["SIDE", "pack"]

SIDE = 16  # packing transposes squares of this side


def pack(e: Emitter, s: Spec, x: Value, count: Value, inputs: Value, packed: Value) -> None:
    """x (count, inputs) to (inputs, tile) as float32, or as pairs of bfloat16; past the last input zeros."""
    item = ITEM[s.inputs]
    kind = I32 if s.pairs else F32
    last = e.b.sub(count, e.i64(1))
    per = 2 if s.pairs else 1
    whole = e.b.sdiv(inputs, e.i64(per))  # columns of packed that lie within x
    square = e.mul(e.b.sdiv(whole, e.i64(SIDE)), SIDE)

    def row_of(n: Value) -> Value:
        return e.at(x, e.b.mul(e.minimum(n, last), inputs), item)

    def turned(k: Value, n0: int, side: int) -> None:
        """Tokens n0 … n0 + side of ``side`` columns from k on; past the tile's last token nothing is written."""
        rows = []
        for n in range(side):
            if n0 + n >= s.tile:
                rows.append(e.zero(vector(F32, side)))
                continue
            where = e.at(row_of(e.i64(n0 + n)), e.mul(k, per), item)
            rows.append(e.load(where, vector(F32, side), 2) if s.pairs else widened(e, where, s.inputs, side))
        written = min(side, s.tile - n0)
        for i, column in enumerate(transpose(e, rows)):
            part = column if written == side else e.shuffle(column, column, range(written))
            if written == 1:
                part = e.b.extract_element(column, ir.Constant(I32, 0))
            e.store(part, e.at(packed, e.add(e.mul(e.add(k, i), s.tile), n0), F32), 4)

    def columns(k: Value, none: list[Value]) -> list[Value]:
        n0 = 0
        while n0 < s.tile:
            side = SIDE if s.tile - n0 >= SIDE else SIDE // 2
            for shift in range(0, SIDE, side):
                turned(e.add(k, shift), n0, side)
            n0 += side
        return none

    e.loop(0, square, columns, step=SIDE)
    padded = e.mul(e.b.sdiv(e.add(inputs, s.w - 1), e.i64(s.w)), s.w)
    end = e.b.sdiv(padded, e.i64(per))

    def rest(k: Value, none: list[Value]) -> list[Value]:
        def one(n: Value, none: list[Value]) -> list[Value]:
            row = row_of(n)
            if s.pairs:
                halves = []
                for odd in (0, 1):
                    column = e.add(e.mul(k, 2), odd)
                    inside = e.b.icmp_signed("<", column, inputs)
                    where = e.at(row, e.b.select(inside, column, e.i64(0)), item)
                    halves.append(e.b.select(inside, e.load(where, I16, 2), ir.Constant(I16, 0)))
                low, high = (e.b.zext(v, I32) for v in halves)
                value = e.b.or_(low, e.b.shl(high, ir.Constant(I32, 16)))
            else:
                inside = e.b.icmp_signed("<", k, inputs)
                where = e.at(row, e.b.select(inside, k, e.i64(0)), item)
                value = e.b.select(inside, widened(e, where, s.inputs, 1), ir.Constant(F32, 0.0))
            e.store(value, e.at(packed, e.add(e.mul(k, s.tile), n), kind), 4)
            return none

        e.loop(0, s.tile, one)
        return none

    e.loop(square, end, rest)
