"""The Hankel nuclear norm as a regulariser: the sum of the values, its derivative, and the bound that is cheap.

Expected: ``hsv(...).sum()``, finite differences of it, and for the bound the inequality of Fazel, Hindi & Boyd (2001).
"""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from derivatives import directional, twice, with_leaves
from numpy.testing import assert_allclose
from tables import CASES, SINGLE, Backend, Library, each_single, skip_without

import balred

DIAGONAL = [c for c in CASES if c.kind != "dense"]
each_diagonal = pytest.mark.parametrize("case", DIAGONAL, ids=str)


def total(system):
    return balred.hsv(system).sum()


@pytest.mark.parametrize("case", CASES, ids=str)
def test_is_the_sum_of_the_values(xp, case):
    system = case.make()
    got = xp.call(balred.hankel_nuclear_norm, xp.system(system))
    assert xp.owns(got)
    assert got.shape == ()
    assert_allclose(xp.numpy(got), total(xp.exact(system)), rtol=max(4 * xp.eps, 1e-9))


@pytest.mark.parametrize("copies", [1, 2], ids=["distinct", "repeated"])
@each_single
def test_torch_equals_finite_differences(case, copies):
    pytest.importorskip("torch")
    system = case.make(n=3, seed=11)
    system = twice(system) if copies == 2 else system
    g = Library(Backend.TORCH_GRAD, "float64").system(system)
    balred.hankel_nuclear_norm(g).backward()
    for seed in range(3):
        v, want = directional(total, system, seed)
        got = sum(np.sum(np.conj(x.grad.numpy()) * d).real for x, d in zip(g.leaves, v, strict=True))
        assert_allclose(got, want, rtol=1e-7, atol=1e-8 * float(total(system)))


@pytest.mark.alike
@pytest.mark.parametrize("copies", [1, 2], ids=["distinct", "repeated"])
@pytest.mark.parametrize("case", [c for c in SINGLE if c.kind != "dense"], ids=str)
def test_jax_equals_finite_differences(case, copies):
    jax = pytest.importorskip("jax")
    system = case.make(n=3, seed=11)
    system = twice(system) if copies == 2 else system
    with jax.enable_x64(True):
        g = Library(Backend.JAX, "float64").system(system)
        grads = [np.asarray(x) for x in jax.jit(jax.grad(balred.hankel_nuclear_norm))(g).leaves]
    for seed in range(3):
        v, want = directional(total, system, seed)
        got = sum(np.sum(x * d).real for x, d in zip(grads, v, strict=True))
        assert_allclose(got, want, rtol=1e-7, atol=1e-8 * float(total(system)))


@skip_without("torch")
@each_single
def test_torch_gradcheck(case):
    import torch

    g = Library(Backend.TORCH_GRAD, "float64").system(case.make(n=2, m=1, p=2, seed=3))
    assert torch.autograd.gradcheck(lambda *x: balred.hankel_nuclear_norm(with_leaves(g, x)), g.leaves)


@pytest.mark.full
@skip_without("jax")
@pytest.mark.parametrize("case", [c for c in SINGLE if c.kind != "dense" and c.dt], ids=str)
def test_jax_check_grads(case):
    import jax
    from jax.test_util import check_grads

    with jax.enable_x64(True):
        g = Library(Backend.JAX, "float64").system(case.make(n=2, m=1, p=1, seed=3))
        check_grads(lambda *x: balred.hankel_nuclear_norm(with_leaves(g, x)), g.leaves, order=1, modes=["rev"])


@skip_without("torch")
@each_diagonal
def test_gradients_are_those_of_the_sum_of_the_values(case):
    """Batches too; the two are computed by different factorisations."""
    lib = Library(Backend.TORCH_GRAD, "float64")
    g, h = lib.system(case.make(n=12, m=2, p=3)), lib.system(case.make(n=12, m=2, p=3))
    balred.hankel_nuclear_norm(g).backward()
    total(h).backward()
    for x, y in zip(g.leaves, h.leaves, strict=True):
        assert_allclose(x.grad.numpy(), y.grad.numpy(), rtol=0, atol=1e-5 * float(y.grad.abs().max()))


