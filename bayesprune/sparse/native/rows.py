"""The inner loop: one block row times a tile of tokens, its sums kept in registers.

- Vectors along a block's outputs: a vector of weights times one number of x, spread over all lanes.
- Vectors along tokens, where a block has too few outputs to fill a vector: one weight times a vector of x.
"""

from abc import ABC, abstractmethod
from typing import NamedTuple

from llvmlite import ir

from bayesprune.sparse.activations import ACTIVATIONS
from bayesprune.sparse.native.arithmetic import ITEM, itemsize, looked_up, narrow, widened
from bayesprune.sparse.native.emit import BF16, F32, I8, I16, I32, I64, PTR, Value, vector
from bayesprune.sparse.native.functions import Functions
from bayesprune.sparse.native.spec import Spec

__all__ = ["Ending", "OutputRow", "Row", "TokenRow", "x_item"]

_CHAINS = 10  # independent sums that hide the latency of a multiply-add
_BODY = 256  # multiply-adds in an unrolled loop body


class Row(ABC):
    """A function that adds up one block row for a tile of tokens, in registers.

    Subclasses say how many sums there are, what one step (an input or a pair of inputs) adds to them, and where they
    go.
    """

    sums: int

    def __init__(self, module: ir.Module, spec: Spec, name: str) -> None:
        self.spec = spec
        kind = ir.FunctionType(ir.VoidType(), [PTR, PTR, PTR, PTR, I64, I64, PTR, I64, PTR, PTR, I64])
        self.function = ir.Function(module, kind, name)
        self.function.linkage = "internal"
        self.e = Functions(ir.IRBuilder(self.function.append_basic_block()))
        (self.x, self.values, self.col, self.table, self.start, self.end, *rest) = self.function.args
        self.y, self.ldy, self.bias, self.scale, self.valid = rest
        self.steps = spec.w // 2 if spec.pairs else spec.w

    @abstractmethod
    def step(self, weights: Value, x: Value, number: int, sums: list[Value], split: int) -> list[Value]:
        """The sums after the inputs of step ``number``, counted from ``weights`` and ``x``."""

    def total(self) -> list[Value]:
        """The loop over the row's blocks; returns the sums."""
        e = self.e
        splits = max(1, -(-_CHAINS // self.sums))  # independent sums, added up at the end
        group = max(1, -(-splits // self.steps), min(4, _BODY // (4 * self.sums * self.steps)))
        sums = [e.zero(vector(F32, self.spec.lanes))] * (splits * self.sums)
        whole = e.b.sub(self.end, e.b.srem(e.b.sub(self.end, self.start), e.i64(group)))
        sums = e.loop(self.start, whole, lambda j, v: self._blocks(j, v, group, splits), sums, step=group)
        if group > 1:
            sums = e.loop(whole, self.end, lambda j, v: self._blocks(j, v, 1, splits), sums)
        parts = [sums[i : i + self.sums] for i in range(0, len(sums), self.sums)]
        while len(parts) > 1:
            pairs = zip(parts[::2], parts[1::2], strict=False)
            added = [[e.b.fadd(a, b) for a, b in zip(one, two, strict=True)] for one, two in pairs]
            parts = added + ([parts[-1]] if len(parts) % 2 else [])
        return parts[0]

    def _blocks(self, j: Value, sums: list[Value], count: int, splits: int) -> list[Value]:
        e, s = self.e, self.spec
        unroll = max(1, min(self.steps, _BODY // self.sums))
        while self.steps % unroll:
            unroll -= 1
        for g in range(count):
            here = e.add(j, g)
            column = e.b.sext(e.load(e.at(self.col, here, I32), I32, 4), I64)
            weights = e.at(self.values, e.mul(here, s.h * s.w), ITEM[s.weights])
            x = e.at(self.x, self._place(column), x_item(s))
            if unroll == self.steps:
                for k in range(self.steps):
                    sums = self.step(weights, x, k, sums, (g * self.steps + k) % splits)
                continue

            def body(k: Value, v: list[Value], weights: Value = weights, x: Value = x) -> list[Value]:
                weights = e.at(weights, e.mul(k, s.h * (2 if s.pairs else 1)), ITEM[s.weights])
                x = e.at(x, e.mul(k, 1 if s.stride else s.tile), x_item(s))
                for u in range(unroll):
                    v = self.step(weights, x, u, v, u % splits)
                return v

            sums = e.loop(0, self.steps, body, sums, step=unroll)
        return sums

    def _place(self, column: Value) -> Value:
        """Where the inputs of a block column begin in x."""
        e, s = self.e, self.spec
        if not s.table:
            return e.mul(column, self.steps * (1 if s.stride else s.tile))
        offset = e.b.sext(e.load(e.at(self.table, column, I32), I32, 4), I64)
        return e.b.sdiv(offset, e.i64(2)) if s.pairs else offset


def x_item(s: Spec) -> ir.Type:
    """What one step reads of x for one token."""
    if s.pairs:
        return I32
    return ITEM[s.inputs] if s.stride else F32


class Ending(NamedTuple):
    """What is done to the sums of some outputs, read once for all tokens: a scale where there is one, and a bias."""

    scale: Value | None
    bias: Value | None

    @classmethod
    def of(cls, e: Functions, s: Spec, scale: Value, bias: Value, output: int | Value, lanes: int) -> "Ending":
        """That of ``lanes`` outputs from ``output`` on."""
        factor = e.load(e.at(scale, output, F32), vector(F32, lanes), 4) if s.weights == "i8" else None
        shift = widened(e, e.at(bias, output, ITEM[s.inputs]), s.inputs, lanes) if s.bias else None
        return cls(factor, shift)

    def finished(self, e: Functions, s: Spec, value: Value) -> Value:
        """Scale, bias and activation, as they are stored."""
        if self.scale is not None:
            value = e.b.fmul(value, self.scale) if self.bias is None else e.fma(value, self.scale, self.bias)
        elif self.bias is not None:
            value = e.b.fadd(value, self.bias)
        return narrow(e, ACTIVATIONS[s.activation].registers(e, value), s.inputs, s.isa.dot_bf16)


class OutputRow(Row):
    """Vectors along the block's outputs: a vector of weights times one number of x, spread over all lanes."""

    def __init__(self, module: ir.Module, spec: Spec, tokens: int, edge: bool) -> None:
        super().__init__(module, spec, f"outputs_{tokens}{'_edge' if edge else ''}")
        self.tokens, vectors = tokens, spec.h // spec.lanes
        most = max(1, min(4, (spec.isa.registers - 4) // tokens))  # vectors of outputs at a time
        kept = self.e.scratch(F32, tokens * spec.h) if edge else None
        for self.first in range(0, vectors, most):
            self.vectors = min(most, vectors - self.first)
            self.sums = tokens * self.vectors
            self._write(self.total(), kept)
        if kept is not None:
            self._finish(kept)
        self.e.b.ret_void()

    def step(self, weights: Value, x: Value, number: int, sums: list[Value], split: int) -> list[Value]:
        e, s, new = self.e, self.spec, list(sums)
        vectors = self._weights(weights, number)
        for n in range(self.tokens):
            place = s.offset(n) + number if s.stride else n + number * s.tile
            where = e.at(x, place, x_item(s))
            if s.pairs:
                spread = e.b.bitcast(e.splat(e.load(where, I32, 2), s.lanes), vector(BF16, 2 * s.lanes))
            else:
                spread = e.splat(widened(e, where, s.inputs if s.stride else "f32", 1), s.lanes)
            for v, w in enumerate(vectors):
                i = split * self.sums + n * self.vectors + v
                if s.pairs:
                    new[i] = e.call("llvm.x86.avx512bf16.dpbf16ps.512", vector(F32, 16), new[i], w, spread)
                else:
                    new[i] = e.fma(w, spread, new[i])
        return new

    def _weights(self, pointer: Value, number: int) -> list[Value]:
        """The weights of a step: a vector for each ``lanes`` outputs."""
        e, s = self.e, self.spec

        def at(k: int, v: int) -> Value:
            return e.at(pointer, k * s.h + (self.first + v) * s.lanes, ITEM[s.weights])

        if not s.pairs:
            return [widened(e, at(number, v), s.weights, s.lanes) for v in range(self.vectors)]
        found = []
        for v in range(self.vectors):
            if s.weights == "i8":  # whole numbers to 127 fill no more than the upper half of a float32
                even, odd = (
                    e.b.bitcast(widened(e, at(2 * number + k, v), "i8", s.lanes), vector(I32, s.lanes)) for k in (0, 1)
                )
                half = ir.Constant(even.type, [16] * s.lanes)
                found.append(e.b.bitcast(e.b.or_(odd, e.b.lshr(even, half)), vector(BF16, 2 * s.lanes)))
                continue
            two = [e.load(at(2 * number + odd, v), vector(I16, s.lanes), 2) for odd in (0, 1)]
            order = [i // 2 + (s.lanes if i % 2 else 0) for i in range(2 * s.lanes)]
            found.append(e.b.bitcast(e.shuffle(two[0], two[1], order), vector(BF16, 2 * s.lanes)))
        return found

    def _write(self, totals: list[Value], kept: Value | None) -> None:
        """To y, or first to ``kept`` where the row reaches over the weight's edge."""
        e, s, item = self.e, self.spec, ITEM[self.spec.inputs]
        places = [(self.first + v) * s.lanes for v in range(self.vectors)]
        endings = [Ending.of(e, s, self.scale, self.bias, m, s.lanes) for m in places] if kept is None else []
        for i, total in enumerate(totals):
            n, v = divmod(i, self.vectors)
            m = places[v]
            if kept is not None:
                e.store(total, e.at(kept, n * s.h + m, F32), 4)
                continue
            done = endings[v].finished(e, s, total)
            e.store(done, e.at(e.at(self.y, e.mul(self.ldy, n), item), m, item), itemsize(s.inputs))

    def _finish(self, kept: Value) -> None:
        e, s, item = self.e, self.spec, ITEM[self.spec.inputs]

        def one(i: Value, none: list[Value]) -> list[Value]:
            n, m = e.b.sdiv(i, self.valid), e.b.srem(i, self.valid)
            value = e.load(e.at(kept, e.add(e.mul(n, s.h), m), F32), F32, 4)
            done = Ending.of(e, s, self.scale, self.bias, m, 1).finished(e, s, value)
            e.store(done, e.at(self.y, e.add(e.b.mul(n, self.ldy), m), item), itemsize(s.inputs))
            return none

        e.loop(0, e.mul(self.valid, self.tokens), one)


class TokenRow(Row):
    """Vectors along tokens: one weight times a vector of x. The results go to a buffer (outputs, tile)."""

    def __init__(self, module: ir.Module, spec: Spec, tokens: int, edge: bool) -> None:
        super().__init__(module, spec, "tokens")
        self.vectors = spec.tile // spec.lanes
        most = max(1, (spec.isa.registers - 7) // self.vectors)  # outputs at a time
        most = -(-spec.h // -(-spec.h // most))  # the same number each time, if that can be
        for self.first in range(0, spec.h, most):
            self.outputs = min(most, spec.h - self.first)
            self.sums = self.outputs * self.vectors
            for i, total in enumerate(self.total()):
                m, u = divmod(i, self.vectors)
                self.e.store(total, self.e.at(self.y, (self.first + m) * spec.tile + u * spec.lanes, F32), 4)
        self.e.b.ret_void()

    def step(self, weights: Value, x: Value, number: int, sums: list[Value], split: int) -> list[Value]:
        e, s, new = self.e, self.spec, list(sums)
        vectors = [
            e.load(e.at(x, number * s.tile + u * s.lanes, F32), vector(F32, s.lanes), 4) for u in range(self.vectors)
        ]
        for m in range(self.outputs):
            where = e.at(weights, number * s.h + self.first + m, ITEM[s.weights])
            spread = self._spread(where)
            for u, v in enumerate(vectors):
                i = split * self.sums + m * self.vectors + u
                new[i] = e.fma(spread, v, new[i])
        return new

    def _spread(self, where: Value) -> Value:
        """The weight there, over all lanes."""
        e, s = self.e, self.spec
        if s.weights != "i8":
            return e.splat(widened(e, where, s.weights, 1), s.lanes)
        if s.h >= s.lanes:  # each weight serves few vectors of tokens: their sums need the arithmetic units
            return e.splat(looked_up(e, where), s.lanes)
        return e.b.sitofp(e.splat(e.load(where, I8, 1), s.lanes), vector(F32, s.lanes))
