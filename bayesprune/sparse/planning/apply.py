"""Apply a plan: pack each chosen weight in its layer."""

from collections.abc import Iterator, Mapping, Sequence
from itertools import repeat

from torch import Tensor, nn

from bayesprune.sparse.layers.composite import parts_of
from bayesprune.sparse.planning.plan import Choice
from bayesprune.sparse.surgery.composites import Call, composites_for
from bayesprune.sparse.surgery.eligibility import weight_matrix
from bayesprune.sparse.surgery.feed_forward import fuse_activation
from bayesprune.sparse.surgery.surgery import PackedLayer, Surgery

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
    """Pack the weights that ``choices`` have packed, in place; returns the net, as ``Surgery`` does."""
    variances = variances or {}
    packed = {name: choice for name, choice in choices.items() if not choice.format.is_dense}
    net = Surgery(composites=composites_for(net, packed, calls)).apply(net)
    for name, choice in packed.items():
        parts = parts_of(net, name)
        spread = [v for _, _, v in pieces(net, parts, variances[name])] if name in variances else repeat(None)
        for (part, weight, mask), variance in zip(pieces(net, parts, masks[name]), spread, strict=False):
            path, made = part.rpartition(".")[0], choice.format.pack(weight, mask, variance)
            activation = fuse_activation(net, path, choice.kernel)
            layer = PackedLayer(made.format, choice.kernel, made.shape, activation, choice.contiguous)
            net = Surgery(packed={path: layer}).apply(net, {path: made})
            if variance is not None:
                net.get_submodule(path).carry_variance(variance)  # type: ignore[operator]
    return net
