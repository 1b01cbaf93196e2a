r"""LRU: a diagonal system as the layer's parameters, and back; the same for every framework.

LRU (Orvieto et al. 2023, arXiv 2303.06349): :math:`\lambda = \exp(-e^{\nu} + i e^{\theta})`,
:math:`x_k = \lambda x_{k-1} + e^{\gamma} B u_k`, :math:`y_k = \mathrm{Re}(Cx_k) + Du_k`.  The operator is real, so it
is the conjugate system with input matrix :math:`e^\gamma B` and output matrix :math:`C/2`.

What other layers with free poles share stands here too: the fastest pole that is written, and the scale of each state, free
between B and C.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from balred.systems.arrays import Array, namespace, to_complex, to_numpy
from balred.systems.diagonal_system import DiagonalSystem, diagonal

Host = NDArray[Any]
LRU_NAMES = ("nu_log", "theta_log", "gamma_log", "B", "C")
FASTEST = 30.0
"""Poles of modulus below exp(-30) are written as exp(-30): exp(-exp(nu)) has a finite gradient there."""

_ROUNDING = 1e-12


def lru_system(nu_log: Array, theta_log: Array, gamma_log: Array, B: Array, C: Array, D: Array) -> DiagonalSystem:
    """The operator of an LRU layer; `B` (N, H) and `C` (P, N) complex, `D` (P, H) real, the rest (N,)."""
    xp = namespace(nu_log)
    log_poles = -to_complex(xp.exp(nu_log)) + 1j * xp.exp(theta_log)
    return diagonal(
        log_poles=log_poles, B=to_complex(xp.exp(gamma_log))[..., :, None] * B, C=C / 2, D=D, dt=True, conjugate=True
    )


def lru_parameters(system: DiagonalSystem, ratio: float | None = None) -> dict[str, Host]:
    r"""LRU parameters of a conjugate discrete system, as NumPy arrays in double precision.

    :math:`\gamma = \sqrt{1-|\lambda|^2}` as at LRU's initialisation.  A positive real pole has angle 0, whose logarithm
    is -inf with zero gradient for ever: it is stored as :math:`2\pi`.  The scale of each mode is free between B and
    C; `ratio` sets the norm of its row of B over that of its column of C.
    """
    if not (getattr(system, "conjugate", False) and system.discrete):
        raise ValueError(f"an LRU layer holds a discrete conjugate system, got {system!r}")
    logs, b, c = (to_numpy(x).astype(np.complex128) for x in system.leaves)
    decay = decays(logs.real)
    angle = np.mod(logs.imag, 2 * np.pi)
    # an angle within rounding of zero came from a real pole, seen from either side
    angle = np.where((angle < 1e-12) | (angle > 2 * np.pi - 1e-12), 2 * np.pi, angle)
    gamma = np.sqrt(-np.expm1(-2 * decay))
    B, C = b / gamma[:, None], 2 * c
    if ratio is not None:
        B, C = scaled_evenly(B, C, ratio)
    return {"nu_log": np.log(decay), "theta_log": np.log(angle), "gamma_log": np.log(gamma), "B": B, "C": C}


def decays(rates: Host, *, grows: bool = False) -> Host:
    """How fast modes decay, from the real parts of their logarithms: within what can be written and has a gradient.

    Rounding may leave a decay of zero, or a growth as small.

    Raises
    ------
    ValueError
        A mode grows by more, and the layer cannot hold it (`grows` is not set).

    Examples
    --------
    >>> decays(np.array([-0.5, -40.0]))
    array([ 0.5, 30. ])
    """
    growing = rates > _ROUNDING
    if growing.any() and not grows:
        raise ValueError(f"the layer can hold stable poles only, got one that grows by exp({rates.max():.3g}) a step")
    return np.where(growing, -rates, np.clip(-rates, np.finfo(np.float64).tiny, FASTEST))


def scale_ratio(B: Host, C: Host) -> float:
    """Root mean square norm of the rows of B (N, H) over that of the columns of C (P, N): what an optimizer is used to.

    1 where either is zero.
    """
    rows, columns = (np.linalg.norm(x.astype(np.complex128)) for x in (B, C))  # squares of float32 may be no numbers
    return float(rows / columns) if rows > 0 and columns > 0 else 1.0


def scaled_evenly(B: Host, C: Host, ratio: float) -> tuple[Host, Host]:
    """B (N, H) and C (P, N) with the scale of each state split between them: rows of B over columns of C have the norm `ratio`.

    Modes that are nearly parallel nearly cancel, so they are large: all in C, a step of an optimizer that moves every
    parameter alike would move the output as much further.  A state of which a row or a column is zero stays.
    """
    rows, columns = np.linalg.norm(B, axis=1), np.linalg.norm(C, axis=0)
    there = (rows > 0) & (columns > 0)
    scale = np.sqrt(np.where(there, ratio * columns, 1.0)) / np.sqrt(np.where(there, rows, 1.0))
    return B * scale[:, None], C / scale


# Frameworks that keep complex matrices as two real parameters share these.

_COMPLEX = {"B": ("B_re", "B_im"), "C": ("C_re", "C_im")}


def lru_split(values: dict[str, Host]) -> dict[str, Host]:
    """Complex entries B, C as the real parameters B_re, B_im, C_re, C_im.

    Examples
    --------
    >>> lru_split({"B": np.array([1 + 2j]), "C": np.array([3 - 4j]), "D": np.array([5.0])})
    {'D': array([5.]), 'B_re': array([1.]), 'B_im': array([2.]), 'C_re': array([3.]), 'C_im': array([-4.])}
    """
    out = {k: v for k, v in values.items() if k not in _COMPLEX}
    for key, (re, im) in _COMPLEX.items():
        out[re], out[im] = values[key].real, values[key].imag
    return out


def lru_join(values: dict[str, Host]) -> dict[str, Host]:
    """The inverse of :func:`lru_split`; other entries (D) are left out."""
    out = {k: values[k] for k in LRU_NAMES[:3]}
    return out | {key: values[re] + 1j * values[im] for key, (re, im) in _COMPLEX.items()}


def keep_feedthrough(reduced: DiagonalSystem, original: DiagonalSystem) -> None:
    """Check that D is the layer's own.

    The output of an LRU layer sees the *present* state, so its transfer function is :math:`zC(zI-A)^{-1}B + D`.
    Truncation of (A, B, C) reduces that too, with the same bound; singular perturbation moves a constant into D that
    belongs to :math:`C(zI-A)^{-1}B + D`, and would be wrong here.
    """
    new, old = to_numpy(reduced.D), to_numpy(original.D)
    if new.shape != old.shape or np.abs(new - old).max(initial=0.0) > 1e-6 * max(
        1.0, float(np.abs(old).max(initial=0.0))
    ):
        raise ValueError(
            "an LRU layer must keep its D, because its output sees the present state, got another D: use method='truncate'"
        )
