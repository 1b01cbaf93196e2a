"""``balred info``: true of the packages that are there, and works without any of them, or with broken ones."""

from __future__ import annotations

import importlib.metadata
import re
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
from commands import as_json, run

import balred
from balred.cli import info

ROOT = Path(__file__).parents[2]


def without(monkeypatch: pytest.MonkeyPatch, gone: Any) -> None:
    """As on a machine without the packages of which `gone` is true."""
    there = importlib.metadata.version

    def version(name: str) -> str:
        if gone(name):
            raise importlib.metadata.PackageNotFoundError(name)
        return there(name)

    monkeypatch.setattr(importlib.metadata, "version", version)


def test_the_table_of_extras_is_that_of_the_package() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = project["optional-dependencies"]
    used = re.search(r"balred\[(.*)\]", extras["all"][0])
    assert used is not None
    assert list(info.EXTRAS) == used[1].split(",")

    def needs(requirement: str) -> set[str]:
        inner = re.fullmatch(r"balred\[(.*)\]", requirement)
        if inner is None:
            return {re.split(r"[<>=!~\[; ]", requirement)[0]}
        return {name for extra in inner[1].split(",") for one in extras[extra] for name in needs(one)}

    for extra, named in info.EXTRAS.items():
        assert set(named) == {name for one in extras[extra] for name in needs(one)}, extra
    assert set(info.CORE) == {name for one in project["dependencies"] for name in needs(one)}


def test_what_is_there(monkeypatch: pytest.MonkeyPatch) -> None:
    without(monkeypatch, lambda name: name in ("torch", "jax"))
    found = as_json("info")
    assert found["balred"] == balred.__version__
    assert found["packages"]["numpy"] == importlib.metadata.version("numpy")
    assert found["packages"]["torch"] is None
    assert not {"torch", "jax", "s5", "flax"} & set(found["extras"])
    assert list(found["devices"]) == ["linear algebra"]
    text = run("info").stdout
    assert text.startswith(f"balred {balred.__version__}, Python {sys.version.split()[0]}")
    assert re.search(r"^torch +missing$", text, re.MULTILINE)


def test_without_any_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    without(monkeypatch, lambda name: name not in info.CORE)
    assert as_json("info")["extras"] == []
    assert re.search(r"^extras +none$", run("info").stdout, re.MULTILINE)


def test_a_broken_package_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.metadata, "version", lambda name: "1.0")

    def broken(name: str) -> Any:
        raise OSError(f"lib{name}.so:\n no such file")

    monkeypatch.setattr(info.importlib, "import_module", broken)
    assert as_json("info")["devices"] == {
        label: f"fails: OSError: lib{name}.so: no such file"
        for label, name in (("linear algebra", "threadpoolctl"), ("PyTorch", "torch"), ("JAX", "jax"))
    }


def test_devices_of_pytorch() -> None:
    pytest.importorskip("torch")
    assert info.gathered()["devices"]["PyTorch"].startswith("cpu")


def test_the_module_alone_imports_no_framework() -> None:
    code = (
        "import sys, balred.cli.info; print([m for m in ('torch', 'jax', 'sklearn', 'matplotlib') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
