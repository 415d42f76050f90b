"""Torch's encoders and decoders converted as wholes: no fast path passes over a layer, and slower ones stay dense."""

import copy
import hashlib
import json
import subprocess
import sys
import warnings

import pytest
import torch
from torch import nn

from bayesprune.patterns import Block
from bayesprune.sparse import BSR, CSR, Dense, FileError, SparseLinear, export, load, plan, save
from bayesprune.sparse.bench.products import dense_twin
from bayesprune.sparse.layers.attention import SparseAttention
from bayesprune.sparse.saving.manifest import Manifest
from bayesprune.sparse.surgery.composites import calls_on, composite_of

TINY = {"rtol": 1e-5, "atol": 1e-5}


def forced(net, masks, example, form=None, only="*"):
    formats = {only: form or BSR(4, 1)} | ({} if only == "*" else {"*": Dense()})
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return export(net, {}, masks, example=example, formats=formats)


def layer(**kwargs):
    return nn.TransformerEncoderLayer(24, 4, 48, batch_first=True, **kwargs)


ENCODERS = {
    "layer": layer,
    "norm first, gelu": lambda: layer(norm_first=True, activation="gelu"),
    "no bias": lambda: layer(bias=False),
    "sequence first": lambda: nn.TransformerEncoderLayer(24, 4, 48),
    "another activation": lambda: layer(activation=torch.tanh),
    "stack": lambda: nn.TransformerEncoder(layer(), 2, nn.LayerNorm(24)),
    "in a net": lambda: nn.Sequential(nn.Linear(24, 24), nn.TransformerEncoder(layer(activation="gelu"), 2)),
}


@pytest.mark.parametrize("only", ["*", "*linear*", "*self_attn*"])
@pytest.mark.parametrize("kind", ENCODERS)
def test_encoders_call_their_packed_layers_in_eval(kind, only, random_masks, masked_dense, monkeypatch):
    net, x = ENCODERS[kind](), torch.randn(2, 7, 24)
    masks = random_masks(net, 0.3)
    sparse = forced(net, masks, x, only=only)
    packed = [m for m in sparse.modules() if isinstance(m, SparseLinear)]
    assert packed
    with torch.no_grad():
        torch.testing.assert_close(sparse(x), masked_dense(net, masks)(x), **TINY)
    torch.testing.assert_close(sparse(x), masked_dense(net, masks)(x), **TINY)

    def passed_over(*args):
        raise AssertionError("a fast path was taken")

    monkeypatch.setattr(torch, "_transformer_encoder_layer_fwd", passed_over)
    with torch.no_grad():
        before = sparse(x)
        for m in packed:
            values = m.values.clone()
            m.values.mul_(1.5)
            assert not torch.allclose(sparse(x), before)
            m.values.copy_(values)
        assert torch.equal(sparse(x), before)


def test_a_stack_under_a_padding_mask_makes_no_nested_tensors(random_masks, masked_dense):
    net = nn.TransformerEncoder(layer(), 2)
    masks, x = random_masks(net, 0.3), torch.randn(3, 7, 24)
    padding = torch.arange(7) >= torch.tensor([[7], [4], [5]])
    example = {"src": x, "src_key_padding_mask": padding}
    sparse, dense = forced(net, masks, example), masked_dense(net, masks)
    assert net.use_nested_tensor and not sparse.use_nested_tensor
    with torch.no_grad():
        torch.testing.assert_close(sparse(**example)[~padding], dense(**example)[~padding], **TINY)
    torch.testing.assert_close(sparse(**example), dense(**example), **TINY)
    some = export(
        net, {}, {"layers.1.linear1.weight": masks["layers.1.linear1.weight"]}, example=example, formats={"*": Dense()}
    )
    assert some.use_nested_tensor  # nothing is packed


def test_decoders_and_masks_in_them(random_masks, masked_dense):
    net = nn.TransformerDecoder(nn.TransformerDecoderLayer(24, 4, 48, batch_first=True, activation="gelu"), 2)
    masks, x, memory = random_masks(net, 0.3), torch.randn(2, 7, 24), torch.randn(2, 5, 24)
    causal = nn.Transformer.generate_square_subsequent_mask(7)
    example = {"tgt": x, "memory": memory, "tgt_mask": causal, "tgt_is_causal": True}
    sparse, dense = forced(net, masks, example), masked_dense(net, masks)
    assert [m.split for m in sparse.modules() if isinstance(m, SparseAttention)] == [False, True] * 2
    with torch.no_grad():
        torch.testing.assert_close(sparse(**example), dense(**example), **TINY)


