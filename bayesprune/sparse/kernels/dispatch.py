"""The fast path around torch's dispatcher, and when it may be taken."""

import torch
from torch import Tensor, nn
from torch.autograd import forward_ad

__all__ = ["transformed", "unwatched"]

_PLAIN = (Tensor, nn.Parameter)


def unwatched(x: Tensor, values: Tensor | None) -> bool:
    """Would nothing see the op? No gradient, compiler, tracer, profiler, mode, transform, autocast or tensor subclass.

    An op costs about 10 µs on its way through the dispatcher and autograd: at few tokens more than the product.

    >>> x = torch.ones(2)
    >>> unwatched(x, x)
    False
    >>> with torch.no_grad():
    ...     unwatched(x, x)
    True
    """
    return (
        not torch.is_grad_enabled()
        and type(x) in _PLAIN
        and type(values) in _PLAIN
        and not torch.compiler.is_compiling()
        and not torch._C._is_any_autocast_enabled()
        and torch._C._len_torch_dispatch_stack() == 0
        and torch._C._len_torch_function_stack() == 0
        and torch._C._functorch.peek_interpreter_stack() is None
        and torch._C._get_tracing_state() is None
        and forward_ad._current_level < 0
        and not torch.autograd._profiler_enabled()  # type: ignore[attr-defined]
    )


def transformed() -> bool:
    """Whether a transform of ``torch.func`` or forward-mode differentiation is at work, which no op of ours can answer.

    ``torch.compile`` asks once, while it traces, for it traces anew where either is another.

    >>> torch.func.vmap(lambda row: row + transformed())(torch.zeros(2))
    tensor([1., 1.])
    """
    return forward_ad._current_level >= 0 or torch._C._functorch.peek_interpreter_stack() is not None


# as torch.compiler.assume_constant_result marks it, which would import the compiler, 150 MB, for whoever loads a net
transformed._dynamo_marked_constant = True  # type: ignore[attr-defined]
