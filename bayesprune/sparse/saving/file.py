"""``save`` and ``load``: safetensors with a JSON manifest, or a compressed file. No pickle."""

import dataclasses
import json
import warnings
from collections.abc import Mapping
from os import PathLike
from pathlib import Path

import safetensors.torch
import torch
from torch import Tensor, nn

from bayesprune._copies import copied, recompute
from bayesprune._files import replace as replace_file
from bayesprune._turns import in_turn
from bayesprune.layout import layout_of
from bayesprune.sparse.checks import all_finite
from bayesprune.sparse.formats import SparseWeight
from bayesprune.sparse.kernels import KERNELS
from bayesprune.sparse.layers.linear import SparseLinear
from bayesprune.sparse.saving.coding import Codebook, Streams, codebook_of, decode, is_compressed, unpack
from bayesprune.sparse.saving.compressed import compressed
from bayesprune.sparse.saving.description import check_savable, named_tensors
from bayesprune.sparse.saving.limits import CLAIMS, beyond
from bayesprune.sparse.saving.manifest import FileError, Manifest, check_header
from bayesprune.sparse.saving.rebuild import TRIPPED, CannotRebuildError, build
from bayesprune.sparse.saving.storage import Stored, restore, store
from bayesprune.sparse.saving.uncompressed import uncompressed
from bayesprune.sparse.surgery.eligibility import conv_geometry
from bayesprune.sparse.surgery.surgery import Surgery

__all__ = ["FileError", "load", "nbytes", "save"]


def nbytes(net: nn.Module, *, stored: bool = False) -> int:
    """The bytes of a net's parameters and buffers: as it runs, or ``stored`` as :func:`save` would write them.

    As it runs, a packed layer counts its values and indices, and a shared parameter once.

    >>> nbytes(nn.Linear(100, 10)), nbytes(nn.Linear(100, 10), stored=True)
    (4040, 4040)
    """
    unique = {id(x): x for _, _, x in named_tensors(net)}.values()
    return sum(store(x).nbytes if stored else x.nbytes for x in unique)


@in_turn
def save(
    sparse: nn.Module,
    path: str | PathLike[str],
    *,
    compress: bool | Codebook = False,
    variances: Mapping[str, Tensor] | None = None,
) -> None:
    """Write a net to one file: packed weights as they are, every other tensor as small as its zeros allow.

    What :func:`bayesprune.sparse.export` returned, or any other net of plain tensors. Hooks and the training mode are
    not written. The file appears whole or not at all.

    ``compress`` rounds the parameters, to far fewer bytes (Han, Mao & Dally 2016): the values of a weight share the
    levels of a codebook, found by k-means; parameters that are too few to share any (biases, mostly) become halves,
    within 2⁻¹¹ of themselves, or stay exact where they cannot; indices, buffers and integers stay exact. All of it goes
    through a range coder. What :func:`load` then gives computes with the rounded values, to the bit.

    Args:
        sparse: the net.
        path: the file; one that is there is replaced.
        compress: True, or a :class:`~bayesprune.sparse.Codebook` that says how many levels.
        variances: weight name → posterior variance of each entry, named and shaped as in the net that was exported,
            ``bnet.variances()``, or ``bp.compact(…).cut(bnet.variances())`` where it was made smaller: k-means then
            weighs each value by its precision, and takes no more levels than the posterior can tell apart. By default
            those that ``bp.export(…, variances=…)`` was given, which the net carries.

    Raises:
        ValueError: a tensor or a module that the file cannot hold; variances that do not fit the net.
        FileNotFoundError, IsADirectoryError: there is no such folder, or ``path`` is one.
        OSError: the file cannot be written.

    Warns:
        UserWarning: a compressed net of which so little is left that :func:`load` will ask for ``net=``.

    >>> import tempfile
    >>> path = Path(tempfile.mkdtemp()) / "model.safetensors"
    >>> save(nn.Sequential(nn.Linear(3, 2)), path)
    >>> load(path)
    Sequential(
      (0): Linear(in_features=3, out_features=2, bias=True)
    )
    """
    target = Path(path)
    if target.is_dir():
        raise IsADirectoryError(f"{str(target)!r} is a folder: name a file in it")
    if not target.parent.is_dir():
        raise FileNotFoundError(f"there is no folder {str(target.parent)!r} to save into; make it first")
    if codebook_of(compress) is not None:
        file = compressed(sparse, compress, variances=variances)
        if file.asks.startswith(CLAIMS):
            warnings.warn(f"{target}: {file.asks}", stacklevel=2)
        replace_file(target, lambda fresh: fresh.write_bytes(file.data))
        return
    if variances is not None:
        raise ValueError("variances say how to round the weights: they go with compress=True or bp.Codebook(levels=…)")
    check_savable(sparse)
    data = uncompressed(sparse)  # safetensors' save_file renames over devices, and has errors of its own
    replace_file(target, lambda fresh: fresh.write_bytes(data))


