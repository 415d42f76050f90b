"""``plan``: time what each mask allows on the user's shapes, dense always among it."""

import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from functools import partial

import torch
from torch import Tensor, nn

from bayesprune._names import matching
from bayesprune._turns import in_turn
from bayesprune.sparse.formats import Dense, Format
from bayesprune.sparse.formats.quantised import Bits, held_in
from bayesprune.sparse.layers.composite import parts_of
from bayesprune.sparse.planning.apply import apply, pieces
from bayesprune.sparse.planning.candidates import Piece, formats_of, packed_layers, runner
from bayesprune.sparse.planning.plan import Choice, Plan, Whole, against, mask_hash
from bayesprune.sparse.surgery.comparison import inputs_like
from bayesprune.sparse.surgery.composites import Call, calls_on, composite_of, composites_for, refusals, shell
from bayesprune.sparse.surgery.eligibility import conv_geometry, observe, obstacle
from bayesprune.sparse.surgery.feed_forward import fuse_activation
from bayesprune.sparse.surgery.fuse import followings
from bayesprune.sparse.surgery.masked import masked_copy
from bayesprune.sparse.surgery.strides import make_contiguous
from bayesprune.sparse.surgery.surgery import Surgery
from bayesprune.sparse.timing.cache import named, timed

__all__ = ["forced_formats", "left_bits", "left_formats", "make_plan", "plan"]

_MARGIN = 1.05  # a sparse candidate has to beat dense by this much: less is noise


def _matched(glob: str, names: Iterable[str]) -> list[str]:
    """The weights that a glob, held against their names and their modules', takes."""
    modules = {name: name.rpartition(".")[0] for name in names}
    taken = matching(glob, [*modules, *modules.values()])
    return [name for name, module in modules.items() if name in taken or module in taken]


def forced_formats(names: Mapping[str, object], formats: Mapping[str, Format] | None) -> dict[str, Format]:
    """The format that the first matching glob asks for, by weight. A glob is held against the weight and its module.

    Raises:
        ValueError: a value is no format, or a glob matches no masked weight.

    >>> from bayesprune.sparse import CSR
    >>> forced_formats({"fc1.weight": 0, "fc2.weight": 0}, {"fc1": CSR()})
    {'fc1.weight': CSR()}
    """
    if formats is not None and not isinstance(formats, Mapping):
        raise ValueError(f"formats must be a dict of glob -> format, got {type(formats).__name__}")
    forced: dict[str, Format] = {}
    for glob, wanted in (formats or {}).items():
        if not isinstance(wanted, Format):
            raise ValueError(f"formats[{glob!r}] must be a format such as CSR() or BSR(16, 1), got {wanted!r}")
        matched = _matched(glob, names)
        if not matched:
            raise ValueError(f"formats[{glob!r}] matches no masked weight; they are {', '.join(names) or 'none'}")
        for name in matched:
            forced.setdefault(name, wanted)
    return forced


def left_formats(
    formats: Mapping[str, Format] | None, before: Mapping[str, Iterable[str]], after: Mapping[str, object]
) -> dict[str, Format]:
    """``formats`` for the masked weights ``after`` a net was made smaller.

    Args:
        formats: a format by glob over names as they were, or are now.
        before: the masked weights as they were, and what each is called now.
        after: those that are still masked.

    Raises:
        ValueError: as :func:`forced_formats`, for a glob that matches neither.

    >>> from bayesprune.sparse import CSR
    >>> before = {"fc1.weight": ["fc1.weight"], "in_proj_weight": ["in_proj.weight"]}
    >>> left_formats({"fc*": CSR(), "in_proj_weight": CSR()}, before, {"in_proj.weight": 0})
    {'in_proj.weight': CSR()}
    """
    forced_formats({**before, **after}, formats)
    left: dict[str, Format] = {}
    for glob, wanted in (formats or {}).items():
        renamed = [now for old in _matched(glob, before) for now in before[old] if now in after]
        for name in (glob, *renamed) if _matched(glob, after) else renamed:
            left.setdefault(name, wanted)
    return left


