"""Check, read, look, choose, cut, write back: what happens around every method, for every layer."""

from balred.reduction.analysis import Analysis
from balred.reduction.candidates import Row
from balred.reduction.plan import Plan, SkippedWarning
from balred.reduction.selective import CalibrationWarning
from balred.reduction.writing_back import Reduction

__all__ = ["Analysis", "CalibrationWarning", "Plan", "Reduction", "Row", "SkippedWarning"]
