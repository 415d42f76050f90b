"""Base classes: ``Method`` (hyper-parameters) and ``Posterior`` (Pyro prior, guide and moments of one weight).

A method is a frozen dataclass; ``method.posterior(weight)`` gives the :class:`Posterior` of one weight, a module with
two small Pyro programs and its moments. A posterior knows no layers, no likelihood and no training loop.
"""

import warnings
from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar

import pyro
import torch
from pyro.distributions.torch_distribution import TorchDistributionMixin
from torch import Tensor, nn

from bayesprune.draws.sites import param_site
from bayesprune.methods.weight import Weight
from bayesprune.patterns import Pattern

__all__ = ["Method", "Posterior", "check_start"]


class Posterior(nn.Module, ABC):
    """The variational posterior of one weight.

    Subclasses make their parameters in ``__init__`` and write three verbs: :meth:`prior` and :meth:`guide`, Pyro
    programs with the same sample sites in the same order, and :meth:`moments`. In both programs, sites are made with
    :meth:`sample` and parameters announced with :meth:`param`; that is what gives every method names, pruning,
    freedom from Pyro's global store, and local draws.

    Args:
        weight: the weight; its value is where the posterior starts.

    Attributes:
        kept: bool, of the grid's shape. A group that is pruned has no log-probability and no KL, its effective weight
            is 0, and no gradient reaches it.
        fixed: bool that broadcasts to the weight, or None: entries that keep their value, without log-probability, KL
            and gradient.
        per_entry, per_group: the names of the parameters that have a number for each entry, or for each group: what an
            optimiser remembers of them is forgotten where they are pruned.
        lr_multipliers: parameter name → factor on the learning rate, the method's recipe.
    """

    lr_multipliers: ClassVar[Mapping[str, float]] = {}
    per_entry: ClassVar[frozenset[str]] = frozenset()
    per_group: ClassVar[frozenset[str]] = frozenset()
    kept: Tensor
    fixed: Tensor | None
    _free_groups: Tensor | None
    _fixed_values: Tensor | None

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        rename_old(cls, {"rates": "lr_multipliers", "relevant": "kept_by_paper"})

    def __init__(self, weight: Weight) -> None:
        super().__init__()
        self.name, self.pattern, self.layout = weight.name, weight.pattern, weight.layout
        self.register_buffer("kept", torch.ones(weight.grid, dtype=torch.bool, device=weight.tensor.device))
        self._looked: tuple[Tensor, int, bool] | None = None
        fixed, groups, values = weight.fixed, None, None
        if fixed is not None:
            free = (~fixed).expand(self.layout.shape)
            groups = self.pattern.pool(free.to(weight.tensor.dtype), self.layout) > 0
            values = torch.where(free, 0, weight.tensor) if bool(weight.tensor[~free].any()) else None
        self.register_buffer("fixed", fixed, persistent=False)
        self.register_buffer("_free_groups", groups, persistent=False)
        self.register_buffer("_fixed_values", values, persistent=False)

    @abstractmethod
    def prior(self) -> Tensor:
        """The Pyro program under p; returns the weight, of the weight's shape."""

    @abstractmethod
    def guide(self) -> None:
        """The same sites in the same order, under q."""

    @abstractmethod
    def moments(self) -> tuple[Tensor, Tensor]:
        """Mean and variance of the weight under q, entry by entry, before pruning."""

    def inclusion(self) -> Tensor | None:
        """The posterior probability that a group is there, of the grid's shape, where the method has one."""
        return None

    def kept_by_paper(self) -> Tensor | None:
        """The groups that the method's paper keeps, bool of the grid's shape, where its rule is none on SNR."""
        return None

    def param(self, leaf: str) -> Tensor:
        """The parameter ``leaf`` of this posterior, announced as the param site ``<weight's name>.<leaf>``."""
        return param_site(f"{self.name}.{leaf}", self.get_parameter(leaf))

    def sample(self, fn: TorchDistributionMixin, leaf: str = "") -> Tensor:
        """A sample site called ``<weight's name>`` or ``<weight's name>.<leaf>``, independent over its batch shape.

        What is pruned or fixed is masked, when the site has the shape of the weight or of the grid of groups.
        """
        name = f"{self.name}.{leaf}" if leaf else self.name
        if not self.whole or self.fixed is not None:
            shape, entries, groups = tuple(fn.batch_shape), self.layout.shape, tuple(self.kept.shape)
            if shape == groups and (leaf or groups != entries):  # the weight's own site is entry by entry
                fn = fn.mask(self.kept if self._free_groups is None else self.kept & self._free_groups)
            elif shape == entries:
                fn = fn.mask(self.counted())
        return pyro.sample(name, fn.to_event(len(fn.batch_shape)))

    def clamp_(self, leaf: str, low: float, high: float) -> None:
        """Project the parameter ``leaf`` back into [low, high]; called at the top of a guide, whoever trains.

        A clamp inside the graph would strand a parameter that stepped outside, for its gradient is 0 there.
        """
        self.get_parameter(leaf).data.clamp_(low, high)

    def hold(self, leaf: str, low: float, high: float) -> None:
        """The old name of :meth:`clamp_`."""
        warnings.warn("Posterior.hold is called clamp_ now", DeprecationWarning, stacklevel=2)
        self.clamp_(leaf, low, high)

    @property
    def whole(self) -> bool:
        """Whether nothing is pruned; ``kept`` is looked at again only when it changed, for that waits for a GPU."""
        kept = self.kept
        version = -1 if kept.is_inference() else kept._version
        if self._looked is None or self._looked[0] is not kept or self._looked[1] != version or version < 0:
            self._looked = kept, version, bool(kept.all())
        return self._looked[2]

    def mask_of(self, leaf: str) -> Tensor | None:
        """Which numbers of the parameter ``leaf`` belong to what is kept; ``None`` where it has none of their own."""
        if leaf in self.per_group:
            return self.kept
        return self.entries() if leaf in self.per_entry else None

    def entries(self) -> Tensor:
        """Which entries of the weight are not pruned: bool, of the weight's shape."""
        return self.pattern.expand(self.kept, self.layout)

    def release(self) -> None:
        """Fix nothing any more: what was fixed is trained after all."""
        self.fixed = self._free_groups = self._fixed_values = None

    def counted(self) -> Tensor:
        """Which entries have a posterior, being neither pruned nor fixed: bool, of the weight's shape."""
        return self.entries() if self.fixed is None else self.entries() & ~self.fixed

    def effective_moments(self) -> tuple[Tensor, Tensor]:
        """:meth:`moments`, of what is fixed its value and 0."""
        mean, variance = self.moments()
        if self.fixed is None:
            return mean, variance
        values = torch.zeros_like(mean) if self._fixed_values is None else self._fixed_values
        return torch.where(self.fixed, values, mean), torch.where(self.fixed, 0, variance)

    def effective(self) -> Tensor:
        """The weight that the net sees: :meth:`prior`'s, with what is pruned at 0 and what is fixed at its value."""
        weight = self.prior()
        if self.fixed is not None:
            weight = weight * (~self.fixed).to(weight.dtype)
            weight = weight if self._fixed_values is None else weight + self._fixed_values
        if self.whole:
            return weight
        return weight * self.entries().to(weight.dtype)

    @torch.no_grad()
    def prune(self, kept: Tensor) -> None:
        """Set which groups are kept: bool, of the grid's shape."""
        if kept.dtype != torch.bool or kept.shape != self.kept.shape:
            raise ValueError(
                f"{self.name!r} needs a bool mask over its groups, of shape {tuple(self.kept.shape)}; "
                f"got {kept.dtype} of shape {tuple(kept.shape)}"
            )
        self.kept.copy_(kept)


