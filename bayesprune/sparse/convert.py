"""Apply a plan: the net with its weights packed, its activations fused."""

from collections.abc import Mapping

from torch import Tensor, nn

from bayesprune.sparse.apply import apply
from bayesprune.sparse.choices import Plan
from bayesprune.sparse.conv import SparseConv2d, channels_last
from bayesprune.sparse.formats import Dense, Format
from bayesprune.sparse.fuse import fuse
from bayesprune.sparse.masked import masked_copy
from bayesprune.sparse.plan import forced_formats, make_plan
from bayesprune.sparse.wholes import calls_on

__all__ = ["export"]


def export(
    net: nn.Module,
    means: Mapping[str, Tensor],
    masks: Mapping[str, Tensor],
    *,
    example: object,
    plan: Plan | None = None,
    formats: Mapping[str, Format] | None = None,
    cached: bool = True,
) -> nn.Module:
    """A copy of ``net`` in eval mode that computes with ``means * masks``, packed where that is faster.

    ``nn.MultiheadAttention``, ``nn.RNN``, ``nn.GRU`` and ``nn.LSTM``, which read their weights themselves, are opened
    into layers where that is faster as a whole; torch's encoders then have no fast path that would pass over them.
    A batch normalisation, a ReLU or a GELU (torch's transformer layers' included) that alone takes the result of a
    packed layer is worked out in it, and an ``nn.Identity`` takes its place: training what was exported goes on without
    batch statistics. What cannot run packed (the plan says which, and why) stays masked dense in its own module;
    fine-tuning such a weight fills its zeros again. An infinite input meets no masked weight here, where ``inf * 0`` is
    NaN.

    Args:
        net: the dense net; it is copied and not touched.
        means: values of parameters and buffers by their names; what is missing comes from ``net``.
        masks: bool, True where a weight stays, in each weight's own shape.
        example: an input batch, or a tuple or dict of arguments, for timing.
        plan: made before by :func:`bayesprune.sparse.plan`; without it one is made.
        formats: a format by glob over names of weights or modules; one that is slower than dense warns.
        cached: False measures anew what was measured before; see :func:`bayesprune.sparse.plan`.

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
        plan = make_plan(masked, masks, example, formats, cached)
    else:
        plan.check(masked, masks)
        forced = forced_formats(masks, formats)
        if forced:
            again = make_plan(masked, {name: masks[name] for name in forced}, example, formats, cached)
            plan = Plan({**plan.choices, **again.choices}, plan.device, plan.threads)
    packed = [name for name, choice in plan.choices.items() if not isinstance(choice.format, Dense)]
    masked = apply(masked, plan.choices, masks, calls_on(masked, example, packed))
    fuse(masked, example)
    if any(isinstance(module, SparseConv2d) for module in masked.modules()):
        channels_last(masked)  # what packed convolutions hand on is so: others would turn it round, and it back
    return masked
