"""Exported nets are right whatever they are made of, the user's net is untouched, and bad input is refused."""

import copy
import warnings

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from bayesprune.patterns import Block
from bayesprune.sparse import BSR, CSR, SparseLinear, export, nbytes, plan


class Tied(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(30, 24)
        self.mix = nn.Linear(24, 24)
        self.head = nn.Linear(24, 30, bias=False)
        self.head.weight = self.embed.weight

    def forward(self, tokens):
        return self.head(F.relu(self.mix(self.embed(tokens))))


class Conv1D(nn.Module):
    """The linear layer of Hugging Face's GPT-2: its weight is (in, out)."""

    def __init__(self, nf, nx):
        super().__init__()
        self.nf = nf
        self.weight = nn.Parameter(torch.randn(nx, nf))
        self.bias = nn.Parameter(torch.randn(nf))

    def forward(self, x):
        return torch.addmm(self.bias, x.view(-1, x.size(-1)), self.weight).view(*x.size()[:-1], self.nf)


class ReadsWeight(nn.Module):
    def __init__(self):
        super().__init__()
        self.called, self.read = nn.Linear(24, 24), nn.Linear(24, 24)

    def forward(self, x):
        return F.linear(self.called(x), self.read.weight, self.read.bias) + x @ self.called.weight


class Doubled(nn.Linear):
    def __call__(self, x):
        return 2 * super().__call__(x)


class Named(nn.Conv2d):
    def bound(self):
        return float(self.bias.abs().max())


def scaled():
    layer = nn.Linear(8, 16)
    layer.lr_scale = 0.5
    return layer


@pytest.mark.parametrize(
    ("layer", "shape", "why"),
    [
        (lambda: Doubled(8, 16), (5, 8), "Doubled is a class of its own"),
        (lambda: Named(3, 16, 3), (5, 3, 6, 6), "Named is a class of its own"),
        (scaled, (5, 8), "Linear was given lr_scale"),
    ],
)
def test_a_layer_that_has_more_than_torchs_stays_masked_dense(layer, shape, why):
    net, x = nn.Sequential(layer()).eval(), torch.randn(shape)
    mask = torch.rand(1, *net[0].weight.shape[1:]).expand_as(net[0].weight) < 0.4
    made = plan(net, {"0.weight": mask}, example=x)
    assert f"masked dense: {why}" in made["0.weight"].reason
    assert type(export(net, {}, {"0.weight": mask}, example=x, plan=made)[0]) is type(net[0])


class ByKeyword(nn.Module):
    def __init__(self, layer):
        super().__init__()
        self.layer = layer

    def forward(self, x):
        return self.layer(input=x)


@pytest.mark.parametrize(
    ("layer", "shape", "form"),
    [(nn.Linear(8, 16), (4, 8), CSR()), (nn.Conv2d(16, 16, 3), (2, 16, 6, 6), BSR(16, 1))],
)
def test_a_packed_layer_is_called_as_torchs_is(layer, shape, form, masked_dense):
    net, x = ByKeyword(layer).eval(), torch.randn(shape)
    mask = torch.rand(1, *layer.weight.shape[1:]).expand_as(layer.weight) < 0.4
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        sparse = export(net, {}, {"layer.weight": mask}, example=x, formats={"*": form})
    torch.testing.assert_close(sparse(x), masked_dense(net, {"layer.weight": mask})(x), rtol=1e-4, atol=1e-5)


class LowRank(nn.Linear):
    """A linear layer by class, but not by what it computes."""

    def forward(self, x):
        return 2 * super().forward(x)


def encoder_layer(**kwargs):
    return nn.TransformerEncoderLayer(24, 4, 48, batch_first=True, **kwargs)


NETS = {
    "mlp": (lambda: nn.Sequential(nn.Linear(24, 48), nn.ReLU(), nn.Linear(48, 10, bias=False)), (torch.randn(5, 24),)),
    "one layer": (lambda: nn.Linear(24, 10), (torch.randn(5, 24),)),
    "conv": (
        lambda: nn.Sequential(
            nn.Conv2d(4, 8, 3, groups=2),
            nn.BatchNorm2d(8),
            nn.ReLU(),
            nn.ConvTranspose2d(8, 4, 3),
            nn.Flatten(),
            nn.Linear(144, 5),
        ),
        (torch.randn(3, 4, 6, 6),),
    ),
    "attention": (lambda: nn.MultiheadAttention(24, 4, batch_first=True), (torch.randn(2, 7, 24),) * 3),
    "attention, three widths": (
        lambda: nn.MultiheadAttention(24, 4, kdim=10, vdim=12),
        (torch.randn(7, 2, 24), torch.randn(7, 2, 10), torch.randn(7, 2, 12)),
    ),
    "encoder layer": (encoder_layer, (torch.randn(2, 7, 24),)),
    "encoder layer, gelu, norm first": (
        lambda: encoder_layer(activation="gelu", norm_first=True),
        (torch.randn(2, 7, 24),),
    ),
    "encoder": (lambda: nn.TransformerEncoder(encoder_layer(), 2), (torch.randn(2, 7, 24),)),
    "decoder layer": (
        lambda: nn.TransformerDecoderLayer(24, 4, 48, batch_first=True),
        (torch.randn(2, 7, 24), torch.randn(2, 5, 24)),
    ),
    "lstm": (lambda: nn.LSTM(24, 16, 2, batch_first=True, bidirectional=True), (torch.randn(2, 7, 24),)),
    "gru cell": (lambda: nn.GRUCell(24, 16), (torch.randn(2, 24),)),
    "bilinear": (lambda: nn.Bilinear(24, 10, 6), (torch.randn(2, 24), torch.randn(2, 10))),
    "tied": (Tied, (torch.randint(0, 30, (2, 7)),)),
    "hugging face": (lambda: nn.Sequential(Conv1D(48, 24), nn.GELU(), Conv1D(24, 48)), (torch.randn(2, 7, 24),)),
    "reads its weights": (ReadsWeight, (torch.randn(5, 24),)),
    "subclass": (lambda: nn.Sequential(LowRank(24, 24), nn.Linear(24, 24)), (torch.randn(5, 24),)),
}


def first(y):
    return y[0] if isinstance(y, tuple) else y


@pytest.mark.parametrize("forced", [None, CSR(), BSR(4, 4)], ids=str)
@pytest.mark.parametrize("kind", NETS)
def test_outputs_are_those_of_the_masked_dense_net(kind, forced, random_masks, masked_dense):
    make, example = NETS[kind]
    net = make()
    masks = random_masks(net, 0.2)
    means = {name: torch.randn_like(p) * 0.1 for name, p in net.named_parameters()}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        sparse = export(net, means, masks, example=example, formats={"*": forced} if forced else None)
    dense = masked_dense(net, masks, means)
    with torch.no_grad():
        torch.testing.assert_close(first(sparse(*example)), first(dense(*example)), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(first(sparse(*example)), first(dense(*example)), rtol=1e-5, atol=1e-5)
    for name, parameter in sparse.named_parameters():
        if name in masks:
            assert not parameter[~masks[name]].any()


@pytest.mark.parametrize(
    ("kind", "weight", "why"),
    [
        ("conv", "0.weight", "the mask fills no block that Conv2d"),
        ("gru cell", "weight_hh", "weight_hh of GRUCell"),
        ("tied", "embed.weight", "shared with head.weight"),
        ("reads its weights", "read.weight", "Linear was not called on the example"),
        ("subclass", "0.weight", "LowRank has no sparse kernel"),
    ],
)
def test_what_stays_dense_says_why(kind, weight, why, random_masks):
    make, example = NETS[kind]
    net = make()
    choice = plan(net, random_masks(net, names=[weight]), example=example)[weight]
    assert choice.reason.startswith("masked dense: ") and why in choice.reason
    assert choice.nbytes == choice.dense_nbytes and not choice.seconds


@pytest.mark.parametrize(
    ("kind", "layers"),
    [
        ("mlp", 2),
        ("hugging face", 2),
        ("decoder layer", 8),  # of them three are the queries, keys and values of the attention to another input
        ("attention", 2),
        ("attention, three widths", 4),
        ("encoder layer, gelu, norm first", 4),
        ("encoder", 8),
        ("lstm", 8),
    ],
)
def test_these_do_run_packed(kind, layers, random_masks):
    make, example = NETS[kind]
    net = make()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        sparse = export(net, {}, random_masks(net), example=example, formats={"*": BSR(4, 1)})
    assert sum(isinstance(m, SparseLinear) for m in sparse.modules()) == layers


def test_keys_of_the_state_dict(random_masks):
    net = nn.Sequential()
    net.add_module("fc1", nn.Linear(24, 48))
    net.add_module("fc2", nn.Linear(48, 10))
    masks = random_masks(net, names=["fc1.weight"])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        sparse = export(net, {}, masks, example=torch.randn(5, 24), formats={"fc1": CSR()})
    assert set(sparse.state_dict()) == {
        *("fc1.values", "fc1.crow", "fc1.col", "fc1.bias"),
        *("fc2.weight", "fc2.bias"),
    }
    again = copy.deepcopy(sparse)
    again.load_state_dict(sparse.state_dict())
    assert torch.equal(again(torch.ones(24)), sparse(torch.ones(24)))


def test_the_users_net_is_untouched(random_masks):
    seen = []
    net = nn.Sequential(nn.Linear(24, 48), nn.Dropout(), nn.Linear(48, 10)).train()
    net[2].requires_grad_(False)
    net[0].register_forward_hook(lambda *_: seen.append("a"))
    before = {k: v.clone() for k, v in net.state_dict().items()}
    hooks = [dict(m._forward_hooks) | dict(m._forward_pre_hooks) for m in net.modules()]
    numbers = torch.get_rng_state()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        masks = random_masks(net)
        torch.set_rng_state(numbers)
        sparse = export(
            net,
            {"0.bias": torch.ones(48)},
            masks,
            example=torch.randn(5, 24, generator=torch.Generator()),
            formats={"2": CSR()},
        )
    assert torch.equal(torch.get_rng_state(), numbers)
    assert [type(m) for m in net] == [nn.Linear, nn.Dropout, nn.Linear] and all(m.training for m in net.modules())
    assert net.state_dict().keys() == before.keys() and all(
        torch.equal(net.state_dict()[k], v) for k, v in before.items()
    )
    assert [dict(m._forward_hooks) | dict(m._forward_pre_hooks) for m in net.modules()] == hooks
    assert not any(m.training for m in sparse.modules())
    assert not sparse[2].values.requires_grad and not sparse[2].bias.requires_grad
    assert isinstance(sparse[0], nn.Linear)  # its hook may read the weight
    assert not {p.data_ptr() for p in net.parameters()} & {p.data_ptr() for p in sparse.parameters()}


def test_means_replace_values_and_buffers_come_along():
    net = nn.Sequential(nn.Linear(8, 8), nn.BatchNorm1d(8))
    means = {"0.weight": torch.full((8, 8), 2.0), "1.running_mean": torch.full((8,), 3.0)}
    sparse = export(net, means, {"0.weight": torch.eye(8, dtype=torch.bool)}, example=torch.ones(2, 8))
    assert torch.equal(sparse[1].running_mean, torch.full((8,), 3.0))
    assert torch.equal(sparse[0].weight, 2 * torch.eye(8))
    assert torch.equal(sparse[0].bias, net[0].bias)


def test_bytes_as_it_runs(random_masks):
    net = nn.Sequential(nn.Linear(512, 512, bias=False))
    masks = random_masks(net, 0.05, Block(16, 1))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        sparse = export(net, {}, masks, example=torch.randn(5, 512), formats={"*": BSR(16, 1)})
    blocks = int(masks["0.weight"].sum()) // 16
    assert nbytes(sparse) == blocks * (16 * 4 + 4) + 33 * 4
    assert nbytes(net) == 512 * 512 * 4
    assert nbytes(sparse, stored=True) < nbytes(sparse)


def bad(net_masks):
    return {"0.weight": torch.ones(8, 8, dtype=torch.bool)} | net_masks


@pytest.mark.parametrize(
    ("means", "masks", "example", "message"),
    [
        (
            {},
            {"fc": torch.ones(8, 8, dtype=torch.bool)},
            torch.ones(2, 8),
            r"masks name 'fc', which the net lacks; its parameters are '0.weight'",
        ),
        ({}, {"0.weight": torch.ones(8, 7, dtype=torch.bool)}, torch.ones(2, 8), r"shape \(8, 8\), got \(8, 7\)"),
        (
            {},
            {"0.weight": torch.ones(8, 8)},
            torch.ones(2, 8),
            "must be a bool tensor, got torch.float32; write mask != 0",
        ),
        (
            {"0.weight": torch.ones(7, 8)},
            {},
            torch.ones(2, 8),
            r"mean of '0.weight' must be a tensor of shape \(8, 8\), got \(7, 8\)",
        ),
        ({"0.weight": torch.full((8, 8), torch.nan)}, {}, torch.ones(2, 8), "NaN or infinity; the fit has diverged"),
        ({"nope": torch.ones(1)}, {}, torch.ones(2, 8), "means name 'nope'"),
        ({}, {}, torch.ones(0, 8), r"example holds no data: shape \(0, 8\)"),
        ({}, {}, torch.ones(2, 9), r"the net cannot run on the example given \(\(2, 9\) torch.float32 on cpu\)"),
        ({}, {}, None, "example must be an input batch of the net .* got NoneType"),
        ({}, {}, "data", "example must be an input batch"),
    ],
)
def test_bad_input(means, masks, example, message):
    net = nn.Sequential(nn.Linear(8, 8))
    masks = masks or {"0.weight": torch.eye(8, dtype=torch.bool)}
    with pytest.raises(ValueError, match=message):
        export(net, means, masks, example=example)


def test_masks_and_means_of_a_shared_parameter_must_agree():
    net, eye = Tied(), torch.rand(30, 24) < 0.5
    tokens = torch.zeros(1, 3, dtype=torch.long)
    export(net, {}, {"embed.weight": eye, "head.weight": eye}, example=tokens)
    with pytest.raises(ValueError, match="one shared parameter, but their masks differ"):
        export(net, {}, {"embed.weight": eye, "head.weight": ~eye}, example=tokens)
    with pytest.raises(ValueError, match="one shared parameter, but their means differ"):
        export(net, {"embed.weight": torch.ones(30, 24), "head.weight": torch.zeros(30, 24)}, {}, example=tokens)


def test_nan_in_the_net_and_meta_tensors():
    net = nn.Sequential(nn.Linear(8, 8))
    masks = {"0.weight": torch.eye(8, dtype=torch.bool)}
    with pytest.raises(ValueError, match=r"'0.weight' is on the meta device"):
        export(copy.deepcopy(net).to("meta"), {}, masks, example=torch.ones(2, 8))
    nn.init.constant_(net[0].weight, torch.nan)
    with pytest.raises(ValueError, match=r"the weight '0.weight' holds NaN"):
        export(net, {}, masks, example=torch.ones(2, 8))
