"""A safe parser for methods, schedules and formats written as text, such as ``SparseVD(Block(16, 16))``."""

import ast
import inspect
import types
from collections.abc import Callable, Iterable, Mapping
from difflib import get_close_matches
from importlib import import_module
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from bayesprune.pruning.saliency import Saliency

__all__ = ["arguments", "assigned", "fits", "parsed", "saliency_of", "suggestion", "vocabulary"]

T = TypeVar("T")

_HOMES = ("methods", "patterns", "pruning.schedules", "pruning.saliency", "sparse.formats")


def vocabulary() -> dict[str, Any]:
    """Every name that a text may hold: what bayesprune's methods, patterns, schedules, saliencies and formats promise.

    >>> {"SparseVD", "Block", "Cubic", "magnitude", "BSR"} <= vocabulary().keys()
    True
    """
    found: dict[str, Any] = {}
    for home in _HOMES:
        module = import_module(f"bayesprune.{home}")
        named = {name: getattr(module, name) for name in module.__all__}
        found |= {n: v for n, v in named.items() if inspect.isclass(v) or inspect.isfunction(v)}
    return found


def parsed(text: str, kind: type[T], example: str) -> T:
    """The value of a text: a call of names in :func:`vocabulary`, with literals and further calls as its arguments.

    Args:
        text: such as ``"SparseVD(Block(16, 16))"``.
        kind: what it must be.
        example: how one is written, for the errors.

    Raises:
        ValueError: anything else, or arguments that the call does not take.

    >>> from bayesprune.methods import Method
    >>> parsed("SparseVD(Block(4, 1), init_log_scale=-5)", Method, "SparseVD()").pattern
    Block(h=4, w=1)
    >>> parsed("SparseVd()", Method, "SparseVD()")
    Traceback (most recent call last):
    ValueError: 'SparseVd()': there is no 'SparseVd': did you mean SparseVD? One is written SparseVD()
    """
    names = vocabulary()
    try:
        value = _value(_tree(text), names)
        if not isinstance(value, kind):
            bare = inspect.isclass(value) and issubclass(value, kind)
            hint = f"write {value.__name__}()" if bare else f"the names are {', '.join(_of_kind(names, kind))}"
            raise ValueError(f"expected a {kind.__name__.lower()}; {hint}")
    except ValueError as error:
        shown = text if len(text) < 100 else f"{text[:100]}…"
        stop = "" if str(error).endswith("?") else "."
        raise ValueError(f"{shown!r}: {error}{stop} One is written {example}") from None
    return value


def assigned(texts: Iterable[str], kind: type[T], example: str) -> dict[str, T]:
    """Texts such as ``"fc*.weight=SparseVD()"`` as glob → value, in their order.

    Raises:
        ValueError: a text without ``=``, a glob that comes twice, or a value that :func:`parsed` refuses.

    >>> from bayesprune.sparse.formats import Format
    >>> assigned(["fc*=BSR(16, 1)"], Format, "'fc*=BSR(16, 1)'")
    {'fc*': BSR(16, 1)}
    """
    found: dict[str, T] = {}
    for text in texts:
        glob, equals, value = (part.strip() for part in text.partition("="))
        if not (glob and equals and value):
            raise ValueError(f"{text!r}: expected a glob over names, '=' and a {kind.__name__.lower()}, as {example}")
        if glob in found:
            raise ValueError(f"{text!r}: there is one for {glob!r} already, and the first match wins")
        found[glob] = parsed(value, kind, example)
    return found


def saliency_of(name: str) -> Saliency:
    """The saliency of a name. Raises ``ValueError`` where there is none.

    >>> saliency_of("magnitude").__name__
    'magnitude'
    """
    known = {n: f for n, f in vocabulary().items() if inspect.isfunction(f)}
    if name not in known:
        raise ValueError(f"there is no saliency {name!r}; {suggestion(name, known)}")
    return known[name]


def arguments(text: str) -> tuple[str, tuple[Any, ...], dict[str, Any]]:
    """``"mlp(8, hidden=(50,), outputs=1)"`` as its name and literal arguments; a bare name has none.

    Raises:
        ValueError: it is no such call.

    >>> arguments("mlp(8, hidden=(50,), outputs=1)")
    ('mlp', (8,), {'hidden': (50,), 'outputs': 1})
    """
    tree = _tree(text)
    if isinstance(tree, ast.Name):
        return tree.id, (), {}
    if not (isinstance(tree, ast.Call) and isinstance(tree.func, ast.Name)):
        raise ValueError("expected a name, or a name with literal arguments in parentheses")
    return tree.func.id, *_given(tree, {})