def of_leaves(case, weights=None):
    system = case.make(n=5, m=2)

    def norm(*leaves):
        return balred.hankel_nuclear_norm(with_leaves(system, leaves), weights=weights)

    return norm, [np.array(x) for x in system.leaves]


@skip_without("torch")
@pytest.mark.parametrize("bound", [False, True], ids=["norm", "bound"])
@pytest.mark.parametrize("case", [c for c in SINGLE if c.kind != "dense"], ids=str)
def test_torch_transforms(case, bound):
    """grad, and vmap of it, of ``torch.func``: the eager gradients of the members."""
    import torch

    weights = balred.hankel_weights(Library(Backend.TORCH, "float64").system(case.make(n=5, m=2))) if bound else None
    norm, leaves = of_leaves(case, weights)
    many = [torch.stack([torch.tensor(x) * (1 + 0.1 * i) for i in range(3)]) for x in leaves]
    got = torch.func.vmap(torch.func.grad(norm, argnums=(0, 1, 2)))(*many)
    for i in range(3):
        one = [x[i].clone().requires_grad_() for x in many]
        norm(*one).backward()
        for x, y in zip(got, one, strict=True):
            assert_allclose(x[i].numpy(), y.grad.numpy(), rtol=1e-7, atol=1e-8 * float(y.grad.abs().max()))


@pytest.mark.full
@skip_without("torch")
@pytest.mark.filterwarnings("ignore")  # of Dynamo, about its own calls
@pytest.mark.parametrize("bound", [False, True], ids=["norm", "bound"])
def test_torch_compiles_without_graph_breaks(bound):
    import torch

    torch._dynamo.reset()
    case = next(c for c in SINGLE if c.name == "conjugate-discrete")
    weights = balred.hankel_weights(Library(Backend.TORCH, "float64").system(case.make(n=5, m=2))) if bound else None
    norm, leaves = of_leaves(case, weights)
    grads = []
    for f in (norm, torch.compile(norm, fullgraph=True, backend="aot_eager")):
        x = [torch.tensor(a, requires_grad=True) for a in leaves]
        f(*x).backward()
        grads.append(x)
    for x, y in zip(*grads, strict=True):
        assert_allclose(x.grad.numpy(), y.grad.numpy(), rtol=1e-7, atol=1e-8 * float(x.grad.abs().max()))


def float_of(x):
    return float(x.detach() if hasattr(x, "detach") else x)


def lru_model(framework):
    if framework == "torch":
        torch = pytest.importorskip("torch")
        from balred.studies.models.torch_models import Classifier

        return Classifier(4, [6, 9], seed=0), torch
    jax = pytest.importorskip("jax")
    pytest.importorskip("equinox")
    from balred.studies.models.jax_models import Classifier as Equinox

    return Equinox(4, [6, 9], key=jax.random.key(0)), jax


@pytest.mark.parametrize("framework", ["torch", "jax"])
def test_a_model_is_the_sum_over_its_layers(framework):
    model, _ = lru_model(framework)
    want = sum(float_of(s.sum()) for s in balred.hsv(model).values())
    assert_allclose(float_of(balred.hankel_nuclear_norm(model)), want, rtol=1e-6)
    weights = balred.hankel_weights(model)
    assert set(weights) == set(balred.hsv(model))
    assert_allclose(float_of(balred.hankel_nuclear_norm(model, weights=weights)), want, rtol=1e-5)


def test_gradients_reach_the_parameters_of_a_torch_model():
    model, torch = lru_model("torch")
    balred.hankel_nuclear_norm(model).backward()
    for block in model.blocks:
        for name, p in block.lru.named_parameters():
            assert (p.grad is None) == (name == "D")
    # a step against the gradient lowers the norm by the square of the gradient
    before = float_of(balred.hankel_nuclear_norm(model))
    grads = [p.grad for p in model.parameters() if p.grad is not None]
    squared = float(sum((g.double() ** 2).sum() for g in grads))
    with torch.no_grad():
        for p in model.parameters():
            if p.grad is not None:
                p -= 1e-3 * before / squared * p.grad
    assert_allclose(float_of(balred.hankel_nuclear_norm(model)), (1 - 1e-3) * before, rtol=2e-4)


