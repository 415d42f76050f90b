"""``sparsify``: a trained net to a sparse one that is judged and packed, in one call."""

import copy
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from os import PathLike
from typing import Any

import torch
from accelerate.utils import send_to_device
from torch import Tensor, nn

from bayesprune.fitting.batches import pair
from bayesprune.fitting.door import fit
from bayesprune.fitting.given import batches_of
from bayesprune.fitting.history import History
from bayesprune.fitting.supervised import supervise
from bayesprune.likelihoods import Likelihood
from bayesprune.likelihoods.batch import call
from bayesprune.likelihoods.guessed import guessed
from bayesprune.methods import Method, SparseVD
from bayesprune.network.bayesian_net import BayesianNet
from bayesprune.pruning import Cubic
from bayesprune.pruning.masking import masks as make_masks
from bayesprune.reporting import Report, report
from bayesprune.sparse import export, save

__all__ = ["Sparsified", "sparsify"]


@dataclass(frozen=True, repr=False)
class Sparsified:
    """What :func:`sparsify` made. ``print`` it, or look at it in a notebook: it shows its report.

    Attributes:
        net: the dense net that was given, untouched.
        bnet: the net with its posterior, fitted and pruned.
        masks: weight name → bool, what stays.
        report: the comparison with the dense net, trained on for as long, on the test data.
        history: of the fit.
        task: what the targets were taken for, in words.
        example: inputs of a batch, on which the packed net was measured.
    """

    net: nn.Module
    bnet: BayesianNet
    masks: dict[str, Tensor]
    report: Report
    history: History
    task: str
    example: Any

    def export(self, **options: Any) -> nn.Module:
        """The sparse net, packed; ``options`` are those of :func:`bayesprune.export`."""
        given = {"example": self.example, "plan": None if options.keys() & {"formats", "bits"} else self.report.plan}
        return export(self.net, self.bnet.means(), self.masks, **{**given, **options})

    def save(self, path: str | PathLike[str], *, compress: bool = False) -> None:
        """Write the packed net, for :func:`bayesprune.load`; ``compress`` rounds it as finely as the posterior can
        tell."""
        save(self.export(), path, compress=compress, variances=self.bnet.variances() if compress else None)

    def __str__(self) -> str:
        return str(self.report)

    __repr__ = __str__

    def _repr_html_(self) -> str:
        return self.report._repr_html_()


def sparsify(
    net: nn.Module,
    train: Any,
    test: Any,
    *,
    keep: float = 0.05,
    likelihood: Likelihood | None = None,
    rules: Mapping[Any, Method | None] | None = None,
    epochs: int = 40,
    lr: float = 2e-3,
    control: bool = True,
    seed: int = 0,
    progress: bool | None = None,
) -> Sparsified:
    """Prune a trained net by a posterior over its weights, and judge it against the dense net.

    A posterior (``SparseVD``) starts at the net's weights and is fitted to ``train`` while the weights with the lowest
    signal-to-noise ratio go, along a cubic, until ``keep`` of them are left. The dense net is trained on beside it for
    as many epochs at the same rate, so that the report compares like with like.

    Args:
        net: the trained net; it is not touched.
        train, test: a loader, a ``Dataset`` (in batches of 64), or one pair ``(x, y)`` of tensors. ``test`` in a fixed
            order.
        keep: the fraction of the weights to keep, in (0, 1].
        likelihood: what the targets are, one of :mod:`bayesprune.likelihoods`; by default it is guessed from the first
            batch, and said on stderr unless ``progress=False``.
        rules: as :class:`bayesprune.BayesianNet` takes them; by default ``SparseVD()`` for every weight matrix and
            kernel that is not frozen, embeddings excepted.
        epochs, lr: of the fit; the rate falls to 0 over its second half.
        control: whether the dense net is trained on too; without it the report says how far that net lags.
        seed: fixes draws and shuffling.
        progress: as :func:`bayesprune.fit` has it.

    Returns:
        The report, masks and posterior, with ``save(path)`` and ``export()``.

    Raises:
        TypeError: no net or no data.
        ValueError: targets that suggest no single task, no weights to prune, or what :func:`bayesprune.fit` and
            :func:`bayesprune.report` refuse.
    """
    if not isinstance(net, nn.Module) or isinstance(net, BayesianNet):
        raise TypeError(f"sparsify takes a trained nn.Module, got {type(net).__name__}")
    schedule = Cubic(keep=keep)
    if isinstance(train, tuple) and len(train) > 1 and all(isinstance(part, Tensor) for part in train):
        train = torch.utils.data.TensorDataset(*train)
    train, test = batches_of(train, scored=True, batch_size=64, shuffle=True), batches_of(test, scored=True)
    bnet = BayesianNet(net, _weights(net) if rules is None else rules)
    x, task, likelihood = _looked_at(bnet, train, likelihood)
    if progress is not False:
        print(f"sparsify takes the targets for {task}; likelihood= says otherwise", file=sys.stderr)
    settings: dict[str, Any] = {"epochs": epochs, "lr": lr, "seed": seed, "progress": progress}
    history = fit(supervise(bnet, None, likelihood), train, prune=schedule, **settings)
    dense = None
    if control and not history.interrupted:
        longer = BayesianNet(net, {})
        fit(supervise(longer, None, copy.deepcopy(likelihood)), train, **settings)
        dense = longer.means()
    masks = make_masks(bnet, keep=keep)
    found = report(bnet, masks, test, control=dense, seed=seed)
    return Sparsified(net, bnet, masks, found, history, task, x)


def _weights(net: nn.Module) -> dict[str, Method]:
    """A rule for every weight matrix and kernel."""
    rows = {id(p) for m in net.modules() if isinstance(m, (nn.Embedding, nn.EmbeddingBag)) for p in m.parameters()}
    found = [
        name
        for name, p in net.named_parameters()
        if p.dim() > 1 and p.requires_grad and "weight" in name.rpartition(".")[2] and id(p) not in rows
    ]
    if not found:
        raise ValueError("the net has no weight of two or more axes that requires a gradient: say which, rules={…}")
    return {name: SparseVD() for name in found}


@torch.no_grad()
def _looked_at(bnet: BayesianNet, train: Any, likelihood: Likelihood | None) -> tuple[Any, str, Likelihood]:
    """Inputs of the first batch, on the net's device, what the targets are in words, and their likelihood."""
    first = next(iter(train), None)
    if first is None:
        raise ValueError("the loader holds no batches")
    bnet.observation = likelihood
    x, y = send_to_device(pair(bnet, first), next(iter(bnet.parameters())).device)
    if likelihood is not None:
        return x, type(likelihood).__name__, likelihood
    bnet.eval()
    likelihood, task = guessed(call(bnet, x), y)
    bnet.train()
    return x, task, likelihood
