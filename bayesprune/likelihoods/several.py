"""Several outputs, each with targets of its own."""

from collections.abc import Mapping
from operator import itemgetter
from typing import Any, NoReturn

import torch
from pyro.distributions.torch_distribution import TorchDistributionMixin
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves, tree_map

from bayesprune.likelihoods.base import NO_TARGETS, Likelihood, mixture
from bayesprune.likelihoods.losses import Losses

__all__ = ["Several"]


class Several(Likelihood):
    """Several outputs, independent given the weights: their log-probabilities add up.

    Args:
        parts: output name → likelihood. The net returns a mapping with these names, or a tuple in this order; so are
            the targets.
        targets: where batches are mappings, the names of the targets in them, in the order of ``parts``.

    Predictions, figures and draws come by the same names.

    >>> import torch
    >>> from bayesprune.likelihoods import Categorical, Normal
    >>> both = Several({"kind": Categorical(), "size": Normal(1.0)})
    >>> output = both.take((torch.zeros(1, 2), torch.zeros(1, 1)))
    >>> both.log_prob(output, both.check(output, (torch.tensor([1]), torch.zeros(1))))  # log ½ and that of a normal
    tensor([-1.6121])
    """

    def __init__(self, parts: Mapping[str, Likelihood], *, targets: str | tuple[str, ...] = "labels") -> None:
        super().__init__()
        if not parts or not all(isinstance(part, Likelihood) for part in parts.values()):
            raise ValueError(f"parts is a dict from the names of outputs to likelihoods, got {parts!r}")
        if not isinstance(targets, str) and len(targets) != len(parts):
            raise ValueError(f"targets names {len(targets)} entries of a batch for {len(parts)} outputs")
        self.names, self.targets = tuple(parts), targets
        self._parts = nn.ModuleList(parts.values())
        for name, part in parts.items():
            part.prefix = f"{name}."

    @property
    def parts(self) -> dict[str, Likelihood]:
        """Output name → likelihood."""
        return dict(zip(self.names, self._parts, strict=True))  # type: ignore[arg-type]

    def extra_repr(self) -> str:
        return ", ".join(self.names)

    def _by_name(self, given: Any, what: str) -> dict[str, Any]:
        if given is None:
            return dict.fromkeys(self.names)
        if isinstance(given, Mapping):
            if gone := [name for name in self.names if name not in given]:
                raise ValueError(f"{what} has no {gone[0]!r}: it has {', '.join(map(repr, given))}")
            return {name: given[name] for name in self.names}
        if isinstance(given, (tuple, list)) and len(given) == len(self.names):
            return dict(zip(self.names, given, strict=True))
        got = f"{len(given)} of them" if isinstance(given, (tuple, list)) else type(given).__name__
        raise ValueError(f"{what} must be a dict of {', '.join(self.names)}, or a tuple in that order, got {got}")

    def take(self, output: Any) -> dict[str, Any]:
        given = self._by_name(output, "the net's output")
        return {name: part.take(given[name]) for name, part in self.parts.items()}

    def check(self, output: dict[str, Any], y: Any) -> dict[str, Any]:
        if y is None:
            raise ValueError(NO_TARGETS)
        given = self._by_name(y, "what a batch has as targets")
        return {name: part.check(output[name], given[name]) for name, part in self.parts.items()}

    def kept(self, output: Any, y: Any) -> tuple[Any, Any]:
        outputs, targets = self._by_name(output, "the net's output"), self._by_name(y, "what a batch has as targets")
        both = {name: part.kept(outputs[name], targets[name]) for name, part in self.parts.items()}
        return (
            {name: kept for name, (kept, _) in both.items()},
            None if y is None else {name: target for name, (_, target) in both.items()},
        )

    def observe(self, site: str, output: dict[str, Any], y: dict[str, Any] | None) -> None:
        for name, part in self.parts.items():
            part.observe(f"{site}.{name}", output[name], None if y is None else y[name])

    def log_prob(self, output: dict[str, Any], y: dict[str, Any]) -> Tensor:
        return torch.stack([part.log_prob(output[name], y[name]) for name, part in self.parts.items()]).sum(0)

    def distribution(self, output: Any) -> TorchDistributionMixin:
        self._refuse()

    def mean(self, output: Any) -> Tensor:
        self._refuse()

    def uncertainty(self, outputs: Any) -> tuple[Tensor, Tensor]:
        self._refuse()

    def losses(self, outputs: dict[str, Any], y: Any) -> Losses:
        draws = range(len(tree_leaves(outputs)[0]))
        each = [tree_map(itemgetter(i), outputs) for i in draws]
        checked = self.check(each[0], y)
        joint = mixture(torch.stack([self.log_prob(output, checked) for output in each]))
        return Losses(-joint, parts={name: part.losses(outputs[name], y[name]) for name, part in self.parts.items()})

    def scored(self, output: dict[str, Any], y: Any) -> bool:
        return y is not None and all(part.scored(output[name], y[name]) for name, part in self.parts.items())

    def no_density(self, y: dict[str, Any] | None) -> str | None:
        found = (part.no_density(None if y is None else y[name]) for name, part in self.parts.items())
        return next((reason for reason in found if reason is not None), None)

    def _refuse(self) -> NoReturn:
        raise ValueError("several outputs have no one distribution: ask one of parts")
