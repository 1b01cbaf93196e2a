"""What all frameworks on JAX share: trees of arrays, states of optax, averages, and the reducer in training."""

try:
    import jax  # noqa: F401
except ModuleNotFoundError as error:
    raise ModuleNotFoundError("JAX is not installed: pip install 'balred[jax]'") from error

from balred.adapters.jax.checkpoints import skeleton_for
from balred.adapters.jax.training import TreeReducer

__all__ = ["TreeReducer", "skeleton_for"]
