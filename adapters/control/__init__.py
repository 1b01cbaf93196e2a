"""python-control: ``control.StateSpace`` in and out, and its own functions under its own names, as drop-ins."""

try:
    import control  # noqa: F401
except ModuleNotFoundError as error:
    raise ModuleNotFoundError("python-control is not installed: pip install 'balred[control]'") from error

from balred.adapters.control.gramians import balreal, gram, hankel_singular_values, hsvd
from balred.adapters.control.reduction import (
    balanced_reduction,
    balred,
    minimal_realization,
    minreal,
    model_reduction,
    modred,
)
from balred.adapters.control.statespace import adapt_statespace

__all__ = [
    "adapt_statespace",
    "balanced_reduction",
    "balreal",
    "balred",
    "gram",
    "hankel_singular_values",
    "hsvd",
    "minimal_realization",
    "minreal",
    "model_reduction",
    "modred",
]
