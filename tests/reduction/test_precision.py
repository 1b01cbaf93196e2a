"""``precision="float32"``: no float64 on the way, the ranks of float64 where they matter, and never a NaN.

Expected: ranks chosen from the float64 analysis of the same float32 data.
"""

from __future__ import annotations

import re
import unittest.mock

import numpy as np
import pytest
import scipy.linalg
from numpy.testing import assert_allclose
from plants import lru_like, s4d_like
from tables import CASES, Backend, Library, skip_without

import balred

TAUS = (1e-1, 1e-2, 1e-3)


def ranks(system, precision):
    analysis = balred.analyze(system, precision=precision)
    assert np.isfinite(analysis.sigma).all()
    return [analysis.rank(balred.Energy(1 - tau)) for tau in TAUS]


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("make", [lru_like, s4d_like])
def test_ranks_of_random_layers(make, seed):
    g = make(seed)
    assert ranks(g, "float32") == ranks(g, "float64")


@skip_without("torch")
@skip_without("sklearn")
def test_ranks_of_trained_layers():
    """A hundred steps on the digits: the poles and the norms are no longer those that the layer was drawn from."""
    import torch

    from balred.studies.data.digits import digits
    from balred.studies.settings.records import DemoConfig
    from balred.studies.training.train_torch import TorchTrainer

    config = DemoConfig(states=(64,), width=8, batch=16, steps=100)
    data = digits(0, config.test)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    trainer = TorchTrainer(config, config.states, seed=0, truncate=False)
    before = [p.detach().clone() for p in trainer.model.parameters()]
    rng = np.random.default_rng(0)
    for _ in range(config.steps):
        batch = rng.choice(len(data.train_x), config.batch, replace=False)
        trainer.train_step(data.train_x[batch], data.train_y[batch])
    torch.set_num_threads(threads)
    assert any(
        float((p - q).detach().abs().max()) > 0.05 for p, q in zip(trainer.model.parameters(), before, strict=True)
    )
    for block in trainer.model.blocks:
        assert ranks(block.lru, "float32") == ranks(block.lru, "float64")


@pytest.mark.parametrize("case", CASES, ids=str)
def test_values_are_right_to_rounding_of_the_first(xp, case):
    if xp.precision == "float64":
        pytest.skip("the data are float32 here")
    system = case.make()
    got = xp.numpy(xp.call(lambda g: balred.hsv(g, precision="float32"), xp.system(system)))
    assert got.dtype == np.float32
    want = balred.hsv(xp.exact(system))
    assert_allclose(got, want, rtol=0, atol=30 * xp.eps * float(want.max()))


def test_float64_data_come_back_in_float64():
    g = balred.testing.random_system(5, seed=0)
    s = balred.hsv(g, precision="float32")
    assert s.dtype == np.float64
    assert np.array_equal(s, s.astype(np.float32))
    small = balred.reduce(g, 2, precision="float32")
    assert small.A.dtype == np.float64
    assert_allclose(small.A, balred.reduce(g, 2).A, atol=1e-4)


