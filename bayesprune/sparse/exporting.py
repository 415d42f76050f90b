"""``export``: a net with its weights packed by a plan and what follows them fused."""

import warnings
from collections.abc import Mapping
from functools import partial

from torch import Tensor, nn

from bayesprune._copies import on_its_own
from bayesprune._turns import in_turn
from bayesprune.sparse import compact as compacting  # a lazy door: scipy and torch.export stand behind it
from bayesprune.sparse.checks import check_net, check_variances, run_example
from bayesprune.sparse.formats import Format
from bayesprune.sparse.formats.quantised import Bits
from bayesprune.sparse.layers.conv import SparseConv2d, channels_last
from bayesprune.sparse.layers.variances import carry_variances
from bayesprune.sparse.planning.compared import packed_and_compared
from bayesprune.sparse.planning.plan import Plan
from bayesprune.sparse.planning.planner import forced_formats, left_bits, left_formats, make_plan
from bayesprune.sparse.surgery.fuse import fuse
from bayesprune.sparse.surgery.masked import masked_copy
from bayesprune.sparse.surgery.reference import Reference
from bayesprune.sparse.surgery.strides import make_contiguous

__all__ = ["export"]


@in_turn
def export(
    net: nn.Module,
    means: Mapping[str, Tensor],
    masks: Mapping[str, Tensor],
    *,
    example: object,
    plan: Plan | None = None,
    formats: Mapping[str, Format] | None = None,
    cached: bool = True,
    compact: bool = False,
    bits: Bits = None,
    variances: Mapping[str, Tensor] | None = None,
) -> nn.Module:
    """A copy of ``net`` in eval mode that computes with ``means * masks``, packed where that is faster.

    ``nn.MultiheadAttention``, ``nn.RNN``, ``nn.GRU`` and ``nn.LSTM``, which read their weights themselves, are opened
    into layers where that is faster as a whole; torch's encoders then have no fast path that would pass over them.
    A batch normalisation, a ReLU, GELU or SiLU (torch's transformer layers' included) that alone takes the result of a
    packed layer is worked out in it, and an ``nn.Identity`` takes its place: training what was exported goes on without
    batch statistics. What cannot run packed (the plan says which, and why) stays masked dense in its own module;
    fine-tuning such a weight fills its zeros again. What becomes of NaN and infinity in an input is in
    docs/kernels.md.

    The packed net is then held against the masked dense one, which runs beside it on the example, on noise of its shape
    and on another batch size, as far as it takes these, with the same random draws; in eval mode. Weights that make its
    results others stay masked dense, with a warning: a forward may ask for a layer's class, which a packed one has not.
    That costs about three forward passes of the dense net, and what it takes to compile kernels for another batch size.

    Args:
        net: the dense net; it is copied and not touched.
        means: values of parameters and buffers by their names; what is missing comes from ``net``.
        masks: bool, True where a weight stays, in each weight's own shape.
        example: an input batch, or a tuple or dict of arguments, for timing.
        plan: made before by :func:`bayesprune.sparse.planning.planner`; without it one is made.
        formats: a format by glob over names of weights or modules; one that is slower than dense warns.
        cached: False measures anew what was measured before; see :func:`bayesprune.sparse.planning.planner`.
        compact: first remove the channels and heads that the masks empty (:func:`bayesprune.sparse.compact`), then pack
            what is left of the masks in the smaller net; ``formats``, ``bits`` and ``variances`` go by the names and
            shapes before, and count for the weights that are still masked there.
        bits: 8 or 4, or how many bits each weight bears; see :func:`bayesprune.sparse.planning.planner`.
        variances: how uncertain each weight is, in its own shape: where integers hold it, scales and rounding make the
            errors least where it is surest. ``bnet.variances()``; without it, or for a weight that it lacks, the
            largest integer stands for the output's largest weight. The net carries them until it is saved, so that
            ``bp.save(…, compress=True)`` need not be given them again.

    Raises:
        ValueError: masks, means, variances, bits, example or plan that do not fit the net; a plan together with
            ``compact`` or ``bits``; a net that ``compact`` cannot follow, that cannot be copied, or whose parameters
            overlap in memory.

    Warns:
        UserWarning: a weight stays masked dense, or an activation where it is, for the results would be others; a net
            that gives other results from run to run, with the same seed, which cannot be compared.

    >>> import torch
    >>> net = nn.Sequential(nn.Linear(8, 4), nn.ReLU(), nn.Linear(4, 2))
    >>> masks = {"0.weight": torch.eye(4, 8, dtype=torch.bool)}
    >>> export(net, {}, masks, example=torch.ones(3, 8)).training
    False
    """
    check_net(net)
    if variances is not None:
        check_variances(net, variances)
    if plan is not None and bits is not None:
        raise ValueError("the plan has its bits already: make it with bits, or leave plan out")
    if compact:
        if plan is not None:
            raise ValueError(
                "a plan is for the net as it was before compact: leave plan out, or give export the net and masks of "
                "bayesprune.compact, and the plan made for these"
            )
        smaller = compacting.compact(net, means, masks, example=example)
        now = {name: smaller.now(name) for name in masks}
        formats, bits = left_formats(formats, now, smaller.masks), left_bits(bits, now, smaller.masks)
        net, means, masks, variances = smaller.net, {}, smaller.masks, smaller.cut(variances or {})
    masked = masked_copy(net, means, masks)
    again = partial(masked_copy, net, means, masks)
    if plan is not None and not isinstance(plan, Plan):
        raise ValueError(f"plan is what bayesprune.plan made, got {type(plan).__name__}")
    with on_its_own(net):
        plan = _planned(masked, masks, example, plan, formats, cached, bits)
        if all(choice.format.is_dense for choice in plan.choices.values()):
            run_example(masked, example)
            carry_variances(masked, variances or {})
            return masked
        first = [masked]  # held by nothing else, so that it goes once it is packed
        del masked

        def finish(net: nn.Module) -> None:
            fuse(net, example, unchecked=True)
            if any(isinstance(module, SparseConv2d) for module in net.modules()):
                channels_last(net)

        packed = packed_and_compared(
            lambda: first.pop() if first else again(), plan.choices, masks, example, variances, finish
        )
    made, reference = packed.net, packed.reference
    carry_variances(made, {name: x for name, x in (variances or {}).items() if name not in packed.names})
    if not packed.finished:
        fuse(made, example, reference)
        _lay_out(made, reference, example)
    if reference.differs_on_fast_paths(made):
        warnings.warn(
            "torch's encoder gives zeros where the input is padding, in eval mode and without gradients; with packed "
            "weights it gives what it gives in training: leave padding out of what is pooled after it",
            stacklevel=2,
        )
    if reference.unsteady:
        warnings.warn(
            f"two runs of the net itself differ on {' and '.join(dict.fromkeys(reference.unsteady))}, with the same "
            "seed: what was packed could be compared in its shapes alone",
            stacklevel=2,
        )
    return made


def _planned(
    masked: nn.Module,
    masks: Mapping[str, Tensor],
    example: object,
    plan: Plan | None,
    formats: Mapping[str, Format] | None,
    cached: bool,
    bits: Bits,
) -> Plan:
    """The plan that was given, with what ``formats`` ask for; or one that is made."""
    if plan is None:
        return make_plan(masked, masks, example, formats, cached, bits)
    plan.check(masked, masks)
    forced = forced_formats(masks, formats)
    if not forced:
        return plan
    other = make_plan(masked, {name: masks[name] for name in forced}, example, formats, cached)
    return Plan({**plan.choices, **other.choices}, plan.device, plan.threads)


def _lay_out(net: nn.Module, reference: Reference, example: object) -> None:
    """Make the dense convolutions beside packed ones channels-last too, in place, where that changes no result.

    What packed convolutions hand on is so: others would turn it round, and it back.
    """
    if not any(isinstance(module, SparseConv2d) for module in net.modules()):
        return
    channels_last(net)
    if reference.why_not(net) is not None or reference.why_not_training(net) is not None:
        channels_last(net, off=True)
        if reference.why_not_training(net) is not None:
            make_contiguous(net, reference.net, example, training=True)
