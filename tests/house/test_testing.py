"""``balred.testing``: what it makes, and that its check of adapters catches adapters that are wrong."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import balred
from balred.testing import check_adapter, random_system, simulate

# ------------------------------------------------------------------------------------------------ systems


@pytest.mark.parametrize("kind", ["dense", "diagonal", "conjugate"])
@pytest.mark.parametrize("dt", [0, 1, True])
@pytest.mark.parametrize("batch", [(), (2, 3)])
def test_random_systems_are_stable_and_repeat(kind: str, dt: Any, batch: tuple[int, ...]) -> None:
    one, two, other = (random_system(5, 2, 3, kind=kind, dt=dt, batch=batch, seed=s) for s in (1, 1, 2))
    dense = one.to_dense()
    assert dense.B.shape[:-2] == batch
    assert (dense.B.shape[-1], dense.C.shape[-2]) == (2, 3)
    assert one.states == 5
    assert one.dt == dt
    poles = np.linalg.eigvals(dense.A)
    assert (np.abs(poles) < 1).all() if dt else (poles.real < 0).all()
    assert all(np.array_equal(a, b) for a, b in zip(one.leaves, two.leaves, strict=True))
    assert not np.array_equal(one.B, other.B)


def test_complex_dense_systems() -> None:
    assert np.iscomplexobj(random_system(3, complex=True).A)


@pytest.mark.parametrize("dt", [0, 1])
def test_a_static_gain(dt: int) -> None:
    g = random_system(0, 1, 3, dt=dt)
    assert (g.A.shape, g.B.shape, g.C.shape, g.D.shape) == ((0, 0), (0, 1), (3, 0), (3, 1))


def test_an_unknown_kind() -> None:
    with pytest.raises(ValueError, match=r"kind must be.*got 'banded'"):
        random_system(3, kind="banded")


def test_simulate_is_the_impulse_response() -> None:
    g = random_system(4, 1, 1, dt=1)
    u = np.zeros((6, 1))
    u[0] = 1.0
    want = [(g.C @ np.linalg.matrix_power(g.A, k) @ g.B)[0, 0] for k in range(6)]
    want[0] += g.D[0, 0]
    np.testing.assert_allclose(simulate(g, u)[:, 0], want, rtol=1e-10, atol=1e-12)


def test_simulate_refuses_continuous_time() -> None:
    with pytest.raises(ValueError, match=r"discrete.*dt = 0"):
        simulate(random_system(3), np.zeros((4, 2)))


# ------------------------------------------------------------------------------------------------ check_adapter


class Layer:
    """A layer that applies a discrete diagonal system; its adapters below are right, or wrong in one way each."""

    def __init__(self, system: Any) -> None:
        self.system = system

    def __call__(self, u: Any) -> Any:
        return simulate(self.system, np.asarray(u))


def layer(kind: type[Layer], n: int = 8) -> Layer:
    return kind(random_system(n, 2, 3, kind="conjugate", dt=True, seed=2))


def registered(adapter: Callable[[Any], Any]) -> type[Layer]:
    kind = type("Broken", (Layer,), {})
    # classes made in a loop share a name, and the registry goes by names
    kind.__qualname__ = f"Broken_{id(kind)}"
    balred.register(kind, adapter)
    return kind


def test_a_right_adapter_passes() -> None:
    check_adapter(layer(registered(lambda x: (x.system, type(x)))))


def test_apply_says_how_to_run_a_layer() -> None:
    kind = registered(lambda x: (x.system, type(x)))
    seen = []

    def apply(x: Any, u: Any) -> Any:
        seen.append(u.shape)
        return x(u)

    check_adapter(layer(kind), apply, length=17)
    assert set(seen) == {(17, 2)}


def louder(system: Any, factor: float = 2.0) -> Any:
    return dataclasses.replace(system, C=factor * system.C)


def mutating(x: Any) -> Any:
    def rebuild(system: Any) -> Any:
        x.system = system
        return x

    return x.system, rebuild


def poked(x: Any) -> Any:
    def rebuild(system: Any) -> Any:
        if system.states < x.system.states:
            x.system.C[...] *= 1 + 1e-6
        return type(x)(system)

    return x.system, rebuild


WRONG: dict[str, tuple[Callable[[Any], Any], str]] = {
    "factor two on reading": (lambda x: (louder(x.system), type(x)), "layer against its system"),
    "factor two on writing": (lambda x: (x.system, lambda s: type(x)(louder(s))), "full rank"),
    "factor two both ways": (
        lambda x: (louder(x.system), lambda s: type(x)(louder(s, 0.5))),
        "layer against its system",
    ),
    "a small error": (lambda x: (louder(x.system, 1 + 1e-8), type(x)), "layer against its system"),
    "wrong type": (lambda x: (x.system, Layer), "rebuild must return a Broken"),
    "not shrinking": (lambda x: (x.system, lambda s: type(x)(x.system)), "at most"),
    "in place": (mutating, "original|as it was"),
    "poked in place": (poked, "original|as it was"),
    "no system": (lambda x: (x.system.B, type(x)), "must return a system, got ndarray"),
    "lost feedthrough": (
        lambda x: (x.system, lambda s: type(x)(dataclasses.replace(s, D=0 * s.D))),
        "full rank",
    ),
    "right at full rank only": (
        lambda x: (x.system, lambda s: type(x)(s if s.states == 8 else louder(s, 1.001))),
        "against the reduced system",
    ),
}


@pytest.mark.parametrize(("adapter", "message"), WRONG.values(), ids=WRONG)
def test_a_wrong_adapter_fails(adapter: Callable[[Any], Any], message: str) -> None:
    with pytest.raises(AssertionError, match=message):
        check_adapter(layer(registered(adapter)))


def test_the_tolerance_may_be_named() -> None:
    kind = registered(lambda x: (louder(x.system, 1 + 1e-8), type(x)))
    check_adapter(layer(kind), rtol=1e-6)
    with pytest.raises(AssertionError, match=r"1\.0e-09"):
        check_adapter(layer(kind), rtol=1e-9)


def test_an_unregistered_layer_is_a_type_error() -> None:
    with pytest.raises(TypeError, match="register"):
        check_adapter(layer(Layer))
