"""The results as Markdown tables, and whether they reach what was set out to be reached."""

from collections.abc import Callable, Iterable, Sequence
from statistics import median
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from on_gpu.bounds import KNOWN, Shape, block_bound, dense_bound, known_peaks

__all__ = ["bound_tables", "print_tables", "tables"]

Rows = Sequence[Sequence[str]]
_NONE = "–"
_WAYS = ("cuBLAS", "cuBLAS, graph", "torch BSR", "torch BSR, padded", "2:4", "ours", "ours, graph")
_BESIDE = ("ours, in graphs", "ours, wall", "largest error", "torch BSR ran")


def _block(cell: dict[str, Any]) -> str:
    return "{}×{}".format(*cell["block"])


def _middle(way: dict[str, Any], key: str, form: str = "{:.2f}×") -> str:
    """A median, or that there is none."""
    found = way.get(key)
    return _NONE if found is None else form.format(found[1])


def _spread(way: dict[str, Any], key: str) -> str:
    """A ratio with its quartiles."""
    found = way.get(key)
    return _NONE if found is None else "{1:.2f}× ({0:.2f}–{2:.2f})".format(*found)


def _markdown(rows: Rows) -> str:
    lines = [f"| {' | '.join(row)} |" for row in rows]
    return "\n".join([lines[0], "|" + "---|" * len(rows[0]), *lines[1:]])


def _title(cell: dict[str, Any]) -> str:
    return f"{cell['weight'][0]}×{cell['weight'][1]}, {cell['dtype']}"


def _kinds(records: Iterable[dict[str, Any]], *keys: str) -> list[dict[str, Any]]:
    """The first record of each combination of ``keys``."""
    seen: dict[str, dict[str, Any]] = {}
    for record in records:
        seen.setdefault(str([record[key] for key in keys]), record)
    return list(seen.values())


def _grid(layers: list[dict[str, Any]], cell: Callable[[dict[str, Any]], str]) -> list[list[str]]:
    """Tokens down, blocks across."""
    blocks = list(dict.fromkeys(map(_block, layers)))
    rows = [["tokens", *blocks]]
    for tokens in sorted({record["tokens"] for record in layers}):
        own = {_block(record): cell(record) for record in layers if record["tokens"] == tokens}
        rows.append([f"{tokens:,}", *(own.get(block, _NONE) for block in blocks)])
    return rows


def _of_bound(record: dict[str, Any]) -> str:
    """Ours over cuBLAS, and the share of the bound reached."""
    ours, share = record["ways"].get("ours", {}), record.get("of_bound")
    if "error" in ours or "error" in record:
        return "failed"
    return _middle(ours, "device_ratio") + ("" if share is None else f", {share:.0%}")


def _layer_tables(layers: list[dict[str, Any]]) -> list[tuple[str, Rows]]:
    found: list[tuple[str, Rows]] = []
    for one in _kinds(layers, "dtype", "weight", "sparsity"):
        own = [r for r in layers if all(r[k] == one[k] for k in ("dtype", "weight", "sparsity"))]
        title = f"{_title(one)}, {one['sparsity']:.0%} of the blocks gone: ours over cuBLAS, and the share of the bound"
        found.append((f"{title} (device time, cold caches)", _grid(own, _of_bound)))
    for one in _kinds(layers, "dtype", "weight", "block", "sparsity"):
        if one["block"] not in ([64, 64], [16, 16]) or one["sparsity"] not in (0.9, 0.5):
            continue
        own = [r for r in layers if all(r[k] == one[k] for k in ("dtype", "weight", "block", "sparsity"))]
        rows: list[list[str]] = [["tokens", "bound", "limit", *_WAYS, *_BESIDE]]
        for record in sorted(own, key=lambda r: r["tokens"]):
            ways = {name: record["ways"].get(name, {}) for name in _WAYS}
            times = [_middle(way, "device_us", "{:.1f} µs") for way in ways.values()]
            bound, error = record.get("bound_us"), ways["ours"].get("error_of_float64")
            told = ways["torch BSR"].get("ran") or ways["torch BSR"].get("error", _NONE)
            rows.append(
                [
                    f"{record['tokens']:,}",
                    _NONE if bound is None else f"{bound:.1f} µs",
                    record.get("limit", _NONE),
                    *times,
                    _middle(ways["ours, graph"], "device_ratio"),
                    _middle(ways["ours"], "wall_us", "{:.1f} µs"),
                    _NONE if error is None else f"{error:.1e}",
                    f"`{told[:60]}`",
                ]
            )
        title = f"{_title(one)}, {one['sparsity']:.0%} of {_block(one)} blocks gone: device times, cold caches"
        found.append((title, rows))
    return found


