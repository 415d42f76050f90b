"""Files made to cost more than they are, or to be read as what they are not. Their checksums are right, as anybody's.

``DESIGNED`` holds a maker for each kind of attack: given a generator of random numbers, it makes one of many files.
"""

import json
import random
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from bayesprune.sparse.saving.coding.container import Streams, deflated, pack, unpack
from bayesprune.sparse.saving.coding.entropy import Writer
from support.mutations import summed

JSON = dict[str, Any]
_ALIKE = 100  # symbols: written, as many alike as you like take no more bytes


def manifest(net: JSON | None = None, tensors: JSON | None = None, **more: Any) -> JSON:
    empty = {"version": 3, "net": net, "needs_net": "", "tensors": tensors or {}, "ties": {}, "sparse": {}}
    return empty | {"opened": {}, "shrunk": {}, "silent": [], "buffers": {}} | more


def entry(
    shape: list, how: str = "exact", dtype: str = "float32", kind: str = "parameter", block: Any = (), parts: Any = None
) -> JSON:
    told = {"kind": kind, "dtype": dtype, "shape": shape, "how": how, "block": list(block), "parts": parts or {}}
    return told | {"grad": False, "channels_last": False}


def coded(told: JSON | str, exact: bytes = b"", numbers: bytes = b"") -> bytes:
    return pack(Streams(told if isinstance(told, str) else json.dumps(told), exact, numbers))


def module(name: str, **args: Any) -> JSON:
    return {"class": name, "args": args}


def linear(out: int, into: int) -> JSON:
    return module("Linear", in_features=into, out_features=out, bias=False)


def sequential(*children: JSON) -> JSON:
    return {"class": "Sequential", "children": {str(n): child for n, child in enumerate(children)}}


def stacked(depth: int, layers: int, kind: str = "TransformerEncoder") -> JSON:
    block = module(f"{kind}Layer", d_model=2, nhead=1, dim_feedforward=1)
    for _ in range(depth):
        block = module(kind, **{f"{kind.removeprefix('Transformer').lower()}_layer": block, "num_layers": layers})
    return block


