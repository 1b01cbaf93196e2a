"""S5: one diagonal system of several inputs and outputs, sampled by zero-order hold or by the bilinear rule.

J. T. H. Smith, A. Warrington and S. W. Linderman, ICLR 2023 (arXiv 2208.04933), section 3.
"""

from __future__ import annotations

import numpy as np

from balred.layers.lru import scaled_evenly
from balred.layers.sampled import (
    Gain,
    Host,
    check_sampled,
    continuous_poles,
    layer_gain,
    sampled_poles,
)
from balred.systems.arrays import Array, eye, namespace, to_numpy
from balred.systems.diagonal_system import DiagonalSystem, diagonal


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

    Examples
    --------
    >>> import numpy as np
    >>> from balred.layers.s5 import s5_system
    >>> from balred.layers.sampled import input_gain
    >>> poles, step = np.array([-1 + 3j, -2 + 1j]), np.array([0.1, 0.1])
    >>> s5_system(poles, step, input_gain(poles, step), np.ones((2, 1)) + 0j, np.ones((1, 2)) + 0j, np.zeros(1))
    DiagonalSystem(states=2, inputs=1, outputs=1, dt=True, conjugate, complex128, numpy)
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
    ratio: float,
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
        Conjugate and discrete, as :func:`s5_system` makes it: its outputs are those of both ways in a bidirectional layer.
    step : float or array, shape (P,)
        The step that the states get.
    ratio : float
        Norm of a row of B over that of a column of the system's C: the scale of each state is free between them.
    twice, bidirectional, rule
        As :func:`s5_system`.
    gain : callable, optional
        ``gain(poles, step)`` as the layer computes it; exact by default.

    Returns
    -------
    dict
        "Lambda" (P,), "log_step" (P,), "B" (P, H), "C" (H, P) or (H, 2 P).

    Examples
    --------
    >>> import numpy as np
    >>> from balred.layers.s5 import s5_parameters, s5_system
    >>> from balred.layers.sampled import input_gain
    >>> poles, step = np.array([-1 + 3j, -2 + 1j]), np.array([0.1, 0.1])
    >>> g = s5_system(poles, step, input_gain(poles, step), np.ones((2, 1)) + 0j, np.ones((1, 2)) + 0j, np.zeros(1))
    >>> s5_parameters(g, 0.1, ratio=1.0)["Lambda"].round(12)
    array([-1.+3.j, -2.+1.j])
    """
    check_sampled(system, "S5")
    steps = np.broadcast_to(np.asarray(step, dtype=np.float64), (system.states,))
    poles = continuous_poles(system.log_poles, steps, rule, grows=True)
    g = layer_gain(poles, steps, rule, gain)
    b, c = (to_numpy(x).astype(np.complex128) for x in (system.B, system.C))
    B, C = scaled_evenly(b / g[:, None], c, ratio)
    if bidirectional:
        C = np.concatenate(np.split(C, 2), axis=1) / 2**0.5
    return {"Lambda": poles, "log_step": np.log(steps), "B": B, "C": C if twice else 2 * C}
