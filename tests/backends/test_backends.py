"""What every backend promises: no global state, no frameworks mixed, devices kept; CUDA where there is one."""

from __future__ import annotations

import dataclasses
import warnings

import numpy as np
import pytest
from numpy.testing import assert_allclose
from tables import SINGLE, Backend, Library, each_case, each_method, each_single, skip_without

import balred
from balred.systems import arrays

FUNCTIONS = ("is_concrete", "on_host", "all_finite", "to_numpy", "from_numpy", "to_bytes", "from_bytes", "triangular_factor", "while_loop",
             "semidefinite_factor", "congruent", "eigvalsh", "over_batch", "double_scope", "single_scope", "stop_gradient", "differentiable", "DYNAMIC_SHAPES")  # fmt: skip


@pytest.mark.parametrize("name", ["numpy", "torch", "jax"])
def test_array_backends_supply_the_same_names(name):
    pytest.importorskip(name)
    module = arrays.backend(name)
    assert [f for f in FUNCTIONS if not hasattr(module, f)] == []


@pytest.mark.parametrize("dtype", "fdFD")
@pytest.mark.parametrize("rank", [60, 30])
@pytest.mark.parametrize("name", ["numpy", "torch", "jax"])
def test_products_with_a_factor_are_those_with_the_matrix(name, rank, dtype):
    """Z Z^H is the matrix, of any rank, and Z^H x Z has the eigenvalues of x times it, by NumPy's own in double precision."""
    library = pytest.importorskip("jax.numpy" if name == "jax" else name)
    if name == "jax" and dtype in "dD":
        pytest.skip("JAX has no double precision outside a scope")
    be, rng = arrays.backend(name), np.random.default_rng(0)
    parts = rng.standard_normal((2, 2, 60, 2 * rank if rank == 60 else rank))
    a, b = parts[0] + 1j * parts[1] if dtype in "FD" else parts[0]
    a = a / np.linalg.norm(a, axis=1, keepdims=True)
    P, x = ((y @ y.conj().T).astype(dtype) for y in (a, b))
    Z = be.semidefinite_factor(library.asarray(P))
    near = 100 * np.finfo(dtype).eps
    assert_allclose(np.asarray(Z @ arrays.ct(Z)), P, rtol=0, atol=near)
    product = be.congruent(Z, library.asarray(x))
    want = np.linalg.eigvalsh(np.asarray(arrays.ct(Z), np.complex128) @ x @ np.asarray(Z))
    assert_allclose(np.asarray(be.eigvalsh(product)), want, rtol=0, atol=near * want[-1])
    if name == "numpy":
        assert_allclose(be.eigvalsh(np.stack([product, product]))[1], want, rtol=0, atol=near * want[-1])
        assert rank <= Z.shape[1] <= rank + 2  # as many as rounding leaves


@pytest.mark.alike
@skip_without("jax")
@each_single
def test_jit_equals_eager(case):
    """The same formulas at fixed shapes: to rounding, in the precision of the data."""
    import jax

    g = Library(Backend.JAX, "float32").system(case.make())
    eager, traced = balred.hsv(g), jax.jit(balred.hsv)(g)
    assert traced.dtype == eager.dtype == np.float32
    assert_allclose(np.asarray(traced), np.asarray(eager), rtol=0, atol=4 * np.finfo(np.float32).eps * float(eager[0]))


@skip_without("jax")
def test_jax_is_left_in_single_precision():
    """Double precision is a scope: the global flag is never set."""
    import jax
    import jax.numpy as jnp

    g = Library(Backend.JAX, "float32").system(SINGLE[0].make())
    balred.reduce(g, 2)
    balred.hsv(g)
    jax.jit(balred.hsv)(g)
    assert not jax.config.jax_enable_x64
    assert jnp.ones(1).dtype == jnp.float32


@each_method
@each_case
def test_float32_agrees_with_float64_of_the_same_numbers(case, method):
    """Rounded input, analysed in float64: the reduced operators differ by the rounding of the result only."""
    lib = Library(Backend.NUMPY, "float32")
    g = lib.system(case.make(n=5))
    wide = lib.exact(case.make(n=5))
    small, want = balred.reduce(g, 2, method=method), balred.reduce(wide, 2, method=method)
    for x, y in zip((*small.leaves, small.D), (*want.leaves, want.D), strict=True):
        assert lib.owns(x)
        assert_allclose(x, y, rtol=0, atol=4 * lib.eps * np.abs(y).max())


def test_torch_keeps_graph_and_leaves_alone():
    """A reduction is detached, and reads the leaves without touching their gradients."""
    pytest.importorskip("torch")
    g = Library(Backend.TORCH_GRAD, "float64").system(SINGLE[0].make())
    small = balred.reduce(g, 2)
    assert not any(x.requires_grad for x in small.leaves)
    assert all(x.grad is None and x.requires_grad for x in g.leaves)


def test_torch_no_grad():
    torch = pytest.importorskip("torch")
    g = Library(Backend.TORCH_GRAD, "float32").system(SINGLE[0].make())
    with torch.no_grad():
        assert not balred.hsv(g).requires_grad
    assert balred.hsv(g).requires_grad


