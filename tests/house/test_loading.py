"""What is loaded when: no framework before its data or layers arrive, and a missing one names the extra that brings it."""

from __future__ import annotations

import subprocess
import sys

import pytest


def run(code, *args):
    """`code` in a fresh interpreter."""
    return subprocess.run(
        [sys.executable, "-W", "error", *args, "-c", code], capture_output=True, text=True, timeout=120, cwd="/"
    )


def test_importing_balred_loads_no_framework():
    heavy = [
        "torch",
        "jax",
        "jaxlib",
        "slycot",
        "control",
        "pymor",
        "equinox",
        "flax",
        "optax",
        "matplotlib",
        "sklearn",
        "scipy",
        "rich",
        "typer",
        "safetensors",
    ]
    done = run(f"import sys, balred; print([m for m in {heavy} if m in sys.modules])")
    assert done.stdout.strip() == "[]", done.stderr


def test_numpy_data_loads_no_framework():
    code = """
import sys, numpy as np, balred
g = balred.testing.random_system(4)
balred.reduce(g, balred.Energy(.9)); balred.norm(g, "hinf"); balred.hsv(g, solver="scipy")
try: balred.hsv(object())
except TypeError: pass
print([m for m in ("torch", "jax", "slycot", "control", "pymor", "equinox", "scipy.signal", "matplotlib", "safetensors") if m in sys.modules])
"""
    done = run(code)
    assert done.stdout.strip() == "[]", done.stderr


def test_nothing_pollutes_the_top_level():
    done = run("import importlib.util as u; print([m for m in ('backends', 'adapters', 'studies') if u.find_spec(m)])")
    assert done.stdout.strip() == "[]", done.stderr


@pytest.mark.alike
@pytest.mark.parametrize(
    ("package", "code", "extra"),
    [
        ("slycot", "balred.hsv(balred.testing.random_system(3), solver='slycot')", "slycot"),
        ("safetensors", "balred.load({}, 'x.safetensors')", "checkpoints"),
        ("torch", "from balred.systems.arrays import backend; backend('torch')", "torch"),
        ("jax", "from balred.systems.arrays import backend; backend('jax')", "jax"),
        ("torch", "from balred.adapters.torch import InTrainingReducer", "torch"),
        ("lightning", "import balred.adapters.lightning", "lightning"),
        ("transformers", "import balred.adapters.hf_trainer", "transformers"),
        ("torch", "import balred.adapters.torch.layers.s5", "torch"),
        ("torch", "import balred.adapters.torch.layers.s4", "torch"),
        ("torch", "import balred.adapters.torch.layers.s4d", "torch"),
        ("jax", "from balred.adapters.equinox import InTrainingReducer", "jax"),
        ("equinox", "from balred.adapters.equinox import InTrainingReducer", "jax"),
        ("equinox", "import balred.adapters.equinox.copies", "jax"),
        ("flax", "import balred.adapters.flax", "flax"),
        ("flax", "import balred.adapters.flax.nnx", "flax"),
        ("flax", "import balred.adapters.flax.mamba", "flax"),
        ("control", "import balred.adapters.control", "control"),
        ("pymor", "import balred.adapters.pymor", "pymor"),
        ("matplotlib", "import balred.adapters.matplotlib", "plot"),
    ],
)
def test_a_missing_dependency_names_the_extra(package, code, extra):
    """None in sys.modules makes the import fail as if the package were not installed."""
    done = run(f"import sys; sys.modules[{package!r}] = None\nimport balred\n{code}")
    assert done.returncode == 1
    last = done.stderr.strip().splitlines()[-1]
    assert "ModuleNotFoundError" in last
    assert f"pip install 'balred[{extra}]'" in last


@pytest.mark.alike
@pytest.mark.parametrize(
    "package", ["torch", "jax", "slycot", "control", "pymor", "equinox", "matplotlib", "safetensors"]
)
def test_the_core_runs_without_an_optional_dependency(package):
    done = run(
        f"import sys; sys.modules[{package!r}] = None\nimport balred\nprint(balred.reduce(balred.testing.random_system(5), 2).order)"
    )
    assert done.stdout.strip() == "2", done.stderr
