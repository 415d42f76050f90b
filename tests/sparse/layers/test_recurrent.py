"""Recurrent nets converted as wholes: the numbers are torch's, whatever the input, the state and the settings."""

import copy
import inspect
import warnings

import pytest
import torch
from torch import nn
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence, pack_sequence, pad_packed_sequence

from bayesprune.patterns import Block
from bayesprune.sparse import BSR, CSR, Dense, SparseLinear, export, load, plan, save
from bayesprune.sparse.bench.products import dense_twin
from bayesprune.sparse.layers.recurrent import SparseRNN

MADE = {
    "RNN": lambda **k: nn.RNN(6, 8, **k),
    "RNN, relu": lambda **k: nn.RNN(6, 8, nonlinearity="relu", **k),
    "GRU": lambda **k: nn.GRU(6, 8, **k),
    "LSTM": lambda **k: nn.LSTM(6, 8, **k),
    "LSTM, projected": lambda **k: nn.LSTM(6, 8, proj_size=3, **k),
}
SETTINGS = {
    "one layer": {},
    "no bias": {"bias": False},
    "three layers, batch first": {"num_layers": 3, "batch_first": True},
    "both directions": {"bidirectional": True},
    "both directions, two layers, batch first": {"bidirectional": True, "num_layers": 2, "batch_first": True},
}
every_module = pytest.mark.parametrize("made", MADE)


def forced(net, masks, example, form=None):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return export(net, {}, masks, example=example, formats={"*": form or BSR(4, 1)})


def same(a, b, **tolerance):
    """Equal, output and states, within 1e-5."""
    assert type(a) is type(b)
    if isinstance(a, PackedSequence):
        assert torch.equal(a.batch_sizes, b.batch_sizes)
        for x, y in zip(a[2:], b[2:], strict=True):
            assert (x is None) == (y is None) and (x is None or torch.equal(x, y))
        a, b = a.data, b.data
    if isinstance(a, tuple):
        assert len(a) == len(b)
        for x, y in zip(a, b, strict=True):
            same(x, y, **tolerance)
    else:
        torch.testing.assert_close(a, b, **(tolerance or {"rtol": 1e-5, "atol": 1e-5}))


def state(module, *batch):
    """A random h, and c of an LSTM; ``batch`` is empty without one."""
    count = module.num_layers * (1 + module.bidirectional)
    h = torch.randn(count, *batch, module.proj_size or module.hidden_size, dtype=torch.float64)
    return (h, torch.randn(count, *batch, module.hidden_size).double()) if module.mode == "LSTM" else h


@pytest.mark.parametrize("settings", SETTINGS)
@every_module
def test_results_are_those_of_torch(made, settings):
    module = MADE[made](**SETTINGS[settings]).double()
    opened = SparseRNN(copy.deepcopy(module))
    x = torch.randn(4, 5, 6, dtype=torch.float64)
    batch = 4 if module.batch_first else 5
    sequences = [torch.randn(n, 6, dtype=torch.float64) for n in (3, 7, 1, 7, 4)]
    unsorted, in_order = (
        pack_sequence(s, enforce_sorted=o) for s, o in ((sequences, False), (sorted(sequences, key=len)[::-1], True))
    )
    padded = pack_padded_sequence(
        x,
        torch.tensor([4, 2, 3, 1]) if module.batch_first else torch.tensor([4, 2, 3, 1, 4]),
        module.batch_first,
        False,
    )
    calls = [
        (x,),
        (x, state(module, batch)),
        (x[:, :1] if module.batch_first else x[:1],),
        (x[0],),
        (x[0], state(module)),
        (unsorted,),
        (unsorted, state(module, 5)),
        (in_order, state(module, 5)),
        (padded, state(module, batch)),
    ]
    for module.training in (True, False):
        opened.train(module.training)
        for call in calls:
            same(opened(*call), module(*call))
            with torch.no_grad():
                same(opened(*call), module(*call))
    same(pad_packed_sequence(opened(unsorted)[0]), pad_packed_sequence(module(unsorted)[0]))


