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
        ("torch", "import balred.adapters.hf_trainer", "transformers"),
        ("torch", "import balred.adapters.lightning", "lightning"),
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
        ("torch", "import balred.studies.training.study", "torch,studies"),
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
def test_a_missing_package_without_an_extra_is_named():
    """The studies of Mamba need mambapy, which belongs to no extra."""
    pytest.importorskip("torch")
    done = run("import sys; sys.modules['mambapy'] = None\nimport balred.studies.models.mamba_models")
    assert done.stderr.strip().splitlines()[-1] == "ModuleNotFoundError: mambapy is not installed: pip install mambapy"


@pytest.mark.alike
@pytest.mark.parametrize(
    "package", ["torch", "jax", "slycot", "control", "pymor", "equinox", "matplotlib", "safetensors"]
)
def test_the_core_runs_without_an_optional_dependency(package):
    done = run(
        f"import sys; sys.modules[{package!r}] = None\nimport balred\nprint(balred.reduce(balred.testing.random_system(5), 2).order)"
    )
    assert done.stdout.strip() == "2", done.stderr


@pytest.mark.alike
@pytest.mark.parametrize("library", ["none", "torch", "jax", "equinox", "flax", "control", "matplotlib", "pymor"])
def test_importing_changes_nothing_for_others(library):
    """No environment variable, warning filter, number of threads, signal or setting of a framework."""
    code = """
import importlib, os, signal, sys, warnings
library = sys.argv[1]
if library != "none":
    try: importlib.import_module({"flax": "flax.linen"}.get(library, library))
    except ModuleNotFoundError: sys.exit(0)
    if library == "flax": import flax.nnx
    if library == "pymor": import pymor.basic
    if library in ("equinox", "flax"): import jax
import numpy, scipy.linalg, threadpoolctl
def seen():
    found = {"environment": dict(os.environ), "filters": list(warnings.filters), "path": list(sys.path),
             "pools": [(p["internal_api"], p["num_threads"]) for p in threadpoolctl.threadpool_info()],
             "signal": signal.getsignal(signal.SIGINT), "numpy": repr(numpy.geterr()), "print": repr(numpy.get_printoptions())}
    if "torch" in sys.modules:
        import torch
        found["torch"] = (torch.get_num_threads(), torch.get_default_dtype(), torch.is_grad_enabled(), torch.get_rng_state().tolist())
    if "jax" in sys.modules: found["jax"] = dict(sys.modules["jax"].config.values)
    if "matplotlib" in sys.modules: found["matplotlib"] = dict(sys.modules["matplotlib"].rcParams)
    return found
before = seen()
import balred
balred.reduce(balred.testing.random_system(5), 2)
if library != "none": importlib.import_module("balred.adapters." + library)
after = seen()
print([key for key in before if before[key] != after[key]])
"""
    done = subprocess.run(
        [sys.executable, "-c", code, library], capture_output=True, text=True, timeout=120, cwd="/", check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() in ("[]", ""), done.stdout


def test_a_few_states_need_no_more_of_scipy_than_its_lapack():
    """And it is the same one that the rest of SciPy finds when it is loaded later."""
    code = """
import sys, numpy as np, balred
assert np.isclose(balred.hsv(balred.ss([[-1.0]], [[1.0]], [[1.0]]))[0], 0.5)
print([m for m in ("scipy.linalg", "scipy.sparse") if m in sys.modules])
from balred.backends.numpy import lapack
import scipy.linalg
assert scipy.linalg.lapack.dgesdd is lapack("gesdd", "d")
assert scipy.linalg.blas.dtrmm is lapack("trmm", "d")
"""
    done = run(code)
    assert done.stdout.strip() == "[]", done.stderr
    assert not done.returncode, done.stderr