@pytest.mark.parametrize("activation", ["relu", "gelu"])
def test_the_activation_of_a_feed_forward_block_is_taken_in_and_given_back(activation, random_masks, masked_dense):
    pytest.importorskip("llvmlite")
    net, x = layer(activation=activation), torch.randn(2, 7, 24)
    masks = random_masks(net, 0.3)
    sparse = forced(net, masks, x)
    assert sparse.linear1.kernel != "native" or sparse.linear1.activation == activation
    twin = dense_twin(sparse)
    assert twin.activation is net.activation and twin.activation_relu_or_gelu == net.activation_relu_or_gelu
    with torch.no_grad():
        torch.testing.assert_close(twin(x), masked_dense(net, masks)(x), **TINY)


@pytest.mark.parametrize("kind", ENCODERS)
def test_the_dense_twin_is_torchs_own_again(kind, random_masks, masked_dense):
    net, x = ENCODERS[kind](), torch.randn(2, 7, 24)
    masks = random_masks(net, 0.3)
    twin, dense = dense_twin(forced(net, masks, x)), masked_dense(net, masks)
    assert str(twin) == str(dense)
    assert twin.state_dict().keys() == dense.state_dict().keys()
    assert all(torch.equal(value, dense.state_dict()[name]) for name, value in twin.state_dict().items())
    for mine, torchs in zip(twin.modules(), dense.modules(), strict=True):
        for flag in ("activation_relu_or_gelu", "use_nested_tensor"):
            assert getattr(mine, flag, None) == getattr(torchs, flag, None)


def test_gradients_are_those_of_the_masked_dense_net(random_masks, masked_dense):
    net, x = layer(dropout=0.0).double(), torch.randn(2, 7, 24, dtype=torch.float64)
    masks = random_masks(net, 0.3)
    sparse, dense = forced(net, masks, x, CSR()).train(), masked_dense(net, masks).train()
    for m in (sparse, dense):
        m(x).pow(3).sum().backward()
    attention = sparse.self_attn
    for name, packed in (("in_proj_weight", attention.in_proj), ("out_proj.weight", attention.out_proj)):
        weight = dense.self_attn.get_parameter(name)
        assert weight.grad.abs().max() > 0.01
        torch.testing.assert_close(packed.values.grad, weight.grad[masks[f"self_attn.{name}"]])
    torch.testing.assert_close(sparse.self_attn.in_proj.bias.grad, dense.self_attn.in_proj_bias.grad)
    step = torch.optim.SGD(sparse.parameters(), 1e-4)
    before = sparse(x).pow(3).sum()
    step.step()
    assert sparse(x).pow(3).sum() < before


@pytest.fixture
def encoder(random_masks):
    net = nn.TransformerEncoder(layer(), 2)
    x = torch.randn(2, 7, 24)
    return forced(net, random_masks(net, 0.3), x), x


def test_copies_dtypes_and_state_dicts(encoder):
    sparse, x = encoder
    with torch.no_grad():
        expected = sparse(x)
        assert torch.equal(copy.deepcopy(sparse)(x), expected)
        other = copy.deepcopy(sparse)
        for parameter in other.parameters():
            parameter.zero_()
        other.load_state_dict(sparse.state_dict())
        assert torch.equal(other(x), expected)
        torch.testing.assert_close(copy.deepcopy(sparse).double()(x.double()), expected.double(), **TINY)
        half = copy.deepcopy(sparse).to(torch.bfloat16)(x.bfloat16())
        torch.testing.assert_close(half.float(), expected, rtol=0.1, atol=0.1)


