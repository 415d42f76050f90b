"""Names are names: what is equal is meant, whatever characters it holds, and globs come after."""

import pytest
import torch
from torch import nn

import bayesprune as bp
from bayesprune._names import matching


class Heads(nn.Module):
    """A head a key, one after the other."""

    def __init__(self, *keys: str) -> None:
        super().__init__()
        self.h = nn.ModuleDict({key: nn.Linear(8, 8) for key in keys})

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for layer in self.h.values():
            x = layer(x).relu()
        return x


KEYS = [("task[0]", "task0"), ("a*", "ab"), ("b?", "bc"), ("[!x]", "y"), ("user/item", "user"), ("é=1", "e")]


@pytest.mark.parametrize("keys", KEYS, ids=[keys[0] for keys in KEYS])
def test_a_rule_and_a_format_that_are_a_name_mean_that_one(keys: tuple[str, str]) -> None:
    name, other = (f"h.{key}.weight" for key in keys)
    net = Heads(*keys)
    assert list(bp.BayesianNet(net, {name: bp.SparseVD()}).posteriors) == [name]
    assert list(bp.BayesianNet(net, {"*.weight": bp.SparseVD()}).posteriors) == [name, other]
    masks = {n: torch.eye(8, dtype=torch.bool) for n in (name, other)}
    plan = bp.plan(net, masks, example=torch.zeros(2, 8), formats={name: bp.CSR(), other: bp.Dense()})
    assert (plan[name].format, plan[other].format) == (bp.CSR(), bp.Dense())
    by_module = bp.plan(net, masks, example=torch.zeros(2, 8), formats={f"h.{keys[0]}": bp.CSR(), "*": bp.Dense()})
    assert (by_module[name].format, by_module[other].format) == (bp.CSR(), bp.Dense())


def test_a_glob_matches_what_is_no_name() -> None:
    assert matching("task[0]", ["task0", "task1"]) == ["task0"]
    assert matching("none", ["task0"]) == []
