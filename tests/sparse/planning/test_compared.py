"""Export holds the packed net against the masked dense one: what differs stays dense with its reason."""

import random
import warnings
from collections import namedtuple
from dataclasses import dataclass

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from bayesprune.sparse import BSR, CSR, SparseLinear, export

Named = namedtuple("Named", "first second")


@dataclass
class Result:
    logits: torch.Tensor
    hidden: tuple


class Net(nn.Module):
    """Two layers, and a forward that does ``what`` between them."""

    def __init__(self, what):
        super().__init__()
        self.what = what
        self.one, self.two = nn.Linear(8, 16), nn.Linear(16, 4)
        self.register_buffer("steps", torch.zeros(()))
        self.calls = 0

    def forward(self, x):
        return self.what(self, x)


def plain(net, x):
    return net.two(net.one(x).relu())


# --- forwards that tell a packed layer from torch's -------------------------------------------------------------------


def by_isinstance(net, x):
    h = net.one(x)
    return net.two(h.relu() if isinstance(net.one, nn.Linear) else h)


def by_type(net, x):
    return net.two(net.one(x) * (2 if type(net.one) is nn.Linear else 1))


def by_name(net, x):
    return net.two(net.one(x) * sum(name == "one.weight" for name, _ in net.named_parameters()))


def by_repr(net, x):
    return net.two(net.one(x)) * len(repr(net.one))


def on_other_batches(net, x):
    h = net.one(x)
    return net.two(h.relu() if len(x) == 5 or isinstance(net.one, nn.Linear) else h)


def on_what_is_not_zero(net, x):
    h = net.one(x)
    return net.two(h.relu() if isinstance(net.one, nn.Linear) or not bool(x.any()) else h)


def by_an_attribute_that_is_not_there(net, x):
    return net.two(net.one(x)) + 0 * net.one._parameters["weight"].sum()


TOLD_APART = [by_isinstance, by_type, by_name, by_repr, on_other_batches, on_what_is_not_zero]
TOLD_APART += [by_an_attribute_that_is_not_there]


def exported(net, masks, x, **kwargs):
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        sparse = export(net, {}, masks, example=x, **{"formats": {"*": CSR()}, **kwargs})
    return sparse, [str(w.message) for w in told if "stay masked dense" in str(w.message)]


@pytest.mark.parametrize("what", TOLD_APART, ids=lambda what: what.__name__)
def test_a_layer_that_is_told_apart_stays_masked_dense_and_the_other_is_packed(what, random_masks, masked_dense):
    net, x = Net(what).eval(), torch.zeros(5, 8) if what is on_what_is_not_zero else torch.randn(5, 8)
    masks = random_masks(net, 0.4)
    sparse, told = exported(net, masks, x)
    assert type(sparse.one) is nn.Linear and type(sparse.two) is SparseLinear
    assert len(told) == 1 and "'one.weight': on " in told[0] and "two" not in told[0]
    for given in (x, torch.randn(5, 8), torch.randn(3, 8)):
        with torch.no_grad():
            torch.testing.assert_close(sparse(given), masked_dense(net, masks)(given), rtol=1e-5, atol=1e-5)


def test_where_many_are_told_apart_all_stay_and_the_search_ends(random_masks, masked_dense, monkeypatch):
    monkeypatch.setattr("bayesprune.sparse.planning.compared._MOST", 2)

    class Counts(nn.Sequential):
        def forward(self, x):
            return super().forward(x) * sum(p.numel() for p in self.parameters())

    net, x = Counts(*(nn.Linear(8, 8) for _ in range(5))).eval(), torch.randn(5, 8)
    masks = random_masks(net, 0.4)
    sparse, told = exported(net, masks, x)
    assert not any(isinstance(m, SparseLinear) for m in sparse.modules()) and "was not tried alone" in told[0]
    assert torch.equal(sparse(x), masked_dense(net, masks)(x))


# --- forwards that do not ---------------------------------------------------------------------------------------------


def reads_sizes(net, x):
    return plain(net, x) * net.one.weight.shape[0] / net.one.out_features + net.one.bias.sum()


def reads_the_weight(net, x):
    return net.two(F.linear(net.one(x)[:, :8], net.one.weight, net.one.bias))


def asks_for_a_module(net, x):
    return plain(net, x) if isinstance(net.one, nn.Module) and hasattr(net.one, "weight") else x


def drops_out(net, x):
    return net.two(F.dropout(net.one(x), 0.5, training=True))


def draws_of_python_and_numpy(net, x):
    return plain(net, x) * random.random() + np.random.rand()


def ranks(net, x):
    return plain(net, x).argmax(-1)


def counts(net, x):
    net.steps += 1
    net.calls += 1
    return plain(net, x) * net.steps + net.calls


def reassigns(net, x):
    net.steps = net.steps + 1
    return plain(net, x) * net.steps


def writes_into_its_input(net, x):
    x.mul_(2).add_(1)
    return plain(net, x)


def writes_its_batch_size_in(net, x):
    return plain(net, x.view(5, 8))


def gives_a_dict(net, x):
    return {"logits": plain(net, x), "loss": None, "names": ["a"], "n": len(x)}


def gives_a_named_tuple(net, x):
    return Named(plain(net, x), [x, 0.5])


def gives_a_dataclass(net, x):
    return Result(plain(net, x), (x,))


def gives_a_distribution(net, x):
    return torch.distributions.Normal(plain(net, x), 1.0)


def gives_minus_infinity(net, x):
    return plain(net, x).masked_fill(torch.eye(len(x), 4).bool(), -torch.inf)


def gives_nan(net, x):
    return plain(net, x).log()


