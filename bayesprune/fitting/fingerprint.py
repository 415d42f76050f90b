"""Which run a checkpoint is of: settings, rules, data and sizes in plain values, and how two runs differ."""

import hashlib
import re
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from bayesprune.network.bayesian_net import BayesianNet

__all__ = ["data_fingerprint", "differences", "net_fingerprint", "said"]

_WHOLE = 1 << 28  # bytes of a tensor that are all read; of a larger one, evenly spaced numbers
_SAMPLE = 1 << 20


def said(value: Any) -> str:
    """``repr`` without the addresses of objects and functions, which differ from process to process.

    >>> said(print), said([1.0])
    ('<built-in function print>', '[1.0]')
    """
    return re.sub(r" at 0x[0-9a-fA-F]+", "", repr(value))


def net_fingerprint(bnet: BayesianNet) -> dict[str, Any]:
    """What is fitted: each weight's method with its pattern and hyper-parameters, and what stays a plain parameter."""
    found: dict[str, Any] = {f"method of {name!r}": said(method) for name, method in bnet.methods.items()}
    found |= {f"shape of {name!r}": list(value.shape) for name, value in bnet.named_parameters()}
    return {"estimator": bnet.estimator, "likelihood": said(bnet.observation), **found}


def data_fingerprint(loader: Any) -> str:
    """A checksum of the numbers in a loader's data set, or in its first and last batch where it is a list of batches.

    Data sets that compute or read their examples are known by their class alone: drawing an example may draw random
    numbers.
    """
    digest = hashlib.sha256()
    if isinstance(loader, (list, tuple)):
        digest.update(str(len(loader)).encode())
        _take(digest, list(loader[:1]) + list(loader[-1:]))
    else:
        _take(digest, getattr(loader, "dataset", None))
    return digest.hexdigest()[:16]


def differences(then: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """How two fingerprints differ, in words, an entry each.

    >>> differences({"seed": 0, "lr": 0.1}, {"seed": 1, "lr": 0.1})
    ['seed was 0 and is 1']
    """
    keys = [*then, *(key for key in now if key not in then)]
    return [
        f"{key} was {then.get(key, 'not there')} and is {now.get(key, 'not there')}"
        for key in keys
        if key not in then or key not in now or then[key] != now[key]
    ]


def _take(digest: Any, value: Any) -> None:
    if isinstance(value, Tensor):
        value = value.detach()
        digest.update(f"{value.dtype}{tuple(value.shape)}".encode())
        flat = value.reshape(-1) if value.layout == torch.strided else value.to_dense().reshape(-1)
        if flat.numel() * flat.element_size() > _WHOLE:
            flat = flat[:: flat.numel() // _SAMPLE]
        digest.update(flat.cpu().contiguous().view(torch.uint8).numpy().tobytes() if flat.numel() else b"")
    elif isinstance(value, np.ndarray):
        if value.dtype.kind in "biuf":
            _take(digest, torch.from_numpy(np.array(value, dtype=value.dtype.newbyteorder("="))))
        else:
            digest.update(f"{value.dtype}{value.shape}".encode())
    elif isinstance(value, Mapping):
        for key in value:
            digest.update(str(key).encode())
            _take(digest, value[key])
    elif isinstance(value, (list, tuple)):
        digest.update(str(len(value)).encode())
        if len(value) <= 1000 or isinstance(value[0], (int, float)):
            for part in value[:1_000_000]:
                _take(digest, part)
    elif isinstance(value, (bool, int, float, str)):
        digest.update(str(value).encode())
    elif isinstance(value, Dataset):
        digest.update(type(value).__qualname__.encode())
        for name, part in vars(value).items():
            if isinstance(part, (Tensor, np.ndarray, list, tuple, Mapping, Dataset)):
                digest.update(name.encode())
                _take(digest, part)
