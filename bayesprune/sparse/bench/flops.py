"""FLOPs of one call of a net."""

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode, sdpa_flop_count

from bayesprune.sparse.checks import run_example, without_fast_paths

__all__ = ["flops"]


def _attention(query: torch.Size, key: torch.Size, value: torch.Size, *_args: object, **_kwargs: object) -> int:
    return sdpa_flop_count(query, key, value)


_MORE = {torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: _attention}  # torch's table has the GPU's alone


def flops(net: nn.Module, example: object) -> int:
    """Floating-point operations of the products in one call: of layers, convolutions and attention, two a multiply-add.

    As ``torch.utils.flop_counter`` counts, which knows torch's own products: of a net that is packed it counts the
    layers that are not. torch's fast paths, which it does not see into, are off meanwhile. A causal mask saves nothing.

    Args:
        net: called in eval mode.
        example: an input batch, or a tuple or dict of arguments.

    Raises:
        ValueError: the net cannot run on the example.

    >>> flops(nn.Linear(100, 10), torch.ones(3, 100))
    6000
    """
    training = {module: module.training for module in net.modules()}
    counter = FlopCounterMode(display=False, custom_mapping=_MORE)
    try:
        net.eval()
        with without_fast_paths(), counter:
            run_example(net, example)
    finally:
        for module, mode in training.items():
            module.training = mode
    return counter.get_total_flops()
