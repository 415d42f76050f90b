"""A safe parser for methods, schedules and formats written as text, such as ``SparseVD(Block(16, 16))``.

Names are ours, or the user's own as ``my_module:attribute``; no other code is run.
"""

import ast
import inspect
import re
import types
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from importlib import import_module
from itertools import islice
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from bayesprune.pruning.saliency import Saliency
from bayesprune.runs.own import attribute, module_of, telling
from bayesprune.runs.suggestions import suggestion

__all__ = ["arguments", "assigned", "divided", "fits", "names_own", "parsed", "saliency_of", "vocabulary"]

T = TypeVar("T")

_HOMES = ("methods", "patterns", "pruning.schedules", "pruning.saliency", "sparse.formats")
_MOST_CHARACTERS, _MOST_NESTED = 10_000, 50
_OWN = re.compile(  # a text in quotes, which is passed over, or a name of the user's
    r"""'(?:\\.|[^'\\])*'|"(?:\\.|[^"\\])*"|"""
    r"""(?<![\w.])(?P<module>[^\W\d]\w*(?:\.[^\W\d]\w*)*)\s*:\s*(?P<name>[^\W\d]\w*)"""
)
_VALUE = re.compile(r"=\s*(?:[\w.]+\s*:\s*)?[^\W\d]\w*\s*(?:\(|$)")  # where a value, and not more of a glob, follows


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

    A name with a module is the user's own: a class, a function that makes what is asked for, or the thing itself.

    Args:
        text: such as ``"SparseVD(Block(16, 16))"`` or ``"my_module:MyMethod(Block(4, 1), 0.1)"``.
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
    own: dict[str, str] = {}
    try:
        value = _value(_tree(_placed(text, own)), names | {stand_in: _Own(name) for stand_in, name in own.items()})
        if not isinstance(value, kind):
            bare = inspect.isclass(value) and issubclass(value, kind)
            hint = f"write {value.__name__}()" if bare else f"the names are {', '.join(_of_kind(names, kind))}"
            raise ValueError(f"expected a {kind.__name__.lower()}; {hint}")
    except ValueError as error:
        shown = text if len(text) < 100 else f"{text[:100]}…"
        said = str(error)
        for stand_in, name in own.items():
            said = said.replace(stand_in, name)
        raise ValueError(f"{shown!r}: {said}{'' if said.endswith('?') else '.'} One is written {example}") from None
    return value


def names_own(text: str) -> bool:
    """Whether a text names code of the user's: to parse it is to run that.

    >>> names_own("mine:Mine(Block(4, 1))"), names_own("SparseVD(Heads(8, side='a:b'))")
    (True, False)
    """
    return any(found["module"] for found in _OWN.finditer(text))


def assigned(texts: Iterable[str], kind: type[T], example: str) -> dict[str, T]:
    """Texts such as ``"fc*.weight=SparseVD()"`` as glob → value, in their order.

    Raises:
        ValueError: a text without ``=``, a glob that comes twice, or a value that :func:`parsed` refuses.

    >>> from bayesprune.sparse.formats import Format
    >>> assigned(["fc*=BSR(16, 1)"], Format, "'fc*=BSR(16, 1)'")
    {'fc*': BSR(16, 1)}
    """
    return {glob: parsed(value, kind, example) for glob, value in divided(texts, kind, example).items()}


def divided(texts: Iterable[str], kind: type, example: str) -> dict[str, str]:
    """Texts such as ``"fc*.weight=SparseVD()"`` as glob → text of the value, which is not read yet.

    Raises:
        ValueError: a text without ``=``, or a glob that comes twice.

    >>> divided(["heads.a=b.weight=ARD(clip=(-9, 1))", "a=ARD().weight=ARD()"], object, "")
    {'heads.a=b.weight': 'ARD(clip=(-9, 1))', 'a=ARD().weight': 'ARD()'}
    """
    found: dict[str, str] = {}
    for text in texts:
        _check_length(text)
        signs = [found.start() for found in islice(_VALUE.finditer(text), _MOST_NESTED)] or [text.find("=")]
        at = next((sign for sign in signs if _is_whole(text[sign + 1 :])), signs[0])
        glob, value = text[: max(at, 0)].strip(), text[at + 1 :].strip()
        if not (glob and value):
            raise ValueError(f"{text!r}: expected a glob over names, '=' and a {kind.__name__.lower()}, as {example}")
        if glob in found:
            raise ValueError(f"{text!r}: there is one for {glob!r} already, and the first match wins")
        found[glob] = value
    return found


