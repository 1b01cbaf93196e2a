"""Layers of PyTorch models, a family a file; importing this registers those that are known without another package."""

from balred.adapters.torch import modules
from balred.adapters.torch.layers import attention, delta, lru, mamba, s4, s4d, zamba

__all__ = ["attention", "delta", "lru", "mamba", "modules", "s4", "s4d", "zamba"]
