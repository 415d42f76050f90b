"""``Reference``: a dense net and its results, against which a net that takes its place is held."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

from torch import Tensor, nn

from bayesprune._copies import copied
from bayesprune.sparse.checks import each_tensor, run_example
from bayesprune.sparse.kernels.conv_op import composite_conv
from bayesprune.sparse.kernels.ops import composite
from bayesprune.sparse.layers.conv import SparseConv2d
from bayesprune.sparse.layers.linear import SparseLinear
from bayesprune.sparse.surgery.comparison import apart, inputs_like, results

__all__ = ["Reference", "widened"]


def widened(given: object) -> object:
    """An input in float64."""
    return each_tensor(given, lambda x: x.double() if x.is_floating_point() else x)


@dataclass(frozen=True)
class Reference:
    """A dense net, and what it gives on some inputs.

    Args:
        net: in eval mode.
        expected: an input by what it is, and the net's results on it.
        unsteady: the inputs on which two runs of the net itself were found to differ: nothing can be held against
            them but shapes. Filled as nets are compared.

    >>> import torch
    >>> dense = nn.Sequential(nn.Linear(3, 2)).eval()
    >>> reference = Reference.of(dense, torch.ones(5, 3))
    >>> reference.why_not(dense) is None, reference.why_not(nn.Linear(3, 1))
    (True, 'on the example its results have other shapes, dtypes or integers')
    """

    net: nn.Module
    expected: Mapping[str, tuple[object, list[object]]]
    unsteady: list[str] = field(default_factory=list)

    @classmethod
    def of(cls, net: nn.Module, example: object) -> "Reference":
        """Run ``net`` on :func:`~bayesprune.sparse.surgery.comparison.inputs_like` the example.

        What it refuses but the example is left out.
        """
        expected = {}
        for what, given in inputs_like(example).items():
            try:
                expected[what] = given, results(net, given)
            except Exception:  # whatever a forward of the user's raises on what is not its data
                if what == "the example":
                    run_example(net, example)  # which says what is wrong with it
                    raise
        return cls(net, expected)

    def why_not(self, net: nn.Module) -> str | None:
        """Why ``net`` does not compute what this one does, on each of the inputs; None where it does.

        Where results differ by more than a few roundings, as those of a net do that ranks or rounds, they are the same
        all the same if they are in float64 and each packed layer is right on the input that it gets.
        """
        for what, (given, expected) in self.expected.items():
            try:
                got = results(net, given)
            except Exception as error:  # whatever a forward of the user's raises on what it does not expect
                return f"on {what} it raises {type(error).__name__}: {error}"
            far, roundings = apart(expected, got)
            if roundings <= 1 or self._by_roundings(net, given):
                continue
            if apart(expected, results(self.net, given))[1] > 1:
                self.unsteady.append(what)
                if _shapes(expected) == _shapes(got):
                    continue
            if math.isinf(far):
                return f"on {what} its results have other shapes, dtypes or integers"
            return f"on {what} its results differ by {far:.1e} of the largest"
        return None

    def why_not_training(self, net: nn.Module) -> str | None:
        """What ``net`` raises in training mode, where this one runs, on few inputs; None where it runs too."""
        given, _ = list(self.expected.values())[-1]
        try:
            results(net, given, training=True)
        except Exception as error:  # as above
            try:
                results(self.net, given, training=True)
            except Exception:  # it wants targets, or more than one input
                return None
            return f"in training mode it raises {type(error).__name__}: {error}"
        return None

    def differs_on_fast_paths(self, net: nn.Module) -> bool:
        """Whether torch's encoders in this net, on their fast paths, give what those of ``net`` do not.

        That is zeros where the input is padding, in eval mode and without gradients; else no fast path is compared.
        """
        if not any(isinstance(module, nn.TransformerEncoder) for module in self.net.modules()):
            return False
        given, _ = self.expected["the example"]
        return apart(*(results(one, given, fast_paths=True) for one in (self.net, net)))[1] > 1

    def _by_roundings(self, net: nn.Module, given: object) -> bool:
        wrong = list[str]()

        def look(layer: nn.Module, args: tuple, kwargs: dict, out: Tensor) -> None:
            assert isinstance(layer, SparseLinear)
            x = args[0] if args else kwargs["input"]
            if apart([_dense(layer, x).to(out.dtype)], [out])[1] > 1:
                wrong.append(type(layer).__name__)

        handles = [
            m.register_forward_hook(look, with_kwargs=True) for m in net.modules() if isinstance(m, SparseLinear)
        ]
        try:
            results(net, given)
        finally:
            for handle in handles:
                handle.remove()
        if wrong:
            return False
        try:
            ours, theirs = (results(copied(one).double(), widened(given)) for one in (self.net, net))
        except Exception:  # a dtype that is written into a forward
            return False
        return apart(ours, theirs)[0] <= 1e-6


def _dense(layer: SparseLinear, x: Tensor) -> Tensor:
    """What a packed layer computes, in float64 by torch's dense operators."""
    wide = copied(layer).double()
    assert isinstance(wide, SparseLinear)
    if isinstance(wide, SparseConv2d):
        return composite_conv(x.double(), wide._operands(), wide.geometry)
    return composite(x.double(), wide._operands())


def _shapes(found: list[object]) -> list[object]:
    return [(x.shape, x.dtype) if isinstance(x, Tensor) else type(x) for x in found]
