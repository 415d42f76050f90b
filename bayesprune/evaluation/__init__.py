"""Evaluation: the posterior predictive, metrics, and the comparison with the dense net and its rivals."""

from bayesprune.evaluation.held_out import Elpd, elpd
from bayesprune.evaluation.prediction import Prediction, predict
from bayesprune.evaluation.scoring import Losses, Score, losses, score
from bayesprune.evaluation.verification import ModelRow, Rival, Role, Verification, verify

__all__ = [
    "Elpd",
    "Losses",
    "ModelRow",
    "Prediction",
    "Rival",
    "Role",
    "Score",
    "Verification",
    "elpd",
    "losses",
    "predict",
    "score",
    "verify",
]
