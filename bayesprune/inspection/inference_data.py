"""Posterior draws, predictive and log-likelihood as ArviZ inference data. Nothing else here imports this file."""

import math
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import arviz as az
import numpy as np
import torch
import xarray as xr
from pyro import poutine
from torch import Tensor
from torch.utils._pytree import tree_leaves, tree_map

import bayesprune
from bayesprune.draws.gaussian import plain
from bayesprune.evaluation.prediction import Draw, each_draw, evaluating, known_observation
from bayesprune.evaluation.scoring import double
from bayesprune.fitting.generators import seeded
from bayesprune.fitting.given import batches_of, net_of
from bayesprune.fitting.history import History
from bayesprune.fitting.supervised import SupervisedModel
from bayesprune.inspection.chains import in_chains, renamed
from bayesprune.inspection.cross_validation import ARVIZ_0, log_density, no_correction
from bayesprune.inspection.entries import Entries, chosen, numpy_of, numpy_type
from bayesprune.inspection.targets import targets_of
from bayesprune.likelihoods import Likelihood
from bayesprune.network.bayesian_net import BayesianNet
from bayesprune.pruning.masking import check_masks

__all__ = ["LeftOutWarning", "to_inference_data"]

_SAMPLE = ("chain", "draw")
_VARIATIONAL = (
    "independent draws from a variational posterior q, chains by convention: r_hat, ess and divergences say nothing "
    "about how near q is to the posterior"
)
_PRIOR = "independent draws of the effective weights under the prior; of an improper one, under its truncated form"
_UNCORRECTED = (
    "az.loo, az.waic and az.compare take the draws for draws from the posterior; they are from q. bayesprune.loo "
    "corrects for that where it can be done"
)


class LeftOutWarning(UserWarning):
    """Something was left out of the result to stay within its memory bound."""


