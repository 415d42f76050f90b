"""A net with a posterior over its weights."""

import warnings
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from typing import Any, get_args

import torch
from pyro import poutine
from pyro.poutine import runtime
from torch import Tensor, nn

from bayesprune._memory import check_memory
from bayesprune._state_dicts import StateDict, is_unset, saved_names, set_buffer, whole
from bayesprune._turns import in_turn
from bayesprune.draws.gaussian import (
    Estimator,
    GaussianDraw,
    SecondUseError,
    plain,
    sampled,
    sampling,
    uses,
)
from bayesprune.draws.local import Pass, undifferentiated
from bayesprune.draws.sites import DenseGradient, param_site
from bayesprune.likelihoods.base import Likelihood
from bayesprune.methods.base import Method, Posterior
from bayesprune.network.borrowed import borrowed
from bayesprune.network.checks import check_runs, effective
from bayesprune.network.extra import packed, unpacked
from bayesprune.network.padding import ReadElsewhere
from bayesprune.network.rates import groups_by_rate
from bayesprune.network.recompute import recomputing
from bayesprune.network.rules import posteriors_of
from bayesprune.network.state import Grid, PosteriorState
from bayesprune.network.substitute import as_parameters, call_on
from bayesprune.network.tree import Tree, put, tensors

__all__ = ["BayesianNet"]