class Method(ABC):
    """The hyper-parameters of a family of posteriors. Subclasses are frozen dataclasses.

    Attributes:
        pattern: which entries share a fate.
        snr_threshold: the posterior signal-to-noise ratio under which the method's own paper prunes, or ``None``: see
            :meth:`Posterior.kept_by_paper` then.
    """

    pattern: Pattern
    snr_threshold: ClassVar[float | None] = None

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        rename_old(cls, {"over": "posterior"})

    @abstractmethod
    def posterior(self, weight: Weight) -> Posterior:
        """The posterior of ``weight``, started at its value."""

    def over(self, weight: Weight) -> Posterior:
        """The old name of :meth:`posterior`."""
        warnings.warn("Method.over is called posterior now", DeprecationWarning, stacklevel=2)
        return self.posterior(weight)


def rename_old(cls: type, names: Mapping[str, str]) -> None:
    """Give what a user's subclass defines under a name of the last release its new one, and say so."""
    for old, new in names.items():
        if old in vars(cls):
            warnings.warn(f"{cls.__name__}.{old} is called {new} now", DeprecationWarning, stacklevel=4)
            setattr(cls, new, vars(cls)[old])


def check_start(method: Method, start: float, clip: tuple[float, float]) -> None:
    """Raise ``ValueError`` unless ``clip`` is a range of log σ and ``start`` lies in it."""
    name, (low, high) = type(method).__name__, clip
    if not low < high:
        raise ValueError(f"{name}'s clip is a range of log σ, low < high, got clip={clip}")
    if not low <= start <= high:
        raise ValueError(f"{name}'s init_log_scale={start} lies outside its clip={clip}")