def left_bits(bits: Bits, before: Mapping[str, Iterable[str]], after: Mapping[str, object]) -> Bits:
    """``bits`` for the masked weights ``after`` a net was made smaller; the rest as in :func:`left_formats`.

    Raises:
        ValueError: as :func:`~bayesprune.sparse.formats.quantised.held_in`.

    >>> left_bits({"fc1.weight": 3, "in_proj_weight": 5}, {"in_proj_weight": ["in_proj.weight"]}, {"in_proj.weight": 0})
    Traceback (most recent call last):
    ...
    ValueError: bits name 'fc1.weight', which is no masked weight; they are in_proj_weight, in_proj.weight
    """
    held_in(bits, {**before, **after})
    if not isinstance(bits, Mapping):
        return bits
    return {now: width for name, width in bits.items() for now in before.get(name, (name,)) if now in after}


def _timed_choice(
    name: str,
    parameter: Tensor,
    mask: Tensor,
    made_of: Sequence[Piece],
    forced: Format | None,
    bits: int | None,
    cached: bool,
) -> Choice:
    layers = packed_layers(made_of, forced, bits)
    inputs = [piece.input() for piece in made_of]
    runners = {"dense": runner([piece.layer for piece in made_of], inputs)}
    runners |= {label: runner(packed, inputs) for label, packed in layers.items()}
    with torch.no_grad():
        about = *(piece.layer for piece in made_of), parameter, *inputs, mask
        seconds, day = timed(runners, about=about, device=parameter.device, cached=cached)
    ratios = {label: seconds["dense"] / seconds[label] for label in layers}
    best = max(ratios, key=ratios.__getitem__, default="dense")
    called = made_of[0].called
    image = None if conv_geometry(made_of[0].layer) is None else (called[-2], called[-1])
    chosen = forced is not None or ratios.get(best, 0) >= _MARGIN
    packed = layers.get(best, []) if chosen else []
    choice = Choice(
        name=name,
        shape=tuple(parameter.shape),
        kept=int(mask.count_nonzero()),
        format=packed[0].format if packed else Dense(),
        kernel=packed[0].kernel if packed else "",
        tokens=called[: -1 if image is None else -3].numel(),
        seconds=seconds,
        nbytes=sum(layer.sparse_weight.nbytes for layer in packed) if packed else parameter.nbytes,
        dense_nbytes=parameter.nbytes,
        mask=mask_hash(mask),
        image=image,
        measured=day,
        forced=forced,
        stored=sum(layer.values.numel() for layer in layers.get(best, [])),
    )
    if forced and ratios.get(best, 1) < 1:
        warnings.warn(
            f"{name}: {forced} was asked for and is slower than dense: {seconds[best] * 1e6:.0f} µs against "
            f"{seconds['dense'] * 1e6:.0f} µs {choice.at}",
            stacklevel=5,
        )
    return choice


def _why_dense(made_of: Sequence[Piece], mask: Tensor, forced: Format | None) -> str | None:
    """Why there is nothing to time for a weight that could run packed; None where there is."""
    layer = made_of[0].layer
    if conv_geometry(layer) is not None and forced is not None and not forced.convolves and not forced.is_dense:
        return f"{type(layer).__name__} has no sparse kernel for {type(forced).__name__}"
    refused = filter(None, (forced.refusal(piece.mask) for piece in made_of)) if forced else iter(())
    if (why := next(refused, None)) is not None:
        return why
    if forced is None and bool(mask.all()):
        return "the mask keeps everything"
    if forced is None and conv_geometry(layer) is not None and not formats_of(layer, made_of[0].mask):
        return f"the mask fills no block that {type(layer).__name__} can run packed"
    return None


