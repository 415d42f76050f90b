"""A prior of your own: three verbs, and it prunes, trains and exports like ours.

    python examples/own_method.py

Student-t weights (heavy tails: most are near 0, some may be large) on the digits that scikit-learn bundles. The KL of a
normal from a Student-t has no closed form; the ELBO then takes log q − log p at the draw, and nothing need be said.
"""

import argparse
from dataclasses import dataclass

import pyro.distributions as dist
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

import bayesprune as bp
from bayesprune.data import digits
from bayesprune.distributions import LazyNormal
from bayesprune.nets import lenet_300_100


@dataclass(frozen=True)
class StudentT(bp.Method):
    """q(w) = N(μ, σ²), p(w) = Student-t: the hyper-parameters, a value like any of the library's own methods."""

    pattern: bp.Pattern = bp.Unstructured()  # noqa: RUF009
    df: float = 3.0
    scale: float = 0.1
    init_log_scale: float = 0.1 - 4.0

    def posterior(self, weight) -> bp.Posterior:
        return StudentTPosterior(weight, self)


class StudentTPosterior(bp.Posterior):
    """One weight's prior, guide and moments."""

    lr_multipliers = {"log_scale": 10.0}  # noqa: RUF012  # learns ten times as fast as the weights
    per_entry = frozenset({"loc", "log_scale"})  # what an optimiser remembers of them goes with a pruned entry

    def __init__(self, weight, method: StudentT) -> None:
        super().__init__(weight)
        self.method = method
        self.loc = nn.Parameter(weight.tensor.clone())
        self.log_scale = nn.Parameter(torch.full_like(weight.tensor, method.init_log_scale))

    def prior(self) -> Tensor:
        like = torch.zeros_like(self.loc)
        return self.sample(dist.StudentT(like + self.method.df, like, like + self.method.scale))

    def guide(self) -> None:
        self.clamp_("log_scale", -10.0, 2.0)  # no scale runs away
        # dist.Normal would do as well; a LazyNormal lets layers sample activations, at far less variance
        self.sample(LazyNormal(self.param("loc"), self.param("log_scale").exp()))

    def moments(self) -> tuple[Tensor, Tensor]:
        return self.loc, (2 * self.log_scale).exp()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--epochs", type=int, default=40)
    args = parser.parse_args()
    splits = digits()
    train, val = (DataLoader(d, batch_size=64, shuffle=d is splits.train) for d in (splits.train, splits.val))
    torch.manual_seed(0)
    net = lenet_300_100(inputs=64)
    bnet = bp.BayesianNet(net, {"fc1.weight": StudentT(bp.Block(4, 1)), "fc*.weight": StudentT()})
    model = bp.classify(bnet, size=len(splits.train))
    history = bp.fit(model, bnet.guide, train, epochs=args.epochs, lr=6e-3, seed=0, prune=bp.Cubic(keep=0.1))
    print(f"NLL {history.nll[-1]:.3f} per image, KL {history.kl[-1]:,.0f} nats, {history.epochs[-1].kept:.0%} kept")
    masks = bp.masks(bnet, keep=0.1)
    report = bp.report(bnet, masks, val)
    print(report)
    sparse = bp.export(net, bnet.means(), masks, example=splits.val.tensors[0][:64], plan=report.plan)
    print(sparse(splits.val.tensors[0][:64]).argmax(-1)[:10].tolist(), splits.val.tensors[1][:10].tolist())


if __name__ == "__main__":
    main()
