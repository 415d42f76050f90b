"""Serialise nets of torch.nn's own modules as JSON and rebuild them. No class is ever imported by name."""

import inspect
import json
import warnings
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import nn
from torch.overrides import TorchFunctionMode

from bayesprune.sparse.activations import ACTIVATIONS, activation_in
from bayesprune.sparse.layers.composite import Composite
from bayesprune.sparse.layers.conv import SparseConv2d
from bayesprune.sparse.layers.linear import SparseLinear
from bayesprune.sparse.layers.sizes import full
from bayesprune.sparse.surgery.surgery import Surgery

__all__ = ["TRIPPED", "CannotRebuildError", "build", "describe"]

# What torch's own modules trip over where they were altered, or are given arguments that were forged: they check few.
TRIPPED = (
    *(AttributeError, LookupError, NotImplementedError, OverflowError, RecursionError, RuntimeError),
    *(TypeError, ValueError),
)

Node = dict[str, object]
_CONTAINERS = (nn.Sequential, nn.ModuleList, nn.ModuleDict)
_PLAIN = (int, float, str, bool, type(None))
_RARE = ("proj_size", "nonlinearity")
_RNN_ARGUMENTS = (
    *("input_size", "hidden_size", "num_layers", "bias", "batch_first", "dropout", "bidirectional"),
    *_RARE,
)
_MOST_SIDES, _MOST_LAYERS, _MOST_RECURRENT = 64, 1_000, 128
_MODULES_A_TENSOR, _FREE_MODULES = 4, 512  # activations and containers have no tensors
_FILLS = (torch.Tensor.normal_, torch.Tensor.uniform_)
_IN_A_BLOCK = 12  # modules of a transformer's layer


class CannotRebuildError(ValueError):
    """A net that JSON cannot tell: it holds modules that are not torch.nn's own, or altered ones."""


def _torch_class(name: str) -> type[nn.Module]:
    found = vars(nn).get(name)
    if not (isinstance(found, type) and issubclass(found, nn.Module) and found.__module__.startswith("torch.nn.mod")):
        raise CannotRebuildError(f"{name} is not a module of torch.nn")
    return found


def _rnn(m: nn.RNNBase) -> Node:
    more = {"LSTM": ("proj_size",), "RNN": ("nonlinearity",)}.get(type(m).__name__, ())
    return {name: getattr(m, name) for name in _RNN_ARGUMENTS if name not in _RARE or name in more}


def _attention(m: nn.MultiheadAttention) -> Node:
    names = ("embed_dim", "num_heads", "dropout", "add_zero_attn", "kdim", "vdim", "batch_first")
    return {n: getattr(m, n) for n in names} | {
        "bias": m.in_proj_bias is not None,
        "add_bias_kv": m.bias_k is not None,
    }


def _transformer_layer(m: nn.TransformerEncoderLayer | nn.TransformerDecoderLayer) -> Node:
    known = activation_in(m.activation)
    activation = known.name if known else getattr(m.linear1, "activation", "")
    if not activation:
        names = ", ".join(filter(None, ACTIVATIONS))
        raise CannotRebuildError(f"{type(m).__name__} with an activation other than {names}")
    return {
        "d_model": m.self_attn.embed_dim,
        "nhead": full(m.self_attn, "num_heads"),
        "dim_feedforward": full(m.linear1, "out_features"),
        "dropout": m.dropout.p,
        "activation": activation,
        "layer_norm_eps": m.norm1.eps,
        "batch_first": m.self_attn.batch_first,
        "norm_first": m.norm_first,
        "bias": full(m.linear1, "bias") is not None,
    }


def _transformer(m: nn.Transformer) -> Node:
    counts = {"num_encoder_layers": m.encoder.num_layers, "num_decoder_layers": m.decoder.num_layers}
    return _transformer_layer(m.encoder.layers[0]) | counts


def _stack(m: nn.TransformerEncoder | nn.TransformerDecoder) -> Node:
    layer = "encoder_layer" if isinstance(m, nn.TransformerEncoder) else "decoder_layer"
    args: Node = {layer: describe_node(m.layers[0]), "num_layers": m.num_layers}
    args["norm"] = None if m.norm is None else describe_node(m.norm)
    if isinstance(m, nn.TransformerEncoder):
        args |= {"enable_nested_tensor": m.enable_nested_tensor, "mask_check": m.mask_check}
    return args


_FEEDS_FORWARD = (nn.TransformerEncoderLayer, nn.TransformerDecoderLayer, nn.Transformer)
_ARGUMENTS: Mapping[type[nn.Module], Callable[..., Node]] = {
    **dict.fromkeys((nn.RNN, nn.LSTM, nn.GRU), _rnn),
    **dict.fromkeys((nn.TransformerEncoderLayer, nn.TransformerDecoderLayer), _transformer_layer),
    **dict.fromkeys((nn.TransformerEncoder, nn.TransformerDecoder), _stack),
    nn.Transformer: _transformer,
    nn.MultiheadAttention: _attention,
}


