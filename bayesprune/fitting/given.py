"""What the doors are given: a net with its posterior, and data as loaders, data sets, tensors or one batch."""

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from torch import Tensor, nn
from torch.utils.data import BatchSampler, DataLoader, Dataset, IterableDataset, RandomSampler, SequentialSampler
from torch.utils.data import TensorDataset as Tensors

from bayesprune.fitting.supervised import SupervisedModel
from bayesprune.network.bayesian_net import BayesianNet

__all__ = ["batches_of", "loader_of", "net_of", "net_under"]


def net_of(given: Any) -> BayesianNet:
    """The net with its posterior: ``given``, or the one under a model of :func:`bayesprune.classify` and its like.

    Raises:
        TypeError: it is neither.
    """
    if isinstance(given, SupervisedModel):
        given.speak()
        return given.bnet
    if isinstance(given, BayesianNet):
        return given
    made = 'bp.BayesianNet(net, {"*.weight": bp.SparseVD()}) makes one of a net'
    raise TypeError(f"expected a BayesianNet, got {type(given).__name__}: {made}, and bp.fit fits it")


def net_under(model: Any, guide: Any = None) -> BayesianNet:
    """The one net with a posterior over which a model and its guide stand; the guide may be left out.

    Raises:
        ValueError: there is none, or there are several.
    """
    modules = {m for part in (model, guide) if isinstance(part, nn.Module) for m in part.modules()}
    nets = {m for m in modules if isinstance(m, BayesianNet)} | {
        owner for owner in [getattr(guide, "__self__", None)] if isinstance(owner, BayesianNet)
    }
    if len(nets) == 1:
        return nets.pop()
    if guide is not None:
        raise ValueError(
            f"fit needs a model and guide over one BayesianNet, found {len(nets)}; pass bnet.guide as the guide"
        )
    net = "a net needs a posterior first, bp.BayesianNet(net, rules), and bp.classify or bp.regress"
    own = "a model that is a function needs its guide, bnet.guide, before the data"
    found = f"found {len(nets) or 'no'} BayesianNet in {type(model).__name__}"
    raise ValueError(f"{found}: {net if isinstance(model, nn.Module) else own}")


def batches_of(data: Any, *, scored: bool = False, batch_size: int = 256, shuffle: bool = False) -> Iterable[Any]:
    """Batches of whatever data there are.

    Args:
        data: a loader or any other iterable over batches, as it is; a data set, whose examples are put into batches;
            or one batch alone: a tensor or a mapping of inputs (and labels), or a tuple of tensors ``(x, y)``.
        scored: whether batches must have targets; a tuple of tensors that are alike is then ``(x, y)`` for sure.
        batch_size, shuffle: of a data set's batches.

    Raises:
        TypeError: nothing of the kind.
        ValueError: a tuple of tensors of different lengths, or one that may be ``(x, y)`` or two batches of inputs; an
            ``IterableDataset`` alone, of which nobody knows whether it yields examples or batches.

    >>> import torch
    >>> [batch.shape for batch in batches_of(torch.zeros(5, 4))]
    [torch.Size([5, 4])]
    >>> [len(x) for x, y in batches_of(Tensors(torch.zeros(300, 4), torch.zeros(300)))]
    [256, 44]
    """
    if isinstance(data, (Tensor, Mapping)):
        return [data]
    if isinstance(data, tuple) and data and all(isinstance(part, Tensor) for part in data):
        lengths = [len(part) if part.dim() else 0 for part in data]
        alike = len({(part.shape[1:], part.dtype) for part in data}) == 1
        if alike and len(set(lengths)) > 1 and not scored:
            return data  # batches of inputs alone, such as x.split(100) gives
        if len(set(lengths)) > 1:
            raise ValueError(
                f"a tuple of tensors is one batch, (x, y), with as many examples in each; got {lengths}: a list of "
                "batches is [(x1, y1), (x2, y2)]"
            )
        if alike and len(data) > 1 and not scored:
            raise ValueError(
                "a tuple of tensors that are alike may be one batch (x, y) or several of inputs alone: write [(x, y)] "
                "for one batch with targets, [x1, x2] for batches of inputs"
            )
        return [data]
    if isinstance(data, np.ndarray) or (isinstance(data, tuple) and any(isinstance(x, np.ndarray) for x in data)):
        raise TypeError("expected tensors, got a NumPy array: torch.as_tensor(x) makes a tensor of it")
    if isinstance(data, IterableDataset):
        raise ValueError(
            "an IterableDataset alone may yield examples or batches: give DataLoader(data, batch_size=64) for "
            "examples, DataLoader(data, batch_size=None) for batches"
        )
    if isinstance(data, Dataset):
        return loader_of(data, batch_size, shuffle)
    if isinstance(data, (str, bytes, nn.Module)) or not (isinstance(data, Iterable) or hasattr(data, "__getitem__")):
        raise TypeError(
            f"expected data, got {type(data).__name__}: a DataLoader, a Dataset, batches [(x, y), …], or one batch, "
            "a tensor or (x, y)"
        )
    return data


def loader_of(data: Dataset, batch_size: int, shuffle: bool) -> "DataLoader[Any]":
    """A loader over a data set; where this holds tensors, a batch is one look-up, not one an example."""
    if isinstance(data, Tensors):
        order = RandomSampler(data) if shuffle else SequentialSampler(data)
        return DataLoader(data, sampler=BatchSampler(order, batch_size, drop_last=False), batch_size=None)
    return DataLoader(data, batch_size=batch_size, shuffle=shuffle)
