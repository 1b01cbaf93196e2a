"""Model reduction for linear systems and for the state-space layers of neural networks.

``import balred`` loads NumPy and nothing else; a framework is loaded when its arrays or layers arrive.
"""

from balred import ranks, stability, testing
from balred.adapt import adapt, register
from balred.balancing import Balanced, balance
from balred.budget import Budget
from balred.checkpoints import load, save
from balred.gramians import gramian_factors, gramians
from balred.hankel import Analysis, analyze, hsv
from balred.norms import error, norm
from balred.nuclear_norm import hankel_nuclear_norm, hankel_weights
from balred.plan import Plan, plan
from balred.poles import UnstableError
from balred.ranks import Energy, ErrorBound, Order, RankWarning, Relative
from balred.reduction import reduce
from balred.systems import DenseSystem, DiagonalSystem, diagonal, ss

__version__ = "0.1.0"

__all__ = [
    "Analysis",
    "Balanced",
    "Budget",
    "DenseSystem",
    "DiagonalSystem",
    "Energy",
    "ErrorBound",
    "Order",
    "Plan",
    "RankWarning",
    "Relative",
    "UnstableError",
    "__version__",
    "adapt",
    "analyze",
    "balance",
    "diagonal",
    "error",
    "gramian_factors",
    "gramians",
    "hankel_nuclear_norm",
    "hankel_weights",
    "hsv",
    "load",
    "norm",
    "plan",
    "ranks",
    "reduce",
    "register",
    "save",
    "ss",
    "stability",
    "testing",
]
