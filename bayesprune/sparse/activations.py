"""Activations that a product can end with: each is one value, which every kernel, file and net rewrite reads.

A new activation is a value and its place in the table. ``registers`` and ``triton`` say how our kernels compute it:
the first writes LLVM IR through :class:`Registers`, the second is the body of a Triton function. Importing this module
imports neither.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cache
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Protocol, no_type_check, runtime_checkable

import torch.nn.functional as F
from torch import Tensor, nn

if TYPE_CHECKING:
    import triton.language as tl

__all__ = ["ACTIVATIONS", "Activation", "Registers", "activation_in", "activation_of", "in_triton"]


@runtime_checkable
class Registers(Protocol):
    """What an activation may write: arithmetic on float32 registers, each call one or several instructions."""

    def number(self, like: Any, value: float) -> Any:
        """A constant, as many lanes wide as ``like``."""

    def plus(self, a: Any, b: Any) -> Any: ...
    def times(self, a: Any, b: Any) -> Any: ...
    def over(self, a: Any, b: Any) -> Any: ...
    def positive(self, x: Any) -> Any:
        """x where it is not below 0, else 0; NaN stays."""

    def exp(self, x: Any) -> Any:
        """Within 2 units in the last place; infinity from 88.4 on, 1.2e-38 below −87.3."""

    def erf(self, x: Any) -> Any: ...
    def tanh(self, x: Any) -> Any: ...


@dataclass(frozen=True, eq=False)
class Activation:
    """An elementwise function, in every form that it is met in.

    Args:
        name: as layers, ops and files know it.
        function: on tensors, differentiable; torch's own where it has one.
        module: what computes it as a layer of a net; None for no activation at all.
        settings: the attributes that such a module then has.
        registers: the same on float32 registers.
        triton: the same as the body of a Triton function of float32 sums.
        fast_path: the number that torch's encoder layers know it by, for their fused kernel; 0 where they do not.
    """

    name: str
    function: Callable[[Tensor], Tensor]
    module: type[nn.Module] | None
    registers: Callable[[Registers, Any], Any]
    triton: Callable[..., Any]
    settings: Mapping[str, object] = field(default_factory=dict)
    fast_path: int = 0

    def __call__(self, x: Tensor) -> Tensor:
        return self.function(x)

    def is_of(self, module: nn.Module) -> bool:
        """Whether ``module`` computes this."""
        exact = self.module is not None and type(module) is self.module
        return exact and all(getattr(module, name) == value for name, value in self.settings.items())

    def layer(self) -> nn.Module:
        """A module that computes it."""
        return nn.Identity() if self.module is None else self.module(**self.settings)


def _itself(x: Any) -> Any:
    return x


def _of_registers(r: Registers, x: Any) -> Any:
    return x


def _relu_of_registers(r: Registers, x: Any) -> Any:
    return r.positive(x)


@no_type_check
def _relu_in_triton(x):
    return tl.where(x < 0.0, 0.0, x)  # NaN stays, as in torch


def _gelu_of_registers(r: Registers, x: Any) -> Any:
    z = r.times(x, r.number(x, 0.5**0.5))
    return r.times(r.times(x, r.number(x, 0.5)), r.plus(r.number(x, 1.0), r.erf(z)))


@no_type_check
def _gelu_in_triton(x):
    return 0.5 * x * (1.0 + tl.erf(x * 0.7071067811865476))


def _gelu_tanh(x: Tensor) -> Tensor:
    return F.gelu(x, approximate="tanh")


def _gelu_tanh_of_registers(r: Registers, x: Any) -> Any:
    cube = r.times(r.times(x, x), r.times(x, r.number(x, 0.044715)))
    z = r.times(r.plus(x, cube), r.number(x, (2 / 3.141592653589793) ** 0.5))
    return r.times(r.times(x, r.number(x, 0.5)), r.plus(r.number(x, 1.0), r.tanh(z)))


@no_type_check
def _gelu_tanh_in_triton(x):  # ½ (1 + tanh u) = 1 / (1 + exp(−2u))
    return x / (1.0 + tl.exp(-1.5957691216057308 * (x + 0.044715 * x * x * x)))


def _silu_of_registers(r: Registers, x: Any) -> Any:
    return r.over(x, r.plus(r.number(x, 1.0), r.exp(r.times(x, r.number(x, -1.0)))))


@no_type_check
def _silu_in_triton(x):
    return x / (1.0 + tl.exp(-x))


NONE = Activation("", _itself, None, _of_registers, _itself)
RELU = Activation("relu", F.relu, nn.ReLU, _relu_of_registers, _relu_in_triton, fast_path=1)
GELU = Activation("gelu", F.gelu, nn.GELU, _gelu_of_registers, _gelu_in_triton, {"approximate": "none"}, fast_path=2)
GELU_TANH = Activation(
    "gelu_tanh", _gelu_tanh, nn.GELU, _gelu_tanh_of_registers, _gelu_tanh_in_triton, {"approximate": "tanh"}, 2
)
SILU = Activation("silu", F.silu, nn.SiLU, _silu_of_registers, _silu_in_triton)

ACTIVATIONS: Mapping[str, Activation] = MappingProxyType({a.name: a for a in (NONE, RELU, GELU, GELU_TANH, SILU)})


def activation_of(module: object) -> Activation | None:
    """The activation that a module computes; None for any other.

    >>> activation_of(nn.GELU("tanh")).name, activation_of(nn.Tanh())
    ('gelu_tanh', None)
    """
    if not isinstance(module, nn.Module):
        return None
    return next((activation for activation in ACTIVATIONS.values() if activation.is_of(module)), None)


def activation_in(function: object) -> Activation | None:
    """The activation that a function of torch is, as its transformer layers hold it; None for any other.

    >>> activation_in(F.silu).name
    'silu'
    """
    return next((activation for activation in ACTIVATIONS.values() if activation.function is function), None)


@cache
def in_triton(activation: Activation) -> Any:
    """The Triton function of an activation; None for no activation. Triton is imported here, and needed."""
    global tl  # the bodies above find it where Triton looks for names: among their module's
    import triton
    import triton.language as tl

    return None if activation is NONE else triton.jit(activation.triton)
