"""The block-sparse product ``y = x Wᵀ`` as LLVM IR.

Tokens are worked on in tiles that fit the cache. A tile of x is packed, or read where it lies. Threads take items (a
tile of tokens × a chunk of block rows) from a shared counter.
"""

from llvmlite import ir

from bayesprune.sparse.native.arguments import SLOTS
from bayesprune.sparse.native.arithmetic import ITEM, itemsize, transpose
from bayesprune.sparse.native.emit import F32, I32, I64, PTR, Value, vector
from bayesprune.sparse.native.functions import Functions
from bayesprune.sparse.native.packing import SIDE, pack
from bayesprune.sparse.native.rows import Ending, OutputRow, TokenRow, x_item
from bayesprune.sparse.native.spec import Spec

__all__ = ["ENTRY", "linear_ir", "scratch_bytes"]

ENTRY = "bayesprune_linear"


def _parts(spec: Spec, edge: bool) -> list[int]:
    """The sizes that a tile is worked on in, the largest first: a last tile may be smaller, an edge is rare."""
    if 0 < spec.row < spec.tile:
        return [spec.tile]  # such tiles are whole
    sizes = [spec.tile, *(n for n in (12, 4, 1) if n < spec.tile)]
    return [n for n in sizes if n <= 4] or [1] if edge else sizes


def _sizes(spec: Spec) -> list[tuple[int, bool]]:
    if spec.along == "tokens":
        return [(spec.tile, False)]
    return [(tokens, edge) for edge in (False, True) for tokens in _parts(spec, edge)]


