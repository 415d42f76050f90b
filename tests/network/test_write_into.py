"""A net takes over what was fitted whatever it holds: tied weights, buffers that are not saved, buffers of its own."""

import copy
import io
import pickle
import warnings
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

import bayesprune as bp


class Positions(nn.Module):
    """With a buffer that no state dict holds."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(8, 3)
        self.register_buffer("position", torch.arange(8.0), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(x + 0.01 * self.position)


class Tied(nn.Module):
    """A language model's embedding, used on the way out too."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.head = nn.Embedding(3, 8), nn.Linear(8, 3, bias=False)
        self.head.weight = self.embed.weight

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.embed(x.long().clamp(0, 2)).mean(1))


class Counting(nn.Module):
    """A batch norm's running moments, and a count that moves with each training pass and is not saved."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.fc = nn.BatchNorm1d(8), nn.Linear(8, 3)
        self.register_buffer("seen", torch.zeros(()), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        if self.training:
            self.seen.add_(1)
        return self.fc(self.norm(x)) + self.seen * 0


class Half(nn.Module):
    """One part in another precision, and one frozen."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.fc = nn.Linear(8, 8).double().requires_grad_(False), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.first(x.double()).float())


class Twice(nn.Module):
    """One module by two names, which says of itself what is no tensor, and whose mean appears when it first runs."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(8, 8)
        self.layers, self.out = nn.ModuleList([self.fc, nn.ReLU(), self.fc]), nn.Linear(8, 3)
        self.register_buffer("mean", None)

    def get_extra_state(self) -> dict[str, int]:
        return {"version": 2}

    def set_extra_state(self, state: dict[str, int]) -> None:
        assert state == {"version": 2}

    def forward(self, x: Tensor) -> Tensor:
        if self.mean is None:
            self.mean = x.mean(0).detach()
        for layer in self.layers:
            x = layer(x - self.mean)
        return self.out(x)


NETS: dict[str, Callable[[], nn.Module]] = {c.__name__: c for c in (Positions, Tied, Counting, Half, Twice)}
RULES = {"dense": {}, "a posterior": {"*embed.weight": bp.SparseVD(), "*fc.weight": bp.SparseVD()}}


def trained(make: Callable[[], nn.Module], rules: str) -> tuple[bp.BayesianNet, Tensor]:
    torch.manual_seed(0)
    net, x, y = make(), torch.randn(40, 8), torch.randint(0, 3, (40,))
    names = [name for name, _ in net.named_parameters()]
    chosen = {glob: m for glob, m in RULES[rules].items() if any(n.endswith(glob[1:]) for n in names)}
    bnet = bp.BayesianNet(net, chosen)
    bp.fit(bp.classify(bnet, 40), bnet.guide, [(x, y)], epochs=3, lr=1e-2, seed=0, progress=False)
    return bnet, x


@pytest.mark.parametrize("rules", RULES)
@pytest.mark.parametrize("make", NETS.values(), ids=list(NETS))
def test_a_fresh_net_gives_what_the_means_give(make: Callable[[], nn.Module], rules: str) -> None:
    bnet, x = trained(make, rules)
    right = bnet.eval().run(bnet.means(), x)
    for net in (make(), bnet.net):  # a fresh one, and the one that it was fitted from
        assert not torch.allclose(net.eval()(x), right)
        bnet.write_into(net)
        torch.testing.assert_close(net(x), right)
        found = {**dict(net.named_parameters()), **dict(net.named_buffers())}
        assert all(torch.equal(found[name], value) for name, value in bnet.state().values.items())


def test_ties_stay_ties_and_gradients_flow() -> None:
    bnet, x = trained(Tied, "dense")
    net = Tied()
    bnet.write_into(net)
    assert net.head.weight is net.embed.weight and net.head.weight.requires_grad
    net(x).sum().backward()
    assert bool(net.embed.weight.grad.any())


@pytest.mark.parametrize(
    ("other", "says"),
    [(nn.Linear(8, 3), "fc.weight"), (nn.Sequential(nn.Linear(8, 3)), "0.bias"), (Counting(), "position")],
    ids=["no such names", "others", "a buffer less"],
)
def test_another_net_is_refused_and_left_alone(other: nn.Module, says: str) -> None:
    bnet, _ = trained(Positions, "dense")
    before = [x.clone() for x in (*other.parameters(), *other.buffers())]
    with pytest.raises(ValueError, match=f"another way.*{says}"):
        bnet.write_into(other)
    assert all(torch.equal(a, b) for a, b in zip(before, (*other.parameters(), *other.buffers()), strict=True))


every_net = pytest.mark.parametrize("make", NETS.values(), ids=list(NETS))


@pytest.mark.parametrize("rules", RULES)
@every_net
def test_means_are_a_state_dict_that_is_taken_strictly(make: Callable[[], nn.Module], rules: str) -> None:
    bnet, x = trained(make, rules)
    means, net = bnet.means(), make()
    assert list(means) == list(net.state_dict())
    net.load_state_dict(means)
    with torch.no_grad():
        for name, buffer in means.unsaved.items():
            path, _, leaf = name.rpartition(".")
            net.get_submodule(path)._buffers[leaf] = buffer
    right = bnet.eval().run(bnet.draw() | bnet.state().values, x)
    torch.testing.assert_close(net.eval()(x), right)
    torch.testing.assert_close(bnet.run(means, x), right)
    torch.testing.assert_close(bnet.run({**means}, x), right)  # what the net does not save is then the posterior's own


@pytest.mark.parametrize("rules", RULES)
@every_net
def test_what_is_exported_has_what_the_net_does_not_save(make: Callable[[], nn.Module], rules: str) -> None:
    bnet, x = trained(make, rules)
    right = bnet.eval().run(bnet.means(), x)
    torch.testing.assert_close(bp.export(bnet.net, bnet.means(), {}, example=x)(x), right, rtol=1e-4, atol=1e-5)
    sent = io.BytesIO()
    torch.save(bnet.means(), sent)
    sent.seek(0)
    assert torch.load(sent, weights_only=True).unsaved.keys() == bnet.means().unsaved.keys()
    for other in (copy.deepcopy(bnet.means()), copy.copy(bnet.means()), pickle.loads(pickle.dumps(bnet.means()))):
        out = bp.export(bnet.net, other, {}, example=x)(x)
        torch.testing.assert_close(out, right, rtol=1e-4, atol=1e-5)


def test_a_control_counts_with_what_it_does_not_save() -> None:
    control, x = trained(Positions, "dense")
    bnet, _ = trained(Positions, "a posterior")
    with torch.no_grad():
        for name, buffer in control._rest.named_buffers():
            buffer.add_(100.0 if name == "position" else 0.0)
    data = [(x, torch.randint(0, 3, (40,)))]
    report = bp.report(bnet, bp.masks(bnet, keep=0.5), data, draws=2, control=control.means(), seed=0)
    loss = nn.functional.cross_entropy(control.eval().run(control.means(), x), data[0][1])
    row = next(row for row in report.models if row.role.name == "CONTROL")
    assert row.score.nll == pytest.approx(float(loss), rel=1e-4)


def test_a_tied_weight_has_one_value() -> None:
    bnet, x = trained(Tied, "a posterior")
    means = bnet.means()
    assert means["head.weight"] is means["embed.weight"]
    with pytest.raises(ValueError, match=r"'embed.weight' and 'head.weight' are one tensor"):
        bnet.run({**means, "embed.weight": means["embed.weight"] * 2}, x)


class Decoder(nn.Module):
    """A tied head with a bias of its own, and an embedding that comes first."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.head = nn.Embedding(5, 8), nn.Linear(8, 5)
        self.head.weight = self.embed.weight

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.embed(x))


def test_a_rule_by_a_tied_weights_other_name_says_so() -> None:
    for rule in ("head.weight", "hea*.weight"):
        with pytest.raises(ValueError, match=r"'head.weight' is tied to 'embed.weight'.*give 'embed.weight' the rule"):
            bp.BayesianNet(Decoder(), {rule: bp.SparseVD()})
    with pytest.warns(UserWarning, match=r"'head.\*' matches 'head.weight', which is tied to 'embed.weight'"):
        bnet = bp.BayesianNet(Decoder(), {"head.*": bp.Gaussian()})
    assert list(bnet.methods) == ["head.bias"]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        bnet = bp.BayesianNet(Decoder(), {"head.*": bp.Gaussian(), "embed.*": bp.SparseVD()})
    assert list(bnet.methods) == ["embed.weight", "head.bias"]
