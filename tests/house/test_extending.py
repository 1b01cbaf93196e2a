"""The extending guide as its readers follow it: its examples run, and its distribution is built, installed and found."""

from __future__ import annotations

import contextlib
import importlib.util
import io
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from programs import fresh

GUIDE = (Path(__file__).parents[2] / "docs" / "extending.md").read_text(encoding="utf-8")
SECTIONS = {part.partition("\n")[0]: part for part in re.split(r"^## ", GUIDE, flags=re.MULTILINE)[1:]}
BLOCK = re.compile(r"^```\{(testcode|testoutput)\}\n(.*?)^```", re.MULTILINE | re.DOTALL)
FILE = re.compile(r"^```\{code-block\} \w+\n:caption: (\S+)\n\n(.*?)^```", re.MULTILINE | re.DOTALL)
EXAMPLES = {
    "torch": ["An adapter for a PyTorch layer", "Containers"],
    "equinox": ["An adapter for an equinox layer"],
}


def blocks(title: str, kind: str) -> list[str]:
    return [text for found, text in BLOCK.findall(SECTIONS[title]) if found == kind]


@pytest.mark.full
@pytest.mark.parametrize("package", EXAMPLES)
def test_an_example_runs_and_prints_what_the_guide_says(package: str) -> None:
    pytest.importorskip(package)
    # the name under which the classes of the example register themselves
    namespace: dict[str, Any] = {"__name__": f"extending_{package}"}
    for title in EXAMPLES[package]:
        code = blocks(title, "testcode")
        assert code
        with contextlib.redirect_stdout(io.StringIO()) as printed:
            for number, text in enumerate(code):
                exec(compile(text, f"extending.md, {title}, block {number + 1}", "exec"), namespace)
        assert printed.getvalue() == "".join(blocks(title, "testoutput"))


def test_every_block_is_in_an_example() -> None:
    run = [text for titles in EXAMPLES.values() for t in titles for text in blocks(t, "testcode")]
    assert sorted(run) == sorted(text for kind, text in BLOCK.findall(GUIDE) if kind == "testcode")


@pytest.mark.parametrize("package", EXAMPLES)
def test_an_example_is_a_layer_its_adapter_and_its_test_in_about_thirty_lines(package: str) -> None:
    """Counted are lines that are not blank, from the first import to the check."""
    code = "".join(blocks(EXAMPLES[package][0], "testcode"))
    assert "check_adapter(" in code
    whole, adapter = (
        [line for line in part.partition("check_adapter(")[0].splitlines() if line.strip()]
        for part in (code, code.partition("@balred.register")[2])
    )
    assert len(whole) <= 35
    assert len(adapter) <= 18


# ------------------------------------------------------------------------------------------------ the distribution


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The guide's distribution as pip builds and installs it, without the network, in a folder by itself."""
    for package in ("pip", "setuptools"):
        if importlib.util.find_spec(package) is None:
            pytest.skip(f"{package} is not installed")
    source, target = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("site")
    for name, text in FILE.findall(GUIDE):
        (source / name).parent.mkdir(exist_ok=True)
        (source / name).write_text(text, encoding="utf-8")
    options = [
        "--no-build-isolation",
        "--no-deps",
        "--no-index",
        "--disable-pip-version-check",
        "--target",
        str(target),
    ]
    done = subprocess.run(
        [sys.executable, "-m", "pip", "install", *options, str(source)],
        capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    return target


USE = """
import sys
import balred
import mylayers

def loaded():
    return [m for m in ("adapter", "solver") if f"mylayers.balred_{m}" in sys.modules]

g = balred.testing.random_system(6, kind="conjugate", dt=True)
layer = mylayers.Modes(g.log_poles, g.B, g.C)
print(loaded())
small = balred.reduce({WANTED})
print(type(small).__module__, type(small).__name__, small.B.shape, layer.B.shape, loaded())
own = balred.diagonal(log_poles=g.log_poles, B=g.B, C=g.C, dt=True, conjugate=True)
print(float(balred.error(balred.adapt(small)[0], balred.reduce(own, 3))) < 1e-9 * float(balred.norm(own)))
"""


@pytest.mark.full
def test_an_installed_distribution_brings_the_adapter_of_its_layers(installed: Path) -> None:
    out = fresh(USE.replace("{WANTED}", "layer, 3"), installed)
    assert out.splitlines() == ["[]", "mylayers Modes (3, 2) (6, 2) ['adapter']", "True"]


@pytest.mark.full
def test_an_installed_distribution_brings_a_solver(installed: Path) -> None:
    pytest.importorskip("scipy")
    out = fresh(USE.replace("{WANTED}", "layer, 3, solver='mysolver'"), installed)
    assert out.splitlines() == ["[]", "mylayers Modes (3, 2) (6, 2) ['adapter', 'solver']", "True"]


@pytest.mark.full
def test_nothing_is_found_where_it_is_not_installed(installed: Path, tmp_path: Path) -> None:
    (tmp_path / "mylayers").symlink_to(installed / "mylayers")
    out = fresh(
        """
        import balred, mylayers
        try:
            balred.reduce(mylayers.Modes(1, 2, 3), 1)
        except TypeError as error:
            print(error)
        """,
        tmp_path,
    )
    assert "no adapter knows mylayers.Modes" in out
