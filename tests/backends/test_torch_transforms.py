"""Hankel singular values under ``torch.func`` and ``torch.compile``: as PyTorch's own functions behave there.

Expected: the loop over members, and the gradients of the eager call, which test_gradients.py compares with finite differences.
"""

from __future__ import annotations

import pytest

import balred

torch = pytest.importorskip("torch")


def leaves(kind="conjugate", m=1, batch=(4,)):
    g = balred.testing.random_system(5, m, m, dt=1, kind=kind, batch=batch, seed=0)
    return tuple(torch.as_tensor(x) for x in g.leaves)


def values(kind):
    def of(first, B, C):
        if kind == "dense":
            return balred.hsv(balred.ss(first, B, C, dt=1))
        return balred.hsv(balred.diagonal(log_poles=first, B=B, C=C, dt=1, conjugate=kind == "conjugate"))

    return of


def eager_gradients(f, args):
    args = [x.clone().requires_grad_() for x in args]
    f(*args).sum().backward()
    return [x.grad for x in args]


@pytest.mark.parametrize("kind", ["dense", "diagonal", "conjugate"])
@pytest.mark.parametrize("m", [1, 2])
def test_vmap_is_the_loop(kind, m):
    f, args = values(kind), leaves(kind, m)
    want = torch.stack([f(*(x[i] for x in args)) for i in range(4)])
    assert torch.allclose(torch.func.vmap(f)(*args), want, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("kind", ["dense", "diagonal", "conjugate"])
def test_grad_of_each_argument(kind):
    f, args = values(kind), leaves(kind)
    want = eager_gradients(f, args)
    got = torch.func.vmap(torch.func.grad(lambda *a: f(*a).sum(), argnums=(0, 1, 2)))(*args)
    for g, w in zip(got, want, strict=True):
        assert torch.allclose(g, w, rtol=1e-8, atol=1e-9 * w.abs().max())


@pytest.mark.full  # compiles for long
@pytest.mark.filterwarnings("ignore")  # of Dynamo, about its own calls
@pytest.mark.parametrize("backend", ["eager", "aot_eager"])
@pytest.mark.parametrize("kind", ["diagonal", "conjugate"])
def test_compiles_without_graph_breaks(kind, backend):
    torch._dynamo.reset()
    f, args = values(kind), leaves(kind)
    compiled = torch.compile(f, fullgraph=True, backend=backend)
    assert torch.allclose(compiled(*args), f(*args), rtol=1e-9, atol=1e-11)
    for g, w in zip(eager_gradients(compiled, args), eager_gradients(f, args), strict=True):
        assert torch.allclose(g, w, rtol=1e-8, atol=1e-9 * w.abs().max())


def test_a_second_derivative_is_refused():
    f, (l, B, C) = values("conjugate"), leaves(batch=())
    B = B.requires_grad_()
    (first,) = torch.autograd.grad(f(l, B, C).sum(), B, create_graph=True)
    with pytest.raises(NotImplementedError, match="can be differentiated once"):
        first.abs().sum().backward()