def _is_plain(value: object) -> bool:
    return isinstance(value, _PLAIN) or (isinstance(value, tuple | list) and all(_is_plain(v) for v in value))


def _arguments(kind: type[nn.Module]) -> dict[str, inspect.Parameter]:
    """What a file may give the constructor: no device and no dtype, which the net has from its tensors."""
    variadic = inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD
    found = inspect.signature(kind).parameters.items()
    return {
        name: p
        for name, p in found
        if p.kind not in variadic and not name.startswith("_") and name not in ("device", "dtype")
    }


def _argument_names(kind: type[nn.Module]) -> set[str]:
    """The arguments that :func:`describe` writes of a class; RNNs hand theirs on to a base class."""
    return {*_arguments(kind), *(_RNN_ARGUMENTS if issubclass(kind, nn.RNNBase) else ())}


def _read_arguments(module: nn.Module) -> Node:
    """The constructor's arguments, read off the attributes of the same names."""
    args: Node = {}
    for name, parameter in _arguments(type(module)).items():
        if name == "bias" and "bias" in module._parameters:
            args[name] = full(module, "bias") is not None
        elif hasattr(module, name) and _is_plain(full(module, name)):
            args[name] = full(module, name)
        elif hasattr(module, name) or parameter.default is parameter.empty:
            raise CannotRebuildError(f"{type(module).__name__}: its argument {name!r} cannot be written as JSON")
    return args


def describe_node(module: nn.Module) -> Node:
    """One module as JSON, of full size, its children within it; :func:`describe` also tries the way back."""
    if isinstance(module, SparseConv2d):  # rebuilt dense, then swapped
        g = module.geometry
        sizes = {name: full(module, name) for name in ("in_channels", "out_channels", "groups")}
        pairs = {"kernel_size": g.kernel, "stride": g.stride, "padding": g.padding, "dilation": g.dilation}
        args = {**sizes, **{name: list(pair) for name, pair in pairs.items()}, "bias": full(module, "bias") is not None}
        return {"class": "Conv2d", "args": args}
    if isinstance(module, Composite):  # rebuilt as torch's, then opened
        return describe_node(module.skeleton())
    if isinstance(module, SparseLinear):
        sizes = {name: full(module, name) for name in ("in_features", "out_features")}
        return {"class": "Linear", "args": {**sizes, "bias": full(module, "bias") is not None}}
    kind = type(module)
    if vars(nn).get(kind.__name__) is not kind:
        raise CannotRebuildError(f"{kind.__module__}.{kind.__qualname__} is not a module of torch.nn")
    if kind in _CONTAINERS:
        children = {name: describe_node(child) for name, child in module._modules.items() if child is not None}
        return {"class": kind.__name__, "children": children}
    return {"class": kind.__name__, "args": _ARGUMENTS.get(kind, _read_arguments)(module)}


def _value(value: object, depth: int) -> object:
    if isinstance(value, dict):
        return _build(value, depth)
    if isinstance(value, list):
        if len(value) > _MOST_SIDES:
            raise CannotRebuildError(f"an argument is a list of {len(value):,}; a module takes at most {_MOST_SIDES}")
        return tuple(_value(v, depth + 1) for v in value)
    if not isinstance(value, _PLAIN):
        raise CannotRebuildError(f"an argument cannot be {value!r}")
    if isinstance(value, int) and not -(2**63) <= value < 2**63:
        raise CannotRebuildError("an argument is beyond 64 bits")
    return value


def _parts(node: object, depth: int = 0) -> tuple[str, dict[str, object], dict[str, object]]:
    """The class, children and arguments of a node."""
    if depth > 100 or not isinstance(node, dict):
        raise CannotRebuildError("the description of the net is malformed")
    name, children, args = node.get("class"), node.get("children", {}), node.get("args", {})
    if not (isinstance(name, str) and isinstance(children, dict) and isinstance(args, dict)):
        raise CannotRebuildError("the description of the net is malformed")
    return name, children, args


def _nodes(value: object) -> Iterator[object]:
    """The descriptions of modules within an argument."""
    if isinstance(value, dict):
        yield value
    for one in value if isinstance(value, list) else ():
        yield from _nodes(one)


def _modules(node: object, depth: int = 0) -> int:
    """How many modules ``node`` makes, counted before any is made: what is cloned so many times counts so often."""
    name, children, args = _parts(node, depth)
    layers = [value for key, value in args.items() if "layers" in key and isinstance(value, int)]
    recurrent = name in ("RNN", "GRU", "LSTM")
    most = _MOST_RECURRENT if recurrent else _MOST_LAYERS
    if max(layers, default=0) > most:
        raise CannotRebuildError(f"{name} claims {max(layers):,} layers; a file's has at most {most:,}")
    inner = (one for value in (*children.values(), *args.values()) for one in _nodes(value))
    own = 4 if recurrent else _IN_A_BLOCK if "Transformer" in name else 0
    return 1 + (own + sum(_modules(one, depth + 1) for one in inner)) * max(1, sum(layers))


