"""The layers and models of discretax, which installs on Python 3.12 only: elsewhere their likenesses stand in.

See test_lru_copies.py, test_s5_copies.py and test_linoss.py.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

jax = pytest.importorskip("jax")
eqx = pytest.importorskip("equinox")
discretax = pytest.importorskip("discretax")

import jax.numpy as jnp  # noqa: E402
from discretax.models import LRU, S5, LinOSS  # noqa: E402
from discretax.sequence_mixers import LinOSSSequenceMixer, LRUSequenceMixer, S5SequenceMixer  # noqa: E402

import balred  # noqa: E402
from balred.testing import check_adapter, simulate  # noqa: E402

KEY = jax.random.key(0)
LINOSS: dict[str, dict[str, Any]] = {
    "damped": {"r_min": 0.5},
    "explicit": {"damping": False},
    "implicit": {"damping": False, "discretization": "IM"},
}


@eqx.filter_jit
def run(layer: Any, u: Any) -> Any:
    return layer(jnp.asarray(u, jnp.float32), KEY)


@pytest.mark.parametrize(
    "settings", [{}, {"conj_sym": False}, {"discretization": "bilinear"}, {"clip_eigs": False}, {"step_rescale": 2.0}], ids=str
)  # fmt: skip
def test_s5(settings: dict[str, Any]) -> None:
    check_adapter(S5SequenceMixer(4, KEY, state_dim=32, **settings), lambda layer, u: np.asarray(run(layer, u)))


def test_lru() -> None:
    check_adapter(LRUSequenceMixer(4, KEY, state_dim=16), lambda layer, u: np.asarray(run(layer, u)))


@pytest.mark.parametrize("settings", LINOSS.values(), ids=LINOSS)
def test_linoss(settings: dict[str, Any]) -> None:
    layer = LinOSSSequenceMixer(4, KEY, state_dim=32, **settings)
    u = np.random.default_rng(0).standard_normal((200, 4))
    y = np.asarray(run(layer, u))
    # float32 over 200 steps of resonances: a thousand times its rounding
    assert np.abs(simulate(balred.adapt(layer)[0], u) - y).max() < 1e-4 * np.abs(y).max()
    np.testing.assert_array_equal(run(balred.reduce(layer, 32), u), y)
    length = 500
    p = balred.plan(layer, 12, calibration=length)

    def response(mixer: Any) -> Any:
        quiet = eqx.tree_at(lambda m: m.D, mixer, jnp.zeros(4))
        impulses = np.eye(4)[:, None, :] * (np.arange(length) == 0)[:, None]
        return np.stack([run(quiet, x) for x in impulses]).astype(np.float64)

    full, small = response(layer), response(p.apply())
    assert np.sum((full - small) ** 2) / np.sum(full**2) == pytest.approx(1 - p.rows[0].energy, rel=1e-2)


@pytest.mark.parametrize("cls", [LRU, S5, LinOSS])
def test_models_run_with_fewer_states(cls: Any) -> None:
    model = cls(KEY, hidden_dim=8, num_blocks=2, state_dim=16)
    small = balred.reduce(model, {"blocks.0.sequence_mixer": 4, "blocks.1.sequence_mixer": 6})
    assert type(small) is cls
    assert [b.sequence_mixer.B.shape[0] if cls is not LRU else len(b.sequence_mixer.nu_log) for b in small.blocks] == [
        4,
        6,
    ]
    batch = jnp.asarray(np.random.default_rng(0).standard_normal((2, 20, 8)), jnp.float32)
    forward = jax.vmap(lambda u, state: small(u, state, KEY), axis_name="batch", in_axes=(0, None), out_axes=(0, None))
    assert np.isfinite(forward(batch, eqx.nn.State(small))[0]).all()
