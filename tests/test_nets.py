"""The reference nets: published parameter counts, shapes, gradients, copies and refused arguments."""

import copy
from collections.abc import Callable

import pytest
import torch
from torch import nn

from bayesprune.nets import BasicBlock, lenet_5_caffe, lenet_300_100, mlp, resnet18, vgg_like, vit

# name -> (constructor, shape of one input, number of outputs)
NETS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...], int]] = {
    "mlp": (lambda: mlp(6, (7, 5), 2), (6,), 2),
    "linear": (lambda: mlp(6, (), 1), (6,), 1),
    "lenet_300_100": (lenet_300_100, (1, 28, 28), 10),
    "lenet_300_100 digits": (lambda: lenet_300_100(inputs=64), (1, 8, 8), 10),
    "lenet_5_caffe": (lambda: lenet_5_caffe(classes=7), (1, 28, 28), 7),
    "vgg_like": (lambda: vgg_like(classes=3, width=0.125), (3, 32, 32), 3),
    "resnet18": (lambda: resnet18(classes=4, width=8), (3, 32, 32), 4),
    "vit": (lambda: vit(dim=16, depth=2, heads=4, classes=5), (3, 32, 32), 5),
    "vit grey": (lambda: vit(image=8, patch=2, channels=1, dim=12, depth=1, heads=3), (1, 8, 8), 10),
}
every_net = pytest.mark.parametrize("name", NETS)


def count(net: nn.Module) -> int:
    return sum(p.numel() for p in net.parameters())


def build(name: str) -> tuple[nn.Module, torch.Tensor, int]:
    torch.manual_seed(0)
    make, shape, outputs = NETS[name]
    return make().eval(), torch.randn(3, *shape), outputs


@pytest.mark.parametrize(
    ("make", "published"),
    [
        (lambda: mlp(6, (50,), 1), 6 * 50 + 50 + 50 + 1),
        (lenet_300_100, 266_610),
        (lenet_5_caffe, 431_080),
        # VGG-16's convolutions, 14,714,688, two numbers for each of 4,224 + 512 normalised channels, fc1 and fc2
        (vgg_like, 14_714_688 + 2 * (4_224 + 512) + 512 * 513 + 513 * 10),
        (resnet18, 11_173_962),
        (lambda: vit(224, 16, 3, 768, 12, 12, 1000), 86_567_656),  # ViT-B/16
        (lambda: vit(224, 16, 3, 192, 12, 3, 1000), 5_717_416),  # ViT-Ti/16
    ],
    ids=["mlp", "lenet_300_100", "lenet_5_caffe", "vgg_like", "resnet18", "vit-b", "vit-ti"],
)
def test_parameter_count(make: Callable[[], nn.Module], published: int) -> None:
    with torch.device("meta"):
        assert count(make()) == published


@every_net
def test_output_shape_and_determinism(name: str) -> None:
    net, x, outputs = build(name)
    y = net(x)
    assert y.shape == (3, outputs)
    assert torch.equal(net(x), y)
    assert torch.equal(net.train()(x), net(x)), "a reference net holds no dropout"


@every_net
def test_gradient_reaches_every_parameter(name: str) -> None:
    net, x, _ = build(name)  # eval(): in training a bias before batch normalisation has no gradient
    net(x).pow(2).sum().backward()
    without = [key for key, p in net.named_parameters() if p.grad is None or not p.grad.abs().max() > 0]
    assert without == []


@every_net
def test_every_input_matters(name: str) -> None:
    net, x, _ = build(name)
    x.requires_grad_()
    net(x).pow(2).sum().backward()
    assert (x.grad != 0).float().mean() > 0.9


@every_net
def test_deepcopy_is_independent(name: str) -> None:
    net, x, _ = build(name)
    twin = copy.deepcopy(net)
    before = net(x)
    assert torch.equal(twin(x), before)
    with torch.no_grad():
        for p in twin.parameters():
            p.zero_()
    assert torch.equal(net(x), before)
    assert not torch.equal(twin(x), before)


@every_net
def test_state_dict_round_trip(name: str) -> None:
    net, x, _ = build(name)
    other = NETS[name][0]().eval()
    assert not torch.equal(other(x), net(x)), "every call draws fresh weights"
    other.load_state_dict(net.state_dict())
    assert torch.equal(other(x), net(x))


@pytest.mark.parametrize("name", ["mlp", "lenet_300_100", "lenet_5_caffe", "vgg_like"])
def test_sequential_nets_hold_torch_layers_alone(name: str) -> None:
    net, _, _ = build(name)
    assert type(net) is nn.Sequential
    for key, layer in net.named_children():
        assert not key.isdigit()
        assert type(layer).__module__.startswith("torch.nn.modules")
        assert not list(layer.children())


def test_lenet_layers_are_in_the_stated_order() -> None:
    dense = ["flatten", "fc1", "relu1", "fc2", "relu2", "fc3"]
    assert [key for key, _ in lenet_300_100().named_children()] == dense
    conv = ["conv1", "relu1", "pool1", "conv2", "relu2", "pool2", "flatten", "fc1", "relu3", "fc2"]
    assert [key for key, _ in lenet_5_caffe().named_children()] == conv


def test_mlp_agrees_with_the_formula() -> None:
    net, x, _ = build("mlp")
    s = net.state_dict()
    h = (x @ s["fc1.weight"].T + s["fc1.bias"]).clamp(min=0)
    h = (h @ s["fc2.weight"].T + s["fc2.bias"]).clamp(min=0)
    torch.testing.assert_close(net(x), h @ s["fc3.weight"].T + s["fc3.bias"])


def test_basic_block_with_a_zero_residual_is_its_shortcut() -> None:
    block = BasicBlock(4, 4).eval()
    nn.init.zeros_(block.bn2.weight)
    x = torch.randn(2, 4, 6, 6)
    torch.testing.assert_close(block(x), x.clamp(min=0))


def test_vit_sees_positions_and_agrees_without_grad() -> None:
    net, x, _ = build("vit")
    moved = x.roll(4, dims=3)  # whole patches trade places
    assert not torch.allclose(net(x), net(moved))
    with torch.no_grad():  # where torch may take its fused attention
        fused = net(x)
    torch.testing.assert_close(fused, net(x).detach(), rtol=1e-4, atol=1e-5)
    with torch.no_grad():
        net.positions.zero_()
        torch.testing.assert_close(net(x), net(moved), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: mlp(0, (5,), 1), "inputs=0"),
        (lambda: mlp(3, (5, 0), 1), r"hidden\[1\]=0"),
        (lambda: mlp(3, (5,), -1), "outputs=-1"),
        (lambda: lenet_300_100(inputs=0), "inputs=0"),
        (lambda: lenet_5_caffe(classes=0), "classes=0"),
        (lambda: vgg_like(width=0.0), "width=0"),
        (lambda: vgg_like(width=0.01), "width=0.01"),
        (lambda: vgg_like(classes=0), "classes=0"),
        (lambda: resnet18(width=0), "width=0"),
        (lambda: vit(dim=10, heads=3), "dim=10, heads=3"),
        (lambda: vit(image=30, patch=4), "image=30, patch=4"),
        (lambda: vit(depth=0), "depth=0"),
        (lambda: vit(heads=0), "heads=0"),
        (lambda: vit(patch=0), "patch=0"),
    ],
)
def test_bad_sizes_are_refused(make: Callable[[], nn.Module], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        make()
