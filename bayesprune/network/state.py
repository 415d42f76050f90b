"""A snapshot of a posterior: means, variances and signal-to-noise ratios, computed once and read by all."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor, nn

from bayesprune._state_dicts import StateDict
from bayesprune.layout import Layout
from bayesprune.patterns import Pattern

__all__ = ["Grid", "PosteriorState"]

Moments = tuple[Tensor, Tensor]
"""Mean and variance of a weight entry by entry, or their energies (Σ mean², Σ variance) over each group."""


@dataclass(frozen=True, eq=False)
class Grid:
    """How a weight falls into groups, and which of them are kept.

    Attributes:
        pattern: which entries are pruned together.
        layout: the roles of the weight's axes.
        kept: bool over the groups.
    """

    pattern: Pattern
    layout: Layout
    kept: Tensor

    def entries(self) -> Tensor:
        """Which entries of the weight are kept: bool, of the weight's shape."""
        return self.pattern.expand(self.kept, self.layout)

    def pool(self, x: Tensor) -> Tensor:
        """Sum ``x``, of the weight's shape, over each group."""
        return self.pattern.pool(x, self.layout)

    def sizes(self) -> Tensor:
        """How many entries each group holds."""
        return self.pattern.sizes(self.layout, self.kept.device)


@dataclass(frozen=True, eq=False)
class PosteriorState:
    """What a posterior says of a net's weights at one moment; :meth:`bayesprune.BayesianNet.state` makes it.

    Attributes:
        unpruned: weight name → mean and variance entry by entry, as they are under what is pruned.
        grids: weight name → its groups, and which are kept.
        coupled: the weights whose groups are decided on together, more than one in each tuple.
        rest: every parameter and buffer without a posterior, by name.
        net: the net, which says how its ``state_dict`` lists them.

    >>> from bayesprune import BayesianNet, SparseVD
    >>> state = BayesianNet(torch.nn.Linear(4, 3), {"weight": SparseVD()}).state()
    >>> state.snr["weight"].shape, sorted(state.means)
    (torch.Size([3, 4]), ['bias', 'weight'])
    """

    unpruned: Mapping[str, Moments]
    grids: Mapping[str, Grid]
    coupled: tuple[tuple[str, ...], ...]
    rest: Mapping[str, Tensor]
    net: nn.Module

    @property
    def kept(self) -> dict[str, Tensor]:
        """Weight name → bool over its groups."""
        return {name: grid.kept for name, grid in self.grids.items()}

    @cached_property
    def moments(self) -> dict[str, Moments]:
        """Weight name → mean and variance of the effective weight, entry by entry; 0 and 0 where pruned."""
        found = {}
        for name, (mean, variance) in self.unpruned.items():
            entries = self.grids[name].entries()
            found[name] = torch.where(entries, mean, 0.0), torch.where(entries, variance, 0.0)
        return found

    @property
    def values(self) -> dict[str, Tensor]:
        """Every parameter and buffer by its first name in the net: posterior means where there is a posterior."""
        return {**{name: mean for name, (mean, _) in self.moments.items()}, **self.rest}

    @property
    def means(self) -> StateDict:
        """:attr:`values` as the net's ``state_dict`` lists them: tied ones under each name, unsaved buffers aside."""
        return StateDict.of(self.net, self.values)

    @property
    def variances(self) -> dict[str, Tensor]:
        """Weight name → variance of the effective weight, entry by entry; 0 where pruned."""
        return {name: variance for name, (_, variance) in self.moments.items()}

    @cached_property
    def energies(self) -> dict[str, Moments]:
        """Weight name → Σ mean² and Σ variance over each group, of the grid's shape.

        Coupled weights, such as the projections of one attention under ``Heads``, share the sums.
        """
        return self._energies(self.moments)

    @cached_property
    def unpruned_energies(self) -> dict[str, Moments]:
        """:attr:`energies`, of :attr:`unpruned`."""
        return self._energies(self.unpruned)

    @cached_property
    def snr(self) -> dict[str, Tensor]:
        """Weight name → the signal-to-noise ratio of each group: √(Σ mean² / Σ variance).

        0 where pruned, infinity where the variance is 0 and the mean is not.
        """
        return {name: _ratio(*energies) for name, energies in self.energies.items()}

    @cached_property
    def snr_when_pruned(self) -> dict[str, Tensor]:
        """Weight name → :attr:`snr` where a group is kept, and the ratio of what is under the mask where it is not."""
        under = {name: _ratio(*energies) for name, energies in self.unpruned_energies.items()}
        return {name: torch.where(self.kept[name], ratio, under[name]) for name, ratio in self.snr.items()}

    def _energies(self, moments: Mapping[str, Moments]) -> dict[str, Moments]:
        pooled = {
            name: (self.grids[name].pool(mean.square()), self.grids[name].pool(variance))
            for name, (mean, variance) in moments.items()
        }
        for names in self.coupled:
            signal, noise = (torch.stack(parts).sum(0) for parts in zip(*(pooled[n] for n in names), strict=True))
            pooled.update(dict.fromkeys(names, (signal, noise)))
        return pooled


def _ratio(signal: Tensor, noise: Tensor) -> Tensor:
    return torch.where(signal > 0, (signal / noise).sqrt(), 0.0)
