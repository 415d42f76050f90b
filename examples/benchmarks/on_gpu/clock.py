"""Time ways of doing one thing on a GPU, in turns; a rehearsal runs them and takes no time."""

import math
import time
from collections.abc import Callable, Mapping
from statistics import quantiles
from typing import Any

import torch
from torch import Tensor

__all__ = ["GRAPH", "Clock", "Rehearsal", "Way", "failure", "largest_error"]

Way = Callable[[], Any]

GRAPH = ", graph"  # how the name of a way in a CUDA graph ends
_HIDDEN = 5e-4  # seconds of work queued before a call that is timed on the device, so that the host is ahead of it
_SAMPLES = 3  # calls of a way on the device in a round
_TRIED, _HOPELESS = 3, 100  # rounds after which a way sits out, and how much longer than the first it then takes
_WALL = 1e-3  # seconds that the calls behind one wall time should last


def _quartiles(values: list[float], scale: float = 1.0) -> list[float]:
    """First quartile, median, third quartile."""
    return [scale * q for q in (quantiles(values, method="inclusive") if len(values) > 1 else 3 * values)]


def failure(error: Exception) -> str:
    """An error as one line of a table."""
    return f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0][:300]}"


class Clock:
    """Times on a CUDA device.

    *Device* times are those of one call between two CUDA events, behind 0.5 ms of reads over four times the L2: the
    caches are cold, as other layers would leave them, with nothing to write back, and the launch is hidden. *Wall*
    times are those of calls one after the other, until the device is done with them; *host* times until the last one
    was handed over. In both of these the caches are as the calls leave them.
    """

    rehearsal = False

    def __init__(self, device: torch.device) -> None:
        self.device = device
        cache = torch.cuda.get_device_properties(device).L2_cache_size
        self._space = torch.zeros(max(cache, 2**26), device=device)  # of four bytes
        self._sweeps = 0
        self._sweeps = math.ceil(_HIDDEN / self.seconds(self._space.sum, 10))

    def _once(self, way: Way) -> tuple[torch.cuda.Event, torch.cuda.Event]:
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        for _ in range(self._sweeps):
            self._space.sum()
        start.record()
        way()
        end.record()
        return start, end

    def _device(self, way: Way, samples: int) -> float:
        """The median device time of a call, in seconds."""
        pairs = [self._once(way) for _ in range(samples)]
        torch.cuda.synchronize(self.device)
        return sorted(start.elapsed_time(end) for start, end in pairs)[samples // 2] * 1e-3

    def _wall(self, way: Way, calls: int) -> tuple[float, float]:
        """Seconds of a call, and seconds in which it is handed over."""
        torch.cuda.synchronize(self.device)
        start = time.perf_counter()
        for _ in range(calls):
            way()
        handed = time.perf_counter()
        torch.cuda.synchronize(self.device)
        return (time.perf_counter() - start) / calls, (handed - start) / calls

    def seconds(self, way: Way, samples: int = 15) -> float:
        """The median device time of a call of a way, after one to warm up."""
        way()
        return self._device(way, samples)

    def host(self, way: Way, calls: int = 200, rounds: int = 15) -> float | None:
        """The median seconds in which a call is handed over, where the device is never waited for."""
        self._wall(way, calls)
        return sorted(self._wall(way, calls)[1] for _ in range(rounds))[rounds // 2]

    def race(
        self, ways: Mapping[str, Way], *, budget: float, least: int = 7, most: int = 30, device: bool = True
    ) -> dict[str, dict[str, Any]]:
        """Each way in turns (A B C A B C) for ``budget`` seconds, in ``least`` to ``most`` rounds.

        After three rounds, a way that takes 100 times as long as the first sits out.

        Returns:
            By way, and each as its quartiles over rounds: ``wall_us``, ``host_us`` and ``wall_ratio``, the first way's
            time over this one's in the same round, where both are in a graph or neither is; with ``device``,
            ``device_us`` and ``device_ratio`` too.
        """
        calls, rounds, first = {}, 0, next(iter(ways))
        for name, way in ways.items():
            self._wall(way, 1)
            calls[name] = min(50, math.ceil(_WALL / self._wall(way, 1)[0]))
        found: dict[str, dict[str, list[float]]] = {name: {"device": [], "wall": [], "host": []} for name in ways}
        started = time.perf_counter()
        while rounds < least or (rounds < most and time.perf_counter() - started < budget):
            for name, way in ways.items():
                walls = found[name]["wall"]
                if len(walls) == _TRIED and min(walls) > _HOPELESS * min(found[first]["wall"]):
                    continue
                if device:
                    found[name]["device"].append(self._device(way, _SAMPLES))
                for kind, seconds in zip(("wall", "host"), self._wall(way, calls[name]), strict=True):
                    found[name][kind].append(seconds)
            rounds += 1
        told: dict[str, dict[str, Any]] = {}
        for name, times in found.items():
            told[name] = {f"{kind}_us": _quartiles(t, 1e6) for kind, t in times.items() if t}
            for kind in ("device", "wall"):
                base = found.get(first + GRAPH * name.endswith(GRAPH), {}).get(kind)
                if base:
                    ratios = [a / b for a, b in zip(base, times[kind], strict=False)]
                    told[name][f"{kind}_ratio"] = _quartiles(ratios)
            told[name]["rounds"] = len(times["wall"])
        return told

    def captured(self, way: Way) -> Way:
        """The replay of a CUDA graph of one call, which gives that call's result."""
        stream = torch.cuda.Stream(self.device)
        stream.wait_stream(torch.cuda.current_stream(self.device))
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.stream(stream):
            for _ in range(3):
                way()
            stream.synchronize()
            graph.capture_begin()  # torch.cuda.graph would empty the allocator's cache, every time
            try:
                made = way()
            finally:
                graph.capture_end()
        torch.cuda.current_stream(self.device).wait_stream(stream)

        def replay() -> object:
            graph.replay()
            return made

        return replay

    def what_ran(self, way: Way) -> str:
        """The kernel that takes the most device time of a call, by its name."""
        from torch.autograd import DeviceType
        from torch.profiler import ProfilerActivity, profile

        torch.cuda.synchronize(self.device)
        try:
            with profile(activities=[ProfilerActivity.CUDA]) as seen:
                way()
                torch.cuda.synchronize(self.device)
        except RuntimeError as error:
            return f"not seen: {failure(error)}"
        times: dict[str, float] = {}
        for event in seen.events() or ():
            if event.device_type == DeviceType.CUDA:
                times[event.name] = times.get(event.name, 0.0) + event.time_range.elapsed_us()
        return max(times, key=times.__getitem__)[:120] if times else "not seen by the profiler"


class Rehearsal(Clock):
    """The same calls once each on the CPU, and no time: what a rehearsal says cannot be taken for a measurement."""

    rehearsal = True

    def __init__(self, device: torch.device) -> None:
        self.device = device

    def host(self, way: Way, calls: int = 200, rounds: int = 15) -> float | None:
        way()
        return None

    def race(
        self, ways: Mapping[str, Way], *, budget: float, least: int = 7, most: int = 30, device: bool = True
    ) -> dict[str, dict[str, Any]]:
        for way in ways.values():
            way()
        kinds = ("device_us", "wall_us", "host_us", "device_ratio", "wall_ratio")
        return {name: {kind: None for kind in kinds if device or "device" not in kind} for name in ways}

    def captured(self, way: Way) -> Way:
        return way

    def what_ran(self, way: Way) -> str:
        way()
        return "rehearsal"


def largest_error(found: Tensor, truth: Tensor) -> float:
    """The largest difference from float64's result, in units of its largest entry."""
    return float((found.double() - truth).abs().max() / truth.abs().max().clamp_min(1e-300))
