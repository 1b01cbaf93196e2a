"""What computed a number: versions of packages, and the hardware."""

from __future__ import annotations

import os
import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import balred
from balred.studies.settings.train_config import TrainConfig


def versions() -> dict[str, str]:
    """Of what computed."""
    found = {"python": platform.python_version()}
    for package in ("balred", "numpy", "scipy", "torch"):
        try:
            found[package] = version(package)
        except PackageNotFoundError:  # a source tree that was never installed
            found[package] = balred.__version__ if package == "balred" else "unknown"
    return found


def hardware(config: TrainConfig) -> str:
    """Device and threads, in words."""
    if config.device == "cuda":
        import torch

        return torch.cuda.get_device_name()
    return f"{_processor()}, {config.threads} of {os.cpu_count()} threads"


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()
