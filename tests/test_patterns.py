"""Patterns: their groups against index loops, and the laws that tie pool, spread, sizes and keep together."""

from collections import defaultdict
from dataclasses import dataclass
from itertools import product

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from bayesprune.layout import HeadAxis, Layout, layout_of
from bayesprune.patterns import NM, Block, Channel, Heads, Pattern, PatternError, Unstructured

ATTENTION = nn.MultiheadAttention(6, 2)
LAYOUTS = {
    "linear": Layout((6, 4)),
    "ragged linear": Layout((7, 5)),
    "conv1d": Layout((4, 5, 3)),
    "conv2d": Layout((6, 4, 2, 3)),
    "conv3d": Layout((4, 2, 2, 1, 2)),
    "grouped": Layout((6, 2, 2, 2), groups=2),
    "depthwise": Layout((6, 1, 3), groups=3),
    "transposed": Layout((4, 6, 2), transposed=True),
    "grouped transposed": Layout((6, 4, 2), transposed=True, groups=2),
    "Hugging Face Conv1D": Layout((4, 6), transposed=True),
    "vector": Layout((6,)),
    "in_proj": layout_of(ATTENTION, "in_proj_weight"),
    "in_proj bias": layout_of(ATTENTION, "in_proj_bias"),
    "out_proj": layout_of(ATTENTION, "out_proj.weight"),
}
PATTERNS: list[Pattern] = [
    Unstructured(),
    *(Block(h, w) for h, w in ((1, 1), (2, 1), (1, 2), (2, 2), (3, 2), (4, 3))),
    *(Channel(axis) for axis in (0, 1, 2, -1)),
    *(Heads(n) for n in (1, 2, 3)),
    *(NM(n, m) for n, m in ((1, 2), (2, 4), (2, 3))),
]


def fits(pattern: Pattern, layout: Layout) -> bool:
    try:
        pattern.groups(layout)
    except PatternError:
        return False
    return True


PAIRS = {f"{p} on {name}": (p, layout) for name, layout in LAYOUTS.items() for p in PATTERNS if fits(p, layout)}
every_pair = pytest.mark.parametrize("pair", PAIRS)


@dataclass(frozen=True)
class Place:
    """Where one entry lies: convolution group, output and input within it, kernel position."""

    group: int
    out: int
    into: int
    kernel: tuple[int, ...]


def place(index: tuple[int, ...], layout: Layout) -> Place:
    """The roles of one entry, read off torch's documentation of each weight, entry by entry."""
    first, second = index[0], index[1] if len(index) > 1 else 0
    per_group = layout.shape[0] // layout.groups
    group, within = divmod(first, per_group)
    out, into = (second, within) if layout.transposed else (within, second)
    return Place(group, out, into, index[2:])


