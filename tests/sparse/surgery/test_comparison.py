"""What two nets are compared on, and how far apart results are."""

import math

import pytest
import torch

from bayesprune.sparse.surgery.comparison import apart, inputs_like


def test_noise_and_another_number_of_inputs_whatever_holds_them():
    x, mask = torch.zeros(5, 3), torch.tensor([0.0, -torch.inf])
    given = inputs_like({"x": x, "tokens": torch.arange(5), "mask": mask, "more": [x, torch.tensor(2)], "name": "a"})
    noise, few = given["noise of its shape"], given["a batch of 2"]
    assert noise["x"].std() > 0.5 and noise["x"] is noise["more"][0] and isinstance(noise["more"], list)
    assert torch.equal(noise["tokens"], torch.arange(5)) and torch.equal(noise["mask"], mask)
    assert few["x"].shape == (2, 3) and few["tokens"].tolist() == [0, 1] and few["name"] == "a"
    assert few["more"][1] == 2
    assert not bool(x.any())


@pytest.mark.parametrize(("batch", "other"), [(1, [0, 0]), (2, [0, 1, 0]), (7, [0, 1])])
def test_another_number_of_inputs(batch, other):
    assert list(inputs_like(torch.arange(batch)).values())[-1].tolist() == other


def test_edges_that_point_into_nodes_keep_them():
    assert list(inputs_like((torch.randn(5, 3), torch.tensor([[0, 4], [4, 0]])))) == [
        "the example",
        "noise of its shape",
    ]


def test_a_0d_input_has_no_batch():
    assert list(inputs_like(torch.tensor(2.0))) == ["the example", "noise of its shape"]
    assert list(inputs_like(torch.tensor(2))) == ["the example"]


NAN, INF = math.nan, math.inf


@pytest.mark.parametrize(
    ("a", "b", "far"),
    [
        ([1.0, 4.0], [1.0, 2.0], 0.5),
        ([0.0, 0.0], [0.0, 3.0], 3.0),
        ([1.0, -INF], [1.0, -INF], 0.0),
        ([1.0, -INF], [1.0, INF], INF),
        ([1.0, 2.0], [1.0, NAN], INF),
        ([1.0, NAN], [1.0, 2.0], 0.0),
        ([1.0, 2.0], [1.0], INF),
        ([1, 2], [1, 3], INF),
        ([True], [True], 0.0),
        ([1 + 1j, 2j], [1 + 1j, 1j], 0.5),
        ([1.0], [1], INF),
    ],
)
def test_how_far_results_are_apart(a, b, far):
    assert apart([torch.tensor(a)], [torch.tensor(b)])[0] == far


def test_numbers_and_structure_count_too():
    assert apart([1, "a", None], [1, "a", None]) == (0.0, 0.0)
    assert apart([1.0], [1.0 + 1e-9])[1] < 1 < apart([1.0], [1.1])[1]
    assert all(apart(a, b)[0] == math.inf for a, b in (([1], [2]), (["a"], ["b"]), ([1], []), ([None], [0.0])))
