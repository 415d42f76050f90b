"""``bp.prune``: a trained net, a few batches, a budget; no training."""

from collections.abc import Iterable, Mapping, Set
from dataclasses import dataclass
from functools import partial
from math import ceil, log
from typing import Any, NamedTuple

import torch
from accelerate.utils import send_to_device
from torch import Tensor, nn

from bayesprune._state_dicts import StateDict
from bayesprune.fitting.batches import known_size, split
from bayesprune.fitting.generators import seeded
from bayesprune.fitting.given import batches_of
from bayesprune.likelihoods import Categorical, Likelihood, Normal
from bayesprune.likelihoods.batch import call, count_examples
from bayesprune.likelihoods.guessed import guessed
from bayesprune.methods import Deterministic
from bayesprune.network.bayesian_net import BayesianNet
from bayesprune.network.rules import matched_by
from bayesprune.one_shot.conditioning import condition_weight
from bayesprune.one_shot.factors import factors_of, watch
from bayesprune.one_shot.laplace import Laplace, laplace_of
from bayesprune.one_shot.products import UnfollowedError
from bayesprune.patterns import Pattern, Unstructured
from bayesprune.pruning.masking import Scope, check_keep, check_masks, select

__all__ = ["Pruned", "condition", "prune"]


class Pruned(NamedTuple):
    """What :func:`prune` gives: ``means, masks``, as :func:`bayesprune.export` and ``compact`` take them.

    Attributes:
        means: the net's state dict with pruned entries at 0, which ``net.load_state_dict`` takes.
        masks: weight name → bool of the weight's shape.
    """

    means: StateDict
    masks: dict[str, Tensor]


@torch.no_grad()
def prune(
    net: nn.Module,
    loader: Iterable[Any],
    *,
    keep: float,
    rules: Mapping[Any, Pattern | None] | None = None,
    likelihood: Likelihood | None = None,
    scope: Scope = "global",
    shots: int | None = None,
    examples: int = 4096,
    size: int | None = None,
    seed: int | None = 0,
) -> Pruned:
    """Prune a trained net by its Laplace posterior, without any training.

    The posterior of each weight with Kronecker factors, N(W, (n G ⊗ A + λ)⁻¹), comes from one pass over some examples,
    λ from the evidence. Groups go by their SNR under it, w_gᵀ Σ_gg⁻¹ w_g: optimal brain surgery's saliency. What stays
    is then set to its mean given that what went is 0: layer by layer, the least-squares fit to the dense net's results
    from the inputs that the layer gets in the net pruned so far. In several shots, with factors anew in each.

    Args:
        net: a trained net. It is not changed.
        loader: batches ``(x, y)``, a data set, or one batch; the first ``examples`` are read. Of targets only the kind
            matters, for labels are the net's own.
        keep: the fraction of the entries of all matched weights to keep, in (0, 1].
        rules: glob over parameter names, or a class of layers → pattern, or ``None`` for what is left alone; the first
            match wins. By default single entries of every linear and convolution layer, but for weights that are
            shared. Layers that no rule names keep all their weights, and make up for what those before them lose.
        likelihood: how targets are distributed given the output; by default what the targets suggest, of numbers with
            the net's own residuals as noise, and classes where there are no targets.
        scope: whether ``keep`` is one budget for all weights together or one for each.
        shots: in how many steps; by default so many that each keeps at least 0.7 of what was left.
        examples: how many calibration examples at most.
        size: how many examples the net was trained on, n; by default those of the loader's data set. It weighs the data
            against the prior.
        seed: fixes which examples a shuffling loader gives, and the labels that are drawn of many outputs.

    Raises:
        ValueError: a budget out of range, no batches, a rule that matches nothing, a weight that the forward never uses
            or reads in a way that cannot be followed (it is named), or activations that are not finite.

    >>> from torch.utils.data import DataLoader, TensorDataset
    >>> x = torch.randn(256, 16)
    >>> net = nn.Sequential(nn.Linear(16, 32), nn.ReLU(), nn.Linear(32, 3))
    >>> loader = DataLoader(TensorDataset(x, net(x).argmax(-1)), batch_size=64)
    >>> means, masks = prune(net, loader, keep=0.5)
    >>> sum(int(m.sum()) for m in masks.values())
    304
    """
    check_keep(keep, scope)
    if shots is not None and (not isinstance(shots, int) or shots < 1):
        raise ValueError(f"shots is an integer ≥ 1, got {shots!r}")
    rules = dict.fromkeys(layers_of(net), Unstructured()) if rules is None else rules
    if not rules:
        raise ValueError("the net has no linear or convolution layer to prune: name weights with rules=")
    bnet = BayesianNet(net, {name: p if p is None else Deterministic(p) for name, p in rules.items()}).eval()
    shots = shots or max(1, ceil(log(keep) / log(0.7)))
    dense = bnet.state().values
    values = dict(dense)
    left = set().union(*(matched_by(net, key) for key, pattern in rules.items() if pattern is None))
    with seeded(seed):
        data = Calibration.of(bnet, loader, examples, likelihood, size)
        wide = _with_followers(bnet, data, left)
        for shot in range(1, shots + 1):
            found = data.posteriors(wide, values)
            scores = {n: found[n].snr_squared(p.pattern, p.layout).sqrt() for n, p in bnet.posteriors.items()}
            bnet.prune(select(bnet, scores, keep ** (shot / shots), scope))
            masks = {name: p.entries().clone() for name, p in bnet.posteriors.items()}
            wide.prune(masks)
            _condition(wide, found, values, dense, data)
    return Pruned(StateDict.of(net, values), masks)


