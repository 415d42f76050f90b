"""Posterior variances that modules carry from the export until they are saved."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from bayesprune.sparse.layers.composite import parts_of
from bayesprune.sparse.layers.linear import SparseLinear
from bayesprune.sparse.layers.sizes import shrunk

__all__ = ["carry_variances", "variances_of"]


def carry_variances(net: nn.Module, variances: Mapping[str, Tensor]) -> None:
    """Have the modules of ``net`` carry the variance of each entry of their parameters, in place.

    A packed layer has it as its buffer ``variance``, as its values lie; any other module beside its parameters. No
    ``state_dict`` and no file holds it.

    Args:
        net: what was exported, or is about to be.
        variances: name → variance of each entry, named and shaped as before modules were taken apart and packed.

    Raises:
        ValueError: a name that the net lacks, another shape, or no floating-point tensor.
    """
    if not isinstance(variances, Mapping):
        raise ValueError(f"variances must be a dict of name -> tensor, got {type(variances).__name__}")
    for name, x in variances.items():
        if not isinstance(x, Tensor) or not x.is_floating_point():
            got = x.dtype if isinstance(x, Tensor) else type(x).__name__
            raise ValueError(f"the variances of {name!r} must be a floating-point tensor, got {got}")
        if x.is_meta:
            raise ValueError(f"the variances of {name!r} are on the meta device and hold no values")
        parts = [part.rpartition(".") for part in parts_of(net, name)]
        try:
            owners = [(net.get_submodule(path), leaf) for path, _, leaf in parts]
            own = [getattr(module, leaf) for module, leaf in owners]
        except AttributeError as error:
            raise ValueError(f"variances name {name!r}, which the net lacks") from error
        rows = [tensor.shape[0] for tensor in own] if len(own) > 1 else []
        expected = (sum(rows), *own[0].shape[1:]) if rows else tuple(own[0].shape)
        turned = (
            x.dim() == 2 and expected[::-1] == tuple(x.shape) and isinstance(owners[0][0], SparseLinear)
        )  # Conv1D's is (in, out)
        if tuple(x.shape) != expected and not turned:
            smaller = "; the net was made smaller: take what bp.compact(…).cut(variances) gives" if shrunk(net) else ""
            raise ValueError(f"the variances of {name!r} must have its shape {expected}, got {tuple(x.shape)}{smaller}")
        x = x.detach() if tuple(x.shape) == expected else x.detach().T
        for (module, leaf), variance in zip(owners, x.split(rows) if rows else (x,), strict=True):
            if isinstance(module, SparseLinear) and leaf == "weight":
                module.carry_variance(module.as_matrix(variance))
            else:
                module._variances = {**getattr(module, "_variances", {}), leaf: variance}  # type: ignore[assignment]


def variances_of(net: nn.Module) -> dict[str, Tensor]:
    """The variances that the modules of ``net`` carry, by the first names of the parameters they belong to.

    Raises:
        ValueError: one that is negative or not finite.

    >>> layer = nn.Linear(2, 1)
    >>> carry_variances(layer, {"weight": torch.ones(1, 2)})
    >>> variances_of(layer), list(layer.state_dict())
    ({'weight': tensor([[1., 1.]])}, ['weight', 'bias'])
    """
    found: dict[str, Tensor] = {}
    for path, module in net.named_modules():
        prefix = f"{path}." if path else ""
        found |= {prefix + leaf: x for leaf, x in getattr(module, "_variances", {}).items()}
        if isinstance(module, SparseLinear) and module.variance is not None:
            found[f"{prefix}values"] = module.variance
    for name, x in found.items():
        if not bool((torch.isfinite(x) & (x >= 0)).all()):
            raise ValueError(f"the variances of {name!r} must be finite and not negative")
    return found
