"""How many states to keep: rules, bounds, and the budget that layers share.

NumPy only; nothing here knows a system.
"""

from balred.ranks.bounds import a_priori_bound, numerical_rank
from balred.ranks.budget import Budget
from balred.ranks.choosing import RankWarning
from balred.ranks.divergence import Divergence
from balred.ranks.rules import Energy, ErrorBound, MeasuredError, Order, Relative, Rule

__all__ = [
    "Budget",
    "Divergence",
    "Energy",
    "ErrorBound",
    "MeasuredError",
    "Order",
    "RankWarning",
    "Relative",
    "Rule",
    "a_priori_bound",
    "numerical_rank",
]
