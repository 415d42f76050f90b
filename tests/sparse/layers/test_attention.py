"""Attention that calls its projections: the numbers are torch's, whatever the arguments and settings."""

import copy
import inspect
import warnings

import pytest
import torch
from torch import nn

from bayesprune.sparse import BSR, CSR, Dense, SparseLinear, export, plan
from bayesprune.sparse.layers.attention import SparseAttention

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


def only_heads(module, kept):
    """A copy of torch's attention in which all heads but ``kept`` give zero."""
    alone = copy.deepcopy(module)
    there = torch.zeros(module.num_heads, module.head_dim)
    there[kept] = 1
    with torch.no_grad():
        alone.out_proj.weight.mul_(there.flatten())
    return alone


@pytest.mark.parametrize("kind", ["self", "memory", "three", "unbatched self", "unbatched three"])
@pytest.mark.parametrize("made", MADE)
@pytest.mark.parametrize("split", [False, True])
def test_with_fewer_heads_it_is_torchs_whose_others_give_zero(split, made, kind):
    module = attention(**MADE[made])
    kept = [2, 0] if module.num_heads == 3 else [1, 3, 0]
    query, key, value = inputs(module, kind)
    fewer = SparseAttention(copy.deepcopy(module), split).eval()
    fewer.keep_heads(kept)
    batched = query.dim() == 3
    batch = 1 if not batched else query.shape[0 if module.batch_first else 1]
    flat, each = torch.rand(LENGTHS) < 0.3, torch.rand(batch, module.num_heads, *LENGTHS) < 0.3
    flat[:, 0] = each[..., 0] = False
    padding = torch.zeros(batch, LENGTHS[1], dtype=torch.bool)
    padding[0, -2:] = True
    both = {"attn_mask": flat, "key_padding_mask": padding if batched else padding[0]}
    lengths = tuple(x.shape[1 if batched and module.batch_first else 0] for x in (query, key))
    expected = only_heads(module, kept).train()
    for masks in ({}, both) if lengths == LENGTHS else ({},):
        torch.testing.assert_close(
            fewer(query, key, value, **masks)[0], expected(query, key, value, **masks)[0], **TINY
        )
        given, weights = fewer(query, key, value, **masks, average_attn_weights=False)
        wanted, all_weights = expected(query, key, value, **masks, average_attn_weights=False)
        torch.testing.assert_close(weights, all_weights[..., kept, :, :], **TINY)
        torch.testing.assert_close(given, wanted, **TINY)
        plain = fewer(query, key, value, **masks, need_weights=False)[0]
        torch.testing.assert_close(plain, wanted, **TINY)
    if lengths == LENGTHS:
        own = each[:, kept].reshape(-1, *LENGTHS)
        wanted = expected(query, key, value, attn_mask=each.reshape(-1, *LENGTHS))[0]
        torch.testing.assert_close(fewer(query, key, value, attn_mask=own)[0], wanted, **TINY)
        with pytest.raises(ValueError, match=rf"a mask for each of {module.num_heads} heads, of which {len(kept)} are"):
            fewer(query, key, value, attn_mask=each.reshape(-1, *LENGTHS))


@pytest.mark.parametrize("kept", [[], [0, 0], [4], [-1]])
def test_heads_that_are_not_there(kept):
    with pytest.raises(ValueError, match="some of the heads 0 to 3, each once"):
        SparseAttention(attention()).keep_heads(kept)


def test_heads_go_again_and_are_counted_from_what_is_left():
    module, x = attention(), torch.randn(5, 3, 12, dtype=torch.float64)
    fewer = SparseAttention(copy.deepcopy(module))
    fewer.keep_heads([0, 2, 3])
    fewer.keep_heads([2])
    torch.testing.assert_close(fewer(x, x, x)[0], only_heads(module, [3])(x, x, x)[0], **TINY)
    assert "heads=1 of 4" in repr(fewer)


@pytest.mark.parametrize("split", [False, True])
def test_what_is_left_of_it_is_packed_and_copied_and_trained(split):
    class Own(nn.Module):
        def __init__(self):
            super().__init__()
            self.attention = SparseAttention(attention(batch_first=True).float(), split)
            self.attention.keep_heads([0, 3])

        def forward(self, x):
            return self.attention(x, x, x, need_weights=False)[0]

    own, x = Own().eval(), torch.randn(3, 5, 12)
    masks = {n: torch.rand_like(p) < 0.3 for n, p in own.named_parameters() if p.dim() == 2}
    packed = forced(own, masks, x, CSR())
    assert sum(isinstance(m, SparseLinear) for m in packed.modules()) == len(masks)
    with torch.no_grad():
        for name, mask in masks.items():
            own.get_parameter(name).mul_(mask)
    torch.testing.assert_close(packed(x), own(x), **TINY)
    with pytest.raises(ValueError, match="remove heads before export packs them"):
        packed.attention.keep_heads([0])
    again = copy.deepcopy(own)
    again.load_state_dict(own.state_dict())
    assert torch.equal(again(x), own(x)) and repr(again) == repr(own)
    torch.testing.assert_close(own.double()(x.double()).float(), again(x), **TINY)
    exported = torch.export.export(again, (x,))
    torch.testing.assert_close(exported.module()(x), again(x), **TINY)
    again.train()(x).sum().backward()
    assert all(p.grad is not None for p in again.parameters())