def _read(data: bytes) -> tuple[Manifest, int, dict[str, Tensor]]:
    """The manifest of a safetensors file, its letters, and the tensors."""
    length = int.from_bytes(data[:8], "little")
    try:
        if len(data) < 8 or length > len(data) - 8:
            raise ValueError("it ends before its header does")
        check_header(data)
        metadata = json.loads(data[8 : 8 + length]).get("__metadata__", {})
        tensors = safetensors.torch.load(data)
        manifest = Manifest.read(metadata)
    except FileError:
        raise
    except (safetensors.SafetensorError, ValueError, AttributeError, RecursionError) as error:
        raise FileError(f"not a whole safetensors file: {error}") from error
    manifest.check_buffers(tensors)
    return manifest, len(metadata["bayesprune"]), tensors


def _check_shapes(net: nn.Module, manifest: Manifest) -> None:
    """Raise before anything is unpacked where a tensor has another shape than the net's of that name."""
    own = {name: tuple(x.shape) for _, name, x in named_tensors(net)}
    for name, entry in manifest.tensors.items():
        if own.get(name, entry.shape) != entry.shape:
            raise FileError(
                f"the file does not fit the net: {name!r}: {entry.shape} in the file, {own[name]} in the net"
            )


def _check_layers(net: nn.Module, manifest: Manifest) -> None:
    """Raise before anything is unpacked where the packed layers do not fit the net."""
    for path, layer in manifest.surgery.packed.items():
        found = _features(net, path)
        if found != layer.shape:
            raise FileError(f"the file has a layer {path!r} of (out, in) = {layer.shape}, the net has {found}")


def _stored(manifest: Manifest, buffers: Mapping[str, Tensor]) -> dict[str, Stored]:
    found = {}
    for name, entry in manifest.tensors.items():
        missing = next((at for at in entry.parts.values() if at not in buffers), None)
        if missing is not None:
            raise FileError(f"{name!r} cannot be unpacked: the file lacks {missing!r}")
        parts = {part: buffers[at] for part, at in entry.parts.items()}
        block = (entry.block[0], entry.block[1]) if entry.block else None
        found[name] = Stored(entry.how, entry.dtype, entry.shape, block, parts)
    return found


def _unpacked(stored: Mapping[str, Stored]) -> dict[str, Tensor]:
    tensors = {}
    for name, found in stored.items():
        try:
            tensors[name] = restore(found)
        except (ValueError, TypeError, OverflowError, RuntimeError) as error:
            raise FileError(f"{name!r} cannot be unpacked: {error}") from error
    return tensors


def _decoded(manifest: Manifest, streams: Streams) -> dict[str, Tensor]:
    return decode(streams.exact, streams.numbers, manifest.tensors, manifest.surgery.packed).tensors


def _as_told(manifest: Manifest, found: dict[str, Tensor]) -> dict[str, Tensor]:
    """Parameters and buffers under all their names, taken out of ``found``."""
    tensors = {}
    for name, entry in manifest.tensors.items():
        x = found.pop(name)
        if entry.kind == "parameter" and x.is_floating_point() and not all_finite(x):
            raise FileError(f"the parameter {name!r} holds NaN or infinity")
        if entry.channels_last and x.dim() == 4:
            x = torch.empty_like(x, memory_format=torch.channels_last).copy_(x)
        tensors[name] = nn.Parameter(x, requires_grad=entry.grad) if entry.kind == "parameter" else x
    for name, first in manifest.ties.items():
        if first not in tensors:
            raise FileError(f"{name!r} is shared with {first!r}, which the file lacks")
        tensors[name] = tensors[first]
    return tensors


def _features(net: nn.Module, path: str) -> tuple[int, int] | None:
    """``(out, in)`` of the layer ``path`` as a matrix; None where there is none."""
    try:
        module = net.get_submodule(path)
    except AttributeError:
        return None
    if isinstance(module, SparseLinear):
        return module.out_features, module.in_features
    if conv_geometry(module) is not None:
        weight = module._parameters["weight"]
        assert weight is not None
        return weight.shape[0], weight[0].numel()
    weight = module._parameters.get("weight")
    if weight is None or weight.dim() != 2 or "bias" not in module._parameters:
        return None
    _, out, into, _ = layout_of(net, f"{path}.weight" if path else "weight").roles
    return out, into


