"""What every method of the table promises alike, whatever it is for; its own theory is tested in its own file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.testing import assert_allclose
from tables import frequencies, gains

import balred
from balred.methods import METHODS, Of

WEIGHT = {0: balred.ss([[-2.0]], [[1.0]], [[1.0]], [[0.5]]), 1: balred.ss([[0.3]], [[1.0]], [[1.0]], [[0.5]], 1)}
DOCS = Path(__file__).parents[2] / "docs"


def options_of(method: str, dt: int) -> dict[str, Any]:
    """Options without which a method cannot run, or that make a random system fit for it."""
    weight = WEIGHT[dt]
    square = balred.ss(weight.A * np.eye(2), weight.B * np.eye(2), weight.C * np.eye(2), weight.D * np.eye(2), dt)
    return {
        "frequency_weighted": {"left": square},
        "weighted_hankel_norm": {"left": square},
        "bounded_real": {"gamma": 1e3},
        "time_limited": {"horizon": 5 if dt else 3.0},
        "frequency_limited": {"band": (0.1, 1.0)},
        "stochastic": {"beta": 0.1},
    }.get(method, {})


def plant(dt: int, n: int = 6, m: int = 2, seed: int = 3) -> Any:
    """A random stable square system with a direct term that makes it passive and of full rank."""
    g = balred.testing.random_system(n, m, m, dt=dt, seed=seed)
    return balred.ss(g.A, g.B, g.C, g.D + 1.2 * float(balred.norm(g, "hinf")) * np.eye(m), dt)


EVERY = pytest.mark.parametrize("method", list(METHODS))
TIMES = pytest.mark.parametrize("dt", [0, 1])


@EVERY
@TIMES
def test_order_type_time_and_direct_size(method, dt):
    g = plant(dt)
    small = balred.reduce(g, 4, method=method, **options_of(method, dt))
    assert type(small) is type(g)
    assert small.states <= 4
    assert small.states >= 3  # a method may have to keep a pair together
    assert (small.dt, small.B.dtype, small.D.shape) == (g.dt, g.B.dtype, g.D.shape)
    assert not np.iscomplexobj(small.A)


@EVERY
@TIMES
def test_full_order_is_the_system(method, dt):
    g = plant(dt)
    whole = balred.reduce(g, g.states, method=method, **options_of(method, dt))
    for z in frequencies(g, 40):
        assert_allclose(whole(z), g(z), rtol=1e-7, atol=1e-7)


@EVERY
@TIMES
def test_one_analysis_serves_several_orders(method, dt):
    g = plant(dt)
    a = balred.analyze(g, method=method, **options_of(method, dt))
    for k in (2, 4, 5):
        one = balred.reduce(g, k, method=method, **options_of(method, dt))
        several = a.reduce(k)
        assert several.states == one.states
        assert_allclose(several(0.3 + 0.9j), one(0.3 + 0.9j), rtol=1e-9)
    values = np.asarray(a.hsv)
    assert values.shape == (g.states,)
    assert np.all(np.diff(values) <= 0)


@EVERY
@TIMES
def test_bounds_of_the_error_hold(method, dt):
    if METHODS[method].bounds is not Of.ERROR:
        pytest.skip(f"the bound of this method is that of the {METHODS[method].bounds}")
    g = plant(dt, n=8)
    a = balred.analyze(g, method=method, **options_of(method, dt))
    for k in range(1, 8):
        bound = a.bound(k)
        if np.isfinite(bound):
            worst = gains(balred.systems.parts.difference(g, a.reduce(k)), frequencies(g, 200)).max()
            assert worst <= bound * (1 + 1e-9) + 1e-10


@EVERY
@TIMES
def test_rules_choose_by_the_values_of_the_method(method, dt):
    g = plant(dt)
    a = balred.analyze(g, method=method, **options_of(method, dt))
    values = np.asarray(a.hsv)
    finite = values[np.isfinite(values)]
    wanted = int(np.searchsorted(np.cumsum(finite) / finite.sum(), 0.9 - 1e-12) + 1) + len(values) - len(finite)
    rank = a.rank(balred.Energy(0.9))
    assert wanted <= rank <= wanted + (method == "modal")  # which does not split a conjugate pair
    small = a.reduce(balred.Energy(0.9))
    assert small.states == rank or method in ("irka", "tsia", "hankel_norm")


@EVERY
def test_an_error_bound_needs_a_method_that_has_one(method):
    a = balred.analyze(plant(0), method=method, **options_of(method, 0))
    if np.isnan(a.bound(2)):
        with pytest.raises(ValueError, match=f"ErrorBound needs a method with an a-priori error bound, got '{method}'"):
            a.rank(balred.ErrorBound(1.0))
    else:
        rank = a.rank(balred.ErrorBound(a.bound(3) * 1.001))
        assert a.bound(rank) <= a.bound(3) * 1.001
        assert rank <= 3


@EVERY
@TIMES
def test_units_of_state_do_not_matter(method, dt):
    """States measured in units from 1e-8 to 1e8 of the others: the same operator, so the same reduced operator."""
    g = plant(dt)
    d = 10.0 ** np.array([8, -8, 3, -5, 0, 6])
    scaled = balred.ss(g.A * d[:, None] / d, g.B * d[:, None], g.C / d, g.D, dt)
    plain, other = (balred.reduce(x, 4, method=method, **options_of(method, dt)) for x in (g, scaled))
    assert other.states == plain.states
    for z in frequencies(g, 12):
        assert_allclose(other(z), plain(z), rtol=1e-5, atol=1e-5)


@EVERY
@pytest.mark.parametrize("kind", ["diagonal", "conjugate"])
def test_diagonal_systems_stay_diagonal(method, kind):
    g = balred.testing.random_system(5, 2, 2, dt=1, kind=kind, seed=1)
    gain = 1.2 * float(balred.norm(g, "hinf"))
    g = balred.diagonal(log_poles=g.log_poles, B=g.B, C=g.C, D=g.D + gain * np.eye(2), dt=1, conjugate=g.conjugate)
    small = balred.reduce(g, 3, method=method, **options_of(method, 1))
    assert type(small) is type(g)
    assert small.conjugate == g.conjugate
    assert 2 <= small.states <= 3
    assert np.abs(small(1.0) - g(1.0)).max() < gain


@EVERY
@pytest.mark.parametrize("library", ["torch", "jax"])
def test_arrays_come_back_as_they_came(method, library):
    pytest.importorskip(library)
    be = balred.systems.arrays.backend(library)
    g = plant(0)
    if library == "torch":
        import torch

        like = torch.zeros(1, dtype=torch.float32)
    else:
        import jax.numpy as jnp

        like = jnp.zeros(1, dtype=jnp.float32)
    narrow = balred.ss(*(be.from_numpy(x, like=like) for x in (g.A, g.B, g.C, g.D)))
    small = balred.reduce(narrow, 4, method=method, **options_of(method, 0))
    exact = balred.reduce(g, 4, method=method, **options_of(method, 0))
    assert type(small.A) is type(narrow.A)
    assert small.A.dtype == narrow.A.dtype
    value = np.asarray(be.to_numpy(small.D))
    assert_allclose(value, exact.D, atol=1e-3 * np.abs(exact.D).max())


@EVERY
def test_unstable_systems_are_kept_or_reduced_whole(method):
    if method in ("bounded_real", "positive_real"):
        pytest.skip("asks for a stable system, tested in its own file")
    base = plant(0)
    A = np.zeros((7, 7))
    A[:6, :6], A[6, 6] = base.A, 0.4
    g = balred.ss(A, np.vstack([base.B, [[1.0, -1.0]]]), np.hstack([base.C, [[1.0], [0.5]]]), base.D)
    small = balred.reduce(g, 5, method=method, **options_of(method, 0))
    assert small.states <= 5
    unstable = [x for x in np.linalg.eigvals(small.A) if x.real > 0]
    if METHODS[method].takes_unstable:
        assert len(unstable) <= 1
    else:
        assert_allclose(unstable, [0.4], atol=1e-12)


@EVERY
def test_an_offset_is_refused_where_it_would_do_nothing(method):
    g = plant(0)
    if METHODS[method].takes_unstable:
        with pytest.raises(
            ValueError, match=f"offset must be None for method '{method}', which reduces unstable modes too, got 0.1"
        ):
            balred.reduce(g, 5, method=method, offset=0.1, **options_of(method, 0))
    else:
        assert balred.reduce(g, 5, method=method, offset=1e-9, **options_of(method, 0)).states >= 4


def test_an_option_no_method_has_is_named():
    with pytest.raises(TypeError, match=r"the options of method 'truncate' are none, got 'beta'"):
        balred.reduce(plant(0), 3, beta=1.0)


@EVERY
def test_a_batch_is_taken_or_refused(method):
    g = balred.testing.random_system(4, 2, 2, batch=(3,), seed=0)
    if METHODS[method].takes == "arrays":
        assert balred.reduce(g, 2, method=method).A.shape == (3, 2, 2)
        return
    with pytest.raises(ValueError, match=rf"method '{method}' takes a single system, got a batch of shape \(3,\)"):
        balred.reduce(g, 2, method=method, **options_of(method, 0))


@EVERY
def test_every_method_is_documented(method):
    text = "".join(path.read_text(encoding="utf-8") for path in (DOCS / "methods").glob("*.md"))
    assert f'"{method}"' in text or f"`{method}`" in text


def test_the_folder_of_pages_is_reached():
    index = (DOCS / "methods" / "index.md").read_text(encoding="utf-8")
    for page in (DOCS / "methods").glob("*.md"):
        assert page.stem == "index" or page.stem in index, page.name
