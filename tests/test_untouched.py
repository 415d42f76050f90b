"""The user's net comes out of every door as it went in, whatever computes its weights; and what comes out is right."""

import warnings

import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.utils import parametrizations, parametrize, prune

import bayesprune as bp

X, Y = torch.randn(32, 8), torch.randint(0, 3, (32,))


def hung_by_a_hook(layer):
    """As libraries of one's own do what weight_norm does."""
    layer.register_parameter("raw", nn.Parameter(layer.weight.detach().clone()))
    del layer._parameters["weight"]

    def compute(module, _inputs):
        module.weight = module.raw * 0.5

    layer.register_forward_pre_hook(compute)
    compute(layer, None)
    return layer


class Symmetric(nn.Module):
    def forward(self, x):
        return x.tanh()


class Keeps(nn.Linear):
    """Holds on to what it gave, which is part of a graph."""

    def forward(self, x):
        self.seen = [y := super().forward(x)]
        return y


def pruned_twice(layer):
    return prune.random_unstructured(prune.l1_unstructured(layer, "weight", 0.3), "weight", 0.3)


def keeps(_layer):
    return Keeps(8, 8)


def hooked(layer):
    layer.register_forward_hook(lambda _module, _args, y: y * 2)
    return layer


def parametrized(layer):
    parametrize.register_parametrization(layer, "weight", Symmetric())
    return layer


def lazily_centred(_layer):
    return LazilyCentred()


class LazilyCentred(nn.Module):
    def __init__(self):
        super().__init__()
        self.register_buffer("centre", None)
        self.register_buffer("steps", torch.zeros(()))

    def forward(self, x):
        if self.centre is None:
            self.centre = x.detach().mean(0)
        self.steps = self.steps + 1
        return x - self.centre


KINDS = {
    "plain": lambda layer: layer,
    "weight_norm": nn.utils.weight_norm,
    "spectral_norm": nn.utils.spectral_norm,
    "prune": lambda layer: prune.l1_unstructured(layer, "weight", 0.5),
    "prune, twice": pruned_twice,
    "a hook of one's own": hung_by_a_hook,
    "parametrizations.weight_norm": parametrizations.weight_norm,
    "parametrizations.spectral_norm": parametrizations.spectral_norm,
    "parametrizations.orthogonal": parametrizations.orthogonal,
    "a parametrization of one's own": parametrized,
    "a hook after it": hooked,
    "keeps what it gave": keeps,
    "a buffer that was None": lazily_centred,
}


def made(kind):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the old weight_norm is deprecated
        net = nn.Sequential(KINDS[kind](nn.Linear(8, 8)), nn.ReLU(), nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 3))
    if kind != "a buffer that was None":
        net(X).sum().backward()  # as of a net that was trained
    net[1].eval()
    return net


def looks(net):
    """All that a net is made of: tensors by identity and value, modes, classes, hooks, plain tensor attributes."""
    found = {}
    for path, m in net.named_modules():
        tensors = {**m._parameters, **m._buffers, **{k: x for k, x in vars(m).items() if isinstance(x, Tensor)}}
        found[path] = {
            "tensors": {k: None if x is None else (id(x), type(x), x.detach().clone()) for k, x in tensors.items()},
            "grads": {k: None if p is None or p.grad is None else p.grad.clone() for k, p in m._parameters.items()},
            "trained": {k: p.requires_grad for k, p in m._parameters.items() if p is not None},
            "rest": (id(m), type(m), m.training, sorted(vars(m)), [*m._forward_pre_hooks], [*m._forward_hooks]),
        }
    return found


def same(a, b):
    if isinstance(a, Tensor):
        return isinstance(b, Tensor) and torch.equal(a, b)
    if isinstance(a, dict):
        return list(a) == list(b) and all(same(a[k], b[k]) for k in a)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(map(same, a, b))
    return a == b