@torch.no_grad()
def to_inference_data(
    bnet: BayesianNet | SupervisedModel,
    loader: Any,
    *,
    draws: int = 100,
    chains: int = 1,
    masks: Mapping[str, Tensor] | None = None,
    weights: Sequence[str] | Mapping[str, Any] | None = None,
    classes: Sequence[str] | None = None,
    history: History | None = None,
    memory_mb: float = 512.0,
    separator: str = ".",
    seed: int | None = None,
) -> Any:
    """Posterior draws, predictive and log-likelihood for ArviZ: ``InferenceData``, or an xarray ``DataTree`` (arviz 1).

    Row i of the posterior, the predictive, the output and the log-likelihood is one and the same draw of the weights.
    A weight goes by its name, of which what a NetCDF file cannot hold is escaped: ``/`` as ``%2F``.

    Args:
        bnet: the net with its posterior; :func:`bayesprune.classify` or :func:`~bayesprune.regress` has said what its
            output means. Or the model that these gave.
        loader: batches ``(x, y)``, dicts with labels, or ``x`` alone; read once a draw, so its order must not change
            (no shuffling). Or a ``Dataset``, or one batch. For leave-one-out scores it is the training set, all of it.
        draws: how many draws of the weights, in each chain.
        chains: into how many chains they are dealt, so that diagnostics which compare chains give numbers. All are
            independent draws from q: an r̂ near 1 says so, and nothing about how near q is to the posterior.
        masks: weight name → bool; what they drop is 0 in every draw.
        weights: which to keep draws of: globs over weight names, or a mapping from a glob to what of the weight to
            keep (slices by axis, ``np.s_[:10, ::2]``, or a bool mask of its shape, as :func:`bayesprune.masks` gives).
            By default all of all.
        classes: the classes' names.
        history: what :func:`bayesprune.fit` returned; becomes the group ``fit``.
        memory_mb: what the result may hold, in units of 10⁶ bytes. Draws are streamed, so that nothing more is held but
            for what one draw of the weights and one pass over the data take. The smallest weights come first; of one
            whose draws do not fit, the root mean square over each output's weights is kept, draw by draw.
        separator: what stands in the place of the dots in names, such as ``"_"`` for a tool that takes no dots.
        seed: fixes the draws, and leaves the global generator as it was. The weights are those of
            :func:`bayesprune.predict` with the same seed.

    Returns:
        The groups, each where it exists: ``posterior``, ``prior`` (effective weights), ``posterior_predictive`` (``y``
        drawn anew), ``output`` (probabilities ``probs``, or the ``mean`` of y), ``log_likelihood`` (nats, one
        number per example), ``observed_data``, ``sample_stats`` (``lp``, log p(w) + log p(y | w), and ``log_q``,
        nats), ``constant_data`` (mask and signal-to-noise ratio entry by entry, pattern, method, kept fraction), and
        ``fit`` (NLL, KL and kept fraction per epoch). Of several outputs, ``y``, ``probs`` and ``mean`` go by
        ``y.<name>`` and so on, and the log-likelihood is of all together. A likelihood that is a function of one's own
        draws no ``y``.

    Raises:
        TypeError: no net with a posterior, or no data.
        ValueError: no observation model yet, draws or chains < 1, a bound too small for the log-likelihood, unknown
            weights, masks or class names that do not fit, two names that ``separator`` makes one, no data, or a loader
            whose order changes.

    Warns:
        LeftOutWarning: what did not fit into ``memory_mb``; the attribute ``left_out`` of every group repeats it.

    >>> from bayesprune.fitting.supervised import classify
    >>> from bayesprune.methods import Gaussian
    >>> bnet = BayesianNet(torch.nn.Sequential(torch.nn.Linear(4, 3)), {"0.weight": Gaussian()})
    >>> model = classify(bnet, size=5)
    >>> data = to_inference_data(bnet, [(torch.zeros(5, 4), torch.zeros(5).long())], draws=7, classes=["a", "b", "c"])
    >>> data.posterior["0.weight"].dims, data.output["probs"].sel({"class": "b"}).shape
    (('chain', 'draw', '0.weight_out', '0.weight_in'), (1, 7, 5))
    """
    if not isinstance(draws, int) or draws < 1:
        raise ValueError(f"draws is an integer ≥ 1, got {draws!r}")
    if not isinstance(chains, int) or chains < 1:
        raise ValueError(f"chains is an integer ≥ 1, got {chains!r}")
    total = draws * chains
    if not memory_mb > 0:
        raise ValueError(f"memory_mb is a bound in units of 10⁶ bytes, above 0, got {memory_mb!r}")
    bnet, loader = net_of(bnet), batches_of(loader)
    observation, masks = known_observation(bnet), masks or {}
    check_masks(bnet, masks)
    entries = chosen(bnet, weights)
    with seeded(seed):
        with torch.random.fork_rng():  # y is drawn from a stream of its own: the weights are those of bp.predict
            noise = torch.Generator().manual_seed(int(torch.randint(2**63 - 1, ()))).get_state()
        record: _Record | None = None
        for i, drawn in enumerate(each_draw(bnet, loader, total, masks)):
            if record is None:
                reason = "masks= changed the model after the fit" if masks else no_correction(drawn.under_p)
                record = _Record(observation, entries, total, drawn, classes, memory_mb, reason)
            noise = record.add(i, drawn, noise)
            del drawn  # one draw of a large net at a time
        assert record is not None
        record.add_prior(bnet, masks)
        constants = _constants(bnet, masks, record.masks)
    groups = {**record.groups(), "constant_data": constants, **_fit(history)}
    groups = renamed({name: in_chains(dataset, chains) for name, dataset in groups.items()}, separator)
    return _wrapped(groups, record.left_out)


# --- the draws, as they come ---------------------------------------------------------------------------------------


@dataclass
class _Room:
    """How many bytes are left of a bound."""

    left: float

    def take(self, size: int) -> bool:
        if size > self.left:
            return False
        self.left -= size
        return True


