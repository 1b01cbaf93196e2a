r"""State matrices that are diagonal plus low rank, as S4 has them, read as diagonal ones.

S4 holds half of the poles, inputs and outputs of a real system, and half of P, in

.. math:: x' = (\Lambda - PP^H)x + Bu,\qquad y = Cx

The low rank ties the two halves together, so the state matrix is real and full in the coordinates of
``DiagonalSystem.to_dense``.  Its eigenvectors may be nearly parallel: at S4's initialisation
(HiPPO-LegS) with 64 states they have condition 1e16, which rounding the parameters to single precision turns into 1e9.
So where the diagonal form is another system, that of a matrix 1e-9 away is taken, which is as good as the parameters
and has better eigenvectors (approximate diagonalisation).  All on the host, in double precision.

A. Gu, K. Goel and C. Ré, Efficiently modeling long sequences with structured state spaces, ICLR 2022
(arXiv 2111.00396), appendix C; E. B. Davies, Approximate diagonalization, SIAM J. Matrix Anal. Appl. 29 (2007).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from balred.systems.coordinates import coefficients
from balred.systems.dense_system import DenseSystem
from balred.systems.diagonal_system import DiagonalSystem, diagonal

Host = NDArray[np.float64]
Complex = NDArray[np.complex128]
_ACCURATE, _ENOUGH = 1e-6, 1e-5
_NUDGE = 1e-9


def real_columns(x: Complex) -> Host:
    """Vectors (..., N) of the stored half, (x, conj x) in real coordinates (..., 2 N)."""
    return 2**0.5 * np.concatenate([x.real, x.imag], axis=-1)


def real_rows(c: Complex) -> Host:
    """Output rows (..., N) of the stored half in the same coordinates: ``real_rows(c) @ real_columns(x)`` is 2 Re(c x).

    Examples
    --------
    >>> c, x = np.array([1 + 2j, 3.0]), np.array([1j, 1 - 1j])
    >>> bool(np.isclose(real_rows(c) @ real_columns(x), 2 * (c @ x).real))
    True
    """
    return real_columns(c.conj())


def real_matrix(poles: Complex, P: Complex) -> Host:
    r"""The real matrix of :math:`\Lambda - PP^H`; `poles` (S, N) and `P` (R, S, N), returns (S, 2 N, 2 N).

    Examples
    --------
    >>> real_matrix(np.array([[-1 + 2j]]), np.array([[[1.0 + 0j]]]))
    array([[[-3., -2.],
            [ 2., -1.]]])
    """
    zeros = np.zeros((*poles.shape, 1))
    columns = real_columns(P)
    return np.asarray(
        diagonal(poles, zeros, zeros.swapaxes(-1, -2), conjugate=True).to_dense().A
        - np.einsum("rsi,rsj->sij", columns, columns)
    )


def bilinear(A: Host, b: Host, step: Host) -> tuple[Host, Host]:
    r"""The bilinear rule for :math:`x' = \Delta(Ax + bu)` with a step for each state: A (H, n, n), b and `step` (H, n)."""
    half, eye = step[..., None] * A / 2, np.eye(A.shape[-1])
    left = np.linalg.inv(eye - half)
    return left @ (eye + half), (left @ (step * b)[..., None])[..., 0]


def untruncated(C: Host, A: Host, length: int) -> Host:
    r"""C from :math:`\tilde C = C(I - A^L)`, which S4 trains to see the first L values only; C (c, H, n), A (H, n, n)."""
    left = np.eye(A.shape[-1]) - np.linalg.matrix_power(A, length)
    return np.moveaxis(np.linalg.solve(left.swapaxes(-1, -2), np.moveaxis(C, 0, -1)), -1, 0)


def as_conjugate(dense: DenseSystem) -> DiagonalSystem:
    """A batch of real systems (S, ...) on the host as a conjugate diagonal one; real poles take a state each.

    Raises
    ------
    ValueError
        The eigenvectors are so nearly parallel that the diagonal system is another one.
    """
    found, wrong = None, np.inf
    for nudge in (0.0, _NUDGE):
        try:
            near = _diagonal(dense, nudge)
        except np.linalg.LinAlgError:  # eigenvectors that are parallel
            continue
        distance = _distance(dense, near)
        found, wrong = (near, distance) if distance < wrong else (found, wrong)
        if wrong < _ACCURATE:
            break
    if found is None or not wrong < _ENOUGH:
        raise ValueError(
            f"a state matrix with low-rank terms must be diagonalisable to {_ENOUGH:.0e} of the response, got {wrong:.1e}"
        )
    return found


def _diagonal(dense: DenseSystem, nudge: float) -> DiagonalSystem:
    noise = np.random.default_rng(0).standard_normal(dense.A.shape)
    A = dense.A + nudge * np.linalg.norm(dense.A, 2, (-2, -1), keepdims=True) * noise / dense.order**0.5
    poles, vectors = np.linalg.eig(A)
    vectors = vectors.astype(np.complex128)
    b, c = coefficients(poles, vectors, dense.B), dense.C @ vectors
    stored = [np.flatnonzero(lam.imag >= 0) for lam in poles]
    count = max(len(at) for at in stored)
    logs = np.full((len(poles), count), -1 + 0j)
    B = np.zeros((len(poles), count, b.shape[-1]), np.complex128)
    C = np.zeros((len(poles), c.shape[-2], count), np.complex128)
    for i, at in enumerate(stored):
        lam, k = poles[i, at].astype(np.complex128), len(at)
        logs[i, :k] = np.log(lam) if dense.discrete else lam
        # input and output of a state of the same size; a stored state speaks twice, so a real one half as loud
        size = (np.linalg.norm(b[i, at], axis=1) / np.linalg.norm(c[i][:, at], axis=0)) ** 0.5
        B[i, :k] = b[i, at] / size[:, None]
        C[i, :, :k] = c[i][:, at] * size * np.where(lam.imag == 0, 0.5, 1.0)
    return diagonal(log_poles=logs, B=B, C=C, D=dense.D, dt=dense.dt, conjugate=True)


def _distance(dense: DenseSystem, found: DiagonalSystem) -> float:
    """The largest difference of the responses at some frequencies, relative to each member's largest response."""
    radius = float(np.abs(found.log_poles).max())
    points = np.exp(1j * np.geomspace(1e-3, np.pi, 12)) if dense.discrete else 1j * np.geomspace(1e-3, 2, 12) * radius
    want, got = (np.stack([g(s) for s in points]) for g in (dense, found))
    largest = np.abs(want).max(axis=(0, 2, 3), keepdims=True)
    return float(np.max(np.abs(got - want) / np.where(largest > 0, largest, 1.0)))