@pytest.mark.full
def test_under_filter_jit_with_weights_as_data():
    model, jax = lru_model("jax")
    import equinox as eqx

    @eqx.filter_jit
    def grads(model, weights):
        return eqx.filter_grad(lambda m: balred.hankel_nuclear_norm(m, weights=weights))(model)

    exact, bound = grads(model, None), grads(model, balred.hankel_weights(model))
    for x, y in zip(jax.tree.leaves(exact), jax.tree.leaves(bound), strict=True):
        assert_allclose(np.asarray(x), np.asarray(y), rtol=0, atol=1e-5 * (1e-3 + float(np.abs(x).max())))
    assert any(float(np.abs(x).max()) > 0 for x in jax.tree.leaves(exact))


@each_diagonal
def test_the_bound_touches_where_it_was_made_and_lies_above_elsewhere(case):
    pytest.importorskip("torch")
    lib = Library(Backend.TORCH_GRAD, "float64")
    system, nearby = case.make(m=4, p=4), case.make(m=4, p=4)
    rng = np.random.default_rng(0)
    nearby = with_leaves(nearby, [x * (1 + 0.3 * rng.uniform(-1, 1, x.shape)) for x in system.leaves])
    g, h = lib.system(system), lib.system(system)
    weights = balred.hankel_weights(g)
    assert not weights.P.requires_grad
    touching = balred.hankel_nuclear_norm(g, weights=weights)
    touching.backward()
    norm = balred.hankel_nuclear_norm(h)
    norm.backward()
    assert_allclose(float(touching.detach()), float(norm.detach()), rtol=1e-9)
    for x, y in zip(g.leaves, h.leaves, strict=True):
        assert_allclose(x.grad.numpy(), y.grad.numpy(), rtol=0, atol=1e-8 * float(y.grad.abs().max()))
    above = float(balred.hankel_nuclear_norm(lib.system(nearby), weights=weights).detach())
    want = float(total(nearby))
    assert above > want * (1 + 1e-6)
    assert_allclose(above, want, rtol=0.5)


@skip_without("torch")
@each_diagonal
def test_the_bound_has_the_gradient_of_finite_differences(case):
    import torch

    weights = balred.hankel_weights(Library(Backend.TORCH, "float64").system(case.make(n=3)))
    g = Library(Backend.TORCH_GRAD, "float64").system(
        with_leaves(case.make(n=3), [x * 1.1 for x in case.make(n=3).leaves])
    )
    assert torch.autograd.gradcheck(lambda *x: balred.hankel_nuclear_norm(with_leaves(g, x), weights=weights), g.leaves)


def test_weights_that_do_not_fit():
    g = balred.testing.random_system(6, kind="conjugate", dt=1, seed=0)
    small = balred.testing.random_system(4, kind="conjugate", dt=1, seed=0)
    weights = balred.hankel_weights(g)
    with pytest.raises(
        ValueError, match=r"weights must have the shape \(4, 8\) of the system, got P of shape \(6, 12\)"
    ):
        balred.hankel_nuclear_norm(small, weights=weights)
    with pytest.raises(ValueError, match="weights must be those of the layers a, b, got a"):
        balred.hankel_nuclear_norm({"a": g, "b": small}, weights={"a": weights})
    with pytest.raises(ValueError, match="weights must go with a diagonal system, got a dense one: its Gramians"):
        balred.hankel_weights(g.to_dense())
    with pytest.raises(ValueError, match="weights must go with a diagonal system, got a dense one: leave"):
        balred.hankel_nuclear_norm(g.to_dense(), weights=weights)


