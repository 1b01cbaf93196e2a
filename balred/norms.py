r"""Norms of systems, and the measured error of a reduction.

H2 from a Gramian, Hankel from the largest Hankel singular value, H-infinity by the level-set method on Hamiltonian
eigenvalues, which finds peaks that a frequency grid misses.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from balred.arrays import Array, backend_of, double_precision, is_concrete, namespace, to_numpy
from balred.gramians import cast_like, check_stable, factors, with_leaves
from balred.separation import block_diagonal
from balred.systems import DenseSystem, DiagonalSystem, System


def norm(obj: Any, kind: str = "h2", *, solver: str | None = None) -> Array:
    r"""Norm of a stable system.

    .. math::
        \|G\|_{H_2}^2 = \mathrm{tr}(CPC^H)\ [+\ \|D\|_F^2\ \text{in discrete time}], \quad
        \|G\|_\infty = \sup_\omega \bar\sigma(G(i\omega)), \quad \|G\|_H = \sigma_1

    Parameters
    ----------
    obj : system, layer, or anything :func:`balred.adapt` reads
    kind : {"h2", "hinf", "hankel"}, default "h2"
    solver : str, optional
        For "h2" and "hankel", as :func:`balred.hsv`.

    Returns
    -------
    array, shape (...)
        H2 is infinite for a continuous system with D != 0.

    Raises
    ------
    UnstableError
        The system is not stable.
    ValueError
        Unknown `kind`.

    References
    ----------
    N. A. Bruinsma and M. Steinbuch, A fast algorithm to compute the H-infinity norm of a transfer function matrix,
    Systems & Control Letters 14 (1990).

    Examples
    --------
    >>> import balred
    >>> sys = balred.ss([[-1.0]], [[1.0]], [[1.0]])
    >>> [round(float(balred.norm(sys, kind)), 6) for kind in ("h2", "hinf", "hankel")]
    [0.707107, 1.0, 0.5]
    """
    from balred.adapt import system_of

    system = system_of(obj)
    if kind == "hankel":
        from balred.hankel import hsv

        check_stable(system)
        return hsv(system, solver=solver)[..., 0]
    if kind == "h2":
        with double_precision(*system.leaves) as leaves:
            return cast_like(_h2(with_leaves(system, leaves), solver), system)
    if kind == "hinf":
        if not is_concrete(*system.leaves):
            raise TypeError("the H-infinity norm needs concrete values, got traced arrays")
        check_stable(system)
        A, B, C, D = (to_numpy(x) for x in _dense_leaves(system))
        batch = A.shape[:-2]
        flat = [x.reshape(-1, *x.shape[-2:]) for x in (A, B, C, np.broadcast_to(D, (*batch, *D.shape[-2:])))]
        peaks = [hinf_peak(*(x[i] for x in flat), discrete=system.discrete)[0] for i in range(len(flat[0]))]
        return backend_of(system.B).from_numpy(np.array(peaks).reshape(batch), like=system.B, real=True)
    raise ValueError(f"kind must be 'h2', 'hinf' or 'hankel', got {kind!r}")


def error(sys: Any, reduced: Any, kind: str = "hinf", *, solver: str | None = None) -> Array:
    """Norm of the difference of two systems with the same inputs, outputs and time step.

    Parameters
    ----------
    sys, reduced : system, layer, or anything :func:`balred.adapt` reads
    kind : {"hinf", "h2", "hankel"}, default "hinf"

    Returns
    -------
    array, shape (...)

    Raises
    ------
    ValueError
        Inputs, outputs or `dt` differ.
    UnstableError
        The difference is unstable.  Unstable modes that the two share exactly are not cancelled.

    Examples
    --------
    >>> import balred
    >>> a, b = balred.ss([[-1.0]], [[1.0]], [[1.0]]), balred.ss([[-1.0]], [[1.0]], [[3.0]])
    >>> round(float(balred.error(a, b)), 6)
    2.0
    """
    from balred.adapt import system_of

    return norm(difference(system_of(sys), system_of(reduced)), kind, solver=solver)


def difference(a: System, b: System) -> System:
    """The system ``a - b``: states beside each other, outputs subtracted."""
    if (a.discrete, b.discrete) != (a.discrete, a.discrete) or (
        a.discrete and a.dt != b.dt and True not in (a.dt, b.dt)
    ):
        raise ValueError(f"both systems must have the same dt, got {a.dt} and {b.dt}")
    shapes = [(int(s.C.shape[-2]), int(s.B.shape[-1])) for s in (a, b)]
    if shapes[0] != shapes[1]:
        raise ValueError(f"both systems must have the same outputs and inputs, got {shapes[0]} and {shapes[1]}")
    xp = namespace(a.B, b.B)
    if isinstance(a, DiagonalSystem) and isinstance(b, DiagonalSystem) and a.conjugate == b.conjugate:
        return DiagonalSystem(
            xp.concat([a.log_poles, b.log_poles], axis=-1),
            xp.concat([a.B, b.B], axis=-2),
            xp.concat([a.C, -b.C], axis=-1),
            a.D - b.D,
            a.dt,
            a.conjugate,
        )
    a, b = a.to_dense(), b.to_dense()
    return DenseSystem(
        block_diagonal(a.A, b.A), xp.concat([a.B, b.B], axis=-2), xp.concat([a.C, -b.C], axis=-1), a.D - b.D, a.dt
    )


def _dense_leaves(system: System) -> tuple[Array, Array, Array, Array]:
    with double_precision(*system.leaves) as leaves:
        g = with_leaves(system, leaves).to_dense()
    return g.A, g.B, g.C, g.D


def _h2(system: System, solver: str | None) -> Array:
    xp = namespace(system.B)
    Zp, _ = factors(system, solver)
    dense = system.to_dense()
    G = dense.C @ Zp
    square = xp.sum(xp.abs(G) ** 2, axis=(-2, -1))
    through = xp.sum(xp.abs(dense.D) ** 2, axis=(-2, -1))
    if system.discrete:
        return xp.sqrt(square + through)
    return xp.where(through > 0, xp.inf, xp.sqrt(square))


def hinf_peak(
    A: NDArray[Any], B: NDArray[Any], C: NDArray[Any], D: NDArray[Any], *, discrete: bool, tol: float = 1e-10
) -> tuple[float, float]:
    r"""H-infinity norm of one system and the frequency (rad/s, or rad per step) where it is attained.

    Lower bounds are values of :math:`\bar\sigma(G)` at frequencies, hence never too large.  For a level
    :math:`\gamma` above the present one the imaginary eigenvalues of a Hamiltonian matrix are the frequencies where a
    singular value crosses it; the midpoints between crossings raise the bound, and no crossing ends the search.
    Discrete systems are mapped to continuous ones by a bilinear transformation, which keeps the norm.
    """
    if discrete:
        # s = (z-1)/(z+1), rotated by phi so that no pole lies near z = -1 (a rotation of frequency)
        poles = np.linalg.eigvals(A)
        turns = np.exp(1j * np.linspace(0, 2 * np.pi, 17)[:-1])
        turn = 1.0 + 0j if _reach(poles, 1.0) > 0.3 else max(turns, key=lambda t: _reach(poles, t))
        A, B = (A / turn, B / turn) if turn != 1 else (A, B)
        n = len(A)
        inv = np.linalg.inv(A + np.eye(n))
        A, B, C, D = inv @ (A - np.eye(n)), 2**0.5 * inv @ B, 2**0.5 * C @ inv, D - C @ inv @ B
    poles = np.linalg.eigvals(A)

    def gain(w: float) -> float:
        if np.isinf(w):
            return float(np.linalg.norm(D, 2))
        return float(np.linalg.norm(D + C @ np.linalg.solve(1j * w * np.eye(len(A)) - A, B), 2))

    real = not any(np.iscomplexobj(x) for x in (A, B, C, D))
    starts = np.concatenate([[0.0, np.inf], poles.imag, np.sign(poles.imag) * np.abs(poles)])
    starts = np.unique(np.abs(starts) if real else starts)
    if len(starts) > 200:  # lightly damped poles first: the search below finds what these miss
        damped = np.argsort(np.abs(poles.real) / np.maximum(np.abs(poles), 1e-300))[:100]
        starts = np.unique(np.concatenate([[0.0, np.inf], poles.imag[damped]]))
    best, where = max((gain(float(w)), float(w)) for w in starts)
    for _ in range(50):
        if best == 0.0:
            break
        crossings = _crossings(A, B, C, D, best * (1 + tol), real)
        if len(crossings) == 0:
            break
        middles = np.concatenate([(crossings[1:] + crossings[:-1]) / 2, crossings])
        peak, at = max((gain(float(w)), float(w)) for w in middles)
        if peak <= best * (1 + tol):
            break
        best, where = peak, at
    if discrete:
        w = 2 * np.arctan(where) + np.angle(turn)
        where = float(np.angle(np.exp(1j * w)))
    return best, where


def _reach(poles: NDArray[Any], turn: complex) -> float:
    return float(np.min(np.abs(poles + turn), initial=2.0))


def _crossings(
    A: NDArray[Any], B: NDArray[Any], C: NDArray[Any], D: NDArray[Any], level: float, real: bool
) -> NDArray[np.float64]:
    """Frequencies at which a singular value of the transfer function equals `level`, sorted (with some false ones)."""
    BH, CH, DH = B.conj().T, C.conj().T, D.conj().T
    R = level**2 * np.eye(D.shape[1]) - DH @ D
    RB = np.linalg.solve(R, np.concatenate([DH @ C, BH], axis=1))
    n = len(A)
    X, Y = RB[:, :n], RB[:, n:]
    top = A + B @ X
    H = np.block([[top, level * B @ Y], [-(CH @ C + CH @ D @ X) / level, -top.conj().T]])
    w = np.linalg.eigvals(H)
    # an imaginary eigenvalue comes out with a rounding error of its real part, larger where it is double
    near = np.abs(w.real) <= 1e-6 * (np.abs(w) + 1e-3 * np.abs(w).max())
    frequencies = w.imag[near]
    return np.unique(np.abs(frequencies) if real else frequencies)
