"""Every row of the table of layers: written back to rounding, and listed in the docs as it is tested."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
from layers import HEADER, LAYERS, PAGE, ROUNDING, Layer, batched, exact, lru

PINS = Path(__file__).parents[2] / "constraints.txt"


@pytest.mark.alike
@pytest.mark.parametrize("layer", LAYERS, ids=str)
def test_a_layer_is_written_back(layer: Layer) -> None:
    errors = layer.measure()
    assert errors.full <= (ROUNDING if layer.kind == "E" else 0)  # a selection of all states is a copy
    assert errors.reduced <= layer.within


def test_a_layer_that_is_written_back_wrongly_is_seen() -> None:
    full = lru()
    wrong = exact(full, lambda layer, u: batched(layer, u) * np.where(layer is full, 1, 1 + 2 * ROUNDING))
    assert wrong.full > ROUNDING
    assert wrong.reduced > ROUNDING


def test_the_docs_list_these_layers_in_the_versions_that_are_pinned() -> None:
    lines = PAGE.read_text(encoding="utf-8").splitlines()
    header, _, *rows = [tuple(cell.strip() for cell in line.strip("|").split("|")) for line in lines]
    assert header == HEADER
    pins = dict(re.findall(r"^([\w.-]+)==([\w.]+)", PINS.read_text(encoding="utf-8").lower(), re.MULTILINE))
    want = [(x.name, f"{x.package} {pins[x.package]}", x.kind, x.note) for x in LAYERS]
    assert [(*row[:3], row[5]) for row in rows] == want
    for layer, row in zip(LAYERS, rows, strict=True):
        assert float(row[3]) <= (ROUNDING if layer.kind == "E" else 0)
        assert float(row[4]) <= layer.within


def test_names_differ() -> None:
    assert len({x.name for x in LAYERS}) == len(LAYERS)