@pytest.mark.parametrize("kind", ["dense", "diagonal", "conjugate"])
@pytest.mark.parametrize("m", [1, 2])
def test_no_float64_arises_in_torch(kind, m):
    """Every tensor that any operation of PyTorch makes, gradients included."""
    torch = pytest.importorskip("torch")
    from torch.utils._python_dispatch import TorchDispatchMode

    made = set()

    class Watch(TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            out = func(*args, **(kwargs or {}))
            for x in out if isinstance(out, (tuple, list)) else [out]:
                if isinstance(x, torch.Tensor):
                    made.add(x.dtype)
            return out

    lib = Library(Backend.TORCH_GRAD, "float32")
    with unittest.mock.patch.object(balred.systems.arrays.backend("torch"), "on_host", return_value=False):
        g = lib.system(balred.testing.random_system(6, m, m, dt=1, kind=kind, seed=0))
        with Watch():
            balred.hsv(g, precision="float32").sum().backward()
            balred.hankel_nuclear_norm(g, precision="float32").backward()
            balred.analyze(
                lib.system(balred.testing.random_system(6, m, m, dt=1, kind=kind, seed=0)), precision="float32"
            )
        assert made & {torch.float32, torch.complex64}
        assert not made & {torch.float64, torch.complex128}
        with Watch():
            balred.hsv(g)
        assert made & {torch.float64, torch.complex128}


@pytest.mark.parametrize("kind", ["dense", "diagonal", "conjugate"])
def test_no_float64_arises_in_numpy(kind, monkeypatch):
    """What the factorisations of NumPy and SciPy are given, and what comes out."""
    seen = set()
    for library, name in [(np.linalg, n) for n in ("eigh", "qr", "inv", "solve", "eigvalsh")] + [(scipy.linalg, "svd")]:
        original = getattr(library, name)

        def spy(x, *args, original=original, **kwargs):
            seen.add(np.asarray(x).dtype)
            return original(x, *args, **kwargs)

        monkeypatch.setattr(library, name, spy)
    host = balred.systems.arrays.backend("numpy")
    routine = host.lapack

    def looked_up(name, char):
        seen.add(np.dtype(char))
        return routine(name, char)

    monkeypatch.setattr(host, "lapack", looked_up)
    # NumPy's computes in float64 whatever it is given
    monkeypatch.setattr(np.linalg, "svd", None)
    g = Library(Backend.NUMPY, "float64").system(
        balred.testing.random_system(6, 2, 2, dt=1, kind=kind, batch=(2,), seed=0)
    )
    analysis = balred.analyze(g, precision="float32")
    assert analysis.sigma.dtype == np.float32
    assert all(x.dtype in (np.float32, np.complex64) for x in (analysis.state.Zp, analysis.state.Zq, analysis.state.s))
    assert seen
    assert seen <= {np.dtype(np.float32), np.dtype(np.complex64)}


@pytest.mark.parametrize("kind", ["dense", "diagonal", "conjugate"])
def test_no_float64_arises_in_jax(kind, monkeypatch):
    jax = pytest.importorskip("jax")
    monkeypatch.setattr(balred.systems.arrays.backend("jax"), "double_scope", None)  # entering it would raise
    g = Library(Backend.JAX, "float32").system(balred.testing.random_system(4, 2, 2, dt=1, kind=kind, seed=0))
    for f in (balred.hsv, balred.hankel_nuclear_norm):
        program = str(jax.make_jaxpr(jax.grad(lambda x, f=f: f(x, precision="float32").sum()))(g))
        assert re.search(r"\b[fc](32|64)\[", program)
        assert not re.search(r"\bf64\[|\bc128\[", program)
    balred.analyze(g, precision="float32")


@skip_without("torch")
@pytest.mark.parametrize("kind", ["dense", "diagonal", "conjugate"])
def test_gradients(kind):
    lib = Library(Backend.TORCH_GRAD, "float32")
    grads = []
    for precision in ("float32", "float64"):
        g = lib.system(balred.testing.random_system(6, 2, 2, dt=1, kind=kind, seed=0))
        balred.hsv(g, precision=precision).sum().backward()
        grads.append([x.grad.numpy() for x in g.leaves])
    for x, y in zip(*grads, strict=True):
        assert_allclose(x, y, rtol=0, atol=1e-3 * float(np.abs(y).max()))


def test_reduction_within_the_bound():
    g = lru_like(0)
    analysis = balred.analyze(g, precision="float32")
    rank = analysis.rank(balred.Energy(0.95))
    small = analysis.reduce(rank)
    assert small.states == rank
    assert float(balred.error(g, small, kind="hinf")) <= 1.001 * analysis.bound(rank)
    same = balred.reduce(g, rank, precision="float32")
    assert np.array_equal(same.log_poles, small.log_poles)
    assert balred.plan(g, rank, precision="float32").rows[0].after == rank


def test_the_numerical_rank_is_that_of_float32():
    one = lru_like(0, m=1)
    wide, narrow = balred.analyze(one), balred.analyze(one, precision="float32")
    threshold = one.order * np.finfo(np.float32).eps * wide.sigma[0]
    assert abs(narrow.numerical_rank - int(np.sum(wide.sigma > threshold))) <= 2
    assert narrow.numerical_rank < wide.numerical_rank


def test_what_is_refused():
    g = balred.testing.random_system(4, 1, 1, kind="diagonal", dt=1)
    with pytest.raises(ValueError, match="precision must be float64 or float32, got 'float16'"):
        balred.hsv(g, precision="float16")
    with pytest.raises(ValueError, match="precision must be float64 or float32, got 'double'"):
        balred.reduce(g, 2, precision="double")
    with pytest.raises(ValueError, match="precision 'float32' needs solver 'smith' or 'closed', got 'cauchy'"):
        balred.hsv(g, solver="cauchy", precision="float32")
    with pytest.raises(ValueError, match="method 'modal' computes in float64, got precision 'float32'"):
        balred.analyze(g, method="modal", precision="float32")
