"""End-to-end benchmark of a net against its dense self: total, per layer, Amdahl's bound, and a profile."""

import copy
import math
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from functools import partial
from importlib.util import find_spec
from statistics import median
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.module import register_module_forward_hook, register_module_forward_pre_hook

from bayesprune.sparse.bench.products import dense_twin, rival_ways
from bayesprune.sparse.layers.conv import channels_last
from bayesprune.sparse.layers.linear import SparseLinear
from bayesprune.sparse.onnx import program_of
from bayesprune.sparse.timing.interleaved import time_interleaved

__all__ = ["EndToEnd", "Layer", "called", "compare", "in_onnx_runtime", "shape_of", "spent"]


@dataclass(frozen=True)
class Layer:
    """A packed layer on its own: median seconds of a call of each way, ``"dense"`` and ``"sparse"`` among them.

    Args:
        shape: of its input.
        kept: the share of the weight's entries that is there.
        seconds: by way. The activation is in none.
        inside: seconds that the dense layer takes within the dense net, where other layers fill the caches; alone where
            the dense net does not call it (torch's attention and recurrent nets read their weights themselves).
    """

    shape: tuple[int, ...]
    kept: float
    seconds: Mapping[str, float]
    inside: float

    @property
    def ratio(self) -> float:
        """Dense time over sparse time."""
        return self.seconds["dense"] / self.seconds["sparse"]


@dataclass(frozen=True)
class EndToEnd:
    """What came out of :func:`compare`.

    Args:
        seconds: median time of a call of each way: ``"dense"``, ``"sparse"`` and, where installed,
            ``"onnxruntime dense"``.
        layers: each packed layer by its path.
        spent: of ``"dense"`` and ``"sparse"``, the seconds of a call by class of module, largest first.
        apart: the largest difference between the two outputs.
    """

    seconds: Mapping[str, float]
    layers: Mapping[str, Layer]
    spent: Mapping[str, Mapping[str, float]]
    apart: float

    @property
    def speedup(self) -> float:
        """Dense time over sparse time."""
        return self.seconds["dense"] / self.seconds["sparse"]

    @property
    def bound(self) -> float:
        """The speed-up if each packed layer gave what it gives alone, and all else took its time (Amdahl, 1967).

        T / (T − Σ tᵢ + Σ tᵢ / rᵢ) over layers that take tᵢ of the dense net's time T and run rᵢ times as fast packed.
        """
        saved = sum(layer.inside * (1 - 1 / layer.ratio) for layer in self.layers.values())
        return self.seconds["dense"] / (self.seconds["dense"] - saved)

    def to_dict(self) -> dict[str, object]:
        """Plain data for JSON."""
        return {
            "seconds": dict(self.seconds),
            "speedup": self.speedup,
            "bound": self.bound,
            "reached": self.speedup / self.bound,
            "largest_difference": self.apart,
            "layers": {path: asdict(layer) for path, layer in self.layers.items()},
            "spent": {way: dict(times) for way, times in self.spent.items()},
        }


def called(net: nn.Module, x: object) -> Any:
    """``net`` on a batch: a tensor, a tuple of several, or a mapping of named ones."""
    if isinstance(x, Mapping):
        return net(**x)
    return net(*x) if isinstance(x, tuple) else net(x)


def _result(net: nn.Module, x: object) -> Tensor:
    """The one tensor that a net gives, or that is called ``logits`` in what it gives."""
    try:
        given = called(net, x)
    except (RuntimeError, ValueError, TypeError, IndexError) as error:
        shape = tuple(x.shape) if isinstance(x, Tensor) else shape_of(x)
        raise ValueError(f"the net does not take an input of shape {shape}: {error}") from error
    found = given if isinstance(given, Tensor) else getattr(given, "logits", None)
    if not isinstance(found, Tensor):
        raise ValueError(f"expected a net that gives one tensor, or logits, got {type(given).__name__}")
    return found


def shape_of(x: object) -> str:
    """The shapes of a batch, in words.

    >>> shape_of({"ids": torch.zeros(2, 8), "mask": torch.zeros(2, 8)}), shape_of(torch.zeros(3))
    ('ids 2×8, mask 2×8', '3')
    """
    if isinstance(x, Mapping):
        return ", ".join(f"{name} {shape_of(part)}" for name, part in x.items())
    if isinstance(x, tuple):
        return ", ".join(map(shape_of, x))
    return "×".join(map(str, x.shape)) if isinstance(x, Tensor) else type(x).__name__


def spent(net: nn.Module, x: object, rounds: int = 5) -> dict[str, float]:
    """Seconds of a call of ``net`` by module, under its path: the median over ``rounds``.

    A module's time is that outside the modules it calls, so that a container's is what it does itself.

    >>> sorted(spent(nn.Sequential(nn.ReLU()), torch.ones(2), rounds=1))
    ['', '0']
    """
    paths = {module: path for path, module in net.named_modules()}
    clocks: list[list[float]] = []  # of each module that is running: when it started, and what its children took
    times: list[dict[str, float]] = []

    def start(_module: nn.Module, _args: object) -> None:
        clocks.append([time.perf_counter(), 0.0])

    def end(module: nn.Module, _args: object, _output: object) -> None:
        started, children = clocks.pop()
        took = time.perf_counter() - started
        if module in paths:
            times[-1][paths[module]] += took - children
        if clocks:
            clocks[-1][1] += took

    handles = register_module_forward_pre_hook(start), register_module_forward_hook(end)
    try:
        with torch.no_grad():
            for _ in range(rounds):
                times.append(defaultdict(float))
                called(net, x)
    finally:
        for handle in handles:
            handle.remove()
    return {path: median(t[path] for t in times) for path in times[0]}