def _settled(
    net: nn.Module,
    choices: Mapping[str, Choice],
    masks: Mapping[str, Tensor],
    calls: Mapping[str, Call],
    forced: Mapping[str, Format],
    cached: bool,
) -> dict[str, Choice]:
    """``choices`` once each whole that they convert was timed: where it is not faster so, its weights stay dense."""
    settled, wholes = dict(choices), dict[str, dict[str, Choice]]()
    for name, choice in choices.items():
        path = composite_of(net, name, calls)
        if path is not None and not choice.format.is_dense:
            wholes.setdefault(path, {})[name] = choice
    for path, inside in wholes.items():
        call, dense = calls[path], net.get_submodule(path)
        packed = apply(shell(net), inside, masks, calls).get_submodule(path)
        runners = {"dense": partial(dense, *call.args, **call.kwargs)}
        runners["packed"] = partial(packed, *call.args, **call.kwargs)
        with torch.no_grad():
            about = dense, packed, *call.given, *(masks[name] for name in inside)
            device = net.get_parameter(next(iter(inside))).device
            seconds, _ = timed(runners, about=about, device=device, cached=cached)
        whole = Whole(type(dense).__name__, seconds["dense"], seconds["packed"])
        asked = any(name in forced for name in inside)
        if asked and whole.ratio < 1:
            where = f" {path!r}" if path else ""
            warnings.warn(
                f"{whole.kind}{where}, as a whole, is slower than dense with the formats asked for: "
                f"{against(whole.packed, whole.dense)}",
                stacklevel=5,
            )
        for name, choice in inside.items():
            settled[name] = replace(choice, whole=whole)
            if not asked and whole.ratio < _MARGIN:
                settled[name] = replace(settled[name], format=Dense(), kernel="", nbytes=choice.dense_nbytes)
    return settled


def _with_what_follows(
    opened: nn.Module, choices: Mapping[str, Choice], parts: Mapping[str, Sequence[str]], example: object
) -> dict[str, Choice]:
    """``choices``, each with what follows its packed layer and will be worked out in it, and why no more is."""
    packed = {name: choice for name, choice in choices.items() if not choice.format.is_dense}
    paths = {name: [part.rpartition(".")[0] for part in parts[name]] for name in packed}
    found = followings(opened, {path: packed[name].kernel for name, own in paths.items() for path in own}, example)
    told = dict(choices)
    for name, own in paths.items():
        blocks = [path for path in own if fuse_activation(opened, path, packed[name].kernel)]
        fused = [at for path in own if path in found for at in found[path].paths]
        fused += [f"{path.rpartition('.')[0]}.activation".removeprefix(".") for path in blocks]
        why = (found[path].why_not for path in own if path in found and path not in blocks)
        told[name] = replace(packed[name], fused=tuple(fused), unfused="; ".join(dict.fromkeys(filter(None, why))))
    return told


def _with_strides(
    net: nn.Module,
    choices: Mapping[str, Choice],
    masks: Mapping[str, Tensor],
    calls: Mapping[str, Call],
    example: object,
) -> dict[str, Choice]:
    """``choices``, marked where a packed convolution's result has to be contiguous: the packed net is run once."""
    packed = [name for name, choice in choices.items() if not choice.format.is_dense]
    if not any(conv_geometry(net.get_submodule(name.rpartition(".")[0])) is not None for name in packed):
        return dict(choices)
    tried = apply(shell(net), choices, masks, calls)
    few = list(inputs_like(example).values())[-1]
    made = {*make_contiguous(tried, net, example), *make_contiguous(tried, net, few, training=True)}
    return {name: replace(one, contiguous=name.rpartition(".")[0] in made) for name, one in choices.items()}


