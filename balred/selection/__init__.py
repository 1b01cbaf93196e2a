"""Which states to keep, where data must tell: moments of signals, and sets of states chosen from them.

NumPy only; what a layer is, and how its moments are gathered, is said by the adapters.
"""

from balred.selection.calibration import Calibration
from balred.selection.elimination import refitted
from balred.selection.moments import Moments, Selection
from balred.selection.selecting import select

__all__ = ["Calibration", "Moments", "Selection", "refitted", "select"]