@torch.no_grad()
def condition(
    net: nn.Module,
    masks: Mapping[str, Tensor],
    loader: Iterable[Any],
    *,
    likelihood: Likelihood | None = None,
    examples: int = 4096,
    size: int | None = None,
    seed: int | None = 0,
) -> StateDict:
    """Let what masks keep make up for what they drop, whoever made them; no training.

    Layer by layer, each row's weights that stay are set to the least-squares fit of the dense net's results, as
    :func:`prune` does. Arguments are those of :func:`prune`.

    Args:
        net: the trained net. It is not changed.
        masks: weight name → bool of the weight's shape, True stays.

    Returns:
        The net's state dict, with dropped entries at 0.

    Raises:
        ValueError: a mask that does not fit, or what :func:`prune` refuses.

    >>> x = torch.randn(64, 8)
    >>> net = nn.Linear(8, 3)
    >>> means = condition(net, {"weight": torch.rand(3, 8) < 0.5}, [(x, None)])
    >>> means["weight"].shape
    torch.Size([3, 8])
    """
    bnet = BayesianNet(net, {name: Deterministic() for name in masks}).eval()
    check_masks(bnet, masks)
    dense = bnet.state().values
    values = dict(dense)
    with seeded(seed):
        data = Calibration.of(bnet, loader, examples, likelihood, size)
        wide = _with_followers(bnet, data)
        found = data.posteriors(wide, values)
    wide.prune(masks)
    _condition(wide, found, values, dense, data)
    return StateDict.of(net, values)


@dataclass(frozen=True)
class Calibration:
    """Examples from which factors are summed.

    Attributes:
        batches: inputs and targets.
        likelihood: how targets are distributed.
        size: how many examples the net was trained on.
    """

    batches: list[tuple[Any, Any]]
    likelihood: Likelihood
    size: int

    @classmethod
    def of(
        cls, bnet: BayesianNet, data: Any, examples: int, likelihood: Likelihood | None, size: int | None
    ) -> "Calibration":
        """The first batches that hold ``examples``, on the net's device; the size is that of all the data."""
        loader = batches_of(data, shuffle=True)
        device, batches, count = next(iter(bnet.parameters())).device, [], 0
        for batch in loader:
            x, y = send_to_device(split(bnet, batch), device)
            batches.append((x, y))
            count += count_examples(x, y)
            if count >= examples:
                break
        if not batches:
            raise ValueError("the loader holds no batches")
        likelihood = _likelihood(bnet, batches) if likelihood is None else likelihood
        return cls(batches, likelihood, (known_size(loader) or count) if size is None else size)

    def posteriors(self, bnet: BayesianNet, values: Mapping[str, Tensor]) -> dict[str, Laplace]:
        """The Laplace posterior of each weight, in the order of their use."""
        layouts = {name: p.layout for name, p in bnet.posteriors.items()}
        factors = factors_of(bnet, values, self.batches, self.likelihood)
        return {n: laplace_of(values[n], layouts[n], f, self.size) for n, f in factors.items()}


def _with_followers(bnet: BayesianNet, data: Calibration, left: Set[str] = frozenset()) -> BayesianNet:
    """The net with its other layers beside, as far as they can be followed: they make up for what went before them."""
    others = [name for name in layers_of(bnet.net) if name not in bnet.posteriors and name not in left]
    while True:
        wide = BayesianNet(bnet.net, dict.fromkeys([*bnet.posteriors, *others], Deterministic())).eval()
        used: list[str] = []
        values = {name: value.detach() for name, value in wide.state().values.items()}
        try:
            with torch.enable_grad():  # or the values would be copied
                watch(wide, values, data.batches[0][0], partial(_note, used))
        except UnfollowedError as error:
            if error.name in bnet.posteriors:
                raise
            others.remove(error.name)
            continue
        if set(others) <= set(used):
            return wide
        others = [name for name in others if name in used]


def _note(used: list[str], name: str, *seen: Any) -> None:
    used.append(name)


def _condition(
    bnet: BayesianNet,
    posteriors: Mapping[str, Laplace],
    values: dict[str, Tensor],
    dense: Mapping[str, Tensor],
    data: Calibration,
) -> None:
    """Set ``values`` to what they should be given what is pruned; each layer sees what those before it give now."""
    for name, posterior in posteriors.items():
        values.update(condition_weight(bnet, name, values, dense, data.batches, posterior.damping))


def _likelihood(bnet: BayesianNet, batches: list[tuple[Any, Any]]) -> Likelihood:
    """What the targets suggest; of numbers, with the net's own residuals as noise. Classes, where there are none."""
    x, y = batches[0]
    if y is None:
        return Categorical()
    found, _ = guessed(_output(bnet, x), y)
    if not isinstance(found, Normal):
        return found
    squares = []
    for x, y in batches:
        output = found.take(_output(bnet, x))
        squares.append((output - found.check(output, y)).square().flatten())
    return Normal(max(float(torch.cat(squares).mean()) ** 0.5, 1e-6))


def _output(bnet: BayesianNet, x: Any) -> Any:
    return call(lambda *a, **k: bnet.run(bnet.state().values, *a, **k), x)


def layers_of(net: nn.Module) -> list[str]:
    """The weights of linear and convolution layers, but for those that are frozen or shared."""
    owners: dict[int, int] = {}
    for _, parameter in net.named_parameters(remove_duplicate=False):
        owners[id(parameter)] = owners.get(id(parameter), 0) + 1
    found = []
    for name, parameter in net.named_parameters():
        owner = net.get_submodule(name.rpartition(".")[0])
        layer = isinstance(owner, (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.MultiheadAttention))
        layer = layer or (type(owner).__name__ == "Conv1D" and hasattr(owner, "nf"))
        if layer and parameter.dim() > 1 and parameter.requires_grad and owners[id(parameter)] == 1:
            found.append(name)
    return found
