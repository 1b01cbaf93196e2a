"""The command ``balred info``: what a report of a fault should say of the machine and of the packages that are there.

A package is looked up without being imported; one that has devices is imported by this command alone, and where that
fails, the failure is what the report needs.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import os
import platform
from collections.abc import Callable
from typing import Any

import numpy as np

from balred.cli.options import Json
from balred.cli.output import emit_json, print_table, reported, tell
from balred.version import VERSION

EXTRAS = {
    "slycot": ("slycot",),
    "control": ("control",),
    "pymor": ("pymor",),
    "checkpoints": ("safetensors",),
    "torch": ("torch", "safetensors"),
    "s5": ("s5-pytorch", "torch", "safetensors"),
    "accelerate": ("accelerate", "torch", "safetensors"),
    "transformers": ("transformers", "accelerate", "torch", "safetensors"),
    "lightning": ("lightning", "torch", "safetensors"),
    "jax": ("jax", "equinox", "optax", "safetensors"),
    "flax": ("flax", "jax", "equinox", "optax", "safetensors"),
    "plot": ("matplotlib",),
    "studies": ("scikit-learn", "matplotlib", "jinja2", "pillow"),
}
"""What each extra installs; a test compares it with pyproject.toml."""

CORE = ("numpy", "scipy", "array-api-compat", "threadpoolctl", "typer", "rich")


def info(as_json: Json = False) -> None:
    """Print versions, installed extras and devices: what a report of a fault should contain."""
    with reported("info", "looking at packages"):
        found = gathered()
    if as_json:
        emit_json(found)
        return
    tell(f"balred {VERSION}, Python {found['python']}, {found['platform']}, {found['cores']} cores")
    print_table(
        ("package", "version"), [(name, version or "missing") for name, version in found["packages"].items()], left=2
    )
    tell("")
    print_table(("", ""), [("extras", ", ".join(found["extras"]) or "none"), *found["devices"].items()], left=2)


def gathered() -> dict[str, Any]:
    """All that the command prints, as plain values."""
    packages = {name: _version(name) for name in dict.fromkeys((*CORE, *(p for of in EXTRAS.values() for p in of)))}
    asked: dict[str, tuple[str, Callable[[], str]]] = {
        "linear algebra": ("threadpoolctl", _blas), "PyTorch": ("torch", _torch), "JAX": ("jax", _jax),
    }  # fmt: skip
    return {
        "balred": VERSION,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "cores": os.cpu_count(),
        "packages": packages,
        "extras": [extra for extra, needs in EXTRAS.items() if all(packages[name] for name in needs)],
        "devices": {label: _asked(ask) for label, (package, ask) in asked.items() if packages[package]},
    }


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _asked(ask: Callable[[], str]) -> str:
    try:
        return ask()
    except Exception as error:  # whatever a broken installation raises, the report is to say it
        return f"fails: {type(error).__name__}: {' '.join(str(error).split())}"


def _blas() -> str:
    np.linalg.norm(np.eye(2))
    pools = importlib.import_module("threadpoolctl").threadpool_info()
    found = (f"{p['internal_api']} {p['version'] or '?'}, {p['num_threads']} threads" for p in pools)
    return "; ".join(dict.fromkeys(found)) or "no library that threadpoolctl knows"


def _torch() -> str:
    torch = importlib.import_module("torch")
    gpus = [torch.cuda.get_device_name(k) for k in range(torch.cuda.device_count())]
    if torch.backends.mps.is_available():
        gpus.append("mps")
    return ", ".join(["cpu", *gpus])


def _jax() -> str:
    return ", ".join(str(device.device_kind) for device in importlib.import_module("jax").devices())
