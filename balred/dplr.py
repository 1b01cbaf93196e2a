r"""State matrices that are diagonal plus low rank, as S4 has them, read as diagonal ones.

S4 holds half of the poles, inputs and outputs of a real system, and half of P, in

.. math:: x' = (\Lambda - PP^H)x + Bu,\qquad y = Cx

The low rank ties the two halves together, so the state matrix is real and full in the coordinates of
:meth:`~balred.systems.DiagonalSystem.to_dense`.  At S4's initialisation (HiPPO-LegS) its eigenvectors are so nearly
parallel (condition 4e7 at 64 states in single precision) that a diagonal form in those coordinates has lost half of
the digits.  In balanced coordinates it has not, so there it is diagonalised.  All on the host, in double precision.

A. Gu, K. Goel and C. Ré, Efficiently modeling long sequences with structured state spaces, ICLR 2022
(arXiv 2111.00396), appendix C.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from balred.diagonalisation import diagonalised
from balred.hankel import Analysis
from balred.systems import DenseSystem, DiagonalSystem, diagonal

Host = NDArray[np.float64]
Complex = NDArray[np.complex128]


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
    """A batch of stable real systems of even order on the host as a conjugate diagonal one.

    What is below rounding is left out, so the states may be fewer than half the order; where poles are real, they may
    be more.

    Raises
    ------
    ValueError
        Eigenvectors are too nearly parallel in balanced coordinates too.
    """
    analysis = Analysis(dense, lambda system: system)
    if analysis.state is None:
        raise ValueError("a system with low-rank terms must have stable poles, got unstable ones only")
    half = (*dense.B.shape[:-2], dense.order // 2, 1)
    template = diagonal(
        log_poles=np.full(half[:-1], -1 + 0j), B=np.zeros((*half[:-1], dense.B.shape[-1])),
        C=np.zeros((*dense.C.shape[:-1], half[-2])), D=dense.D, dt=dense.dt, conjugate=True,
    )  # fmt: skip
    cap = analysis.state.cap
    made, orders, _ = diagonalised(
        template, analysis.method.reduce, analysis.state, cap, dense.order, dense, stable=True
    )
    beyond = np.arange(dense.order) >= orders[..., None]
    lost = 2 * np.max(np.sum(analysis.sigma * beyond, axis=-1) / analysis.sigma[..., 0])
    if not lost < 1e-6:
        raise ValueError(
            f"a state matrix with low-rank terms must be diagonalisable to 1e-6 of the largest value, got {lost:.1e}"
        )
    return made
