r"""Minimal realisations: without the states that no input reaches or no output shows.

Unlike balanced truncation, this works for any poles.  Dense systems go through the orthogonal staircase, first
for controllability, then for observability; diagonal systems stay diagonal, by the rank of their residues.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
from numpy.typing import NDArray

from balred.registry.reading import adapt, layers_of, replace_layers
from balred.systems import arrays
from balred.systems.arrays import backend_of, is_concrete, to_numpy
from balred.systems.checks import of_kind
from balred.systems.dense_system import DenseSystem
from balred.systems.diagonal_system import DiagonalSystem
from balred.systems.leaves import System, moderate, unit_of
from balred.systems.poles import known_poles
from balred.systems.units import rescaled

Matrix = NDArray[Any]


def minimal(obj: Any, tol: float | None = None) -> Any:
    r"""Remove uncontrollable and unobservable states.

    Parameters
    ----------
    obj : system, layer, model, or anything :func:`balred.adapt` reads
        Stable or not, continuous or discrete; single systems, no batches.
    tol : float, optional
        A block counts as zero if it is smaller than `tol` times the matrix to which it belongs.  The part of C that sees
        the reachable states is compared with the given C.  The default is ``sqrt(eps)`` for dense systems, because rounding
        errors grow along their staircase, and ``10 * n * eps`` for diagonal ones.

    Returns
    -------
    The same type as `obj`
        `obj` itself if it is minimal.  A dense system has order 0 if inputs do not reach outputs at all.

    Raises
    ------
    ValueError
        `tol` is not in [0, 1); a batch; a diagonal system of which nothing is left.

    Notes
    -----
    The states kept span the range of :math:`[B, AB, A^2B, \dots]`, which is found without these powers: with an
    orthonormal basis :math:`Q_1` of the range of B, the part of :math:`AQ_j` outside :math:`Q_1, \dots, Q_j` spans
    :math:`Q_{j+1}`, until nothing (less than `tol` of :math:`AQ_j`) is outside.  The same for :math:`A^H, C^H` then removes what is unobservable.  States,
    inputs and outputs are scaled by powers of two beforehand, each by its own, so that units do not decide about ranks.

    In a diagonal system the states of one pole are replaced by as many as the rank of their residue
    :math:`\sum_i c_ib_i`.

    References
    ----------
    A. Varga, Numerically stable algorithm for standard controllability form determination, Electronics Letters 17
    (1981); SLICOT TB01PD.

    Examples
    --------
    >>> import balred
    >>> g = balred.ss([[1.0, 0.0, 0.0], [0.0, -2.0, 0.0], [0.0, 0.0, -3.0]], [[1.0], [1.0], [0.0]], [[1.0, 0.0, 1.0]])
    >>> minimal(g).A
    array([[1.]])
    """
    of_kind("tol", tol, "float | None")
    if tol is not None and not 0 <= tol < 1:
        raise ValueError(f"tol must be in [0, 1), got {tol}")
    new = {}
    for name, layer in layers_of(obj).items():
        system, rebuild = adapt(layer)
        smaller = _smaller(system, tol)
        new[name] = layer if smaller is system else rebuild(smaller)
    return replace_layers(obj, new)


def _smaller(system: System, tol: float | None) -> System:
    if not is_concrete(*system.leaves):
        raise TypeError("minimal needs concrete values, got traced arrays")
    if system.B.ndim > 2:
        raise ValueError(
            f"minimal takes a single system, got a batch of shape {tuple(system.B.shape[:-2])}: loop over it"
        )
    be = backend_of(system.B)
    eps = arrays.eps(arrays.real(system.B))
    host = arrays.mapped(system, lambda x: _wide(to_numpy(be.stop_gradient(x))))
    small: System
    if isinstance(host, DiagonalSystem):
        small = minimal_diagonal(host, 10 * system.order * eps if tol is None else tol)
    else:
        small = minimal_realisation(host, tol, eps)
    if small is host:
        return system
    made: System = arrays.mapped(small, lambda x: be.from_numpy(x, like=system.B))
    return made


def _wide(x: Matrix) -> Matrix:
    return x.astype(np.complex128 if np.iscomplexobj(x) else np.float64)


_FINER = (1.0, 1e-3, 1e-6)
"""Shares of the tolerance that are tried, where time scales lie so far apart that a state of the slow ones seems to be nothing."""
_SEEN, _NOISE, _ASKED = 1e-5, 3.0, 100.0
"""By which part of a response a minimal realisation may differ, or by how many times its rounding errors; or by how many times the
tolerance that was asked for, beside what the states pass on."""
_KNOWN = 1e3
"""Rates are looked at that are larger than what is unknown of them by so much."""
_PLACES = 12
"""At most so many time scales are looked at."""


def minimal_realisation(
    g: DenseSystem, tol: float | None = None, eps: float = float(np.finfo(np.float64).eps)
) -> DenseSystem:
    """A minimal realisation of one dense system of NumPy arrays, whose entries are known to `eps`; `g` itself if it is one, or if none
    of the same response is found."""
    even, ports = moderate(g)
    A, B, C, _ = rescaled(*even.leaves)
    inputs, outputs = _channels(B, C)
    whole = DenseSystem(A, B / inputs, C / outputs, g.D, g.dt)
    for share in _FINER:
        small = _without_unreached_and_unseen(whole, share * (eps**0.5 if tol is None else tol))
        if small is whole:
            return g
        if _responds_alike(whole, small, eps, 0.0 if tol is None else _ASKED * tol):
            small = dataclasses.replace(small, B=small.B * inputs, C=small.C * outputs)
            return small if ports is None else ports.system(small)
    return g


def _channels(B: Matrix, C: Matrix) -> tuple[Matrix, Matrix]:
    """Powers of two, shape (1, m) and (p, 1): units of each input and each output, so that none is noise beside another."""
    return unit_of(B, axis=-2), unit_of(C, axis=-1)


def _without_unreached_and_unseen(g: DenseSystem, tol: float) -> DenseSystem:
    """By two staircases; `g` itself if they leave nothing out."""
    A, B, C = g.leaves
    Q = reachable(A, B, tol * float(np.linalg.norm(B)), tol)
    # outputs that see nothing of what is reached see rounding errors of what they see elsewhere
    unseen = tol * float(np.linalg.norm(C))
    A, B, C = Q.conj().T @ A @ Q, Q.conj().T @ B, C @ Q
    S = reachable(A.conj().T, C.conj().T, unseen, tol)
    if S.shape[1] == g.order:
        return g
    S = S[:, ::-1]  # the order of SLICOT's TB01PD: what outputs see first comes last
    return DenseSystem(S.conj().T @ A @ S, S.conj().T @ B, C @ S, g.D, g.dt)


def _responds_alike(g: DenseSystem, small: DenseSystem, eps: float, asked: float) -> bool:
    """Whether two systems respond alike at every time scale of the first.

    The tolerance of a staircase is one of its blocks, in which the fastest states are all there is to see; and in companion form the
    states of a filter are far larger than what outputs see of them.  So the responses decide: they may differ by what `eps` of the
    entries changes them, and where a tolerance was `asked` for, by this part of what the states pass on.
    """
    poles = known_poles(g)
    rates = np.abs(poles.at - 1 if g.discrete else poles.at)
    rates = np.sort(
        rates[rates > _KNOWN * poles.doubt]
    )  # at an integrator's, which is rounding, so is all that it passes on
    if len(rates) == 0:
        rates = np.ones(1)
    for rate in rates[np.unique(np.linspace(0, len(rates) - 1, min(len(rates), _PLACES)).astype(int))]:
        s = rate * _ASIDE + (1 if g.discrete else 0)
        with np.errstate(all="ignore"):
            try:
                states, few = (np.linalg.solve(s * np.eye(x.order) - x.A, x.B) for x in (g, small))
                response = g.C @ states
                gap = float(np.linalg.norm(response - small.C @ few))
                much = np.abs(g.C) @ np.abs(states)
                if gap <= _SEEN * float(np.linalg.norm(response)) + asked * float(np.linalg.norm(much)):
                    continue
                seen = np.abs(np.linalg.solve((s * np.eye(g.order) - g.A).T, g.C.T)).T
                noise = seen @ (np.abs(g.A) @ np.abs(states) + np.abs(g.B)) + much
            except np.linalg.LinAlgError:  # a pole is there, and nothing can be said
                continue
            if gap > _NOISE * eps * float(np.linalg.norm(noise)):
                return False
    return True


_ASIDE = complex(np.exp(1.2j))
"""The direction from the origin in which systems are compared, where poles are few."""


def reachable(A: Matrix, B: Matrix, least: float, tol: float) -> Matrix:
    """Orthonormal basis of the controllable subspace, staircase block after staircase block.

    Of B counts what is larger than `least`, of each later block what is larger than `tol` times the block.
    """
    n = len(A)
    Q = np.zeros((n, 0), np.result_type(A, B))
    noise = 10 * n * float(np.finfo(np.float64).eps) * float(np.linalg.norm(A))
    block, size = B, least
    while Q.shape[1] < n:
        for _ in range(2):  # once is not enough where little is left
            block = block - Q @ (Q.conj().T @ block)
        U, s, _ = np.linalg.svd(block, full_matrices=False)
        new = U[:, s > size]
        if new.shape[1] == 0:
            break
        new = new[:, : n - Q.shape[1]]
        new, _ = np.linalg.qr(new - Q @ (Q.conj().T @ new))
        Q = np.concatenate([Q, new], axis=1)
        block = A @ new
        size = max(tol * float(np.linalg.norm(block)), noise)
    return Q


def minimal_diagonal(g: DiagonalSystem, tol: float) -> DiagonalSystem:
    """A minimal realisation of one diagonal system of NumPy arrays, diagonal again; `g` itself if it is one."""
    poles, logs, B, C = g.poles, g.log_poles, g.B, g.C
    if g.conjugate:  # a state and its conjugate are the same state
        flip = poles.imag < 0
        poles, logs = np.where(flip, poles.conj(), poles), np.where(flip, logs.conj(), logs)
        B, C = np.where(flip[:, None], B.conj(), B), np.where(flip, C.conj(), C)
    inputs, outputs = _channels(B, C)  # a residue is their product, which may be no number
    B, C = B / inputs, C / outputs
    size = np.linalg.norm(B) * np.linalg.norm(C)
    kept_logs, kept_B, kept_C = [], [], []
    left = np.arange(len(poles))
    while len(left):
        first = poles[left[0]]
        same = np.abs(poles[left] - first) <= tol * np.abs(first)
        group, left = left[same], left[~same]
        U, s, Vh = np.linalg.svd(_residue(C[:, group] @ B[group], g, first), full_matrices=False)
        rank = int(np.sum(s > tol * size))
        if rank >= len(group):
            U, s, Vh, rank = C[:, group], np.ones(len(group)), B[group], len(group)
        kept_logs += [logs[group[0]]] * rank
        kept_B.append(np.sqrt(s[:rank, None]) * Vh[:rank])
        kept_C.append(U[:, :rank] * np.sqrt(s[:rank]))
    if len(kept_logs) == g.states:
        return g
    if not kept_logs:
        raise ValueError("a diagonal system must keep a state, got one whose inputs do not reach its outputs")
    B, C = np.concatenate(kept_B) * inputs, np.concatenate(kept_C, axis=1) * outputs
    dtypes = (g.log_poles.dtype, np.result_type(g.B, g.C))
    return dataclasses.replace(
        g, log_poles=np.asarray(kept_logs, dtypes[0]), B=B.astype(dtypes[1]), C=C.astype(dtypes[1])
    )


def _residue(R: Matrix, g: DiagonalSystem, pole: complex) -> Matrix:
    """The residue itself, or for a real pole of a conjugate system its real part, which is all that counts."""
    return R.real.astype(R.dtype) if g.conjugate and complex(pole).imag == 0 else R
