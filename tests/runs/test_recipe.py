"""Recipes and the texts in them: what is written reads back the same, and what cannot be read says why."""

import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bayesprune import methods, patterns
from bayesprune.methods import HardConcrete, Method, SparseVD
from bayesprune.patterns import Block, Channel, Heads
from bayesprune.pruning import Callback, Cubic
from bayesprune.pruning.saliency import magnitude
from bayesprune.runs.expressions import arguments, assigned, divided, fits, parsed, saliency_of, vocabulary
from bayesprune.runs.recipe import Recipe
from bayesprune.sparse.formats import BSR, CSR, Format

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=30)
RATE = st.floats(1e-12, 1e3)
RULE = st.sampled_from(["a.weight=SparseVD()", "é*=ARD(Block(2, 3))", "[ab].w=HardConcrete(Channel(-1))"])


@settings(deadline=None)
@given(
    st.fixed_dictionaries(
        {
            "net": TEXT,
            "data": TEXT,
            "rules": st.lists(RULE, unique=True).map(tuple),
            "epochs": st.integers(1, 10**6),
            "lr": RATE,
            "warmup": st.none() | st.floats(0, 1e6),
            "prune": st.none() | RATE.filter(lambda keep: keep <= 1).map("Cubic(keep={!r})".format),
            "start": st.none() | TEXT,
            "seed": st.integers(0, 2**63 - 1),
            "versions": st.dictionaries(TEXT, TEXT, max_size=3),
        }
    )
)
def test_what_a_recipe_writes_reads_back_the_same(values: dict[str, Any]) -> None:
    recipe = Recipe(**values)
    again = Recipe.read_text(recipe.to_toml())
    assert again == recipe and again.versions == recipe.versions
    assert list(again.methods()) == [rule.partition("=")[0] for rule in recipe.rules]


def test_a_recipe_is_plain_toml_in_the_order_of_its_rules() -> None:
    rules = ("b*=SparseVD()", "a*=ARD()", "*=SparseVD()")
    found = tomllib.loads(Recipe("vit", "cifar10", rules=rules, lr=1e-3).to_toml())
    assert found["rules"] == list(rules) and found["lr"] == 1e-3 and "warmup" not in found


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("net = 'vit'", "data is missing"),
        ("net = 'vit'\ndata = 'digits'\nepoch = 3", "no 'epoch'; did you mean epochs?"),
        ("net = 'vit'\ndata = 'digits'\nepochs = 3.5", "epochs must be int, got 3.5"),
        ("net = 'vit'\ndata = 'digits'\nepochs = true", "epochs must be int, got True"),
        ("net = 3\ndata = 'digits'", "net must be str, got 3"),
        ("net = 'vit'\ndata = 'digits'\nrules = 'a=SparseVD()'", "rules must be a list"),
        ("net = 'vit'\ndata = 'digits'\nrules = ['a']", "expected a glob over names"),
        ("net = 'vit'\ndata = 'digits'\nrules = ['a=SparseVD()', 'a=ARD()']", "there is one for 'a' already"),
        ("net = 'vit'\ndata = 'digits'\nprune = 'SparseVD()'", "Cubic"),
        ("net = 'vit'\ndata = 'digits'\nlr = inf", "lr is a learning rate"),
        ("net = 'vit'\ndata = 'digits'\nrules = [3]", "rules must be str, got [3]"),
        ("net = 'vit'\ndata = 'digits'\nversions = {torch = 2}", "versions must be str"),
        ("net = 'vit'\ndata = 'digits'\nversions = 'torch'", "versions must be a table"),
        ("net = ", "Invalid value"),
        ("net" + ".a" * 100_000 + " = 1", "a key of more than"),
        ("'net'" + ". 'a'" * 100_000 + " = 1", "a key of more than"),
        ("net = " + "[" * 3000 + "]" * 3000, "nested deeper than"),
        ("net = " + "{a=" * 3000 + "1" + "}" * 3000, "nested deeper than"),
        ("net = '" + "x" * 2**20 + "'", "no recipe: it has 1,048,5"),
    ],
)
def test_a_recipe_that_cannot_be_read_names_the_file_and_the_fault(tmp_path: Path, text: str, says: str) -> None:
    path = tmp_path / "recipe.toml"
    path.write_text(text)
    with pytest.raises(ValueError, match=r"recipe\.toml: ") as error:
        Recipe.read(path)
    assert says in str(error.value)


def test_texts_and_comments_may_hold_dots_and_brackets() -> None:
    text = 'net = "vit"  # ' + "[." * 100 + '\ndata = """' + '[.\\"' * 100 + '"""\nstart = \'' + ".[" * 100 + "'"
    assert Recipe.read_text(text).start == ".[" * 100


def test_numbers_may_be_whole_where_real_ones_are_wanted() -> None:
    recipe = Recipe.read_text("net = 'vit'\ndata = 'digits'\nlr = 1\nwarmup = 0")
    assert (recipe.lr, recipe.warmup) == (1.0, 0.0)


