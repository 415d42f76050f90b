"""The evidence lower bound, its expected log-likelihood and KL kept apart."""

from typing import Any

import torch
from pyro import poutine
from pyro.distributions.util import scale_and_mask
from pyro.infer import ELBO
from pyro.poutine.util import site_is_subsample
from torch import Tensor
from torch.distributions import kl_divergence

__all__ = ["MeanFieldELBO"]


class MeanFieldELBO(ELBO):
    """−ELBO = NLL + KL, for a mean-field guide whose sites are fully reparameterised.

    Pyro's ``TraceMeanField_ELBO`` gives the same number; this one keeps the halves apart, so that the KL can be warmed
    up and both can be reported, and computes no log-probability that a closed-form KL makes needless. A pair of
    distributions without such a KL contributes log q − log p at the draw.

    Attributes:
        kl_weight: the factor on the KL; 1 is the bound.
        nll: −log p(y | w) of the last call, summed over the data set, nats.
        kl: the KL of the last call, nats, without that factor.
    """

    def __init__(self) -> None:
        super().__init__()
        self.kl_weight = 1.0
        self.nll = self.kl = torch.zeros(())

    def differentiable_loss(self, model: Any, guide: Any, *args: Any, **kwargs: Any) -> Tensor:
        under_q = poutine.trace(guide).get_trace(*args, **kwargs)
        under_p = poutine.trace(poutine.replay(model, trace=under_q)).get_trace(*args, **kwargs)
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
