"""Nested plain values and tensors as one safetensors file, which runs no code when it is read."""

import json
from typing import Any

import torch
from safetensors.torch import load, save
from torch import Tensor

__all__ = ["from_bytes", "to_bytes"]

_PLAIN = (type(None), bool, int, float, str)


def to_bytes(value: Any) -> bytes:
    """Numbers, words, ``None``, tensors, and lists, tuples and dicts of such, as bytes of the safetensors format.

    Raises:
        TypeError: it holds anything else.

    >>> from_bytes(to_bytes({"step": 3, "betas": (0.9, 0.999)}))
    {'step': 3, 'betas': (0.9, 0.999)}
    """
    tensors: dict[str, Tensor] = {}
    tree = _encoded(value, tensors)
    return save(tensors, metadata={"values": json.dumps(tree)})


def from_bytes(data: bytes) -> Any:
    """What :func:`to_bytes` was given, tensors on the CPU."""
    header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
    return _decoded(json.loads(header["__metadata__"]["values"]), load(data))


def _encoded(value: Any, tensors: dict[str, Tensor]) -> Any:
    if type(value) in _PLAIN:
        return value
    if isinstance(value, Tensor):
        name, kind = str(len(tensors)), "complex" if value.is_complex() else "tensor"
        value = torch.view_as_real(value.detach()) if value.is_complex() else value.detach()
        tensors[name] = value.to("cpu", copy=True).contiguous()
        return {kind: name}
    if isinstance(value, dict):
        return {"dict": [[_encoded(k, tensors), _encoded(v, tensors)] for k, v in value.items()]}
    if isinstance(value, (list, tuple)):
        parts = [_encoded(part, tensors) for part in value]
        return parts if isinstance(value, list) else {"tuple": parts}
    raise TypeError(f"a checkpoint holds numbers, words and tensors, not {type(value).__name__}: {value!r:.80}")


def _decoded(tree: Any, tensors: dict[str, Tensor]) -> Any:
    if isinstance(tree, list):
        return [_decoded(part, tensors) for part in tree]
    if not isinstance(tree, dict):
        return tree
    ((kind, held),) = tree.items()
    if kind == "dict":
        return {_decoded(k, tensors): _decoded(v, tensors) for k, v in held}
    if kind == "tuple":
        return tuple(_decoded(part, tensors) for part in held)
    return torch.view_as_complex(tensors[held]) if kind == "complex" else tensors[held]