class _Record:
    """Arrays that are filled draw by draw; what there is room for is decided when the first draw shows the sizes."""

    def __init__(
        self,
        observation: Likelihood,
        entries: list[Entries],
        draws: int,
        first: Draw,
        classes: Sequence[str] | None,
        memory_mb: float,
        no_correction: str | None,
    ) -> None:
        self.observation, self.draws = observation, draws
        self.entries = {e.name: e for e in entries}
        scored = observation.scored(first.output, first.targets)
        checked = observation.check(first.output, first.targets) if scored else None
        self.no_correction = "the loader has no targets" if not scored else no_correction
        if self.no_correction is None:
            self.no_correction = observation.no_density(checked)
        self.targets = targets_of(observation, draws, first.output, first.targets, classes)
        n = len(tree_leaves(first.output)[0])
        self.examples = {"example": np.arange(n)}
        self.log_likelihood = self._empty((n,) if scored else (0,), np.float64)
        self.sums = {name: self._empty((), np.float64) for name in ("lp", "log_q") if self.no_correction is None}
        arrays = self.log_likelihood, *self.sums.values()
        must = sum(array.nbytes for array in arrays) + sum(t.nbytes for t in self.targets)
        if must > memory_mb * 1e6:
            raise ValueError(
                f"memory_mb={memory_mb:g} does not hold the predictive and the log-likelihood of {draws} draws over "
                f"{n} examples, which take {must / 1e6:.3g}: fewer draws or examples, or a higher bound"
            )
        self._make_room(_Room(memory_mb * 1e6 - must), {e.name: first.weights[e.name] for e in entries})

    def _make_room(self, room: _Room, weights: dict[str, Tensor]) -> None:
        types = {name: numpy_type(value) for name, value in weights.items()}
        entry = {name: 2 * self.draws * kind.itemsize for name, kind in types.items()}  # in posterior and prior
        wishes = {("output", t.name): t.means_nbytes for t in self.targets if t.means_nbytes}
        for name, e in self.entries.items():
            wishes["draws", name] = math.prod(e.shape) * entry[name]
            wishes["mask and signal-to-noise ratio", name] = math.prod(e.shape) * 5
        granted = {wish for wish, size in sorted(wishes.items(), key=lambda item: item[1]) if room.take(size)}
        for t in self.targets:
            if ("output", t.name) in granted:
                t.hold_means()
        self.masks = [e for name, e in self.entries.items() if ("mask and signal-to-noise ratio", name) in granted]
        self.posterior: dict[str, np.ndarray] = {}
        self.summaries: set[str] = set()
        for name, e in self.entries.items():
            if ("draws", name) in granted:
                self.posterior[name] = self._empty(e.shape, types[name])
            elif len(e.layout.shape) > 1 and room.take(e.outputs * entry[name]):
                self.posterior[name] = self._empty((e.outputs,), types[name])
                self.summaries.add(name)
        self.prior = {name: np.empty_like(array) for name, array in self.posterior.items()}
        words = []
        for (what, name), size in wishes.items():
            if (what, name) not in granted:
                instead = f", '{name}_rms' per output instead" if what == "draws" and name in self.summaries else ""
                words.append(f"{what}{f' of {name!r}' if name else ''} ({size / 1e6:.3g} MB){instead}")
        self.left_out = "; ".join(words)

    def _empty(self, shape: tuple[int, ...], kind: Any) -> np.ndarray:
        return np.empty((1, self.draws, *shape), kind)

    def _kept(self, name: str, value: Tensor) -> np.ndarray:
        return self.entries[name].rms(value) if name in self.summaries else self.entries[name].of(value)

    def add(self, i: int, drawn: Draw, stream: Tensor) -> Tensor:
        """The posterior draw number ``i``, and a ``y`` from it by the generator state ``stream``; the state after."""
        for name, array in self.posterior.items():
            array[0, i] = self._kept(name, drawn.weights[name])
        for t in self.targets:
            stream = t.add(i, drawn.output[t.name] if t.name else drawn.output, stream)
        if not self.log_likelihood.size:
            return stream
        output = tree_map(double, drawn.output)
        log_likelihood = self.observation.log_prob(output, self.observation.check(output, drawn.targets))
        self.log_likelihood[0, i] = numpy_of(log_likelihood)
        if self.sums:
            self.sums["lp"][0, i] = log_density(drawn.under_p) + float(log_likelihood.sum())
            self.sums["log_q"][0, i] = log_density(drawn.under_q)
        return stream

    def add_prior(self, bnet: BayesianNet, masks: Mapping[str, Tensor]) -> None:
        """As many draws of the effective weights under the prior."""
        with evaluating(bnet), poutine.block():
            for name, array in self.prior.items():
                for i in range(self.draws):
                    value = plain(bnet.posteriors[name].effective())
                    array[0, i] = self._kept(name, value * masks[name] if name in masks else value)

    def groups(self) -> dict[str, xr.Dataset]:
        """Everything that was drawn, by ArviZ's groups."""
        draws = {"chain": np.arange(1), "draw": np.arange(self.draws)}
        found = {"posterior": self._weights(self.posterior, draws)}
        coords = {dim: at for t in self.targets for dim, at in t.coords.items()}
        drawn = {f"y{t.suffix}": ((*_SAMPLE, *t.y_dims), t.y) for t in self.targets if t.y is not None}
        said = {t.what: ((*_SAMPLE, *t.mean_dims), t.means) for t in self.targets if t.means is not None}
        for group, arrays in (("posterior_predictive", drawn), ("output", said)):
            if arrays:
                found[group] = _dataset(arrays, draws | coords)
        if self.log_likelihood.size:
            rows = {"y": ((*_SAMPLE, "example"), self.log_likelihood, {"units": "nats"})}
            attrs = {"leave_one_out": _UNCORRECTED}
            if self.no_correction is not None:
                attrs["no_correction"] = self.no_correction
            found["log_likelihood"] = xr.Dataset(rows, draws | self.examples, attrs)
        if self.sums:
            found["sample_stats"] = xr.Dataset(
                {n: (_SAMPLE, a, {"units": "nats"}) for n, a in self.sums.items()}, draws
            )
        for dataset in found.values():
            dataset.attrs["sampling"] = _VARIATIONAL
        found["prior"] = self._weights(self.prior, draws).assign_attrs(sampling=_PRIOR)
        observed = {f"y{t.suffix}": t.observed for t in self.targets if t.observed is not None}
        if observed:
            found["observed_data"] = _dataset(observed, coords)
        return found

    def _weights(self, arrays: dict[str, np.ndarray], coords: dict[str, Any]) -> xr.Dataset:
        variables: dict[str, Any] = {}
        coords = dict(coords)
        for name, array in arrays.items():
            e = self.entries[name]
            if name in self.summaries:
                variables[f"{e.label}_rms"] = ((*_SAMPLE, f"{e.label}_out"), array)
                coords[f"{e.label}_out"] = np.arange(e.outputs)
            else:
                variables[e.label] = ((*_SAMPLE, *e.dims), array)
                coords |= e.coords
        return xr.Dataset(variables, coords)