def _host_tables(host: list[dict[str, Any]]) -> list[tuple[str, Rows]]:
    if not host:
        return []
    rows: list[list[str]] = [["tokens", *(str(record["tokens"]) for record in host)]]
    for name in host[0]["ways"]:
        found = [record["ways"][name] for record in host]
        rows.append([name, *(_us(way.get("host_us")) if "error" not in way else "failed" for way in found)])
    for name in host[0]["where_us"] or {}:
        rows.append([f"of layer(x): {name}", *(_us(record["where_us"][name]) for record in host)])
    return [("What a call costs the host, 64×64 blocks, bf16", rows)]


def _us(value: float | None) -> str:
    return _NONE if value is None else f"{value:.1f} µs"


def _net_tables(nets: list[dict[str, Any]]) -> list[tuple[str, Rows]]:
    if not nets:
        return []
    rows = [
        ["net", "batch", "dtype", "packed", "dense", "sparse", "dense, graph", "sparse, graph", "ratio", "in graphs"]
    ]
    for record in nets:
        ways = record["ways"]
        of = [ways.get(name, {}) for name in ("dense", "sparse", "dense, graph", "sparse, graph")]
        times = [_middle(way, "wall_us", "{:,.0f} µs") for way in of]
        packed = f"{record['packed']} of {record['masked']}" if "packed" in record else record["error"][:60]
        ratios = _spread(of[1], "wall_ratio"), _spread(of[3], "wall_ratio")
        rows.append([record["net"], str(record["batch"]), record["dtype"], packed, *times, *ratios])
    block = _block(nets[0])
    return [(f"Whole nets, 90 % of {block} blocks gone, wall time of a call", rows)]


def _training_tables(training: list[dict[str, Any]]) -> list[tuple[str, Rows]]:
    if not training:
        return []
    rows = [["net", "batch", "dense step", "SparseVD step", "SparseVD over dense"]]
    for record in training:
        dense, vd = record["ways"]["dense"], record["ways"]["SparseVD"]
        ratio = vd.get("wall_ratio")
        over = _NONE if ratio is None else "{:.2f}× ({:.2f}–{:.2f})".format(*(1 / ratio[i] for i in (1, 2, 0)))
        times = (_middle(way, "wall_us", "{:,.0f} µs") for way in (dense, vd))
        rows.append([record["net"], str(record["batch"]), *times, over])
    return [("The training step, float32", rows)]


def _goals(data: dict[str, Any]) -> list[tuple[str, Rows]]:
    """Each goal, what was measured, and whether it is held; nothing where nothing was measured."""

    def picked(**wanted: Any) -> list[dict[str, Any]]:
        same = {"dtype": "bfloat16", "weight": [4096, 4096], **wanted}
        held = [r for r in data["layers"] if all(r[k] == v for k, v in same.items()) and "error" not in r]
        return [r for r in held if r["ways"]["ours"].get("device_us")]

    rows = [["goal", "measured", "held"]]

    def goal(text: str, values: list[float], least: float, form: str = "{:.2f}×", most: bool = False) -> None:
        if values:
            worst = max(values) if most else min(values)
            kind = "largest" if most else "least"
            said = f"{kind} {form.format(worst)}, median {form.format(median(values))}, of {len(values)}"
            rows.append([text, said, "yes" if (worst <= least if most else worst >= least) else "no"])

    for sparsity, least in ((0.9, 2.2), (0.95, 4.5)):
        cells = [r for r in picked(sparsity=sparsity) if r["block"] == [64, 64] and r["tokens"] >= 512]
        ratios = [r["ways"]["ours"]["device_ratio"][1] for r in cells]
        goal(f"≥ {least}× cuBLAS, bf16, 64×64, {sparsity:.0%} gone, ≥ 512 tokens", ratios, least)
    over = []
    for record in picked():
        rivals = [record["ways"].get(name, {}).get("device_us") for name in ("torch BSR", "torch BSR, padded")]
        if record["tokens"] <= 32 and any(rivals):
            over.append(min(r[1] for r in rivals if r) / record["ways"]["ours"]["device_us"][1])
    goal("≥ 5× torch's BSR, padded or not, at ≤ 32 tokens, device time", over, 5.0)
    goal("≥ 60 % of the bound, all bf16 cells of 4096²", [r["of_bound"] for r in picked()], 0.6, "{:.0%}")
    host = [r["ways"]["layer(x)"].get("host_us") for r in data["host"]]
    goal("≤ 35 µs of host time a call", [us for us in host if us is not None], 35.0, "{:.1f} µs", most=True)
    errors = [r["ways"]["ours"]["error_of_float64"] for r in picked()]
    goal("within 1e-2 of float64, bf16", errors, 1e-2, "{:.1e}", most=True)
    return [("What was set out to be reached", rows)] if len(rows) > 1 else []


