r"""How published layers write a diagonal system into their parameters, and back; the same for every framework.

LRU (Orvieto et al. 2023, arXiv 2303.06349): :math:`\lambda = \exp(-e^{\nu} + i e^{\theta})`,
:math:`x_k = \lambda x_{k-1} + e^{\gamma} B u_k`, :math:`y_k = \mathrm{Re}(Cx_k) + Du_k`.  The operator is real, so it
is the conjugate system with input matrix :math:`e^\gamma B` and output matrix :math:`C/2`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from balred.systems.arrays import Array, namespace, to_complex, to_numpy
from balred.reduction.diagonalisation import Change
from balred.systems.dense_system import DiagonalSystem, diagonal

Host = NDArray[Any]
LRU_NAMES = ("nu_log", "theta_log", "gamma_log", "B", "C")
FASTEST = 30.0
"""Poles of modulus below exp(-30) are written as exp(-30): exp(-exp(nu)) has a finite gradient there."""


def lru_initial(
    features: int,
    states: int,
    r_min: float,
    r_max: float,
    max_phase: float,
    uniform: Callable[[int], Array],
    normal: Callable[..., Array],
) -> dict[str, Array]:
    r"""Initial LRU parameters: poles uniform on the ring between `r_min` and `r_max`, :math:`\gamma=\sqrt{1-|\lambda|^2}`.

    `uniform(n)` draws from (0, 1) and `normal(*shape)` from the standard normal distribution, in the framework's own
    arrays (Orvieto et al. 2023, section 3 and appendix A).
    """
    if not all(isinstance(size, (int, np.integer)) for size in (features, states)) or features < 1 or states < 1:
        raise ValueError(f"features and states must be integers of at least 1, got {features} and {states}")
    if not 0 <= r_min < r_max <= 1:
        raise ValueError(f"r_min and r_max must satisfy 0 <= r_min < r_max <= 1, got {r_min} and {r_max}")
    radius, phase = uniform(states), uniform(states)
    xp = namespace(radius)
    rate = -0.5 * xp.log(xp.clip(radius, 1e-7, 1 - 1e-7) * (r_max**2 - r_min**2) + r_min**2)
    return {
        "nu_log": xp.log(rate),
        "theta_log": xp.log(max_phase * xp.clip(phase, 1e-7, 1.0)),
        "gamma_log": 0.5 * xp.log(-xp.expm1(-2 * rate)),
        "B_re": normal(states, features) / (2 * features) ** 0.5,
        "B_im": normal(states, features) / (2 * features) ** 0.5,
        "C_re": normal(features, states) / states**0.5,
        "C_im": normal(features, states) / states**0.5,
        "D": normal(features),
    }


def lru_output(xp: Any, layer: Any, u: Array) -> Array:
    """Output (..., L, H) of an LRU layer with split parameters, from rest; `xp` is the framework's array namespace."""
    log_poles = -xp.exp(layer.nu_log) + 1j * xp.exp(layer.theta_log)
    gain = xp.exp(layer.gamma_log)[:, None]
    drive = u @ (gain * layer.B_re).T + 1j * (u @ (gain * layer.B_im).T)
    x = scan(xp, log_poles, drive)
    return xp.real(x) @ layer.C_re.T - xp.imag(x) @ layer.C_im.T + layer.D * u


def scan(xp: Any, log_poles: Array, u: Array) -> Array:
    r"""All states of :math:`x_k = \lambda \odot x_{k-1} + u_k` from rest, by cyclic reduction.

    The states at odd positions obey the same recurrence with :math:`\lambda^2` over half the length; from them the
    even ones follow at once.  O(L) work in ceil(log2 L) levels, each over all its positions in parallel; unlike a
    generic associative scan it does not carry a product of poles for every position.

    Parameters
    ----------
    xp : module
        Array namespace of `u`, named so that a compiler need not look it up.
    log_poles : array, shape (N,), complex
    u : array, shape (..., L, N), complex

    Returns
    -------
    array, shape (..., L, N)

    Examples
    --------
    >>> scan(np, np.log(np.array([0.5 + 0j])), np.ones((3, 1)) + 0j).real.ravel()
    array([1.  , 1.5 , 1.75])
    """
    length = u.shape[-2]
    if length < 2:
        return u
    poles, half = xp.exp(log_poles), length // 2
    even, odd = u[..., 0::2, :], u[..., 1::2, :]
    x_odd = scan(xp, 2 * log_poles, odd + poles * even[..., :half, :])
    later = even[..., 1:, :] + poles * x_odd[..., : even.shape[-2] - 1, :]
    x_even = xp.concat([even[..., :1, :], later], axis=-2)
    pairs = xp.reshape(xp.stack([x_even[..., :half, :], x_odd], axis=-2), (*u.shape[:-2], 2 * half, u.shape[-1]))
    return pairs if length % 2 == 0 else xp.concat([pairs, x_even[..., half:, :]], axis=-2)


