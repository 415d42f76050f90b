"""Attention that calls its projections: the numbers are torch's, whatever the arguments and settings."""

import copy
import inspect
import warnings

import pytest
import torch
from torch import nn

from bayesprune.sparse import BSR, CSR, Dense, SparseLinear, export, plan
from bayesprune.sparse.attention import SparseAttention

TINY = {"rtol": 1e-5, "atol": 1e-5}


def forced(net, masks, example, form=None, only="*"):
    formats = {only: form or BSR(4, 1)} | ({} if only == "*" else {"*": Dense()})
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return export(net, {}, masks, example=example, formats=formats)


def same(a, b, **tolerance):
    for x, y in zip(a, b, strict=True):
        assert (x is None) == (y is None)
        if x is not None:
            torch.testing.assert_close(x, y, **tolerance, equal_nan=True)


MADE = {
    "plain": {},
    "batch first": {"batch_first": True},
    "no bias": {"bias": False},
    "other widths": {"kdim": 6, "vdim": 10, "batch_first": True},
    "key and value biases": {"add_bias_kv": True},
    "zero attention": {"add_zero_attn": True, "batch_first": True},
    "both": {"add_bias_kv": True, "add_zero_attn": True, "kdim": 6},
    "odd heads": {"batch_first": True, "heads": 3},
}
LENGTHS = 5, 7  # queries, keys


def attention(heads=4, **kwargs):
    module = nn.MultiheadAttention(12, heads, **kwargs).double()
    with torch.no_grad():
        for parameter in module.parameters():  # biases too, which start at zero
            parameter.copy_(0.3 * torch.randn_like(parameter))
    return module


def inputs(module, kind, batch=3):
    """Query, key and value, as one tensor, as two or as three."""
    widths = module.embed_dim, module.kdim, module.vdim
    lengths = LENGTHS[0], LENGTHS[1], LENGTHS[1]
    shapes = [(n, w) if kind.startswith("unbatched") else (n, batch, w) for n, w in zip(lengths, widths, strict=True)]
    if module.batch_first and not kind.startswith("unbatched"):
        shapes = [(batch, n, w) for n, _, w in shapes]
    query, key, value = (torch.randn(shape, dtype=torch.float64) for shape in shapes)
    same_widths = widths[1] == widths[2]
    if "self" in kind and same_widths and widths[0] == widths[1]:
        return query, query, query
    return query, key, key if "memory" in kind and same_widths else value


@pytest.mark.parametrize("weights", ["none", "mean", "each head"])
@pytest.mark.parametrize("kind", ["self", "memory", "three", "unbatched self", "unbatched three"])
@pytest.mark.parametrize("made", MADE)
def test_results_are_those_of_torch(made, kind, weights):
    module = attention(**MADE[made])
    query, key, value = inputs(module, kind)
    batch_axis = None if query.dim() == 2 else 0 if module.batch_first else 1
    batch = 1 if batch_axis is None else query.shape[batch_axis]
    length = query.shape[1 if batch_axis == 0 else 0], key.shape[1 if batch_axis == 0 else 0]
    flat, each = torch.rand(length) < 0.3, torch.rand(batch * module.num_heads, *length) < 0.3
    flat[:, 0] = each[..., 0] = False  # a row without a key is NaN or not as torch's kernel has it
    padding = torch.zeros(batch, length[1], dtype=torch.bool)
    padding[0, -2:] = True
    padding = padding[0] if batch_axis is None else padding
    causal = torch.ones(length, dtype=torch.bool).triu(1)
    bias = torch.randn(length, dtype=torch.float64)
    calls = [
        {},
        {"attn_mask": flat},
        {"attn_mask": each},
        {"attn_mask": bias},
        {"key_padding_mask": padding},
        {"attn_mask": flat, "key_padding_mask": padding},
        {"attn_mask": bias, "key_padding_mask": torch.where(padding, -torch.inf, 0.1).double()},
        {"attn_mask": causal, "is_causal": True},
        {"attn_mask": causal, "is_causal": True, "key_padding_mask": padding},
    ]
    asked = {"need_weights": weights != "none", "average_attn_weights": weights != "each head"}
    for split in (False, True):
        opened = SparseAttention(copy.deepcopy(module), split).eval()
        for masks in calls:
            expected = module.train()(query, key, value, **masks, **asked)
            same(opened(query, key, value, **masks, **asked), expected, **TINY)
            with torch.no_grad():  # where torch's own may take its fast path
                fast = module.eval()(query, key, value, **masks, **asked)
                same(opened(query, key, value, **masks, **asked), fast, **TINY)


@pytest.mark.parametrize("need_weights", [False, True])
def test_dropout_is_torchs_in_training_and_none_in_eval(need_weights):
    module = attention(dropout=0.4).train()
    opened = SparseAttention(module)
    assert opened.training
    x = torch.randn(5, 3, 12, dtype=torch.float64)
    torch.manual_seed(1)
    expected = module(x, x, x, need_weights=need_weights)
    torch.manual_seed(1)
    same(opened(x, x, x, need_weights=need_weights), expected, **TINY)
    assert not torch.allclose(opened(x, x, x)[0], opened(x, x, x)[0])
    opened.eval()
    assert torch.equal(opened(x, x, x)[0], opened(x, x, x)[0])


def test_the_signature_is_torchs():
    mine, torchs = (
        list(inspect.signature(m.forward).parameters.values()) for m in (SparseAttention, nn.MultiheadAttention)
    )
    assert [(p.name, p.default) for p in mine] == [(p.name, p.default) for p in torchs]


