"""Posterior variances mapped from the fitted weights to the tensors that are saved."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from bayesprune.sparse.buffers.unpack import values_at
from bayesprune.sparse.layers.composite import parts_of
from bayesprune.sparse.layers.conv import SparseConv2d
from bayesprune.sparse.layers.linear import SparseLinear
from bayesprune.sparse.layers.sizes import shrunk

__all__ = ["variances_of"]


def _misfit(net: nn.Module, name: str, expected: tuple[int, ...], got: Tensor) -> ValueError:
    smaller = "; the net was made smaller: take what bp.compact(…).cut(variances) gives" if shrunk(net) else ""
    return ValueError(f"the variances of {name!r} must have its shape {expected}, got {tuple(got.shape)}{smaller}")


def _split(net: nn.Module, name: str, variances: Tensor) -> dict[str, Tensor]:
    """The variances by the names of today: those of an opened module's parameter go to its layers."""
    parts = parts_of(net, name)
    if parts == (name,):
        return {name: variances}
    owners = [(net.get_submodule(part.rpartition(".")[0]), part.rpartition(".")[2]) for part in parts]
    rows = [getattr(owner, leaf).shape[0] for owner, leaf in owners]
    if sum(rows) != variances.shape[0]:
        raise _misfit(net, name, (sum(rows), *variances.shape[1:]), variances)
    return dict(zip(parts, variances.split(rows), strict=True))


def _at_values(net: nn.Module, layer: SparseLinear, name: str, variances: Tensor) -> Tensor:
    """The variances of a packed layer's values."""
    shape = (layer.out_features, layer.in_features)
    if isinstance(layer, SparseConv2d):
        expected = tuple(layer.weight.shape)
        matrix = variances.permute(0, 2, 3, 1).reshape(shape) if tuple(variances.shape) == expected else None
    else:
        expected, turned = shape, tuple(variances.shape) == shape[::-1] and shape[0] != shape[1]
        matrix = (
            variances.T if turned else variances if tuple(variances.shape) == shape else None
        )  # Conv1D is (in, out)
    if matrix is None:
        raise _misfit(net, name, expected, variances)
    if layer.output_scale is not None:
        matrix = matrix * layer.output_scale.cpu()[:, None] ** 2
    if not layer.format.indexed:
        return matrix
    return values_at(matrix, *(x.detach().cpu() for x in (layer.values, layer.crow, layer.col)))


def variances_of(net: nn.Module, variances: Mapping[str, Tensor] | None) -> dict[str, Tensor]:
    """The variance of each entry of the parameters of ``net`` that were given one, by the names these have now.

    Args:
        net: what is saved.
        variances: name → variance of each entry, named and shaped as the weights of the net that was exported.

    Raises:
        ValueError: a name that the net lacks, another shape, or a variance that is negative or not finite.
    """
    if variances is None:
        return {}
    if not isinstance(variances, Mapping):
        raise ValueError(f"variances must be a dict of name -> tensor, got {type(variances).__name__}")
    for name, x in variances.items():
        if not isinstance(x, Tensor) or not x.is_floating_point():
            got = x.dtype if isinstance(x, Tensor) else type(x).__name__
            raise ValueError(f"the variances of {name!r} must be a floating-point tensor, got {got}")
        if x.is_meta:
            raise ValueError(f"the variances of {name!r} are on the meta device and hold no values")
        if not bool((torch.isfinite(x) & (x >= 0)).all()):
            raise ValueError(f"the variances of {name!r} must be finite and not negative")
    parameters = dict(net.named_parameters(remove_duplicate=False))
    packed = {f"{p}.weight" if p else "weight": m for p, m in net.named_modules() if isinstance(m, SparseLinear)}
    found = {}
    every = [pair for name, x in variances.items() for pair in _split(net, name, x.detach().cpu()).items()]
    for name, x in every:
        if name in packed:
            at = f"{name.removesuffix('weight')}values"
            found[at] = _at_values(net, packed[name], name, x)
        elif name not in parameters:
            raise ValueError(f"variances name {name!r}, which the net lacks")
        elif parameters[name].shape != x.shape:
            raise _misfit(net, name, tuple(parameters[name].shape), x)
        else:
            found[name] = x
    return found
