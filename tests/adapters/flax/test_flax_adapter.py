"""Parameter trees and bound linen modules of LRU and S5, written from the papers' recurrences in the published layouts."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

jax = pytest.importorskip("jax")
pytest.importorskip("flax")

import flax.linen as nn  # noqa: E402
import jax.numpy as jnp  # noqa: E402
from flax.core import FrozenDict, freeze  # noqa: E402
from jax_layers import recurrence, s5_output  # noqa: E402

import balred  # noqa: E402
from balred.registry import AdapterNotFound, layers_of
from balred.registry.entries import entry_of  # noqa: E402
from balred.testing import check_adapter, simulate  # noqa: E402


class LRU(nn.Module):
    """LRU with the names and fields of minimal-LRU."""

    d_hidden: int
    d_model: int

    def setup(self) -> None:
        n, h = self.d_hidden, self.d_model

        def ring(key: Any, shape: Any) -> Any:
            return jnp.log(-jnp.log(jax.random.uniform(key, shape, minval=0.6, maxval=0.99)))

        self.nu_log = self.param("nu_log", ring, (n,))
        self.theta_log = self.param("theta_log", lambda k, s: jnp.log(3 * jax.random.uniform(k, s)), (n,))
        self.gamma_log = self.param("gamma_log", nn.initializers.normal(0.3), (n,))
        normal = nn.initializers.normal(1.0)
        self.B_re, self.B_im = (self.param(k, normal, (n, h)) for k in ("B_re", "B_im"))
        self.C_re, self.C_im = (self.param(k, normal, (h, n)) for k in ("C_re", "C_im"))
        self.D = self.param("D", normal, (h,))

    def __call__(self, u: Any) -> Any:
        lam = jnp.exp(-jnp.exp(self.nu_log) + 1j * jnp.exp(self.theta_log))
        B = (self.B_re + 1j * self.B_im) * jnp.exp(self.gamma_log)[:, None]
        x = recurrence(lam, u @ B.T)
        return (x @ (self.C_re + 1j * self.C_im).T).real + self.D * u


class S5(nn.Module):
    """S5 with the names and fields of its authors' module."""

    Lambda_re_init: Any
    Lambda_im_init: Any
    V: Any
    Vinv: Any
    H: int
    P: int
    discretization: str = "zoh"
    conj_sym: bool = True
    clip_eigs: bool = False
    bidirectional: bool = False
    step_rescale: float = 1.0
    one_C: bool = False

    def setup(self) -> None:
        rows = (2 if self.conj_sym else 1) * self.P

        def start_B(key: Any, shape: Any) -> Any:
            B = self.Vinv @ jax.random.normal(key, shape)
            return jnp.stack([B.real, B.imag], axis=-1)

        def start_C(key: Any, shape: Any) -> Any:
            C = jax.random.normal(key, shape)
            C = (C[..., 0] + 1j * C[..., 1]) @ self.V
            return jnp.stack([C.real, C.imag], axis=-1)

        self.Lambda_re = self.param("Lambda_re", lambda key, shape: self.Lambda_re_init, (None,))
        self.Lambda_im = self.param("Lambda_im", lambda key, shape: self.Lambda_im_init, (None,))
        self.B = self.param("B", start_B, (rows, self.H))
        if self.one_C:
            halves = 2 if self.bidirectional else 1
            self.C = self.param("C", nn.initializers.normal(1.0), (self.H, halves * self.P, 2))
        elif self.bidirectional:
            self.C1, self.C2 = (self.param(k, start_C, (self.H, rows, 2)) for k in ("C1", "C2"))
        else:
            self.C = self.param("C", start_C, (self.H, rows, 2))
        self.D = self.param("D", nn.initializers.normal(1.0), (self.H,))
        self.log_step = self.param(
            "log_step", lambda key, shape: jax.random.uniform(key, shape, minval=-3.5, maxval=-1.5), (self.P, 1)
        )

    def __call__(self, u: Any) -> Any:
        return s5_output(self, u)


def bound_lru(states: int = 8, width: int = 3) -> Any:
    module = LRU(states, width)
    return module.bind(module.init(jax.random.key(0), jnp.zeros((4, width))))


def bound_s5(states: int = 8, width: int = 3, conj_sym: bool = True, **kw: Any) -> Any:
    rows = (2 if conj_sym else 1) * states
    k1, k2, k3 = jax.random.split(jax.random.key(1), 3)
    V = jax.random.normal(k1, (rows, states), dtype=jnp.complex64) / rows**0.5
    re, im = -jax.random.uniform(k2, (states,), minval=0.3, maxval=1.0), 8 * jax.random.normal(k3, (states,))
    module = S5(re, im, V, V.conj().T, width, states, conj_sym=conj_sym, **kw)
    return module.bind(module.init(jax.random.key(0), jnp.zeros((4, width))))


def apply(bound: Any, u: Any) -> Any:
    """The output through the pair, as users have it: module.apply checks the parameters' shapes against the fields."""
    module, variables = bound.unbind()
    return np.asarray(module.apply(variables, jnp.asarray(u, jnp.float32)))


def expected(system: Any, u: Any, width: int) -> Any:
    forward = simulate(system, u)
    if forward.shape[1] == width:
        return forward
    backward = simulate(system, u[::-1])[::-1]
    return (forward[:, :width] + backward[:, width:]) / 2**0.5


KINDS: dict[str, Callable[[], Any]] = {
    "lru": bound_lru,
    "s5": bound_s5,
    "s5, no conjugates": lambda: bound_s5(conj_sym=False),
    "s5, bilinear": lambda: bound_s5(discretization="bilinear"),
    "s5, clipped": lambda: bound_s5(clip_eigs=True),
    "s5, rescaled": lambda: bound_s5(step_rescale=2.0),
    "s5, both ways": lambda: bound_s5(bidirectional=True),
    "s5, both ways, one C": lambda: bound_s5(bidirectional=True, one_C=True),
}
U = np.random.default_rng(0).standard_normal((40, 3))


