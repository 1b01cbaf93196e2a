"""pyMOR: its linear models in and out, second-order ones as such, and solvers for its Lyapunov and Riccati equations."""

try:
    import pymor
except ModuleNotFoundError as error:
    raise ModuleNotFoundError("pyMOR is not installed: pip install 'balred[pymor]'") from error

if int(pymor.__version__.partition(".")[0]) < 2026:
    raise ImportError(f"pyMOR must be of version 2026.1 or newer, got {pymor.__version__}")

from balred.adapters.pymor.equations import (
    BalredLyapunovSolver,
    BalredLyapunovSolverLR,
    BalredPositiveRiccatiSolver,
    BalredPositiveRiccatiSolverLR,
    BalredRiccatiSolver,
    BalredRiccatiSolverLR,
    matrix_equation_solvers,
)
from balred.adapters.pymor.models import adapt_lti, adapt_second_order, lti_model, second_order_model

__all__ = [
    "BalredLyapunovSolver",
    "BalredLyapunovSolverLR",
    "BalredPositiveRiccatiSolver",
    "BalredPositiveRiccatiSolverLR",
    "BalredRiccatiSolver",
    "BalredRiccatiSolverLR",
    "adapt_lti",
    "adapt_second_order",
    "lti_model",
    "matrix_equation_solvers",
    "second_order_model",
]
