r"""Averaged copies of a layer (EMA) after a cut: the same transformation, to first order.

The cut writes :math:`z = W_1x + W_2\bar x` with :math:`x \approx V_1z + V_2\bar z`, in which the live layer is diagonal.
An average of it, slightly another layer, is

.. math:: \mathrm{diag}(W_1\Lambda V_1 + W_2\bar\Lambda\bar V_2), \quad W_1B + W_2\bar B, \quad CV_1 + \bar C\bar V_2

in those coordinates, without entries off the diagonal of second order.  A real mode is its own conjugate, so what couples
the two, :math:`W_1\Lambda V_2 + W_2\bar\Lambda\bar V_1`, belongs to its pole.  It must not be balanced by itself: its states would
be others, in another order, and averaging with the live ones would mix them up.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np

from balred.reduction.candidates import Smaller
from balred.registry.reading import adapt
from balred.systems.arrays import backend_of, to_numpy
from balred.systems.coordinates import Change
from balred.systems.diagonal_system import DiagonalSystem


def follow(average: Any, live: Any, cut: Smaller) -> Any:
    """The layer that `average` becomes when `live` is cut to ``cut.layer``.

    Parameters
    ----------
    average, live : layers of one type and size
        `live` as it was before the cut.
    cut : Smaller

    Returns
    -------
    layer
        Of the size of ``cut.layer``; a copy of its values where the change of coordinates is not known, or where the average
        cannot be written in them.

    Examples
    --------
    >>> from balred.registry import adapt
    >>> from balred.intraining.averages import follow
    >>> from balred.reduction.candidates import Smaller
    >>> import balred
    >>> g = balred.diagonal(log_poles=[-0.1 + 1j, -0.5 + 2j], B=[[1.0], [0.5]], C=[[1.0, 0.5]], dt=True, conjugate=True)
    >>> made = balred.analyze(g).reduction(1)
    >>> cut = Smaller(made.system, 2, 1, energy=0.9, system=made.system, change=made.change)
    >>> abs(float(follow(g, g, cut).log_poles[0].real - cut.layer.log_poles[0].real)) < 1e-12
    True
    """
    if cut.again is not None:
        return cut.again(average)
    if cut.system is None:
        raise ValueError(
            "a cut must have the smaller system, or a function that cuts another layer in the same way, got neither"
        )
    change, target = cut.change, cut.system
    before, rebuild = adapt(average)
    if change is None or not isinstance(before, DiagonalSystem) or not isinstance(target, DiagonalSystem):
        return adapt(live)[1](target)
    moved = _moved(before, target, change)
    fastest = max(
        0.0, float(np.real(to_numpy(before.log_poles)).max())
    )  # an average of a growing layer may grow as it did
    stable = np.real(moved["log_poles"]) <= fastest if fastest else np.real(moved["log_poles"]) < 0
    if not (np.all(stable) and all(np.isfinite(x).all() for x in moved.values())):
        return adapt(live)[1](target)
    be = backend_of(before.B)
    leaves = {key: be.from_numpy(x, like=before.B) for key, x in moved.items()}
    try:
        return rebuild(dataclasses.replace(before, **leaves))
    except ValueError:
        return adapt(live)[1](target)


def _moved(average: DiagonalSystem, target: DiagonalSystem, change: Change) -> dict[str, np.ndarray[Any, Any]]:
    poles, B, C = (np.asarray(to_numpy(x), np.complex128) for x in (average.log_poles, average.B, average.C))
    values = np.exp(poles) if average.discrete else poles
    V1, V2, W1, W2 = change.V1, change.V2, change.W1, change.W2
    new = np.einsum("...rn,...n,...nr->...r", W1, values, V1)
    new = new + np.einsum("...rn,...n,...nr->...r", W2, values.conj(), V2.conj())
    near = np.asarray(to_numpy(target.log_poles), np.complex128)
    # of a mode that is its own conjugate the two halves overlap by a half, of others not at all
    overlap = np.einsum("...rn,...nr->...r", W1, V2) + np.einsum("...rn,...nr->...r", W2, V1.conj())
    real = np.abs(overlap) > 0.25
    coupled = np.einsum("...rn,...n,...nr->...r", W1, values, V2)
    coupled = coupled + np.einsum("...rn,...n,...nr->...r", W2, values.conj(), V1.conj())
    new = np.where(real, (new + coupled).real, new)
    if average.discrete:
        new = np.log(new)
        turns = np.round((near.imag - new.imag) / (2 * np.pi))  # the logarithm's branch that the live layer is on
        new = new + 2j * np.pi * turns
    return {"log_poles": new, "B": W1 @ B + W2 @ B.conj(), "C": C @ V1 + C.conj() @ V2.conj()}
