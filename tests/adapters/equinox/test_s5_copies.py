"""S5 layers of other packages in equinox and flax nnx: their authors' names, recognised by what they hold."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

jax = pytest.importorskip("jax")
eqx = pytest.importorskip("equinox")
nnx = pytest.importorskip("flax.nnx")

import jax.numpy as jnp  # noqa: E402
from s5_copies import equinox_layer, nnx_layer  # noqa: E402

import balred  # noqa: E402
from balred.registry import AdapterNotFound, layers_of  # noqa: E402
from balred.registry.entries import entry_of  # noqa: E402
from balred.testing import check_adapter, simulate  # noqa: E402

U = np.random.default_rng(0).standard_normal((40, 3))


FRAMEWORKS: dict[str, Callable[..., Any]] = {"equinox": equinox_layer, "nnx": nnx_layer}
VARIANTS: dict[str, dict[str, Any]] = {
    "plain": {},
    "no conjugates": {"conj_sym": False},
    "bilinear": {"discretization": "bilinear"},
    "clipped": {"clip_eigs": True},
    "rescaled": {"step_rescale": 2.0},
    "flat steps": {"column": False},
}
each_framework = pytest.mark.parametrize("make", FRAMEWORKS.values(), ids=FRAMEWORKS)


@pytest.mark.full
@each_framework
@pytest.mark.parametrize("variant", VARIANTS.values(), ids=VARIANTS)
def test_check_adapter(make: Callable[..., Any], variant: dict[str, Any]) -> None:
    check_adapter(make(**variant))


@pytest.mark.full
@pytest.mark.alike
@each_framework
@pytest.mark.parametrize("halves", ["C1 C2", "wide"])
@pytest.mark.parametrize("rank", [5, None])
def test_a_layer_of_both_ways_is_its_system_run_forward_and_backward(
    make: Callable[..., Any], halves: str, rank: int | None
) -> None:
    full = make(halves=halves)
    system, rebuild = balred.adapt(full)
    small, reduced = (
        (rebuild(system), system) if rank is None else (balred.reduce(full, rank), balred.reduce(system, rank))
    )
    u = jnp.asarray(U, jnp.float32)
    want = np.asarray(full(u))
    if rank is not None:
        ahead, back = simulate(reduced, U), simulate(reduced, U[::-1])[::-1]
        want = (ahead[:, :3] + back[:, 3:]) / 2**0.5
    # float32: a hundred times its rounding
    assert np.abs(small(u) - want).max() < 1e-5 * np.abs(want).max()


@pytest.mark.full
@pytest.mark.alike
@each_framework
@pytest.mark.parametrize("rank", [2, 5])
def test_the_error_on_data_is_within_the_bound(make: Callable[..., Any], rank: int) -> None:
    full = make()
    bound = balred.plan(full, rank).rows[0].bound
    assert bound is not None
    small = balred.reduce(full, rank)
    impulses = jnp.asarray(np.eye(3)[:, None, :] * (np.arange(1024) == 0)[:, None], jnp.float32)
    # slowest pole exp(-0.3 exp(-3.5)): below 1e-4 after 1024 steps
    error = np.fft.fft(np.stack([full(u) - small(u) for u in impulses], axis=-1), axis=0)
    assert 0 < np.linalg.norm(error, ord=2, axis=(1, 2)).max() <= bound


@each_framework
def test_size_fields_follow_and_nothing_else_changes(make: Callable[..., Any]) -> None:
    full = make()
    small = balred.reduce(full, 3)
    assert type(small) is type(full)
    assert (full.P, small.P, small.B.shape, small.C.shape, small.log_step.shape) == (8, 3, (3, 3, 2), (3, 3, 2), (3, 1))
    assert (getattr(small, "ssm_size", 6), getattr(small, "H", 3), small.step_rescale) == (6, 3, 1.0)
    assert np.array_equal(small.D[...], full.D[...])
    assert full.Lambda_re.shape == (8,)


def test_layers_inside_models_are_found() -> None:
    model = [eqx.nn.Linear(3, 3, key=jax.random.key(0)), {"ssm": equinox_layer()}]
    assert list(layers_of(model)) == ["1.ssm"]
    assert balred.reduce(model, 4)[1]["ssm"].P == 4


def test_a_parameter_that_is_not_known_is_refused_by_name() -> None:
    full = nnx_layer()
    full.scale = nnx.Param(jnp.ones(3))
    with pytest.raises(ValueError, match="got scale beside those of an S5 layer"):
        balred.reduce(full, 4)


@pytest.mark.parametrize("change", ["width", "setting"])
def test_other_modules_are_not_recognised(change: str) -> None:
    full = nnx_layer()
    if change == "width":
        full.D = nnx.Param(jnp.ones(4))
    else:
        del full.conj_sym
    assert entry_of(full) is None
    with pytest.raises(AdapterNotFound):
        balred.reduce(full, 4)
