"""Split anything that :func:`balred.adapt` reads into stable and unstable, or slow and fast, parts of the same type."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np

from balred.registry.reading import adapt
from balred.systems import arrays
from balred.systems.arrays import double_precision, is_concrete
from balred.systems.dense_system import DenseSystem
from balred.systems.diagonal_system import DiagonalSystem
from balred.systems.leaves import System, at_hand, cast_like, with_leaves
from balred.systems.parts import Mask, Poles, split, split_by
from balred.systems.poles import continuous_poles


def frequency_separation(obj: Any, cutoff: float) -> tuple[Any, Any]:
    r"""Split a system into its slow and its fast part, :math:`G = G_\mathrm{slow} + G_\mathrm{fast}`.

    Parameters
    ----------
    obj : system, layer, or anything :func:`balred.adapt` reads
        Stable or not.
    cutoff : float
        In rad/s: slow are the poles with :math:`|\lambda|` (in discrete time :math:`|\log\lambda|/dt`, of one step
        if it is unspecified) below it.

    Returns
    -------
    slow, fast : the same type as `obj`
        D belongs to the fast part.  A dense part without poles has order 0.

    Raises
    ------
    ValueError
        `cutoff` is not positive; the parts are too close to be separated; a batch; a diagonal system with all its
        poles on one side.

    References
    ----------
    MATLAB's ``freqsep``; the similarity is that of SLICOT TB01KD.

    Examples
    --------
    >>> import balred
    >>> g = balred.ss([[-1.0, 1.0], [0.0, -50.0]], [[0.0], [1.0]], [[1.0, 0.0]])
    >>> slow, fast = frequency_separation(g, 10.0)
    >>> slow.A, fast.A
    (array([[-1.]]), array([[-50.]]))
    """
    if isinstance(cutoff, bool) or not isinstance(cutoff, (int, float, np.integer, np.floating)) or not cutoff > 0:
        raise ValueError(f"cutoff must be a positive frequency, got {cutoff!r}")

    def divided(g: System) -> tuple[System | None, System | None]:
        def fast(poles: Poles) -> Mask:
            return np.asarray(np.abs(continuous_poles(poles, g.dt)) >= cutoff)

        return split_by(g, fast, "slow and fast poles", "cutoff")

    return _parts(obj, divided, ("below", "at or above the cutoff"))


def stable_unstable(obj: Any, offset: float | None = None) -> tuple[Any, Any]:
    r"""Split a system into its stable and its unstable part, :math:`G = G_\mathrm{stable} + G_\mathrm{unstable}`.

    Parameters
    ----------
    obj : system, layer, or anything :func:`balred.adapt` reads
    offset : float, optional
        The boundary between the parts.  Stable are poles with :math:`\mathrm{Re}\,\lambda < -\mathrm{offset}`, in discrete time
        :math:`|\lambda| < 1-\mathrm{offset}`; by default it is the rounding error of A.

    Returns
    -------
    stable, unstable : the same type as `obj`
        D belongs to the stable part.  A dense part without poles has order 0.

    Raises
    ------
    ValueError
        The parts are too close to be separated; a batch; a diagonal system with all its poles on one side.

    References
    ----------
    MATLAB's ``stabsep``; SLICOT TB01KD.

    Examples
    --------
    >>> import balred
    >>> stable, unstable = stable_unstable(balred.ss([[-1.0, 1.0], [0.0, 2.0]], [[0.0], [1.0]], [[1.0, 0.0]]))
    >>> stable.A, unstable.A
    (array([[-1.]]), array([[2.]]))
    """
    unstable, stable = _parts(obj, lambda g: split(g, offset), ("outside the boundary of stability", "inside it"))
    return stable, unstable


def _parts(
    obj: Any, divided: Callable[[System], tuple[System | None, System | None]], sides: tuple[str, str]
) -> tuple[Any, Any]:
    """The two parts of `obj`, D with the second; `sides` says in errors where their poles are."""
    system, rebuild = adapt(obj)
    if not is_concrete(*system.leaves):
        raise TypeError("the parts of a system need concrete values, got traced arrays")
    work = at_hand(system)
    with double_precision(*work.leaves) as leaves:
        precise = with_leaves(work, leaves)
        both = []
        for part, side, D in zip(divided(precise), sides, (0 * precise.D, precise.D), strict=True):
            if part is None:
                if isinstance(precise, DiagonalSystem):
                    raise ValueError(f"each part of a diagonal system must have a pole, got none {side}")
                part = DenseSystem(precise.A[:0, :0], precise.B[:0, :], precise.C[:, :0], D, precise.dt)
            narrow = arrays.mapped(dataclasses.replace(part, D=D), lambda x: cast_like(x, system))
            both.append(rebuild(narrow))
    return both[0], both[1]
