"""Model reduction for linear systems and for the state-space layers of neural networks.

``import balred`` loads NumPy and nothing else; a framework is loaded when its arrays or layers arrive.
"""

from balred import ranks, stability, testing
from balred.registry.entries import adapt, register
from balred.hankel.spectrum import Balanced, balance
from balred.ranks.budget import Budget
from balred.files.checkpoints import load, save
from balred.solvers.gramians import gramian_factors, gramians
from balred.reduction.analysis import Analysis, analyze, hsv
from balred.measures.norms import error, norm
from balred.hankel.nuclear_norm import hankel_nuclear_norm, hankel_weights
from balred.reduction.plan import Plan, plan
from balred.systems.poles import UnstableError
from balred.ranks.rules import Energy, ErrorBound, Order, RankWarning, Relative
from balred.reduction.writing_back import reduce
from balred.systems.dense_system import DenseSystem, DiagonalSystem, diagonal, ss

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