def group_of(pattern: Pattern, index: tuple[int, ...], layout: Layout) -> tuple[int, ...]:
    """The grid index of the group that one entry belongs to."""
    at = place(index, layout)
    outs = layout.shape[1 if layout.transposed else 0] // (1 if layout.transposed else layout.groups)
    intos = 1 if len(layout.shape) < 2 else layout.shape[1]
    if layout.transposed:
        intos = layout.shape[0] // layout.groups
    match pattern:
        case Block(h, w):
            rows = len({o // h for o in range(outs)})
            return (at.group * rows + at.out // h, at.into // w, *at.kernel)[: len(layout.shape)]
        case Channel(axis):
            return (index[axis],)
        case Heads(n):
            line, length = (at.out, outs) if layout.heads.side == "out" else (at.into, intos)
            stacked = length // layout.heads.packed
            return (line % stacked // (stacked // n),)
        case _:
            return index


def indices(layout: Layout) -> list[tuple[int, ...]]:
    return list(product(*(range(n) for n in layout.shape)))


@every_pair
def test_pool_sums_over_the_groups_that_an_index_loop_finds(pair):
    pattern, layout = PAIRS[pair]
    x = torch.randn(layout.shape, dtype=torch.float64)
    expected: dict[tuple[int, ...], float] = defaultdict(float)
    for index in indices(layout):
        expected[group_of(pattern, index, layout)] += float(x[index])
    pooled = pattern.pool(x, layout)
    assert tuple(pooled.shape) == pattern.groups(layout)
    assert pooled.numel() == len(expected)
    for group, total in expected.items():
        assert float(pooled[group]) == pytest.approx(total, abs=1e-12)


@every_pair
def test_spread_gives_every_entry_its_groups_value(pair):
    pattern, layout = PAIRS[pair]
    values = torch.randn(pattern.groups(layout))
    spread = pattern.expand(values, layout)
    assert tuple(spread.shape) == layout.shape
    for index in indices(layout):
        assert float(spread[index]) == float(values[group_of(pattern, index, layout)])


@every_pair
def test_spread_keeps_dtypes_and_pool_keeps_integers_exact(pair):
    pattern, layout = PAIRS[pair]
    assert pattern.expand(torch.ones(pattern.groups(layout), dtype=torch.bool), layout).dtype == torch.bool
    assert pattern.pool(torch.ones(layout.shape, dtype=torch.int64), layout).dtype == torch.int64


@every_pair
def test_group_sizes_sum_to_the_number_of_entries(pair):
    pattern, layout = PAIRS[pair]
    sizes = pattern.sizes(layout)
    assert int(sizes.sum()) == torch.Size(layout.shape).numel()
    assert int(sizes.min()) >= 1


# beartype looks at items picked with the random module, which hypothesis would rather have no strategy do
quiet = pytest.mark.filterwarnings("ignore:Do not use the `random` module")


@st.composite
def fitting_pairs(draw: st.DrawFn) -> tuple[Pattern, Layout]:
    kind = draw(st.sampled_from(["plain", "vector", "transposed", "heads"]))
    side = st.integers(1, 6)
    kernel = tuple(draw(st.lists(st.integers(1, 3), max_size=3)))
    if kind == "heads":
        n, packed, head = draw(st.integers(1, 3)), draw(st.sampled_from([1, 3])), draw(st.integers(1, 3))
        where, length, other = draw(st.sampled_from(["out", "in"])), n * packed * head, draw(side)
        shape = (length, other) if where == "out" else (other, length)
        return Heads(n), Layout(shape, heads=HeadAxis(where, packed))
    groups = draw(st.integers(1, 3))
    out, into = draw(side), draw(side)
    if kind == "vector":
        layout, into = Layout((groups * out,), groups=groups), 1
    elif kind == "transposed":
        layout = Layout((groups * into, out, *kernel), transposed=True, groups=groups)
    else:
        layout = Layout((groups * out, into, *kernel), groups=groups)
    pattern = draw(
        st.one_of(
            st.just(Unstructured()),
            st.builds(Block, st.integers(1, out), st.integers(1, into)),
            st.builds(Channel, st.integers(-len(layout.shape), len(layout.shape) - 1)),
            st.integers(1, into).flatmap(lambda m: st.builds(NM, st.integers(1, m), st.just(m))),
        )
    )
    return pattern, layout


@quiet
@settings(max_examples=100, deadline=None)
@given(pair=fitting_pairs(), seed=st.integers(0, 2**31))
def test_spread_is_the_adjoint_of_pool(pair, seed):
    pattern, layout = pair
    gen = torch.Generator().manual_seed(seed)
    x = torch.randn(layout.shape, generator=gen, dtype=torch.float64)
    g = torch.randn(pattern.groups(layout), generator=gen, dtype=torch.float64)
    left, right = (pattern.pool(x, layout) * g).sum(), (x * pattern.expand(g, layout)).sum()
    torch.testing.assert_close(left, right, atol=1e-10, rtol=1e-10)


@quiet
@settings(max_examples=100, deadline=None)
@given(pair=fitting_pairs())
def test_pooling_what_was_spread_multiplies_by_the_group_sizes(pair):
    pattern, layout = pair
    g = torch.arange(1, 1 + torch.Size(pattern.groups(layout)).numel()).reshape(pattern.groups(layout))
    assert torch.equal(pattern.pool(pattern.expand(g, layout), layout), g * pattern.sizes(layout))


@pytest.mark.parametrize("pattern", [Unstructured(), Block(2, 2), Channel(0), Heads(2)], ids=str)
def test_every_pattern_but_nm_lets_every_group_stay(pattern):
    layout = LAYOUTS["linear"]
    assert bool(pattern.allowed(torch.randn(pattern.groups(layout)), layout).all())


def runs_along_inputs(layout: Layout, m: int) -> dict[tuple[object, ...], list[tuple[int, ...]]]:
    """The entries of each run of ``m`` consecutive inputs that share output and kernel position."""
    runs: dict[tuple[object, ...], list[tuple[int, ...]]] = defaultdict(list)
    for index in indices(layout):
        at = place(index, layout)
        runs[at.group, at.out, at.into // m, at.kernel].append(index)
    return runs


@pytest.mark.parametrize("pair", [p for p in PAIRS if p.startswith("NM")])
def test_nm_keeps_the_n_highest_of_every_m_inputs_and_at_most_n_of_a_ragged_run(pair):
    pattern, layout = PAIRS[pair]
    score = torch.randn(layout.shape)
    kept = pattern.allowed(score, layout)
    assert kept.dtype == torch.bool
    assert tuple(kept.shape) == layout.shape
    for run in runs_along_inputs(layout, pattern.m).values():
        best = sorted(run, key=lambda index: -float(score[index]))[: pattern.n]
        assert {index for index in run if bool(kept[index])} == set(best)


def test_nm_never_lets_more_than_n_stay_when_scores_tie_or_are_infinite():
    layout = Layout((3, 10))
    for score in (torch.zeros(3, 10), torch.full((3, 10), torch.inf), torch.full((3, 10), -torch.inf)):
        kept = NM(2, 4).allowed(score, layout)
        assert kept[:, :4].sum(1).tolist() == kept[:, 4:8].sum(1).tolist() == [2, 2, 2]
        assert int(kept[:, 8:].sum(1).max()) <= 2


def attention_by_head(kept: Tensor, bias: bool = False) -> tuple[Tensor, Tensor]:
    """Output and per-head attention weights of an attention of which only the heads ``kept`` are left."""
    torch.manual_seed(0)
    module = nn.MultiheadAttention(6, len(kept), bias=bias, batch_first=True)
    x = torch.randn(2, 4, 6)
    with torch.no_grad():
        for name in ("in_proj_weight", "out_proj.weight"):
            layout = layout_of(module, name)
            module.get_parameter(name).mul_(Heads(len(kept)).expand(kept, layout))
        return module(x, x, x, average_attn_weights=False)


def test_heads_are_torchs_own_heads():
    every, none = torch.ones(3, dtype=torch.bool), torch.zeros(3, dtype=torch.bool)
    output, weights = attention_by_head(every)
    alone = []
    for head in range(3):
        kept = none.clone()
        kept[head] = True
        part, seen = attention_by_head(kept)
        alone.append(part)
        torch.testing.assert_close(seen[:, head], weights[:, head])
        torch.testing.assert_close(seen[:, ~kept], torch.full_like(seen[:, ~kept], 0.25))
    torch.testing.assert_close(torch.stack(alone).sum(0), output)


def test_heads_said_by_hand_are_those_of_the_layout():
    x = torch.randn(18, 6)
    packed, plain = layout_of(ATTENTION, "in_proj_weight"), Layout((18, 6))
    torch.testing.assert_close(Heads(2, packed=3).pool(x, plain), Heads(2).pool(x, packed))
    y = torch.randn(6, 6)
    out_proj = layout_of(ATTENTION, "out_proj.weight")
    torch.testing.assert_close(Heads(3, side="in").pool(y, Layout((6, 6))), Heads(3).pool(y, out_proj))


@pytest.mark.parametrize(
    ("pattern", "layout", "says"),
    [
        (Block(16, 1), Layout((10, 4)), r"Block\(16, 1\).*\(10, 4\).*at most \(10, 4\)"),
        (Block(1, 5), Layout((10, 4)), r"Block\(1, 5\).*\(10, 4\)"),
        (Block(4, 1), Layout((6, 2, 3), groups=2), r"Block\(4, 1\).*\(6, 2, 3\).*3 outputs.*convolution group"),
        (Block(1, 2), Layout((6,)), r"Block\(1, 2\).*\(6,\)"),
        (Block(7, 1), Layout((8, 6), transposed=True), r"Block\(7, 1\).*\(8, 6\).*6 outputs and 8 inputs"),
        (Channel(2), Layout((3, 4)), r"Channel\(2\).*\(3, 4\)"),
        (Channel(-3), Layout((3, 4)), r"Channel\(-3\).*\(3, 4\)"),
        (Channel(0), Layout(()), r"Channel\(0\).*\(\)"),
        (Heads(4), Layout((6, 4)), r"Heads\(4\).*\(6, 4\).*6 outputs"),
        (Heads(4), layout_of(ATTENTION, "in_proj_weight"), r"Heads\(4\).*\(18, 6\).*3 stacked"),
        (Heads(4), layout_of(ATTENTION, "out_proj.weight"), r"Heads\(4\).*\(6, 6\).*6 inputs"),
        (Heads(2), Layout((4, 2, 3), groups=2), r"Heads\(2\).*\(4, 2, 3\)"),
        (NM(2, 4), Layout((8, 3)), r"NM\(2, 4\).*\(8, 3\)"),
        (NM(2, 4), Layout((8,)), r"NM\(2, 4\).*\(8,\)"),
    ],
    ids=str,
)
def test_a_pattern_that_does_not_fit_names_itself_and_the_shape(pattern, layout, says):
    with pytest.raises(PatternError, match=says):
        pattern.groups(layout)


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: Block(0, 1), "Block needs h .* got 0"),
        (lambda: Block(1, -2), "Block needs w .* got -2"),
        (lambda: Heads(0), "Heads needs n .* got 0"),
        (lambda: Heads(2, packed=0), "Heads needs packed .* got 0"),
        (lambda: NM(0, 4), "NM needs n .* got 0"),
        (lambda: NM(3, 2), "n=3, m=2"),
    ],
)
def test_a_pattern_of_impossible_size_is_refused_when_it_is_written(make, says):
    with pytest.raises(PatternError, match=says):
        make()


@pytest.mark.parametrize(
    "make", [lambda: Block(2.0, 1), lambda: Block(True, 1), lambda: Channel(0.5), lambda: NM(1, "2")]
)
def test_a_size_that_is_no_integer_is_refused(make):
    with pytest.raises((PatternError, TypeError)):
        make()


def test_patterns_are_values():
    assert Block(2, 1) == Block(2, 1) != Block(1, 2)
    assert len({Heads(2), Heads(2), Heads(2, side="in"), Unstructured(), Unstructured()}) == 3