def lru_system(nu_log: Array, theta_log: Array, gamma_log: Array, B: Array, C: Array, D: Array) -> DiagonalSystem:
    """The operator of an LRU layer; `B` (N, H) and `C` (P, N) complex, `D` (P, H) real, the rest (N,)."""
    xp = namespace(nu_log)
    log_poles = -to_complex(xp.exp(nu_log)) + 1j * xp.exp(theta_log)
    return diagonal(
        log_poles=log_poles, B=to_complex(xp.exp(gamma_log))[..., :, None] * B, C=C / 2, D=D, dt=True, conjugate=True
    )


def lru_parameters(system: DiagonalSystem, row_norm: float | None = None) -> dict[str, Host]:
    r"""LRU parameters of a conjugate discrete system, as NumPy arrays in double precision.

    :math:`\gamma = \sqrt{1-|\lambda|^2}` as at LRU's initialisation.  A positive real pole has angle 0, whose logarithm
    is -inf with zero gradient for ever: it is stored as :math:`2\pi`.  The scale of each mode is free between B and
    C; `row_norm` sets the norm of the rows of B.
    """
    if not (getattr(system, "conjugate", False) and system.discrete):
        raise ValueError(f"an LRU layer holds a discrete conjugate system, got {system!r}")
    logs, b, c = (to_numpy(x).astype(np.complex128) for x in system.leaves)
    decay = np.clip(-logs.real, np.finfo(np.float64).tiny, FASTEST)
    angle = np.mod(logs.imag, 2 * np.pi)
    # an angle within rounding of zero came from a real pole, seen from either side
    angle = np.where((angle < 1e-12) | (angle > 2 * np.pi - 1e-12), 2 * np.pi, angle)
    gamma = np.sqrt(-np.expm1(-2 * decay))
    B, C = b / gamma[:, None], 2 * c
    if row_norm is not None:
        B, C = scaled_rows(B, C, row_norm)
    return {"nu_log": np.log(decay), "theta_log": np.log(angle), "gamma_log": np.log(gamma), "B": B, "C": C}


def lru_rows(B: Host) -> float:
    """Root mean square norm of the rows of an LRU layer's B: the scale its optimizer is used to."""
    return float(np.sqrt(np.mean(np.sum(np.abs(B) ** 2, axis=1))))


def scaled_rows(B: Host, C: Host, row_norm: float) -> tuple[Host, Host]:
    """B (N, H) and C (P, N) with the states scaled so that each row of B that is not zero has norm `row_norm`."""
    norms = np.linalg.norm(B, axis=1)
    scale = np.where(norms > 0, row_norm / np.where(norms > 0, norms, 1), 1.0)
    return B * scale[:, None], C / scale