@every_module
def test_in_float32_too_and_without_gradients_torchs_own_kernel(made):
    module = MADE[made](num_layers=2, bidirectional=True).eval()
    x = torch.randn(4, 5, 6)
    with torch.no_grad():
        same(SparseRNN(copy.deepcopy(module))(x), module(x))


@every_module
def test_dropout_between_layers_in_training_alone(made):
    module = MADE[made](num_layers=3, dropout=0.5)
    opened, x = SparseRNN(copy.deepcopy(module)), torch.randn(4, 5, 6)
    torch.manual_seed(1)
    expected = module(x)
    torch.manual_seed(1)
    same(opened(x), expected)
    same(opened.eval()(x), module.eval()(x))


@pytest.mark.parametrize("settings", SETTINGS)
@every_module
def test_closed_again_it_is_the_module_it_was(made, settings):
    module = MADE[made](**SETTINGS[settings]).eval()
    again = SparseRNN(copy.deepcopy(module)).closed()
    assert str(again) == str(module) and not again.training
    assert again.state_dict().keys() == module.state_dict().keys()
    assert all(torch.equal(x, module.state_dict()[name]) for name, x in again.state_dict().items())
    x = torch.randn(4, 5, 6)
    with torch.no_grad():
        same(again(x), module(x), rtol=0, atol=0)


def test_the_signature_is_torchs():
    assert list(inspect.signature(SparseRNN.forward).parameters) == list(inspect.signature(nn.GRU.forward).parameters)
    assert SparseRNN(nn.LSTM(2, 2)).flatten_parameters() is None


@pytest.mark.parametrize(
    ("make", "args", "says"),
    [
        (lambda: nn.GRU(6, 8), (torch.zeros(1, 2, 3, 6),), "3 dimensions, or 2 without a batch"),
        (lambda: nn.GRU(6, 8), (torch.zeros(4, 5, 7),), "one step or more of 6 features, got 4 of 7"),
        (lambda: nn.GRU(6, 8), (torch.zeros(0, 5, 6),), "one step or more of 6 features, got 0 of 6"),
        (
            lambda: nn.GRU(6, 8),
            (torch.zeros(4, 5, 6), torch.zeros(1, 4, 8)),
            r"\(1, 5, 8\), batch first or not, got \(1, 4, 8\)",
        ),
        (lambda: nn.LSTM(6, 8), (torch.zeros(4, 5, 6), torch.zeros(1, 5, 8)), r"\(1, 5, 8\), \(1, 5, 8\), batch first"),
    ],
)
def test_bad_input(make, args, says):
    with pytest.raises(ValueError, match=says):
        SparseRNN(make())(*args)


@pytest.mark.parametrize("form", [CSR(), BSR(4, 1), BSR(16, 8)], ids=str)
@every_module
def test_packed_against_masked_dense(made, form, random_masks, masked_dense):
    net, x = MADE[made](num_layers=2, bidirectional=True, batch_first=True), torch.randn(3, 5, 6)
    masks = random_masks(net, 0.4)
    sparse, dense = forced(net, masks, x, form), masked_dense(net, masks)
    assert all(isinstance(m, SparseLinear) for m in sparse.children()) and len(list(sparse.children())) == len(masks)
    with torch.no_grad():
        same(sparse(x), dense(x))
        before = sparse(x)[0]
        for m in sparse.children():
            values = m.values.clone()
            m.values.mul_(2)
            assert not torch.allclose(sparse(x)[0], before)
            m.values.copy_(values)
    same(sparse(x), dense(x))


def test_gradients_are_those_of_the_masked_dense_net(random_masks, masked_dense):
    net, x = nn.LSTM(6, 8, 2, proj_size=4).double(), torch.randn(4, 5, 6, dtype=torch.float64)
    masks = random_masks(net, 0.4)
    sparse, dense = forced(net, masks, x, CSR()).train(), masked_dense(net, masks).train()
    for m in (sparse, dense):
        m(x)[0].square().sum().backward()
    for name, weight in dense.named_parameters():
        leaf, _, layer = name.partition("_")
        own = sparse.get_submodule(layer)
        expected = weight.grad[masks[name]] if leaf == "weight" else weight.grad
        assert expected.abs().max() > 1e-4
        torch.testing.assert_close(own.values.grad if leaf == "weight" else own.bias.grad, expected)


