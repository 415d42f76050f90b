"""Pruning as conditioning: the mean of what stays, given that what is pruned is 0.

Row by row a least-squares problem on the row's support, whose solution is optimal brain surgery's compensation
(Hassibi & Stork 1992) for all pruned weights at once; Frantar & Alistarh 2023, *SparseGPT*, arXiv:2301.00774, solve it
column by column, approximately.
"""

from collections.abc import Iterable, Mapping
from contextlib import suppress
from typing import Any

import torch
from torch import Tensor

from bayesprune.network.bayesian_net import BayesianNet
from bayesprune.one_shot.factors import watch

__all__ = ["condition_weight", "solve_rows"]

CELLS = 1 << 25  # float64 numbers that one batch of systems may hold


def solve_rows(gram: Tensor, targets: Tensor, support: Tensor) -> Tensor:
    """For each row r the v that is 0 off its support S and solves ``gram[S, S] v[S] = targets[r, S]``.

    Args:
        gram: (inputs, inputs), positive definite, float64.
        targets: (rows, inputs).
        support: bool, (rows, inputs). Rows of one support share a factorisation.

    >>> solve_rows(torch.eye(2).double(), torch.tensor([[3.0, 4.0]]).double(), torch.tensor([[True, False]]))
    tensor([[3., 0.]], dtype=torch.float64)
    """
    found = torch.zeros_like(targets)
    kinds, of = torch.unique(support, dim=0, return_inverse=True)
    if len(kinds) * 2 <= len(support):
        for kind, mask in enumerate(kinds):
            where = mask.nonzero()[:, 0]
            if len(where):
                rows = (of == kind).nonzero()[:, 0]
                factor = torch.linalg.cholesky(gram[where][:, where])
                found[rows[:, None], where] = torch.cholesky_solve(targets[rows][:, where].mT, factor).mT
        return found
    sizes = support.sum(1)
    order = sizes.argsort()
    start = 0
    while start < len(order):
        count = max(1, min(len(order) - start, CELLS // max(int(sizes[order[-1]]) ** 2, 1)))
        rows = order[start : start + count]
        start += count
        width = int(sizes[rows].max())
        if width:
            found[rows] = _padded(gram, targets[rows], support[rows], width)
    return found


def _padded(gram: Tensor, targets: Tensor, support: Tensor, width: int) -> Tensor:
    """The systems of a few rows as one batch: each is filled up to ``width`` with rows of the identity."""
    index = support.to(torch.int8).topk(width, dim=1).indices  # all of the support, then others
    real = support.gather(1, index)
    systems = gram[index[:, :, None], index[:, None, :]]
    systems = torch.where(
        real[:, :, None] & real[:, None, :], systems, torch.eye(width, dtype=gram.dtype, device=gram.device)
    )
    right = targets.gather(1, index) * real
    solved = torch.cholesky_solve(right[..., None], torch.linalg.cholesky(systems))[..., 0]
    return torch.zeros_like(targets).scatter_(1, index, solved * real)


class _Enough(Exception):  # noqa: N818 (it is no error)
    """What was looked for was seen: the rest of the forward pass may be left out."""


def condition_weight(
    bnet: BayesianNet,
    name: str,
    now: Mapping[str, Tensor],
    dense: Mapping[str, Tensor],
    batches: Iterable[tuple[Any, Any]],
    damping: float,
) -> dict[str, Tensor]:
    """The weight ``name``, and its bias, with what stays set to what makes up best for what is pruned.

    Args:
        bnet: the net; what it has pruned of the weight is 0.
        name: the weight.
        now: the values to run the pruned net on: layers before this one are conditioned already.
        dense: those of the dense net, whose results are aimed at.
        batches: calibration inputs.
        damping: the prior's precision over that of the noise, in units of Σ x xᵀ: how firmly a weight holds its value.
    """
    posterior = bnet.posteriors[name]
    layout = posterior.layout
    groups, out, into, positions = layout.roles
    width = into * positions
    size = width + 1
    gram = now[name].new_zeros(groups, size, size, dtype=torch.float64)
    cross = torch.zeros_like(gram)
    biased: str | None = None
    calls: int | None = None  # of this weight in a forward pass, once known: the rest of the pass may then be left out
    for x, _ in batches:
        rows: list[Tensor] = []
        for values in (now, dense):
            found, biased = _inputs(bnet, name, values, x, calls)
            rows.append(torch.cat(found, 1))
        calls = len(found)
        ours, theirs = (torch.cat([r, torch.ones_like(r[..., :1])], -1).double() for r in rows)
        gram += ours.mT @ ours
        cross += ours.mT @ theirs
    weight = layout.matrix(dense[name].double()).flatten(2)
    held = layout.matrix(now[name].double()).flatten(2)
    bias = now[name].new_zeros(groups, out, 1, dtype=torch.float64)
    aim = bias
    if biased is not None:
        bias, aim = (values[biased].double().reshape(groups, out, 1) for values in (now, dense))
    support = layout.matrix(posterior.entries()).flatten(2)
    free = torch.full_like(bias, biased is not None, dtype=torch.bool)
    solved = []
    for g in range(groups):
        target = torch.cat([weight[g], aim[g]], -1) @ cross[g].mT
        damp = torch.full((size,), damping, dtype=torch.float64, device=gram.device)
        damp[-1] = 1e-6 * max(float(gram[g, -1, -1]), 1.0)
        target = target + damp * torch.cat([held[g], bias[g]], -1)
        solved.append(solve_rows(gram[g] + damp.diag(), target, torch.cat([support[g], free[g]], -1)))
    both = torch.stack(solved)
    made = {name: layout.unmatrix(both[..., :-1].reshape(layout.roles)).to(now[name].dtype)}
    if biased is not None:
        made[biased] = both[..., -1].reshape(now[biased].shape).to(now[biased].dtype)
    return made


@torch.no_grad()
def _inputs(
    bnet: BayesianNet, name: str, values: Mapping[str, Tensor], x: Any, calls: int | None
) -> tuple[list[Tensor], str | None]:
    """The inputs of the products with a weight, row by row, and the name of the bias that they add."""
    named = {id(value): n for n, value in values.items()}
    rows: list[Tensor] = []
    biases: set[str | None] = set()

    def seen(at: str, found: Tensor, bias: Tensor | None, result: Tensor) -> None:
        if at == name:
            rows.append(found)
            biases.add(None if bias is None else named.get(id(bias)))
            if len(rows) == calls:
                raise _Enough

    with torch.enable_grad(), suppress(_Enough):  # without gradients the values would be copied
        watch(bnet, values, x, seen)
    only = biases.pop() if len(biases) == 1 else None
    return rows, None if only in bnet.posteriors else only
