"""The evidence lower bound, its expected log-likelihood and KL kept apart: of the fit, and for a loop of one's own."""

import math
from collections.abc import Callable
from typing import Any

import torch
from pyro import infer, poutine
from pyro.distributions.util import scale_and_mask
from pyro.poutine.util import site_is_subsample
from torch import Tensor, nn
from torch.distributions import kl_divergence

from bayesprune.fitting.given import net_under
from bayesprune.fitting.supervised import SupervisedModel
from bayesprune.network.bayesian_net import BayesianNet

__all__ = ["ELBO", "MeanFieldELBO", "ramp"]


def ramp(done: float, warmup: float) -> float:
    """The factor on the KL: linear from 1e-3 to 1 over the warm-up."""
    return 1.0 if warmup == 0 else min(1.0, max(1e-3, done / warmup))


class MeanFieldELBO(infer.ELBO):
    """−ELBO = NLL + KL, for a mean-field guide whose sites are fully reparameterised.

    Pyro's ``TraceMeanField_ELBO`` gives the same number; this one keeps the halves apart, so that the KL can be warmed
    up and both can be reported, and computes no log-probability that a closed-form KL makes needless. A pair of
    distributions without such a KL contributes log q − log p at the draw.

    Args:
        warmup: steps over which ``kl_weight`` rises by itself; 0 leaves it as it is set.

    Attributes:
        kl_weight: the factor on the KL; 1 is the bound.
        step: how often the loss was taken with gradients.
        nll: −log p(y | w) of the last call, summed over the data set, nats.
        kl: the KL of the last call, nats, without that factor.
    """

    def __init__(self, warmup: float = 0) -> None:
        super().__init__()
        self.warmup, self.step = warmup, 0
        self.kl_weight = ramp(0, warmup)
        self.nll = self.kl = torch.zeros(())

    def differentiable_loss(self, model: Any, guide: Any, *args: Any, **kwargs: Any) -> Tensor:
        if self.warmup:
            self.kl_weight = ramp(self.step, self.warmup)
        # as contexts: get_trace adds the shapes of all sites to whatever error a model raises
        with poutine.trace() as of_q:
            guide(*args, **kwargs)
        under_q = of_q.trace
        with poutine.trace() as of_p, poutine.replay(trace=under_q):
            model(*args, **kwargs)
        under_p = of_p.trace
        nll = kl = torch.zeros(())
        for name, site in under_p.nodes.items():
            if site["type"] != "sample" or site_is_subsample(site):
                continue
            if site["is_observed"]:
                nll = nll - scale_and_mask(site["fn"].log_prob(site["value"]), site["scale"], site["mask"]).sum()
            elif name in under_q:
                kl = kl + _kl(under_q.nodes[name], site)
            else:
                raise ValueError(f"the model samples {name!r} and the guide does not: both need the same sites")
        loss = nll + self.kl_weight * kl
        self.step += torch.is_grad_enabled()
        self.nll, self.kl = (half.detach().to(loss.device) for half in (nll, kl))  # one without sites is a plain 0
        return loss

    @torch.no_grad()
    def loss(self, model: Any, guide: Any, *args: Any, **kwargs: Any) -> float:
        return float(self.differentiable_loss(model, guide, *args, **kwargs))

    def loss_and_grads(self, model: Any, guide: Any, *args: Any, **kwargs: Any) -> float:
        loss = self.differentiable_loss(model, guide, *args, **kwargs)
        loss.backward()
        return loss.item()

    def _get_trace(self, model: Any, guide: Any, args: Any, kwargs: Any) -> Any:
        raise TypeError("MeanFieldELBO keeps no pair of traces; use differentiable_loss")


def _kl(q: Any, p: Any) -> Tensor:
    try:
        kl = kl_divergence(q["fn"], p["fn"])
    except NotImplementedError:
        log_q = scale_and_mask(q["fn"].log_prob(q["value"]), q["scale"], q["mask"]).sum()
        return log_q - scale_and_mask(p["fn"].log_prob(p["value"]), p["scale"], p["mask"]).sum()
    return scale_and_mask(kl, q["scale"], q["mask"]).sum()


class ELBO(nn.Module):
    """The loss that :func:`bayesprune.fit` minimises, for a loop of one's own: −ELBO per example, its KL warmed up.

    ``bp.ELBO(model, bnet.guide, warmup=1000)(x, y).backward()`` goes with any torch optimiser, over
    :meth:`bnet.parameter_groups(lr) <bayesprune.BayesianNet.parameter_groups>`. Pyro's own ``SVI`` takes ``.bound``,
    the sum over the data set with the same warm-up: ``SVI(model, bnet.guide, optim, loss=elbo.bound)``.

    Args:
        model: a Pyro model over a net with a posterior, called as the loss is.
        guide: its guide, ``bnet.guide``; implied where ``model`` is a module that holds the net.
        warmup: steps over which the KL's factor rises linearly to 1. ``fit`` takes 40 % of them all; from random
            weights a KL that counts from the start wins before the data have their say.
        size: how many examples the data set has, by which the loss is divided; by default what ``model.size`` says,
            and where it says nothing the loss is of the whole data set.

    Raises:
        ValueError: ``warmup`` or ``size`` out of range, or no net with a posterior in either.

    Attributes:
        bound: the Pyro ELBO, with ``nll``, ``kl`` and ``kl_weight`` of the last step.

    >>> from bayesprune.fitting.supervised import classify
    >>> from bayesprune.methods import SparseVD
    >>> bnet = BayesianNet(nn.Linear(4, 3), {"weight": SparseVD()})
    >>> elbo = ELBO(classify(bnet, size=100), warmup=50)
    >>> elbo(torch.zeros(8, 4), torch.zeros(8).long()).backward()
    >>> elbo.bound.step, elbo.bound.kl_weight
    (1, 0.001)
    """

    bnet: BayesianNet

    def __init__(
        self,
        model: Callable[..., Any],
        guide: Callable[..., Any] | None = None,
        *,
        warmup: float,
        size: int | None = None,
    ) -> None:
        super().__init__()
        if not 0 <= warmup < math.inf:
            raise ValueError(f"warmup is a number of steps ≥ 0, got {warmup!r}")
        size = getattr(model, "size", None) if size is None else size
        if size is not None and size < 1:
            raise ValueError(f"size is the number of examples in the training set, an integer ≥ 1, got {size!r}")
        self.model, self.size = model, size
        self.bnet = net_under(model, guide)
        if isinstance(model, SupervisedModel):
            model.speak()
        self.guide = self.bnet.guide if guide is None else guide
        self.bound = MeanFieldELBO(warmup)

    def forward(self, *args: Any, **kwargs: Any) -> Tensor:
        """−ELBO per example, nats; with gradients it counts as a step of the warm-up."""
        loss = self.bound.differentiable_loss(self.model, self.guide, *args, **kwargs)
        return loss if self.size is None else loss / self.size