def _dataset(arrays: dict[str, Any], coords: dict[str, Any]) -> xr.Dataset:
    """The arrays, with those coordinates that they have axes for."""
    dims = {dim for axes, _ in arrays.values() for dim in axes}
    return xr.Dataset(arrays, {dim: at for dim, at in coords.items() if dim in dims})


# --- what does not change from draw to draw ---------------------------------------------------------------------------


def _constants(bnet: BayesianNet, masks: Mapping[str, Tensor], shown: list[Entries]) -> xr.Dataset:
    posteriors = bnet.posteriors
    kept = {name: p.entries() & masks[name] if name in masks else p.entries() for name, p in posteriors.items()}
    snr = bnet.snr() if shown else {}
    coords: dict[str, Any] = {"weight": list(posteriors)}
    variables: dict[str, Any] = {
        "pattern": ("weight", [repr(p.pattern) for p in posteriors.values()]),
        "method": ("weight", [repr(bnet.methods[name]) for name in posteriors]),
        "kept": ("weight", [int(mask.sum()) / mask.numel() for mask in kept.values()]),
    }
    for e in shown:
        p = posteriors[e.name]
        ratio = torch.where(kept[e.name], p.pattern.expand(snr[e.name], p.layout), 0.0)
        variables[f"{e.label}_mask"] = (e.dims, e.of(kept[e.name]))
        variables[f"{e.label}_snr"] = (e.dims, e.of(ratio.float()))
        coords |= e.coords
    return xr.Dataset(variables, coords)


def _fit(history: History | None) -> dict[str, xr.Dataset]:
    if history is None:
        return {}
    units = {"nll": "nats per example", "kl": "nats", "kl_weight": "1", "kept": "1", "seconds": "s"}
    columns = {
        name: ("epoch", np.array([getattr(e, name) for e in history.epochs], float), {"units": unit})
        for name, unit in units.items()
    }
    return {"fit": xr.Dataset(columns, {"epoch": np.array([e.epoch for e in history.epochs], int)})}


def _wrapped(groups: dict[str, xr.Dataset], left_out: str) -> Any:
    attrs = {"inference_library": "bayesprune", "inference_library_version": bayesprune.__version__}
    if left_out:
        attrs["left_out"] = left_out
        warnings.warn(
            f"left out to stay within memory_mb: {left_out}; choose entries with weights=, or raise memory_mb",
            LeftOutWarning,
            stacklevel=4,  # past no_grad's own frame
        )
    for dataset in groups.values():
        dataset.attrs.update(attrs)
    if ARVIZ_0:
        return az.InferenceData(attrs=attrs, **groups)
    return xr.DataTree.from_dict({"/": xr.Dataset(attrs=attrs), **groups})
