"""An LLVM IR emitter: loops with carried values, and vectors."""

from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

from llvmlite import ir

__all__ = ["BF16", "F16", "F32", "I8", "I16", "I32", "I64", "PTR", "Emitter", "Value", "vector"]

I8, I16, I32, I64 = (ir.IntType(bits) for bits in (8, 16, 32, 64))
F32, F16 = ir.FloatType(), ir.HalfType()
PTR = ir.PointerType()


class _BFloat(ir.types.Type):  # type: ignore[misc]
    """bfloat16, which llvmlite does not know of."""

    intrinsic_name = "bf16"

    def __str__(self) -> str:
        return "bfloat"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _BFloat)

    def __hash__(self) -> int:
        return hash(_BFloat)


BF16 = _BFloat()

Value: TypeAlias = Any  # llvmlite is not typed


def vector(element: ir.Type, lanes: int) -> ir.Type:
    """A vector of ``lanes``, the element itself where that is 1."""
    return ir.VectorType(element, lanes) if lanes > 1 else element


class Emitter:
    """An ``IRBuilder`` with what kernels are made of."""

    def __init__(self, builder: ir.IRBuilder) -> None:
        self.b = builder
        self.module = builder.module

    def i64(self, value: int | Value) -> Value:
        """An i64."""
        return ir.Constant(I64, value) if isinstance(value, int) else value

    def mul(self, a: Value, b: int | Value) -> Value:
        return a if isinstance(b, int) and b == 1 else self.b.mul(a, self.i64(b))

    def add(self, a: Value, b: int | Value) -> Value:
        return a if isinstance(b, int) and b == 0 else self.b.add(a, self.i64(b))

    def minimum(self, a: Value, b: int | Value) -> Value:
        b = self.i64(b)
        return self.b.select(self.b.icmp_signed("<", a, b), a, b)

    def at(self, pointer: Value, index: int | Value, element: ir.Type) -> Value:
        """The address of entry ``index`` of an array of ``element``."""
        return self.b.gep(pointer, [self.i64(index)], source_etype=element)

    def scratch(self, element: ir.Type, count: int) -> Value:
        """The address of ``count`` numbers on the stack."""
        made = self.b.alloca(ir.ArrayType(element, count))
        return self.b.inttoptr(self.b.ptrtoint(made, I64), PTR)  # llvmlite still types what alloca gives

    def load(self, pointer: Value, kind: ir.Type, align: int) -> Value:
        value = self.b.load(pointer, typ=kind)
        value.align = align
        return value

    def store(self, value: Value, pointer: Value, align: int) -> None:
        self.b.store(value, pointer, align=align)

    def zero(self, kind: ir.Type) -> Value:
        return ir.Constant(kind, [0.0] * kind.count if isinstance(kind, ir.VectorType) else 0.0)

    def splat(self, scalar: Value, lanes: int) -> Value:
        if lanes == 1:
            return scalar
        kind = ir.VectorType(scalar.type, lanes)
        first = self.b.insert_element(ir.Constant(kind, ir.Undefined), scalar, ir.Constant(I32, 0))
        mask = ir.Constant(ir.VectorType(I32, lanes), [0] * lanes)
        return self.b.shuffle_vector(first, ir.Constant(kind, ir.Undefined), mask)

    def shuffle(self, a: Value, b: Value, order: Sequence[int]) -> Value:
        return self.b.shuffle_vector(a, b, ir.Constant(ir.VectorType(I32, len(order)), list(order)))

    def call(self, name: str, result: ir.Type, *args: Value) -> Value:
        """A call of the LLVM intrinsic or function ``name``, declared where it is not."""
        kind = ir.FunctionType(result, [a.type for a in args])
        function = self.module.globals.get(name) or ir.Function(self.module, kind, name)
        return self.b.call(function, args)

    def fma(self, a: Value, b: Value, c: Value) -> Value:
        """a · b + c."""
        kind = a.type
        suffix = f"v{kind.count}f32" if isinstance(kind, ir.VectorType) else "f32"
        return self.call(f"llvm.fma.{suffix}", kind, a, b, c)

    def number(self, like: Value, value: float) -> Value:
        """A constant of the type of ``like``, in every lane."""
        kind = like.type
        return ir.Constant(kind, [value] * kind.count if isinstance(kind, ir.VectorType) else value)

    def plus(self, a: Value, b: Value) -> Value:
        return self.b.fadd(a, b)

    def times(self, a: Value, b: Value) -> Value:
        return self.b.fmul(a, b)

    def over(self, a: Value, b: Value) -> Value:
        return self.b.fdiv(a, b)

    def within(self, x: Value, low: float, high: float) -> Value:
        """x between two bounds; NaN stays."""
        for sign, bound in ((">", self.number(x, high)), ("<", self.number(x, low))):
            x = self.b.select(self.b.fcmp_ordered(sign, x, bound), bound, x)
        return x

    def loop(
        self,
        start: int | Value,
        stop: int | Value,
        body: Callable[[Value, list[Value]], Sequence[Value]],
        carried: Sequence[Value] = (),
        step: int = 1,
    ) -> list[Value]:
        """``for i in range(start, stop, step): carried = body(i, carried)``; returns what is carried at the end."""
        b = self.b
        before = b.block
        head, inside, after = (b.append_basic_block(n) for n in ("head", "body", "after"))
        b.branch(head)
        b.position_at_end(head)
        i = b.phi(I64)
        i.add_incoming(self.i64(start), before)
        values = [b.phi(v.type) for v in carried]
        for phi, first in zip(values, carried, strict=True):
            phi.add_incoming(first, before)
        b.cbranch(b.icmp_signed("<", i, self.i64(stop)), inside, after)
        b.position_at_end(inside)
        new = body(i, list(values))
        i.add_incoming(self.add(i, step), b.block)
        for phi, value in zip(values, new, strict=True):
            phi.add_incoming(value, b.block)
        b.branch(head)
        b.position_at_end(after)
        return list(values)

    def when(self, condition: Value, body: Callable[[], None]) -> None:
        """``if condition: body()``."""
        with self.b.if_then(condition):
            body()
