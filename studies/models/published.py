"""What the published code of in-training truncation does otherwise, for comparison only (arXiv 2510.02823).

It balances the complex half of a layer's operator as if the other half were not there, and keeps the first entries of Adam's moments
although the coordinates have changed.  The library does neither; a study may ask what that is worth.
"""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, TypeVar

import torch

import balred
from balred.adapters.torch import LRU, InTrainingReducer
from balred.reduction.candidates import Smaller
from balred.systems import DiagonalSystem, System

Model = TypeVar("Model", bound=torch.nn.Module)


class HalfLRU(LRU):
    """An LRU that is read as the complex system of its stored states alone."""


@balred.register(HalfLRU)
def _read(layer: HalfLRU) -> tuple[System, Callable[[Any], Any]]:
    system, rebuild = balred.adapt(_as(layer, LRU))
    assert isinstance(system, DiagonalSystem)

    def write(half: DiagonalSystem) -> HalfLRU:
        new: HalfLRU = _as(rebuild(dataclasses.replace(half, C=half.C / 2, D=system.D, conjugate=True)), HalfLRU)
        return new

    return dataclasses.replace(system, C=2 * system.C, conjugate=False), write


def _as(layer: LRU, cls: type[Any]) -> Any:
    """The same parameters in a layer of another class."""
    other: Any = copy.copy(layer)
    other.__class__ = cls
    return other


def by_halves(model: Model) -> Model:
    """The model with every LRU in it read by halves."""
    for module in model.modules():
        if type(module) is LRU:
            module.__class__ = HalfLRU
    return model


class SlicingReducer(InTrainingReducer):
    """Of the moments of a cut layer the first entries stay."""

    def _carried(
        self,
        layer: Any,
        cut: Smaller,
        old: Mapping[str, Any],
        new: Mapping[str, Any],
        states: Mapping[str, Mapping[str, Any]],
    ) -> dict[str, Any]:
        keys = ("exp_avg", "exp_avg_sq")
        if any(key not in state for state in states.values() for key in keys):
            return {}
        return {
            key: {n: s[key].cpu().numpy()[tuple(slice(k) for k in new[n].shape)] for n, s in states.items()}
            for key in keys
        }


def reducer_for(moments: str) -> Callable[..., InTrainingReducer]:
    """What makes a reducer that treats Adam's moments so: "reset", "carry" or "slice"."""
    return SlicingReducer if moments == "slice" else partial(InTrainingReducer, moments=moments)
