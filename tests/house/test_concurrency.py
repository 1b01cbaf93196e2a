"""Several threads at once: the same results, and nothing in the library remembers that it was called.

Expected: what one thread computes, bit for bit; the library's modules as they were.
"""

from __future__ import annotations

import sys
import types
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from tables import Backend, Library

import balred
from balred.intraining import Policy
from balred.intraining.decide import decide

LIBRARIES = [
    Library(b, "float32" if b is Backend.JAX else "float64") for b in (Backend.NUMPY, Backend.TORCH_GRAD, Backend.JAX)
]


@pytest.fixture(params=LIBRARIES, ids=str)
def lib(request):
    pytest.importorskip(request.param.backend.library)
    return request.param


def work(lib):
    """One of each: values of channels and of several inputs, gradients where there are any, a reduction, a norm."""
    make = balred.testing.random_system
    systems = [
        make(6, 1, 1, dt=1, kind="conjugate", batch=(150,), seed=0),  # more than one piece, on more than one thread
        make(12, 2, 2, dt=1, kind="conjugate", batch=(3,), seed=1),
        make(12, 2, 3, dt=0, kind="dense", seed=2),
        make(8, 2, 2, dt=0, kind="diagonal", seed=3),
    ]
    out = []
    for g in map(lib.system, systems):
        out += [balred.hsv(g), *balred.gramians(g)]
        small = balred.reduce(g, 3)
        out += [*small.leaves, balred.norm(g, "h2" if g.discrete else "hankel")]
    return [lib.numpy(x) for x in out]


@pytest.mark.alike
def test_threads_give_what_one_gives(lib):
    want = work(lib)
    with ThreadPoolExecutor(4) as pool:
        several = list(pool.map(lambda _: work(lib), range(8)))
    for got in several:
        for x, y in zip(got, want, strict=True):
            assert x.dtype == y.dtype
            assert np.array_equal(x, y)


def test_gradients_in_threads():
    torch = pytest.importorskip("torch")
    g = balred.testing.random_system(6, 2, 2, dt=1, kind="conjugate", seed=0)

    def gradient(_):
        l, B, C = (torch.tensor(x, requires_grad=True) for x in g.leaves)
        balred.hsv(balred.diagonal(log_poles=l, B=B, C=C, dt=1, conjugate=True)).sum().backward()
        return [x.grad.numpy() for x in (l, B, C)]

    want = gradient(0)
    with ThreadPoolExecutor(4) as pool:
        for got in pool.map(gradient, range(8)):
            assert all(np.array_equal(x, y) for x, y in zip(got, want, strict=True))


def test_one_analysis_answers_several_threads():
    """An analysis keeps what it has computed: threads that ask for the same get the same."""
    a = balred.analyze(balred.testing.random_system(24, 2, 2, dt=1, kind="conjugate", seed=0))
    want = {k: balred.analyze(a.system).reduce(k) for k in (3, 6, 9)}
    with ThreadPoolExecutor(4) as pool:
        for k, small in zip((3, 6, 9) * 4, pool.map(a.reduce, (3, 6, 9) * 4), strict=True):
            assert all(np.array_equal(x, y) for x, y in zip(small.leaves, want[k].leaves, strict=True))


def state_of_modules():
    """Every mutable object that a loaded module of the library holds, with a snapshot of what is in it."""
    found = {}
    for name, module in list(sys.modules.items()):
        if name.partition(".")[0] != "balred":
            continue
        for key, value in vars(module).items():
            if key.startswith("__") or isinstance(value, (types.ModuleType, type, types.FunctionType)):
                continue
            snapshot = repr(value) if isinstance(value, (list, dict, set, np.ndarray)) else None
            found[name, key] = (id(value), snapshot)
    return found


@pytest.mark.alike
def test_an_analysis_leaves_no_trace_in_the_modules(lib):
    policy = Policy(balred.Energy(0.9), window=(0, 1), attempts=1)
    layers = {str(i): lib.system(balred.testing.random_system(6, dt=1, kind="conjugate", seed=i)) for i in range(3)}

    def analysed():
        work(lib)
        decide(policy, policy.init(), 1, layers)

    analysed()  # adapters and backends are loaded at first use
    before, numbers, threads = state_of_modules(), np.random.get_state()[1].copy(), np.geterr()  # noqa: NPY002
    analysed()
    assert state_of_modules() == before
    assert np.array_equal(np.random.get_state()[1], numbers)  # noqa: NPY002
    assert np.geterr() == threads


def test_the_linear_algebra_gets_its_threads_back():
    """The one setting of the process that is touched, the number of BLAS threads, is as before once the last has left."""
    from threadpoolctl import threadpool_info, threadpool_limits

    def threads():
        return [(x["filepath"], x["num_threads"]) for x in threadpool_info() if x["user_api"] == "blas"]

    with threadpool_limits(2, user_api="blas"):
        before = threads()
        lib = Library(Backend.NUMPY, "float64")
        with ThreadPoolExecutor(4) as pool:
            list(pool.map(lambda _: work(lib), range(4)))
        assert threads() == before
