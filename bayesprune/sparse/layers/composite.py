"""Composite modules (attention, RNNs) that bypass their children's forward and are replaced as a unit."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

__all__ = ["Composite", "blank_linear", "hooked", "parts_of"]


def hooked(module: nn.Module) -> bool:
    """Whether anything was hung onto the call of ``module``, which may read its weights."""
    hooks = (module._forward_hooks, module._forward_pre_hooks, module._backward_hooks, module._backward_pre_hooks)
    return any(hooks) or "forward" in vars(module)


def blank_linear(into: int, out: int, bias: bool) -> nn.Linear:
    """A linear layer without values, for :meth:`Composite.take` to fill."""
    return nn.Linear(into, out, bias, device="meta")


def _built(module: nn.Module) -> list[dict[str, object]]:
    """The classes of the modules and the shapes of the tensors within."""
    return [
        {name: type(m) for name, m in module.named_modules()},
        {name: x.shape for name, x in module.named_parameters()},
        {name: x.shape for name, x in module.named_buffers()},
    ]


class Composite(nn.Module, ABC):
    """A module of torch's that reads its own weights, with a linear layer in the place of each.

    It computes what torch's module computes, and calls the layers, so that any of them can be packed. The names of
    torch's parameters give dense copies, for code that reads them.

    A new one is a file with one subclass, and one line in ``bayesprune.sparse.surgery.composites``. Its
    ``__init__(module, split)`` reads the settings off torch's module, makes the layers with :func:`blank_linear` and
    ends with ``self.take(module)``.
    """

    split: bool
    _own: tuple[str, ...] = ()  # torch's parameters that lie in layers here

    @abstractmethod
    def parts(self, name: str) -> tuple[str, ...]:
        """The parameters here that, one below the other, are the parameter ``name`` of torch's module."""

    @abstractmethod
    def skeleton(self) -> nn.Module:
        """torch's module with the same settings, on the meta device."""

    @classmethod
    def splits(cls, args: tuple, kwargs: Mapping[str, object]) -> bool:
        """Whether a call of torch's module with these arguments is faster where its packed projections are apart."""
        return False

    def check(self) -> None:
        """Raise ``ValueError`` where the settings and the layers do not go together, as after a change of sizes."""
        return

    def take(self, module: nn.Module) -> None:
        """Make the parameters of ``module`` this one's own, and its mode."""
        own = (name for name, parameter in module._parameters.items() if parameter is not None)
        self._own = tuple(name for name in own if self.parts(name) != (name,))
        for name, parameter in module.named_parameters():
            parts = self.parts(name)
            if len(parts) == 1:
                self._put(parts[0], parameter)
                continue
            rows = [self.get_parameter(part).shape[0] for part in parts]
            for part, value in zip(parts, parameter.detach().split(rows), strict=True):
                self._put(part, nn.Parameter(value.clone(), parameter.requires_grad))
        self.train(module.training)

    def _put(self, name: str, parameter: nn.Parameter) -> None:
        path, _, leaf = name.rpartition(".")
        setattr(self.get_submodule(path), leaf, parameter)

    def _read(self, name: str) -> Tensor:
        """A dense copy of torch's parameter ``name``."""
        owners = ((self.get_submodule(part.rpartition(".")[0]), part) for part in self.parts(name))
        return torch.cat([getattr(owner, part.rpartition(".")[2]) for owner, part in owners])

    def __getattr__(self, name: str) -> Any:
        return self._read(name) if name in self._own else super().__getattr__(name)

    def closed(self) -> nn.Module:
        """torch's module again, with dense copies of the values."""
        module = self.skeleton()
        for name, _ in list(module.named_parameters()):
            path, _, leaf = name.rpartition(".")
            setattr(module.get_submodule(path), leaf, nn.Parameter(self._read(name).detach()))
        return module.train(self.training)

    @classmethod
    def refusal(cls, module: nn.Module) -> str | None:
        """Why ``module`` cannot be opened; None where it can."""
        kind = type(module).__name__
        if any(hooked(m) for m in module.modules()):
            return f"{kind} carries hooks, which may read its weights"
        try:
            made = cls(module, False).skeleton()
        except AttributeError:
            return f"{kind} was changed after it was made"
        return None if _built(module) == _built(made) else f"{kind} was changed after it was made"


def parts_of(net: nn.Module, name: str) -> tuple[str, ...]:
    """What the parameter ``name`` of the net before any module was opened is now: itself, or parts one below the other.

    >>> parts_of(nn.Linear(2, 2), "weight")
    ('weight',)
    """
    for path, module in net.named_modules():
        prefix = f"{path}." if path else ""
        if isinstance(module, Composite) and name.removeprefix(prefix) in module._own and name.startswith(prefix):
            return tuple(prefix + part for part in module.parts(name.removeprefix(prefix)))
    return (name,)
