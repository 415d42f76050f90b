"""The padding row of an embedding keeps its value: no noise, no KL, no gradient, at every door."""

import warnings

import pyro
import pytest
import torch
from pyro import poutine
from pyro.infer import TraceMeanField_ELBO
from torch import nn

import bayesprune as bp
from bayesprune.network.padding import padding_of
from bayesprune.patterns import Block, Channel


class Bag(nn.Module):
    def __init__(self, embedding):
        super().__init__()
        self.e, self.fc = embedding, nn.Linear(8, 3)

    def forward(self, x):
        e = self.e(x)
        return self.fc(e if e.dim() == 2 else e.sum(1))


def from_pretrained():
    return nn.Embedding.from_pretrained(torch.randn(10, 8), freeze=False, padding_idx=2)


EMBEDDINGS = {
    "first row": (lambda: nn.Embedding(10, 8, padding_idx=0), 0),
    "another row": (lambda: nn.Embedding(10, 8, padding_idx=4), 4),
    "from the end": (lambda: nn.Embedding(10, 8, padding_idx=-1), 9),
    "a value that is not 0": (from_pretrained, 2),
    "clipped": (lambda: nn.Embedding(10, 8, padding_idx=3, max_norm=1.0), 3),
    "sparse gradients": (lambda: nn.Embedding(10, 8, padding_idx=3, sparse=True), 3),
    "a bag": (lambda: nn.EmbeddingBag(10, 8, mode="sum", padding_idx=1), 1),
}
METHODS = {
    "Gaussian": bp.Gaussian(),
    "SparseVD": bp.SparseVD(),
    "ARD, rows": bp.ARD(Channel(0)),
    "Laplace": bp.Laplace(),
    "NormalJeffreys, rows": bp.NormalJeffreys(Channel(0)),
    "Horseshoe, columns": bp.Horseshoe(Channel(1)),
    "HardConcrete, blocks": bp.HardConcrete(Block(5, 2)),
    "SpikeSlab": bp.SpikeSlab(),
    "GroupVD, rows": bp.GroupVD(Channel(0)),
    "StructuredDropout, rows": bp.StructuredDropout(Channel(0)),
    "Deterministic": bp.Deterministic(),
}
CASES = [(kind, "Gaussian") for kind in EMBEDDINGS] + [("another row", method) for method in METHODS]
CASES += [("a value that is not 0", method) for method in METHODS]


@pytest.mark.parametrize(("kind", "method"), dict.fromkeys(CASES))
def test_the_padding_row_keeps_its_value(kind, method):
    make, row = EMBEDDINGS[kind]
    net = Bag(make())
    before = net.e.weight[row].detach().clone()
    x, y = torch.randint(0, 10, (32, 5)), torch.randint(0, 3, (32,))
    x[:, 2:] = row
    bnet = bp.BayesianNet(net, {"e.weight": METHODS[method]})
    bp.fit(bp.classify(bnet, 32), bnet.guide, [(x, y)], epochs=4, lr=0.1, seed=0, progress=False)
    assert torch.equal(net.e.weight[row], before)
    state = bnet.state()
    assert torch.equal(state.means["e.weight"][row], before) and not bool(state.variances["e.weight"][row].any())
    bnet.eval()
    for _ in range(3):
        assert torch.equal(bnet.draw()["e.weight"][row], before)
    others = torch.arange(10) != row
    if method != "Deterministic":
        assert bool((state.variances["e.weight"][others] > 0).all())
    assert not torch.equal(state.means["e.weight"][others], net.e.weight[others])
    masks = bp.masks(bnet, keep=0.5)
    sparse = bp.export(net, bnet.means(), masks, example=x)
    expected = before * masks["e.weight"][row]
    assert torch.equal(sparse.e.weight[row], expected)
    if kind == "a value that is not 0" and method in ("Gaussian", "SparseVD", "ARD, rows", "Laplace"):
        assert torch.equal(expected, before), "the row was pruned before others"


def test_how_much_padding_there_is_changes_nothing():
    net = Bag(nn.Embedding(10, 8, padding_idx=0))
    short = torch.randint(1, 10, (16, 3))
    padded = torch.cat([short, torch.zeros(16, 20, dtype=torch.long)], 1)
    bnet = bp.BayesianNet(net, {"e.weight": bp.Gaussian(init_log_scale=0.0)})
    bp.classify(bnet, 16)
    a, b = (bp.predict(bnet, [(x, torch.zeros(16, dtype=torch.long))], draws=5, seed=0).mean for x in (short, padded))
    assert torch.allclose(a, b, atol=1e-6)


@pytest.mark.parametrize("method", [m for m in METHODS if m != "Deterministic"])
def test_what_is_fixed_adds_nothing_to_the_divergence(method):
    """The KL of an embedding with a padding row is that of the other rows: it does not hear what the row's is."""

    def kl(scale):
        torch.manual_seed(0)
        net = Bag(nn.Embedding(10, 8, padding_idx=4))
        bnet = bp.BayesianNet(net, {"e.weight": METHODS[method]})
        with torch.no_grad():
            for name, parameter in bnet.posteriors["e.weight"].named_parameters():
                if tuple(parameter.shape) in ((10, 8), (10, 1), (10,)) and name != "theta":
                    parameter[4] += scale
        pyro.set_rng_seed(0)
        posterior = bnet.posteriors["e.weight"]
        return TraceMeanField_ELBO().loss(posterior.prior, posterior.guide)

    assert kl(0.0) == pytest.approx(kl(0.5), rel=1e-6)


