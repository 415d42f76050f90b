"""Kronecker factors of the Fisher matrix of each weight: its inputs' second moments, and its output gradients'.

Martens & Grosse 2015, *Optimizing Neural Networks with Kronecker-factored Approximate Curvature*, arXiv:1503.05671.
Grosse & Martens 2016, *A Kronecker-factored approximate Fisher matrix for convolution layers*, arXiv:1602.01407; that
a weight which is shared over places and tokens counts each of them is KFAC-expand of Eschenhagen et al. 2023,
*Kronecker-Factored Approximate Curvature for Modern Neural Network Architectures*, arXiv:2311.00636.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from bayesprune.layout import Layout
from bayesprune.likelihoods import Categorical, Likelihood, Normal
from bayesprune.likelihoods.batch import call
from bayesprune.network.bayesian_net import BayesianNet
from bayesprune.one_shot.products import Products, UnfollowedError, rows_out

__all__ = ["Factors", "Seen", "factors_of", "watch"]

Seen = Callable[[str, Tensor, Tensor | None, Tensor], None]
EXACT_UP_TO = 16  # numbers that a net puts out for an example; above it, labels are drawn


@dataclass
class Factors:
    """Sums over the examples of a data set, in float64.

    Attributes:
        inputs: Σ x xᵀ, (groups, inputs · positions, the same).
        outputs: Σ g gᵀ of the log-likelihood's gradients g, in expectation over the model's own labels: (groups,
            outputs, the same).
        rows: how many rows were summed, over examples and places.
        examples: how many examples.
    """

    inputs: Tensor
    outputs: Tensor
    rows: int = 0
    examples: int = 0

    @classmethod
    def empty(cls, layout: Layout, device: torch.device) -> "Factors":
        groups, out, into, positions = layout.roles

        def zeros(n: int) -> Tensor:
            return torch.zeros(groups, n, n, dtype=torch.float64, device=device)

        return cls(zeros(into * positions), zeros(out))


def watch(bnet: BayesianNet, values: Mapping[str, Tensor], x: Any, seen: Seen) -> Any:
    """The net's output on ``values``; ``seen(name, rows, bias, result)`` for each product of a weight with a posterior.

    ``rows`` are the product's inputs, (groups, rows, inputs · positions); ``bias`` is what the call adds, or ``None``.
    """
    posteriors = bnet.posteriors
    weights = {name: values[name] for name in posteriors}

    def pass_on(name: str, patches: Callable[[Tensor], Tensor], x: Tensor, bias: Tensor | None, result: Tensor) -> None:
        with torch.no_grad(), torch._C.DisableTorchFunction():
            rows = patches(x.detach())
        seen(name, rows, bias, result)

    with Products(weights, {name: p.layout for name, p in posteriors.items()}, pass_on):
        return call(lambda *a, **k: bnet.run(values, *a, **k), x)


def factors_of(
    bnet: BayesianNet, values: Mapping[str, Tensor], batches: Iterable[tuple[Any, Any]], likelihood: Likelihood
) -> dict[str, Factors]:
    """Kronecker factors of every weight with a posterior: weight name → :class:`Factors`, in the order of their use.

    Args:
        bnet: the net; in eval mode.
        values: every parameter and buffer by its name: what the net is run on.
        batches: inputs and targets, which are not read: labels are the model's own.
        likelihood: how targets are distributed given the net's output. Its Fisher matrix is exact for classes and
            normal targets of up to 16 outputs an example; else one draw of the labels stands for it.

    Raises:
        UnfollowedError: a weight that no example reached, or that is read in a way that is not known.
        ValueError: activations or gradients that are not finite: the weight is named.
    """
    layouts = {name: p.layout for name, p in bnet.posteriors.items()}
    values = {name: value.detach() for name, value in values.items()}
    for name in layouts:
        values[name].requires_grad_()
    device = next(iter(values.values())).device
    found: dict[str, Factors] = {}
    for x, _ in batches:
        results: list[tuple[str, Tensor]] = []

        def seen(name: str, rows: Tensor, bias: Tensor | None, result: Tensor, results: Any = results) -> None:
            results.append((name, result))
            wide = rows.double()
            if name not in found:
                found[name] = Factors.empty(layouts[name], device)
            found[name].inputs += wide.mT @ wide
            found[name].rows += rows.shape[1]

        with torch.enable_grad():
            output = likelihood.take(watch(bnet, values, x, seen))
            for gradients in _scores(likelihood, output, [result for _, result in results]):
                for (name, _), gradient in zip(results, gradients, strict=True):
                    rows = rows_out(gradient, layouts[name].roles[0], len(layouts[name].kernel)).double()
                    found[name].outputs += rows.mT @ rows
        for factors in found.values():
            factors.examples += len(output)
    if unused := layouts.keys() - found.keys():
        name = min(unused)
        raise UnfollowedError(name, f"the forward never used {name!r} on this data")
    for what in ("inputs", "outputs"):  # inputs first: one layer's spoil the gradients of all
        for name, factors in found.items():
            if not bool(torch.isfinite(getattr(factors, what)).all()):
                of = "inputs" if what == "inputs" else "output gradients"
                raise ValueError(f"the {of} of {name!r} are not finite on this data")
    return found


def _scores(likelihood: Likelihood, output: Tensor, results: list[Tensor]) -> Iterator[list[Tensor]]:
    """Gradients of the log-likelihood at ``results``, such that the sum of their outer products is the Fisher's."""
    one_each = output.dim() == 2 and output.shape[-1] <= EXACT_UP_TO
    if one_each and isinstance(likelihood, Categorical):
        p = output.detach().softmax(-1)
        vectors = [p[:, c : c + 1].sqrt() * (_unit(p, c) - p) for c in range(p.shape[-1])]
    elif one_each and isinstance(likelihood, Normal):
        vectors = [_unit(output, c).expand_as(output) / likelihood.noise for c in range(output.shape[-1])]
    else:
        distribution = likelihood.distribution(output)
        vectors = [
            torch.autograd.grad(distribution.log_prob(distribution.sample()).sum(), output, retain_graph=True)[0]
        ]
    for i, vector in enumerate(vectors):
        again = i + 1 < len(vectors)
        gradients = torch.autograd.grad(output, results, vector.detach(), retain_graph=again, allow_unused=True)
        yield [torch.zeros_like(r) if g is None else g for r, g in zip(results, gradients, strict=True)]


def _unit(like: Tensor, c: int) -> Tensor:
    return torch.nn.functional.one_hot(torch.tensor([c], device=like.device), like.shape[-1]).to(like.dtype)
