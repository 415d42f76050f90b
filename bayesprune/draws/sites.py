"""Pyro param sites that live in an ``nn.Module``, not in Pyro's global param store.

Pyro's optimisers, handlers and ELBOs find a parameter by its *site*; where the tensor lives does not matter to them.
So a variational parameter stays an ordinary ``nn.Parameter``: ``torch.optim``, ``deepcopy``, ``state_dict`` and
distributed training work as for any module, and two models in one process cannot mix up their parameters.
"""

import weakref
from typing import Any

import torch
from pyro.distributions import constraints
from pyro.poutine.runtime import effectful
from torch import Tensor, nn

__all__ = ["DenseGradient", "param_site"]


class DenseGradient(torch.autograd.Function):
    """The value itself; a sparse gradient goes on as a dense one, for views and draws have no sparse backward."""

    generate_vmap_rule = True

    @staticmethod
    def forward(value: Tensor) -> Tensor:
        return value.view_as(value)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor], output: Tensor) -> None:
        pass

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        return grads[0].to_dense() if grads[0].is_sparse else grads[0]


def param_site(name: str, parameter: nn.Parameter) -> Tensor:
    """Announce ``parameter`` to Pyro as a param site called ``name``, and return its value.

    Args:
        name: the site's name, unique in the model and guide.
        parameter: any leaf; its constraint is the whole real line.

    Returns:
        A view of ``parameter`` that gradients flow through. Outside Pyro's handlers that is all that happens.

    >>> import pyro, torch
    >>> p = nn.Parameter(torch.ones(2))
    >>> trace = pyro.poutine.trace(lambda: param_site("p", p)).get_trace()
    >>> trace.nodes["p"]["value"].unconstrained() is p, len(pyro.get_param_store())
    (True, 0)
    """
    value = parameter.view_as(parameter)  # a handle of its own: the leaf itself carries no Pyro attribute
    # Pyro asks a site's value for the tensor to optimise; its own module-local mode answers with such a reference.
    value.unconstrained = weakref.ref(parameter)  # type: ignore[attr-defined]
    announce = effectful(type="param")(lambda *args, **kwargs: value)
    return announce(name, parameter, constraint=constraints.real, name=name)
