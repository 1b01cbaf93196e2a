"""Model reduction for linear systems and for the state-space layers of neural networks.

``import balred`` loads NumPy and nothing else; a framework is loaded when its arrays or layers arrive.
"""

from balred import ranks, testing
from balred.files.checkpoints import load, save
from balred.hankel.nuclear_norm import hankel_nuclear_norm, hankel_weights
from balred.hankel.values import hsv
from balred.measures import stability
from balred.measures.norms import error, norm
from balred.ranks.budget import Budget
from balred.ranks.choosing import RankWarning
from balred.ranks.rules import Energy, ErrorBound, Order, Relative
from balred.realisations.balanced import Balanced, balance
from balred.reduction.analysis import Analysis, analyze
from balred.reduction.plan import Plan, plan, reduce
from balred.registry.entries import register
from balred.registry.reading import adapt
from balred.solvers.gramians import gramian_factors, gramians
from balred.systems.dense_system import DenseSystem, ss
from balred.systems.diagonal_system import DiagonalSystem, diagonal
from balred.systems.poles import UnstableError
from balred.version import VERSION as __version__

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
