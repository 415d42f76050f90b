"""The report: what was kept and how it runs, what that is worth beside the rivals, and what to beware of."""

from bayesprune.reporting.report import report
from bayesprune.reporting.result import Report
from bayesprune.reporting.versions import versions
from bayesprune.reporting.weights import WeightRow

__all__ = ["Report", "WeightRow", "report", "versions"]
