"""``to_onnx``: a dense net, or one made smaller, as an ONNX file that ONNX Runtime was seen to run as torch does."""

import logging
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from bayesprune._copies import copied
from bayesprune._extras import needed_by
from bayesprune._files import replace
from bayesprune.sparse.checks import each_tensor, run_example
from bayesprune.sparse.layers.linear import SparseLinear
from bayesprune.sparse.surgery.comparison import apart, inputs_like, results

__all__ = ["OnnxFile", "program_of", "to_onnx"]

_MOST_BYTES = 2**31 - 1  # of one message of protocol buffers
_TOLERANCE = 1e-4  # relative to the largest entry: float32, summed in another order


@dataclass(frozen=True)
class OnnxFile:
    """An ONNX file that was written and checked.

    Attributes:
        path: the file.
        nbytes: its size.
        inputs: the names of its inputs, in their order.
        difference: the largest difference between ONNX Runtime's outputs and torch's, relative to the largest entry, on
            the example, on noise of its shape and on another number of examples.
    """

    path: Path
    nbytes: int
    inputs: tuple[str, ...]
    difference: float


@needed_by("bayesprune.to_onnx")
def to_onnx(
    net: nn.Module, path: str | PathLike[str], example: Any, *, any_batch: bool = True, tolerance: float = _TOLERANCE
) -> OnnxFile:
    """Write a net as ONNX, run it in ONNX Runtime, and compare with torch; what differs is refused and not written.

    For dense nets and for those of :func:`bayesprune.compact`, whose smaller layers are ordinary ones. ONNX has no
    operator for packed weights: keep those in :func:`bayesprune.save`'s file.

    Args:
        net: the net; a copy of it in eval mode is written.
        path: the file; one that is there is replaced by the whole.
        example: a batch of inputs: a tensor, or a tuple or mapping of several, with the examples along the first axis.
        any_batch: let the file take any number of examples; else the example's alone.
        tolerance: how far outputs may differ from torch's, relative to the largest entry.

    Raises:
        ImportError: onnx, onnxscript or onnxruntime is not installed.
        ValueError: packed layers; a net that cannot run on the example or be exported; outputs that differ.
        FileNotFoundError, IsADirectoryError: there is no such folder, or ``path`` is one.

    >>> import tempfile
    >>> net = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
    >>> to_onnx(net, Path(tempfile.mkdtemp()) / "net.onnx", torch.randn(3, 4)).difference < 1e-5
    True
    """
    import onnxruntime

    target = Path(path)
    if target.is_dir():
        raise IsADirectoryError(f"{str(target)!r} is a folder: name a file in it")
    if not target.parent.is_dir():
        raise FileNotFoundError(f"there is no folder {str(target.parent)!r} to write into; make it first")
    alone = _plain(net)
    example = each_tensor(example, Tensor.cpu)
    run_example(alone, example)
    several = (
        each_tensor(example, lambda x: torch.cat([x, x]) if x.dim() and len(x) == 1 else x) if any_batch else example
    )
    try:
        data = program_of(alone, several, any_batch).model_proto.SerializeToString()
    except Exception as error:  # of many kinds, with traces of many pages
        first = str(error.__cause__ or error).strip().partition("\n")[0]
        more = ": any_batch=False writes it for the example's number of examples alone" if any_batch else ""
        raise ValueError(f"the net cannot be written as ONNX ({type(error).__name__}: {first}){more}") from error
    if len(data) > _MOST_BYTES:
        raise ValueError(f"the net takes {len(data):,} bytes as ONNX, and one file holds {_MOST_BYTES:,} at most")
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3  # errors
    session = onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])
    difference = 0.0
    for what, given in inputs_like(example).items():
        if not any_batch and what.startswith("a batch of"):
            continue
        expected: list[object] = [x for x in results(alone, given) if isinstance(x, Tensor)]
        found: list[object] = [torch.from_numpy(x) for x in session.run(None, _fed(session, given))]
        far = apart(expected, found)[0]
        if not far <= tolerance:
            raise ValueError(
                f"ONNX Runtime differs from torch on {what} by {far:.2g} of the largest entry, more than "
                f"{tolerance:g}: nothing is written to {target}"
            )
        difference = max(difference, far)
    replace(target, lambda fresh: fresh.write_bytes(data))
    return OnnxFile(target, len(data), tuple(one.name for one in session.get_inputs()), difference)


def program_of(net: nn.Module, example: Any, any_batch: bool = False) -> Any:
    """The net as torch's ONNX program, written without a word; it is traced on ``example``.

    Raises:
        Exception: whatever torch's exporter raises.
    """
    args, named = ((), dict(example)) if isinstance(example, Mapping) else (_args(example), {})
    shapes: Any = None
    if any_batch:
        batch = torch.export.Dim("batch")
        axes = [{0: batch} if isinstance(x, Tensor) and x.dim() else None for x in (*args, *named.values())]
        shapes = dict(zip(named, axes, strict=True)) if named else tuple(axes)
    exporter = logging.getLogger("torch.onnx")
    level = exporter.level
    exporter.setLevel(logging.ERROR)  # it warns of each library that it could also export
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            program = torch.onnx.export(net, args, kwargs=named, dynamic_shapes=shapes, dynamo=True, verbose=False)
    finally:
        exporter.setLevel(level)
    assert program is not None
    return program


def _plain(net: nn.Module) -> nn.Module:
    """A copy of a dense net, in eval mode and on the CPU."""
    if not isinstance(net, nn.Module):
        hint = "; bp.compact(…).net is one" if isinstance(getattr(net, "net", None), nn.Module) else ""
        raise ValueError(f"expected a net, an nn.Module, got {type(net).__name__}{hint}")
    packed = [path for path, module in net.named_modules() if isinstance(module, SparseLinear)]
    if packed:
        raise ValueError(
            f"{packed[0]!r} is packed, and ONNX has no operator for that: give the net before bp.export, made "
            "smaller by bp.compact or with its masked weights at 0"
        )
    return copied(net, {}).cpu().eval()


def _args(example: Any) -> tuple[Any, ...]:
    return tuple(example) if isinstance(example, (tuple, list)) else (example,)


def _fed(session: Any, example: Any) -> dict[str, Any]:
    """The arrays that a session takes, by its own names."""
    names = [one.name for one in session.get_inputs()]
    if isinstance(example, Mapping) and set(names) <= set(example):
        return {name: example[name].cpu().contiguous().numpy() for name in names}
    tensors = [x for x in tree_leaves(example) if isinstance(x, Tensor)]
    if len(names) != len(tensors):
        raise ValueError(
            f"the ONNX net has the inputs {', '.join(names)}, and the example holds {len(tensors)} tensors"
        )
    return {name: x.detach().cpu().contiguous().numpy() for name, x in zip(names, tensors, strict=True)}
