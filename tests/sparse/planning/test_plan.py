"""The plan: what is timed, what is chosen and why, and what is refused."""

import json
import time
import warnings

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from bayesprune.layout import Layout
from bayesprune.patterns import Block, Unstructured
from bayesprune.sparse import BSR, CSR, Choice, Dense, Plan, SparseLinear, export, plan
from bayesprune.sparse.formats.block_shapes import block_shapes, filled
from bayesprune.sparse.timing.interleaved import time_interleaved


def lenet300():
    return nn.Sequential(
        nn.Flatten(), nn.Linear(784, 300), nn.ReLU(), nn.Linear(300, 100), nn.ReLU(), nn.Linear(100, 10)
    )


def small():
    return nn.Sequential(nn.Linear(40, 32), nn.ReLU(), nn.Linear(32, 8))


@settings(max_examples=60, deadline=None)
@given(
    st.integers(1, 70), st.integers(1, 70), st.sampled_from([0.0, 0.2, 1.0]), st.sampled_from([(1, 1), (4, 1), (8, 8)])
)
def test_filled_against_brute_force(out, into, keep, block):
    block = min(block[0], out), min(block[1], into)
    at = Layout((out, into))
    mask = Block(*block).expand(torch.rand(Block(*block).groups(at)) < keep, at)
    shares = filled(mask)
    for (h, w), share in shares.items():
        assert h <= out and w <= into
        pattern = Block(h, w)
        touched = pattern.expand(pattern.pool(mask.long(), at) > 0, at)
        assert share == pytest.approx(int(mask.sum()) / int(touched.sum()))
    if mask.any():
        assert set(shares) == {
            (h, w) for h in (4, 8, 16, 32, 64) for w in (1, 2, 4, 8, 16, 32, 64) if h <= out and w <= into
        }


@pytest.mark.parametrize(
    ("pattern", "found"),
    [
        (Block(16, 1), [BSR(16, 1)]),
        (Block(16, 16), [BSR(16, 16), BSR(16, 1)]),
        (Block(4, 4), [BSR(4, 4), BSR(4, 1)]),
        (Block(64, 2), [BSR(64, 2), BSR(64, 1)]),
        (Unstructured(), []),
    ],
    ids=str,
)
def test_the_pattern_is_read_off_the_mask(pattern, found):
    at = Layout((300, 784))
    mask = pattern.expand(torch.rand(pattern.groups(at)) < 0.03, at)
    shapes = block_shapes(mask)
    assert set(found) <= set(shapes) and len(shapes) <= 3


def test_race_takes_turns_and_drops_the_slow():
    calls = []
    seconds = time_interleaved(
        {"a": lambda: calls.append("a"), "b": lambda: (calls.append("b"), time.sleep(0.002))},
        device=torch.device("cpu"),
        budget=0.05,
        sample=1e-9,
    )
    assert seconds["a"] < 1e-3 < seconds["b"]
    assert calls[4:10] == ["a", "b"] * 3  # after two of each to warm up
    assert calls.count("b") == 5 < calls.count("a")


def test_lenet300_is_planned_in_two_seconds(random_masks):
    net = lenet300()
    start = time.perf_counter()
    made = plan(net, random_masks(net, 0.02), example=torch.randn(64, 784))
    assert time.perf_counter() - start < 2
    assert list(made.choices) == ["1.weight", "3.weight", "5.weight"] and len(made) == 3
    first = made["1.weight"]
    assert first.tokens == 64 and first.shape == (300, 784) and first.density == pytest.approx(0.02, abs=0.005)
    assert {"dense", "CSR torch", "CSR embedding_bag"} <= set(first.seconds)
    for choice in made.choices.values():
        sparse = {k: v for k, v in choice.seconds.items() if k != "dense"}
        beats = min(sparse.values()) * 1.05 <= choice.seconds["dense"]
        assert choice.label == (min(sparse, key=sparse.get) if beats else "dense")
        assert choice.speedup == choice.seconds["dense"] / choice.seconds[choice.label]
        assert "measured" in choice.reason and "64 tokens" in choice.reason


def test_table_and_json(random_masks):
    net = small()
    made = plan(net, random_masks(net), example=torch.randn(3, 40))
    table = str(made)
    assert "0.weight" in table and "32×40" in table and "1 thread" in table and len(table.splitlines()) == 4
    told = json.loads(json.dumps(made.to_dict()))
    assert told["weights"]["2.weight"]["dense_bytes"] == 8 * 32 * 4
    assert told["threads"] == torch.get_num_threads()


def test_forced_formats_first_match_wins_by_weight_and_by_module(random_masks, masked_dense):
    net, x = small(), torch.randn(3, 40)
    masks = random_masks(net)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        made = plan(net, masks, example=x, formats={"0": BSR(4, 2), "*.weight": CSR()})
        sparse = export(net, {}, masks, example=x, formats={"0": BSR(4, 2), "*.weight": CSR()})
    assert made["0.weight"].format == BSR(4, 2) and made["2.weight"].format == CSR()
    assert "asked for" in made["0.weight"].reason
    assert sparse[0].format == BSR(4, 2) and sparse[2].format == CSR()
    torch.testing.assert_close(sparse(x), masked_dense(net, masks)(x))