def _about(data: dict[str, Any]) -> list[str]:
    machine, lines = data["machine"], []
    if data["rehearsal"]:
        lines.append("**A rehearsal on a CPU: nothing in this file is a measurement.**")
    versions = ", ".join(
        f"{key} {machine[key]}" for key in ("driver", "cuda", "torch", "triton", "python", "bayesprune")
    )
    commit = f", commit {machine['commit'][:12]}" if machine["commit"] else ""
    lines.append(f"{machine['device']}, {versions}{commit}{' with changes' if machine['changed_since'] else ''}.")
    lines += [f"{run['date']}: `{run['command']}`" for run in data["runs"]]
    if data["peaks"]:
        peaks, known = data["peaks"], known_peaks(machine["device"])
        said = "measured {:.0f} TFLOP/s in bf16, {:.2f} TB/s of memory, {:.2f} TB/s of L2"
        beside = (
            ""
            if known is None
            else f" (known: {known.flops / 1e12:.0f}, {known.memory / 1e12:.2f}, {known.l2 / 1e12:.0f})"
        )
        lines.append(
            said.format(*(peaks[key] / 1e12 for key in ("flops", "memory", "l2")))
            + f"{beside}; a pair of events with nothing between takes {peaks['nothing_us']:.1f} µs."
        )
    for record in data["tests"]:
        counts = ", ".join(
            f"{record[word]} {word}" for word in ("passed", "failed", "errors", "skipped") if word in record
        )
        lines.append(f"`{record['command']}`: {counts or record['tail'][-1]}.")
    return lines + [f"{part}: {text}" for part, text in data["notes"].items()]


def _all(data: dict[str, Any]) -> list[tuple[str, Rows]]:
    parts = (_host_tables(data["host"]), _layer_tables(data["layers"]), _net_tables(data["nets"]))
    return [*(table for part in parts for table in part), *_training_tables(data["training"]), *_goals(data)]


def tables(data: dict[str, Any]) -> str:
    """Everything as Markdown."""
    parts = [f"### {title}\n\n{_markdown(rows)}" for title, rows in _all(data)]
    return "\n\n".join([*_about(data), *parts])


def print_tables(data: dict[str, Any]) -> None:
    """Everything as tables on the terminal."""
    console = Console(width=None if Console().is_terminal else 200)
    for line in _about(data):
        console.print(line, markup=False)
    for title, rows in _all(data):
        console.print(f"\n{title}", markup=False)
        table = Table(box=SIMPLE_HEAD)
        for heading in rows[0]:
            table.add_column(heading)
        for row in rows[1:]:
            table.add_row(*row)
        console.print(table)


def bound_tables(device: str) -> str:
    """What the roofline allows over dense bf16 on a device in ``KNOWN``: arithmetic, and no measurement."""
    peaks = KNOWN[device]
    rates = (
        f"{peaks.flops / 1e12:.0f} TFLOP/s, {peaks.memory / 1e12:.2f} TB/s of memory, {peaks.l2 / 1e12:.0f} TB/s of L2"
    )
    sparsities, lines = (0.8, 0.9, 0.95), []
    for out, into in ((4096, 4096), (4096, 11008)):
        rows = [["tokens", "dense, at least", *(f"{h} outputs" for h in (16, 32, 64, 128))]]
        for tokens in (1, 8, 32, 128, 512, 2048, 8192):
            shape, cells = Shape(out, into, tokens), []
            dense = dense_bound(shape, peaks).seconds
            for h in (16, 32, 64, 128):
                kept = [round((1 - gone) * out * into / (h * 16)) for gone in sparsities]
                ratios = (dense / block_bound(shape, (h, 16), blocks, peaks).seconds for blocks in kept)
                cells.append(" / ".join(f"{ratio:.1f}" for ratio in ratios))
            rows.append([f"{tokens:,}", f"{dense * 1e6:.1f} µs", *cells])
        lines.append(f"{out}×{into}, blocks of h outputs × 16 inputs, 80 / 90 / 95 % gone:\n\n{_markdown(rows)}")
    return "\n\n".join([f"Computed, not measured: bf16 on an {device} of {rates}.", *lines])
