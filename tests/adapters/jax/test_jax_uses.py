"""Every family of layers of JAX in every use that people make of a model: right after a cut, or refused, and none left out."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("equinox")
pytest.importorskip("flax")
pytest.importorskip("optax")
from expected_uses import check_use
from jax_uses import FAMILIES, SPEAKING, USES, family, selective
from layers import LAYERS

LACKING = {
    ("Mamba2, nnx", "copied"): "pickles: Can't pickle <function silu",
    ("LRU, linen", "copied"): "pickles: cannot pickle 'weakref",  # bound modules; users keep module and variables apart
    ("S5, linen", "copied"): "pickles: cannot pickle 'weakref",
    ("S5 both ways, linen", "copied"): "pickles: cannot pickle 'weakref",
}
"""What the package does not do with the whole model either; a cut must do no worse."""
ALONE = [name for name in FAMILIES if name != "Mamba2, nnx"]
NONE = {(name, use.__name__): "a layer without a model that generates" for name in ALONE for use in SPEAKING}
NONE |= {(name, "beams"): "no package has a search with beams" for name in FAMILIES}
NONE |= {(name, "padding"): "no model takes a mask" for name in FAMILIES}
"""What there is not, and why."""
MATRIX = [(name, use) for use in USES for name in FAMILIES if (name, use) not in NONE]
ROWS = {
    "`balred.adapters.equinox.LRU`": "LRU, equinox",
    "LRU by minimal-LRU's names, equinox": "LRU by name, equinox",
    "LRU by minimal-LRU's names, flax nnx": "LRU, nnx",
    "LRU as minimal-LRU writes it, flax linen": "LRU, linen",
    "S5 as its authors write it, one way, flax linen": "S5, linen",
    "S5 as its authors write it, both ways, flax linen": "S5 both ways, linen",
    "S5 as its authors write it, one way, equinox": "S5, equinox",
    "S5 as its authors write it, one way, flax nnx": "S5, nnx",
    "LinOSS by discretax's names, damped, equinox": "LinOSS, equinox",
    "`mamba2_jax.Mamba2Mixer`": "Mamba2, nnx",
}
"""Families by the rows of the table of layers."""
IN_JAX = ("equinox", "flax", "mamba2-jax")


def test_every_layer_and_every_use_has_an_entry() -> None:
    assert {ROWS[row.name] for row in LAYERS if row.package in IN_JAX} == set(FAMILIES)
    every = {(name, use) for name in FAMILIES for use in (*USES, "beams", "padding")}
    assert len(every) == 11 * len(FAMILIES)
    assert len(MATRIX) + len(NONE) == len(every)
    assert every >= {*LACKING, *NONE}
    assert not set(LACKING) & set(NONE)


@pytest.mark.full  # its programs compile for long
@pytest.mark.parametrize(("name", "use"), MATRIX)
def test_a_smaller_model_is_as_good_for_it(name: str, use: str, tmp_path: Path) -> None:
    one = family(name)
    assert selective(one.model) == (name not in ALONE)
    check_use(USES[use], one, tmp_path, LACKING.get((name, use)))