class BayesianNet(nn.Module):
    """An untouched net plus a posterior for each weight that a rule matches.

    Args:
        net: any module, fresh or trained. Its values, classes, keys, hooks and mode never change: posteriors start at
            its weights, everything else is trained in copies that live here, and the net stays the dense baseline.
            A submodule that was frozen in eval mode inside a net in training mode stays frozen.
        rules: glob over parameter names, or a class such as ``nn.Linear``, which stands for their weights → method, or
            ``None`` to leave alone; the first match wins. Globs pass over the vectors of norms, and over the net's own
            outputs where the pattern is their ``Channel``.
        estimator: how Gaussian draws meet the data in training. ``"local"`` samples activations (least variance, two
            products), ``"weight"`` samples the weight (one product), ``"flipout"`` flips one weight draw per example
            (two). A weight that is used twice in one forward pass, or a net whose
            forward differentiates, takes the weight draw. In eval mode and without
            gradients, one draw is one weight.

    Raises:
        TypeError, ValueError: see :func:`bayesprune.network.rules.posteriors_of`.

    Attributes:
        epochs: how many epochs :func:`bayesprune.fit` has trained it for; part of a ``state_dict``.

    ``forward`` is the model's half of a Pyro program, ``guide`` the other: under Pyro's handlers its weights are the
    prior's sites. Called outside of them it is that of an ordinary module: on the posterior means in eval mode, on a
    draw from the posterior in training mode, through which gradients reach the posterior's parameters. :meth:`prior`
    gives a draw from the prior, and :func:`bayesprune.predict` the posterior predictive.

    Attributes:
        observation: the likelihood, which says what the net's output means; ``None`` until a model has one.

    >>> from bayesprune.methods import SparseVD
    >>> bnet = BayesianNet(nn.Sequential(nn.Linear(4, 3)), {"0.weight": SparseVD()})
    >>> bnet.snr()["0.weight"].shape, sorted(bnet.means())
    (torch.Size([3, 4]), ['0.bias', '0.weight'])
    """

    observation: Likelihood | None

    def __init__(self, net: nn.Module, rules: Mapping[Any, Method | None], *, estimator: Estimator = "local") -> None:
        super().__init__()
        if not isinstance(net, nn.Module):
            raise TypeError(f"BayesianNet needs an nn.Module, got {type(net).__name__}")
        check_runs(net)
        check_memory(net)
        if estimator not in get_args(Estimator):
            raise ValueError(f"estimator is one of {get_args(Estimator)}, got {estimator!r}")
        self._net = (net,)  # in a tuple: not a submodule, so that nothing here trains, moves or switches it
        self.estimator = estimator
        self.observation = None
        found = posteriors_of(net, rules)
        self.methods = {name: method for name, (method, _) in found.items()}
        self._posteriors, self._rest = Tree(), Tree()
        for name, (_, posterior) in found.items():
            put(self._posteriors, name, posterior)
        for name, parameter in net.named_parameters():
            if name not in found:
                copy = nn.Parameter(parameter.detach().clone(), requires_grad=parameter.requires_grad)
                put(self._rest, name, copy)
        for name, buffer in net.named_buffers():
            put(self._rest, name, buffer.detach().clone())
        self._sparse = frozenset(
            f"{path}.weight".lstrip(".") for path, m in net.named_modules() if getattr(m, "sparse", False) is True
        )
        self._uses: dict[str, int] = {}  # how often each draw was used in the first forward pass
        self._sampled: tuple[str, ...] = ()
        self.epochs = 0
        # whose padding rows keep their value, until the first pass has shown that nothing else reads them; the others
        self._padded = tuple(name for name, (_, posterior) in found.items() if posterior.fixed is not None)
        self._unpadded: tuple[str, ...] = ()

    def __repr__(self) -> str:
        rows = []
        for name, p in self.posteriors.items():
            kept = float(p.entries().float().mean())
            shape = "×".join(map(str, p.layout.shape))
            rows.append(f"  {name}  {shape}  {self.methods[name]!r}" + ("" if kept == 1 else f"  kept {kept:.2%}"))
        rest = sum(1 for _ in self._rest.parameters())
        likelihood = "" if self.observation is None else f", {type(self.observation).__name__} targets"
        head = f"{type(self.net).__name__}: {len(rows)} weights with a posterior, {rest} parameters without{likelihood}"
        return "\n".join([f"BayesianNet({head}", *rows]) + ")"

    @property
    def net(self) -> nn.Module:
        """The user's net, untouched."""
        return self._net[0]

    @property
    def posteriors(self) -> dict[str, Posterior]:
        """Parameter name → posterior."""
        found: dict[str, Posterior] = {}
        for name in self.methods:
            posterior = self._posteriors.get_submodule(name)
            assert isinstance(posterior, Posterior)
            found[name] = posterior
        return found

    @property
    def sampled_locally(self) -> tuple[str, ...]:
        """The weights whose activations were sampled in the last training step; the first only counts uses."""
        return self._sampled

    def get_extra_state(self) -> Tensor:
        """``epochs``, and how each weight was used, which decides how it is sampled: in a ``state_dict``, as bytes."""
        found = {"uses": self._uses, "sampled": list(self._sampled), "unpadded": list(self._unpadded)}
        return packed({**found, "epochs": self.epochs})

    def set_extra_state(self, state: Tensor) -> None:
        """From a ``state_dict``."""
        found = unpacked(state)
        self._uses, self._sampled = dict(found["uses"]), tuple(found["sampled"])
        self.epochs = int(found.get("epochs", 0))  # a state of an earlier version has none
        self._unpadded = tuple(found.get("unpadded", ()))
        for name in self._unpadded:
            self.posteriors[name].release()
        self._padded = tuple(name for name in self._padded if name not in self._unpadded)

    def make_room(self, values: Mapping[str, Tensor]) -> None:
        """Hold, of the buffers that are None in the net as yet, those which are in ``values``, and no others.

        A forward makes them of the data: a state that was saved after it has them, and one from before has not.
        """
        made = {name for name, _ in self._rest.named_buffers() if is_unset(self.net, name)}
        for name in made - values.keys():
            path, _, leaf = name.rpartition(".")
            del self._rest.get_submodule(path)._buffers[leaf]
        for name in values.keys() - made:
            if is_unset(self.net, name):
                put(self._rest, name, torch.empty_like(values[name], device=next(self.parameters()).device))

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        """Takes a ``state_dict`` of a version without extra state too: uses are then counted afresh."""
        rest = f"{prefix}_rest."
        self.make_room({n.removeprefix(rest): value for n, value in state_dict.items() if n.startswith(rest)})
        fresh = packed({"uses": {}, "sampled": []})
        super()._load_from_state_dict({f"{prefix}_extra_state": fresh, **state_dict}, prefix, *args)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Run the net: under Pyro's handlers on weights from the prior's sites, which they replay, condition or draw;
        else on the posterior means in eval mode, and on a draw from the posterior in training mode.
        """
        if runtime._PYRO_STACK:
            return self.prior(*args, **kwargs)
        if not self.training:
            return self.run(self.state().values, *args, **kwargs)
        with poutine.trace() as under_q:
            self.guide()
        with poutine.replay(trace=under_q.trace):
            return self.prior(*args, **kwargs)

    def prior(self, *args: Any, **kwargs: Any) -> Any:
        """Run the net on weights from the prior's sites: a draw from the prior, unless Pyro's handlers say else."""
        values = {name: effective(name, posterior) for name, posterior in self.posteriors.items()}
        for name, value in tensors(self._rest):
            values[name] = param_site(name, value) if isinstance(value, nn.Parameter) else value
        draws = {n: v for n, v in values.items() if isinstance(v, GaussianDraw)}
        for name in self._sparse & values.keys() - draws.keys():
            values[name] = DenseGradient.apply(values[name])
        if self.estimator == "weight" or not (draws and self.training and torch.is_grad_enabled()):
            return self.run(plain(values), *args, **kwargs)
        first = not self._uses
        how: dict[str, Estimator] = {n: self.estimator if self._uses.get(n, 2) <= 1 else "weight" for n in draws}
        forward_pass, again = Pass(), False
        try:
            with sampling((draw, how[name]) for name, draw in draws.items()), undifferentiated(forward_pass):
                result = self.run(values, *args, **kwargs)
                seen = {name: uses(draw) for name, draw in draws.items()}
        except Exception as error:
            again = forward_pass.differentiated or isinstance(error, SecondUseError)
            if not again:
                raise
        if again:
            self._uses, self._sampled = dict.fromkeys(draws, 2), ()
            return self.run(plain(values), *args, **kwargs)
        if first:
            self._uses = seen
        self._sampled = tuple(name for name, draw in draws.items() if sampled(draw))
        return result

    def guide(self, *args: Any, **kwargs: Any) -> None:
        """The guide: the posterior of every weight. Takes what the model takes, and ignores it."""
        for posterior in self.posteriors.values():
            posterior.guide()

    def parameter_groups(self, lr: float, module: nn.Module | None = None) -> list[dict[str, Any]]:
        """What requires a gradient, as groups for a torch optimiser, one for each learning rate: ``lr`` times the
        posterior's own factor, as :func:`bayesprune.fit` takes them.

        Args:
            lr: the learning rate of weights.
            module: one around this net, whose parameters are meant too; by default this net alone.

        Raises:
            ValueError: nothing requires a gradient.

        >>> from bayesprune.methods import SparseVD
        >>> bnet = BayesianNet(nn.Linear(4, 3), {"weight": SparseVD()})
        >>> optimizer = torch.optim.Adam(bnet.parameter_groups(1e-3))
        """
        return groups_by_rate(self.posteriors.values(), (self if module is None else module).parameters(), lr)

    @in_turn
    def run(self, values: Mapping[str, Tensor], *args: Any, **kwargs: Any) -> Any:
        """Run the net on ``values`` (parameter or buffer name → tensor), in this module's mode.

        Raises:
            ValueError: a tied weight is given two values.
        """
        mode, values = self.training, self._with_unsaved(whole(values))
        how = [(v, v._root.estimator) for v in values.values() if isinstance(v, GaussianDraw)]

        @contextmanager
        def again() -> Iterator[None]:
            with borrowed(self.net, mode), sampling(how, again=True):
                yield

        # without gradients there is no backward pass that could recompute
        recompute = recomputing(self.net, values, again) if torch.is_grad_enabled() else nullcontext()
        taken = as_parameters(self.net, values)
        padded = {name: taken[name] for name in self._padded if name in taken}
        reading = ReadElsewhere(padded) if padded else None
        with borrowed(self.net, mode) as appeared, recompute, reading or nullcontext():
            result, given = call_on(self.net, taken, *args, **kwargs)
        if reading is not None:
            self._release(reading.names)
            self._padded = ()
        for name, buffer in list(self._rest.named_buffers()):
            now = given.get(name)
            if values.get(name) is buffer and now is not buffer and isinstance(now, Tensor):
                put(self._rest, name, now.detach())  # the forward reassigned it, as it would the net's own
        for name, buffer in appeared.items():
            put(self._rest, name, buffer.detach())
        return result

    def _with_unsaved(self, values: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        """``values`` with what they lack of the buffers that the net does not save, as they are here by now."""
        missing = {name: buffer for name, buffer in self._rest.named_buffers() if name not in values}
        if not missing:
            return values
        saved = set(saved_names(self.net).values())
        return {**{name: buffer.clone() for name, buffer in missing.items() if name not in saved}, **values}

    def _release(self, names: Iterable[str]) -> None:
        """The padding rows of the weights ``names``, which are read elsewhere and trained there, get a posterior."""
        for name in sorted(names):
            self.posteriors[name].release()
            self._unpadded += (name,)
            warnings.warn(
                f"the forward reads {name!r} elsewhere than in its embedding: its padding row is trained there and has "
                "a posterior as the others have",
                stacklevel=3,
            )

    def draw(self) -> dict[str, Tensor]:
        """One joint draw from the posterior, pruned: every parameter and buffer by its name, for :meth:`run`."""
        return self.traced_draw()[0]

    @in_turn
    @torch.no_grad()
    def traced_draw(self) -> tuple[dict[str, Tensor], poutine.Trace, poutine.Trace]:
        """A draw as :meth:`draw` gives it, and its sites: under the guide, and under the prior."""
        with poutine.block(), poutine.trace() as under_q:
            self.guide()
        with poutine.block(), poutine.trace() as under_p, poutine.replay(trace=under_q.trace):
            values = {n: plain(effective(n, posterior)).detach() for n, posterior in self.posteriors.items()}
        return {**values, **{n: v.detach() for n, v in tensors(self._rest)}}, under_q.trace, under_p.trace

    @in_turn
    @torch.no_grad()
    def state(self) -> PosteriorState:
        """The posterior as it is now, a snapshot: moments, energies and signal-to-noise ratios are computed once."""
        posteriors = self.posteriors
        moments = {name: posterior.effective_moments() for name, posterior in posteriors.items()}
        return PosteriorState(
            unpruned={n: (mean.clone(), var.clone()) for n, (mean, var) in moments.items()},
            grids={n: Grid(p.pattern, p.layout, p.kept.clone()) for n, p in posteriors.items()},
            coupled=tuple(tuple(names) for names in self.coupled()),
            rest={name: value.detach().clone() for name, value in tensors(self._rest)},
            net=self.net,
        )

    def moments(self) -> dict[str, tuple[Tensor, Tensor]]:
        """Weight name → mean and variance of the effective weight, entry by entry; 0 and 0 where pruned."""
        return self.state().moments

    def means(self) -> StateDict:
        """The net's state dict, with posterior means where there is a posterior: ``net.load_state_dict`` takes it.

        Tied weights are in it under each of their names. The buffers that the net does not save are in its attribute
        ``unsaved``, from which :func:`bayesprune.export`, :func:`bayesprune.report` and :meth:`run` take them;
        :meth:`write_into` writes these too.
        """
        return self.state().means

    @torch.no_grad()
    def write_into(self, net: nn.Module) -> None:
        """Set ``net``, which is built like this one's, to the :meth:`means`: tied weights and unsaved buffers too.

        Raises:
            ValueError: its parameters and buffers have other names or shapes; nothing is written then.
        """
        means, theirs = self.state().values, {**dict(net.named_parameters()), **dict(net.named_buffers())}
        made = {name: x for name, x in means.items() if name not in theirs and is_unset(net, name)}
        theirs |= made
        shapes = [{name: tuple(x.shape) for name, x in tensors.items()} for tensors in (means, theirs)]
        if other := sorted(n for n in means.keys() | theirs.keys() if shapes[0].get(n) != shapes[1].get(n)):
            raise ValueError(f"the net is built in another way than this one's: {', '.join(other)} differ")
        for name, tensor in theirs.items():
            if name in made:
                set_buffer(net, name, tensor.clone())
            else:
                tensor.copy_(means[name])

    def variances(self) -> dict[str, Tensor]:
        """Weight name → variance of the effective weight, entry by entry; 0 where pruned."""
        return self.state().variances

    def energies(self) -> dict[str, tuple[Tensor, Tensor]]:
        """Weight name → Σ mean² and Σ variance over each group, of the grid's shape.

        Coupled weights, such as the projections of one attention under ``Heads``, share the sums.
        """
        return self.state().energies

    def coupled(self) -> list[list[str]]:
        """The weights whose groups are decided on together, more than one in each list."""
        together: dict[tuple[str, object], list[str]] = {}
        for name, p in self.posteriors.items():
            if p.pattern.couples and p.layout.coupling:
                together.setdefault((p.layout.coupling, p.pattern), []).append(name)
        return [names for names in together.values() if len(names) > 1]

    def fates(self) -> list[list[str]]:
        """The old name of :meth:`coupled`."""
        warnings.warn("BayesianNet.fates is called coupled now", DeprecationWarning, stacklevel=2)
        return self.coupled()

    def snr(self) -> dict[str, Tensor]:
        """Weight name → the signal-to-noise ratio of each group: √(Σ mean² / Σ variance).

        0 where pruned, infinity where the variance is 0 and the mean is not.
        """
        return self.state().snr

    @torch.no_grad()
    def inclusion(self) -> dict[str, Tensor]:
        """Weight name → the posterior probability that a group is there; 0 where pruned.

        For the methods that have one: a spike and slab, hard-concrete gates. Other weights are left out.
        """
        found = {name: (p.inclusion(), p.kept) for name, p in self.posteriors.items()}
        return {name: torch.where(kept, share, 0.0) for name, (share, kept) in found.items() if share is not None}

    def prune(self, kept: Mapping[str, Tensor]) -> None:
        """Set which groups each posterior keeps: weight name → bool of the grid's shape."""
        for name, mask in kept.items():
            self.posteriors[name].prune(mask)
