"""The settings of reducers: one dataclass, which every reducer and callback takes as keyword arguments, and shows."""

from __future__ import annotations

import importlib
import inspect
from dataclasses import fields
from typing import Any

import pytest

import balred
from balred.intraining import Guard, Policy, TrainingSettings

RULE = balred.Energy(0.9)
REDUCERS = [  # module, class, the package it needs
    ("balred.adapters.torch", "InTrainingReducer", "torch"),
    ("balred.adapters.lightning", "InTrainingReduction", "lightning"),
    ("balred.adapters.hf_trainer", "InTrainingReduction", "transformers"),
    ("balred.adapters.equinox", "InTrainingReducer", "equinox"),
    ("balred.adapters.flax", "InTrainingReducer", "flax"),
    ("balred.adapters.flax.nnx", "InTrainingReducer", "flax"),
]
every = pytest.mark.parametrize(("module", "name", "package"), REDUCERS, ids=[m for m, _, _ in REDUCERS])


def reducer(module: str, name: str, package: str) -> Any:
    pytest.importorskip(package)
    return getattr(importlib.import_module(module), name)


def test_settings_are_a_policy_and_keep_its_checks() -> None:
    guard = Guard(lambda m: 0.0, tolerance=1.0, delay=3)
    settings = TrainingSettings(RULE, (0, 60), 6, min_cut=0.2, settled=2, guard=guard)
    policy = Policy(RULE, (0, 60), 6, min_cut=0.2, settled=2, guard=guard)
    assert (settings.steps, settings.last) == (policy.steps, policy.last) == ((10, 20, 30, 40, 50, 60), 63)
    with pytest.raises(ValueError, match="settled must be at least 2 attempts, got 1"):
        TrainingSettings(RULE, (0, 60), settled=1)
    with pytest.raises(ValueError, match="moments must be 'reset' or 'carry', got 'keep'"):
        TrainingSettings(RULE, (0, 60), moments="keep")
    with pytest.raises(TypeError, match=r"log must be a path, .*, got 3"):
        TrainingSettings(RULE, (0, 60), log=3)
    with pytest.raises(TypeError, match="positional argument"):
        TrainingSettings(RULE, (0, 60), 6, None, 0.05, None, None, False, "carry")  # type: ignore[misc]


@every
def test_every_reducer_shows_every_setting(module: str, name: str, package: str) -> None:
    shown = inspect.signature(reducer(module, name, package)).parameters
    for field in fields(TrainingSettings):
        if field.name not in ("rule", "window"):
            assert shown[field.name].default == field.default
    by_place = [n for n, p in shown.items() if p.kind is p.POSITIONAL_OR_KEYWORD]
    assert by_place[-3:] == ["rule", "window", "attempts"]
    assert all(p.kind is not p.VAR_KEYWORD for p in shown.values())


@every
def test_a_misspelt_option_is_a_type_error(module: str, name: str, package: str) -> None:
    cls = reducer(module, name, package)
    before = (None, None) if package == "torch" else ()
    with pytest.raises(TypeError, match="unexpected keyword argument 'atempts'"):
        cls(*before, RULE, (0, 8), atempts=3)
