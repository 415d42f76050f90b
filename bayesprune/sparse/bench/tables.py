"""Benchmark results as one table, or as JSON: what ``bayesprune bench`` prints."""

import json
import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from statistics import geometric_mean

import torch
from torch import Tensor, nn

from bayesprune.sparse.bench.end_to_end import EndToEnd, compare, shape_of
from bayesprune.sparse.bench.products import Setting, bench, dense_twin, measured_peak
from bayesprune.sparse.formats import BSR, CSR, Format
from bayesprune.sparse.layers.conv import channels_last
from bayesprune.sparse.saving.file import load
from bayesprune.sparse.timing.cache import processor

__all__ = ["Benchmark", "of_model", "of_products", "settings", "sizes", "tables"]

_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


Rows = Sequence[tuple[str, ...]]


@dataclass(frozen=True)
class Benchmark:
    """Tables, the machine they were measured on, and the same as plain data."""

    title: str
    tables: Sequence[Rows]
    data: dict[str, object]

    def json(self) -> str:
        """The data as JSON, one object."""
        return json.dumps(self.data, indent=2) + "\n"

    def __str__(self) -> str:
        return "\n".join([self.title, "\n\n".join(_table(rows) for rows in self.tables)])


def _table(rows: Rows) -> str:
    widths = [max(len(row[k]) for row in rows) for k in range(len(rows[0]))]
    lines = ("  ".join(f"{cell:<{w}}" for cell, w in zip(row, widths, strict=True)).rstrip() for row in rows)
    return "\n".join(lines)


def sizes(text: str, option: str, least: int = 1) -> tuple[int, ...]:
    """``"64x1x28x28"`` → (64, 1, 28, 28). Raises ``ValueError`` naming the option.

    >>> sizes("16x1", "--block")
    (16, 1)
    """
    parts = text.lower().replace("×", "x").split("x")
    if len(parts) < least or not all(p.isdecimal() and int(p) > 0 for p in parts):
        raise ValueError(f"{option} is written as 64x128, with integers ≥ 1; got {text!r}")
    return tuple(int(p) for p in parts)


def _pair(text: str, option: str) -> tuple[int, int]:
    found = sizes(text, option)
    if len(found) != 2:
        raise ValueError(f"{option} is two numbers, as 64x128; got {text!r}")
    return found[0], found[1]


def settings(
    shapes: Sequence[str],
    tokens: Sequence[int],
    sparsities: Sequence[float],
    blocks: Sequence[str],
    bits: int | None,
    dtype: str,
    threads: int,
    device: str = "cpu",
) -> list[Setting]:
    """Every combination, as the command line words them.

    Raises:
        ValueError: one that cannot be.
    """
    if dtype not in _DTYPES:
        raise ValueError(f"--dtype is one of {', '.join(_DTYPES)}; got {dtype!r}")
    for sparsity in sparsities:
        if not 0 <= sparsity < 1:
            raise ValueError(f"--sparsity is the fraction that is gone, in [0, 1); got {sparsity}")
    forms: list[Format] = []
    for block in blocks:
        h, w = _pair(block, "--block")
        forms.append(CSR(bits) if (h, w) == (1, 1) else BSR(h, w, bits))
    weights = [_pair(shape, "--shape") for shape in shapes]
    combined = product(tokens, sparsities, forms, weights)
    return [Setting(*shape, n, gone, form, _DTYPES[dtype], threads, device) for n, gone, form, shape in combined]


def _machine(device: str = "cpu") -> dict[str, object]:
    on = processor() if device == "cpu" else torch.cuda.get_device_name(device)
    return {"processor": on, "torch": torch.__version__, "python": platform.python_version()}


def of_products(wanted: Sequence[Setting], rivals: bool, budget: float) -> Benchmark:
    """Time every setting; speed-ups over dense ``F.linear``, and their geometric mean over shapes."""
    found = [bench(setting, rivals, budget) for setting in wanted]
    names = list(dict.fromkeys(name for m in found for name in m.seconds if name != "dense"))
    rows: list[tuple[str, ...]] = [("", "dense", "ideal", *names, "ours, GFLOP/s of kept")]
    for m in found:
        ratios = [f"{m.speedup(name):.2f}×" if name in m.seconds else "–" for name in names]
        cells = (f"{m.seconds['dense'] * 1e6:,.0f} µs", f"{m.ideal:.1f}×", *ratios, f"{m.gflops('ours'):.0f}")
        rows.append((str(m.setting), *cells))
    together: dict[str, list[float]] = {}
    for m in found:
        s = m.setting
        label = f"{s.tokens} tokens, {s.sparsity:.0%} of {s.form} gone"
        together.setdefault(label, []).append(m.speedup("ours"))
    means = {label: geometric_mean(ratios) for label, ratios in together.items()}
    if len(found) > len(means):
        ours = names.index("ours")
        for label, mean in means.items():
            blank = [""] * (len(rows[0]) - 1)
            blank[2 + ours] = f"{mean:.2f}×"
            rows.append((f"geometric mean, {label}", *blank))
    first = wanted[0]
    peak = measured_peak(first.dtype, first.threads, budget, first.device)
    machine = _machine(first.device)
    title = f"{machine['processor']}, torch {machine['torch']}; dense reaches {peak:.0f} GFLOP/s on 2048×2048×2048"
    data = {**machine, "peak_gflops": peak, "settings": [m.to_dict() for m in found], "geometric_means": means}
    return Benchmark(title, [rows], data)