def rules(net):
    own = [name for name, p in net.named_parameters() if p.dim() > 1 and name.startswith("0.")]
    return {**{name: bp.Gaussian() for name in own}, "*.weight": bp.Gaussian()}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.filterwarnings("ignore")
def test_every_door_leaves_the_net_as_it_was_and_gives_what_is_right(kind, tmp_path):
    net = made(kind)
    before = looks(net)

    def untouched(door):
        assert same(before, looks(net)), f"{door} has altered the net"

    bnet = bp.BayesianNet(net, rules(net))
    untouched("BayesianNet")
    bp.fit(bp.classify(bnet, 32), bnet.guide, [(X, Y)], epochs=2, seed=0, progress=False)
    untouched("fit")
    bp.predict(bnet, [(X, Y)], draws=2, seed=0)
    untouched("predict")
    masks, means = bp.masks(bnet, keep=0.5), bnet.means()
    untouched("masks")
    sparse = bp.export(net, means, masks, example=X)
    untouched("export")
    small = bp.compact(net, means, masks, example=X)
    untouched("compact")
    bp.save(sparse, tmp_path / "model")
    again = sparse if kind == "a buffer that was None" else bp.load(tmp_path / "model", net=net)  # the net has none
    untouched("save and load")
    bp.report(bnet, masks, [(X, Y)], draws=2)
    untouched("report")
    bp.to_inference_data(bnet, [(X, Y)], draws=2, seed=0)
    untouched("to_inference_data")

    values = {**means, **{name: means[name] * mask for name, mask in masks.items()}}
    expected = functional_call(made(kind).eval(), values, (X,))
    for made_of_it in (sparse, small.net, again):
        torch.testing.assert_close(made_of_it(X), expected, rtol=1e-4, atol=1e-5)


def test_a_net_that_no_copy_can_be_made_of_is_refused_with_its_module_named():
    class Locked(nn.Linear):
        def __deepcopy__(self, memo):
            raise TypeError("a lock cannot be copied")

    net = nn.Sequential(nn.Linear(8, 8), nn.Sequential(Locked(8, 3)))
    with pytest.raises(ValueError, match=r"the net cannot be copied: 1.0 \(Locked\) holds .* a lock cannot be copied"):
        bp.export(net, {}, {}, example=X)


class Closure(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(8, 3)
        self.steps = [lambda x: self.fc(x)]

    def forward(self, x):
        return self.steps[0](x)


@pytest.mark.parametrize("door", [bp.export, bp.compact], ids=lambda door: door.__name__)
def test_a_copy_that_goes_on_calling_the_net_is_refused(door):
    """The copy's ``steps`` hold the net they were made in: it would compute with the net's weights, not the masked."""
    net, masks = Closure(), {"fc.weight": torch.eye(3, 8).bool()}
    with pytest.raises(ValueError, match="a copy of the net calls 'fc' of the net itself"):
        door(net, {}, masks, example=X)
    assert torch.equal(net(X), net.fc(X))


class Method(Closure):
    def __init__(self):
        super().__init__()
        self.steps = [self.step, self.fc.forward]

    def step(self, x):
        return self.fc(x)


def test_a_method_is_copied_with_its_net():
    net, masks = Method(), {"fc.weight": torch.eye(3, 8).bool()}
    torch.testing.assert_close(
        bp.export(net, {}, masks, example=X)(X), X @ (net.fc.weight * masks["fc.weight"]).T + net.fc.bias
    )


def test_a_buffer_that_a_forward_made_real_is_exported_as_it_is():
    class Halves(nn.Module):
        def __init__(self):
            super().__init__()
            self.fc = nn.Linear(8, 3)
            self.register_buffer("n", torch.zeros((), dtype=torch.long))

        def forward(self, x):
            self.n = self.n + 0.5
            return self.fc(x)

    sparse = bp.export(Halves(), {"n": torch.tensor(2.5)}, {}, example=X)
    assert sparse.n.item() >= 2.5
