"""Complete Pyro models: a Bayesian net with a likelihood."""

import warnings
from collections.abc import Sequence
from typing import Any

import pyro
import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves, tree_map

from bayesprune.likelihoods import Categorical, Likelihood, Normal, Several
from bayesprune.likelihoods.batch import call, count_examples
from bayesprune.network.bayesian_net import BayesianNet

__all__ = ["SupervisedModel", "classify", "regress", "supervise"]


class SupervisedModel(nn.Module):
    """A Pyro model of targets given inputs: weights from the prior, y from the likelihood, per data set.

    Args:
        bnet: the net with its posterior.
        likelihood: how targets are distributed given the net's output.
        size: how many examples the data set has; each batch stands for all of them. ``None`` leaves it to
            :func:`bayesprune.fit`, which counts them.

    The sites are the net's, and ``y`` in the plate ``data``: with a line under them, ``y_`` and ``data_``, where the
    net has a parameter of that name. Of several outputs there is a site for each, ``y.<name>``.

    Several models may stand on one net, and each keeps its own likelihood. What is asked of the net alone, such as
    ``bp.predict(bnet, x)``, goes by the model that was fitted last or, before any was, by the one made last.

    Attributes:
        size: as given or counted.
        counts: whether ``size`` is left to the fit.
        target, plate: what the site of y and its plate are called.
    """

    def __init__(self, bnet: BayesianNet, likelihood: Likelihood, size: int | None = None) -> None:
        super().__init__()
        if not isinstance(bnet, BayesianNet):
            raise TypeError(
                f"expected a BayesianNet, got {type(bnet).__name__}: bp.BayesianNet(net, "
                '{"*.weight": bp.SparseVD()}) makes one of a net'
            )
        if not isinstance(likelihood, Likelihood):
            raise TypeError(
                f"expected a likelihood, such as bp.likelihoods.Poisson() or bp.likelihood(…), got {likelihood!r:.100}"
            )
        if size is not None and (not isinstance(size, int) or size < 1):
            raise ValueError(
                f"size is the number of examples in the training set, an integer ≥ 1, got {size!r:.80}; left out, "
                "bp.fit counts them"
            )
        self.bnet, self.size, self.counts = bnet, size, size is None
        self._likelihood = (likelihood,)  # in a tuple: where it speaks for the net, it is a submodule there
        before = bnet.observation
        if before is None or not bnet.epochs or type(before) is type(likelihood):
            self.speak()
        else:
            warnings.warn(
                f"the net was fitted with {type(before).__name__} targets, and bp.predict(bnet, …) goes on reading its "
                f"output so; fit this model of {type(likelihood).__name__} targets, or give it instead of the net",
                stacklevel=3,
            )
        taken = {name for name, _ in bnet.net.named_parameters()}
        if isinstance(likelihood, Several):  # whose sites are called as parameters of a module y would be
            taken |= {name.partition(".")[0] for name in taken}
        self.target, self.plate = (_free(name, taken) for name in ("y", "data"))

    @property
    def likelihood(self) -> Likelihood:
        """How targets are distributed given the net's output."""
        return self._likelihood[0]

    def speak(self) -> None:
        """Have this model say what the net's output means: to predict, score and report by."""
        if self.bnet.observation is not self.likelihood:
            self.bnet.observation = self.likelihood.to(next(iter(self.bnet.parameters()), torch.zeros(0)).device)

    def forward(self, x: Any, y: Any = None) -> Any:
        """Run the model on a batch; returns what the likelihood reads of the net's output, in float32 at least: its
        log-probability is taken there.

        Raises:
            ValueError: an empty batch, a batch larger than ``size``, or targets that the output cannot have.
        """
        likelihood = self.likelihood
        output = likelihood.take(call(self.bnet, x))
        output = _wide(output) if isinstance(output, Tensor) else tree_map(_wide, output)
        n = len(output) if isinstance(output, Tensor) and output.dim() else count_examples(x, y)
        if n == 0:
            raise ValueError("an empty batch: nothing to learn from or to predict")
        if y is not None:
            likelihood.check_inputs(x, y)
            y = likelihood.check(output, y)
            if self.size is None:
                raise ValueError("size, the number of training examples, is not known: say size=, or fit with bp.fit")
            if n > self.size:
                raise ValueError(f"a batch of {n} is larger than size={self.size}, the number of training examples")
        device = next((part.device for part in tree_leaves(output) if isinstance(part, Tensor)), None)
        # given the indices, Pyro draws none: a randperm over the data set at every step is saved
        whole = n if y is None or self.size is None else self.size
        with pyro.plate(self.plate, whole, subsample=torch.arange(n, device=device)):
            likelihood.observe(self.target, output, y)
        return output