def _by_class(net: nn.Module, times: Mapping[str, float]) -> dict[str, float]:
    kinds: dict[str, float] = defaultdict(float)
    for path, seconds in times.items():
        kinds[type(net.get_submodule(path)).__name__] += seconds
    return dict(sorted(kinds.items(), key=lambda item: -item[1]))


def in_onnx_runtime(net: nn.Module, x: Tensor, threads: int) -> Callable[[], object] | None:
    """A call of ``net``, as ONNX, on ``x`` in ONNX Runtime; None where it is not installed."""
    if any(find_spec(needed) is None for needed in ("onnx", "onnxruntime", "onnxscript")):
        return None
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    graph = program_of(net, x).model_proto.SerializeToString()
    session = onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
    named = {session.get_inputs()[0].name: x.contiguous().numpy()}
    return partial(session.run, None, named)


def _inputs(net: nn.Module, x: object) -> Iterator[tuple[str, Tensor]]:
    """The path of each packed layer, and a random input like the one that it has on ``x``."""
    like: dict[str, tuple[torch.Size, tuple[int, ...], torch.dtype]] = {}
    handles = []
    for path, module in net.named_modules():
        if isinstance(module, SparseLinear):

            def note(_module: nn.Module, args: tuple[Tensor, ...], path: str = path) -> None:
                like[path] = args[0].shape, args[0].stride(), args[0].dtype

            handles.append(module.register_forward_pre_hook(note))
    try:
        called(net, x)
    finally:
        for handle in handles:
            handle.remove()
    for path, (shape, stride, dtype) in like.items():
        yield path, torch.empty_strided(shape, stride, dtype=dtype).normal_()


def _layer(layer: SparseLinear, x: Tensor, rivals: bool, budget: float, inside: float | None) -> Layer:
    plain = copy.copy(layer)
    plain.activation = ""
    dense = channels_last(dense_twin(plain))
    ways: dict[str, Callable[[], object]] = {"dense": partial(dense, x), "sparse": partial(plain, x)}
    weight = plain.weight
    if rivals and weight.dim() == 2:
        ways |= rival_ways(plain.format, weight, weight != 0, x.reshape(-1, weight.shape[1]))
    seconds = time_interleaved(ways, device=x.device, budget=budget, rounds=100, sample=1e-3)
    kept = int(weight.count_nonzero()) / weight.numel()
    return Layer(tuple(x.shape), kept, seconds, seconds["dense"] if inside is None else inside)


def compare(
    sparse: nn.Module,
    dense: nn.Module,
    x: object,
    *,
    runtime: bool = True,
    rivals: bool = True,
    budget: float = 1.0,
) -> EndToEnd:
    """Time a net with packed layers against its dense self on ``x``, in turns, and each packed layer on its own.

    Args:
        sparse: what :func:`bayesprune.sparse.export` returned.
        dense: the dense net, in eval mode; :func:`bayesprune.sparse.bench.products.dense_twin` makes one.
        x: a batch, a tuple or a mapping of several; of images, channels-last as ``dense`` is where that is wanted.
        runtime: time ONNX Runtime on ``dense`` too, where it is installed and x is one tensor in float32.
        rivals: time torch's and scipy's sparse products for each packed linear layer too.
        budget: seconds for the nets; each layer has a quarter of it.

    Raises:
        ValueError: a net does not take ``x``.
    """
    with torch.no_grad():
        made, expected = (_result(net, x) for net in (sparse, dense))
        ways: dict[str, Callable[[], object]] = {
            "dense": partial(called, dense, x),
            "sparse": partial(called, sparse, x),
        }
        if runtime and isinstance(x, Tensor) and x.dtype == torch.float32:
            way = in_onnx_runtime(dense, x, torch.get_num_threads())
            ways |= {"onnxruntime dense": way} if way else {}
        seconds = time_interleaved(ways, device=made.device, budget=budget, rounds=500, sample=1e-3, give_up=math.inf)
        turns = max(1, min(20, int(budget / seconds["dense"])))
        times = {"dense": spent(dense, x, turns), "sparse": spent(sparse, x, turns)}
        clocked = seconds["dense"] / sum(times["dense"].values())  # taking the time of each module takes time
        layers, held = {}, dict(dense.named_modules())
        for path, like in _inputs(sparse, x):
            layer, alone = sparse.get_submodule(path), f"{path}.0".removeprefix(".")
            with_activation = isinstance(held.get(path), nn.Sequential)  # as a twin has what a packed layer took in
            inside = times["dense"].get(alone if with_activation else path)
            assert isinstance(layer, SparseLinear)
            layers[path] = _layer(layer, like, rivals, budget / 4, None if inside is None else inside * clocked)
    kinds = {"dense": _by_class(dense, times["dense"]), "sparse": _by_class(sparse, times["sparse"])}
    return EndToEnd(seconds, layers, kinds, float((made - expected).abs().max()))
