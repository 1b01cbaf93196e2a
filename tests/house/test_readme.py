"""Every Python example of the README runs as it stands, each by itself."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path

import pytest

README = Path(__file__).parents[2] / "README.md"
BLOCKS = re.findall(r"^```python\n(.*?)^```", README.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
PACKAGES = ("torch", "jax", "equinox", "optax", "control", "slycot", "scipy", "LRU_pytorch", "sklearn")


@pytest.mark.skipif(not README.read_text(encoding="utf-8").strip(), reason="the README is not written yet")
def test_there_are_examples() -> None:
    assert len(BLOCKS) >= 5


def longer(number: int) -> tuple[pytest.MarkDecorator, ...]:
    """JAX compiles for longer than all other examples run."""
    return (pytest.mark.full,) if "import jax" in BLOCKS[number] else ()


@pytest.mark.parametrize("number", [pytest.param(number, marks=longer(number)) for number in range(len(BLOCKS))])
def test_example(number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    block = BLOCKS[number]
    for package in PACKAGES:
        if re.search(rf"^\s*(import|from) {package}\b", block, re.MULTILINE) and not importlib.util.find_spec(package):
            pytest.skip(f"{package} is not installed")
    monkeypatch.chdir(tmp_path)
    exec(compile(block, f"README.md, example {number + 1}", "exec"), {"__name__": f"readme_{number}"})
