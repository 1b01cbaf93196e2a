"""``control.FrequencyResponseData`` in and out: a model from the data by the Loewner framework, its response back."""

from __future__ import annotations

from typing import Any

import control
import numpy as np
from numpy.typing import NDArray

from balred.realisations.loewner import loewner, loewner_singular_values
from balred.registry.entries import register
from balred.systems.leaves import System

Matrix = NDArray[Any]

MET = 1e-6
"""Relative error of the model at the frequencies of the data, from which on they are called noisy."""


def frequency_data(data: Any) -> tuple[Matrix, Matrix]:
    """Points and values of a frequency response, as :func:`balred.realisations.loewner.loewner` takes them.

    Parameters
    ----------
    data : control.FrequencyResponseData
        Of p outputs, m inputs and N frequencies.

    Returns
    -------
    points : ndarray, shape (N,)
        Ascending, iω in continuous and exp(iω dt) in discrete time.
    values : ndarray, shape (N, p, m)

    Raises
    ------
    TypeError
        `data` is something else.
    ValueError
        A discrete frequency beyond that of Nyquist, or below zero.

    Examples
    --------
    >>> import control, numpy as np
    >>> from balred.adapters.control import frequency_data
    >>> from balred.realisations.loewner import loewner
    >>> data = control.frd(control.tf([1.0, 3.0], [1.0, 1.0]), [0.1, 0.3, 1.0, 3.0])
    >>> g = loewner(*frequency_data(data))
    >>> g.A.round(6), g.D.round(6)
    (array([[-1.]]), array([[1.]]))
    """
    if not isinstance(data, control.FrequencyResponseData):
        raise TypeError(f"data must be control.FrequencyResponseData, got {type(data).__name__}")
    order = np.argsort(data.omega)
    omega, values = np.asarray(data.omega)[order], np.moveaxis(np.asarray(data.frdata), 2, 0)[order]
    if omega[0] < 0:
        raise ValueError(f"frequencies must not be below zero, got {omega[0]:.6g}")
    if not data.isdtime(strict=True):
        return 1j * omega, values
    angle = omega * float(data.dt)
    if angle[-1] > np.pi * (1 + 1e-12):
        raise ValueError(
            f"frequencies must not be beyond that of Nyquist, {np.pi / float(data.dt):.6g}, got {omega[-1]:.6g}"
        )
    return np.exp(1j * angle), values


@register(control.FrequencyResponseData)
def adapt_frequency_data(obj: Any) -> tuple[System, Any]:
    """The model that interpolates the data, and the way back: the response of a system at the same frequencies.

    Raises
    ------
    ValueError
        The data do not determine an order, or no model of that order fits them.  Either they are noisy, and ``loewner``
        must be told how much, or they are too few.

    Examples
    --------
    >>> import control, numpy as np
    >>> data = control.frd(control.tf([1.0, 3.0], [1.0, 3.0, 2.0]), np.geomspace(0.1, 10, 12))
    >>> system, rebuild = adapt_frequency_data(data)
    >>> system.states, np.allclose(rebuild(system).frdata, data.frdata)
    (2, True)
    """
    points, values = frequency_data(obj)
    way_out = "make a model with balred.realisations.loewner.loewner(*balred.adapters.control.frequency_data(data), tol=noise)"
    singular = loewner_singular_values(points, values)
    if singular[-1] > 0:
        raise ValueError(
            f"the data must show an order below what they could fit, got {len(singular)} for {len(points)} frequencies, so they "
            f"are noisy or too few: {way_out}"
        )
    try:
        system = loewner(points, values, dt=0 if obj.dt is None else obj.dt)
    except ValueError as error:
        raise ValueError(
            f"the data must be the response of a state-space system, got data that no such system fits ({error}); {way_out}"
        ) from None
    gap = max(float(np.abs(system(s) - value).max()) for s, value in zip(points, values, strict=True))
    size = float(np.abs(values).max())
    if not gap <= MET * size:
        raise ValueError(
            f"the data must be the response of a system to a relative {MET:g}, got a model that differs from them by "
            f"{gap / size:.2g}: {way_out}"
        )

    def rebuild(reduced: Any) -> Any:
        g = reduced.to_dense()
        s = np.exp(1j * obj.omega * float(obj.dt)) if obj.isdtime(strict=True) else 1j * obj.omega
        response = np.stack([g(x) for x in s], axis=-1)
        names: dict[str, Any] = {"name": obj.name}
        if response.shape[:2] == (obj.noutputs, obj.ninputs):
            names |= {"inputs": obj.input_labels, "outputs": obj.output_labels}
        return control.FrequencyResponseData(response, obj.omega, obj.dt, **names)

    return system, rebuild