@pytest.mark.parametrize(
    ("shapes", "kwargs", "says"),
    [
        ([(2, 3, 4, 12)] * 3, {}, "3 dimensions each, or 2 without a batch"),
        ([(5, 3, 12), (5, 12), (5, 12)], {}, "3 dimensions each"),
        ([(5, 3, 12), (5, 3, 12), (6, 3, 12)], {}, "differ in length or batch"),
        ([(5, 3, 12)] * 3, {"is_causal": True}, "give attn_mask too"),
        (
            [(5, 3, 12)] * 3,
            {"attn_mask": torch.zeros(5, 6)},
            r"attn_mask of shape \(5, 5\) or \(12, 5, 5\), got \(5, 6\)",
        ),
        (
            [(5, 3, 12)] * 3,
            {"key_padding_mask": torch.zeros(5, 3)},
            r"key_padding_mask of shape \(3, 5\), got \(5, 3\)",
        ),
        (
            [(5, 3, 12)] * 3,
            {"attn_mask": torch.zeros(5, 5).int()},
            "attn_mask to be bool or floating-point, got torch.int32",
        ),
    ],
)
def test_bad_input(shapes, kwargs, says):
    opened = SparseAttention(nn.MultiheadAttention(12, 4))
    with pytest.raises(ValueError, match=says):
        opened(*map(torch.zeros, shapes), **kwargs)


@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors")
def test_nested_tensors_are_refused():
    opened = SparseAttention(nn.MultiheadAttention(12, 4, batch_first=True))
    nested = torch.nested.nested_tensor([torch.zeros(3, 12), torch.zeros(2, 12)])
    with pytest.raises(ValueError, match="got a nested tensor"):
        opened(nested, nested, nested)


@pytest.mark.parametrize("split", [False, True])
@pytest.mark.parametrize("made", MADE)
def test_closed_again_it_is_the_module_it_was(made, split):
    module = attention(**MADE[made]).eval()
    module.out_proj.weight.requires_grad_(False)
    opened = SparseAttention(copy.deepcopy(module), split)
    assert not opened.out_proj.weight.requires_grad
    again = opened.closed()
    assert str(again) == str(module) and not again.training
    assert all(
        torch.equal(a, b) for a, b in zip(again.state_dict().values(), module.state_dict().values(), strict=True)
    )


@pytest.mark.parametrize("form", [CSR(), BSR(4, 1), BSR(16, 16), BSR(4, 4, 8)], ids=str)
@pytest.mark.parametrize("kind", ["self", "cross"])
def test_packed_projections_against_masked_dense(kind, form, random_masks, masked_dense):
    net = nn.MultiheadAttention(24, 4, batch_first=True)
    masks = random_masks(net, 0.4)
    x, memory = torch.randn(2, 7, 24), torch.randn(2, 9, 24)
    seen, other = ((x, x, x), (x, memory, memory))[:: 1 if kind == "self" else -1]
    sparse, dense = forced(net, masks, seen, form), masked_dense(net, masks)
    assert sparse.split == (kind == "cross")
    assert sum(isinstance(m, SparseLinear) for m in sparse.modules()) == (4 if sparse.split else 2)
    for example in (seen, other):  # what was not on the example is right too
        tolerance = {"rtol": 2e-2, "atol": 2e-2} if getattr(form, "bits", None) else TINY
        with torch.no_grad():
            same(sparse(*example), dense(*example), **tolerance)


def test_what_stays_dense_stays_a_linear_layer(random_masks, masked_dense):
    net, x = nn.MultiheadAttention(24, 4), torch.randn(7, 2, 24)
    masks = random_masks(net, 0.3)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        sparse = export(net, {}, masks, example=(x, x, x), formats={"in_proj_weight": CSR(), "out_proj": Dense()})
    assert isinstance(sparse.in_proj, SparseLinear) and type(sparse.out_proj) is nn.Linear
    same(sparse(x, x, x), masked_dense(net, masks)(x, x, x), **TINY)
    sparse = export(net, {}, masks, example=(x, x, x), formats={"*": Dense()})
    assert type(sparse) is nn.MultiheadAttention


@pytest.mark.parametrize("split", [False, True])
def test_a_net_that_also_reads_a_weight_gets_a_dense_copy(split, random_masks, masked_dense):
    class Reads(nn.Module):
        def __init__(self):
            super().__init__()
            self.attention, self.rnn = nn.MultiheadAttention(24, 4), nn.GRU(24, 24)

        def forward(self, x):
            y = self.attention(x, x.clone() if split else x, x)[0] @ self.attention.in_proj_weight[:24]
            return self.rnn(y)[0] * self.rnn.weight_hh_l0.sum() + self.rnn.bias_hh_l0[:24]

    net, x = Reads(), torch.randn(7, 2, 24)
    masks = random_masks(net, 0.3)
    sparse, dense = forced(net, masks, x), masked_dense(net, masks)
    assert isinstance(sparse.attention, SparseAttention) and sparse.attention.split == split
    assert torch.equal(sparse.attention.in_proj_weight, dense.attention.in_proj_weight)
    torch.testing.assert_close(sparse(x), dense(x), **TINY)
    with pytest.raises(AttributeError, match="q_proj_weight"):
        sparse.attention.q_proj_weight  # noqa: B018


def test_attention_that_is_not_called_stays(random_masks):
    class Idle(nn.Module):
        def __init__(self):
            super().__init__()
            self.head, self.idle = nn.Linear(24, 24), nn.MultiheadAttention(24, 4)

        def forward(self, x):
            return self.head(x)

    net = Idle()
    made = plan(net, random_masks(net, names=["idle.in_proj_weight"]), example=torch.randn(3, 24))
    assert made["idle.in_proj_weight"].reason == "masked dense: MultiheadAttention was not called on the example"
