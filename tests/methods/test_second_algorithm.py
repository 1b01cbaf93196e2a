"""Every method against a second algorithm, for every structure: none of its equations is solved as the library solves it.

Lyapunov equations are solved as linear systems of Kronecker products, Riccati equations by the eigenvectors of their
extended pencils, integrals by quadrature; truncation is the projection onto eigenvectors of PQ.  Where an optimum is
promised the conditions of optimality are asked of the result.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest
import scipy.linalg
from numpy.testing import assert_allclose
from tables import SINGLE, frequencies

import balred
from balred.methods import METHODS

HORIZON, BAND, BETA = 4, (0.2, 1.5), 0.1
PROJECTIONS = (
    "truncate", "square_root", "lqg", "bounded_real", "positive_real", "stochastic", "frequency_weighted",
    "time_limited", "frequency_limited",
)  # fmt: skip


def h(x: Any) -> Any:
    return x.conj().T


def lyapunov(A: Any, G: Any, discrete: bool) -> Any:
    """X of A X + X A^H + G = 0 or A X A^H - X + G = 0."""
    n, I = len(A), np.eye(len(A))
    K = np.kron(A, A.conj()) - np.eye(n * n) if discrete else np.kron(A, I) + np.kron(I, A.conj())
    return np.linalg.solve(K, -G.reshape(-1)).reshape(n, n)


def riccati(A: Any, B: Any, Q: Any, R: Any, S: Any, discrete: bool) -> Any:
    """The stabilising solution, from the stable eigenvectors of the pencil in which R is not eliminated."""
    n, m = B.shape
    Z, I, N, M = np.zeros((n, n)), np.eye(n), np.zeros((n, m)), np.zeros((m, m))
    if discrete:
        left = np.block([[A, Z, B], [-Q, I, -S], [h(S), h(N), R]])
        right = np.block([[I, Z, N], [Z, h(A), N], [h(N), -h(B), M]])
    else:
        left = np.block([[A, Z, B], [-Q, -h(A), -S], [h(S), h(B), R]])
        right = scipy.linalg.block_diag(I, I, M)
    poles, V = scipy.linalg.eig(left, right)
    with np.errstate(invalid="ignore"):
        stable = np.isfinite(poles) & (np.abs(poles) < 1 if discrete else (poles.real < 0) & (np.abs(poles) < 1e8))
    V = V[:, stable]
    assert V.shape[1] == n
    return V[n : 2 * n] @ np.linalg.inv(V[:n])


def dual(g: Any) -> Any:
    return balred.ss(h(g.A), h(g.C), h(g.B), h(g.D), g.dt)


def weight(dt: float) -> Any:
    I = np.eye(2)
    return balred.ss((0.3 if dt else -2.0) * I, I, I, 0.5 * I, dt)


def options(method: str, g: Any) -> dict[str, Any]:
    return {
        "frequency_weighted": {"left": weight(g.dt)},
        "weighted_hankel_norm": {"left": weight(g.dt)},
        "bounded_real": {"gamma": 2.5 * float(balred.norm(g, "hinf"))} if method == "bounded_real" else {},
        "time_limited": {"horizon": HORIZON},
        "frequency_limited": {"band": BAND},
        "stochastic": {"beta": BETA},
    }.get(method, {})


def observability(method: str, g: Any) -> Any:
    """What stands in the place of the observability Gramian; that of controllability is the dual system's."""
    A, B, C, D, m = g.A, g.B, g.C, g.D, g.B.shape[1]
    if method == "lqg":
        return riccati(A, B, h(C) @ C, np.eye(m) + h(D) @ D, h(C) @ D, g.discrete)
    if method == "bounded_real":
        gamma = options(method, g)["gamma"]
        return riccati(A, B, h(C) @ C, h(D) @ D - gamma**2 * np.eye(m), h(C) @ D, g.discrete)
    if method == "positive_real":
        return riccati(A, B, 0 * A, -D - h(D), -h(C), g.discrete)
    if method == "time_limited" and g.discrete:
        rows = [C @ np.linalg.matrix_power(A, i) for i in range(HORIZON)]
        return sum(h(x) @ x for x in rows)
    if method == "time_limited":
        nodes, weights = np.polynomial.legendre.leggauss(60)
        rows = [C @ scipy.linalg.expm(A * HORIZON * (t + 1) / 2) for t in nodes]
        return sum(w * h(x) @ x for w, x in zip(weights, rows, strict=True))
    if method == "frequency_limited":
        nodes, weights = np.polynomial.legendre.leggauss(200)
        ends = np.array(BAND) * (g.dt or 1)
        half = ends.mean() + np.diff(ends) / 2 * nodes
        points = [np.exp(1j * w) if g.discrete else 1j * w for w in [*half, *-half]]
        rows = [C @ np.linalg.inv(s * np.eye(len(A)) - A) for s in points]
        return sum(w * h(x) @ x for w, x in zip([*weights, *weights], rows, strict=True))
    return lyapunov(h(A), h(C) @ C, g.discrete)


