"""The house stands as drawn: which room may import what, what is loaded when."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
STDLIB = set(sys.stdlib_module_names)

CORE = {"numpy", "array_api_compat", "balred"}
EXTRA = {
    f"balred/{name}.py": {"typer", "rich"}
    for name in ("cli", "cli_options", "cli_output", "cli_systems", "cli_inspect", "cli_train")
}
BACKENDS = {
    "__init__": set(),
    "numpy": {"scipy", "threadpoolctl"},
    "slycot": {"slycot"},
    "safetensors": {"safetensors"},
    "torch": {"torch"},
    "jax": {"jax", "jaxlib"},
}
ADAPTERS = {
    "__init__": set(),
    "control": {"control"},
    "control_functions": {"control"},
    "matplotlib": {"matplotlib"},
    "matplotlib_spectra": {"matplotlib"},
    "pymor": {"pymor"},
    "scipy": {"scipy"},
    "torch": {"torch"},
    "torch_attention": {"torch"},
    "torch_distributed": {"torch"},
    "torch_followers": {"torch"},
    "torch_layers": {"torch"},
    "torch_lru": {"torch"},
    "torch_mamba": {"torch"},
    "torch_mamba_parts": {"torch"},
    "torch_zamba": {"torch"},
    "torch_training": {"torch"},
    "torch_loading": {"torch"},
    "torch_trainers": {"torch"},
    "lightning": {"torch", "lightning"},
    "hf_trainer": {"torch", "transformers"},
    "torch_selective": {"torch"},
    "torch_sharded": {"torch"},
    "lru_pytorch": {"torch", "LRU_pytorch"},
    "s5": {"torch"},
    "s4": {"torch"},
    "s4_kernels": {"torch"},
    "s4d": {"torch"},
    "equinox": {"jax", "equinox", "optax"},
    "equinox_lru": {"jax", "equinox", "optax"},
    "equinox_copies": {"jax", "equinox", "optax"},
    "flax": {"jax", "flax"},
    "flax_nnx": {"jax", "flax"},
    "flax_mamba": {"jax", "flax"},
    "flax_training": {"jax", "flax"},
    "flax_nnx_training": {"jax", "flax"},
    "jax_training": {"jax"},
    "jax_checkpoints": {"jax"},
    "jax_followers": {"jax"},
    "jax_trees": {"jax"},
    "parameters": set(),
}


def modules(folder):
    return sorted(p for p in (ROOT / folder).glob("*.py"))


def imports(path):
    """Top-level packages that a module imports, anywhere in it, and the balred modules among them."""
    packages, inner = set(), set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path.name}: imports are absolute, got a relative one in line {node.lineno}"
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        else:
            continue
        packages |= {name.partition(".")[0] for name in names}
        inner |= {name for name in names if name.startswith("balred.")}
    return packages - STDLIB, inner


def ids(path):
    return path.relative_to(ROOT).as_posix()


@pytest.mark.parametrize("path", modules("balred"), ids=ids)
def test_the_core_imports_numpy_and_itself(path):
    allowed = CORE | EXTRA.get(ids(path), set())
    packages, inner = imports(path)
    assert packages <= allowed
    if ids(path) not in EXTRA:  # the command starts the studies, and draws
        assert [m for m in inner if m.startswith(("balred.backends", "balred.adapters", "balred.studies"))] == []


@pytest.mark.parametrize("path", modules("backends"), ids=ids)
def test_a_backend_imports_one_library(path):
    packages, inner = imports(path)
    assert path.stem in BACKENDS, f"declare what {ids(path)} may import"
    assert packages <= CORE | BACKENDS[path.stem]
    assert [m for m in inner if m.startswith(("balred.adapters", "balred.studies"))] == []


@pytest.mark.parametrize("path", modules("adapters"), ids=ids)
def test_an_adapter_imports_one_framework(path):
    packages, inner = imports(path)
    assert path.stem in ADAPTERS, f"declare what {ids(path)} may import"
    mine = ADAPTERS[path.stem]
    assert packages <= CORE | mine
    assert [m for m in inner if m.startswith("balred.studies")] == []
    # another adapter of the same framework may be used, one of another framework may not
    for name in inner:
        if name.startswith("balred.adapters."):
            assert ADAPTERS[name.split(".")[2]] <= mine
        if name.startswith("balred.backends."):
            assert BACKENDS[name.split(".")[2]] - {"scipy", "jaxlib"} <= mine


def test_mapped_folders_have_no_packages():
    """They are mapped one by one in pyproject.toml: a package inside one would be left out of the wheel."""
    for folder in ("backends", "adapters", "studies"):
        inside = [p.name for p in (ROOT / folder).iterdir() if p.is_dir() and p.name != "__pycache__"]
        assert inside == []


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
        ("torch", "import balred.adapters.torch.layers.s5", "s5"),
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


@pytest.mark.parametrize(
    "package", ["torch", "jax", "slycot", "control", "pymor", "equinox", "matplotlib", "safetensors"]
)
def test_the_core_runs_without_an_optional_dependency(package):
    done = run(
        f"import sys; sys.modules[{package!r}] = None\nimport balred\nprint(balred.reduce(balred.testing.random_system(5), 2).order)"
    )
    assert done.stdout.strip() == "2", done.stderr
