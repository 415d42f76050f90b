"""The Laplace posterior of a trained weight with Kronecker factors: variances, group SNR, the prior by the evidence.

Ritter, Botev & Barber 2018, *A Scalable Laplace Approximation for Neural Networks*, ICLR. SNR² of a group under it is
the saliency of optimal brain surgery: Hassibi & Stork 1992, *Second order derivatives for network pruning: Optimal
Brain Surgeon*, NeurIPS 5; van der Ouderaa et al. 2024, *The LLM Surgeon*, arXiv:2312.17244.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from bayesprune.layout import Layout
from bayesprune.one_shot.factors import Factors
from bayesprune.patterns import Pattern

__all__ = ["Laplace", "laplace_of"]


@dataclass(frozen=True)
class Laplace:
    """N(W, Σ) over a weight as a matrix, with Σ⁻¹ = n G ⊗ A + λ I, by the eigenvectors of both factors.

    Attributes:
        mean: W, (groups, outputs, inputs · positions), float64.
        rows, columns: eigenvectors of G and of A, (groups, outputs, outputs) and (groups, inputs · positions, …).
        variance: of W in that basis, 1 / (n g a + λ): of ``mean``'s shape.
        prior_precision: λ.
        damping: λ in units of Σ x xᵀ: over the mean curvature of the outputs.
    """

    mean: Tensor
    rows: Tensor
    columns: Tensor
    variance: Tensor
    prior_precision: float
    damping: float

    def marginal(self) -> Tensor:
        """The variance of each entry, of ``mean``'s shape."""
        return self.rows.square() @ self.variance @ self.columns.square().mT

    def snr_squared(self, pattern: Pattern, layout: Layout) -> Tensor:
        """w_gᵀ Σ_gg⁻¹ w_g of each group g of a pattern, of the grid's shape, float64.

        Correlations within a group are counted in full. A group of one entry gives w² / Σᵢᵢ.
        """
        grid = pattern.groups(layout)
        if grid == layout.shape:
            return layout.unmatrix((self.mean.square() / self.marginal()).reshape(layout.roles))
        numbers = torch.arange(torch.Size(grid).numel(), device=self.mean.device).reshape(grid)
        of = layout.matrix(pattern.expand(numbers, layout)).reshape(self.mean.shape)
        found = torch.zeros(numbers.numel(), dtype=torch.float64, device=self.mean.device)
        for part in range(len(of)):
            self._add_groups(found, of[part], part)
        return found.reshape(grid)

    def _add_groups(self, found: Tensor, of: Tensor, part: int) -> None:
        """Add to ``found`` one part's energies; ``of`` has each entry's group, which is some rows × some columns."""
        mean, rows, columns, d = self.mean[part], self.rows[part], self.columns[part], self.variance[part]
        for c in _alike(of[0]):
            for r in _alike(of[:, 0]):
                at = of[r[:, 0][:, None], c[:, 0]]  # which group each pair is
                if c.shape[1] == len(columns):  # diagonal along the inputs: a small system for each
                    along = mean @ columns
                    energies = [_energy(torch.einsum("rg,ga,sg->ars", rows[i], d, rows[i]), along[i].mT) for i in r]
                    found[at[:, 0]] += torch.stack(energies)
                elif r.shape[1] == len(rows):
                    along = rows.mT @ mean
                    energies = [
                        _energy(torch.einsum("ia,ga,ja->gij", columns[j], d, columns[j]), along[:, j]) for j in c
                    ]
                    found[at[0]] += torch.stack(energies)
                else:
                    for k, j in enumerate(c):
                        found[at[:, k]] += _block_energies(mean[:, j][r], rows[r], columns[j], d)


def _alike(of: Tensor) -> list[Tensor]:
    """The indices of each group along one axis, (groups, indices), a tensor for each size that a group has."""
    members = [(of == group).nonzero()[:, 0] for group in of.unique()]
    sizes = sorted({len(m) for m in members})
    return [torch.stack([m for m in members if len(m) == size]) for size in sizes]


def _energy(sigma: Tensor, w: Tensor) -> Tensor:
    """Σ over the first axis of wᵀ σ⁻¹ w."""
    return _energies(sigma, w).sum()


def _energies(sigma: Tensor, w: Tensor) -> Tensor:
    solved = torch.linalg.solve_triangular(torch.linalg.cholesky(sigma), w[..., None], upper=False)
    return solved.square().sum((-2, -1))


def _block_energies(w: Tensor, u: Tensor, v: Tensor, d: Tensor) -> Tensor:
    """wᵀ Σ⁻¹ w of blocks of the same columns: ``w`` (blocks, h, w), ``u`` (blocks, h, outputs), ``v`` (w, inputs)."""
    across = torch.einsum("ia,ga,ja->ijg", v, d, v)
    sigma = torch.einsum("nrg,ijg,nsg->nrisj", u, across, u)
    side = w.shape[1] * w.shape[2]
    return _energies(sigma.reshape(-1, side, side), w.reshape(-1, side))


def laplace_of(
    weight: Tensor, layout: Layout, factors: Factors, size: int, prior_precision: float | None = None
) -> Laplace:
    """The Laplace posterior of one weight.

    Args:
        weight: the trained value.
        layout: the roles of its axes.
        factors: sums over calibration data.
        size: how many examples the training set has: n.
        prior_precision: λ of the prior N(0, 1/λ); ``None`` takes the λ at which the evidence of this weight is greatest
            (MacKay 1992, *Bayesian Interpolation*: λ = γ / ‖W‖², with γ the number of well-determined weights).
    """
    mean = layout.matrix(weight.detach().double()).flatten(2)
    g, rows = torch.linalg.eigh(factors.outputs)
    a, columns = torch.linalg.eigh(factors.inputs)
    each = g.clamp_min(0)[:, :, None] * a.clamp_min(0)[:, None, :] / max(factors.rows, 1) * (size / factors.examples)
    precision = _by_evidence(each, float(mean.square().sum())) if prior_precision is None else prior_precision
    curvature = float(g.clamp_min(0).mean()) * size / (max(factors.rows, 1) * factors.examples)
    return Laplace(mean, rows, columns, 1 / (each + precision), precision, precision / max(curvature, 1e-30))


def _by_evidence(curvature: Tensor, energy: float) -> float:
    """λ where Σ log of the evidence ½ (log λ − log(h + λ)) − ½ λ ‖W‖² is greatest, by MacKay's fixed point."""
    if energy == 0:
        return 1.0
    precision = curvature.numel() / energy
    for _ in range(200):
        determined = float((curvature / (curvature + precision)).sum())
        new = max(determined, 1e-6) / energy
        if abs(new - precision) < 1e-9 * precision:
            break
        precision = new
    return precision