def certificates(method: str, g: Any) -> tuple[Any, Any]:
    """The two matrices that are balanced."""
    P, Q = observability(method, dual(g)), observability(method, g)
    A, B, C, D = g.A, g.B, g.C, g.D
    if method == "stochastic":
        R = D @ h(D) + BETA**2 * np.eye(len(C)) + (C @ P @ h(C) if g.discrete else 0)
        Bw = (A @ P if g.discrete else P) @ h(C) + B @ h(D)
        Q = riccati(A, Bw, 0 * A, -R, -h(C), g.discrete)
    if method == "frequency_weighted":
        W, n = weight(g.dt), len(A)
        both = np.block([[A, np.zeros((n, 2))], [W.B @ C, W.A]])
        Q = observability("", balred.ss(both, np.zeros((n + 2, 1)), np.hstack([W.D @ C, W.C]), dt=g.dt))[:n, :n]
    return P, Q


def eigenbasis(P: Any, Q: Any) -> tuple[Any, Any]:
    """Coordinates in which PQ is diagonal, its eigenvalues from the largest on, and the inverse."""
    w, V = np.linalg.eig(P @ Q)
    V = V[:, np.argsort(-w.real)]
    return np.linalg.inv(V), V


def response(A: Any, B: Any, C: Any, D: Any, s: complex) -> Any:
    return D + C @ np.linalg.solve(s * np.eye(len(A)) - A, B)


def truncated(g: Any, P: Any, Q: Any, k: int) -> Any:
    L, R = eigenbasis(P, Q)
    return L[:k] @ g.A @ R[:, :k], L[:k] @ g.B, g.C @ R[:, :k], g.D


def minimal_modes(small: Any) -> tuple[Any, Any, Any]:
    """Poles, B and C of a reduced system, whose real poles count once: a conjugate one has them beside an idle twin."""
    g = small.to_dense()
    poles, V = np.linalg.eig(g.A)
    B, C = np.linalg.solve(V, g.B), g.C @ V
    modes: list[tuple[Any, Any]] = []
    for pole, c, b in zip(poles, C.T, B, strict=True):
        twin = [i for i, (other, _) in enumerate(modes) if abs(other - pole) < 1e-9 * abs(pole)]
        if twin:
            modes[twin[0]] = pole, modes[twin[0]][1] + np.outer(c, b)
        else:
            modes.append((pole, np.outer(c, b)))
    parts = [(pole, *np.linalg.svd(R)) for pole, R in modes if np.linalg.norm(R) > 1e-14 * np.linalg.norm(g.C)]
    return (
        np.array([x[0] for x in parts]),
        np.array([x[2][0] * x[3][0] for x in parts]),
        np.array([x[1][:, 0] for x in parts]).T,
    )


def expected(method: str, g: Any, k: int, s: complex) -> Any:
    """The response of what a second algorithm makes of order k."""
    A, B, C, D = g.A, g.B, g.C, g.D
    if method in PROJECTIONS:
        return response(*truncated(g, *certificates(method, g), k), s)
    if method == "singular_perturbation":
        L, R = eigenbasis(*certificates(method, g))
        A, B, C, one = L @ A @ R, L @ B, C @ R, np.eye(len(A) - k) * g.discrete
        rest = np.linalg.inv(one - A[k:, k:])
        return response(
            A[:k, :k] + A[:k, k:] @ rest @ A[k:, :k],
            B[:k] + A[:k, k:] @ rest @ B[k:],
            C[:, :k] + C[:, k:] @ rest @ A[k:, :k],
            D + C[:, k:] @ rest @ B[k:],
            s,
        )
    if method == "right_coprime":
        return h(expected("left_coprime", dual(g), k, s.conjugate()))
    if method == "left_coprime":
        p = len(C)
        Y = riccati(h(A), h(C), 0 * A, np.eye(p), np.zeros((len(A), p)), g.discrete)
        R = np.eye(p) + (C @ Y @ h(C) if g.discrete else 0)
        L = -(A @ Y if g.discrete else Y) @ h(C) @ np.linalg.inv(R)
        V = np.linalg.inv(np.linalg.cholesky(R))
        factors = balred.ss(A + L @ C, np.hstack([B + L @ D, L]), V @ C, np.hstack([V @ D, V]), g.dt)
        NM = response(*truncated(factors, *certificates("", factors), k), s)
        return np.linalg.solve(NM[:, B.shape[1] :], NM[:, : B.shape[1]])
    assert method == "modal"
    poles, V = np.linalg.eig(A)
    B, C = np.linalg.solve(V, B), C @ V
    gain = np.array([np.linalg.norm(np.outer(c, b), 2) for c, b in zip(C.T, B, strict=True)])
    gain = gain / ((1 - np.abs(poles)) if g.discrete else -poles.real)
    most = np.argsort(-gain.round(12), kind="stable")[:k]
    return response(np.diag(poles[most]), B[most], C[:, most], D, s)