def differentiates(net, x):
    with torch.enable_grad():
        x = x.detach().requires_grad_()
        return torch.autograd.grad(plain(net, x).square().sum(), x)[0]


THE_SAME = [
    plain,
    reads_sizes,
    reads_the_weight,
    asks_for_a_module,
    drops_out,
    draws_of_python_and_numpy,
    ranks,
    counts,
]
THE_SAME += [reassigns, writes_into_its_input, writes_its_batch_size_in, gives_a_dict, gives_a_named_tuple]
THE_SAME += [gives_a_dataclass, gives_a_distribution, gives_minus_infinity, gives_nan, differentiates]


@pytest.mark.parametrize("what", THE_SAME, ids=lambda what: what.__name__)
def test_a_forward_that_does_not_ask_is_packed_without_a_word(what, random_masks):
    net, x = Net(what).eval(), torch.randn(5, 8)
    masks = random_masks(net, 0.4)
    before, state = x.clone(), torch.get_rng_state()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.filterwarnings("ignore", "two.weight: CSR|one.weight: CSR")  # slower than dense, as small ones are
        sparse = export(net, {}, masks, example=x, formats={"*": CSR()})
    assert type(sparse.one) is type(sparse.two) is SparseLinear
    assert torch.equal(x, before), "the example was written into"
    assert sparse.steps == 0 or what is counts  # as before: the net is run to be planned
    if what not in (drops_out, draws_of_python_and_numpy):
        assert torch.equal(torch.get_rng_state(), state)


class Words(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed, self.head = nn.Embedding(11, 8), nn.Linear(8, 4)

    def forward(self, tokens, scale=None, *, mask=None):
        h = self.embed(tokens) if mask is None else self.embed(tokens) * mask[..., None]
        return self.head(h if scale is None else h * scale)


TOKENS = torch.randint(11, (5, 3))


@pytest.mark.parametrize(
    "example",
    [TOKENS, (TOKENS, torch.tensor(2.0)), {"tokens": TOKENS, "mask": torch.ones(5, 3)}, [TOKENS, torch.ones(1)]],
    ids=["integers", "0-d beside", "by name", "list"],
)
def test_examples_of_all_kinds(example, random_masks):
    net = Words().eval()
    sparse, told = exported(net, random_masks(net, 0.4, names=["head.weight"]), example)
    assert type(sparse.head) is SparseLinear and not told


@pytest.mark.parametrize("bits", [8, 4])
@pytest.mark.parametrize("what", [plain, by_isinstance], ids=lambda what: what.__name__)
def test_weights_in_integers_are_held_against_their_rounded_values(bits, what, random_masks):
    net, x = Net(what).eval(), torch.randn(5, 8)
    masks = random_masks(net, 0.6)
    sparse, told = exported(net, masks, x, formats={"*": CSR(bits=bits)})
    if what is plain:
        assert sparse.one.scale is not None and sparse.two.scale is not None and not told
    else:
        assert torch.equal(sparse.one.weight, net.one.weight * masks["one.weight"]) and sparse.two.scale is not None
        assert len(told) == 1


def test_a_net_that_cannot_be_held_against_itself_is_packed_and_says_so(random_masks):
    def unsteady(net, x):
        return plain(net, x) + torch.tensor(np.random.default_rng().random(), dtype=x.dtype)

    net, x = Net(unsteady).eval(), torch.randn(5, 8)
    with pytest.warns(UserWarning, match="two runs of the net itself differ on the example"):
        sparse = export(net, {}, random_masks(net, 0.4), example=x, formats={"*": CSR()})
    assert type(sparse.one) is SparseLinear


def test_attention_is_compared_as_a_whole(random_masks, masked_dense):
    class Asks(nn.Module):
        def __init__(self):
            super().__init__()
            self.attention, self.head = nn.MultiheadAttention(8, 2, batch_first=True), nn.Linear(8, 4)

        def forward(self, x):
            h = self.attention(x, x, x, need_weights=False)[0]
            return self.head(h if isinstance(self.attention, nn.MultiheadAttention) else -h)

    net, x = Asks().eval(), torch.randn(2, 5, 8)
    masks = random_masks(net, 0.4)
    sparse, told = exported(net, masks, x, formats={"*": BSR(4, 1)})
    assert type(sparse.attention) is nn.MultiheadAttention and type(sparse.head) is SparseLinear and len(told) == 1
    with torch.no_grad():
        torch.testing.assert_close(sparse(x), masked_dense(net, masks)(x), rtol=1e-5, atol=1e-5)


class Pooled(nn.Module):
    def __init__(self, pool):
        super().__init__()
        layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
        self.encoder, self.pool = nn.TransformerEncoder(layer, 1), pool

    def forward(self, x, padding=None):
        return self.pool(self.encoder(x, src_key_padding_mask=padding), padding)


POOLS = {
    "all positions": (lambda x, padding: x.mean(1), True),
    "the first": (lambda x, padding: x[:, 0], False),
    "no padding": (lambda x, padding: x.masked_fill(padding[..., None], 0).sum(1), False),
}


@pytest.mark.parametrize("pool", POOLS)
def test_what_an_encoder_gives_at_padding_is_told_where_it_counts(pool, random_masks):
    how, told = POOLS[pool]
    net, x = Pooled(how).eval(), torch.randn(2, 5, 8)
    padding = torch.arange(5) >= torch.tensor([[5], [3]])
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        export(net, {}, random_masks(net, 0.4), example=(x, padding), formats={"*": BSR(4, 1)})
    assert any("gives zeros where the input is padding" in str(w.message) for w in said) == told
