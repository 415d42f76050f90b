"""Small nets in which channels can go, each with an example, and masks that empty some of them."""

import copy
import sys
from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn

import bayesprune as bp
from bayesprune import nets
from bayesprune.layout import layout_of
from bayesprune.patterns import Pattern
from bayesprune.sparse.checks import call
from support.paths import ROOT

__all__ = [
    "MASKS",
    "NETS",
    "architectures",
    "blocks",
    "call",
    "heads",
    "inputs",
    "masked",
    "mixture",
    "more_architectures",
    "outputs",
    "scrambled",
    "spread",
]

sys.path.append(str(ROOT / "examples" / "benchmarks"))
import architectures
import more_architectures


def scrambled(net: nn.Module) -> nn.Module:
    """``net`` in eval mode with values as after training: no bias, statistic or embedding is 0 or 1 any more."""
    with torch.no_grad():
        for module in net.modules():
            if isinstance(module, nn.modules.batchnorm._BatchNorm):
                module.running_mean.normal_(0, 0.3)
                module.running_var.uniform_(0.5, 1.5)
        for parameter in net.parameters():
            if parameter.dim() == 1:
                parameter.add_(0.3 * torch.randn_like(parameter))
    return net.eval()


def images(side: int = 32) -> Tensor:
    return torch.randn(2, 3, side, side)


def encoder_call() -> dict[str, Tensor]:
    """Tokens with a causal mask and padding."""
    padding = torch.zeros(2, 6, dtype=torch.bool)
    padding[1, 4:] = True
    causal = torch.ones(6, 6, dtype=torch.bool).triu(1)
    return {"src": torch.randn(2, 6, 24), "mask": causal, "src_key_padding_mask": padding}


NETS: Mapping[str, Callable[[], tuple[nn.Module, object]]] = {
    "lenet-300-100": lambda: (nets.mlp(64, (30, 20), 10), torch.randn(3, 64)),
    "lenet-5": lambda: (nets.lenet_5_caffe(), torch.randn(2, 1, 28, 28)),
    "resnet18": lambda: (nets.resnet18(width=8), images()),
    "resnet18 7×7": lambda: (architectures.resnet18_imagenet(classes=10, width=8), images(64)),
    "vgg": lambda: (nets.vgg_like(width=0.125), images()),
    "mobile and resnext": lambda: (architectures.mobile_resnext(width=8, groups=4), images(16)),
    "densenet": lambda: (architectures.densenet(growth=4, layers=(2, 2)), images(16)),
    "vit": lambda: (nets.vit(image=16, dim=24, depth=2, heads=4), images(16)),
    "own vit": lambda: (architectures.OwnViT(16, 4, 24, 2, 4, 10), images(16)),
    "encoder, norm first": lambda: (architectures.encoder(24, 4, 2), encoder_call()),
    "encoder, norm last": lambda: (architectures.encoder(24, 4, 2, norm_first=False), encoder_call()),
}


def spread(net: nn.Module, name: str, pattern: Pattern, keep: float) -> Tensor:
    """A mask of the weight ``name`` that keeps its groups at random, at least one of them."""
    layout = layout_of(net, name)
    groups = torch.rand(pattern.groups(layout)) < keep
    groups.view(-1)[torch.randint(groups.numel(), ())] = True
    return pattern.expand(groups, layout).clone()


def matrices(net: nn.Module) -> list[str]:
    """The weights of its layers and attentions."""
    return [name for name, x in net.named_parameters() if x.dim() > 1 and name.endswith("weight")]


def heads(net: nn.Module, keep: float) -> dict[str, Tensor]:
    """Whole heads gone: in each projection of an attention, by one decision."""
    masks = {}
    for path, module in net.named_modules():
        if isinstance(module, nn.MultiheadAttention):
            into, out, count = f"{path}.in_proj_weight", f"{path}.out_proj.weight", module.num_heads
        elif isinstance(module, architectures.OwnAttention):
            into, out, count = f"{path}.qkv.weight", f"{path}.proj.weight", module.num_heads
        else:
            continue
        kept = torch.rand(count) < keep
        kept[torch.randint(count, ())] = True
        masks[into] = bp.Heads(count, side="out", packed=3).expand(kept, layout_of(net, into)).clone()
        masks[out] = bp.Heads(count, side="in", packed=1).expand(kept, layout_of(net, out)).clone()
    return masks


def outputs(net: nn.Module, keep: float) -> dict[str, Tensor]:
    """Output channels gone, in every layer but the last."""
    return {name: spread(net, name, bp.Channel(0), keep) for name in matrices(net)[:-1]}


def inputs(net: nn.Module, keep: float) -> dict[str, Tensor]:
    """Input channels gone, in every layer but the first."""
    return {name: spread(net, name, bp.Channel(1), keep) for name in matrices(net)[1:]}


def blocks(net: nn.Module, keep: float) -> dict[str, Tensor]:
    """Few blocks kept, so that some channels have none."""
    masks = {}
    for name in matrices(net):
        _, out, into, _ = layout_of(net, name).roles
        masks[name] = spread(net, name, bp.Block(min(4, out), min(4, into)), 0.3 * keep)
    return masks


def mixture(net: nn.Module, keep: float) -> dict[str, Tensor]:
    """A pattern of its own for each weight, none for some, and both axes of others."""
    masks = heads(net, keep)
    for name in matrices(net):
        kind = int(torch.randint(5, ()))
        out = spread(net, name, bp.Channel(0), keep)
        into = spread(net, name, bp.Channel(1), keep)
        more = [out, into, out & into, spread(net, name, bp.Unstructured(), keep), None][kind]
        if more is not None:
            masks[name] = more & masks.get(name, torch.ones_like(more))
    return masks


MASKS: Mapping[str, Callable[[nn.Module, float], dict[str, Tensor]]] = {
    "outputs": outputs,
    "inputs": inputs,
    "heads": heads,
    "blocks": blocks,
    "mixture": mixture,
}


def masked(net: nn.Module, masks: Mapping[str, Tensor]) -> nn.Module:
    """The masked dense net, in eval mode."""
    dense = copy.deepcopy(net).eval()
    with torch.no_grad():
        for name, mask in masks.items():
            dense.get_parameter(name).mul_(mask)
    return dense
