"""S4D: a diagonal system for each channel, sampled by zero-order hold, whose input matrix is fixed at one.

A. Gu, A. Gupta, K. Goel and C. Ré, NeurIPS 2022 (arXiv 2206.11893), section 3.
"""

from __future__ import annotations

import numpy as np

from balred.layers.sampled import (
    Gain,
    Host,
    check_sampled,
    continuous_poles,
    layer_gain,
    sampled_poles,
)
from balred.systems.arrays import Array, to_numpy
from balred.systems.diagonal_system import DiagonalSystem, diagonal


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

    `step` (H,) stays the layer's own, and `gain` is as in :func:`balred.layers.s5.s5_parameters`.  B is 1, so C takes its place.
    """
    check_sampled(system, "S4D")
    steps = np.broadcast_to(np.asarray(step, dtype=np.float64)[:, None], tuple(system.log_poles.shape))
    poles = continuous_poles(system.log_poles, steps)
    g = layer_gain(poles, steps, "zoh", gain)
    B, C = (to_numpy(x).astype(np.complex128) for x in (system.B, system.C))
    return {"A": poles, "C": C[:, 0, :] * B[:, :, 0] / g}
