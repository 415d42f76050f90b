"""AUROC: how well a score tells two sets of examples apart. Apart, for scikit-learn takes a second to load."""

import torch
from jaxtyping import Float
from sklearn.metrics import roc_auc_score
from torch import Tensor

__all__ = ["auroc"]


def auroc(negative: Float[Tensor, " n"], positive: Float[Tensor, " m"]) -> float:
    """The area under the receiver operating characteristic: the chance that a score of ``positive`` is above one of
    ``negative``, ties counted half (Hanley & McNeil 1982); scikit-learn's.

    Raises:
        ValueError: no scores on one side, or NaN.

    >>> auroc(torch.tensor([0.1, 0.4]), torch.tensor([0.4, 0.8]))
    0.875
    """
    if not (len(negative) and len(positive)):
        raise ValueError(f"auroc needs scores on both sides, got {len(negative)} negative and {len(positive)} positive")
    if bool(negative.isnan().any() or positive.isnan().any()):
        raise ValueError("auroc cannot rank NaN among the scores")
    ranks = torch.cat([negative, positive]).unique(return_inverse=True)[1]  # scikit-learn takes no infinite scores
    return float(roc_auc_score([0] * len(negative) + [1] * len(positive), ranks.cpu().numpy()))
