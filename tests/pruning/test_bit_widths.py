"""How many bits each weight can bear: the formula, what it promises, and where it is shown."""

import json
import math
from itertools import pairwise

import pytest
import torch
from support.methods import CASES
from support.passes import CERTAIN
from torch import Tensor, nn

import bayesprune as bp
from bayesprune.layout import layout_of
from bayesprune.patterns import Block, Channel, Unstructured
from bayesprune.sparse.formats.quantised import quantise


@pytest.fixture(autouse=True)
def _the_same_numbers():
    torch.manual_seed(0)


def fitted(net: nn.Module, sd: float, spread: float = 1.0) -> bp.BayesianNet:
    """Posteriors with sds spread around ``sd``."""
    bnet = bp.BayesianNet(net, {"*weight": bp.Gaussian()})
    with torch.no_grad():
        for posterior in bnet.posteriors.values():
            posterior.log_scale.normal_(math.log(sd), spread)
    return bnet


def random_masks(bnet: bp.BayesianNet, keep: float = 0.4) -> dict[str, Tensor]:
    return {name: torch.rand(p.layout.shape) < keep for name, p in bnet.posteriors.items()}


def rows(net: nn.Module, name: str, x: Tensor) -> Tensor:
    """``x`` with one line an output, whatever the weight's layout."""
    x = layout_of(net, name).matrix(x)
    return x.reshape(x.shape[0] * x.shape[1], -1)


NETS = {
    "linear": lambda: nn.Sequential(nn.Linear(60, 40)),
    "grouped": lambda: nn.Sequential(nn.Conv2d(8, 12, 3, groups=2)),
    "transposed": lambda: nn.Sequential(nn.ConvTranspose1d(6, 10, 5)),
}


@pytest.mark.parametrize("sd", [1e-5, 1e-3, 0.02, 0.1, 3.0])
@pytest.mark.parametrize("name", NETS)
def test_the_round_offs_have_no_more_energy_than_the_noise_and_would_with_a_bit_less(name, sd):
    net = NETS[name]()
    bnet = fitted(net, sd)
    masks = random_masks(bnet)
    (found,) = bp.bit_widths(bnet, masks).values()
    mean, variance, kept = (rows(net, "0.weight", x) for x in (*bnet.moments()["0.weight"], masks["0.weight"]))
    noise = float(variance.double()[kept].sum())

    def off(bits: int) -> float:
        total = 0.0
        for weights in [row[own] for row, own in zip(mean.double(), kept, strict=True) if bool(own.any())]:
            step = float(weights.abs().max()) / (2 ** (bits - 1) - 1)
            total += len(weights) * (step / 2) ** 2
        return total

    assert found is not None and off(found) <= noise
    assert found == 2 or off(found - 1) > noise


@pytest.mark.parametrize("sd", [0.003, 0.03])
def test_what_is_held_in_so_many_bits_is_off_by_a_third_of_the_noise_at_most(sd):
    net = nn.Sequential(nn.Linear(400, 60))
    bnet = fitted(net, sd)
    masks = random_masks(bnet)
    (bits,) = bp.bit_widths(bnet, masks).values()
    mean, variance = (torch.where(masks["0.weight"], x, 0) for x in bnet.moments()["0.weight"])
    integers, scale = quantise(mean, bits)
    error = float((integers * scale[:, None] - mean).double().square().sum())
    worst = float((masks["0.weight"] * (scale[:, None] / 2) ** 2).sum())
    assert worst <= float(variance.sum())
    assert error == pytest.approx(worst / 3, rel=0.05)  # errors are spread over the step


def test_rounding_costs_a_regression_no_more_than_a_draw_does():
    net = nn.Sequential(nn.Linear(300, 20, bias=False))
    bnet = fitted(net, 0.01)
    everything = {"0.weight": torch.ones(20, 300, dtype=torch.bool)}
    (bits,) = bp.bit_widths(bnet, everything).values()
    mean = bnet.means()["0.weight"]
    integers, scale = quantise(mean, bits)
    x = torch.randn(4000, 300)

    def extra(weight: Tensor) -> float:
        return float((x @ (weight - mean).T).square().sum(1).mean())

    drawn = sum(extra(bnet.draw()["0.weight"]) for _ in range(20)) / 20
    assert 0 < extra(integers * scale[:, None]) < 0.4 * drawn