def _weights(manifest: Manifest, tensors: Mapping[str, Tensor]) -> dict[str, SparseWeight]:
    """The packed layers' weights by their paths, each checked."""
    weights = {}
    for path, layer in manifest.surgery.packed.items():
        prefix = f"{path}." if path else ""
        wanted = layer.format.buffers
        missing = [name for name in wanted if prefix + name not in tensors]
        if missing:
            raise FileError(f"the packed layer {path!r} lacks {', '.join(missing)}")
        packed = SparseWeight(layer.format, layer.shape, *(tensors[prefix + name].detach() for name in wanted))
        try:
            layer.format.check(packed)
        except ValueError as error:
            raise FileError(f"the packed layer {path!r} is damaged: {error}") from error
        weights[path] = packed
    return weights


def _known_kernels(surgery: Surgery) -> Surgery:
    """The reference in the place of kernels that are not here."""
    packed = dict(surgery.packed)
    for path, layer in packed.items():
        if layer.kernel not in KERNELS:
            packed[path] = dataclasses.replace(layer, kernel="reference")
            warnings.warn(f"{path}: no kernel {layer.kernel!r} here; 'reference' runs, and is slow", stacklevel=4)
    return dataclasses.replace(surgery, packed=packed)


def _fill(net: nn.Module, manifest: Manifest, tensors: Mapping[str, Tensor]) -> None:
    expected = {name: (kind, tuple(x.shape)) for kind, name, x in named_tensors(net)}
    kinds = {name: manifest.tensors[manifest.ties.get(name, name)].kind for name in tensors}
    given = {name: (kinds[name], tuple(x.shape)) for name, x in tensors.items()}
    wrong = [
        f"{name!r}: {given.get(name, 'missing')} in the file, {expected.get(name, 'missing')} in the net"
        for name in sorted(expected.keys() | given.keys())
        if expected.get(name) != given.get(name)
    ]
    if wrong:
        more = f" … and {len(wrong) - 5} more" if len(wrong) > 5 else ""
        raise FileError(f"the file does not fit the net: {'; '.join(wrong[:5])}{more}")
    for name, x in tensors.items():
        path, _, leaf = name.rpartition(".")
        setattr(net.get_submodule(path), leaf, x)


@in_turn
def load(path: str | PathLike[str], net: nn.Module | None = None) -> nn.Module:
    """Read what :func:`save` wrote: a net in eval mode on the CPU with the same outputs, bit for bit.

    Nothing in the file is run or imported. A net of torch.nn's own modules comes back from the file alone. Checksums
    are looked at first, sizes next: whoever wrote the file, loading it takes at most four times its bytes and 64 MiB,
    and what unpacks to more is refused unless ``net`` is given, whose size is known.

    Args:
        path: the file.
        net: the dense skeleton, where the net has classes of the user's; its values do not matter, and it is copied
            and not touched. It is of full size, also where the file's net was made smaller.

    Raises:
        FileError: the file is damaged, altered or of a newer version, needs ``net``, or does not fit it.
        FileNotFoundError: there is no such file.
        ValueError: ``net`` is no module.
    """
    if net is not None and not isinstance(net, nn.Module):
        raise ValueError(f"net is the skeleton, an nn.Module, got {net!r}")
    data = Path(path).read_bytes()
    length, streams = len(data), unpack(data) if is_compressed(data) else None
    buffers: dict[str, Tensor] = {}
    if streams is None:
        manifest, letters, buffers = _read(data)
    else:
        manifest, letters = Manifest.parse(streams.text), len(streams.text)
    del data  # its parts are read out: what is unpacked takes its place
    try:
        if net is not None:
            target = copied(net)
        elif manifest.net is None:
            raise FileError(f"this file needs its net: load(path, net=skeleton), for {manifest.needs_net}")
        else:
            target = build(manifest.net, len(manifest.tensors) + len(manifest.ties))
        target = manifest.surgery.reshape(target)
        _check_shapes(target, manifest)
        why = beyond(manifest.tensors, letters, length, None if net is None else nbytes(target))
        if why:
            raise FileError(why)
        _check_layers(target, manifest)
        found = _unpacked(_stored(manifest, buffers)) if streams is None else _decoded(manifest, streams)
        tensors = _as_told(manifest, found)
        weights = _weights(manifest, tensors)
        target = _known_kernels(manifest.surgery).pack(target, weights)
        for path, packed in weights.items():
            layer = target.get_submodule(path)
            if layer.bias is None and f"{path}.bias".removeprefix(".") in tensors:  # of what was worked into the layer
                layer.bias = nn.Parameter(torch.empty(packed.shape[0]))
        _fill(target, manifest, tensors)
    except (FileError, MemoryError):
        raise
    except CannotRebuildError as error:
        raise FileError(str(error)) from error
    except ValueError as error:
        raise FileError(f"the file does not fit the net: {error}") from error
    except TRIPPED as error:  # a manifest that was forged with its checksum
        raise FileError(f"the file does not fit the net: {type(error).__name__}: {error}") from error
    return recompute(target.eval())