@pytest.mark.parametrize("kind", ["dense", "diagonal", "conjugate"])
@pytest.mark.parametrize("dt", [0, 1])
def test_unstable_systems_are_refused(kind, dt):
    g = balred.testing.random_system(3, kind=kind, dt=dt, seed=0)
    first = g.leaves[0].copy()
    if kind == "dense":
        first += 4 * np.eye(3)
    else:
        first[1] = 0.25 + 1j * first[1].imag
    g = with_leaves(g, [first, *g.leaves[1:]])
    with pytest.raises(balred.UnstableError, match="got a pole at"):
        balred.hankel_nuclear_norm(g)
    if kind != "dense":
        with pytest.raises(balred.UnstableError, match="got a pole at"):
            balred.hankel_weights(g)


def test_unstable_under_jit_is_nan():
    jax = pytest.importorskip("jax")
    g = balred.testing.random_system(3, kind="conjugate", dt=1, seed=0)
    l, B, C = (jax.numpy.asarray(x) for x in g.leaves)
    l = l.at[0].set(0.1 + 1j)
    value = jax.jit(lambda l: balred.hankel_nuclear_norm(balred.diagonal(log_poles=l, B=B, C=C, dt=1, conjugate=True)))
    assert np.isnan(value(l))
    assert np.isfinite(value(l.at[0].set(-0.1 + 1j)))


def test_values_that_are_not_finite_are_refused():
    g = balred.testing.random_system(3, kind="diagonal", dt=1, seed=0)
    B = g.B.copy()
    B[0, 0] = np.nan
    with pytest.raises(ValueError, match="B must be finite"):
        balred.hankel_nuclear_norm(dataclasses.replace(g, B=B))


@skip_without("torch")
@pytest.mark.parametrize("precision", ["float64", "float32"])
def test_systems_of_low_rank_and_of_none(precision):
    """States that hear nothing, states that are twins, and a system that does nothing: finite, and the sum of the values."""
    import torch

    system = balred.testing.random_system(6, 2, 2, kind="conjugate", dt=1, seed=0)
    l, B, C = (np.array(x) for x in system.leaves)
    l[3], B[3], C[:, 3] = l[2], B[2], C[:, 2]
    B[0] = 0
    for scale in (1.0, 0.0):
        x = [torch.tensor(a, requires_grad=True) for a in (l, scale * B, C)]
        value = balred.hankel_nuclear_norm(
            balred.diagonal(log_poles=x[0], B=x[1], C=x[2], dt=1, conjugate=True), precision=precision
        )
        value.backward()
        want = total(balred.diagonal(log_poles=l, B=scale * B, C=C, dt=1, conjugate=True))
        assert_allclose(float(value.detach()), float(want), rtol=1e-6 if precision == "float64" else 5e-3, atol=1e-12)
        assert all(bool(torch.isfinite(torch.view_as_real(a.grad)).all()) for a in x)


@pytest.mark.parametrize("precision", ["float64", "float32"])
def test_never_fails_near_the_boundary_and_with_clusters(precision):
    """A Cholesky factorisation of a Gramian that is singular to rounding: what is added must be enough, at every size."""
    rng = np.random.default_rng(0)
    for n in (1, 2, 3, 5, 17, 60):
        for _ in range(12):
            radius = 10.0 ** rng.uniform(-6, 1, n)
            l = -radius + 1j * rng.choice([0.0, 1e-6, 1.0, 3.14159], n)
            l[rng.integers(n, size=n // 2)] = l[0]
            b = rng.standard_normal((n, 2)) * 10.0 ** rng.uniform(-8, 8, (n, 1))
            g = balred.diagonal(log_poles=l, B=b + 0j, C=rng.standard_normal((1, n)) + 0j, dt=1, conjugate=True)
            value, want = balred.hankel_nuclear_norm(g, precision=precision), total(g)
            # inputs of sixteen decades beside clustered poles: both sides are right to about the root of eps
            assert_allclose(value, want, rtol=1e-5 if precision == "float64" else 2e-2)


def test_a_static_gain_has_none():
    assert balred.hankel_nuclear_norm(balred.ss(np.zeros((0, 0)), np.zeros((0, 1)), np.zeros((1, 0)), [[2.0]])) == 0.0


def test_unknown_precision():
    g = balred.testing.random_system(3)
    with pytest.raises(ValueError, match="precision must be float64 or float32, got 'half'"):
        balred.hankel_nuclear_norm(g, precision="half")