def test_an_sd_half_as_large_takes_a_bit_more():
    net = nn.Sequential(nn.Linear(60, 40))
    found = []
    for halvings in range(12):
        torch.manual_seed(1)
        bnet = fitted(net, 0.01 / 2**halvings)
        found += bp.bit_widths(bnet, {"0.weight": torch.ones(40, 60, dtype=torch.bool)}).values()
    assert all(b - a == 1 for a, b in pairwise(found[3:])), found
    assert found == sorted(found)


def test_two_bits_are_the_least():
    bnet = fitted(nn.Sequential(nn.Linear(60, 40)), 1e12)
    assert bp.bit_widths(bnet, random_masks(bnet)) == {"0.weight": 2}


def test_without_a_variance_there_is_no_width():
    net = nn.Sequential(nn.Linear(6, 5), nn.Linear(5, 4), nn.Linear(4, 3))
    bnet = bp.BayesianNet(net, {"0.weight": bp.Deterministic(), "1.weight": CERTAIN, "2.weight": bp.SparseVD()})
    masks = {name: torch.ones(p.layout.shape, dtype=torch.bool) for name, p in bnet.posteriors.items()}
    masks["2.weight"][:] = False
    assert bp.bit_widths(bnet, masks) == {"0.weight": None, "1.weight": None, "2.weight": None}


def test_what_the_mask_takes_away_plays_no_part():
    bnet = fitted(nn.Sequential(nn.Linear(60, 40)), 0.01)
    masks = random_masks(bnet)
    before = bp.bit_widths(bnet, masks)
    with torch.no_grad():
        bnet.posteriors["0.weight"].loc[~masks["0.weight"]] = 1e6
        bnet.posteriors["0.weight"].log_scale[~masks["0.weight"]] = 10
    assert bp.bit_widths(bnet, masks) == before


@pytest.mark.parametrize("pattern", [Unstructured(), Block(4, 1), Channel(0)], ids=str)
@pytest.mark.parametrize("case", CASES)
def test_every_method_has_a_width_or_none(case, pattern):
    net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(8, 8))
    bnet = bp.BayesianNet(net, {"*weight": CASES[case](pattern)})
    masks = bp.masks(bnet, keep=0.6, scope="layer")
    widths = bp.bit_widths(bnet, masks)
    outputs = set() if pattern == Channel(0) else {"3.weight"}  # the net's own channels are left out
    assert widths.keys() == {"0.weight"} | outputs
    for name, width in widths.items():
        certain = not bool(bnet.variances()[name][masks[name]].any())
        assert (width is None) == certain and (width is None or 2 <= width <= 24)


def test_bad_input():
    bnet = fitted(nn.Sequential(nn.Linear(6, 5)), 0.1)
    with pytest.raises(ValueError, match=r"masks name '1\.weight', which has no posterior"):
        bp.bit_widths(bnet, {"1.weight": torch.ones(5, 6, dtype=torch.bool)})
    with pytest.raises(ValueError, match="must be bool of shape"):
        bp.bit_widths(bnet, {"0.weight": torch.ones(6, 5, dtype=torch.bool)})
    with torch.no_grad():
        bnet.posteriors["0.weight"].log_scale[0, 0] = math.nan
    with pytest.raises(ValueError, match=r"the posterior of '0\.weight' holds NaN: the fit has diverged"):
        bp.bit_widths(bnet, {"0.weight": torch.ones(5, 6, dtype=torch.bool)})


def test_the_report_tells_them(tmp_path):
    net = nn.Sequential(nn.Linear(12, 16), nn.ReLU(), nn.Linear(16, 3))
    bnet = bp.BayesianNet(net, {"0.weight": bp.SparseVD(), "2.weight": bp.Deterministic()})
    bp.classify(bnet, size=30)
    masks = bp.masks(bnet, keep=0.98)
    report = bp.report(bnet, masks, [(torch.randn(30, 12), torch.arange(30) % 3)], draws=2, seed=0)
    widths = bp.bit_widths(bnet, masks)
    assert widths["0.weight"] is not None
    told = {row["name"]: row["bits"] for row in json.loads(json.dumps(report.to_dict()))["weights"]}
    assert told == widths
    lines = {
        line.split()[0]: line.split() for line in f"{report}".splitlines() if "SparseVD" in line or "Determ" in line
    }
    assert lines["0.weight"][4] == f"{widths['0.weight']}" and lines["2.weight"][4] == "–"
    report.to_html(tmp_path / "report.html")
    page = (tmp_path / "report.html").read_text()
    assert ">bits</th>" in page and f">{widths['0.weight']}</td>" in page
