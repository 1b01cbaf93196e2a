r"""How layers that sample a continuous system write its poles, a step and matrices, and back; for every framework.

S5 and S4D train continuous poles :math:`\Lambda` and steps :math:`\Delta`, and run the sampled recurrence

.. math:: x_k = \bar\lambda x_{k-1} + g\,Bu_k,\qquad \bar\lambda = e^{\Lambda\Delta},\; g = (e^{\Lambda\Delta}-1)/\Lambda

(zero-order hold), or :math:`\bar\lambda = \frac{1+\Lambda\Delta/2}{1-\Lambda\Delta/2}`, :math:`g =
\frac{\Delta}{1-\Lambda\Delta/2}` (bilinear).  Both are inverted exactly: any stable discrete pole but 0, and -1 for the
bilinear rule, has its :math:`\Lambda`.  Only the product :math:`\Lambda\Delta` and the scaled input matter, so the
step may be chosen.

S5: Smith, Warrington, Linderman, ICLR 2023 (arXiv 2208.04933), section 3.  S4D: Gu, Gupta, Goel, Ré, NeurIPS 2022
(arXiv 2206.11893), section 3.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from balred.systems.arrays import Array, eye, namespace, to_complex, to_numpy
from balred.layers.lru import FASTEST, scaled_rows
from balred.systems.dense_system import DiagonalSystem, diagonal

Host = NDArray[Any]
# gain(poles, step) is the input gain g as a layer computes it.  In single precision exp(ΛΔ) - 1 loses as many digits as
# ΛΔ is small by; a layer that is written with its own gain applies the input matrix that it was given all the same.
Gain = Callable[[Host, Host], Host]
RULES = ("zoh", "bilinear")


def _check_rule(rule: str) -> None:
    if rule not in RULES:
        raise ValueError(f"the sampling rule must be one of {', '.join(RULES)}, got {rule!r}")


def sampled_poles(poles: Array, step: Array, rule: str = "zoh") -> Array:
    """Logarithms of the sampled poles; `poles` complex, `step` real, broadcast against each other.

    Examples
    --------
    >>> sampled_poles(np.array([-1 + 2j]), np.array([0.1]))
    array([-0.1+0.2j])
    """
    _check_rule(rule)
    product = poles * to_complex(step)
    return product if rule == "zoh" else 2 * namespace(product).atanh(product / 2)


def input_gain(poles: Array, step: Array, rule: str = "zoh") -> Array:
    """The input gain g, without cancellation; a zero-order hold at a pole of zero integrates over the step.

    Examples
    --------
    >>> input_gain(np.array([-1e-9 + 0j, 0j]), np.array([0.5, 0.5])).real
    array([0.5, 0.5])
    """
    _check_rule(rule)
    xp, step = namespace(poles), to_complex(step)
    if rule == "bilinear":
        return step / (1 - poles * step / 2)
    zero = poles == 0
    divisor = xp.where(zero, xp.ones_like(poles), poles)
    return xp.where(zero, step * xp.ones_like(poles), xp.expm1(poles * step) / divisor)


def continuous_poles(log_poles: Array, step: Host, rule: str = "zoh") -> Host:
    """The poles whose samples with `step` have the logarithms `log_poles`, on the host in double precision.

    Poles of modulus below exp(-30) are written as exp(-30), which has a gradient in single precision; a decay of zero,
    which rounding may leave, as the least positive one.

    Examples
    --------
    >>> continuous_poles(np.log(np.array([0.5 + 0.5j])), np.array(0.01), "bilinear").round(6)
    array([-40.+80.j])
    """
    _check_rule(rule)
    logs = to_numpy(log_poles).astype(np.complex128)
    logs = -np.clip(-logs.real, np.finfo(np.float64).tiny, FASTEST) + 1j * logs.imag
    return np.asarray((logs if rule == "zoh" else 2 * np.tanh(logs / 2)) / step)


def _check_sampled(system: Any, layer: str) -> None:
    if not (getattr(system, "conjugate", False) and system.discrete):
        raise ValueError(f"an {layer} layer holds a discrete conjugate system, got {system!r}")


def layer_gain(poles: Host, step: Host, rule: str, gain: Gain | None) -> Host:
    """The layer's own gain, or the exact one where the layer's has no correct digit (a pole that rounds to 1)."""
    exact = np.asarray(input_gain(poles, step, rule))
    own = exact if gain is None else gain(poles, step)
    return np.where(np.abs(own - exact) < 0.5 * np.abs(exact), own, exact)


# ------------------------------------------------------------------------------------------------------------ S5


def s5_system(
    poles: Array, step: Array, gain: Array, B: Array, C: Array, D: Array, *, twice: bool = False, rule: str = "zoh"
) -> DiagonalSystem:
    r"""The operator of an S5 layer.

    The output is :math:`\mathrm{Re}(Cx_k) + D \odot u_k`, or with `twice` :math:`2\,\mathrm{Re}(Cx_k) + D \odot u_k`.
    A bidirectional layer runs the same states along the sequence and against it and adds both; its C has two halves,
    one for each.  It is one system whose outputs are both halves, times :math:`\sqrt2`: at every frequency
    :math:`\|G_1u + G_2u\| \le \sqrt2\,\|(G_1u, G_2u)\|`, so a norm or an error bound of the system holds for the layer.

    Parameters
    ----------
    poles, step, gain : array, shape (P,)
        Complex, real, complex.
    B : array, shape (P, H), complex
    C : array, shape (H, P), complex; (H, 2 P) for a bidirectional layer
    D : array, shape (H,), real
    twice : bool, default False
    rule : {"zoh", "bilinear"}

    Returns
    -------
    DiagonalSystem
    """
    xp = namespace(poles)
    C, D = C if twice else C / 2, eye(D, D.shape[0]) * D
    states = poles.shape[-1]
    if C.shape[-1] == 2 * states:
        C = 2**0.5 * xp.concat([C[:, :states], C[:, states:]], axis=0)
        D = 2**0.5 * xp.concat([D, xp.zeros_like(D)], axis=0)
    return diagonal(log_poles=sampled_poles(poles, step, rule), B=gain[:, None] * B, C=C, D=D, dt=True, conjugate=True)


def s5_parameters(
    system: DiagonalSystem,
    step: float | Host,
    row_norm: float,
    *,
    twice: bool = False,
    bidirectional: bool = False,
    rule: str = "zoh",
    gain: Gain | None = None,
) -> dict[str, Host]:
    """S5 parameters of a conjugate discrete system, as NumPy arrays in double precision.

    Parameters
    ----------
    system : DiagonalSystem
        As from :func:`s5_system`.
    step : float or array, shape (P,)
        The step that the states get.
    row_norm : float
        Norm of the rows of B: the scale of each state is free between B and C.
    twice, bidirectional, rule
        As :func:`s5_system`.
    gain : callable, optional
        ``gain(poles, step)`` as the layer computes it; exact by default.

    Returns
    -------
    dict
        "Lambda" (P,), "log_step" (P,), "B" (P, H), "C" (H, P) or (H, 2 P).
    """
    _check_sampled(system, "S5")
    steps = np.broadcast_to(np.asarray(step, dtype=np.float64), (system.states,))
    poles = continuous_poles(system.log_poles, steps, rule)
    g = layer_gain(poles, steps, rule, gain)
    b, c = (to_numpy(x).astype(np.complex128) for x in (system.B, system.C))
    B, C = scaled_rows(b / g[:, None], c, row_norm)
    if bidirectional:
        C = np.concatenate(np.split(C, 2), axis=1) / 2**0.5
    return {"Lambda": poles, "log_step": np.log(steps), "B": B, "C": C if twice else 2 * C}


# ----------------------------------------------------------------------------------------------------------- S4D


def s4d_system(poles: Array, step: Array, gain: Array, C: Array, D: Array | None) -> DiagonalSystem:
    r"""The operators of an S4D layer, a batch of one for each channel; there is no B, and :math:`y = 2\,\mathrm{Re}(Cx)+Du`.

    Parameters
    ----------
    poles, gain, C : array, shape (H, N), complex
    step : array, shape (H,), real
    D : array, shape (H,), real, or None

    Returns
    -------
    DiagonalSystem
        Batch (H,), one input, one output.
    """
    return diagonal(
        log_poles=sampled_poles(poles, step[:, None]), B=gain[:, :, None], C=C[:, None, :],
        D=None if D is None else D[:, None, None], dt=True, conjugate=True,
    )  # fmt: skip


def s4d_parameters(system: DiagonalSystem, step: Host, gain: Gain | None = None) -> dict[str, Host]:
    """S4D parameters of a batch of conjugate discrete systems with one input and one output: "A" and "C", both (H, N).

    `step` (H,) stays the layer's own, and `gain` is as in :func:`s5_parameters`.  B is 1, so C takes its place.
    """
    _check_sampled(system, "S4D")
    steps = np.broadcast_to(np.asarray(step, dtype=np.float64)[:, None], tuple(system.log_poles.shape))
    poles = continuous_poles(system.log_poles, steps)
    g = layer_gain(poles, steps, "zoh", gain)
    B, C = (to_numpy(x).astype(np.complex128) for x in (system.B, system.C))
    return {"A": poles, "C": C[:, 0, :] * B[:, :, 0] / g}