def hankel_norm(A: Any, B: Any, C: Any, discrete: bool) -> float:
    P, Q = lyapunov(A, B @ h(B), discrete), lyapunov(h(A), h(C) @ C, discrete)
    return float(np.abs(np.linalg.eigvals(P @ Q)).max() ** 0.5)


def difference(g: Any, poles: Any, B: Any, C: Any) -> tuple[Any, Any, Any]:
    return scipy.linalg.block_diag(g.A, np.diag(poles)), np.vstack([g.B, B]), np.hstack([g.C, -C])


def check_hankel(g: Any, small: Any, following: float) -> None:
    """No system of the order has an error of a lesser Hankel norm than the value that follows (Adamjan, Arov, Krein)."""
    assert_allclose(hankel_norm(*difference(g, *minimal_modes(small)), g.discrete), following, rtol=1e-6)


def check_weighted_hankel(g: Any, small: Any, following: float) -> None:
    """The same of the stable part of the error seen through the adjoint of the weight, split by its eigenvectors."""
    W, (A, B, C) = weight(g.dt), difference(g, *minimal_modes(small))
    if g.discrete:
        back = np.linalg.inv(h(W.A))
        V = back, back @ h(W.C), -h(W.B) @ back, h(W.D) - h(W.B) @ back @ h(W.C)
    else:
        V = -h(W.A), h(W.C), -h(W.B), h(W.D)
    through = balred.systems.parts.difference(g, small.to_dense()).D
    both = np.block([[A, np.zeros((len(A), 2))], [V[1] @ C, V[0]]])
    B, C = np.vstack([B, V[1] @ through]), np.hstack([V[3] @ C, V[2]])
    poles, E = np.linalg.eig(both)
    B, C, stable = np.linalg.solve(E, B), C @ E, np.abs(poles) < 1 if g.discrete else poles.real < 0
    assert_allclose(hankel_norm(np.diag(poles[stable]), B[stable], C[:, stable], g.discrete), following, rtol=1e-6)


def check_h2(g: Any, small: Any) -> None:
    """Where the gradient of the squared H2 error is zero [D. A. Wilson, Proc. IEE 117 (1970)]."""
    poles, B, C = minimal_modes(small)
    n = len(g.A)
    A, Be, Ce = difference(g, poles, B, C)
    P, Q = lyapunov(A, Be @ h(Be), g.discrete), lyapunov(h(A), h(Ce) @ Ce, g.discrete)
    P12, P22, Q12, Q22 = P[:n, n:], P[n:, n:], Q[:n, n:], Q[n:, n:]
    first, second = (g.A @ P12, poles[:, None] * P22) if g.discrete else (P12, P22)
    for zero, scale in (
        (h(Q12) @ g.B + Q22 @ B, Q22 @ B),
        (C @ P22 - g.C @ P12, C @ P22),
        (h(Q12) @ first + Q22 @ second, Q22 @ second),
    ):
        assert np.linalg.norm(zero) < 1e-6 * np.linalg.norm(scale)


def test_no_method_is_left_out():
    others = {"singular_perturbation", "left_coprime", "right_coprime", "modal"}
    optimal = {"hankel_norm", "weighted_hankel_norm", "irka", "tsia"}
    assert {*PROJECTIONS} | others | optimal == set(METHODS)


def check(method: str, g: Any, k: int) -> None:
    dense = g.to_dense()
    a = balred.analyze(g, method=method, **options(method, dense))
    small = a.reduce(a.state.closed(k) if method == "modal" else k)
    if method in ("irka", "tsia"):
        check_h2(dense, small)
        return
    order = len(minimal_modes(small)[0])
    if "hankel" in method:
        {"hankel_norm": check_hankel, "weighted_hankel_norm": check_weighted_hankel}[method](
            dense, small, float(np.asarray(a.hsv)[order])
        )
        return
    for s in frequencies(dense, 12):
        want = expected(method, dense, order, complex(s))
        assert_allclose(small(complex(s)), want, rtol=0, atol=1e-7 * np.abs(want).max())


@pytest.mark.filterwarnings("ignore::balred.InstabilityWarning")  # the second algorithm makes the same
@pytest.mark.parametrize("case", SINGLE, ids=str)
@pytest.mark.parametrize("method", list(METHODS))
def test_a_second_algorithm_comes_to_the_same(method, case):
    g = case.make(n=5, seed=4)
    direct = 1.2 * float(balred.norm(g.to_dense(), "hinf")) * np.eye(2)  # passive, and of full rank
    check(method, dataclasses.replace(g, D=g.D + direct), 3)


@pytest.mark.parametrize("dt", [0, 1])
@pytest.mark.parametrize("method", ["lqg", "left_coprime", "right_coprime", "time_limited"])
def test_of_unstable_systems_too(method, dt):
    g = balred.testing.random_system(5, 2, 2, dt=dt, seed=4)
    poles = np.linalg.eigvals(g.A)
    A = g.A * 1.2 / np.abs(poles).max() if dt else g.A + (0.3 - poles.real.max()) * np.eye(5)
    check(method, balred.ss(A, g.B, g.C, dt=dt), 3)