def make_plan(
    net: nn.Module,
    masks: Mapping[str, Tensor],
    example: object,
    formats: Mapping[str, Format] | None = None,
    cached: bool = True,
    bits: Bits = None,
) -> Plan:
    """Time the candidates of each masked weight. ``net`` is in eval mode, its masked entries zero, and all checked."""
    forced, widths = forced_formats(masks, formats), held_in(bits, masks)
    calls = calls_on(net, example, masks)
    refused = refusals(net, masks, calls)
    unrefused = [name for name in masks if name not in refused]
    opened = Surgery(composites=composites_for(net, unrefused, calls)).apply(shell(net))
    parts = {name: parts_of(opened, name) for name in unrefused}
    called = observe(opened, example, {part.rpartition(".")[0] for own in parts.values() for part in own})
    choices = {}
    for name, mask in masks.items():
        parameter, asked = net.get_parameter(name), forced.get(name)
        why = refused.get(name) or next(filter(None, (obstacle(opened, part, called) for part in parts[name])), None)
        if why is None:
            cut = [(part.rpartition(".")[0], own, kept) for part, own, kept in pieces(opened, parts[name], mask)]
            made_of = [Piece(opened.get_submodule(path), own, kept, called[path]) for path, own, kept in cut]
            why = _why_dense(made_of, mask, asked)
        if why is None:
            here = mask.to(parameter.device)
            choices[name] = _timed_choice(name, parameter, here, made_of, asked, widths[name], cached)
            continue
        choices[name] = Choice(
            *(name, tuple(parameter.shape), int(mask.count_nonzero()), Dense(), "", 0, {}),
            *(parameter.nbytes, parameter.nbytes, mask_hash(mask), why),
            forced=asked,
        )
    choices = _settled(net, choices, masks, calls, forced, cached)
    choices = _with_what_follows(opened, choices, parts, example)
    choices = _with_strides(net, choices, masks, calls, example)
    for glob, wanted in (formats or {}).items():
        hit = [choices[name] for name in forced_formats(masks, {glob: wanted})]
        if not wanted.is_dense and not any(choice.seconds for choice in hit):
            warnings.warn(
                f"formats[{glob!r}]: no weight that it matches can run as {wanted}: {hit[0].reason}", stacklevel=4
            )
    device = next((net.get_parameter(name).device for name in masks), torch.device("cpu"))
    return Plan(choices, named(device), torch.get_num_threads())


@in_turn
def plan(
    net: nn.Module,
    masks: Mapping[str, Tensor],
    *,
    example: object,
    formats: Mapping[str, Format] | None = None,
    cached: bool = True,
    bits: Bits = None,
) -> Plan:
    """Choose a format and a kernel for each masked weight, by timing them on the shapes that ``example`` brings.

    Which block shapes a mask fills is read off the mask; on a GPU, whether it keeps two of four inputs too. Dense is
    always among the candidates, and a sparse one has to beat it by 5 %. Attention, recurrent nets and torch's encoder
    layers are then timed as wholes, against the net's own on the arguments that they get, and stay dense where they are
    not faster by as much. About a quarter of a second per weight and whole. Values play no part, so ``net``'s own will
    do.
    What was measured is kept on disk for this machine, these versions, threads and masks, and a reason says when that
    was: for 7 days, or an hour where other programs had the processor meanwhile.

    Args:
        net: the dense net; it is copied and not touched.
        masks: bool, True where a weight stays, in each weight's own shape.
        example: an input batch, or a tuple or dict of arguments; its batch size is the one that is measured.
        formats: a format by glob over names of weights or modules, in place of the fastest.
        cached: False measures anew what was measured before.
        bits: 8 or 4 for packed weights in integers with a scale per output; or by weight how many bits it bears, as
            :func:`bayesprune.bit_widths` tells: up to 4 and up to 8 are held in so many, more in the weight's dtype.
            ``formats`` go before it, and what is fastest masked dense keeps its dtype.

    Raises:
        ValueError: a mask that does not fit, an example that the net refuses, a glob that matches nothing, other bits.

    >>> net = nn.Sequential(nn.Linear(8, 4), nn.ReLU(), nn.Linear(4, 2))
    >>> masks = {"0.weight": torch.eye(4, 8, dtype=torch.bool)}
    >>> print(plan(net, masks, example=torch.ones(3, 8))["0.weight"].density)
    0.125
    """
    return make_plan(masked_copy(net, {}, masks), masks, example, formats, cached, bits)
