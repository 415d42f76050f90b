"""By how much memory rises while something runs, as Linux counts it."""

import ctypes
import gc
from collections.abc import Callable
from pathlib import Path


def memory() -> dict[str, int]:
    """``VmRSS``, resident, its most ``VmHWM``, ``VmSize``, asked for, and its most ``VmPeak``, in bytes."""
    lines = (line.split() for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("Vm"))
    return {key.rstrip(":"): int(kilobytes) * 1024 for key, kilobytes, _ in lines}


def give_back() -> None:
    """Give all that is free back to the system."""
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)


def settled() -> int:
    """What is resident once all that is free was given back."""
    give_back()
    return memory()["VmRSS"]


def allocated(run: Callable[[], object]) -> tuple[object, int]:
    """What ``run`` returns or raises, and by how much memory rose in it, resident or merely asked for."""
    Path("/proc/self/clear_refs").write_text("5")
    before = memory()
    try:
        result = run()
    except Exception as error:
        result = error
    after = memory()
    asked = after["VmPeak"] - before["VmSize"] if after["VmPeak"] > before["VmPeak"] else 0
    return result, max(after["VmHWM"] - before["VmRSS"], asked)
