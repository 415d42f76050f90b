"""Autotuning of tile sizes: measured once for a device and a kind of product, and cached on disk."""

import math
import os
from collections.abc import Callable
from functools import cache
from typing import NamedTuple

import torch

from bayesprune.sparse.gpu.devices import interpreted
from bayesprune.sparse.timing.cache import timed

__all__ = ["MOST_FEW", "Config", "Problem", "Replayed", "candidates", "choose", "limits", "power", "shared_memory"]

MOST_FEW = 8  # tokens up to which the kernel without tensor cores is a candidate
_MOST_TOKENS = 8192  # products of more are alike
_TURNED_FROM = 32  # tokens from which x may be laid feature by feature
_SHORT = 1024  # tokens up to which a product may take less time than the host needs to call it
_TOGETHER = 20  # calls that are then timed as one
_VECTOR = 16  # bytes that one thread loads at best


class Config(NamedTuple):
    """One way to run a product."""

    few: bool  # the kernel of few tokens, or that of many
    tile: int  # tokens a program
    step: int  # entries a step
    split: int  # programs that share a block row; their sums are added up by a second kernel
    turned: bool  # whether x is laid feature by feature before
    warps: int
    stages: int


class Problem(NamedTuple):
    """A kind of product, and what the device has for it. Counts are rounded up to powers of two: see :meth:`of`."""

    values: torch.dtype
    x: torch.dtype
    cores: bool  # whether tensor cores do it: not float32 in full precision
    h: int
    w: int
    rows: int  # block rows
    entries: int  # stored inputs a block row, on average
    tokens: int
    memory: int  # bytes of shared memory that a program may have
    processors: int
    aligned: bool = True  # whether x's rows can be read by vectors: they begin at multiples of 16 inputs

    @classmethod
    def of(
        cls,
        values: torch.Size | tuple[int, ...],
        dtypes: tuple[torch.dtype, torch.dtype],
        cores: bool,
        rows: int,
        tokens: int,
        device: torch.device,
        aligned: bool = True,
    ) -> "Problem":
        """The problem of values ``(nnz, w, h)`` in ``rows`` block rows, by an x; ``dtypes`` are theirs."""
        nnz, w, h = values
        entries = power(-(-nnz * w // max(rows, 1)))
        tokens = min(power(tokens), _MOST_TOKENS)
        return cls(*dtypes, cores, h, w, power(rows), entries, tokens, *limits(device), aligned)


def power(count: int) -> int:
    """The least power of two that is ``count`` or more.

    >>> [power(n) for n in (0, 1, 3, 16, 17)]
    [1, 1, 4, 16, 32]
    """
    return 1 << max(count - 1, 0).bit_length()


@cache
def limits(device: torch.device) -> tuple[int, int]:
    """Bytes of shared memory that a program may have, and multiprocessors; an A100's for the interpreter."""
    if device.type != "cuda":
        return 163 * 1024, 108
    properties = torch.cuda.get_device_properties(device)
    return properties.shared_memory_per_block_optin, properties.multi_processor_count  # type: ignore[attr-defined]


def shared_memory(config: Config, problem: Problem) -> int:
    """Bytes of shared memory that the kernel asks for at most: for its stages, and its sums on their way out."""
    wide = power(problem.h)
    out = config.tile * wide * (4 if config.split > 1 else problem.x.itemsize)
    left, right = config.tile * problem.x.itemsize, wide * problem.values.itemsize
    converted = 0 if problem.values == problem.x else wide * problem.x.itemsize
    stages = config.step * (config.stages * (left + right + 4) + converted)
    return stages + config.tile * wide * 4 * config.warps if config.few else max(stages, out)


def _splits(problem: Problem, tile: int, step: int) -> list[int]:
    """Into how many parts block rows are cut, best first: into more than one where they are too few for the device."""
    wide = power(problem.h)
    programs = problem.rows * -(-problem.tokens // tile)
    loaded, added_up = problem.entries * (tile + wide) * problem.x.itemsize, 16 * tile * wide  # bytes
    most = min(problem.processors // programs, problem.entries // (2 * step), loaded // added_up, 16)
    if most < 2:
        return [1]
    split = 1 << most.bit_length() - 1
    return [split, 1] if 4 * programs <= problem.processors else [1, split]


def _of_few(problem: Problem) -> list[Config]:
    tile = problem.tokens
    step = min(128, 4096 // (tile * power(problem.h)))
    return [Config(True, tile, step, split, False, 4, 3) for split in _splits(problem, tile, step)]


def _tiles(problem: Problem) -> list[tuple[int, int]]:
    """Tokens a program and its warps, best first."""
    tokens, wide = problem.tokens, power(problem.h)
    if not problem.cores:
        return [(64, 4), (32, 4)] if tokens > 32 else [(max(tokens, 16), 4)]
    if tokens < 128:
        return [(64, 4), (32, 4)] if tokens == 64 else [(max(tokens, 16), 4)]
    if wide == 128:  # larger tiles want more registers than there are
        return [(128, 8), (64, 4)]
    widest = [(256, 8)] if tokens >= 512 and problem.x.itemsize == 2 else []
    return [(128, 4), (64, 4), (128, 8), *widest]


def _steps(problem: Problem) -> list[int]:
    """Entries a step, best first: of one block where it is wide, else of several."""
    most = 128 // problem.x.itemsize if problem.cores else 16
    within = math.gcd(problem.w, most)
    steps = [within] if within >= 32 or 16 == within < problem.w else [most, 32]
    return [step for step in dict.fromkeys(steps) if step <= max(problem.entries, within)] or [16]


def _of_many(problem: Problem) -> list[Config]:
    """The likely best, and what differs from it in one way."""
    w, tiles, steps = problem.w, _tiles(problem), _steps(problem)
    narrow = w % steps[0] != 0 and (w != power(w) or w * problem.x.itemsize < _VECTOR)
    aside = narrow or not problem.aligned  # x is read number by number
    turns = [False] if not aside or problem.tokens < _TURNED_FROM else [True, False]
    splits = _splits(problem, tiles[0][0], steps[0])
    tile, warps = tiles[0]
    first = Config(False, tile, steps[0], splits[0], turns[0], warps, 4)
    found = [first, first._replace(stages=3)]
    found += [first._replace(split=split) for split in splits[1:]]
    found += [first._replace(tile=tile, warps=warps, split=1) for tile, warps in tiles[1:]]
    found += [first._replace(step=step) for step in steps[1:]]
    found += [first._replace(turned=turned) for turned in turns[1:]]
    return found


def _fitting(config: Config, problem: Problem) -> Config:
    """The same, with fewer stages and then shorter steps until there is memory for it."""
    while config.step > 16 and shared_memory(config, problem) > problem.memory:
        shorter = config._replace(stages=4, step=config.step // 2)
        config = config._replace(stages=3) if config.stages > 3 else shorter
    return config


def candidates(problem: Problem) -> list[Config]:
    """The configurations worth a try, the likely best first: it serves where nothing may be measured.

    >>> a100 = 163 * 1024, 108
    >>> candidates(Problem(torch.float16, torch.float16, True, 64, 16, 64, 512, 1024, *a100))[0]
    Config(few=False, tile=128, step=64, split=1, turned=False, warps=4, stages=4)
    """
    few = _of_few(problem) if problem.tokens <= MOST_FEW else []
    return list(dict.fromkeys([*few, *(_fitting(config, problem) for config in _of_many(problem))]))


class Replayed:
    """Several calls as one CUDA graph, captured when it first runs, so that short ones are not timed by their host."""

    def __init__(self, run: Callable[[], object]) -> None:
        self._run = run
        self._graph: torch.cuda.CUDAGraph | None = None

    def __call__(self) -> None:
        if self._graph is None:
            self._run()  # compiles, which a capture does not allow
            self._graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(self._graph, capture_error_mode="thread_local"):
                for _ in range(_TOGETHER):
                    self._run()
        self._graph.replay()


def choose(
    problem: Problem, device: torch.device, prepare: Callable[[Config], Callable[[], object]]
) -> tuple[Config, bool]:
    """The fastest candidate, and whether that is settled: during a CUDA graph's capture nothing can be measured.

    ``prepare`` gives what runs with a configuration. ``BAYESPRUNE_TUNE=0`` takes the first candidate and measures
    nothing.
    """
    found = candidates(problem)
    if len(found) == 1 or device.type != "cuda" or interpreted() or os.environ.get("BAYESPRUNE_TUNE") == "0":
        return found[0], True
    if torch.cuda.is_current_stream_capturing():
        return found[0], False
    short = problem.tokens <= _SHORT
    runners = {repr(config): Replayed(prepare(config)) if short else prepare(config) for config in found}
    seconds, _ = timed(runners, about=("sparse_linear", *problem), device=device)
    fastest = min(seconds, key=seconds.__getitem__)
    return next(config for config in found if repr(config) == fastest), True
