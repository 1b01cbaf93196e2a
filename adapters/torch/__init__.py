"""PyTorch: layers, models, and truncation while they train; here are the names that people use."""

try:
    import torch  # noqa: F401
except ModuleNotFoundError as error:
    raise ModuleNotFoundError("PyTorch is not installed: pip install 'balred[torch]'") from error

from balred.adapters.torch.configurations import ConfigurationWarning
from balred.adapters.torch.layers.lru import LRU
from balred.adapters.torch.loading import resize_on_load
from balred.adapters.torch.modules import blank_copy, set_layer
from balred.adapters.torch.training.copies import AverageWarning
from balred.adapters.torch.training.reducer import InTrainingReducer

__all__ = [
    "LRU",
    "AverageWarning",
    "ConfigurationWarning",
    "InTrainingReducer",
    "blank_copy",
    "resize_on_load",
    "set_layer",
]
