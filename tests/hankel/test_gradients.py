"""Derivatives of spectral functions equal finite differences, repeated values included, on PyTorch and JAX."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from derivatives import directional, twice, with_leaves
from numpy.testing import assert_allclose
from tables import SINGLE, Backend, Case, Library, each_single, skip_without

import balred

each_function = pytest.mark.parametrize("power", [1, 2], ids=["sum", "sum-of-squares"])


def spectral(power):
    def f(system):
        return (balred.hsv(system) ** power).sum()

    return f


@pytest.mark.parametrize("copies", [1, 2], ids=["distinct", "repeated"])
@each_function
@each_single
def test_torch_equals_finite_differences(case, power, copies):
    pytest.importorskip("torch")
    system = case.make(n=3, seed=11)
    system = twice(system) if copies == 2 else system
    f = spectral(power)
    g = Library(Backend.TORCH_GRAD, "float64").system(system)
    f(g).backward()
    for seed in range(3):
        v, want = directional(f, system, seed)
        got = sum(np.sum(np.conj(x.grad.numpy()) * d).real for x, d in zip(g.leaves, v, strict=True))
        assert_allclose(got, want, rtol=1e-7, atol=1e-8 * float(f(system)))


@pytest.mark.alike
@pytest.mark.parametrize("copies", [1, 2], ids=["distinct", "repeated"])
@each_function
@each_single
def test_jax_equals_finite_differences(case, power, copies):
    jax = pytest.importorskip("jax")
    system = case.make(n=3, seed=11)
    system = twice(system) if copies == 2 else system
    f = spectral(power)
    with jax.enable_x64(True):
        g = Library(Backend.JAX, "float64").system(system)
        # one compilation; jit of the gradient is what a training runs
        grads = [np.asarray(x) for x in jax.jit(jax.grad(f))(g).leaves]
    for seed in range(3):
        v, want = directional(f, system, seed)
        # JAX's gradient of a real function of complex inputs is the conjugate of the direction of ascent
        got = sum(np.sum(x * d).real for x, d in zip(grads, v, strict=True))
        assert_allclose(got, want, rtol=1e-7, atol=1e-8 * float(f(system)))


@skip_without("torch")
@each_single
def test_torch_gradcheck(case):
    """PyTorch's own check, every entry: the sum of the values, and the largest alone (it is not repeated here)."""
    import torch

    system = case.make(n=2, m=1, p=2, seed=3)
    g = Library(Backend.TORCH_GRAD, "float64").system(system)
    s = balred.hsv(system)
    assert s[0] - s[1] > 1e-2 * s[0]
    torch.autograd.gradcheck(lambda *x: balred.hsv(with_leaves(g, x)).sum(), g.leaves)
    torch.autograd.gradcheck(lambda *x: balred.hsv(with_leaves(g, x))[0], g.leaves)


@pytest.mark.full
@skip_without("jax")
@pytest.mark.parametrize("case", [c for c in SINGLE if c.name in ("dense-continuous", "conjugate-discrete")], ids=str)
def test_jax_check_grads(case):
    """JAX's own check by finite differences."""
    import jax
    from jax.test_util import check_grads

    system = case.make(n=2, m=1, p=1, seed=3)
    with jax.enable_x64(True):
        g = Library(Backend.JAX, "float64").system(system)
        check_grads(lambda *x: balred.hsv(with_leaves(g, x)).sum(), g.leaves, order=1, modes=["rev"])


def test_by_hand():
    """sigma = bc/(2a) with pole -a: d/da = -bc/(2a^2) (so + in the pole), d/db = c/(2a), d/dc = b/(2a)."""
    torch = pytest.importorskip("torch")
    a, b, c = 2.0, 3.0, 5.0
    for make in (balred.ss, lambda A, B, C: balred.diagonal(A[0], B, C)):
        x = [torch.tensor([[v]], dtype=torch.float64, requires_grad=True) for v in (-a, b, c)]
        balred.hsv(make(*x)).sum().backward()
        got = [float(v.grad) for v in x]
        assert_allclose(got, [b * c / (2 * a**2), c / (2 * a), b / (2 * a)], rtol=1e-13)


@pytest.mark.parametrize(
    "case", [Case("dense-batch", "dense", 0, batch=(3,)), Case("conjugate-batch", "conjugate", 1, batch=(3,))], ids=str
)
def test_gradient_of_a_batch_is_that_of_its_members(case):
    torch = pytest.importorskip("torch")
    lib = Library(Backend.TORCH_GRAD, "float64")
    system = case.make(n=3)
    g = lib.system(system)
    weights = torch.tensor([1.0, -2.0, 0.5], dtype=torch.float64)
    (balred.hsv(g).sum(-1) * weights).sum().backward()
    for i, w in enumerate(weights):
        one = lib.system(with_leaves(dataclasses.replace(system, D=system.D[i]), [x[i] for x in system.leaves]))
        (balred.hsv(one).sum() * w).backward()
        for x, y in zip(g.leaves, one.leaves, strict=True):
            assert_allclose(x.grad[i].numpy(), y.grad.numpy(), rtol=0, atol=1e-11 * float(y.grad.abs().max()))


