"""Surgery as a value: the modules of a net that are composites, smaller, packed or gone. Done to a net, and undone."""

import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType

from torch import nn

from bayesprune.sparse.activations import ACTIVATIONS, activation_in, activation_of
from bayesprune.sparse.formats import Format, SparseWeight
from bayesprune.sparse.layers.composite import Composite
from bayesprune.sparse.layers.conv import SparseConv2d
from bayesprune.sparse.layers.linear import SparseLinear
from bayesprune.sparse.layers.sizes import SizeChange, resize, shrunk
from bayesprune.sparse.surgery.composites import above, composites_in, open_composite
from bayesprune.sparse.surgery.feed_forward import remove_activation, restore_activation
from bayesprune.sparse.surgery.fuse import identities_in, replace_by_identity
from bayesprune.sparse.surgery.replace import put, replace

__all__ = ["PackedLayer", "Surgery"]


@dataclass(frozen=True)
class PackedLayer:
    """How a layer runs packed.

    Args:
        format, kernel: what holds the weight, and what multiplies.
        shape: of the weight as a matrix, ``(out, in)``.
        activation: what is worked out in it.
        contiguous: whether a convolution's result is, and not channels-last.
    """

    format: Format
    kernel: str
    shape: tuple[int, int]
    activation: str = ""
    contiguous: bool = False


@dataclass(frozen=True)
class Surgery:
    """What was changed in a net in place, by the paths of its modules.

    Args:
        composites: the modules that read their own weights and were taken apart into layers, and whether each is split.
        sizes: the modules that are smaller than their classes made them: each size before and now.
        packed: the layers that run packed.
        identities: where an ``nn.Identity`` stands in the place of what a packed layer works out.

    >>> net = nn.Sequential(nn.TransformerEncoderLayer(8, 2, 16))
    >>> done = Surgery(composites={"0.self_attn": False}).apply(net)
    >>> Surgery.of(done).composites, type(done[0].self_attn).__name__
    ({'0.self_attn': False}, 'SparseAttention')
    >>> type(Surgery.of(done).undo(done)[0].self_attn).__name__
    'MultiheadAttention'
    """

    composites: Mapping[str, bool] = field(default_factory=dict)
    sizes: Mapping[str, Mapping[str, SizeChange]] = field(default_factory=dict)
    packed: Mapping[str, PackedLayer] = field(default_factory=dict)
    identities: Sequence[str] = ()

    @classmethod
    def of(cls, net: nn.Module) -> "Surgery":
        """What was done to ``net``, as its modules tell."""
        packed = {
            path: PackedLayer(
                *(m.format, m.kernel, (m.out_features, m.in_features), m.activation),
                contiguous=isinstance(m, SparseConv2d) and m.contiguous,
            )
            for path, m in net.named_modules(remove_duplicate=False)
            if isinstance(m, SparseLinear)
        }
        return cls(composites_in(net), shrunk(net), packed, identities_in(net))

    def reshape(self, net: nn.Module) -> nn.Module:
        """Take the composites of ``net`` apart and make its modules smaller, in place; returns the net.

        Raises:
            ValueError: the net has no such module, or one that cannot be so.
        """
        for path, split in self.composites.items():
            try:
                net = open_composite(net, path, split)
            except (AttributeError, ValueError) as error:
                raise ValueError(f"{path!r} cannot be taken apart: {error}") from error
        for path, changes in self.sizes.items():
            try:
                resize(net.get_submodule(path), changes)
            except (AttributeError, ValueError) as error:
                raise ValueError(f"{path!r} cannot be made smaller: {error}") from error
        for path in self.composites:
            module = net.get_submodule(path)
            assert isinstance(module, Composite)
            try:
                module.check()
            except ValueError as error:
                raise ValueError(f"{path!r} cannot be made smaller: {error}") from error
        return net

    def apply(self, net: nn.Module, weights: Mapping[str, SparseWeight] = MappingProxyType({})) -> nn.Module:
        """Do all of it to ``net``, in place; returns the net, which is a new module where its path is empty.

        torch's encoders around what was changed lose the fast paths that would pass over it.

        Args:
            net: as its classes make it.
            weights: of each packed layer.

        Raises:
            ValueError: the net has no such module, or one that cannot be so.
        """
        return self.pack(self.reshape(net), weights)

    def pack(self, net: nn.Module, weights: Mapping[str, SparseWeight]) -> nn.Module:
        """The rest of :meth:`apply`, for a net that :meth:`reshape` was done to."""
        for path, layer in self.packed.items():
            net = replace(net, path, weights[path], layer.kernel, layer.activation, layer.contiguous)
            if layer.activation:
                remove_activation(net, path)
        for path in self.identities:
            replace_by_identity(net, path)
        _set_fast_paths(net, (*self.composites, *self.packed), on=False)
        return net

    def undo(self, net: nn.Module) -> nn.Module:
        """Give ``net``, to which this was done, torch's own dense modules again, in place; returns the net.

        Zeros are stored and results stay. What was made smaller stays so, and so does a composite that lost heads, for
        torch's has all of them; an activation that stood in a module of its own stands behind its layer, and a batch
        normalisation stays part of it.
        """
        for path in self.packed:
            layer = net.get_submodule(path)
            if not isinstance(layer, SparseLinear):
                continue  # one module under several paths
            made = _dense(layer)
            net = put(net, path, made)
            if layer.activation and not restore_activation(net, path, layer.activation):
                net = put(net, path, nn.Sequential(made, ACTIVATIONS[layer.activation].layer()))
        for path in self.composites:
            module = net.get_submodule(path)
            smaller = any(at == path or at.startswith(f"{path}." if path else "") for at in self.sizes)
            if isinstance(module, Composite) and not smaller:
                net = put(net, path, module.closed())
        _set_fast_paths(net, (*self.composites, *self.packed), on=True)
        return net


def _dense(layer: SparseLinear) -> nn.Module:
    bias, weight = layer.bias is not None, layer.weight
    made: nn.Module
    if isinstance(layer, SparseConv2d):
        g = layer.geometry
        made = nn.Conv2d(
            layer.in_channels, layer.out_channels, g.kernel, g.stride, g.padding, g.dilation, g.groups, bias
        )
    else:
        made = nn.Linear(layer.in_features, layer.out_features, bias)
    made.to(weight).load_state_dict({"weight": weight, **({"bias": layer.bias} if bias else {})})
    return made


def _has_nested(encoder: nn.TransformerEncoder) -> bool:
    """What the constructor decides on ``use_nested_tensor``."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return nn.TransformerEncoder(encoder.layers[0], 0, None, encoder.enable_nested_tensor).use_nested_tensor


def _set_fast_paths(net: nn.Module, inside: Iterable[str], *, on: bool) -> None:
    """Give the encoders around the modules ``inside`` the fast paths that torch gives them, or none."""
    around = [net.get_submodule(path) for path in dict.fromkeys(p for at in inside for p in reversed(above(at)))]
    for module in around:
        if type(module) is nn.TransformerEncoderLayer:
            activation = (activation_in(module.activation) or activation_of(module.activation)) if on else None
            module.activation_relu_or_gelu = activation.fast_path if activation else 0
    for module in around:
        if isinstance(module, nn.TransformerEncoder):
            module.use_nested_tensor = on and _has_nested(module)
