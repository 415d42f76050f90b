"""Apply a plan: the one place that swaps modules."""

from collections.abc import Mapping

from torch import Tensor, nn

from bayesprune.sparse.choices import Plan
from bayesprune.sparse.formats import Dense, Format, SparseWeight
from bayesprune.sparse.fuse import fuse
from bayesprune.sparse.masked import masked_copy
from bayesprune.sparse.places import packed_layer, weight_matrix
from bayesprune.sparse.plan import forced_formats, make_plan

__all__ = ["export", "swap"]


def swap(
    net: nn.Module, path: str, packed: SparseWeight, kernel: str, trained: bool = True, activation: str = ""
) -> nn.Module:
    """Put a packed layer in the place of the linear layer or convolution ``path``, with its bias and mode.

    In place; returns the net, which is the new layer itself where ``path`` is empty.
    """
    old = net.get_submodule(path)
    new = packed_layer(old, packed, kernel, activation).train(old.training)
    new.values.requires_grad_(trained and new.values.is_floating_point())
    if not path:
        return new
    parent, _, leaf = path.rpartition(".")
    setattr(net.get_submodule(parent), leaf, new)
    return net


def export(
    net: nn.Module,
    means: Mapping[str, Tensor],
    masks: Mapping[str, Tensor],
    *,
    example: object,
    plan: Plan | None = None,
    formats: Mapping[str, Format] | None = None,
) -> nn.Module:
    """A copy of ``net`` in eval mode that computes with ``means * masks``, packed where that is faster.

    A ReLU or GELU right after a packed layer of an ``nn.Sequential`` is worked out in it, and an ``nn.Identity`` takes
    its place. What cannot run packed (the plan says which, and why) stays masked dense in its own module; fine-tuning
    such a weight fills its zeros again. An infinite input meets no masked weight here, where ``inf * 0`` is NaN.

    Args:
        net: the dense net; it is copied and not touched.
        means: values of parameters and buffers by their names; what is missing comes from ``net``.
        masks: bool, True where a weight stays, in each weight's own shape.
        example: an input batch, or a tuple or dict of arguments, for timing.
        plan: made before by :func:`bayesprune.sparse.plan`; without it one is made.
        formats: a format by glob over names of weights or modules; one that is slower than dense warns.

    Raises:
        ValueError: masks, means, example or plan that do not fit the net.

    >>> import torch
    >>> net = nn.Sequential(nn.Linear(8, 4), nn.ReLU(), nn.Linear(4, 2))
    >>> masks = {"0.weight": torch.eye(4, 8, dtype=torch.bool)}
    >>> export(net, {}, masks, example=torch.ones(3, 8)).training
    False
    """
    masked = masked_copy(net, means, masks)
    if plan is None:
        plan = make_plan(masked, masks, example, formats)
    else:
        plan.check(masked, masks)
        forced = forced_formats(masks, formats)
        if forced:
            again = make_plan(masked, {name: masks[name] for name in forced}, example, formats)
            plan = Plan({**plan.choices, **again.choices}, plan.device, plan.threads)
    for name, choice in plan.choices.items():
        if not isinstance(choice.format, Dense):
            weight = masked.get_parameter(name)
            kept = weight_matrix(masked, name, masks[name].to(weight.device))
            packed = choice.format.pack(weight_matrix(masked, name, weight.detach()), kept)
            masked = swap(masked, name.rpartition(".")[0], packed, choice.kernel, weight.requires_grad)
    fuse(masked, example)
    return masked
