"""The names that ``balred`` hands on, in one file, so that the package itself loads nothing until one of them is asked for."""

from balred import ranks, testing
from balred.files.checkpoints import load, save
from balred.hankel.nuclear_norm import hankel_nuclear_norm, hankel_weights
from balred.hankel.values import hsv
from balred.measures import stability
from balred.measures.covariance import covar
from balred.measures.norms import error, norm
from balred.measures.promises import RoundingWarning
from balred.ranks.budget import Budget
from balred.ranks.choosing import RankWarning
from balred.ranks.divergence import Divergence
from balred.ranks.rules import Energy, ErrorBound, MeasuredError, Order, Relative
from balred.realisations.balanced import Balanced, balance
from balred.realisations.descriptor import descriptor
from balred.realisations.era import era
from balred.realisations.loewner import loewner
from balred.realisations.minimal import minimal
from balred.realisations.second_order.system import SecondOrderSystem, second_order
from balred.realisations.sparse import sparse_system
from balred.reduction.analysis import Analysis, analyze
from balred.reduction.controllers import reduce_controller as controller_reduction
from balred.reduction.plan import Plan, plan, reduce
from balred.registry.entries import register
from balred.registry.reading import adapt
from balred.solvers.equations import lyap, stein
from balred.solvers.gramians import gramian_factors, gramians
from balred.systems.dense_system import DenseSystem, ss
from balred.systems.diagonal_system import DiagonalSystem, diagonal
from balred.systems.poles import BoundaryWarning, InstabilityWarning, UnstableError
from balred.version import VERSION as __version__

__all__ = [
    "Analysis",
    "Balanced",
    "BoundaryWarning",
    "Budget",
    "DenseSystem",
    "DiagonalSystem",
    "Divergence",
    "Energy",
    "ErrorBound",
    "InstabilityWarning",
    "MeasuredError",
    "Order",
    "Plan",
    "RankWarning",
    "Relative",
    "RoundingWarning",
    "SecondOrderSystem",
    "UnstableError",
    "__version__",
    "adapt",
    "analyze",
    "balance",
    "controller_reduction",
    "covar",
    "descriptor",
    "diagonal",
    "era",
    "error",
    "gramian_factors",
    "gramians",
    "hankel_nuclear_norm",
    "hankel_weights",
    "hsv",
    "load",
    "loewner",
    "lyap",
    "minimal",
    "norm",
    "plan",
    "ranks",
    "reduce",
    "register",
    "save",
    "second_order",
    "sparse_system",
    "ss",
    "stability",
    "stein",
    "testing",
]
