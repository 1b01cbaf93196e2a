"""Every family of layers in every use that people make of a model: right after a cut, or refused, and none left out."""

from __future__ import annotations

from pathlib import Path

import pytest

torch = pytest.importorskip("torch")
from expected_uses import check_use  # noqa: E402
from layers import LAYERS  # noqa: E402
from mamba_models import MODELS  # noqa: E402
from uses import FAMILIES, OTHERS, SPEAKING, USES, family  # noqa: E402

COMPLEX = "must be in single or double precision, got bfloat16"
HALF = "must run on the calibration data, got RuntimeError: expected m1 and m2 to have the same dtype"
REFUSED = {
    ("S4D", "bf16"): COMPLEX,
    ("S4", "bf16"): COMPLEX,
    ("S4, n_ssm", "bf16"): COMPLEX,
    ("S4, low rank", "bf16"): COMPLEX,
    ("S5", "bf16"): COMPLEX,
    ("S5, both ways", "bf16"): COMPLEX,
    ("mambapy", "bf16"): HALF,
    ("mambapy, norms", "bf16"): HALF,
    ("Vim", "bf16"): HALF,
}
"""What balred refuses, by the error that says so."""
LACKING = {
    ("LRU_pytorch", "bf16"): "arithmetic in half precision: Expected both inputs to be Half, Float or Double tensors",
    ("S4, low rank", "exported"): "programs: GuardOnDataDependentSymNode",  # of the length that C was made for
    ("mLSTM", "beams"): "beams with a cache: xLSTMForCausalLM cannot use beam search with a cache",
    ("mLSTM", "padding"): "padding that changes nothing",  # it takes no mask
}
"""What the package does not do with the whole model either; a cut must do no worse."""
ALONE = [name for name in OTHERS if name != "mLSTM" and not name.startswith("LoRA")]
NONE = {(name, use.__name__): "a layer without a model that generates" for name in ALONE for use in SPEAKING}
"""What there is not, and why."""
MATRIX = [(name, use) for use in USES for name in FAMILIES if (name, use) not in NONE]
ROWS = {
    "`balred.adapters.torch.LRU`": "LRU",
    "`LRU_pytorch.LRU`": "LRU_pytorch",
    "`s5.S5`, one way": "S5",
    "`s5.S5`, both ways": "S5, both ways",
    "S4D, copies of state-spaces `s4d.py`": "S4D",
    "S4, copies of state-spaces `s4.py`, diagonal": "S4",
    "S4, copies of state-spaces `s4.py`, diagonal, shared `n_ssm`": "S4, n_ssm",
    "S4, copies of state-spaces `s4.py`, low-rank terms": "S4, low rank",
    "`xLSTMLayer`'s mLSTM: queries and keys": "mLSTM",
    "`mambapy.mamba.MambaBlock`": "mambapy",
    "`mambapy.mamba.MambaBlock`, `inner_layernorms`": "mambapy, norms",
    "`mambapy.vim.VMambaBlock`, both ways": "Vim",
    **{f"LoRA on the mixer of `{name}ForCausalLM`": f"LoRA, {name}" for name in ("Mamba", "Mamba2")},
    **{f"{kind} of `{name}ForCausalLM`": name for name in MODELS for kind in ("mixer", "Gated DeltaNet")},
}
"""Families by the rows of the table of layers."""
IN_JAX = ("equinox", "flax", "mamba2-jax")


def test_every_layer_and_every_use_has_an_entry() -> None:
    assert {ROWS[row.name] for row in LAYERS if row.package not in IN_JAX} == set(FAMILIES)
    every = {(name, use) for name in FAMILIES for use in USES}
    assert len(USES) == 11
    assert len(MATRIX) + len(NONE) == len(every)
    assert every >= {*REFUSED, *LACKING, *NONE}
    assert not set(REFUSED) & set(LACKING)
    assert not {*REFUSED, *LACKING} & set(NONE)


@pytest.mark.alike
@pytest.mark.parametrize(("name", "use"), MATRIX)
def test_a_smaller_model_is_as_good_for_it(name: str, use: str, tmp_path: Path) -> None:
    one = family(name)
    assert one.speaks == (name not in ALONE)
    check_use(USES[use], one, tmp_path, LACKING.get((name, use)), REFUSED.get((name, use)))
