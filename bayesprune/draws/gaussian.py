"""``GaussianDraw``: a lazy Gaussian tensor that carries mean and variance until a torch function needs a value.

``GaussianDraw`` is a tensor that has not been drawn yet. Where it meets a function of the table
:data:`bayesprune.draws.local.LOCAL`, activations are sampled instead (local reparameterisation, Kingma et al. 2015, or
flipout). What is affine in it leaves it Gaussian. Any other function gets one ordinary draw, made once and
remembered. So unmodified modules run on it, and no layer needs a Bayesian twin.
"""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor
from torch.utils._pytree import tree_map

from bayesprune.draws.local import (
    COMPOSITE,
    LOCAL,
    AddNoise,
    flipout,
    local,
    refuse_transforms,
    refuse_within_pass,
)

__all__ = ["METADATA", "Estimator", "GaussianDraw", "SecondUseError", "plain", "sampling"]

Estimator = Literal["local", "weight", "flipout"]


class SecondUseError(RuntimeError):
    """A weight whose activations were sampled is used a second time; both uses must see the same weight."""

    def __init__(self, root: "_Root") -> None:
        super().__init__("a weight sampled locally was used twice in one forward pass")
        self.root = root


@dataclass(eq=False)
class _Root:
    """What all lazy views of one draw share: how it is to be sampled, and the ordinary draw once it is made."""

    loc: Tensor
    var: Tensor
    value: Tensor | None = None
    estimator: Estimator = "weight"
    uses: int | None = None  # counted inside `sampling` alone
    sampled: bool = False  # whether activations were sampled in its stead
    graph: bool = field(default_factory=torch.is_grad_enabled)

    def materialise(self) -> Tensor:
        if self.value is None:
            refuse_transforms()  # a value made within a transform would be of that transform
            with torch.set_grad_enabled(self.graph):  # a first look under no_grad must not cost later ones the gradient
                self.value = AddNoise.apply(self.loc, self.var, torch.randn_like(self.loc))
        return self.value

    def use(self) -> None:
        if self.uses is not None:
            self.uses += 1
            if self.uses > 1 and self.estimator != "weight":
                raise SecondUseError(self)


def _refuse(grad: Tensor) -> None:
    raise RuntimeError(
        "a gradient reached a Gaussian draw below torch's function protocol, where it would be lost (a scripted module "
        "or a custom autograd.Function does this); build the net with estimator='weight'"
    )


