"""One `xp` fixture, fed by every array library in every precision, and the hypothesis profiles."""

from __future__ import annotations

import importlib.util
import os
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import hypothesis
import numpy as np
import pytest
from _pytest.doctest import MultipleDoctestFailures
from covering import repeated
from tables import LIBRARIES, Library

import balred

collect_ignore = ["support"]  # helpers: importing control_plugin, as for doctests, replaces python-control's functions

for profile, examples in {"quick": 5, "dev": 20, "thorough": 400}.items():
    hypothesis.settings.register_profile(
        profile, max_examples=examples, deadline=None, derandomize=bool(os.environ.get("CI"))
    )


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--without-extras", action="store_true", help="skip files of tests that import packages which are not installed"
    )


OPTIONAL = ("control", "equinox", "flax", "jax", "lightning", "matplotlib", "pymor", "safetensors", "slycot", "torch")
"""Packages that folders and files of adapters and backends are called like."""


def lacking(error: BaseException | None) -> str | None:
    """The package that is not installed, if an error is about that."""
    while error is not None:
        if isinstance(error, ModuleNotFoundError) and (name := (error.name or "").partition(".")[0]):
            return name if importlib.util.find_spec(name) is None else None
        error = error.__cause__
    return None


class Importing(pytest.Module):
    """A file of tests that is skipped where it needs what this environment is meant to lack; in others it fails."""

    def collect(self) -> Iterable[pytest.Item | pytest.Collector]:
        try:
            return super().collect()
        except self.CollectError as error:
            if (name := lacking(error)) is not None:
                pytest.skip(f"{name} is not installed", allow_module_level=True)
            raise


def pytest_pycollect_makemodule(module_path: Path, parent: pytest.Collector) -> pytest.Module | None:
    if not parent.config.getoption("--without-extras"):
        return None
    made: pytest.Module = Importing.from_parent(parent, path=module_path)
    return made


class Examples:
    """A plugin, since what a folder's conftest says is heard in that folder alone, and docstrings are elsewhere."""

    def pytest_ignore_collect(self, collection_path: Path) -> bool | None:
        """What serves a package that is not installed has no examples to run, and half of it would stay imported."""
        if collection_path.stem not in OPTIONAL:
            return None
        serves = collection_path.parent.name in ("adapters", "backends") and "tests" not in collection_path.parts
        return (serves and importlib.util.find_spec(collection_path.stem) is None) or None

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_call(self, item: pytest.Item) -> Iterator[None]:
        """An example of a docstring cannot say what it needs, so it is skipped where that is not installed."""
        try:
            return (yield)
        except MultipleDoctestFailures as error:
            first: Any = error.failures[0]
            name = lacking(first.exc_info[1]) if hasattr(first, "exc_info") else None
            if name is not None:
                pytest.skip(f"{name} is not installed")
            raise


def pytest_configure(config: pytest.Config) -> None:
    """JAX compiles every program once; the quick run, which leaves out what is ``full``, tries fewer examples."""
    quick = "not full" in config.option.markexpr
    if config.getoption("--without-extras"):
        config.pluginmanager.register(Examples())
    hypothesis.settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "quick" if quick else "dev"))
    # a new function is a new program to JAX, though most are alike; a folder for each worker, since JAX writes files that
    # others may be reading
    folder = tempfile.mkdtemp(prefix="balred-jax-")
    config.add_cleanup(lambda: shutil.rmtree(folder, ignore_errors=True))
    os.environ |= {
        "JAX_COMPILATION_CACHE_DIR": folder,
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
    }
    if quick:  # small programs are compiled for longer than they run
        os.environ.setdefault("JAX_DISABLE_MOST_OPTIMIZATIONS", "1")


@pytest.fixture(params=LIBRARIES, ids=str)
def xp(request: pytest.FixtureRequest) -> Iterator[Library]:
    """An array library in one precision, inside the scope that its users work in."""
    library: Any = request.param
    pytest.importorskip(library.backend.library)
    with library.scope():
        yield library


@pytest.fixture
def plant() -> Any:
    """Seven-state power system of the examples of SLICOT's AB09AD, AB09BD, AB09CD, AB09MD, AB09ND and AB13AD."""
    A = np.array([
        [-0.04165, 0, 4.92, -4.92, 0, 0, 0],
        [-5.21, -12.5, 0, 0, 0, 0, 0],
        [0, 3.33, -3.33, 0, 0, 0, 0],
        [0.545, 0, 0, 0, -0.545, 0, 0],
        [0, 0, 0, 4.92, -0.04165, 0, 4.92],
        [0, 0, 0, 0, -5.21, -12.5, 0],
        [0, 0, 0, 0, 0, 3.33, -3.33],
    ])  # fmt: skip
    B = np.zeros((7, 2))
    B[1, 0] = B[5, 1] = 12.5
    C = np.zeros((3, 7))
    C[0, 0] = C[1, 3] = C[2, 4] = 1
    return balred.ss(A, B, C)


@pytest.hookimpl(tryfirst=True)  # before pytest leaves out what has a mark
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark what the quick run leaves out, and skip what needs a CUDA device where there is none."""
    for item in repeated(items):
        item.add_marker(pytest.mark.full)
    if not any(item.get_closest_marker("gpu") for item in items) or _cuda():
        return
    for item in items:
        if item.get_closest_marker("gpu"):
            item.add_marker(pytest.mark.skip(reason="no CUDA device"))


def _cuda() -> bool:
    try:
        import torch
    except ModuleNotFoundError:
        return False
    return bool(torch.cuda.is_available())