@skip_without("torch")
def test_torch_default_dtype_does_not_matter():
    import torch

    g = Library(Backend.TORCH, "float64").system(SINGLE[0].make())
    want = balred.hsv(g)
    torch.set_default_dtype(torch.float16)
    try:
        got = balred.hsv(g)
    finally:
        torch.set_default_dtype(torch.float32)
    assert torch.equal(got, want)


def test_numpy_errors_are_as_the_user_set_them():
    g = SINGLE[0].make()
    with np.errstate(all="raise"):
        before = np.geterr()
        balred.hsv(g)
        balred.reduce(g, 2)
        assert np.geterr() == before


def test_bfloat16_and_half_are_read():
    """A layer in half precision is analysed like any other; the result is in float32."""
    torch = pytest.importorskip("torch")
    for dtype in (torch.bfloat16, torch.float16):
        one = torch.ones(1, 1, dtype=dtype)
        s = balred.hsv(balred.ss(-one, one, one))
        assert s.dtype == torch.float32
        assert float(s) == 0.5


def test_memory_order_and_strides_do_not_matter():
    g = SINGLE[0].make(n=6)
    views = [np.asfortranarray(x) for x in g.leaves], [np.repeat(np.repeat(x, 2, 0), 2, 1)[::2, ::2] for x in g.leaves]
    for A, B, C in views:
        assert_allclose(balred.hsv(balred.ss(A, B, C)), balred.hsv(g), rtol=0, atol=1e-14 * balred.hsv(g)[0])


def test_conjugated_torch_views():
    """Lazily conjugated and transposed tensors are values like others."""
    pytest.importorskip("torch")
    g = Library(Backend.TORCH, "float64").system(SINGLE[2].make())
    dual = balred.ss(g.A.mH, g.C.mH, g.B.mH, g.D.mH, g.dt)
    assert_allclose(balred.hsv(dual).numpy(), balred.hsv(g).numpy(), rtol=1e-10)
    assert balred.reduce(dual, 2).order == 2


def test_a_backend_plugs_in_by_name(monkeypatch):
    """A solver from another distribution: any module with ``gramian_factors``, under the entry point's name."""
    import types

    calls = []

    def gramian_factors(A, B, C, discrete):
        calls.append(discrete)
        return arrays.backend("scipy").gramian_factors(A, B, C, discrete)

    module = types.ModuleType("elsewhere")
    module.gramian_factors = gramian_factors
    point = types.SimpleNamespace(name="elsewhere", load=lambda: module)
    monkeypatch.setattr(arrays, "entry_points", lambda group: [point] if group == "balred.backends" else [])
    g = SINGLE[1].make()
    assert_allclose(balred.hsv(g, solver="elsewhere"), balred.hsv(g), rtol=0, atol=1e-7 * balred.hsv(g)[0])
    assert calls == [True]


@pytest.mark.gpu
@each_method
@each_case
def test_cuda_equals_cpu_and_stays_there(case, method):
    lib = Library(Backend.TORCH, "float64")
    cpu = lib.system(case.make(n=6))
    fields = [f.name for f in dataclasses.fields(cpu) if f.name not in ("dt", "conjugate")]
    cuda = dataclasses.replace(cpu, **{f: getattr(cpu, f).cuda() for f in fields})
    s = balred.hsv(cuda)
    assert s.device.type == "cuda"
    want = balred.hsv(cpu)
    assert_allclose(s.cpu().numpy(), want.numpy(), rtol=0, atol=1e-11 * float(want.max()))
    small, there = balred.reduce(cuda, 3, method=method), balred.reduce(cpu, 3, method=method)
    for f in fields:
        x, y = getattr(small, f), getattr(there, f)
        assert x.device == getattr(cuda, f).device
        assert_allclose(x.cpu().numpy(), y.numpy(), rtol=0, atol=1e-8 * float(y.abs().max()))


@pytest.mark.gpu
@each_single
def test_cuda_gradients_equal_cpu(case):
    lib = Library(Backend.TORCH_GRAD, "float64")
    grads = []
    for device in ("cpu", "cuda"):
        g = lib.system(case.make(n=4))
        leaves = [x.detach().to(device).requires_grad_() for x in g.leaves]
        make = (
            balred.ss
            if case.kind == "dense"
            else (lambda l, B, C, dt: balred.diagonal(log_poles=l, B=B, C=C, dt=dt, conjugate=case.kind == "conjugate"))
        )
        balred.hsv(make(*leaves, dt=case.dt)).sum().backward()
        grads.append([x.grad.cpu().numpy() for x in leaves])
    for x, y in zip(*grads, strict=True):
        assert_allclose(x, y, rtol=0, atol=1e-9 * np.abs(x).max())


@pytest.mark.gpu
def test_mixed_devices_are_refused():
    import torch

    with pytest.raises(ValueError, match="all matrices must be on one device, got cpu, cuda:0"):
        balred.ss(-torch.eye(2), torch.ones(2, 1).cuda(), torch.ones(1, 2))


def test_nothing_warns():
    """filterwarnings=error holds for the suite; this holds it for a plain call whatever the runner's settings."""
    g = SINGLE[0].make()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        balred.analyze(g).reduce(balred.Energy(0.9))
