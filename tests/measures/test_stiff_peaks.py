"""Peaks of what cancels, and of poles that spread over many decades, against 60 digits."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from oracle import oracle_gain
from stiff import KINDS, exponents, sampled, stiff_chain

import balred


@given(st.sampled_from(KINDS), exponents(-14, 3, sizes=(1, 4)))
def test_norms_of_stiff_chains(kind: str, rates: list[float]) -> None:
    g = stiff_chain(kind, rates)
    assert float(balred.norm(g, "hinf")) == pytest.approx(oracle_gain(g), rel=1e-6)


@given(st.floats(-9, -1), st.floats(-13, -4), st.sampled_from([0.0, 1e-3, 1.0]))
def test_two_systems_that_nearly_cancel(slow: float, apart: float, dt: float) -> None:
    """1/(s + a) and the same with another residue: what is left is 10^apart of either."""
    a = stiff_chain("parallel", [slow, 1.0])
    b = balred.ss(a.A, a.B, a.C * (1 + 10.0**apart))
    if dt:
        a = sampled(a, dt)
        b = balred.ss(a.A, a.B, a.C * (1 + 10.0**apart), a.D, dt)
    assert float(balred.error(a, b)) == pytest.approx(oracle_gain(a, b), rel=1e-6)


def test_a_system_and_itself() -> None:
    g: Any = sampled(stiff_chain("lags", [-6.0, -1.0, 2.0]), 1e-3)
    assert float(balred.error(g, g)) <= 1e-15 * float(balred.norm(g, "hinf")) * np.sqrt(g.order)
