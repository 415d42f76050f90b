"""Interleaved timing: several ways of doing one thing, measured in turns.

Written here because no library times candidates in turns: ``torch.utils.benchmark`` and ``timeit`` time one to its end.
"""

import time
from collections.abc import Callable, Mapping
from statistics import median

import torch

__all__ = ["time_interleaved"]


def _timed(run: Callable[[], object], times: int, device: torch.device) -> float:
    if device.type != "cpu":
        torch.accelerator.synchronize(device)
    start = time.perf_counter()
    for _ in range(times):
        run()
    if device.type != "cpu":
        torch.accelerator.synchronize(device)
    return (time.perf_counter() - start) / times


def time_interleaved(
    runners: Mapping[str, Callable[[], object]],
    *,
    device: torch.device,
    budget: float = 0.25,
    rounds: int = 50,
    sample: float = 1e-4,
    give_up: float = 3.0,
) -> dict[str, float]:
    """The median seconds of each runner. They take turns (A B C A B C), so that a busy moment hurts all alike.

    After three rounds, a runner whose best time is more than ``give_up`` times the best of all sits out, but for the
    first runner, which the others are compared with. Where one more call of each takes the budget, there is one round.

    Args:
        runners: what to time, by name.
        device: where they compute; other devices than the CPU are waited for.
        budget: seconds after which no new round starts.
        rounds: the most rounds.
        sample: seconds that one sample should last at least: short runners are repeated.
        give_up: see above; infinity lets all go on.

    >>> sorted(time_interleaved({"a": lambda: 1, "b": lambda: 2}, device=torch.device("cpu"), budget=0.01))
    ['a', 'b']
    """
    for run in runners.values():
        _timed(run, 1, device)  # compiles, where it has to
    start = time.perf_counter()
    repeats = {}
    for name, run in runners.items():
        repeats[name] = max(1, min(100, int(sample / max(_timed(run, 1, device), 1e-9))))
    times: dict[str, list[float]] = {name: [] for name in runners}
    baseline = next(iter(runners), None)
    least = 3 if time.perf_counter() - start < budget else 1
    for done in range(rounds):
        if done >= least and time.perf_counter() - start > budget:
            break
        best = min((min(t) for t in times.values() if t), default=float("inf"))
        for name, run in runners.items():
            if done < least or name == baseline or min(times[name]) <= give_up * best:
                times[name].append(_timed(run, repeats[name], device))
    return {name: median(t) for name, t in times.items()}
