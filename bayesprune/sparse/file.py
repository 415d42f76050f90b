"""One file: safetensors with a JSON manifest in its metadata. No pickle."""

import copy
import json
import warnings
from collections.abc import Iterator, Mapping
from os import PathLike
from pathlib import Path

import safetensors.torch
import torch
from torch import Tensor, nn

from bayesprune.layout import layout_of
from bayesprune.sparse.checks import all_finite
from bayesprune.sparse.feed_forward import hand_over
from bayesprune.sparse.formats import SparseWeight
from bayesprune.sparse.fuse import silence, silent_in
from bayesprune.sparse.kernels import KERNELS
from bayesprune.sparse.linear import SparseLinear
from bayesprune.sparse.manifest import FileError, Manifest, SparseEntry, TensorEntry, sha256
from bayesprune.sparse.places import conv_geometry
from bayesprune.sparse.rebuild import CannotRebuildError, build, describe
from bayesprune.sparse.storage import Stored, restore, store
from bayesprune.sparse.swap import swap
from bayesprune.sparse.wholes import open_at, opened_in, set_fast_paths
from bayesprune.whole_files import replace

__all__ = ["FileError", "load", "nbytes", "save"]

_SLACK = 2**24  # bytes that a file may claim beyond the net it tells of and four times its own


def _tensors(net: nn.Module) -> Iterator[tuple[str, str, Tensor]]:
    """Kind, name and tensor of every parameter and buffer, under each of its names."""
    for name, parameter in net.named_parameters(remove_duplicate=False):
        yield "parameter", name, parameter
    for name, buffer in net.named_buffers(remove_duplicate=False):
        yield "buffer", name, buffer


def nbytes(net: nn.Module, *, stored: bool = False) -> int:
    """The bytes of a net's parameters and buffers: as it runs, or ``stored`` as :func:`save` would write them.

    As it runs, a packed layer counts its values and indices, and a shared parameter once.

    >>> nbytes(nn.Linear(100, 10)), nbytes(nn.Linear(100, 10), stored=True)
    (4040, 4040)
    """
    unique = {id(x): x for _, _, x in _tensors(net)}.values()
    return sum(store(x).nbytes if stored else x.nbytes for x in unique)


def _is_channels_last(x: Tensor) -> bool:
    return x.dim() == 4 and not x.is_contiguous() and x.is_contiguous(memory_format=torch.channels_last)


def _check_savable(net: nn.Module) -> None:
    for path, module in net.named_modules():
        if type(module).get_extra_state is not nn.Module.get_extra_state:
            raise ValueError(
                f"{path or 'the net'} ({type(module).__name__}) has extra state, which the file cannot hold"
            )
    for kind, name, x in _tensors(net):
        if x.is_meta:
            raise ValueError(f"{name!r} is on the meta device and holds no values")
        if kind == "parameter" and x.is_floating_point() and not all_finite(x):
            raise ValueError(f"the parameter {name!r} holds NaN or infinity")


def save(sparse: nn.Module, path: str | PathLike[str]) -> None:
    """Write a net to one file: packed weights as they are, every other tensor as small as its zeros allow.

    What :func:`bayesprune.sparse.export` returned, or any other net of plain tensors. Hooks and the training mode are
    not written. The file appears whole or not at all.

    Args:
        sparse: the net.
        path: the file; one that is there is replaced.

    Raises:
        ValueError: a tensor or a module that the file cannot hold.
        FileNotFoundError: there is no such folder.

    >>> import tempfile
    >>> path = Path(tempfile.mkdtemp()) / "model.safetensors"
    >>> save(nn.Sequential(nn.Linear(3, 2)), path)
    >>> load(path)
    Sequential(
      (0): Linear(in_features=3, out_features=2, bias=True)
    )
    """
    if not isinstance(sparse, nn.Module):
        raise ValueError(f"save needs an nn.Module, got {type(sparse).__name__}")
    target = Path(path)
    if not target.parent.is_dir():
        raise FileNotFoundError(f"there is no folder {str(target.parent)!r} to save into; make it first")
    _check_savable(sparse)
    try:
        net, needs_net = describe(sparse), ""
    except CannotRebuildError as error:
        net, needs_net = None, str(error)
    entries: dict[str, TensorEntry] = {}
    buffers: dict[str, Tensor] = {}
    ties: dict[str, str] = {}
    first: dict[int, str] = {}
    for kind, name, x in _tensors(sparse):
        if id(x) in first:
            ties[name] = first[id(x)]
            continue
        first[id(x)] = name
        stored = store(x)
        parts = {part: name if part == "values" else f"{name}/{part}" for part in stored.parts}
        if buffers.keys() & set(parts.values()):
            raise ValueError(f"the name {name!r} is taken: a module's name must not end in /bits, /crow or /col")
        # clone: safetensors refuses tensors that share memory
        buffers |= {parts[part]: t.contiguous().clone() for part, t in stored.parts.items()}
        block = stored.block or ()
        like = stored.dtype, stored.shape, stored.how, block, parts
        entries[name] = TensorEntry(kind, *like, x.requires_grad, _is_channels_last(x))
    layers = {
        at: SparseEntry(m.format, m.kernel, (m.out_features, m.in_features), m.activation)
        for at, m in sparse.named_modules(remove_duplicate=False)
        if isinstance(m, SparseLinear)
    }
    sums: dict[str, list[object]] = {
        name: [str(x.dtype).removeprefix("torch."), list(x.shape), sha256(x)] for name, x in buffers.items()
    }
    metadata = Manifest(net, needs_net, entries, ties, layers, opened_in(sparse), silent_in(sparse), sums).write()
    replace(target, lambda fresh: safetensors.torch.save_file(buffers, fresh, metadata))


