"""``control.TransferFunction`` in and out, of any number of inputs and outputs, with names and dt kept."""

from __future__ import annotations

from typing import Any

import control
import numpy as np
from numpy.typing import NDArray

from balred.realisations.minimal import minimal
from balred.realisations.rational import beside, fractions
from balred.realisations.transfer import from_coefficients
from balred.registry.entries import register
from balred.systems.dense_system import DenseSystem
from balred.systems.leaves import System

Matrix = NDArray[Any]


@register(control.TransferFunction)
def adapt_transfer_function(obj: Any) -> tuple[System, Any]:
    """The dense system of `obj`, and the way back.

    Entries of one column (or row) that share a denominator share its states.  Where several denominators are left, the
    states that they have in common are removed, as :func:`balred.realisations.minimal.minimal` does.  An unspecified time
    base (``dt=None``) counts as continuous, and is None again on the way back.

    Raises
    ------
    ValueError
        An entry is not proper; on the way back, coefficients cannot hold the frequency response of an entry, or a system
        is complex.

    Examples
    --------
    >>> import control
    >>> from balred.adapters.control import adapt_transfer_function
    >>> system, rebuild = adapt_transfer_function(control.tf([1.0], [1.0, 3.0, 2.0]))
    >>> system.states, rebuild(system).den_list[0][0].round(12).tolist()
    (2, [1.0, 3.0, 2.0])
    """
    num, den = _entries(obj)
    dt = 0 if obj.dt is None else obj.dt
    columns = [_column([row[j] for row in num], [row[j] for row in den], dt) for j in range(obj.ninputs)]
    # the same, of the transposed: whichever needs fewer states
    rows = [_transposed(_column(n, d, dt)) for n, d in zip(num, den, strict=True)]
    beside, above = _side_by_side(columns), _transposed(_side_by_side([_transposed(g) for g in rows]))
    system = beside if beside.order <= above.order else above
    if system.D.size > 1:
        system = _shared(system)

    def rebuild(reduced: Any) -> Any:
        g = reduced.to_dense()
        names: dict[str, Any] = {"name": obj.name}
        if g.D.shape == (obj.noutputs, obj.ninputs):
            names |= {"inputs": obj.input_labels, "outputs": obj.output_labels}
        if any(np.iscomplexobj(x) for x in (g.A, g.B, g.C, g.D)):
            raise ValueError("a control.TransferFunction must be real, got a complex system")
        held = fractions(g, "a control.TransferFunction", "reduce control.ss(...) of it")
        num, den = ([[channel[k] for channel in row] for row in held] for k in range(2))
        return control.TransferFunction(num, den, obj.dt, **names)

    return system, rebuild


def _entries(obj: Any) -> tuple[list[list[Matrix]], list[list[Matrix]]]:
    """Numerators and denominators, [output][input], the denominators monic so that equal ones are seen."""
    num = [[np.atleast_1d(x).astype(np.float64) for x in row] for row in obj.num]
    den = [[np.trim_zeros(np.atleast_1d(x).astype(np.float64), "f") for x in row] for row in obj.den]
    return (
        [[n / d[0] for n, d in zip(*rows, strict=True)] for rows in zip(num, den, strict=True)],
        [[d / d[0] for d in row] for row in den],
    )


def _column(num: list[Matrix], den: list[Matrix], dt: float | bool) -> DenseSystem:
    """The system of one input, with the states of each denominator once."""
    p = len(num)
    parts, D = [], np.zeros((p, 1))
    for shared in {d.tobytes(): d for n, d in zip(num, den, strict=True) if n.any()}.values():
        rows = [i for i in range(p) if num[i].any() and np.array_equal(den[i], shared)]
        width = max(len(num[i]) for i in rows)
        g = from_coefficients([np.pad(num[i], (width - len(num[i]), 0)) for i in rows], shared, dt)
        C = np.zeros((p, g.order))
        C[rows], D[rows] = g.C, g.D
        parts.append((g.A, g.B, C))
    A = _diagonal([a for a, _, _ in parts])
    B = np.vstack([np.zeros((0, 1)), *(b for _, b, _ in parts)])
    return DenseSystem(A, B, np.hstack([np.zeros((p, 0)), *(c for _, _, c in parts)]), D, dt)


def _side_by_side(columns: list[DenseSystem]) -> DenseSystem:
    """The system of several inputs from those of each."""
    first = columns[0]
    return DenseSystem(
        _diagonal([g.A for g in columns]),
        _diagonal([g.B for g in columns]),
        np.hstack([g.C for g in columns]),
        np.hstack([g.D for g in columns]),
        first.dt,
    )


def _diagonal(blocks: list[Matrix]) -> Matrix:
    """The matrix with these blocks, which need not be square."""
    out = np.zeros((sum(len(x) for x in blocks), sum(x.shape[1] for x in blocks)))
    i = j = 0
    for x in blocks:
        out[i : i + len(x), j : j + x.shape[1]] = x
        i, j = i + len(x), j + x.shape[1]
    return out


def _transposed(g: DenseSystem) -> DenseSystem:
    return DenseSystem(g.A.T, g.C.T, g.B.T, g.D.T, g.dt)


def _shared(g: DenseSystem) -> DenseSystem:
    """`g` without the states that its entries have in common; `g` itself where that would change its frequency response."""
    small = minimal(g) if g.order else g
    if small.order == g.order:
        return g
    points = beside(np.linalg.eigvals(g.A), g.discrete)
    want, got = (np.array([system(s) for s in points]) for system in (g, small))
    # inputs and outputs may be in units of their own; at a zero nothing is left to compare with but what is beside it
    size = np.minimum(*(np.abs(want).max(axis=axis, keepdims=True) for axis in (1, 2)))
    size[1:-1] = np.maximum(size[1:-1], np.minimum(size[2:], size[:-2]))
    return small if (np.abs(got - want) <= 1e-12 * size).all() else g
