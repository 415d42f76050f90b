"""Make a plan: time what each mask allows on the user's shapes, dense always among it."""

import warnings
from collections.abc import Mapping
from fnmatch import fnmatchcase
from functools import partial

import torch
from torch import Tensor, nn

from bayesprune.sparse.blocks import block_shapes
from bayesprune.sparse.choices import Choice, Plan
from bayesprune.sparse.formats import CSR, Dense, Format
from bayesprune.sparse.kernels import KERNELS
from bayesprune.sparse.linear import SparseLinear
from bayesprune.sparse.masked import masked_copy
from bayesprune.sparse.places import conv_geometry, observe, obstacle, packed_layer, weight_matrix
from bayesprune.sparse.race import race

__all__ = ["forced_formats", "make_plan", "plan"]

_MARGIN = 1.05  # a sparse candidate has to beat dense by this much: less is noise


def forced_formats(names: Mapping[str, object], formats: Mapping[str, Format] | None) -> dict[str, Format]:
    """The format that the first matching glob asks for, by weight. A glob is held against the weight and its module.

    Raises:
        ValueError: a value is no format, or a glob matches no masked weight.

    >>> forced_formats({"fc1.weight": 0, "fc2.weight": 0}, {"fc1": CSR()})
    {'fc1.weight': CSR()}
    """
    forced: dict[str, Format] = {}
    for glob, wanted in (formats or {}).items():
        if not isinstance(wanted, Format):
            raise ValueError(f"formats[{glob!r}] must be a format such as CSR() or BSR(16, 1), got {wanted!r}")
        matched = [n for n in names if fnmatchcase(n, glob) or fnmatchcase(n.rpartition(".")[0], glob)]
        if not matched:
            raise ValueError(f"formats[{glob!r}] matches no masked weight; they are {', '.join(names) or 'none'}")
        for name in matched:
            forced.setdefault(name, wanted)
    return forced


def _formats(owner: nn.Module, mask: Tensor) -> list[Format]:
    """What the mask of a weight, as a matrix, can be packed as."""
    if not isinstance(owner, nn.Conv2d):
        return [CSR(), *block_shapes(mask)]
    channels, outputs = owner.in_channels // owner.groups, owner.out_channels // owner.groups
    return [*block_shapes(mask, fits=lambda h, w: channels % w == 0 and outputs % h == 0)]


def _sparse_layers(dense: nn.Module, weight: Tensor, mask: Tensor, formats: list[Format]) -> dict[str, SparseLinear]:
    """A layer for each format and each kernel that takes it, by label."""
    layers = {}
    geometry = conv_geometry(dense)
    for form in formats:
        packed = form.pack(weight, mask)
        values, shape = packed.values, packed.shape
        if geometry is None:
            kernels = [k for k in KERNELS.values() if k.takes(values, shape, weight.dtype)]
        else:
            channels = shape[1] // (geometry.kernel[0] * geometry.kernel[1])
            kernels = [k for k in KERNELS.values() if k.takes_conv(values, weight.dtype, geometry, channels)]
        for kernel in [k for k in kernels if not k.fallback] or kernels:
            layers[f"{form} {kernel.name}"] = packed_layer(dense, packed, kernel.name)
    return layers


def _times(ratio: float) -> str:
    return f"{ratio:.2f}×" if ratio < 10 else f"{ratio:.0f}×"


