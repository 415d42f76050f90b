"""Layouts: which axis of a weight counts outputs, inputs and kernel positions, as torch's own modules use them."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from bayesprune.layout import HeadAxis, Layout, layout_of


class Conv1D(nn.Module):
    """Hugging Face's linear layer of GPT-2: its weight is (inputs, outputs)."""

    def __init__(self, nf: int, nx: int) -> None:
        super().__init__()
        self.nf = nf
        self.weight = nn.Parameter(torch.randn(nx, nf))
        self.bias = nn.Parameter(torch.randn(nf))

    def forward(self, x: Tensor) -> Tensor:
        return torch.addmm(self.bias, x, self.weight)


# name -> (module, input channels, spatial size of an input, expected roles)
MODULES: dict[str, tuple[Callable[[], nn.Module], int, tuple[int, ...], tuple[int, int, int, int]]] = {
    "linear": (lambda: nn.Linear(5, 3), 5, (), (1, 3, 5, 1)),
    "conv1d": (lambda: nn.Conv1d(3, 4, 2), 3, (5,), (1, 4, 3, 2)),
    "conv2d": (lambda: nn.Conv2d(2, 3, (2, 3)), 2, (4, 5), (1, 3, 2, 6)),
    "conv3d": (lambda: nn.Conv3d(2, 3, (2, 1, 2)), 2, (3, 2, 3), (1, 3, 2, 4)),
    "grouped conv2d": (lambda: nn.Conv2d(6, 4, 2, groups=2), 6, (3, 3), (2, 2, 3, 4)),
    "depthwise conv2d": (lambda: nn.Conv2d(3, 6, 2, groups=3), 3, (3, 3), (3, 2, 1, 4)),
    "conv_transpose1d": (lambda: nn.ConvTranspose1d(3, 4, 2), 3, (3,), (1, 4, 3, 2)),
    "conv_transpose2d": (lambda: nn.ConvTranspose2d(2, 3, 2, stride=2), 2, (3, 3), (1, 3, 2, 4)),
    "conv_transpose3d": (lambda: nn.ConvTranspose3d(2, 3, (1, 2, 2)), 2, (2, 2, 2), (1, 3, 2, 4)),
    "grouped conv_transpose2d": (lambda: nn.ConvTranspose2d(6, 4, 2, groups=2), 6, (3, 3), (2, 2, 3, 4)),
    "depthwise conv_transpose1d": (lambda: nn.ConvTranspose1d(3, 6, 2, groups=3), 3, (4,), (3, 2, 1, 2)),
    "Hugging Face Conv1D": (lambda: Conv1D(4, 6), 6, (), (1, 4, 6, 1)),
}


def wired(module: nn.Module, inputs: int, spatial: tuple[int, ...], entry: int) -> tuple[int, int]:
    """The output and input channel that one entry of ``module.weight`` connects, found by running the module."""
    with torch.no_grad():
        module.bias.zero_()
        module.weight.zero_().view(-1)[entry] = 1.0
    x = torch.ones(1, inputs, *spatial, requires_grad=True)
    y = module(x)
    (slope,) = torch.autograd.grad(y.sum(), x)
    outs = y.detach().transpose(0, 1).flatten(1).abs().sum(1).nonzero()
    intos = slope.transpose(0, 1).flatten(1).abs().sum(1).nonzero()
    return int(outs), int(intos)


@pytest.mark.parametrize("name", MODULES)
def test_matrix_puts_each_entry_at_the_channels_it_connects_in_the_module(name):
    make, inputs, spatial, roles = MODULES[name]
    module = make()
    layout = layout_of(module, "weight")
    assert layout.roles == roles
    groups, out, into, positions = roles
    where = layout.matrix(torch.arange(module.weight.numel()).reshape(module.weight.shape))
    for g in range(groups):
        for o in range(out):
            for i in range(into):
                for k in {0, positions - 1}:
                    assert wired(module, inputs, spatial, int(where[g, o, i, k])) == (g * out + o, g * into + i)


@pytest.mark.parametrize("name", MODULES)
def test_matrix_keeps_kernel_positions_in_the_kernels_own_order(name):
    layout = layout_of(MODULES[name][0](), "weight")
    kernel = torch.arange(layout.roles[3]).reshape(layout.kernel)
    m = layout.matrix(kernel.expand(layout.shape))
    assert torch.equal(m, torch.arange(layout.roles[3]).expand(layout.roles))


@pytest.mark.parametrize("name", MODULES)
def test_unmatrix_inverts_matrix(name):
    layout = layout_of(MODULES[name][0](), "weight")
    x = torch.randn(layout.shape)
    assert torch.equal(layout.unmatrix(layout.matrix(x)), x)


@pytest.mark.parametrize("name", MODULES)
def test_a_bias_has_outputs_only(name):
    module = MODULES[name][0]()
    assert layout_of(module, "bias").roles == (1, len(module.bias), 1, 1)


def test_a_scalar_is_one_output():
    assert Layout(()).roles == (1, 1, 1, 1)
    assert Layout(()).matrix(torch.tensor(3.0)).shape == (1, 1, 1, 1)


def test_a_module_that_is_merely_called_conv1d_is_not_taken_for_hugging_faces():
    other = type("Conv1D", (nn.Linear,), {})(3, 2)
    assert not layout_of(other, "weight").transposed


def test_attention_says_where_its_heads_lie():
    net = nn.Sequential(nn.TransformerEncoderLayer(8, 2, 16), nn.MultiheadAttention(8, 2, kdim=6, vdim=5))
    assert layout_of(net, "0.self_attn.in_proj_weight") == Layout(
        (24, 8), heads=HeadAxis("out", 3), coupling="0.self_attn"
    )
    assert layout_of(net, "0.self_attn.in_proj_bias") == Layout((24,), heads=HeadAxis("out", 3), coupling="0.self_attn")
    assert layout_of(net, "0.self_attn.out_proj.weight") == Layout((8, 8), heads=HeadAxis("in"), coupling="0.self_attn")
    for leaf, width in {"q_proj_weight": 8, "k_proj_weight": 6, "v_proj_weight": 5}.items():
        assert layout_of(net, f"1.{leaf}") == Layout((8, width), heads=HeadAxis("out"), coupling="1")
    assert layout_of(net, "0.linear1.weight") == Layout((16, 8))
    assert layout_of(net, "0.norm1.weight") == Layout((8,))


def test_two_attentions_have_two_fates_and_a_bare_one_has_one():
    encoder = nn.TransformerEncoder(nn.TransformerEncoderLayer(8, 2, 16), 2, enable_nested_tensor=False)
    couplings = {
        layout_of(encoder, n).coupling
        for n, _ in encoder.named_parameters()
        if "self_attn" in n and "out_proj.b" not in n
    }
    assert couplings == {"layers.0.self_attn", "layers.1.self_attn"}
    bare = nn.MultiheadAttention(8, 2)
    assert layout_of(bare, "in_proj_weight").coupling == layout_of(bare, "out_proj.weight").coupling != ""


def test_an_unknown_parameter_is_an_attribute_error():
    with pytest.raises(AttributeError, match="gamma"):
        layout_of(nn.Linear(2, 2), "gamma")


def test_a_layout_that_cannot_be_names_its_shape():
    with pytest.raises(ValueError, match=r"groups=3 .*\(4, 2\)"):
        Layout((4, 2), groups=3)
    with pytest.raises(ValueError, match=r"two axes.*\(4,\)"):
        Layout((4,), transposed=True)
    with pytest.raises(ValueError, match=r"\(4, 2\).*\(2, 4\)"):
        Layout((4, 2)).matrix(torch.zeros(2, 4))
