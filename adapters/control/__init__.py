"""python-control: its systems and frequency responses in and out, and its own functions under its own names, as drop-ins."""

try:
    import control  # noqa: F401
except ModuleNotFoundError as error:
    raise ModuleNotFoundError("python-control is not installed: pip install 'balred[control]'") from error

from balred.adapters.control.frequencydata import adapt_frequency_data, frequency_data
from balred.adapters.control.gramians import balreal, gram, hankel_singular_values, hsvd
from balred.adapters.control.identification import eigensys_realization, era, markov
from balred.adapters.control.reduction import (
    balanced_reduction,
    balred,
    minimal_realization,
    minreal,
    model_reduction,
    modred,
    statespace_minreal,
)
from balred.adapters.control.statespace import adapt_statespace
from balred.adapters.control.transferfunction import adapt_transfer_function

__all__ = [
    "adapt_frequency_data",
    "adapt_statespace",
    "adapt_transfer_function",
    "balanced_reduction",
    "balreal",
    "balred",
    "eigensys_realization",
    "era",
    "frequency_data",
    "gram",
    "hankel_singular_values",
    "hsvd",
    "markov",
    "minimal_realization",
    "minreal",
    "model_reduction",
    "modred",
    "statespace_minreal",
]
