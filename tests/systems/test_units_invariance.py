"""Units change nothing: of states (over twelve decades), of time, of inputs and of outputs, for all that is computed.

What has to come out in other units follows from the definitions: with x = T x', t' = t / c, u = a u', y' = b y a system is
(c T^-1 A T, c T^-1 B a, b C T, b D a), its Gramians are c a^2 T^-1 P T^-H and b^2 / c T^H Q T, its Hankel singular values
and its H-infinity norm a b times those before, its H2 norm a b sqrt(c) times that before.  In discrete time c is one.
"""

from __future__ import annotations

import dataclasses
import warnings
from typing import Any

import numpy as np
import pytest
import scipy.linalg
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose
from tables import CASES, LIBRARIES, SINGLE, Backend, Case, Library, each_case, each_single

import balred
from balred.methods import METHODS
from balred.solvers.gramians import SOLVERS
from balred.systems import DiagonalSystem

few = settings(max_examples=max(2, settings.default.max_examples // 4))
"""What is asked of every method or library is asked of fewer examples."""

N, SEEDS = 4, 8
"""States, and random systems of each case; few, and all well-conditioned: what is asked is what units do."""
WIDE, NARROW = 6.0, 3.0
"""Decades to either side in double precision, and of time, inputs and outputs in single, whose range is small."""
SEEN_ALIKE = {"lqg", "left_coprime", "right_coprime"}
"""Methods that weigh inputs against outputs: what they make depends on the product of the two units, as it must."""


@dataclasses.dataclass(frozen=True)
class Units:
    """x = diag(states) x', t' = t / time, u = inputs u', y' = outputs y."""

    states: Any
    time: float
    inputs: float
    outputs: float

    @property
    def gain(self) -> float:
        return self.inputs * self.outputs

    def system(self, g: Any) -> Any:
        """A NumPy system in these units."""
        t, c = self.states, 1.0 if g.discrete else self.time
        B, C, D = g.B * (c * self.inputs) / t[:, None], self.outputs * g.C * t, self.gain * g.D
        if isinstance(g, DiagonalSystem):
            return dataclasses.replace(g, log_poles=c * g.log_poles, B=B, C=C, D=D)
        return balred.ss(c * g.A * t / t[:, None], B, C, D, g.dt)

    def point(self, g: Any, s: complex) -> complex:
        return s if g.discrete else s * self.time


@st.composite
def units(draw: st.DrawFn, n: int = N, decades: float = WIDE) -> Units:
    def power(reach: float) -> Any:
        return st.floats(-reach, reach).map(lambda x: 10.0**x)

    states = np.array([draw(power(WIDE)) for _ in range(n)])
    return Units(states, *(draw(power(decades)) for _ in range(3)))


def made(case: Case, seed: int) -> Any:
    return case.make(n=N, seed=seed)


each_library = pytest.mark.parametrize("lib", LIBRARIES, ids=str)
each_solver = pytest.mark.parametrize("solver", [None, *SOLVERS])
seeds = st.integers(0, SEEDS - 1)


def drawn(lib: Library, data: st.DataObject) -> Units:
    return data.draw(units(decades=WIDE if lib.precision == "float64" else NARROW))


def values_and_more(g: Any) -> tuple[Any, Any, Any, Any]:
    """Hankel singular values, both Gramians, and the H2 norm of the strictly proper part."""
    bare = dataclasses.replace(g, D=0 * g.D)
    return (balred.hsv(g), *balred.gramians(g), balred.norm(bare, "h2"))


@each_library
@each_case
@given(data=st.data(), seed=seeds)
@few
def test_values_gramians_and_the_h2_norm_of_every_library(lib, case, data, seed):
    """Traced ones too; the system is rounded to single precision before its units are changed, by powers of two."""
    pytest.importorskip(lib.backend.library)
    g, u = lib.exact(made(case, seed)), drawn(lib, data)
    u = Units(2.0 ** np.round(np.log2(u.states)), *(2.0 ** np.round(np.log2(x)) for x in (u.time, u.inputs, u.outputs)))
    c = 1.0 if g.discrete else u.time
    with lib.scope():
        here, there = (
            [lib.numpy(x).astype(np.float64 if not np.iscomplexobj(lib.numpy(x)) else complex) for x in
             lib.call(values_and_more, lib.system(x))]
            for x in (g, u.system(g))
        )  # fmt: skip
    t = np.concatenate([u.states, u.states]) if case.kind == "conjugate" else u.states
    P, Q = there[1] * np.outer(t, t) / (c * u.inputs**2), there[2] / np.outer(t, t) * c / u.outputs**2
    for one, other in zip(here, (there[0] / u.gain, P, Q, there[3] / (u.gain * c**0.5)), strict=True):
        assert_allclose(other, one, rtol=0, atol=1e3 * lib.eps * np.abs(one).max())


@each_solver
@each_single
@given(u=units(), seed=seeds)
def test_values_and_gramians_of_every_solver(solver, case, u, seed):
    g = made(case, seed)
    if solver is not None and SOLVERS[solver][case.kind]:
        with pytest.raises(ValueError, match=f"solver '{solver}' does not take"):
            balred.hsv(u.system(g), solver=solver)
        return
    if solver == "cauchy":  # one input, one output
        g = dataclasses.replace(g, B=g.B[:, :1], C=g.C[:1], D=g.D[:1, :1])
    if solver == "slycot":
        pytest.importorskip("slycot")
        if np.iscomplexobj(g.to_dense().A):
            return
    here, there = balred.hsv(g, solver=solver), balred.hsv(u.system(g), solver=solver)
    assert_allclose(there / u.gain, here, rtol=0, atol=1e-10 * here[0])
    c, t = 1.0 if g.discrete else u.time, np.tile(u.states, 1 + (case.kind == "conjugate"))
    scales = np.outer(t, t) / (c * u.inputs**2), c / (np.outer(t, t) * u.outputs**2)
    for one, other, scale in zip(
        balred.gramians(g, solver=solver), balred.gramians(u.system(g), solver=solver), scales, strict=True
    ):
        assert_allclose(other * scale, one, rtol=0, atol=1e-9 * np.abs(one).max())


@pytest.mark.alike
@each_single
@given(u=units(), seed=seeds)
def test_all_norms_and_where_the_peak_is(case, u, seed):
    g = made(case, seed)
    there, c = u.system(g), 1.0 if g.discrete else u.time
    for kind, power in (("hinf", 0.0), ("linf", 0.0), ("hankel", 0.0), ("h2", 0.5), ("l2", 0.5)):
        one, other = (dataclasses.replace(x, D=0 * x.D) if power and not g.discrete else x for x in (g, there))
        assert_allclose(float(balred.norm(other, kind)) / (u.gain * c**power), float(balred.norm(one, kind)), rtol=1e-9)
    (_, here), (_, where) = (balred.norm(x, "hinf", peak=True) for x in (g, there))
    assert_allclose(where / c, here, rtol=1e-5, atol=1e-5)  # a peak is flat


@each_single
@given(u=units(), seed=seeds)
def test_balanced_coordinates(case, u, seed):
    g = made(case, seed)
    one, other = balred.balance(g), balred.balance(u.system(g))
    c, t = 1.0 if g.discrete else u.time, np.tile(u.states, 1 + (case.kind == "conjugate"))
    least = np.abs(one.hsv).min() / one.hsv[0]
    assert_allclose(other.hsv / u.gain, one.hsv, rtol=0, atol=1e-10 * one.hsv[0])
    assert_allclose(other.system.A / c, one.system.A, atol=1e-11 / least * np.abs(one.system.A).max())
    T = other.T / t * (c * u.inputs / u.outputs) ** 0.5
    assert_allclose(T, one.T, atol=1e-11 / least * np.abs(one.T).max())
    assert_allclose(other.T @ other.Tinv, np.eye(len(t)), atol=1e-9)


# ----------------------------------------------------------------------------------------------------- reductions


def passive(g: Any) -> Any:
    """With a direct term that makes it passive and of full rank, which some methods need."""
    return dataclasses.replace(g, D=1.2 * float(balred.norm(dataclasses.replace(g, D=0 * g.D), "hinf")) * np.eye(2))


def weight(dt: Any, c: float = 1.0) -> Any:
    I = np.eye(2)
    return balred.ss((0.3 if dt else -2.0 * c) * I, I * (1 if dt else c), I, 0.5 * I, dt)


def options(method: str, g: Any, u: Units | None = None) -> dict[str, Any]:
    """Options of a method, in the units `u`."""
    c, gain = (1.0, 1.0) if u is None else (1.0 if g.discrete else u.time, u.gain)
    found = {
        "frequency_weighted": {"left": weight(g.dt, c)},
        "weighted_hankel_norm": {"left": weight(g.dt, c)},
        "time_limited": {"horizon": 4 if g.discrete else 3.0 / c},
        "frequency_limited": {"band": (0.2 * c, 1.5 * c)},
        "stochastic": {"beta": 0.1 * gain},
    }
    if method == "bounded_real":
        return {"gamma": 2.5 * gain * float(balred.norm(g, "hinf"))}
    return found.get(method, {})


@pytest.mark.filterwarnings("ignore::balred.InstabilityWarning")  # of which some methods make some, in all units
@pytest.mark.parametrize("method", list(METHODS))
@each_single
@given(u=units(), seed=seeds)
@few
def test_what_every_method_makes(method, case, u, seed):
    """The reduced system in the new units is the one in the old units; so are its bound and the rank that a rule chooses."""
    g = passive(made(case, seed))
    if method in SEEN_ALIKE:
        u = dataclasses.replace(u, outputs=1 / u.inputs)
    there = u.system(g)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", balred.RankWarning)
        one = balred.analyze(g, method=method, **options(method, g))
        try:
            other = balred.analyze(there, method=method, **options(method, g, u))
        except ValueError as error:
            # states that are uneven by less than is evened out may be too much for a Riccati solver, which says so
            if method not in SEEN_ALIKE or "Riccati" not in str(error) or np.ptp(np.log2(u.states)) > 12:
                raise
            return
        k = one.state.closed(2) if method == "modal" else 2
        a, b = one.reduce(k), other.reduce(k)
    assert b.states == a.states
    points = np.exp(1j * np.linspace(0.1, 3, 9)) if g.discrete else 1j * np.geomspace(0.01, 100, 9)
    size = max(float(np.linalg.norm(g(complex(s)))) for s in points)
    tolerance = 1e-5 if method in ("irka", "tsia") else 1e-8  # iterations end near a fixed point
    for s in points:
        apart = b(complex(u.point(g, s))) / u.gain - a(complex(s))
        assert np.linalg.norm(apart) <= tolerance * size
    ratio = 1.0 if method in ("stochastic", *SEEN_ALIKE) else u.gain
    assert_allclose(other.bound(k) / ratio, one.bound(k), rtol=1e-6, atol=1e-9 * float(one.sigma[0]))
    energy = balred.Energy(0.9)
    assert other.rank(energy) == one.rank(energy) or abs(float(one.energy(one.rank(energy))) - 0.9) < 1e-6


@pytest.mark.alike
@pytest.mark.parametrize("backend", [Backend.TORCH, Backend.JAX], ids=lambda b: b.value)
@pytest.mark.parametrize("method", ["truncate", "singular_perturbation"])
@given(data=st.data(), seed=seeds)
def test_what_other_libraries_make(backend, method, data, seed):
    """Without units that are powers of two: they are data as they come."""
    pytest.importorskip(backend.library)
    lib, g = Library(backend, "float64"), made(SINGLE[0], seed)
    u = drawn(lib, data)
    with lib.scope():
        reduced = [balred.reduce(lib.system(x), 2, method=method) for x in (g, u.system(g))]
        for s in (0.1j, 1j, 0.5 + 3j):
            one, other = (lib.numpy(r(complex(at))) for r, at in zip(reduced, (s, u.point(g, s)), strict=True))
            assert_allclose(other / u.gain, one, rtol=0, atol=1e-8 * np.abs(one).max())


@each_single
@given(u=units(n=N + 3), seed=st.integers(0, 2**32 - 1))
def test_minimal_realisations(case, u, seed):
    """Two states that inputs do not reach and one that outputs do not see, in coordinates that hide them."""
    g, rng = made(case, seed), np.random.default_rng(seed)
    if isinstance(g, DiagonalSystem):
        logs = np.concatenate([g.log_poles, -0.3 + 0.1j * np.arange(3)])
        B = np.concatenate([g.B, [[0, 0], [0, 0], [1, 1]]])
        C = np.concatenate([g.C, [[1, 1, 0], [1, 2, 0]]], axis=1)
        full = dataclasses.replace(g, log_poles=logs, B=B.astype(g.B.dtype), C=C.astype(g.C.dtype))
    else:
        Q = np.linalg.qr(rng.standard_normal((N + 3, N + 3)))[0]
        A = scipy.linalg.block_diag(g.A, 0.3 * np.diag([-1.0, -2.0, -3.0]))
        B, C = np.vstack([g.B, np.zeros((2, 2)), np.ones((1, 2))]), np.hstack([g.C, np.ones((2, 2)), np.zeros((2, 1))])
        full = balred.ss(Q @ A @ Q.T, Q @ B, C @ Q.T, g.D, g.dt)
    small, there = balred.minimal(full), balred.minimal(u.system(full))
    assert small.states == there.states == N
    for s in (0.1j, 1j, 0.5 + 3j):
        assert_allclose(there(u.point(g, s)) / u.gain, small(s), rtol=0, atol=1e-7 * np.abs(small(s)).max())


def test_every_case_has_a_system_of_each_seed():
    """Guards what is above: the systems are not degenerate, else a tolerance beside the first value would hide all."""
    for case in CASES:
        for seed in range(SEEDS):
            s = np.asarray(balred.hsv(made(case, seed)))
            assert np.all(s[..., N - 1] > 1e-4 * s[..., 0])