# --- what has no padding row of its own -------------------------------------------------------------------------------


class Tied(nn.Module):
    def __init__(self, other):
        super().__init__()
        self.embed, self.other = nn.Embedding(10, 8, padding_idx=0), other
        self.other.weight = self.embed.weight

    def forward(self, x):
        return self.other(self.embed(x))


@pytest.mark.parametrize(
    ("net", "name"),
    [
        (nn.Sequential(nn.Embedding(10, 8)), "0.weight"),
        (nn.Sequential(nn.Linear(10, 8)), "0.weight"),
        (Tied(nn.Linear(8, 10, bias=False)), "embed.weight"),
        (Tied(nn.Embedding(10, 8)), "embed.weight"),
        (Tied(nn.Embedding(10, 8, padding_idx=3)), "embed.weight"),
    ],
    ids=["none", "a linear layer", "an output layer's too", "another embedding's", "two rows"],
)
def test_a_row_that_is_trained_elsewhere_is_none(net, name):
    assert padding_of(net, name) is None
    bnet = bp.BayesianNet(net, {name: bp.Gaussian()})
    assert bool((bnet.variances()[name] > 0).all())


class ReadsIt(nn.Module):
    """A language model whose output layer is the embedding, without a module of its own."""

    def __init__(self, how):
        super().__init__()
        self.how = how
        self.embed, self.fc = nn.Embedding(10, 8, padding_idx=0), nn.Linear(8, 8)

    def forward(self, x):
        h = self.fc(self.embed(x).sum(1))
        return self.how(h, self.embed.weight)


READS = {
    "linear": torch.nn.functional.linear,
    "matmul": lambda h, w: h @ w.T,
    "by index": lambda h, w: h @ w[torch.arange(10)].T,
    "einsum": lambda h, w: torch.einsum("nd,vd->nv", h, w),
}


@pytest.mark.parametrize("method", ["Gaussian", "Deterministic", "GroupVD, rows"])
@pytest.mark.parametrize("how", READS)
def test_a_row_that_the_forward_reads_elsewhere_is_trained_there(how, method):
    net, x, y = ReadsIt(READS[how]), torch.randint(0, 10, (16, 4)), torch.randint(0, 10, (16,))
    bnet = bp.BayesianNet(net, {"embed.weight": METHODS[method]})
    with pytest.warns(UserWarning, match="reads 'embed.weight' elsewhere"):
        bp.fit(bp.classify(bnet, 16), bnet.guide, [(x, y)], epochs=3, lr=0.1, seed=0, progress=False)
    assert bool(bnet.means()["embed.weight"][0].any())
    if method == "Gaussian":
        assert bool((bnet.variances()["embed.weight"][0] > 0).all())
    other = bp.BayesianNet(net, {"embed.weight": METHODS[method]})
    other.load_state_dict(bnet.state_dict())
    assert torch.equal(other.means()["embed.weight"], bnet.means()["embed.weight"])


def test_what_asks_for_the_shape_reads_nothing():
    net = ReadsIt(lambda h, w: h[:, : w.shape[0]] + w.size(1) * float(w.requires_grad))
    bnet = bp.BayesianNet(net, {"embed.weight": bp.Gaussian()})
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        bnet(torch.randint(0, 10, (16, 4)))
    assert bnet.posteriors["embed.weight"].fixed is not None


def test_two_embeddings_that_pad_with_one_row():
    assert (
        padding_of(Tied(nn.Embedding(10, 8, padding_idx=0)), "embed.weight").flatten().tolist() == [True] + [False] * 9
    )


def test_an_embedding_that_clips_is_clipped_draw_by_draw():
    """max_norm: torch's embedding scales the rows that it looks up, in place; in the draw, not in the posterior."""
    net = Bag(nn.Embedding(10, 8, max_norm=0.5))
    bnet = bp.BayesianNet(net, {"e.weight": bp.Gaussian()})
    mine, theirs = bnet.means()["e.weight"].clone(), net.e.weight.detach().clone()
    x = torch.arange(10)[:, None]
    trace = poutine.trace(bnet.guide).get_trace()
    with torch.no_grad():
        out = poutine.replay(bnet.eval(), trace=trace)(x)
        draw = trace.nodes["e.weight"]["value"]
        draw = draw.value() if hasattr(draw, "loc") else draw
        clipped = draw * (0.5 / draw.norm(dim=1, keepdim=True)).clamp_max(1)
        assert torch.allclose(out, clipped @ net.fc.weight.T + net.fc.bias, atol=1e-4)
    assert torch.equal(bnet.means()["e.weight"], mine) and torch.equal(net.e.weight, theirs)
