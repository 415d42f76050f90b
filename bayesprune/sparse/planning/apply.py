"""Choices applied: each chosen weight packed, where it stands."""

from collections.abc import Iterator, Mapping, Sequence
from itertools import repeat

from torch import Tensor, nn

from bayesprune.sparse.formats import Dense
from bayesprune.sparse.planning.plan import Choice
from bayesprune.sparse.surgery.composites import Call, open_composites
from bayesprune.sparse.surgery.eligibility import weight_matrix
from bayesprune.sparse.surgery.feed_forward import fuse_activation
from bayesprune.sparse.surgery.replace import replace

__all__ = ["apply", "pieces"]


def pieces(net: nn.Module, parts: Sequence[str], mask: Tensor) -> Iterator[tuple[str, Tensor, Tensor]]:
    """Of the weights ``parts`` of layers, one below the other: each one's name, itself and its mask as matrices.

    In place of the mask may be any tensor of the whole weight's shape.
    """
    weights = [net.get_parameter(part) for part in parts]
    rows = [weight.shape[0] for weight in weights]
    for part, weight, own in zip(parts, weights, mask.to(weights[0].device).split(rows), strict=True):
        yield part, weight_matrix(net, part, weight.detach()), weight_matrix(net, part, own)


def apply(
    net: nn.Module,
    choices: Mapping[str, Choice],
    masks: Mapping[str, Tensor],
    calls: Mapping[str, Call],
    variances: Mapping[str, Tensor] | None = None,
) -> nn.Module:
    """Pack the weights that ``choices`` have packed, in place; returns the net, as :func:`~.replace.replace` does."""
    variances = variances or {}
    packed = {name: choice for name, choice in choices.items() if not isinstance(choice.format, Dense)}
    net, parts = open_composites(net, packed, calls)
    for name, choice in packed.items():
        spread = [v for _, _, v in pieces(net, parts[name], variances[name])] if name in variances else repeat(None)
        for (part, weight, mask), variance in zip(pieces(net, parts[name], masks[name]), spread, strict=False):
            trained, path = net.get_parameter(part).requires_grad, part.rpartition(".")[0]
            net = replace(net, path, choice.format.pack(weight, mask, variance), choice.kernel, trained)
            fuse_activation(net, path)
    return net