@pytest.mark.parametrize("kind", [k for k in KINDS if "both" not in k])
def test_check_adapter(kind: str) -> None:
    check_adapter(KINDS[kind](), apply)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("rank", [5, None])
def test_outputs_are_those_of_the_reduced_system(kind: str, rank: int | None) -> None:
    full = KINDS[kind]()
    system, rebuild = balred.adapt(full)
    small = rebuild(system) if rank is None else balred.reduce(full, rank)
    want = apply(full, U) if rank is None else expected(balred.reduce(system, rank), U, 3)
    # float32: a hundred times its rounding
    assert np.abs(apply(small, U) - want).max() < 1e-5 * np.abs(want).max()


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_returned_is_a_bound_module_of_the_smaller_size(kind: str) -> None:
    full = KINDS[kind]()
    before = jax.tree.map(np.array, full.variables)
    module, variables = balred.reduce(full, 3).unbind()
    assert type(module) is type(full)
    assert (module.d_hidden if kind == "lru" else module.P) == 3
    fresh = module.init(jax.random.key(5), jnp.zeros((4, 3)))
    assert jax.tree.map(jnp.shape, fresh) == jax.tree.map(jnp.shape, variables)
    assert jax.tree.map(lambda x: x.dtype, fresh) == jax.tree.map(lambda x: x.dtype, variables)
    jax.tree.map(np.testing.assert_array_equal, before, full.variables)


@pytest.mark.parametrize("rank", [2, 5])
def test_the_error_of_both_ways_on_data_is_within_the_bound(rank: int) -> None:
    full = bound_s5(bidirectional=True)
    bound = balred.plan(full, rank).rows[0].bound
    assert bound is not None
    small = balred.reduce(full, rank)
    impulse = np.zeros((601, 3))
    errors = []
    for i in range(3):
        u = impulse.copy()
        u[300, i] = 1
        errors.append(np.fft.fft(apply(full, u) - apply(small, u), axis=0))
    worst = np.linalg.norm(np.stack(errors, axis=-1), ord=2, axis=(1, 2)).max()
    assert 0 < worst <= bound


def test_a_slow_pole_stays_away_from_the_clip() -> None:
    full = bound_s5(clip_eigs=True)
    module, variables = full.unbind()
    slow = {**variables["params"], "Lambda_re": -2e-4 * jnp.ones(8), "log_step": -6.0 * jnp.ones((8, 1))}
    full = module.bind({"params": slow})
    small = balred.reduce(full, 5)
    assert float(small.variables["params"]["Lambda_re"].max()) < -1e-4
    want = expected(balred.reduce(balred.adapt(full)[0], 5), U, 3)
    assert np.abs(apply(small, U) - want).max() < 1e-4 * np.abs(want).max()


# ------------------------------------------------------------------------------------------------ trees


class Stack(nn.Module):
    d_hidden: int
    layers: int = 2

    @nn.compact
    def __call__(self, u: Any) -> Any:
        for _ in range(self.layers):
            u = u + nn.Dense(3)(nn.gelu(LRU(self.d_hidden, 3)(nn.LayerNorm()(u))))
        return u


@pytest.mark.parametrize("frozen", [False, True])
def test_the_tree_of_a_model_goes_into_the_smaller_model(frozen: bool) -> None:
    variables = Stack(8).init(jax.random.key(0), jnp.zeros((4, 3)))
    variables = freeze(variables) if frozen else variables
    assert list(layers_of(variables)) == ["params.LRU_0", "params.LRU_1"]
    small = balred.reduce(variables, 7)
    assert type(small) is (FrozenDict if frozen else dict)
    assert variables["params"]["LRU_0"]["nu_log"].shape == (8,)
    assert small["params"]["LRU_1"]["nu_log"].shape == (7,)
    got = Stack(7).apply(small, jnp.asarray(U, jnp.float32))
    assert got.shape == (40, 3)
    # with nothing to lose the tree comes back equal in effect
    back = balred.reduce(variables, {"params.LRU_0": 8, "params.LRU_1": 8})
    np.testing.assert_allclose(
        Stack(8).apply(back, jnp.asarray(U, jnp.float32)),
        Stack(8).apply(variables, jnp.asarray(U, jnp.float32)),
        rtol=1e-4, atol=1e-4,
    )  # fmt: skip


@pytest.mark.parametrize("frozen", [False, True])
def test_the_parameters_of_a_layer_on_their_own(frozen: bool) -> None:
    tree = bound_lru().variables["params"]
    tree = freeze(tree) if frozen else dict(tree)

    def run(parameters: Any, u: Any) -> Any:
        module = LRU(parameters["nu_log"].shape[0], 3)
        return np.asarray(module.apply({"params": parameters}, jnp.asarray(u, jnp.float32)))

    check_adapter(tree, run)


@pytest.mark.parametrize("change", ["extra", "missing", "stacked", "width"])
def test_other_trees_are_not_recognised(change: str) -> None:
    tree = dict(bound_lru().variables["params"])
    if change == "extra":
        tree["norm"] = jnp.ones(3)
    elif change == "missing":
        del tree["gamma_log"]
    elif change == "stacked":
        tree = {k: jnp.stack([v, v]) for k, v in tree.items()}
    else:
        tree["D"] = jnp.ones(4)
    assert entry_of(tree) is None


def test_a_module_that_is_not_bound_is_no_layer() -> None:
    with pytest.raises(AdapterNotFound):
        balred.reduce(LRU(8, 3), 4)