def test_a_file_brings_them_back_in_another_process_that_compiles_and_exports_them(tmp_path, random_masks):
    class Net(nn.Module):  # known here alone: loading needs the net
        def __init__(self):
            super().__init__()
            self.encoder, self.rnn = nn.TransformerEncoder(layer(), 1), nn.LSTM(24, 8, bidirectional=True)

        def forward(self, x):
            return self.rnn(self.encoder(x))[0]

    x = torch.randn(2, 7, 24)
    own = Net()
    sparse = forced(own, random_masks(own, 0.3), x)
    save(sparse, tmp_path / "own.safetensors")
    loaded = load(tmp_path / "own.safetensors", net=own)
    assert str(loaded) == str(sparse)
    with torch.no_grad():
        assert torch.equal(loaded(x), sparse(x))

    net = nn.Sequential(nn.TransformerEncoder(layer(activation="gelu"), 1), nn.GRU(24, 8))
    sparse = forced(net, random_masks(net, 0.3), x)
    save(sparse, tmp_path / "m.safetensors")
    torch.save((x, sparse(x)[0].detach()), tmp_path / "io.pt")
    code = (
        "import sys, torch, bayesprune.sparse as bp\n"
        f"x, y = torch.load({str(tmp_path / 'io.pt')!r})\n"
        f"net = bp.load({str(tmp_path / 'm.safetensors')!r})\n"
        "assert torch.equal(net(x)[0], y)\n"
        "assert 'pyro' not in sys.modules\n"
        "with torch.no_grad():\n"
        "    compiled = torch.compile(net, fullgraph=True, backend='aot_eager')\n"
        "    torch.testing.assert_close(compiled(x)[0], y)\n"
        "    torch.testing.assert_close(torch.export.export(net, (x,)).module()(x)[0], y)\n"
        "print('fine')"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.stdout.strip() == "fine", done.stderr


@pytest.mark.parametrize("opened", [{"0": 1}, {"0": "yes"}, ["0"], None])
def test_a_manifest_whose_opened_modules_are_no_paths(opened):
    text = json.dumps(json.loads(Manifest(None, "", {}, {}).write()["bayesprune"]) | {"opened": opened})
    with pytest.raises(FileError, match="the manifest is malformed"):
        Manifest.read({"bayesprune": text, "bayesprune.sha256": hashlib.sha256(text.encode()).hexdigest()})


@pytest.mark.parametrize("skeleton", [nn.Linear(24, 24), nn.Identity(), nn.GRU(24, 24)])
def test_a_file_with_opened_modules_refuses_a_skeleton_that_has_none(skeleton, tmp_path, random_masks):
    net, x = nn.Sequential(layer(), nn.Identity()), torch.randn(2, 7, 24)
    save(forced(net, random_masks(net), x), tmp_path / "m.safetensors")
    other = copy.deepcopy(net)
    other[0].self_attn = skeleton
    with pytest.raises(FileError, match=r"cannot be taken apart|has a layer '0.self_attn.in_proj'"):
        load(tmp_path / "m.safetensors", net=other)
    with pytest.raises(FileError, match=r"does not fit the net: '0.self_attn' cannot be taken apart"):
        load(tmp_path / "m.safetensors", net=nn.Sequential(nn.Linear(24, 24)))


class Doubled(nn.MultiheadAttention):
    def forward(self, *args, **kwargs):
        return super().forward(*args, **kwargs)[0] * 2, None


class OwnLayer(nn.TransformerEncoderLayer):
    def forward(self, src, src_mask=None, src_key_padding_mask=None, is_causal=False):
        return super().forward(src) + self.linear1.weight.sum()


def hooked():
    net = nn.MultiheadAttention(24, 4)
    net.out_proj.register_forward_hook(lambda *_: None)
    return net


class tied(nn.Module):  # noqa: N801  (beside functions that make the others)
    def __init__(self):
        super().__init__()
        self.one, self.two = nn.MultiheadAttention(24, 4), nn.Linear(24, 24)
        self.two.weight = self.one.out_proj.weight

    def forward(self, q, k, v):
        return (self.two(self.one(q, k, v)[0]),)


def altered():
    net = nn.MultiheadAttention(24, 4)
    net.out_proj.register_buffer("scale", torch.ones(24))
    return net


@pytest.mark.parametrize(
    ("make", "weight", "why"),
    [
        (lambda: Doubled(24, 4), "in_proj_weight", "in_proj_weight of Doubled is not the weight of a linear layer"),
        (lambda: Doubled(24, 4), "out_proj.weight", "Doubled reads this weight itself"),
        (hooked, "in_proj_weight", "MultiheadAttention carries hooks, which may read its weights"),
        (tied, "one.in_proj_weight", "MultiheadAttention shares one.out_proj.weight and two.weight"),
        (altered, "in_proj_weight", "MultiheadAttention was changed after it was made"),
        (lambda: nn.MultiheadAttention(24, 4), "in_proj_bias", "in_proj_bias of MultiheadAttention is not the weight"),
    ],
)
def test_what_cannot_be_opened_stays_masked_dense_and_says_why(make, weight, why, masked_dense):
    net, x = make(), (torch.randn(7, 2, 24),) * 3
    masks = {weight: torch.rand(net.get_parameter(weight).shape) < 0.3}
    with pytest.warns(UserWarning, match="no weight that it matches can run"):
        made = plan(net, masks, example=x, formats={"*": CSR()})
    assert made[weight].reason.startswith("masked dense: ") and why in made[weight].reason
    sparse, dense = export(net, {}, masks, example=x, plan=made), masked_dense(net, masks)
    assert not any(isinstance(m, (SparseLinear, SparseAttention)) for m in sparse.modules())
    torch.testing.assert_close(sparse(*x)[0], dense(*x)[0], **TINY)


def test_a_layer_with_another_forward_keeps_all_its_weights(random_masks):
    net = OwnLayer(24, 4, 48, batch_first=True)
    made = plan(net, random_masks(net), example=torch.randn(2, 7, 24))
    assert all("OwnLayer reads this weight itself" in choice.reason for choice in made.choices.values())


@pytest.fixture
def clock(monkeypatch):
    """``clock(whole)``: every packed weight is ten times as fast as dense, and every whole ``whole`` times."""

    def set_to(whole):
        def timed(runners, *, about, device, cached):
            for run in runners.values():
                run()
            factor = whole if "packed" in runners else 10
            return {name: 1e-3 if name == "dense" else 1e-3 / factor for name in runners}, ""

        monkeypatch.setattr(
            sys.modules["bayesprune.sparse.planning.planner"], "timed", timed
        )  # the function hides the module

    return set_to


def test_where_the_whole_is_not_faster_its_weights_stay_dense(clock, random_masks):
    net, x = nn.Sequential(nn.Linear(24, 24), layer()), torch.randn(2, 7, 24)
    masks = random_masks(net, 0.2, Block(4, 1))
    clock(whole=1.04)
    made = plan(net, masks, example=x)
    reason = made["1.linear1.weight"].reason
    assert "masked dense: TransformerEncoderLayer as a whole: 1.04× dense, 962 µs against 1,000 µs" in reason
    assert [c.label == "dense" for c in made.choices.values()] == [False, True, True, True, True]
    assert all(c.nbytes == c.dense_nbytes and c.speedup == 1 for name, c in made.choices.items() if name[0] == "1")
    sparse = export(net, {}, masks, example=x, plan=made)
    assert type(sparse[1].self_attn) is nn.MultiheadAttention and sparse[1].activation_relu_or_gelu == 1
    clock(whole=1.06)
    made = plan(net, masks, example=x)
    assert not any(c.label == "dense" for c in made.choices.values())
    assert made["1.linear1.weight"].reason.endswith("; TransformerEncoderLayer as a whole: 1.06× dense")


def test_a_forced_format_that_makes_the_whole_slower_says_so_and_stays(clock, random_masks):
    net, x = nn.Sequential(layer()), torch.randn(2, 7, 24)
    masks = random_masks(net, 0.2)
    clock(whole=0.5)
    with pytest.warns(
        UserWarning, match=r"TransformerEncoderLayer '0', as a whole, is slower than dense .*: 2,000 µs against"
    ):
        made = plan(net, masks, example=x, formats={"*linear1*": CSR()})
    assert made["0.linear1.weight"].format == CSR()


def test_what_is_timed_as_a_whole(random_masks):
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.stack, self.attention = (
                nn.TransformerEncoder(layer(), 2),
                nn.MultiheadAttention(24, 4, batch_first=True),
            )
            self.head = nn.Linear(24, 24)

        def forward(self, x, padding=None):
            return self.head(self.attention(*[self.stack(x, None, padding)] * 3)[0])

    net, x = Net().eval(), torch.randn(2, 7, 24)
    names = [
        "stack.layers.1.linear1.weight",
        "stack.layers.1.self_attn.in_proj_weight",
        "attention.out_proj.weight",
        "head.weight",
    ]
    calls = calls_on(net, x, names)
    assert [composite_of(net, name, calls) for name in names] == ["stack.layers.1", "stack.layers.1", "attention", None]
    assert torch.backends.mha.get_fastpath_enabled()
    padded = calls_on(net, (x, torch.arange(7).expand(2, 7) > 4), names)  # the stack would cut the padding out
    assert [composite_of(net, name, padded) for name in names] == ["stack", "stack", "attention", None]
