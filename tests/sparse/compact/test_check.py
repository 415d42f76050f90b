"""The comparison behind compact: nets run in one copy as long as they leave nothing on it, else in one each time."""

import copy

import pytest
import torch
from torch import Tensor, nn

from bayesprune.sparse.compact.check import difference


class Counting(nn.Module):
    """Whose result grows with each run, by what it keeps of the runs before."""

    def __init__(self, how: str, times: float = 1.0) -> None:
        super().__init__()
        self.how, self.times, self.fc = how, times, nn.Linear(4, 4)
        self.runs, self.seen, self.kept, self.copies = 0, list[int](), {"runs": list[int]()}, 0
        self.register_buffer("count", torch.zeros(()))

    def __deepcopy__(self, memo: dict[int, object]) -> "Counting":
        Counting.made += 1
        found = self.__class__.__new__(self.__class__)
        memo[id(self)] = found
        found.__dict__.update(copy.deepcopy(vars(self), memo))
        return found

    made = 0

    def forward(self, x: Tensor) -> Tensor:
        if self.how == "a number":
            self.runs += 1
        elif self.how == "a list":
            self.seen.append(1)
        elif self.how == "a list in a dict":
            self.kept["runs"].append(1)
        elif self.how == "a buffer":
            self.count.add_(1)
        elif self.how == "a new buffer":
            self.count = self.count + 1
        return self.fc(x) * (1 + self.runs + len(self.seen) + len(self.kept["runs"]) + self.count) * self.times


KEPT = ["a number", "a list", "a list in a dict", "a buffer", "a new buffer"]


@pytest.mark.parametrize("how", [*KEPT, "nothing"])
def test_what_a_forward_keeps_is_not_there_in_the_next_comparison(how: str) -> None:
    net = Counting(how).eval()
    other, x = copy.deepcopy(net), torch.randn(5, 4)
    Counting.made = 0
    assert difference(net, other, x) == 0.0
    assert Counting.made == (2 if how == "nothing" else 4)  # of each net: one for all inputs, or one for each
    assert net.runs == len(net.seen) == len(net.kept["runs"]) == int(net.count) == 0
    other.times = 2.0
    assert difference(net, other, x) == pytest.approx(1.0)


@pytest.mark.parametrize("how", KEPT)
def test_a_net_that_differs_in_the_second_run_alone_is_compared_in_the_first(how: str) -> None:
    net, x = Counting("nothing").eval(), torch.randn(5, 4)
    other = copy.deepcopy(net)
    other.how = how
    assert difference(net, other, x) == pytest.approx(1.0)  # its first run counts itself: 2 against 1