def saliency_of(name: str) -> Saliency:
    """The saliency of a name, ours or ``my_module:mine``. Raises ``ValueError`` where there is none.

    >>> saliency_of("magnitude").__name__
    'magnitude'
    """
    if module := module_of(name):
        own = attribute(module, name.partition(":")[2].strip(), "saliency")
        if not callable(own):
            raise ValueError(f"saliency {name!r} is of type {type(own).__name__}, which cannot be called")
        return own
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


def _of_kind(names: Mapping[str, Any], kind: type) -> list[str]:
    classes = {n: v for n, v in names.items() if inspect.isclass(v) and issubclass(v, kind)}
    return [n for n, v in classes.items() if v is not kind and not inspect.isabstract(v)]


def _placed(text: str, own: dict[str, str]) -> str:
    """The text with a plain name in the place of each of the user's; ``own`` comes to say which stands for which."""

    _check_length(text)

    def place(found: re.Match[str]) -> str:
        if not found["module"]:
            return found[0]
        stand_in = f"_own{len(own)}_"
        own[stand_in] = f"{found['module']}:{found['name']}"
        return stand_in

    return _OWN.sub(place, text)


@dataclass(frozen=True)
class _Own:
    """A name of the user's, whose module is run when a text that can be read comes to it."""

    name: str

    def found(self) -> Any:
        module, _, name = self.name.partition(":")
        return attribute(module, name, "attribute")


def _check_length(text: str) -> None:
    if len(text) > _MOST_CHARACTERS:
        raise ValueError(f"not readable: it has {len(text):,} characters, and {_MOST_CHARACTERS:,} are read")


def _tree(text: str) -> ast.expr:
    """The syntax tree of a text that is neither long nor deep. Raises ``ValueError``."""
    _check_length(text)
    try:
        tree = ast.parse(text.strip(), mode="eval").body
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        reason = error.msg if isinstance(error, SyntaxError) else "it is nested too deeply or holds odd characters"
        raise ValueError(f"not readable: {reason}") from None
    level: list[ast.AST] = [tree]
    for _ in range(_MOST_NESTED):
        level = [child for node in level for child in ast.iter_child_nodes(node)]
    if level:
        raise ValueError(f"not readable: it is nested deeper than {_MOST_NESTED} levels")
    return tree


def _is_whole(text: str) -> bool:
    """Whether a text is a call or a name and nothing more, so that it can be a value."""
    try:
        return isinstance(_tree(_placed(text, {})), ast.Call | ast.Name)
    except ValueError:
        return False


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
    value = names[name]
    return value.found() if isinstance(value, _Own) else value


def _given(tree: ast.Call, names: Mapping[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
    if any(isinstance(part, ast.Starred) for part in tree.args) or any(k.arg is None for k in tree.keywords):
        raise ValueError("arguments with * or ** are not read")
    keywords = {str(k.arg): _value(k.value, names) for k in tree.keywords}
    if len(keywords) < len(tree.keywords):
        given = [str(k.arg) for k in tree.keywords]
        raise ValueError(f"{next(name for name in given if given.count(name) > 1)} is given twice")
    return tuple(_value(part, names) for part in tree.args), keywords


def _called(made: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    name = getattr(made, "__name__", type(made).__name__)
    ours = getattr(made, "__module__", "").partition(".")[0] == "bayesprune"
    if not callable(made) or (ours and not inspect.isclass(made)):
        raise ValueError(f"{name} stands without parentheses")
    if inspect.isabstract(made):
        raise ValueError(f"{name} is what all of its kind are, and none of them")
    try:
        bound = inspect.signature(made).bind(*args, **kwargs)
    except TypeError as error:
        raise ValueError(f"{name}: {error}; it takes {', '.join(inspect.signature(made).parameters)}") from None
    hints = _hints(made.__init__ if inspect.isclass(made) else made)
    for parameter, value in bound.arguments.items():
        if not fits(value, hints.get(parameter, Any)):
            hint = hints[parameter]
            expected = hint.__name__ if inspect.isclass(hint) and get_origin(hint) is None else hint
            raise ValueError(f"{name} needs {parameter} to be {str(expected).replace('typing.', '')}, got {value!r}")
    if ours:
        return made(*args, **kwargs)
    with telling(name):
        return made(*args, **kwargs)


def _hints(made: Any) -> dict[str, Any]:
    """The types of what is taken, as far as they can be read: the user's may name what is imported for types alone."""
    try:
        return get_type_hints(made)
    except (NameError, TypeError, AttributeError):
        return {}


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
