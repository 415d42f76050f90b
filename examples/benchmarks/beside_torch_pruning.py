"""FLOPs that `bp.compact` takes where Torch-Pruning takes the same channels.

    pip install torch-pruning
    python examples/benchmarks/beside_torch_pruning.py

Torch-Pruning (Fang et al., 2023, arXiv:2301.12900) chooses channels at random, group by group, and removes them. The
rows of the weights that write them, and nothing else, are then masked in the same net, and `compact` makes it smaller.
Torch-Pruning drops what those channels held; compact gives the masked net's results, and keeps what that takes: a
channel that stands in for constants where zeros of a padding come between.
"""

import argparse
import copy
from collections.abc import Callable, Mapping
from functools import partial
from types import MappingProxyType

import architectures
import more_architectures
import torch
from compact import as_trained
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

from bayesprune import nets
from bayesprune.sparse.bench.flops import flops
from bayesprune.sparse.compact import compact

NETS: Mapping[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = MappingProxyType(
    {
        "ResNet-18": (nets.resnet18, (3, 32, 32)),
        "VGG-like": (nets.vgg_like, (3, 32, 32)),
        "MobileNetV2 and ResNeXt blocks": (partial(architectures.mobile_resnext, width=64, groups=8), (3, 32, 32)),
        "DenseNet": (partial(architectures.densenet, growth=32, layers=(4, 4, 4)), (3, 32, 32)),
        "ResNeXt": (more_architectures.resnext, (3, 32, 32)),
        "RegNetY": (more_architectures.regnet, (3, 32, 32)),
        "RetinaNet heads, three levels": (more_architectures.Pyramid, (3, 64, 64)),
        "YOLOv8's C2f": (more_architectures.yolo, (3, 64, 64)),
        "WaveNet": (more_architectures.WaveNet, (1, 256)),
    }
)


def taken(net: nn.Module, x: Tensor, gone: float) -> tuple[nn.Module, dict[str, Tensor]]:
    """What Torch-Pruning leaves of ``net``, and masks that empty the rows of the weights that wrote what went."""
    import torch_pruning  # an optional package

    small = copy.deepcopy(net)
    paths = {module: path for path, module in small.named_modules()}
    graph = torch_pruning.DependencyGraph().build_dependency(small, example_inputs=x)
    layers = (nn.Conv1d, nn.Conv2d, nn.Linear)
    heads = [m for m in small.modules() if isinstance(m, layers) and _gives_out(small, m, x)]
    pruner = torch_pruning.pruner.MetaPruner(
        small,
        x,
        importance=torch_pruning.importance.RandomImportance(),
        pruning_ratio=gone,
        ignored_layers=heads,
        root_module_types=list(layers),
    )
    masks: dict[str, Tensor] = {}
    for group in pruner.step(interactive=True):
        for dependency, indices in group:
            module = dependency.target.module
            if isinstance(module, layers) and graph.is_out_channel_pruning_fn(dependency.handler):
                name = f"{paths[module]}.weight"
                weight = net.get_parameter(name)
                mask = masks.setdefault(name, torch.ones(weight.shape, dtype=torch.bool))
                mask[list(indices)] = False
        group.prune()
    return small, masks


def _gives_out(net: nn.Module, layer: nn.Module, x: Tensor) -> bool:
    """Whether the net's results are those of ``layer``, whose number of outputs has to stay."""
    made: list[object] = []
    handle = layer.register_forward_hook(lambda _module, _args, y: made.append(y))
    with torch.no_grad():
        results = net(x)
    handle.remove()
    return any(y is one for y in made for one in (results if isinstance(results, list) else [results]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--net", action="append", choices=list(NETS), help="one of the nets; may be given again")
    parser.add_argument("--gone", type=float, default=0.5, help="share of the channels")
    args = parser.parse_args()
    table = Table(title=f"{args.gone:.0%} of the channels gone")
    for heading in ("net", "GFLOP", "Torch-Pruning", "compact", "FLOPs gone, of Torch-Pruning's"):
        table.add_column(heading)
    for name in args.net or NETS:
        torch.manual_seed(0)
        make, shape = NETS[name]
        net, x = as_trained(make()), torch.randn(1, *shape)
        theirs, masks = taken(net, x, args.gone)
        ours = compact(net, {}, masks, example=x).net
        before, our = flops(net, x), flops(ours, x)
        try:
            their = flops(theirs, x)
        except ValueError:  # it leaves sizes that a forward holds in integers as they were
            told = "does not run", "–"
        else:
            told = f"{their / 1e9:.3f}", f"{(before - our) / (before - their):.3f}"
        table.add_row(name, f"{before / 1e9:.3f}", told[0], f"{our / 1e9:.3f}", told[1])
    Console(width=120).print(table)


if __name__ == "__main__":
    main()
