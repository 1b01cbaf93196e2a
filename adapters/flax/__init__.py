"""flax, linen and nnx: parameter trees and modules, and truncation during training.

The reducer here is that of linen; that of nnx is :class:`balred.adapters.flax.nnx.InTrainingReducer`.
"""

try:
    import flax  # noqa: F401
except ModuleNotFoundError as error:
    raise ModuleNotFoundError("flax is not installed: pip install 'balred[flax]'") from error

from balred.adapters.flax.linen_training import InTrainingReducer

__all__ = ["InTrainingReducer"]