def test_a_forced_format_that_is_slower_says_so(random_masks):
    net = nn.Sequential(nn.Linear(512, 512))
    masks = random_masks(net, 0.95)
    with pytest.warns(
        UserWarning, match=r"0.weight: CSR was asked for and is slower than dense: \d+ µs against \d+ µs"
    ):
        sparse = export(net, {}, masks, example=torch.randn(1, 512), formats={"*": CSR()})
    assert isinstance(sparse[0], SparseLinear)
    assert plan(net, masks, example=torch.randn(1, 512))["0.weight"].format != CSR()  # unforced, something else wins


def test_forced_dense_stays_dense(random_masks):
    net = lenet300()
    sparse = export(net, {}, random_masks(net, 0.01), example=torch.randn(64, 784), formats={"*": Dense()})
    assert not any(isinstance(m, SparseLinear) for m in sparse.modules())


def test_forcing_what_cannot_run_sparse_warns(random_masks):
    net = nn.Sequential(nn.Conv2d(2, 4, 3))
    with pytest.warns(UserWarning, match="Conv2d has no sparse kernel"):
        made = plan(net, random_masks(net), example=torch.randn(1, 2, 5, 5), formats={"0*": CSR()})
    assert made["0.weight"].reason == "masked dense: Conv2d has no sparse kernel for CSR; CSR was asked for"


def test_formats_that_do_not_fit(random_masks):
    net = small()
    masks, x = random_masks(net), torch.randn(3, 40)
    with pytest.raises(ValueError, match=r"formats\['fc\*'\] matches no masked weight; they are 0.weight, 2.weight"):
        plan(net, masks, example=x, formats={"fc*": CSR()})


def test_a_plan_is_applied_again_and_refused_where_it_does_not_fit(random_masks, masked_dense):
    net, x = small(), torch.randn(3, 40)
    masks = random_masks(net)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        made = plan(net, masks, example=x, formats={"*": CSR()})
    sparse = export(net, {}, masks, example=x, plan=made)
    assert sparse[0].format == CSR() and sparse[0].kernel == made["0.weight"].kernel
    torch.testing.assert_close(sparse(x), masked_dense(net, masks)(x))
    with pytest.raises(ValueError, match=r"the plan is for other weights: 2.weight"):
        export(net, {}, {"0.weight": masks["0.weight"]}, example=x, plan=made)
    with pytest.raises(ValueError, match=r"the plan is for other masks: '0.weight' keeps"):
        export(net, {}, masks | {"0.weight": ~masks["0.weight"]}, example=x, plan=made)
    with pytest.raises(ValueError, match=r"'0.weight' keeps as many entries in the plan, but others"):
        export(net, {}, masks | {"0.weight": masks["0.weight"].flip(0)}, example=x, plan=made)
    other = nn.Sequential(nn.Linear(50, 32), nn.ReLU(), nn.Linear(32, 8))
    with pytest.raises(ValueError, match=r"another net: '0.weight' has shape \(32, 40\)"):
        export(other, {}, random_masks(other), example=torch.randn(3, 50), plan=made)


def test_formats_override_a_plan(random_masks):
    net, x = small(), torch.randn(3, 40)
    masks = random_masks(net)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        made = plan(net, masks, example=x, formats={"*": CSR()})
        sparse = export(net, {}, masks, example=x, plan=made, formats={"0": BSR(4, 1)})
    assert sparse[0].format == BSR(4, 1) and sparse[2].format == CSR()


def test_masks_that_keep_all_or_nothing(masked_dense):
    net, x = small(), torch.randn(3, 40)
    masks = {"0.weight": torch.ones(32, 40, dtype=torch.bool), "2.weight": torch.zeros(8, 32, dtype=torch.bool)}
    made = plan(net, masks, example=x)
    assert made["0.weight"].reason == "masked dense: the mask keeps everything" and made["0.weight"].speedup is None
    torch.testing.assert_close(export(net, {}, masks, example=x, plan=made)(x), masked_dense(net, masks)(x))


def test_shapes_come_from_the_example_and_the_largest_call(random_masks):
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.fc = nn.Linear(16, 16)

        def forward(self, tokens, scale=1.0):
            return self.fc(tokens) * scale + self.fc(input=tokens[:, :1])

    net = Twice()
    masks = random_masks(net)
    for example in ((torch.randn(5, 7, 16), 2.0), {"tokens": torch.randn(5, 7, 16)}):
        assert plan(net, masks, example=example)["fc.weight"].tokens == 35


def test_an_empty_plan_prints():
    assert "reason" in str(plan(small(), {}, example=torch.randn(3, 40)))
    assert isinstance(Plan({}, "cpu", 1), Plan) and Choice.__name__ == "Choice"