class GaussianDraw(Tensor):
    """A draw from N(loc, var), entries independent, made only when a function asks for the numbers.

    Args:
        loc: the mean.
        var: the variance, of the same shape, ≥ 0.

    Outside :func:`sampling` it behaves as an ordinary tensor: every use sees the same numbers.

    >>> w = GaussianDraw(torch.zeros(3, 2), torch.ones(3, 2))
    >>> bool((w.sum() == w.sum()).all()), type(w.T).__name__, (2 * w).var[0, 0].item()
    (True, 'GaussianDraw', 4.0)
    """

    loc: Tensor
    var: Tensor  # type: ignore[assignment]
    _root: _Root
    _redo: Callable[[Tensor], Tensor]

    @staticmethod
    def __new__(
        cls,
        loc: Float[Tensor, "*shape"],
        var: Float[Tensor, "*shape"],
        _root: _Root | None = None,
        _redo: Callable[[Tensor], Tensor] = lambda value: value,
    ) -> "GaussianDraw":
        trained = loc.requires_grad or var.requires_grad
        self = Tensor._make_wrapper_subclass(  # type: ignore[attr-defined]
            cls, loc.shape, dtype=loc.dtype, device=loc.device, requires_grad=trained
        )
        if trained:
            with torch._C.DisableTorchFunctionSubclass():
                self.register_hook(_refuse)
        self.loc, self.var, self._redo = loc, var, _redo
        self._root = _Root(loc, var) if _root is None else _root
        return self

    def __repr__(self, *, tensor_contents: Any = None) -> str:  # type: ignore[override]
        return f"GaussianDraw(shape={tuple(self.loc.shape)}, dtype={self.loc.dtype})"

    def value(self) -> Tensor:
        """The ordinary draw, made once and remembered."""
        return self._redo(self._root.materialise())

    @classmethod
    def __torch_function__(
        cls, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if func in METADATA:
            with torch._C.DisableTorchFunctionSubclass():
                return func(*args, **kwargs)
        if func in COMPOSITE:
            return COMPOSITE[func](*args, **kwargs)
        if func in _AFFINE:
            derived = _AFFINE[func](func, args, kwargs)
            if derived is not None:
                return derived
        if func in LOCAL:
            if not torch.is_grad_enabled() and any(lazy._root.graph for lazy in _lazies((args, kwargs))):
                refuse_within_pass("a product is taken within a function that has a backward pass of its own")
            sampled = _sampled(func, args, kwargs)
            if sampled is not None:
                return sampled
        roots = {id(a._root): a._root for a in _lazies((args, kwargs))}
        for root in roots.values():
            root.use()
        return func(*plain(args), **plain(kwargs))

    @classmethod
    def __torch_dispatch__(  # type: ignore[override]
        cls, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        # reached by what is scripted, or by vmap over the draw itself
        refuse_within_pass("a draw is used below torch's function protocol, where its gradient would be lost")
        return func(*plain(args), **plain(kwargs or {}))


def plain(tree: Any) -> Any:
    """``tree`` with every lazy draw in it replaced by its ordinary draw."""
    return tree_map(lambda a: a.value() if isinstance(a, GaussianDraw) else a, tree)


def _lazies(tree: Any) -> list[GaussianDraw]:
    found: list[GaussianDraw] = []
    tree_map(lambda a: found.append(a) if isinstance(a, GaussianDraw) else None, tree)
    return found


@contextmanager
def sampling(draws: Iterable[tuple[GaussianDraw, Estimator]], again: bool = False) -> Iterator[None]:
    """For one forward pass, or a part of it ``again``, sample each draw by its estimator and count its uses.

    Raises:
        SecondUseError: from inside the pass, where a draw with estimator "local" or "flipout" is used twice.
    """
    roots = []
    for draw, estimator in draws:
        root = draw._root
        if estimator != "local":
            known = root.value is not None and not again
            root.materialise()  # here, not where it is used: that may be recomputed
            estimator = "weight" if known else estimator
        roots.append((root, estimator))
    for root, estimator in roots:
        root.estimator, root.uses = estimator, 0
    try:
        yield
    finally:
        for root, _ in roots:
            root.estimator, root.uses = "weight", None


def uses(draw: GaussianDraw) -> int:
    """How often the draw was used so far in the current :func:`sampling` pass."""
    return draw._root.uses or 0


def sampled(draw: GaussianDraw) -> bool:
    """Whether activations were sampled in place of the draw."""
    return draw._root.sampled


def _sampled(func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor | None:
    """Sample the activations, if the weight is lazy, wants that, and the input is no draw itself."""
    call = LOCAL[func](args, kwargs)
    weight, bias = call.weight, call.bias
    if not isinstance(weight, GaussianDraw) or isinstance(call.x, GaussianDraw):
        return None
    root = weight._root
    if root.estimator == "weight" or (root.estimator == "local" and root.value is not None):
        return None
    refuse_transforms()
    root.use()
    root.sampled = True
    if isinstance(bias, GaussianDraw):
        bias._root.use()
    if root.estimator == "local":
        if isinstance(bias, GaussianDraw) and bias._root.estimator == "local" and bias._root.value is None:
            bias._root.sampled = True
            return local(call, weight.loc, weight.var, bias.loc, bias.var)
        return local(call, weight.loc, weight.var, plain(bias), None)
    return flipout(call, weight.loc, weight.value() - weight.loc, plain(bias))


# --- what leaves a draw Gaussian, its entries still independent ---------------------------------------------------

_Rule = Callable[[Callable[..., Any], tuple[Any, ...], dict[str, Any]], GaussianDraw | None]


def _view(func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> GaussianDraw | None:
    """The same entries elsewhere: transposed, reshaped, sliced, cast."""
    if not args or not isinstance(args[0], GaussianDraw) or _lazies((args[1:], kwargs)):
        return None
    draw, rest = args[0], args[1:]
    if func is Tensor.view and any(isinstance(a, torch.dtype) for a in (*rest, *kwargs.values())):
        return None  # the same bits read as other numbers
    if func is Tensor.__getitem__ and not _basic(rest[0]):
        return None  # an index tensor may take one entry twice

    def redo(value: Tensor) -> Tensor:
        return func(value, *rest, **kwargs)

    loc = redo(draw.loc)
    if not isinstance(loc, Tensor) or not loc.is_floating_point():
        return None
    return GaussianDraw(loc, redo(draw.var), draw._root, lambda value: redo(draw._redo(value)))


def _basic(index: Any) -> bool:
    parts = index if isinstance(index, tuple) else (index,)
    return all(p is None or p is Ellipsis or (isinstance(p, (int, slice)) and not isinstance(p, bool)) for p in parts)


def _elementwise(power: int) -> _Rule:
    """``func(draw, c)`` or ``func(c, draw)`` with ``c`` not random: the variance is scaled by ``c²``, or not at all."""

    def rule(func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> GaussianDraw | None:
        lazy = [i for i, a in enumerate(args) if isinstance(a, GaussianDraw)]
        if len(lazy) != 1 or len(args) > 2 or kwargs or (lazy[0] == 1 and func in _NOT_SWAPPED):
            return None
        draw = args[lazy[0]]

        def redo(value: Tensor) -> Tensor:
            return func(*(value if i == lazy[0] else a for i, a in enumerate(args)))

        loc = redo(draw.loc)
        if loc.shape != draw.loc.shape or loc.dtype != draw.loc.dtype:
            return None  # broadcast: one entry would stand in several places
        var = draw.var
        if power:
            for _ in range(2):
                var = func(*(var if i == lazy[0] else a for i, a in enumerate(args)))
        return GaussianDraw(loc, var, draw._root, lambda value: redo(draw._redo(value)))

    return rule


_T = Tensor
_VIEWS: tuple[Any, ...] = (
    *(_T.T.__get__, _T.mT.__get__, _T.t, torch.t, _T.transpose, torch.transpose, _T.permute, torch.permute),  # type: ignore[attr-defined]
    *(_T.swapaxes, _T.movedim, torch.swapaxes, torch.movedim, _T.reshape, torch.reshape, _T.view, _T.flatten),
    *(torch.flatten, _T.unflatten, _T.squeeze, torch.squeeze, _T.unsqueeze, torch.unsqueeze, _T.__getitem__),
    *(_T.narrow, torch.narrow, _T.select, torch.select, _T.contiguous, _T.clone, torch.clone),
    *(_T.to, _T.type_as, _T.float, _T.double, _T.half, _T.bfloat16, _T.cpu, _T.cuda),
)
_SCALED = (_T.mul, torch.mul, torch.multiply, _T.__mul__, _T.__rmul__, _T.neg, torch.neg, _T.__neg__)
_DIVIDED = (_T.div, torch.div, torch.true_divide, _T.__truediv__)
_SHIFTED = (_T.add, torch.add, _T.__add__, _T.__radd__, _T.sub, torch.sub, _T.__sub__, _T.__rsub__)
_NOT_SWAPPED = frozenset(_DIVIDED)  # c / draw is not affine

_AFFINE: dict[Any, _Rule] = {
    **dict.fromkeys(_VIEWS, _view),
    **dict.fromkeys((*_SCALED, *_DIVIDED), _elementwise(2)),
    **dict.fromkeys(_SHIFTED, _elementwise(0)),
}

METADATA: frozenset[Any] = frozenset(
    (
        *(_T.shape.__get__, _T.dtype.__get__, _T.device.__get__, _T.ndim.__get__, _T.layout.__get__),  # type: ignore[attr-defined]
        *(_T.requires_grad.__get__, _T.is_leaf.__get__, _T.is_cuda.__get__, _T.is_sparse.__get__),  # type: ignore[attr-defined]
        *(_T.is_meta.__get__, _T.is_nested.__get__, _T.is_quantized.__get__, _T.grad_fn.__get__),  # type: ignore[attr-defined,union-attr]
        *(_T.size, _T.dim, _T.ndimension, _T.numel, _T.nelement, _T.element_size, _T.__len__),
        *(_T.is_floating_point, torch.is_floating_point, _T.is_complex, torch.is_complex, torch.numel),
        *(_T.stride, _T.is_contiguous, _T.storage_offset, _T.get_device),
    )
)