def _timed_choice(net: nn.Module, name: str, mask: Tensor, called: torch.Size, forced: Format | None) -> Choice:
    path = name.rpartition(".")[0]
    owner, parameter = net.get_submodule(path), net.get_parameter(name)
    weight, kept2d = weight_matrix(net, name, parameter.detach()), weight_matrix(net, name, mask)
    formats = [forced] if forced else _formats(owner, kept2d)
    layers = _sparse_layers(owner, weight, kept2d, [f for f in formats if not isinstance(f, Dense)])
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(called, generator=generator).to(parameter.device, parameter.dtype)
    if conv_geometry(owner) is not None and x.dim() == 4:
        x = x.contiguous(memory_format=torch.channels_last)  # as the layer before hands it on, packed or not
    runners = {"dense": partial(owner, x)} | {label: partial(layer, x) for label, layer in layers.items()}
    with torch.no_grad():
        seconds = race(runners, device=parameter.device)
    ratios = {label: seconds["dense"] / seconds[label] for label in layers}
    best = max(ratios, key=ratios.__getitem__, default="dense")
    if conv_geometry(owner) is None:
        tokens = called[:-1].numel()
        at = f"at {tokens} token{'s' * (tokens != 1)}"
    else:
        tokens = called[:-3].numel()
        at = f"at {tokens} image{'s' * (tokens != 1)} of {called[-2]}×{called[-1]}"
    if forced or ratios.get(best, 0) >= _MARGIN:
        kept = int(mask.count_nonzero()) / mask.numel()
        share = f", {ratios[best] * kept:.0%} of the ideal" if best in ratios else ""
        reason = f"{best}: {_times(ratios[best])} dense {at}, measured{share}" if best in ratios else "dense: asked for"
    else:
        reason = f"dense: fastest measured {at} ({best}: {_times(ratios[best])})"
        best = "dense"
    if forced and best in ratios:
        reason += ", asked for"
        if ratios[best] < 1:
            warnings.warn(
                f"{name}: {forced} was asked for and is slower than dense: {seconds[best] * 1e6:.0f} µs against "
                f"{seconds['dense'] * 1e6:.0f} µs {at}",
                stacklevel=4,
            )
    packed = layers.get(best)
    return Choice(
        name=name,
        shape=tuple(parameter.shape),
        kept=int(mask.count_nonzero()),
        format=packed.format if packed else Dense(),
        kernel=packed.kernel if packed else "",
        reason=reason,
        tokens=tokens,
        seconds=seconds,
        nbytes=packed.sparse_weight.nbytes if packed else parameter.nbytes,
        dense_nbytes=parameter.nbytes,
    )


def make_plan(
    net: nn.Module, masks: Mapping[str, Tensor], example: object, formats: Mapping[str, Format] | None = None
) -> Plan:
    """Time the candidates of each masked weight. ``net`` is in eval mode, its masked entries zero, and all checked."""
    forced = forced_formats(masks, formats)
    called = observe(net, example, {name.rpartition(".")[0] for name in masks})
    choices = {}
    for name, mask in masks.items():
        parameter = net.get_parameter(name)
        why = obstacle(net, name, called)
        owner = net.get_submodule(name.rpartition(".")[0])
        if why is None and conv_geometry(owner) is not None and isinstance(forced.get(name), CSR):
            why = f"{type(owner).__name__} has no sparse kernel for CSR"
        if why is None and name not in forced:
            if bool(mask.all()):
                why = "the mask keeps everything"
            elif conv_geometry(owner) is not None and not _formats(owner, weight_matrix(net, name, mask)):
                why = f"the mask fills no block that {type(owner).__name__} can run packed"
        if why is None:
            shape = called[name.rpartition(".")[0]]
            choices[name] = _timed_choice(net, name, mask.to(parameter.device), shape, forced.get(name))
            continue
        asked = forced.get(name, Dense())
        reason = f"masked dense: {why}" + ("" if isinstance(asked, Dense) else f"; {asked} was asked for")
        same = tuple(parameter.shape), int(mask.count_nonzero()), Dense(), ""
        choices[name] = Choice(name, *same, reason, 0, {}, parameter.nbytes, parameter.nbytes)
    for glob, wanted in (formats or {}).items():
        hit = [choices[name] for name in forced_formats(masks, {glob: wanted})]
        if not isinstance(wanted, Dense) and not any(choice.seconds for choice in hit):
            warnings.warn(
                f"formats[{glob!r}]: no weight that it matches can run as {wanted}: {hit[0].reason}", stacklevel=3
            )
    device = next((net.get_parameter(name).device for name in masks), torch.device("cpu"))
    return Plan(choices, str(device), torch.get_num_threads())


def plan(
    net: nn.Module,
    masks: Mapping[str, Tensor],
    *,
    example: object,
    formats: Mapping[str, Format] | None = None,
) -> Plan:
    """Choose a format and a kernel for each masked weight, by timing them on the shapes that ``example`` brings.

    Which block shapes a mask fills is read off the mask. Dense is always among the candidates, and a sparse one has
    to beat it by 5 %. About a quarter of a second per weight. Values play no part, so ``net``'s own will do.

    Args:
        net: the dense net; it is copied and not touched.
        masks: bool, True where a weight stays, in each weight's own shape.
        example: an input batch, or a tuple or dict of arguments; its batch size is the one that is measured.
        formats: a format by glob over names of weights or modules, in place of the fastest.

    Raises:
        ValueError: a mask that does not fit, an example that the net refuses, a glob that matches nothing.

    >>> net = nn.Sequential(nn.Linear(8, 4), nn.ReLU(), nn.Linear(4, 2))
    >>> masks = {"0.weight": torch.eye(4, 8, dtype=torch.bool)}
    >>> print(plan(net, masks, example=torch.ones(3, 8))["0.weight"].density)
    0.125
    """
    return make_plan(masked_copy(net, {}, masks), masks, example, formats)
