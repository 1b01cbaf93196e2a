"""Shrunk JAX models in checkpoints of orbax: its metadata tell the shapes, a full-size skeleton becomes of that size."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import pytest

pytest.importorskip("equinox")
pytest.importorskip("flax")
pytest.importorskip("optax")
with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # of its own imports
    ocp = pytest.importorskip("orbax.checkpoint")

import equinox as eqx
import jax
import optax
from flax import nnx
from jax_trainers import Equinox, NnxModel, batch, initial, output

import balred
from balred.adapters.jax import skeleton_for

RANKS = {"first": 5, "second": 3}


def saved(tree: Any, path: Any) -> Any:
    """Write, and read the metadata back."""
    with ocp.StandardCheckpointer() as checkpointer:
        checkpointer.save(path, tree)
    with ocp.StandardCheckpointer() as checkpointer:
        return checkpointer.metadata(path).item_metadata.tree


def restored(path: Any, skeleton: Any) -> Any:
    with ocp.StandardCheckpointer() as checkpointer:
        return checkpointer.restore(path, skeleton)


@pytest.mark.full
def test_a_tree_with_the_state_of_its_optimizer(tmp_path: Any) -> None:
    tx, small = optax.adamw(1e-3), balred.reduce(initial(), RANKS)
    opt_state = jax.tree.map(lambda x: x + 1, tx.init(small))
    metadata = saved({"params": small, "opt_state": opt_state}, tmp_path / "run")
    skeleton = skeleton_for(initial(seed=5), metadata["params"])
    got = restored(tmp_path / "run", {"params": skeleton, "opt_state": tx.init(skeleton)})
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves({"params": small, "opt_state": opt_state}), strict=True):
        np.testing.assert_array_equal(a, b)
    np.testing.assert_array_equal(output(got["params"], batch(0)), output(small, batch(0)))


@pytest.mark.full  # the tree of a state is above, a model of nnx below
def test_an_equinox_model(tmp_path: Any) -> None:
    small, full = balred.reduce(Equinox().model, RANKS), Equinox().model
    arrays, _ = eqx.partition(small, eqx.is_array)
    metadata = saved(arrays, tmp_path / "run")
    skeleton, rest = eqx.partition(skeleton_for(full, metadata), eqx.is_array)
    got = eqx.combine(restored(tmp_path / "run", skeleton), rest)
    np.testing.assert_array_equal(got(batch(0)), small(batch(0)))
    assert (got.first.states, got.second.states) == (5, 3)


@pytest.mark.full
def test_an_nnx_model(tmp_path: Any) -> None:
    small, full = balred.reduce(NnxModel(initial()), RANKS), NnxModel(initial(seed=5))
    metadata = saved(nnx.state(small, nnx.Param), tmp_path / "run")
    model = skeleton_for(full, metadata)
    nnx.update(model, restored(tmp_path / "run", nnx.state(model, nnx.Param)))
    assert (model.first.d_hidden, model.second.d_hidden) == (5, 3)
    np.testing.assert_array_equal(model(batch(0)), small(batch(0)))


@pytest.mark.full
def test_shapes_that_do_not_fit_are_refused() -> None:
    shapes = jax.eval_shape(lambda: initial(20))
    with pytest.raises(ValueError, match=r"layer first must have shapes of at most 12 states, got .*B_im \(20, 2\)"):
        skeleton_for(initial(), shapes)
    full = initial()
    assert skeleton_for(full, jax.eval_shape(lambda: full)) is full
    with pytest.raises(ValueError, match=r"named like the arrays of the layers, got none of .*nu_log.* in first"):
        skeleton_for(full, {"model": full})