def suggestion(name: str, known: Iterable[str]) -> str:
    """What may have been meant, else all there is.

    >>> suggestion("lenet", ["lenet_300_100", "vit"]), suggestion("x", ["lenet_300_100", "vit"])
    ('did you mean lenet_300_100?', 'they are lenet_300_100, vit')
    """
    known = list(known)
    near = [k for k in known if name and name.lower() in k.lower()] or get_close_matches(name, known, n=1)
    return f"did you mean {' or '.join(near)}?" if near else f"they are {', '.join(known)}"


def _of_kind(names: Mapping[str, Any], kind: type) -> list[str]:
    classes = {n: v for n, v in names.items() if inspect.isclass(v) and issubclass(v, kind)}
    return [n for n, v in classes.items() if v is not kind and not inspect.isabstract(v)]


def _tree(text: str) -> ast.expr:
    try:
        return ast.parse(text.strip(), mode="eval").body
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        reason = error.msg if isinstance(error, SyntaxError) else "it is nested too deeply or holds odd characters"
        raise ValueError(f"not readable: {reason}") from None


def _value(tree: ast.expr, names: Mapping[str, Any]) -> Any:
    match tree:
        case ast.Constant(value=value) if not isinstance(value, (bytes, complex, types.EllipsisType)):
            return value
        case ast.UnaryOp(op=ast.USub(), operand=ast.Constant(value=int() | float() as number)):
            return -number
        case ast.Tuple(elts=parts):
            return tuple(_value(part, names) for part in parts)
        case ast.List(elts=parts):
            return [_value(part, names) for part in parts]
        case ast.Name(id=name):
            return _named(name, names)
        case ast.Call(func=ast.Name(id=name)):
            return _called(_named(name, names), *_given(tree, names))
        case _:
            raise ValueError(f"{ast.unparse(tree)!r} is neither a literal nor a call of a known name")


def _named(name: str, names: Mapping[str, Any]) -> Any:
    if name not in names:
        if not names:
            raise ValueError(f"{name!r} is no literal (text stands in quotes)")
        raise ValueError(f"there is no {name!r}: {suggestion(name, names)}")
    return names[name]


def _given(tree: ast.Call, names: Mapping[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
    if any(isinstance(part, ast.Starred) for part in tree.args) or any(k.arg is None for k in tree.keywords):
        raise ValueError("arguments with * or ** are not read")
    keywords = {str(k.arg): _value(k.value, names) for k in tree.keywords}
    return tuple(_value(part, names) for part in tree.args), keywords


def _called(made: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    if not inspect.isclass(made):
        raise ValueError(f"{made.__name__} stands without parentheses")
    if inspect.isabstract(made):
        raise ValueError(f"{made.__name__} is what all of its kind are, and none of them")
    try:
        bound = inspect.signature(made).bind(*args, **kwargs)
    except TypeError as error:
        raise ValueError(
            f"{made.__name__}: {error}; it takes {', '.join(inspect.signature(made).parameters)}"
        ) from None
    hints = get_type_hints(made.__init__)
    for name, value in bound.arguments.items():
        if not fits(value, hints.get(name, Any)):
            hint = hints[name]
            expected = hint.__name__ if inspect.isclass(hint) and get_origin(hint) is None else hint
            raise ValueError(
                f"{made.__name__} needs {name} to be {str(expected).replace('typing.', '')}, got {value!r}"
            )
    return made(*args, **kwargs)


def fits(value: Any, hint: Any) -> bool:
    """Whether a value is of a type as signatures write it; an int is a float too, and what is not understood fits.

    >>> fits(3, float), fits("3", float | None), fits((1, 2.0), tuple[float, float]), fits(True, int)
    (True, False, True, False)
    """
    origin = get_origin(hint)
    if origin in (Union, types.UnionType):
        return any(fits(value, part) for part in get_args(hint))
    if origin is Literal:
        return value in get_args(hint)
    if origin is tuple:
        parts = get_args(hint)
        if not isinstance(value, tuple):
            return False
        if parts[1:] == (...,):
            return all(fits(part, parts[0]) for part in value)
        return len(value) == len(parts) and all(map(fits, value, parts))
    if origin is not None and origin is get_origin(Callable[[], None]):
        return callable(value) and not inspect.isclass(value)
    if hint is None:
        return value is None
    if not inspect.isclass(hint) or origin is not None:
        return True
    if hint in (int, float) and isinstance(value, bool):
        return False
    return isinstance(value, (int, float) if hint is float else hint)