# --- code of one's own ------------------------------------------------------------------------------------------------

OWN = {
    "net": ("os:system('true')", "my.nets:Net", " os:abort "),
    "data": ("mine:data", "os:system('uci:yacht')"),
    "rules": (("a=SparseVD()", "b=mine:Mine()"), ("a=SparseVD(mine:pattern(3))",), ("os:x=SparseVD()", "b=os:abort")),
    "prune": ("mine:Mine(0.1)", "Cubic(keep=0.5, saliency=mine:score)"),
}
OURS = {
    "net": ("mlp(8, ('a:b',), 1)", "vit"),
    "data": ("uci:yacht(split=1)", "digits"),
    "rules": (("a:b=SparseVD(Heads(8, side='in'))",), ("a=SparseVD()",)),
    "prune": ("Cubic(keep=0.5, saliency=magnitude)",),
}
PLAIN = {"net": "vit", "data": "digits"}


@pytest.mark.parametrize(("name", "text"), [(name, text) for name, texts in OWN.items() for text in texts])
def test_a_recipe_tells_what_code_it_would_run_and_runs_none(name: str, text: Any) -> None:
    recipe = Recipe(**(PLAIN | {name: text}))
    assert list(recipe.own_code()) == [name]
    recipe.check_trusted("run/", [name])
    with pytest.raises(ValueError, match=r"^run/ runs code that is not bayesprune's .*: add --trust"):
        recipe.check_trusted("run/", {"net", "data", "rules", "prune"} - {name})


@pytest.mark.parametrize(("name", "text"), [(name, text) for name, texts in OURS.items() for text in texts])
def test_our_own_code_is_nobodys_to_trust(name: str, text: Any) -> None:
    assert Recipe(**(PLAIN | {name: text})).own_code() == {}


MINE = """
from dataclasses import dataclass
from bayesprune.methods import SparseVD
from bayesprune.patterns import Block, Pattern

@dataclass(frozen=True)
class Mine(SparseVD):
    strength: float = 1.0

def pattern(size: int) -> Pattern:
    return Block(size, 1)

READY = Mine(strength=2.0)

def score(posterior):
    return posterior.moments()[0].abs()

def broken():
    return {}["no"]
"""


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "mine.py").write_text(MINE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "mine", raising=False)
    return tmp_path


@pytest.mark.usefixtures("here")
def test_ones_own_methods_patterns_and_saliencies() -> None:
    found = assigned(
        ("a=mine:Mine(Block(4, 1), strength=0.5)", "b=mine:READY", "c=SparseVD(mine:pattern(8))"), Method, ""
    )
    mine = sys.modules["mine"]
    assert found == {"a": mine.Mine(Block(4, 1), strength=0.5), "b": mine.READY, "c": SparseVD(Block(8, 1))}
    assert parsed("Cubic(keep=0.5, saliency=mine:score)", Callback, "").saliency is mine.score
    assert saliency_of("mine:score") is mine.score


@pytest.mark.usefixtures("here")
@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("mine:Mine", "write Mine()"),
        ("mine:Other()", "module 'mine' has no attribute 'Other'; they are"),
        ("nowhere:Mine()", "there is no module 'nowhere'"),
        ("mine:Mine(strength='a')", "Mine needs strength to be float, got 'a'"),
        ("mine:Mine(length=1)", "it takes pattern"),
        ("mine:pattern(3)", "expected a method"),
        ("mine:broken()", "broken: KeyError: 'no' (mine.py, line"),
        ("mine:Mine() if 1 else 2", "'mine:Mine() if 1 else 2' is neither a literal"),
    ],
)
def test_what_is_no_method_of_ones_own(text: str, says: str) -> None:
    with pytest.raises(ValueError, match="One is written SparseVD") as error:
        parsed(text, Method, "SparseVD()")  # type: ignore[type-abstract]
    assert says in str(error.value)


def test_a_text_that_cannot_be_read_imports_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "never_run.py").write_text("raise SystemExit")
    monkeypatch.syspath_prepend(tmp_path)
    for text in (
        "x[never_run:y]",
        "lambda never_run: y",
        "{never_run:y}",
        "(never_run:y).z",
        "SparseVD() + never_run:y",
    ):
        with pytest.raises(ValueError, match=r"neither a literal|not readable"):
            parsed(text, Method, "SparseVD()")  # type: ignore[type-abstract]


def test_names_with_equals_signs() -> None:
    rules = ("h.a=b.weight=SparseVD(clip=(-9.0, 1.0))", "task[0]=ARD()", "x = SparseVD()")
    assert divided(rules, Method, "") == {
        "h.a=b.weight": "SparseVD(clip=(-9.0, 1.0))",
        "task[0]": "ARD()",
        "x": "SparseVD()",
    }


# --- texts ------------------------------------------------------------------------------------------------------------

