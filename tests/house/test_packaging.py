"""What is built holds every file of the package and nothing else, and an editable install shows ``balred`` alone."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
KEPT = ("balred", "adapters", "backends", "studies", "tests", "docs")


def _can_build() -> bool:
    if importlib.util.find_spec("build") is None or importlib.util.find_spec("setuptools") is None:
        return False
    return int(importlib.metadata.version("setuptools").partition(".")[0]) >= 77


pytestmark = pytest.mark.skipif(not _can_build(), reason="needs build and setuptools >= 77")


def run(*args: str, cwd: Path) -> str:
    done = subprocess.run([sys.executable, *args], capture_output=True, text=True, timeout=300, check=False, cwd=cwd)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of what is built from: the files at the top, and the folders whose names a build could pick up."""
    tree = tmp_path_factory.mktemp("tree")
    for path in ROOT.iterdir():
        if path.is_file():
            shutil.copy2(path, tree)
    for name in KEPT:
        ignored = shutil.ignore_patterns("__pycache__", "_build", "generated")
        shutil.copytree(ROOT / name, tree / name, symlinks=True, ignore=ignored)
    return tree


@pytest.fixture(scope="module")
def built(tree: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The sdist and the wheel made from it, and the wheel made from the tree."""
    first, second = (tmp_path_factory.mktemp(name) for name in ("sdist", "wheel"))
    run("-m", "build", "--no-isolation", "--outdir", str(first), str(tree), cwd=tree)
    run("-m", "build", "--no-isolation", "--wheel", "--outdir", str(second), str(tree), cwd=tree)
    found = {"sdist": first.glob("*.tar.gz"), "from_sdist": first.glob("*.whl"), "wheel": second.glob("*.whl")}
    return {name: next(paths) for name, paths in found.items()}


def contents(wheel: Path) -> dict[str, bytes]:
    with zipfile.ZipFile(wheel) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


@pytest.mark.full
def test_the_wheel_holds_every_file_of_the_package_and_nothing_else(tree: Path, built: dict[str, Path]) -> None:
    """A folder without its __init__.py is no package, and would be left out."""
    walked = os.walk(tree / "balred", followlinks=True)
    want = {(Path(folder) / name).relative_to(tree).as_posix() for folder, _, names in walked for name in names}
    assert {"balred/py.typed", "balred/adapters/torch/layers/s4d.py", "balred/studies/smnist.toml"} <= want
    assert {name for name in contents(built["wheel"]) if ".dist-info/" not in name} == want


@pytest.mark.full
def test_what_the_wheel_says_of_itself(built: dict[str, Path]) -> None:
    found = contents(built["wheel"])
    metadata = next(text.decode() for name, text in found.items() if name.endswith("METADATA"))
    assert "License-Expression: MIT" in metadata
    assert any(name.endswith("licenses/LICENSE") for name in found)
    extras = {line.split(": ")[1] for line in metadata.splitlines() if line.startswith("Provides-Extra")}
    assert extras >= {"slycot", "control", "pymor", "torch", "jax", "plot", "studies", "docs", "test", "all"}
    version = (ROOT / "balred" / "version.py").read_text(encoding="utf-8").split('"')[-2]
    assert f"\nVersion: {version}\n" in metadata


@pytest.mark.full
def test_the_wheel_made_from_the_sdist_is_the_same(built: dict[str, Path]) -> None:
    assert contents(built["from_sdist"]) == contents(built["wheel"])


@pytest.mark.full
def test_the_sdist_holds_what_says_what_it_is_and_no_tests(built: dict[str, Path]) -> None:
    with tarfile.open(built["sdist"]) as archive:
        names = {member.name.partition("/")[2] for member in archive.getmembers() if member.isfile()}
    assert {"README.md", "LICENSE", "CHANGELOG.md", "CITATION.cff", "pyproject.toml"} <= names
    folders = {name.partition("/")[0] for name in names if "/" in name}
    assert folders == {"balred", "balred.egg-info"}


def test_an_editable_install_shows_the_package_alone(tree: Path, tmp_path: Path) -> None:
    """The editable wheel is unpacked into a folder of packages, and a bare interpreter looks there."""
    wheel = run("-c", f"from setuptools.build_meta import build_editable as b; print(b({str(tmp_path)!r}))", cwd=tree)
    site = tmp_path / "site"
    with zipfile.ZipFile(tmp_path / wheel.split()[-1]) as archive:
        archive.extractall(site)
    names = sorted(path.stem for path in tree.iterdir() if not path.name.startswith("."))
    assert set(KEPT) <= set(names)
    code = f"""
import importlib.util, site
site.addsitedir({str(site)!r})
specs = {{name: importlib.util.find_spec(name) for name in {names}}}
print({{name: spec.origin for name, spec in specs.items() if spec}})
"""
    out = run("-I", "-S", "-c", code, cwd=tmp_path)
    assert out.strip() == str({"balred": str(tree / "balred" / "__init__.py")})
