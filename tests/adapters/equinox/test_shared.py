"""Layers that have arrays in common by equinox.nn.Shared: a cut of one would change the other."""

from __future__ import annotations

from typing import Any

import pytest

import balred

eqx = pytest.importorskip("equinox")
import jax  # noqa: E402

from balred.adapters.equinox import LRU, InTrainingReducer  # noqa: E402


class Both(eqx.Module):
    both: Any

    def __init__(self) -> None:
        f, b = (LRU(2, 8, key=key) for key in jax.random.split(jax.random.key(0)))
        self.both = eqx.nn.Shared((f, b), lambda pair: pair[1].nu_log, lambda pair: pair[0].nu_log)


@pytest.mark.full
def test_shared_arrays_are_refused_by_name() -> None:
    reducer = InTrainingReducer(balred.Order(4), (0, 1), 1)
    for cut in (lambda model: balred.reduce(model, 4), reducer.init):
        with pytest.raises(ValueError, match=r"equinox\.nn\.Shared"):
            cut(Both())