WRITTEN = {
    "SparseVD()": SparseVD(),
    " SparseVD( Block(16,16) ) ": SparseVD(Block(16, 16)),
    "SparseVD(pattern=Block(4, w=1), clip=(-9.0, 1), exact_kl=True)": SparseVD(
        Block(4, 1), clip=(-9.0, 1), exact_kl=True
    ),
    "HardConcrete(Channel(-1))": HardConcrete(Channel(-1)),
    "SparseVD(Heads(8, side='in'))": SparseVD(Heads(8, side="in")),
}


@pytest.mark.parametrize("text", WRITTEN)
def test_a_text_gives_what_python_would(text: str) -> None:
    assert parsed(text, Method, "SparseVD()") == WRITTEN[text]  # type: ignore[type-abstract]


def test_schedules_and_formats() -> None:
    text = "Cubic(keep=0.05, saliency=magnitude, scope='layer')"
    assert parsed(text, Callback, "") == Cubic(0.05, saliency=magnitude, scope="layer")
    found = assigned(["fc1=BSR(16, 1, bits=8)", "fc*=CSR()"], Format, "")  # type: ignore[type-abstract]
    assert list(found.items()) == [("fc1", BSR(16, 1, 8)), ("fc*", CSR())]


def test_every_method_and_pattern_that_is_promised_can_be_written() -> None:
    names = vocabulary()
    assert set(methods.__all__) <= names.keys() and set(patterns.__all__) - names.keys() == set()
    for name in ("ARD", "Deterministic", "Gaussian", "GroupVD", "Horseshoe", "Laplace", "NormalJeffreys", "SpikeSlab"):
        assert type(parsed(f"{name}()", Method, "")).__name__ == name  # type: ignore[type-abstract]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("SparseVD", "write SparseVD()"),
        ("Block(1, 1)", "expected a method; the names are ARD"),
        ("Method()", "none of them"),
        ("SparseVD(3)", "pattern to be Pattern, got 3"),
        ("SparseVD(Block)", "pattern to be Pattern"),
        ("SparseVD(init_log_scale='a')", "init_log_scale to be float, got 'a'"),
        ("SparseVD(exact_kl=1)", "exact_kl to be bool"),
        ("SparseVD(Heads(2, side='up'))", "side to be"),
        ("SparseVD(clip=(1, 2, 3))", "clip to be"),
        ("SparseVD(clip=(2.0, 1.0))", "low < high"),
        ("SparseVD(width=1)", "it takes pattern, init_log_scale, clip, exact_kl"),
        ("SparseVD(*[1])", "with * or **"),
        ("SparseVD(**{})", "with * or **"),
        ("SparseVD().pattern", "neither a literal nor a call"),
        ("SparseVD() if 1 else ARD()", "neither a literal nor a call"),
        ("[SparseVD() for _ in range(9)]", "neither a literal nor a call"),
        ("(lambda: SparseVD())()", "neither a literal nor a call"),
        ("__import__('os').system('true')", "neither a literal nor a call"),
        ("open('x')", "there is no 'open'"),
        ("magnitude()", "without parentheses"),
        ("Block(9**9**9, 1)", "neither a literal nor a call"),
        ("SparseVD(", "never closed"),
        ("SparseVD(init_log_scale=-1, init_log_scale=-2)", "init_log_scale is given twice"),
        *((f"{'-' * n}1", "not readable: it is nested deeper than") for n in (60, 500, 900, 2000)),
        *((f"{'(' * n}1{', )' * n}", "not readable") for n in (60, 190, 900)),
        ("SparseVD(" + "not " * 1000 + "1)", "not readable: it is nested deeper than"),
        ("f" + "()" * 1000, "not readable: it is nested deeper than"),
        ("(" * 5000, "not readable"),
        ("-" * 100_000 + "1", "not readable"),
        ("a\0b", "not readable"),
        ("", "not readable"),
    ],
)
def test_what_is_no_method_is_refused_and_nothing_is_run(text: str, says: str) -> None:
    with pytest.raises(ValueError, match="One is written SparseVD") as error:
        parsed(text, Method, "SparseVD()")  # type: ignore[type-abstract]
    assert says in str(error.value) and len(str(error.value)) < 600


def test_arguments_are_literals_alone() -> None:
    assert arguments("mlp(8, hidden=(50, 20), outputs=-1, x=[None, True, 'a'])") == (
        "mlp",
        (8,),
        {"hidden": (50, 20), "outputs": -1, "x": [None, True, "a"]},
    )
    for text in ("mlp(x)", "mlp(f())", "a.b()", "mlp()()", "1", "mlp(*[1])"):
        with pytest.raises(ValueError, match=r"literal|name|read"):
            arguments(text)


def test_types_as_signatures_write_them() -> None:
    assert (
        fits(3, float) and fits(None, int | None) and fits((1.0, 2), tuple[float, float]) and fits((), tuple[str, ...])
    )
    assert not fits(True, int) and not fits("1", float) and not fits([1, 2], tuple[int, int])
    assert not fits((1, 2, 3), tuple[int, int]) and not fits((1,), tuple[str, ...])
