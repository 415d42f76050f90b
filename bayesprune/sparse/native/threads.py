"""Threading of a kernel on torch's own thread pool, so that no two pools compete."""

import ctypes
import re
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path

from bayesprune.sparse.native.compiled import Entry

__all__ = ["share"]

_OPENMP = re.compile(r"(/\S*lib(?:gomp|iomp5|omp)[^/\s]*\.so[^/\s]*)$")


@cache
def _openmp() -> Callable[[int, int, int, int], None] | None:
    """``GOMP_parallel`` of the OpenMP that torch has loaded; None where it cannot be found."""
    try:
        loaded = {m[1] for line in Path("/proc/self/maps").read_text().splitlines() if (m := _OPENMP.search(line))}
    except OSError:
        return None
    for path in sorted(loaded):
        parallel = getattr(ctypes.CDLL(path), "GOMP_parallel", None)
        if parallel is not None:
            parallel.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_uint, ctypes.c_uint]
            parallel.restype = None
            return parallel
    return None


@cache
def _pool(threads: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(threads, thread_name_prefix="bayesprune")


def share(function: Entry, address: int, arguments: int, threads: int) -> None:
    """Call the kernel on ``threads`` threads at once; they share its arguments and take items from its counter."""
    parallel = _openmp()
    if parallel is not None:
        parallel(address, arguments, threads, 0)
        return
    for done in [_pool(threads).submit(function, arguments) for _ in range(threads)]:
        done.result()
