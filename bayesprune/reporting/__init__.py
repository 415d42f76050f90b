"""The report: sparsity, speed and accuracy of a pruned net beside its rivals, with warnings."""

from bayesprune.reporting.report import report
from bayesprune.reporting.result import Report
from bayesprune.reporting.versions import versions
from bayesprune.reporting.weights import WeightRow

__all__ = ["Report", "WeightRow", "report", "versions"]
