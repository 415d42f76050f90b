"""ResNeXt, RegNet, RetinaNet's heads, YOLO's blocks and WaveNet: half the rows of one stream or branch empty."""

from collections.abc import Callable
from functools import partial

import pytest
import torch
from support.compact_nets import more_architectures as more
from support.exactly import exact, vivid, without
from torch import nn

# By net: how it is made, one input's shape, and the weights whose rows go, by the size of their groups.
NETS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...], dict[str, int]]] = {
    "ResNeXt": (partial(more.resnext, width=8, groups=2), (3, 8, 8), {"3.conv1": 4, "4.conv1": 4, "6.conv1": 8}),
    "RegNet": (partial(more.regnet, width=16, group_width=8), (3, 8, 8), {"3.conv1": 8, "4.squeeze": 4, "5.conv1": 8}),
    "heads of RetinaNet": (partial(more.Pyramid, 8, 2, 3), (3, 32, 32), {"classes.0": 8, "boxes.4": 8}),
    "C2f": (partial(more.yolo, width=8), (3, 16, 16), {"3.cv1": 8, "3.m.0": 8, "3.m.1": 8, "6.cv2": 16}),
    "WaveNet": (partial(more.WaveNet, 8, 8, 3, 5), (1, 20), {"gates.0": 8, "gates.2": 8, "out.1": 8}),
}


@pytest.mark.parametrize("name", NETS)
def test_results_stay_and_channels_go(name: str) -> None:
    make, shape, weights = NETS[name]
    net = vivid(make().eval())
    rows = {weight: len(net.get_parameter(f"{weight}.weight")) for weight in weights}
    gone = {weight: [i for i in range(rows[weight]) if i % group < group // 2] for weight, group in weights.items()}
    masks = without(net, **{f"{weight}.weight".replace(".", "__"): places for weight, places in gone.items()})
    small = exact(net, masks, torch.randn(2, *shape).double(), torch.randn(1, *shape).double())
    for weight, places in gone.items():
        left = len(small.net.get_parameter(f"{weight}.weight"))
        assert left <= rows[weight] - len(places) + rows[weight] // weights[weight], weight