def tables(found: EndToEnd) -> list[Rows]:
    """What was found, as three tables: end to end, layer by layer, and where the time goes."""
    dense = found.seconds["dense"]
    whole: list[tuple[str, ...]] = [("", "time", "against dense")]
    whole += [(way, f"{t * 1e6:,.0f} µs", f"{dense / t:.2f}×") for way, t in found.seconds.items()]
    whole.append(("Amdahl's bound", "", f"{found.bound:.2f}×, {found.speedup / found.bound:.0%} of it reached"))
    ways = list(dict.fromkeys(way for layer in found.layers.values() for way in layer.seconds if way != "dense"))
    layers: list[tuple[str, ...]] = [("packed layer", "input", "dense", "ideal", *ways)]
    for path, layer in found.layers.items():
        own = layer.seconds["dense"]
        ratios = (f"{own / layer.seconds[way]:.2f}×" if way in layer.seconds else "–" for way in ways)
        sizes = "×".join(map(str, layer.shape))
        layers.append((path or "the net", sizes, f"{own * 1e6:,.0f} µs", f"{1 / max(layer.kept, 1e-9):.1f}×", *ratios))
    spent: list[tuple[str, ...]] = [("time spent in", "dense", "sparse")]
    kinds = dict.fromkeys(kind for times in found.spent.values() for kind in times)
    for kind in sorted(kinds, key=lambda kind: -found.spent["sparse"].get(kind, 0.0)):
        times = (found.spent[way].get(kind) for way in ("dense", "sparse"))
        spent.append((kind, *("–" if t is None else f"{t * 1e6:,.0f} µs" for t in times)))
    return [whole, layers, spent] if found.layers else [whole, spent]


def _shape(x: object) -> object:
    """The shapes of a batch, as JSON has them."""
    if isinstance(x, Mapping):
        return {name: _shape(part) for name, part in x.items()}
    return [_shape(part) for part in x] if isinstance(x, tuple) else list(x.shape) if isinstance(x, Tensor) else None


def of_model(
    path: Path,
    given: object,
    threads: int,
    budget: float,
    rivals: bool = True,
    net: nn.Module | None = None,
) -> Benchmark:
    """Time a saved net against its dense self on a batch, or on a random one of the shape that is given (a tuple of
    numbers), convolutions channels-last.

    ``net`` is the skeleton, where its class is the user's own: see :func:`bayesprune.sparse.load`.

    Raises:
        ValueError: the net does not take that batch, or is refused by :func:`bayesprune.sparse.load`.
    """
    sparse = load(path, net)
    dense = dense_twin(sparse)
    dtype = next((p.dtype for p in dense.parameters() if p.is_floating_point()), torch.float32)
    x = given
    if isinstance(given, tuple) and all(isinstance(size, int) for size in given):
        x = torch.randn(given, generator=torch.Generator().manual_seed(0)).to(dtype)
    if isinstance(x, Tensor) and x.dim() == 4:
        dense, x = channels_last(dense), x.contiguous(memory_format=torch.channels_last)
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        found = compare(sparse, dense, x, runtime=rivals, rivals=rivals, budget=budget)
    finally:
        torch.set_num_threads(before)
    peak = measured_peak(dtype, threads, budget)
    machine = {**_machine(), "peak_gflops": peak}
    data = {**machine, "model": str(path), "shape": _shape(x), "threads": threads, **found.to_dict()}
    title = (
        f"{path}, input {shape_of(x)}, {threads} thread{'s' * (threads != 1)}; "
        f"outputs {found.apart:.1e} apart; dense reaches {peak:.0f} GFLOP/s on 2048×2048×2048"
    )
    return Benchmark(title, tables(found), data)