def masked_dense(
    rows: int, cols: int, dtype: str = "bfloat16", share: float = 0.5, how: str = "levels", block: Any = ()
) -> bytes:
    """A masked weight in next to no bytes: its gaps, all alike, and one number for all its values."""
    writer, (h, w) = Writer(), block or (1, 1)
    places = -(-rows // h) * -(-cols // w)
    stored = int(places * share)
    writer.number(1, 1)
    writer.number(stored, places)
    writer.number(0, 1)
    gap = max(int(1 / share) - 1, 0)
    writer.symbols(np.full(_ALIKE, min(gap, 3), dtype=np.int64), 128)
    if how == "levels":
        writer.number(1, 2**16)  # one level, no zero, not narrow
        writer.number(0, 1)
        writer.number(0, 1)
        writer.uniform(np.array([0x3F80] if dtype != "float32" else [0, 0x3F80]), 2**16)
    else:
        writer.symbols(np.full(_ALIKE, 0x3F, dtype=np.int64), 256)
        writer.uniform(np.zeros(min(stored * h * w, 2**18), dtype=np.int64), 256)
    return coded(
        manifest(linear(rows, cols), {"weight": entry([rows, cols], how, dtype, block=block)}), numbers=writer.data()
    )


def of_crow(rows: int, columns: int, dtype: torch.dtype = torch.uint8) -> bytes:
    """A megabyte that says that nothing is there, row by row."""
    parts = {"values": "weight", "crow": "weight/crow", "col": "weight/col"}
    tensors = {
        "weight": torch.zeros(0),
        "weight/crow": torch.zeros(rows + 1, dtype=dtype),
        "weight/col": torch.zeros(0, dtype=torch.uint8),
    }
    return summed(manifest(linear(rows, columns), {"weight": entry([rows, columns], "csr", parts=parts)}), tensors)


def of_values(rows: int, columns: int, share: float) -> bytes:
    """A masked weight whose rows keep their first values."""
    kept = max(int(columns * share), 1)
    parts = {"values": "weight", "crow": "weight/crow", "col": "weight/col"}
    tensors = {
        "weight": torch.ones(rows * kept),
        "weight/crow": torch.arange(0, rows * kept + 1, kept, dtype=torch.int32),
        "weight/col": torch.arange(kept, dtype=torch.int16).repeat(rows),
    }
    return summed(manifest(linear(rows, columns), {"weight": entry([rows, columns], "csr", parts=parts)}), tensors)


def many(count: int, tensors: int = 0) -> JSON:
    made = sequential(*(module("ReLU", inplace=False) for _ in range(count)))
    return manifest(made, {f"x{n}": entry([0]) for n in range(tensors)})


def zeros_kept_exactly(megabytes: int, dtype: str = "float64") -> bytes:
    rows = megabytes * 2**20 // (8 if dtype == "float64" else 1)
    net = linear(rows, 1)
    return coded(manifest(net, {"weight": entry([rows, 1], dtype=dtype)}), deflated(bytes(megabytes * 2**20)))


def bit_planes(rows: int, columns: int, choose: random.Random) -> bytes:
    """A bit mask of all sorts of lengths, and values that are as many as its bits, or not."""
    length = rows * columns
    bits = torch.frombuffer(
        bytearray(choose.randbytes(max(-(-length // 8) + choose.choice((0, 0, -1, 1)), 1))), dtype=torch.uint8
    )
    kept = int(np.unpackbits(bits.numpy(), count=min(length, 8 * len(bits))).sum())
    values = torch.ones(
        max(kept + choose.choice((0, 0, -1, 1, 1000)), 0), dtype=choose.choice((torch.float32, torch.int8))
    )
    parts = {"bits": "weight/bits", "values": "weight"}
    told = manifest(linear(rows, columns), {"weight": entry([rows, columns], "bits", parts=parts)})
    return summed(told, {"weight": values, "weight/bits": bits})


def packed_layer(rows: int, cols: int, count: int, bits: int | None = None, turned: int = 0) -> bytes:
    """A packed layer in next to no bytes: its gaps are nothing, and its values all alike."""
    writer = Writer()
    writer.number(turned, 1)
    writer.symbols(np.zeros(_ALIKE, dtype=np.int64), 128)
    if bits:
        writer.symbols(np.full(_ALIKE, 129, dtype=np.int64), 256)
    else:
        writer.number(1, 2**16)
        writer.number(0, 1)
        writer.number(0, 1)
        writer.uniform(np.array([0, 0x3F80]), 2**16)
    tensors = {
        "values": entry([count], "bytes", "int8") if bits else entry([count], "levels"),
        "crow": entry([rows + 1], "indices", "int32", "buffer"),
        "col": entry([count], "indices", "int32", "buffer"),
    }
    if bits:
        tensors["scale"] = entry([rows], "exact", kind="buffer")
    layer = {"format": ["CSR", bits], "kernel": "native", "shape": [rows, cols], "activation": ""}
    exact = deflated(bytes(2 * rows) + bytes((0x80,)) * rows + bytes((0x3F,)) * rows) if bits else b""
    return coded(manifest(linear(rows, cols), tensors, sparse={"": layer}), exact, writer.data())


def packed(choose: random.Random) -> bytes:
    """One of these, or one that says so and is damaged."""
    shapes = ((10, 10), (1000, 1000), (2**20, 4), (4, 2**30), (3000, 5000), (2**15, 2**16), (2**10, 2**31 - 1))
    rows, cols = choose.choice(shapes)
    count = min(rows * cols, choose.choice((0, 1, 1_000, 10**6, 2_000_000, 3_500_000, 4_400_000, 5_800_000, 10**8)))
    made = packed_layer(rows, cols, count, choose.choice((None, 8)), choose.randrange(2))
    if choose.random() < 0.7:
        return made
    streams = unpack(made)
    return pack(Streams(streams.text, bytes(streams.exact), bytes(streams.numbers) + choose.randbytes(8)))


HUGE = (0, -1, 1, 7, 2**20, 20_000, 2**31, 2**40, 2**63 - 1, 2**63, 10**30, "8", 1.5, None, True, [], [2] * 70, {})
CLASSES = (
    *("Linear", "Conv2d", "Conv3d", "ConvTranspose2d", "Embedding", "EmbeddingBag", "BatchNorm1d", "LayerNorm", "GRU"),
    *("LSTM", "RNN", "Bilinear", "MultiheadAttention", "TransformerEncoderLayer", "Transformer", "PReLU", "GroupNorm"),
    *("AdaptiveLogSoftmaxWithLoss", "LSTMCell", "Upsample", "Unfold", "Flatten", "Unflatten", "ParameterList"),
    *(
        "Module",
        "DataParallel",
        "LazyLinear",
        "SyncBatchNorm",
        "CrossEntropyLoss",
        "Softmax2d",
        "ZeroPad2d",
        "Identity",
    ),
    *("__import__", "Parameter", "functional", "", "nn.Linear", "os.system", "ModuleDict", "Sequential", "ReLU"),
)
ARGUMENTS = (
    *("in_features", "out_features", "in_channels", "out_channels", "kernel_size", "groups", "stride", "padding"),
    *("num_embeddings", "embedding_dim", "normalized_shape", "input_size", "hidden_size", "num_layers", "d_model"),
    *("nhead", "dim_feedforward", "embed_dim", "num_heads", "num_features", "bias", "device", "dtype", "cutoffs"),
    *(
        "n_classes",
        "num_parameters",
        "size",
        "unflattened_size",
        "dim",
        "encoder_layer",
        "norm",
        "activation",
        "_weight",
    ),
)


def any_module(choose: random.Random) -> bytes:
    """A class of torch.nn or none, with its own arguments or others, of all sizes."""
    args = {choose.choice(ARGUMENTS): choose.choice(HUGE) for _ in range(choose.randrange(6))}
    sizes = {"Linear": ("in_features", "out_features"), "Embedding": ("num_embeddings", "embedding_dim")}
    name = choose.choice(CLASSES)
    args |= {key: choose.choice(HUGE) for key in sizes.get(name, ())}
    if name.startswith("Conv"):
        args |= {key: choose.choice((1, 2, 2**20)) for key in ("in_channels", "out_channels", "kernel_size")}
    return coded(manifest(sequential(module(name, **args)), {"0.weight": entry([choose.choice((1, 2**20))], "exact")}))


def any_text(choose: random.Random) -> bytes:
    """A manifest with something that JSON has and no manifest: digits without end, NaN, nesting, the same key twice."""
    text = json.dumps(manifest(linear(2, 2), {"weight": entry([2, 2])}))
    many, digits = choose.choice((10, 1000, 100_000)), "9" * choose.choice((10, 400, 4_200, 5_000))
    spots = '"net": {', '"tensors": {', '"ties": {', '"sparse": {', '"shrunk": {', '"opened": {', '"silent": ['
    odd = (
        *("NaN", "-Infinity", "1e999", digits, f"-{digits}", f"1.{digits}", f"1e{digits}", "\\u0000", '"\\ud800"'),
        *("[" * many, "[" * many + "]" * many, '{"a":' * many + "1" + "}" * many, "[]," * many, "{}," * many),
        *('"\\u202e\\u0000é日本😀"', "null", "true", "-1", '"1"', "1.0", '"' + "x" * many + '"', "\x00", "\ufeff"),
    )
    what, key = choose.choice(odd), choose.choice(('"x": ', '"class": ', '"weight": ', '"children": ', '"0": ', ""))
    if choose.random() < 0.3:
        text = text.replace("[2, 2]", f"[{','.join([what] * choose.choice((1, 2, 65)))}]")
    else:
        at = text.index(choose.choice(spots))
        at = text.index("{" if text[at:].find("{") >= 0 else "[", at) + 1
        text = f"{text[:at]}{key}{what}, {text[at:]}"
    if choose.random() < 0.3:
        text = text[: choose.randrange(len(text))]
    if choose.random() < 0.5:
        return coded(text)
    return summed(None, {"weight": torch.zeros(2, 2)}, text)


def any_names(choose: random.Random) -> bytes:
    """Names of all kinds, for tensors, layers, ties and modules."""
    odd = (
        *("", ".", "..", "a.b", "0.weight", "weight", "__class__", "forward", "training", "_parameters", "\x1b[2J"),
        *("\u202e", "é", "/etc/passwd", "../x", "x" * 10_000, "\0", "weight/crow", "values", "add_module", "0"),
    )
    name, other = choose.choice(odd), choose.choice(odd)
    shape = choose.choice(([2, 2], [0], [], [2**31, 0], [0] * 64))
    told = manifest(
        {"class": choose.choice(("Sequential", "ModuleDict", "ModuleList")), "children": {name: linear(2, 2)}},
        {other: entry(shape, choose.choice(("exact", "dense", "bytes")), parts={"values": choose.choice(odd)})},
        ties={choose.choice(odd): choose.choice(odd) for _ in range(choose.randrange(3))},
        opened={choose.choice(odd): True for _ in range(choose.randrange(2))},
        shrunk={choose.choice(odd): {choose.choice(("out_features", "bias", *odd)): [2, choose.choice((1, None))]}},
        silent=[choose.choice(odd) for _ in range(choose.randrange(3))],
    )
    if choose.random() < 0.5:
        return coded(told, deflated(bytes(16)))
    return summed(told, {choose.choice(odd[9:10] + odd[4:6]): torch.zeros(2, 2)})


def _sides(choose: random.Random) -> tuple[int, int]:
    return choose.choice(((2_890, 2_890), (10, 10**6), (10**6, 10), (1, 5 * 10**6), (6_000, 6_000), (300, 300), (1, 1)))


def _any_masked_dense(choose: random.Random) -> bytes:
    block = choose.choice(((), (), (4, 4), (64, 64), (2_048, 2_048), (128, 1), (300, 1)))
    how = choose.choice(("levels", "levels", "halves"))
    share, dtype = choose.choice((0.5, 1.0, 0.25)), choose.choice(("bfloat16", "float16", "float32", "float64"))
    return masked_dense(*_sides(choose), dtype, share, how, block)


def _any_crow(choose: random.Random) -> bytes:
    rows, columns = choose.choice(((10**6, 6), (10**6, 250), (10**7, 1), (10**5, 0), (3, 10**9), (10**6, 14)))
    return of_crow(rows, columns, choose.choice((torch.uint8, torch.int16, torch.int32)))


def _any_stack(choose: random.Random) -> bytes:
    kind = choose.choice(("TransformerEncoder", "TransformerDecoder"))
    made = stacked(choose.randrange(1, 6), choose.choice((1, 2, 20, 999)), kind)
    tensors = {f"x{n}": entry([0]) for n in range(choose.choice((0, 100)))}
    return coded(manifest(choose.choice((made, module("Linear", in_features=[[made]]), sequential(made))), tensors))


def _any_ties(choose: random.Random) -> bytes:
    """One tensor under names without end, or names that point to one another."""
    count = choose.choice((1, 1_000, 20_000))
    ties = {f"{n}.weight": choose.choice(("0.weight", f"{n + 1}.weight", "")) for n in range(1, count)}
    return coded(manifest(sequential(linear(2, 2)), {"0.weight": entry([2, 2])}, ties=ties), deflated(bytes(16)))


def _any_exact(choose: random.Random) -> bytes:
    megabytes = choose.choice((1, 15, 25, 40, 56, 64, 280))
    return zeros_kept_exactly(megabytes, choose.choice(("float64", "bool", "uint8")))


def _any_count(choose: random.Random) -> bytes:
    modules, tensors = choose.choice((0, 400, 4_000, 15_000, 100_000)), choose.choice((0, 100, 1_000, 3_700))
    told = many(modules, tensors)
    return coded(told) if choose.random() < 0.7 else summed(told, {"x": torch.zeros(1)})


def _any_recurrent(choose: random.Random) -> bytes:
    sizes = {"input_size": 1, "hidden_size": choose.choice((1, 2**20)), "num_layers": choose.choice((1, 100, 5_000))}
    net = choose.choice((1, 20, 400))
    return coded(manifest(sequential(*(module(choose.choice(("GRU", "LSTM", "RNN")), **sizes) for _ in range(net)))))


def _any_values(choose: random.Random) -> bytes:
    rows, columns = choose.choice(((100, 10_000), (1_000, 10_000), (3_000, 4_000), (8_000, 8_000)))
    return of_values(rows, columns, choose.choice((0.0001, 0.001, 0.01)))


DESIGNED: dict[str, Callable[[random.Random], bytes]] = {
    "modules": any_module,
    "texts": any_text,
    "names": any_names,
    "packed layers": packed,
    "masked dense": _any_masked_dense,
    "rows of nothing": _any_crow,
    "rows of little": _any_values,
    "bit planes": lambda choose: bit_planes(choose.randrange(1, 300), choose.randrange(1, 300), choose),
    "stacks": _any_stack,
    "ties": _any_ties,
    "zeros kept exactly": _any_exact,
    "modules without end": _any_count,
    "recurrent nets": _any_recurrent,
}