def _read(path: Path) -> tuple[Manifest, dict[str, Tensor]]:
    data = path.read_bytes()
    length = int.from_bytes(data[:8], "little")
    try:
        if len(data) < 8 or length > len(data) - 8:
            raise ValueError("it ends before its header does")
        metadata = json.loads(data[8 : 8 + length]).get("__metadata__", {})
        tensors = safetensors.torch.load(data)
        manifest = Manifest.read(metadata)
    except FileError:
        raise
    except Exception as error:  # safetensors, JSON and unicode have an error each
        raise FileError(f"not a whole safetensors file: {error}") from error
    manifest.check_buffers(tensors)
    return manifest, tensors


def _check_claims(net: nn.Module, manifest: Manifest, buffers: Mapping[str, Tensor]) -> None:
    """Raise before anything is unpacked where that would take much more than the net and the file do."""
    own, stored = nbytes(net), sum(x.nbytes for x in buffers.values())
    claimed = sum(entry.nbytes for entry in manifest.tensors.values())
    if claimed > own + 4 * stored + _SLACK:
        raise FileError(f"the file claims tensors of {claimed:,} bytes; its net has {own:,}, and it holds {stored:,}")


def _restored(manifest: Manifest, buffers: Mapping[str, Tensor]) -> dict[str, Tensor]:
    tensors = {}
    for name, entry in manifest.tensors.items():
        try:
            parts = {part: buffers[at] for part, at in entry.parts.items()}
            block = (entry.block[0], entry.block[1]) if entry.block else None
            x = restore(Stored(entry.how, entry.dtype, entry.shape, block, parts))
        except (KeyError, ValueError, TypeError, OverflowError, RuntimeError) as error:
            raise FileError(f"{name!r} cannot be unpacked: {error}") from error
        if entry.kind == "parameter" and x.is_floating_point() and not all_finite(x):
            raise FileError(f"the parameter {name!r} holds NaN or infinity")
        if entry.channels_last and x.dim() == 4:
            x = x.contiguous(memory_format=torch.channels_last)
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


def _swap_in(net: nn.Module, manifest: Manifest, tensors: Mapping[str, Tensor]) -> nn.Module:
    for path, split in manifest.opened.items():
        try:
            net = open_at(net, path, split)
        except (AttributeError, ValueError) as error:
            raise FileError(f"the file has {path!r} opened, which does not fit the net: {error}") from error
    for path, entry in manifest.sparse.items():
        found = _features(net, path)
        if found != entry.shape:
            raise FileError(f"the file has a layer {path!r} of (out, in) = {entry.shape}, the net has {found}")
        prefix = f"{path}." if path else ""
        wanted = ("values", "crow", "col", *(("scale",) if getattr(entry.format, "bits", None) else ()))
        missing = [name for name in wanted if prefix + name not in tensors]
        if missing:
            raise FileError(f"the packed layer {path!r} lacks {', '.join(missing)}")
        packed = SparseWeight(entry.format, entry.shape, *(tensors[prefix + name].detach() for name in wanted))
        try:
            entry.format.check(packed)
        except ValueError as error:
            raise FileError(f"the packed layer {path!r} is damaged: {error}") from error
        kernel = entry.kernel
        if kernel not in KERNELS:
            kernel = "reference"
            warnings.warn(f"{path}: no kernel {entry.kernel!r} here; {kernel!r} runs, and is slow", stacklevel=3)
        net = swap(net, path, packed, kernel, activation=entry.activation)
        if net.get_submodule(path).bias is None and f"{prefix}bias" in tensors:  # of what was worked into the layer
            net.get_submodule(path).bias = nn.Parameter(torch.empty(entry.shape[0]))
        if entry.activation:
            hand_over(net, path)
    for path in manifest.silent:
        try:
            silence(net, path)
        except ValueError as error:
            raise FileError(f"the file has nothing at {path!r}, which does not fit the net: {error}") from error
    set_fast_paths(net, (*manifest.sparse, *manifest.opened), on=False)
    return net


def _fill(net: nn.Module, manifest: Manifest, tensors: Mapping[str, Tensor]) -> None:
    expected = {name: (kind, tuple(x.shape)) for kind, name, x in _tensors(net)}
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


def load(path: str | PathLike[str], net: nn.Module | None = None) -> nn.Module:
    """Read what :func:`save` wrote: a net in eval mode on the CPU with the same outputs, bit for bit.

    Nothing in the file is run or imported. A net of torch.nn's own modules comes back from the file alone. Checksums
    are looked at first, sizes next: the tensors may take what the net does, four times the file and 16 MiB, no more.

    Args:
        path: the file.
        net: the dense skeleton, where the net has classes of the user's; its values do not matter, and it is copied
            and not touched.

    Raises:
        FileError: the file is damaged, altered or of a newer version, needs ``net``, or does not fit it.
        FileNotFoundError: there is no such file.
    """
    manifest, buffers = _read(Path(path))
    try:
        if net is not None:
            target = copy.deepcopy(net)
        elif manifest.net is None:
            raise FileError(f"this file needs its net: load(path, net=skeleton), for {manifest.needs_net}")
        else:
            target = build(manifest.net, most_layers=len(manifest.tensors))
        _check_claims(target, manifest, buffers)
        tensors = _restored(manifest, buffers)
        target = _swap_in(target, manifest, tensors)
        _fill(target, manifest, tensors)
    except (FileError, MemoryError):
        raise
    except CannotRebuildError as error:
        raise FileError(str(error)) from error
    except Exception as error:  # whatever else a manifest trips over that was forged with its checksum
        raise FileError(f"the file does not fit the net: {error}") from error
    return target.eval()