class Product:
    """The entry: takes items from the counter until none is left."""

    def __init__(self, module: ir.Module, spec: Spec) -> None:
        self.spec = spec
        along = TokenRow if spec.along == "tokens" else OutputRow
        self.tiles = {(tokens, edge): along(module, spec, tokens, edge).function for tokens, edge in _sizes(spec)}
        function = ir.Function(module, ir.FunctionType(ir.VoidType(), [PTR]), ENTRY)
        self.e = e = Functions(ir.IRBuilder(function.append_basic_block()))
        slot = {name: e.at(function.args[0], i, I64) for name, i in SLOTS.items()}
        value = {name: e.load(pointer, I64, 8) for name, pointer in slot.items() if name not in ("next", "thread")}
        self.value = value
        self.x_all, self.y_all, self.weights, self.crow, self.col, self.bias, self.scale, self.table = (
            e.b.inttoptr(value[name], PTR) for name in ("x", "y", "values", "crow", "col", "bias", "scale", "table")
        )
        self.count, self.inputs, self.outputs, self.rows, self.chunk, self.chunks = (
            value[name] for name in ("tokens", "inputs", "outputs", "rows", "chunk", "chunks")
        )
        thread = e.b.atomic_rmw("add", slot["thread"], e.i64(1), "monotonic")
        self.packed = e.b.inttoptr(e.add(value["scratch"], e.b.mul(thread, value["scratch_bytes"])), PTR)
        loop, body, done = (e.b.append_basic_block(n) for n in ("items", "item", "done"))
        e.b.branch(loop)
        e.b.position_at_end(loop)
        item = e.b.atomic_rmw("add", slot["next"], e.i64(1), "monotonic")
        e.b.cbranch(e.b.icmp_signed("<", item, value["items"]), body, done)
        e.b.position_at_end(body)
        self._item(item)
        e.b.branch(loop)
        e.b.position_at_end(done)
        e.b.ret_void()

    def place(self, tile: Value) -> tuple[Value, Value, Value]:
        """Where a tile begins in x, its first token, and how many it has."""
        first = self.e.mul(tile, self.spec.tile)
        count = self.e.minimum(self.e.b.sub(self.count, first), self.spec.tile)
        return self.e.b.mul(first, self.inputs), first, count

    def _item(self, item: Value) -> None:
        e, s = self.e, self.spec
        tile, chunk = e.b.sdiv(item, self.chunks), e.b.srem(item, self.chunks)
        at_x, token, count = self.place(tile)
        x = e.at(self.x_all, at_x, ITEM[s.inputs])
        if not s.stride:
            pack(e, s, x, count, self.inputs, self.packed)
            x = self.packed
        y = e.at(self.y_all, e.b.mul(token, self.outputs), ITEM[s.inputs])
        if s.along == "tokens":
            self._by_tokens(chunk, x, y, count)
            return
        start = e.b.mul(chunk, self.chunk)
        stop = e.minimum(e.add(start, self.chunk), self.rows)
        full = e.b.sdiv(self.outputs, e.i64(s.h))  # block rows that lie within the weight

        def row(r: Value, none: list[Value]) -> list[Value]:
            self._block_row(r, x, y, count, False)
            return none

        e.loop(start, e.minimum(stop, full), row)
        e.when(e.b.icmp_signed(">", stop, full), lambda: self._block_row(full, x, y, count, True))

    def _by_tokens(self, chunk: Value, x: Value, y: Value, count: Value) -> None:
        e, s = self.e, self.spec
        group = max(1, 16 // s.h)  # block rows whose results are gathered before they are turned round
        padded = e.mul(e.b.sdiv(e.add(self.inputs, s.w - 1), e.i64(s.w)), s.w)
        turned = e.at(self.packed, e.mul(padded, s.tile), F32)
        start = e.b.mul(chunk, self.chunk)
        stop = e.minimum(e.add(start, self.chunk), self.rows)

        def gathered(r0: Value, none: list[Value]) -> list[Value]:
            end = e.minimum(e.add(r0, group), stop)

            def row(r: Value, none: list[Value]) -> list[Value]:
                begin, after = self._bounds(r)
                where = e.at(turned, e.mul(e.b.sub(r, r0), s.h * s.tile), F32)
                unused = (self.outputs, self.bias, self.scale, self.outputs)
                e.b.call(
                    self.tiles[s.tile, False], [x, self.weights, self.col, self.table, begin, after, where, *unused]
                )
                return none

            e.loop(r0, end, row)
            first = e.mul(r0, s.h)
            outputs = e.b.sub(e.minimum(e.mul(end, s.h), self.outputs), first)
            self._turn(turned, first, outputs, y, count)
            return none

        e.loop(start, stop, gathered, step=group)

    def _turn(self, turned: Value, first: Value, outputs: Value, y: Value, count: Value) -> None:
        """Write the buffer (outputs, tile) to y (tokens, all outputs) from the output ``first`` on."""
        e, s, item, size = self.e, self.spec, ITEM[self.spec.inputs], itemsize(self.spec.inputs)
        bias, scale = e.at(self.bias, first, item), e.at(self.scale, first, F32)
        y = e.at(y, first, item)

        def place(n: Value, m: int | Value) -> Value:
            return e.at(e.at(y, e.b.mul(n, self.outputs), item), m, item)

        def square(m: Value, none: list[Value]) -> list[Value]:
            ending = Ending.of(e, s, scale, bias, m, SIDE)

            def tokens(n: Value, none: list[Value]) -> list[Value]:
                rows = [
                    e.load(e.at(turned, e.add(e.mul(e.add(m, i), s.tile), n), F32), vector(F32, SIDE), 4)
                    for i in range(SIDE)
                ]
                for i, column in enumerate(transpose(e, rows)):
                    e.store(ending.finished(e, s, column), place(e.add(n, i), m), size)
                return none

            whole = e.mul(e.b.sdiv(count, e.i64(SIDE)), SIDE)
            e.loop(0, whole, tokens, step=SIDE)
            e.loop(m, e.add(m, SIDE), lambda m, none: one_by_one(m, whole))
            return none

        def one_by_one(m: Value, start: int | Value) -> list[Value]:
            """The output m of the tokens from ``start`` on."""
            ending = Ending.of(e, s, scale, bias, m, 1)

            def one(n: Value, none: list[Value]) -> list[Value]:
                value = e.load(e.at(turned, e.add(e.mul(m, s.tile), n), F32), F32, 4)
                e.store(ending.finished(e, s, value), place(n, m), size)
                return none

            return e.loop(start, count, one)

        squares = e.mul(e.b.sdiv(outputs, e.i64(SIDE)), SIDE)
        e.loop(0, squares, square, step=SIDE)
        e.loop(squares, outputs, lambda m, none: one_by_one(m, 0))

    def _bounds(self, r: Value) -> tuple[Value, Value]:
        e = self.e
        begin, end = (e.b.sext(e.load(e.at(self.crow, e.add(r, d), I32), I32, 4), I64) for d in (0, 1))
        return begin, end

    def _block_row(self, r: Value, x: Value, y: Value, count: Value, edge: bool) -> None:
        e, s = self.e, self.spec
        begin, end = self._bounds(r)
        if s.table:  # the inputs of the block row's own group
            group = e.b.sdiv(r, self.value["group_rows"])
            x = e.at(x, e.b.mul(group, self.value["group_inputs"]), ITEM[s.inputs])
        output = e.mul(r, s.h)
        item, item_x = ITEM[s.inputs], x_item(s)
        bias, scale = e.at(self.bias, output, item), e.at(self.scale, output, F32)
        valid = e.b.sub(self.outputs, output)

        def tile(done: Value, tokens: int) -> None:
            offset = e.mul(done, s.offset(1) if s.stride else 1)
            where = e.at(y, e.add(e.b.mul(done, self.outputs), output), item)
            e.b.call(
                self.tiles[tokens, edge],
                [
                    e.at(x, offset, item_x),
                    self.weights,
                    self.col,
                    self.table,
                    begin,
                    end,
                    where,
                    self.outputs,
                    bias,
                    scale,
                    valid,
                ],
            )

        done = e.i64(0)
        for tokens in _parts(s, edge):
            left = e.b.sub(count, done)
            stop = e.add(done, e.b.sub(left, e.b.srem(left, e.i64(tokens))))

            def body(n: Value, none: list[Value], tokens: int = tokens) -> list[Value]:
                tile(n, tokens)
                return none

            e.loop(done, stop, body, step=tokens)
            done = stop


def scratch_bytes(spec: Spec, inputs: int) -> int:
    """The bytes of scratch that a thread needs: x packed, and results by tokens before they are turned round."""
    packed = 0 if spec.stride else -(-inputs // spec.w) * spec.w * spec.tile
    turned = max(16, spec.h + 15) * spec.tile if spec.along == "tokens" else 0
    return -(-(packed + turned) * 4 // 64) * 64


def linear_ir(spec: Spec) -> str:
    """The module for ``spec`` as text; its entry takes the address of the arguments."""
    module = ir.Module("bayesprune")
    module.triple = spec.isa.triple
    Product(module, spec)
    return str(module)
