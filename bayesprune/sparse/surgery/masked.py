"""The masked net: pruned entries set to zero, the start of every plan and export."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from bayesprune._copies import copied, recompute
from bayesprune._state_dicts import is_unset, set_buffer, whole
from bayesprune.sparse.checks import all_finite, check_masks, check_means, check_net

__all__ = ["masked_copy"]


def masked_copy(net: nn.Module, means: Mapping[str, Tensor], masks: Mapping[str, Tensor]) -> nn.Module:
    """A copy of ``net`` in eval mode with the means loaded and the masked entries set to zero."""
    means = whole(means)
    check_net(net)
    check_masks(net, masks)
    check_means(net, means)
    masked = copied(net).eval()
    targets: dict[str, Tensor] = dict(masked.named_parameters(remove_duplicate=False))
    targets |= dict(masked.named_buffers(remove_duplicate=False))
    with torch.no_grad():
        for name, mean in means.items():
            became_real = name in targets and mean.is_floating_point() and not targets[name].is_floating_point()
            if became_real or is_unset(masked, name):  # a forward made it so
                set_buffer(masked, name, mean.detach().clone())
            else:
                targets[name].copy_(mean)
        for name, mask in masks.items():
            if not all_finite(targets[name]):
                raise ValueError(f"the weight {name!r} holds NaN or infinity")
            targets[name].masked_fill_(~mask.to(targets[name].device), 0)
    return recompute(masked)
