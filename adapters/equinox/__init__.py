"""equinox and optax: models of layers, layers of other packages, and truncation during training."""

try:
    import equinox  # noqa: F401
    import jax  # noqa: F401
except ModuleNotFoundError as error:
    raise ModuleNotFoundError("JAX and equinox are not installed: pip install 'balred[jax]'") from error

from balred.adapters.equinox.lru import LRU
from balred.adapters.equinox.training import InTrainingReducer
from balred.intraining.state import ReducerState

__all__ = ["LRU", "InTrainingReducer", "ReducerState"]