def _wide(part: Any) -> Any:
    floating = isinstance(part, Tensor) and part.is_floating_point()
    return part.to(torch.promote_types(part.dtype, torch.float32)) if floating else part


def _free(name: str, taken: set[str]) -> str:
    while name in taken:
        name += "_"
    return name


def supervise(bnet: BayesianNet, size: int | None, likelihood: Likelihood) -> SupervisedModel:
    """A model of targets of any kind: what :func:`classify` and :func:`regress` give, for every likelihood.

    Args:
        bnet: the net with its posterior.
        size: how many examples the training set has. Examples are counted, not their pixels or tokens: an example's
            log-probability is the sum over those. ``None`` leaves it to :func:`bayesprune.fit`, which counts them.
        likelihood: one of :mod:`bayesprune.likelihoods`, or :func:`bayesprune.likelihood` of a function. What it learns
            it holds: give each net one of its own.

    Raises:
        TypeError: ``likelihood`` is none.
        ValueError: ``size`` is no number of examples.

    >>> from bayesprune.likelihoods import Poisson
    >>> from bayesprune.methods import SparseVD
    >>> bnet = BayesianNet(nn.Sequential(nn.Linear(4, 1)), {"0.weight": SparseVD()})
    >>> supervise(bnet, 100, Poisson())(torch.zeros(2, 4), torch.tensor([0, 3])).shape
    torch.Size([2, 1])
    """
    return SupervisedModel(bnet, likelihood, size)


def classify(
    bnet: BayesianNet,
    size: int | None = None,
    *,
    weight: Tensor | Sequence[float] | None = None,
    label_smoothing: float = 0.0,
    ignore_index: int = -100,
    class_axis: int = -1,
    shift: bool = False,
) -> SupervisedModel:
    """A model of class labels; the net's output holds logits, the class axis last unless ``class_axis`` says otherwise.

    Args:
        bnet: the net with its posterior.
        size: how many examples the training set has; left out, :func:`bayesprune.fit` counts them.
        weight, label_smoothing, ignore_index, class_axis, shift: as :class:`bayesprune.likelihoods.Categorical` has
            them.

    >>> from bayesprune.methods import SparseVD
    >>> bnet = BayesianNet(nn.Sequential(nn.Linear(4, 3)), {"0.weight": SparseVD()})
    >>> classify(bnet, size=100)(torch.zeros(2, 4), torch.tensor([0, 2])).shape
    torch.Size([2, 3])
    """
    likelihood = Categorical(
        weight=weight, label_smoothing=label_smoothing, ignore_index=ignore_index, class_axis=class_axis, shift=shift
    )
    return SupervisedModel(bnet, likelihood, size)


def regress(bnet: BayesianNet, size: int | None = None, noise: float | None = None) -> SupervisedModel:
    """A model of real targets, normal around the net's output.

    Args:
        bnet: the net with its posterior.
        size: how many examples the training set has; left out, :func:`bayesprune.fit` counts them.
        noise: the standard deviation of a target, in its units; ``None`` learns it.
    """
    return SupervisedModel(bnet, Normal(noise), size)