def lru_carry(
    old: dict[str, Host], new: dict[str, Host], moments: dict[str, Host], change: Change, power: int
) -> dict[str, Host]:
    r"""Optimizer moments of an LRU layer after a cut.

    A first moment (`power` 1) is an average of gradients, so it is pulled back as one.  A change
    :math:`\delta B_r` of the reduced layer does what :math:`V_1\delta B_r + V_2\overline{\delta B_r}` does to the full
    one, likewise for C with W; for the poles only the diagonal of the gradient with respect to A is known, and
    carried.  A second moment (`power` 2) is carried as the variance of independent entries.

    Parameters
    ----------
    old, new : dict
        Parameters by the names of ``LRU_NAMES`` before and after the cut (B, C complex; without scaling changes of
        their own).
    moments : dict
        By the same names; complex entries hold those of the real and imaginary parts.
    change : Change
        Of the reduction.
    power : {1, 2}

    Returns
    -------
    dict
        The moments of the new parameters.
    """
    # the written-back modes may be scaled differently from the reduction's: z_new = s z
    gamma, gamma_new = np.exp(old["gamma_log"]), np.exp(new["gamma_log"])
    V1, V2, W1, W2 = change.V1, change.V2, change.W1, change.W2
    full_b = gamma[:, None] * old["B"]
    s = np.linalg.norm(gamma_new[:, None] * new["B"], axis=1) / np.maximum(
        np.linalg.norm(W1 @ full_b + W2 @ full_b.conj(), axis=1), 1e-300
    )
    V1, V2, W1, W2 = V1 / s, V2 / s, W1 * s[:, None], W2 * s[:, None]
    rate, angle = np.exp(old["nu_log"]), np.exp(old["theta_log"])
    rate_new, angle_new = np.exp(new["nu_log"]), np.exp(new["theta_log"])
    size, size_new = np.exp(-rate), np.exp(-rate_new)
    b_new = gamma_new[:, None] * new["B"]
    if power == 1:
        phase, phase_new = np.exp(1j * angle), np.exp(1j * angle_new)
        gb, gc = moments["B"] / gamma[:, None], 2 * moments["C"]
        gl = (-moments["nu_log"] / rate + 1j * moments["theta_log"] / angle) / (size * phase.conj())
        gb = V1.conj().T @ gb + np.conj(V2.conj().T @ gb)
        gc = gc @ W1.conj().T + np.conj(gc) @ W2.conj().T
        gl = np.conj(V1 * W1.T).T @ gl + (V2 * W2.T.conj()).T @ gl.conj()
        gl = gl * size_new * phase_new.conj()
        return {
            "nu_log": -rate_new * gl.real,
            "theta_log": angle_new * gl.imag,
            "gamma_log": np.sum(np.real(gb.conj() * b_new), axis=1),
            "B": gamma_new[:, None] * gb,
            "C": gc / 2,
        }
    total = {k: (m.real + m.imag if np.iscomplexobj(m) else m) for k, m in moments.items()}
    vb, vc = total["B"] / gamma[:, None] ** 2, 4 * total["C"]
    vl = (total["nu_log"] / rate**2 + total["theta_log"] / angle**2) / size**2
    spread_v, spread_w = np.abs(V1) ** 2 + np.abs(V2) ** 2, np.abs(W1) ** 2 + np.abs(W2) ** 2
    vb, vc = spread_v.T @ vb, vc @ spread_w.T
    vl = (np.abs(V1 * W1.T) ** 2 + np.abs(V2 * W2.T) ** 2).T @ vl * size_new**2
    both = 0.5 + 0.5j
    return {
        "nu_log": rate_new**2 * vl / 2,
        "theta_log": angle_new**2 * vl / 2,
        "gamma_log": np.sum(vb * np.abs(b_new) ** 2, axis=1) / 2,
        "B": both * gamma_new[:, None] ** 2 * vb,
        "C": both * vc / 4,
    }


# Frameworks that keep complex matrices as two real parameters share these.

_COMPLEX = {"B": ("B_re", "B_im"), "C": ("C_re", "C_im")}


def lru_split(values: dict[str, Host]) -> dict[str, Host]:
    """Complex entries B, C as the real parameters B_re, B_im, C_re, C_im."""
    out = {k: v for k, v in values.items() if k not in _COMPLEX}
    for key, (re, im) in _COMPLEX.items():
        out[re], out[im] = values[key].real, values[key].imag
    return out


def lru_join(values: dict[str, Host]) -> dict[str, Host]:
    """The inverse of :func:`lru_split`; other entries (D) are left out."""
    out = {k: values[k] for k in LRU_NAMES[:3]}
    return out | {key: values[re] + 1j * values[im] for key, (re, im) in _COMPLEX.items()}


def lru_carry_split(
    old: dict[str, Host], new: dict[str, Host], moments: dict[str, Host], change: Change, power: int
) -> dict[str, Host]:
    """:func:`lru_carry` for layers with split parameters."""
    return lru_split(lru_carry(lru_join(old), lru_join(new), lru_join(moments), change, power))


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
            "D must be the layer's own, since its output sees the present state, got another one: use method='truncate'"
        )