def _build(node: object, depth: int) -> nn.Module:
    name, children, args = _parts(node, depth)
    kind = _torch_class(name)
    if kind in _CONTAINERS:
        built = kind()
        for leaf, child in children.items():
            built.add_module(leaf, _build(child, depth + 1))
        return built
    unknown = args.keys() - _argument_names(kind)
    if unknown:
        raise CannotRebuildError(f"{name} has no argument {', '.join(sorted(unknown))} that a file may give")
    made = {key: _value(value, depth + 1) for key, value in args.items()}
    if kind in _FEEDS_FORWARD and made.get("activation") in ACTIVATIONS:
        made["activation"] = ACTIVATIONS[str(made["activation"])].function  # torch's constructors know two by name
    return kind(**made)


class _Unfilled(TorchFunctionMode):
    """Leaves new parameters as they are: on meta there is nothing to fill, and to draw it torch loads its compiler."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in _FILLS or getattr(func, "__module__", "") == "torch.nn.init":
            return args[0] if args else kwargs["tensor"]
        return func(*args, **(kwargs or {}))


def build(node: Mapping[str, object], tensors: int = 10_000) -> nn.Module:
    """The module that ``node`` tells of, on the meta device, in eval mode.

    Args:
        node: what :func:`describe` gave.
        tensors: how many the file has, which bounds how many modules there can be: they are counted before they are
            made.

    Raises:
        CannotRebuildError: ``node`` is malformed, names what is not torch.nn's, or would make more than a net of so
            many tensors has.

    >>> build({"class": "Linear", "args": {"in_features": 3, "out_features": 2}})
    Linear(in_features=3, out_features=2, bias=True)
    """
    most = _MODULES_A_TENSOR * tensors + _FREE_MODULES
    try:
        count = _modules(node)
        if count > most:
            raise CannotRebuildError(f"the description makes {count:,} modules of {tensors:,} tensors, above {most:,}")
        with torch.device("meta"), _Unfilled(), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # what a constructor had to say was said when the net was made
            built = _build(node, 0).eval()
    except CannotRebuildError:
        raise
    except (*TRIPPED, AssertionError) as error:  # torch asserts what it wants of arguments
        raise CannotRebuildError(f"the description of the net does not build: {error}") from error
    real = next((name for name, x in (*built.named_parameters(), *built.named_buffers()) if not x.is_meta), None)
    if real is not None:
        raise CannotRebuildError(f"the description of the net makes values of its own: {real}")
    return built


def _same_settings(module: nn.Module, other: nn.Module) -> bool:
    mine, theirs = (
        {k: v for k, v in vars(m).items() if not k.startswith("_") and k not in ("training", "full_sizes")}
        for m in (module, other)
    )
    return mine.keys() == theirs.keys() and all(
        v == theirs[k] if _is_plain(v) and _is_plain(theirs[k]) else v is theirs[k] for k, v in mine.items()
    )


def _difference(net: nn.Module, again: nn.Module) -> str | None:
    """What the rebuilt net lacks of the net, in words; None where nothing."""
    sparse = tuple(path for path, m in net.named_modules() if isinstance(m, SparseLinear))
    ours = dict(net.named_modules(remove_duplicate=False))
    theirs = dict(again.named_modules(remove_duplicate=False))
    if ours.keys() != theirs.keys():
        return f"{type(net).__name__} was given other submodules: {', '.join(sorted(ours.keys() ^ theirs.keys())[:3])}"
    for path, module in ours.items():
        if path in sparse:
            continue
        other, where = theirs[path], f"{path or 'the net'} ({type(module).__name__})"
        if type(module) is not type(other) or not _same_settings(module, other):
            return f"{where} was changed after it was made"
        for mine, rebuilt in ((module._parameters, other._parameters), (module._buffers, other._buffers)):
            if {k: None if t is None else t.shape for k, t in mine.items()} != {
                k: None if t is None else t.shape for k, t in rebuilt.items()
            }:
                return f"{where} holds other tensors than its class makes"
    return None


def describe(net: nn.Module, tensors: int = 10_000) -> Node:
    """``net`` as JSON from which :func:`build` makes the same modules again: tried, and compared module by module.

    Raises:
        CannotRebuildError: it holds a module that is not torch.nn's own, or one that was altered; the message names it.

    >>> describe(nn.Sequential(nn.ReLU()))
    {'class': 'Sequential', 'children': {'0': {'class': 'ReLU', 'args': {'inplace': False}}}}
    """
    try:
        node = describe_node(net)
        modules = net.named_modules(remove_duplicate=False)
        weights = {path: m.sparse_weight for path, m in modules if isinstance(m, SparseLinear)}
        again = Surgery.of(net).apply(build(json.loads(json.dumps(node)), tensors), weights)
        difference = _difference(net, again)
    except CannotRebuildError:
        raise
    except TRIPPED as error:
        told = f"{type(error).__name__}: {error}"
        raise CannotRebuildError(f"{type(net).__name__}, which cannot be told as JSON: {told}") from error
    if difference:
        raise CannotRebuildError(difference)
    return node
