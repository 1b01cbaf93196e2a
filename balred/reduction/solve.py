"""A system solved for what a method needs: once, for every question that follows, and for layers alike in one go."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from balred.hankel.spectrum import Spectrum
from balred.layers.along_data import DataSums, factor_of, horizon_sums
from balred.methods.method import State
from balred.reduction.diagonalisation import Forms
from balred.reduction.settings import Settings
from balred.solvers.gramians import factors
from balred.systems import arrays
from balred.systems.arrays import Array, backend_of, ct, double_precision, in_precision, is_concrete, mapped, to_numpy
from balred.systems.batches import alike, member, stacked
from balred.systems.checks import check_representable
from balred.systems.dense_system import DenseSystem
from balred.systems.leaves import System, where_fastest, with_leaves
from balred.systems.parts import separated
from balred.systems.poles import entry_rounding, pole_margin
from balred.systems.units import in_even_units


@dataclass(frozen=True, eq=False)
class Solved:
    """A system, its parts in the units and the precision of the computation, and what the method made of them.

    Attributes
    ----------
    system : System
        As it was given.
    unstable, stable : System or None
        What is kept whole, and what the method sees.
    state : State or None
        None where the method sees nothing.
    sigma : array, shape (..., order of the stable part)
        The stable part's values on the host, descending, in the precision of the computation.
    hsv : array, shape (..., order)
        All values, infinite for unstable modes, in the array library and dtype of the system.
    margin : float or None
        How far inside the stable region the poles of a reduction must be at least; below 0 where the system has poles
        outside that it may keep; None where they may be anywhere.
    mixed : callable, optional
        ``mixed(share)`` is the system solved with so much white noise among the data, for reductions that fail without.
    units : array, shape (n,), or None
        Those that the parts are in, where they are others than those of the system (x = units x_part).
    forms : dict
        By method the diagonal forms of its reductions that were made.
    """

    system: System
    unstable: System | None
    stable: System | None
    state: State | None
    sigma: NDArray[Any]
    hsv: Array
    margin: float | None = 0.0
    mixed: Callable[[float], Solved] | None = None
    units: NDArray[Any] | None = None
    forms: dict[str, Forms] = field(default_factory=dict, repr=False)

    @property
    def fixed(self) -> int:
        """The stored states that are kept whole."""
        return 0 if self.unstable is None else self.unstable.states

    @property
    def unit(self) -> int:
        """The states of the operator that belong to a stored state: 2 for conjugate systems."""
        return self.system.order // max(self.system.states, 1)

    @property
    def numerical_rank(self) -> int:
        """Order beyond which Hankel singular values are rounding errors (largest over a batch)."""
        return (0 if self.unstable is None else self.unstable.order) + (0 if self.state is None else self.state.cap)

    def member(self, i: int, system: System) -> Solved:
        """Of systems that were stacked and solved together the i-th, which was `system`."""
        parts = {"stable": member(self.stable, i), "state": member(self.state, i)}
        return replace(self, system=system, sigma=self.sigma[i], hsv=self.hsv[i], forms={}, **parts)


def solve(system: System, settings: Settings) -> Solved:
    """Prepare a system for a method.

    Raises
    ------
    ValueError
        The method cannot take the system; a batch with unstable members.
    TypeError
        The arrays are traced.
    """
    if not is_concrete(*system.leaves):
        raise TypeError(
            "analyze needs concrete values, got traced arrays: call balred.hsv under jit, or analyze outside it"
        )
    method = settings.row
    work = where_fastest(system) if method.takes == "arrays" else arrays.mapped(system, to_numpy)
    unstable: System | None = None
    stable: System | None = None
    state: State | None = None
    with in_precision(settings.precision, *work.leaves) as wide:
        given = with_leaves(work, wide)
        # what takes arrays has its units where it is solved
        own = method.takes == "arrays" or method.mixes_units
        precise, units = in_even_units(given) if own else in_even_units(given, 1.0)
        if system.order == 0:
            pass  # a static gain
        elif method.takes_unstable:
            stable, state = precise, _prepared(precise, settings, entry_rounding(system))
        else:
            rounding = entry_rounding(system)
            unstable, stable, state = separated(
                precise, settings.offset, lambda part: _prepared(part, settings, rounding), rounding
            )
    batch = tuple(system.B.shape[:-2])
    sigma = np.zeros((*batch, 0), settings.precision) if state is None else state.sigma
    check_representable("Hankel singular values", sigma)
    infinite = np.full((*batch, 0 if unstable is None else unstable.order), np.inf, sigma.dtype)
    values = np.concatenate([infinite, sigma], axis=-1)
    hsv = backend_of(*system.leaves).from_numpy(values, like=system.B, real=True)
    margin = None if method.takes_unstable else 0.0
    return Solved(system, unstable, stable, state, sigma, hsv, margin, units=units)


def solve_for(system: System, P: NDArray[Any], Q: NDArray[Any]) -> Solved:
    """A system with matrices that take the places of its Gramians, in the coordinates of ``system.to_dense()``.

    All of it is reduced, unstable modes too; a reduction grows no faster than the system does.
    """
    work = arrays.mapped(system, to_numpy)
    with in_precision("float64", *work.leaves) as wide:
        precise = with_leaves(work, wide)
    state = _spectrum(precise.to_dense(), P, Q)
    poles, _ = pole_margin(precise)
    worst = float(((1 - np.abs(poles)) if precise.discrete else -poles.real).min(initial=0.0))
    hsv = backend_of(*system.leaves).from_numpy(state.sigma, like=system.B, real=True)
    return Solved(system, None, precise, state, state.sigma, hsv, worst * (1 + 1e-9))


_LEAST = 1e-7
"""Values below this share of the first are rounding errors, since matrices hold half of the digits of factors."""


def _spectrum(g: DenseSystem, P: NDArray[Any], Q: NDArray[Any]) -> Spectrum:
    r"""The values of matrices in place of Gramians: :math:`Z^HQZ = V\Sigma^2V^H` with :math:`P = ZZ^H`.

    Data reach few of the directions there are, so Z is narrow, and what is decomposed after it is small.
    """
    Z = factor_of(P)
    Z = Z[..., np.abs(Z).max(axis=tuple(range(Z.ndim - 1)), initial=0.0) > 0]
    product = ct(Z) @ Q @ Z
    check_representable("Hankel singular values", product)  # LAPACK would never end
    squares, V = np.linalg.eigh(product)
    s, V = np.sqrt(np.maximum(squares[..., ::-1], 0.0)), V[..., ::-1]
    s = np.where(s > _LEAST * s[..., :1], s, 0.0)
    right = Z @ V
    left = Q @ right / np.where(s > 0, s, 1.0)[..., None, :]
    eye = np.broadcast_to(np.eye(s.shape[-1], dtype=V.dtype), V.shape)
    return Spectrum(g, right, left, eye, s, eye)


def _prepared(part: System, settings: Settings, rounding: float) -> State:
    method = settings.row
    if method.takes != "arrays":
        part = single(part, settings.method)
        part = part if method.takes == "host" else part.to_dense()
    state: State = method.prepared(part, settings.solver, rounding, **settings.options)
    return state


def single(part: System, method: str) -> System:
    """`part` itself, or an error that names the method if it is a batch."""
    if part.B.ndim > 2:
        raise ValueError(
            f"method {method!r} takes a single system, got a batch of shape {tuple(part.B.shape[:-2])}: loop over it"
        )
    return part


def solve_together(
    systems: Mapping[str, System], settings: Settings
) -> dict[str, Solved | ValueError | ArithmeticError]:
    """Each of several systems solved, those alike in one go, or the error that says why it is not."""
    found: dict[str, Solved | ValueError | ArithmeticError] = {}
    for names in alike(systems):
        if len(names) > 1:
            try:
                joint = solve(stacked([systems[name] for name in names]), settings)
            except (ValueError, ArithmeticError):
                pass  # of one member at least: each by itself will tell of which
            else:
                found |= {name: joint.member(i, systems[name]) for i, name in enumerate(names)}
                continue
        for name in names:
            try:
                found[name] = solve(systems[name], settings)
            except (ValueError, ArithmeticError) as error:
                found[name] = error
    return {name: found[name] for name in systems}


def solve_on_data(system: System, sums: DataSums) -> Solved:
    r"""A system solved with its states along data in place of its Gramians.

    With the mean of :math:`xx^T` over positions and the sum of :math:`gg^T` over those that belong to a prediction, the sum of
    the squared values that are cut foretells the squared change of the scalar for a prediction.  Without gradients Q is that
    of white noise, over the length of the data where the system is unstable.
    """
    P = sums.P / sums.positions
    Q = _white(system, sums.length)[1] if sums.Q is None else sums.Q / sums.predictions

    def mixed(share: float) -> Solved:
        white = _white(system, sums.length)
        return solve_for(system, _plus(P, white[0], share), _plus(Q, white[1], share))

    return replace(solve_for(system, P, Q), mixed=mixed)


def _plus(P: NDArray[Any], white: NDArray[Any], share: float) -> NDArray[Any]:
    """The sum, the second in a size that is a share of that of the first."""
    sizes = [np.trace(x, axis1=-2, axis2=-1).real[..., None, None] for x in (P, white)]
    return np.asarray(P + share * sizes[0] / np.where(sizes[1] > 0, sizes[1], 1.0) * white)


def _white(system: System, horizon: int) -> tuple[NDArray[Any], NDArray[Any]]:
    """Gramians, of an unstable system those over a horizon."""
    work = mapped(system, to_numpy)
    with double_precision(*work.leaves) as leaves:
        precise = with_leaves(work, leaves)
        if pole_margin(precise)[1].min(initial=1.0) > 0:
            Zp, Zq = factors(precise, None)
            return Zp @ ct(Zp), Zq @ ct(Zq)
    sums = horizon_sums(precise, horizon)
    assert sums.Q is not None
    return sums.P, sums.Q
