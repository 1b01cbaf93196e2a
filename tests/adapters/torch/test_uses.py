"""Every family of layers in every use that people make of a model: right after a cut, or refused, and none left out."""

from __future__ import annotations

from pathlib import Path

import pytest

torch = pytest.importorskip("torch")
from uses import FAMILIES, SPEAKING, USES, family  # noqa: E402

REFUSED = {
    ("S4D", "bf16"): "must be in single or double precision, got bfloat16",
    ("S4", "bf16"): "must be in single or double precision, got bfloat16",
    ("S5", "bf16"): "must be in single or double precision, got bfloat16",
    ("mambapy", "bf16"): "must run on the calibration data, got RuntimeError",
    ("Vim", "bf16"): "must run on the calibration data, got RuntimeError",
}
"""What is refused, by the error that says so."""
LAYERS_ALONE = ("LRU", "S4D", "S4", "S5", "mambapy", "Vim")
"""Families that come without a model that generates: how tokens are drawn is the user's code."""
MATRIX = [
    (name, use)
    for use in USES
    for name in FAMILIES
    if name not in LAYERS_ALONE or use not in {one.__name__ for one in SPEAKING}
]


@pytest.mark.alike
@pytest.mark.parametrize(("name", "use"), MATRIX)
def test_a_smaller_model_is_as_good_for_it(name: str, use: str, tmp_path: Path) -> None:
    one = family(name)
    if (name, use) in REFUSED:
        with pytest.raises(ValueError, match=REFUSED[name, use]):
            USES[use](one, tmp_path)
    else:
        USES[use](one, tmp_path)