def test_gradients_in_float32_have_the_dtype_and_the_value():
    torch = pytest.importorskip("torch")
    system = SINGLE[0].make(n=3)
    narrow, wide = (Library(Backend.TORCH_GRAD, p) for p in ("float32", "float64"))
    a, b = narrow.system(system), wide.system(narrow.exact(system))
    balred.hsv(a).sum().backward()
    balred.hsv(b).sum().backward()
    for x, y in zip(a.leaves, b.leaves, strict=True):
        assert x.grad.dtype == torch.float32
        assert_allclose(x.grad.numpy(), y.grad.numpy(), rtol=0, atol=1e-6 * float(y.grad.abs().max()))


def test_gradient_of_a_system_that_is_not_minimal_is_finite():
    """Values that are zero have no derivative: they contribute none, and nothing is divided by them."""
    torch = pytest.importorskip("torch")
    A = torch.diag(torch.tensor([-1.0, -2.0, -3.0], dtype=torch.float64)).requires_grad_()
    B = torch.tensor([[1.0], [1.0], [0.0]], dtype=torch.float64, requires_grad=True)
    C = torch.tensor([[1.0, 0.0, 1.0]], dtype=torch.float64, requires_grad=True)
    (balred.hsv(balred.ss(A, B, C)) ** 2).sum().backward()
    assert all(bool(torch.isfinite(x.grad).all()) for x in (A, B, C))
    # by hand: only the first state is both reached and seen, sigma^2 = (bc)^2/(4 a^2), d/dA11 = (bc)^2/(2 a^3) = 1/2
    assert_allclose(float(A.grad[0, 0]), 0.5, rtol=1e-12)


def test_no_gradient_through_unstable_poles():
    torch = pytest.importorskip("torch")
    A = torch.tensor([[1.0, 0.0], [0.0, -1.0]], dtype=torch.float64, requires_grad=True)
    s = balred.hsv(balred.ss(A, torch.ones(2, 1, dtype=torch.float64), torch.ones(1, 2, dtype=torch.float64)))
    with pytest.raises(ValueError, match="hsv must be finite to be differentiated, got a system with unstable poles"):
        s[1].backward()


@pytest.mark.full
@skip_without("jax")
def test_vmap_of_the_gradient():
    import jax

    case = dataclasses.replace(SINGLE[0], batch=(3,))
    with jax.enable_x64(True):
        g = Library(Backend.JAX, "float64").system(case.make(n=2))
        f = spectral(1)
        together = jax.jit(jax.vmap(jax.grad(f)))(g)
        alone = jax.grad(lambda x: balred.hsv(x).sum())(g)
        for x, y in zip(together.leaves, alone.leaves, strict=True):
            assert_allclose(np.asarray(x), np.asarray(y), rtol=0, atol=1e-12 * float(np.abs(y).max()))


@pytest.mark.alike
@pytest.mark.parametrize("kind", ["dense", "diagonal", "conjugate"])
@pytest.mark.parametrize("dt", [0, 1])
def test_h2_norm_has_a_gradient(kind, dt):
    # against finite differences (gradcheck); D is zero in continuous time, or the norm would be infinite
    torch = pytest.importorskip("torch")
    g = balred.testing.random_system(4, dt=dt, kind=kind, seed=5)
    leaves = tuple(torch.tensor(x).requires_grad_() for x in g.leaves)

    def norm(first, B, C):
        if kind == "dense":
            return balred.norm(balred.ss(first, B, C, dt=dt), "h2")
        return balred.norm(balred.diagonal(log_poles=first, B=B, C=C, dt=dt, conjugate=kind == "conjugate"), "h2")

    assert torch.autograd.gradcheck(norm, leaves)


@pytest.mark.full
def test_h2_norm_has_a_gradient_in_jax():
    jax = pytest.importorskip("jax")
    g = balred.testing.random_system(4, seed=5)
    A, B, C = (jax.numpy.asarray(x) for x in g.leaves)
    got = jax.jit(jax.grad(lambda A: balred.norm(balred.ss(A, B, C), "h2")))(A)
    P, Q = balred.gramians(g)
    want = Q @ P / balred.norm(balred.ss(*g.leaves), "h2")  # d tr(C P C') = 2 Q P, in double precision
    np.testing.assert_allclose(got, want, rtol=0, atol=1e-5 * np.abs(want).max())


@pytest.mark.alike
@pytest.mark.parametrize("dt", [0, 1])
@pytest.mark.parametrize("powers", [(0, 600, 0), (0, -600, 600), (-500, -500, 0), (500, 0, 500)])
@pytest.mark.parametrize("name", ["hsv", "h2"])
def test_gradients_far_from_one_are_those_of_other_units(dt, powers, name):
    # units of time, inputs and outputs that are powers of two change no digit of what is differentiated
    torch = pytest.importorskip("torch")
    g = balred.testing.random_system(4, dt=dt, seed=5)
    powers = (0, *powers[1:]) if dt else powers

    def gradient(powers):
        leaves = [torch.tensor(x * 2.0**k).requires_grad_() for x, k in zip(g.leaves, powers, strict=True)]
        system = balred.ss(*leaves, dt=dt)
        (balred.hsv(system)[0] if name == "hsv" else balred.norm(system)).backward()
        return [x.grad.numpy() for x in leaves]

    time, inputs, outputs = powers
    whole = inputs + outputs - (time if name == "hsv" else time / 2)
    for own, got, want in zip(powers, gradient(powers), gradient((0, 0, 0)), strict=True):
        assert_allclose(got * 2.0 ** ((own - whole) / 2) * 2.0 ** ((own - whole) / 2), want, rtol=1e-10, atol=1e-14)
