"""Whatever a weight is called, the file format of the draws can hold its name, and no two arrays share one."""

import contextlib
from pathlib import Path

import arviz as az
import numpy as np
import pytest
import torch
from torch import Tensor, nn

import bayesprune as bp
from bayesprune.inspection.entries import Entries
from bayesprune.layout import Layout


class Named(nn.Module):
    """One matrix and one vector under the names given, in a module of a third."""

    def __init__(self, module: str, *names: str) -> None:
        super().__init__()
        self.parts, self.module = nn.ModuleDict({module: nn.ParameterDict()}), module
        for k, name in enumerate(names):
            self.parts[module][name] = nn.Parameter(torch.randn(3, 8) if k == 0 else torch.randn(3))

    def forward(self, x: Tensor) -> Tensor:
        matrix, *vectors = self.parts[self.module].values()
        return x @ matrix.T + sum(vectors)


class Bare(nn.Module):
    """Parameters that hang at the net itself, under the names given."""

    def __init__(self, *names: str) -> None:
        super().__init__()
        self.names = names
        for k, name in enumerate(names):
            self.register_parameter(name, nn.Parameter(torch.randn(3, 8) if k == 0 else torch.randn(3)))

    def forward(self, x: Tensor) -> Tensor:
        matrix, *vectors = (getattr(self, name) for name in self.names)
        return x @ matrix.T + sum(vectors)


def inferred(net: nn.Module, **options: object) -> object:
    bnet = bp.BayesianNet(net, {"*": bp.Gaussian()})
    bp.classify(bnet, 12)
    return bp.to_inference_data(bnet, [(torch.randn(12, 8), torch.arange(12) % 3)], draws=4, seed=0, **options)


@pytest.mark.parametrize(
    ("net", "labels"),
    [
        (Named("user/item", "w", "b"), {"parts.user%2Fitem.w", "parts.user%2Fitem.b"}),
        (Named("a/b%2Fc", "w/1", "w%2F1"), {"parts.a%2Fb%252Fc.w%2F1", "parts.a%2Fb%252Fc.w%252F1"}),
        (Named("größe 大", "w [0]", "x=y"), {"parts.größe 大.w [0]", "parts.größe 大.x=y"}),
        (Named("tab\tline\n", "w "), {"parts.tab%09line%0A.w%20"}),
        (Named("1", "2", "3"), {"parts.1.2", "parts.1.3"}),
        (Bare("/", " "), {"%2F", "%20"}),
        (Bare("y", "data", "example"), {"y", "data", "example"}),
    ],
    ids=["slash", "escapes", "letters", "white space", "digits", "nothing else", "names of our own"],
)
@pytest.mark.parametrize("memory_mb", [512.0, 0.002])  # the latter has room for summaries alone
def test_a_file_holds_the_draws(net: nn.Module, labels: set[str], memory_mb: float, tmp_path: Path) -> None:
    quiet = pytest.warns(bp.LeftOutWarning) if memory_mb < 1 else contextlib.nullcontext()
    with quiet:
        found = inferred(net, memory_mb=memory_mb)
    found.to_netcdf(str(tmp_path / "draws.nc"))
    back = az.from_netcdf(str(tmp_path / "draws.nc"))
    summaries = {f"{label}_rms" for label in labels}
    assert set(found.posterior.data_vars) <= labels | summaries
    assert bool(set(found.posterior.data_vars) & summaries) == (memory_mb < 1)
    for group in ("posterior", "prior", "constant_data"):
        mine, theirs = getattr(found, group), getattr(back, group)
        assert set(mine.variables) == set(theirs.variables) and mine.data_vars
        for name in mine.data_vars:
            np.testing.assert_array_equal(mine[name].values, theirs[name].values)


def test_names_that_differ_stay_apart() -> None:
    names = ["a/b", "a%2Fb", "a%252Fb", "a b", "a\tb", "a ", " a", "a", "a%20"]
    assert len({Entries(name, Layout((2,)), (slice(None),)).label for name in names}) == len(names)


@pytest.mark.parametrize(
    ("names", "says"),
    [
        (("w", "w_out"), r"'w' and to|to 'w'.*'w_out'"),
        (("w", "w_mask"), r"'w_mask'"),
        (("w", "w_snr"), r"'w_snr'"),
        (("w", "w_in"), r"'w_in'"),
        (("draw",), r"'draw'.*ArviZ's own axis"),
        (("w", "chain"), r"'chain'.*ArviZ's own axis"),
    ],
)
def test_what_would_share_a_name_is_refused_before_a_draw(names: tuple[str, ...], says: str) -> None:
    net = Bare(*names)
    bnet = bp.BayesianNet(net, {"*": bp.Gaussian()})
    bp.classify(bnet, 12)
    net.forward = None  # type: ignore[assignment]  # nothing may run
    with pytest.raises(ValueError, match=says):
        bp.to_inference_data(bnet, [torch.randn(12, 8)], draws=4)


def test_a_choice_of_weights_is_the_way_out() -> None:
    found = inferred(Bare("w", "w_out"), weights=["w"])
    assert set(found.posterior.data_vars) == {"w"}


def test_a_name_is_itself_before_it_is_a_glob() -> None:
    net = Bare("w[0]", "w0")
    assert set(inferred(net, weights=["w[0]"]).posterior.data_vars) == {"w[0]"}
    assert set(inferred(net, weights=["w[01]"]).posterior.data_vars) == {"w0"}