def test_what_stays_dense_stays_a_linear_layer(random_masks, masked_dense):
    net, x = nn.GRU(6, 8), torch.randn(4, 5, 6)
    masks = random_masks(net, 0.4)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        sparse = export(net, {}, masks, example=x, formats={"weight_ih*": CSR(), "*": Dense()})
    assert isinstance(sparse.ih_l0, SparseLinear) and type(sparse.hh_l0) is nn.Linear
    same(sparse(x), masked_dense(net, masks)(x))


@every_module
def test_copies_dtypes_files_and_the_dense_twin(made, tmp_path, random_masks, masked_dense):
    net, x = MADE[made](num_layers=2, batch_first=True), torch.randn(3, 5, 6)
    masks = random_masks(net, 0.4)
    sparse, dense = forced(net, masks, x), masked_dense(net, masks)
    save(sparse, tmp_path / "m.safetensors")
    with torch.no_grad():
        expected = sparse(x)
        same(copy.deepcopy(sparse)(x), expected, rtol=0, atol=0)
        same(load(tmp_path / "m.safetensors")(x), expected, rtol=0, atol=0)
        same(load(tmp_path / "m.safetensors", net=net)(x), expected, rtol=0, atol=0)
        same(copy.deepcopy(sparse).double()(x.double())[0].float(), expected[0])
        twin = dense_twin(sparse)
        assert str(twin) == str(dense)
        assert all(torch.equal(value, dense.state_dict()[name]) for name, value in twin.state_dict().items())


def test_the_plan_times_each_product_at_the_rows_it_sees_and_then_the_whole(random_masks, masked_dense):
    net, x = nn.Sequential(nn.GRU(64, 64, batch_first=True)), torch.randn(3, 5, 64)
    masks = random_masks(net, 0.1, Block(16, 16))
    made = plan(net, masks, example=x)
    assert [made[name].tokens for name in ("0.weight_ih_l0", "0.weight_hh_l0")] == [15, 3]
    assert all("as a whole" in c.reason for c in made.choices.values() if c.label != "dense")
    sparse = export(net, {}, masks, example=x, plan=made)
    assert isinstance(sparse[0], SparseRNN) == any(c.label != "dense" for c in made.choices.values())
    with torch.no_grad():
        same(sparse(x), masked_dense(net, masks)(x))


class Scaled(nn.GRU):
    def forward(self, x, hx=None):
        y, h = super().forward(x, hx)
        return 2 * y, h


def hooked():
    net = nn.GRU(6, 8)
    net.register_forward_hook(lambda *_: None)
    return net


def tied():
    net = nn.GRU(8, 8)
    net.weight_hh_l0 = net.weight_ih_l0
    return net


@pytest.mark.parametrize(
    ("make", "why"),
    [
        (lambda: Scaled(8, 8), "weight_ih_l0 of Scaled is not the weight of a linear layer"),
        (hooked, "GRU carries hooks, which may read its weights"),
        (tied, "GRU shares weight_ih_l0 and weight_hh_l0"),
        (lambda: nn.utils.parametrizations.weight_norm(nn.GRU(8, 8), "weight_ih_l0"), "ParametrizationList"),
    ],
)
def test_what_cannot_be_opened_stays_masked_dense_and_says_why(make, why):
    net = make()
    (name,) = [name for name, p in net.named_parameters() if "ih_l0" in name and p.shape == (24, net.input_size)]
    masks = {name: torch.rand(24, net.input_size) < 0.4}
    reason = plan(net, masks, example=torch.randn(4, 5, net.input_size))[name].reason
    assert reason.startswith("masked dense: ") and why in reason
