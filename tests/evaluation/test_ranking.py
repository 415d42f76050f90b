"""The area under the ROC curve is the share of pairs in the right order."""

import math

import pytest
import torch

from bayesprune.evaluation.ranking import auroc


@pytest.mark.parametrize("decimals", [0, 1, 6])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_auroc_is_the_share_of_pairs_in_order_ties_counted_half(decimals: int, dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    negative = torch.randn(300).round(decimals=decimals).to(dtype)
    positive = (torch.randn(170) + 0.7).round(decimals=decimals).to(dtype)
    negative[:7], positive[:5], positive[5:9] = -math.inf, math.inf, -math.inf
    above, equal = (positive[:, None] > negative).double(), (positive[:, None] == negative).double()
    expected = float((above + equal / 2).mean())
    assert auroc(negative, positive) == pytest.approx(expected, abs=1e-12)
    assert auroc(positive, negative) == pytest.approx(1 - expected, abs=1e-12)


def test_auroc_refuses_what_has_no_ranking() -> None:
    with pytest.raises(ValueError, match="0 positive"):
        auroc(torch.ones(3), torch.ones(0))
    with pytest.raises(ValueError, match="NaN"):
        auroc(torch.ones(3), torch.tensor([math.nan]))
