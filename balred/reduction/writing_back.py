"""Cut a solved system to a rank, and write it back in the structure, array library and precision of the given system.

If the method cannot reduce unstable modes, they were set aside before; here they are added again.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from balred.measures.promises import check_promises
from balred.methods.method import Method, Of, State
from balred.ranks.choosing import RankWarning, check_rank
from balred.reduction.diagonalisation import Forms
from balred.reduction.settings import Settings
from balred.reduction.solve import Solved
from balred.systems import arrays
from balred.systems.arrays import (
    Array,
    backend_of,
    in_precision,
    is_double,
    is_one,
    namespace,
    to_numpy,
    warn_caller,
)
from balred.systems.checks import check_representable
from balred.systems.coordinates import Change
from balred.systems.dense_system import DenseSystem
from balred.systems.diagonal_system import DiagonalSystem
from balred.systems.leaves import System, with_leaves
from balred.systems.parts import join, without_first
from balred.systems.poles import UnstableError, known_poles, pole_margin, warn_if_unstable

_FEW = 64
"""Beyond so many states the solution takes longer than all that goes with it."""
_PARTS_EQUALS = "try another rank, because this one separates Hankel singular values that are equal, or that are rounding errors of the first"


@dataclass(frozen=True, repr=False)
class Reduction:
    """A reduced system and what is known of it.

    Examples
    --------
    >>> import balred
    >>> made = balred.analyze(balred.testing.random_system(20, seed=0)).reduction(4)
    >>> made.stable_order, made.capped
    (4, False)
    """

    system: System
    orders: NDArray[np.int64]
    """Order of the stable part's reduced operator (for a conjugate system up to twice its stored states), shape (...)."""
    bound: NDArray[np.float64]
    change: Change | None = None
    """None where nothing was diagonalised: a dense system, an unstable part, or nothing cut."""
    capped: bool = False
    """Whether the numerical rank leaves no more states than these."""
    note: str = ""
    """What a reader must know of how it was made."""

    @property
    def stable_order(self) -> int:
        """The order of the stable part's reduced operator, the least over a batch."""
        return int(self.orders.min())

    def __repr__(self) -> str:
        return f"Reduction({self.system!r}, bound={self.bound})"


def reduced(solved: Solved, settings: Settings, rank: int) -> Reduction:
    """The reduction of a solved system to `rank` states.

    Raises
    ------
    ValueError
        `rank` is out of range; no input reaches an output; the reduced
        system cannot be diagonalised accurately.

    Warns
    -----
    InstabilityWarning
        What was made of the part that the method sees has more unstable modes than that part.

    Examples
    --------
    >>> import balred
    >>> from balred.reduction.writing_back import reduced
    >>> a = balred.analyze(balred.testing.random_system(20, seed=0))
    >>> made = reduced(a.solved, a.settings, 4)
    >>> made.system.states, bool(made.bound == a.bound(4))
    (4, True)
    """
    system, method = solved.system, settings.row
    be = backend_of(system.B)
    rank = check_rank(rank, system.states)
    kept, state, stable, fixed = solved.unstable, solved.state, solved.stable, solved.fixed
    batch = solved.sigma.shape[:-1]
    if rank < fixed:
        raise ValueError(
            f"rank must be at least the number of unstable modes, {fixed}, which are kept whole, got {rank}"
        )
    if state is None or stable is None:
        return Reduction(system, np.zeros(batch, np.int64), np.zeros(batch))
    if rank == system.states and isinstance(system, DiagonalSystem):
        return Reduction(system, np.full(batch, stable.order), np.zeros(batch))  # already diagonal, nothing to cut
    unit = stable.order // stable.states
    cap = state.cap
    if cap == 0 and not fixed:
        raise ValueError(
            "a system must have a nonzero Hankel singular value to be reduced, got none: inputs do not reach outputs"
        )
    order = min((rank - fixed) * unit, cap)
    with in_precision(settings.precision, *stable.leaves) as leaves:
        precise = with_leaves(stable, leaves)
        small: System
        if isinstance(precise, DiagonalSystem):
            small, orders, change, note = forms_of(solved, settings).within(order, rank - fixed)
        else:
            (small, _, _), change = method.reduced(state, order), None
            full = order
            while settings.on_data and order > 1 and not _within(small, solved.margin):
                order -= 1
                small = method.reduced(state, order)[0]
            if settings.on_data and not _within(small, solved.margin):
                raise ValueError(
                    "no pole of the reduced system may grow faster than the full system's, got such a pole at every order"
                )
            note = "" if order == full else f"order {order} instead of {full}, whose poles would grow too fast"
            orders = np.full(batch, min(order, small.order))
        bound = _bounds(method, state, orders)
        if not batch and method.gap is not None:
            _told_of_promise(settings, state, small, int(orders))
        joined = join(kept, small)
    if backend_of(joined.B) is be:
        narrow = with_leaves(joined, tuple(_cast(x, like=system.B) for x in joined.leaves))
    else:  # analysed on the host
        narrow = arrays.mapped(joined, lambda x: be.from_numpy(x, like=system.B))
    for x in narrow.leaves:
        check_representable("entries of the reduced system", x)
    capped = int(orders.min()) == cap
    change = None if kept is not None or change is None else change.within(solved.units)
    _told_of_unstable(narrow, solved, settings)
    return Reduction(narrow, orders, np.asarray(bound), change, capped, note)


def forms_of(solved: Solved, settings: Settings) -> Forms:
    """The diagonal forms of a solved system's reductions, made once for all that is asked of them."""
    stable = solved.stable
    assert isinstance(stable, DiagonalSystem)
    if settings.method not in solved.forms:
        with in_precision(settings.precision, *stable.leaves) as leaves:
            template = with_leaves(stable, leaves)
            assert isinstance(template, DiagonalSystem)
            solved.forms[settings.method] = Forms(
                template, settings.row.reduced, solved.state, solved.system, solved.margin, settings.row.nested
            )
    return solved.forms[settings.method]


def reduced_at_once(system: System, settings: Settings, rank: int) -> DenseSystem | None:
    """One stable dense system of NumPy in double precision reduced to `rank` states, and nothing beside; None of others.

    What :func:`reduced` makes of it.  To keep parts aside, and what may be asked of an analysis, takes as long as to reduce a few states.

    Examples
    --------
    >>> import balred
    >>> from balred.reduction.writing_back import reduced_at_once
    >>> g, a = balred.testing.random_system(20, seed=0), Settings("singular_perturbation")
    >>> bool((reduced_at_once(g, a, 4).A == balred.analyze(g, method=a.method).reduce(4).A).all())
    True
    """
    row, leaves = settings.row, (*system.leaves, system.D)
    if (
        row.takes != "arrays"
        or row.gap is not None
        or settings.offset is not None
        or settings.precision != "float64"
        or settings.options
    ):
        return None
    if not (isinstance(system, DenseSystem) and 0 < system.order <= _FEW):
        return None
    if not all(is_one(x) and x.dtype.char in "dD" for x in leaves):
        return None
    with backend_of(system.A).double_scope():
        try:
            state = row.prepared(system, settings.solver)
        except (UnstableError, ArithmeticError):
            return None
        if (cap := state.cap) == 0:
            return None
        small = row.reduced(state, min(rank, cap))[0]
        assert isinstance(small, DenseSystem)
    for x in (*small.leaves, small.D):
        check_representable("entries of the reduced system", x)
    warn_if_capped(rank, small.states, small.states == cap)
    what = f"the system that {settings.method!r} reduced to {small.states} states"
    warn_if_unstable(small, 0, what, _PARTS_EQUALS)
    return small


def _bounds(method: Method, state: State, orders: NDArray[np.int64]) -> NDArray[np.float64]:
    if not orders.ndim:
        return method.bounded(state, int(orders))
    bounds = {int(k): method.bounded(state, int(k)) for k in np.unique(orders)}
    return np.select([orders == k for k in bounds], list(bounds.values()))


def _told_of_promise(settings: Settings, state: State, small: System, order: int) -> None:
    """The result of a method that does not compare it with its bound by itself."""
    method, dense = settings.row, small.to_dense()
    promise = method.promise(state, dense, settings.options, order)
    if promise is not None:
        of = "error" if method.bounds is Of.ERROR else str(method.bounds)
        near = "zeros" if method.bounds is Of.RELATIVE else "poles"
        check_promises([promise], dense.order, of, near)


def _told_of_unstable(small: System, solved: Solved, settings: Settings) -> None:
    """Every method's result is looked at here, as it is written back: not all keep stability, and rounding may cost it."""
    method = settings.row
    rest = without_first(small, solved.fixed) if solved.fixed else small

    def had() -> Any:
        if not (method.takes_unstable or settings.on_data):
            return 0
        return (~known_poles(arrays.mapped(solved.system, to_numpy)).inside()).sum(axis=-1)

    def how() -> str:
        if "stable" in method.options and not settings.options.get("stable", False):
            return f"stable=True is the variant of {settings.method!r} that keeps stability"
        if method.takes == "arrays":
            return _PARTS_EQUALS
        return "try another rank, or method 'truncate', which leaves unstable modes as they are and the others stable"

    warn_if_unstable(rest, had, f"the system that {settings.method!r} reduced to {small.states} states", how)


def _within(g: System, margin: float | None) -> bool:
    """Whether the poles lie so far inside the stable region."""
    poles = pole_margin(arrays.mapped(g, to_numpy))[0]
    return margin is None or bool(np.all(((1 - np.abs(poles)) if g.discrete else -poles.real) > margin))


_SHARES = (1e-3, 1e-2, 1e-1, 1.0, 1e2)
_ENOUGH = 0.75
"""An order that was lowered by less is left so."""


def reduced_or_mended(solved: Solved, settings: Settings, rank: int) -> Reduction:
    """The reduction; where data leave it no stable form of nearly that order, with the least share of white noise that does.

    Raises
    ------
    ValueError
        As :func:`reduced`, if no share helps.
    """
    made: Reduction | ValueError
    try:
        made = reduced(solved, settings, rank)
    except ValueError as error:
        made = error
    if solved.mixed is None or not 1 <= rank <= solved.system.states or _fits(made, rank * solved.unit):
        if isinstance(made, ValueError):
            raise made
        return made
    for share in _SHARES:
        try:
            other = reduced(solved.mixed(share), settings, rank)
        except ValueError:
            continue
        if _fits(other, rank * solved.unit):
            note = f"a share of {share:g} of white noise was added to the data, without which poles would grow too fast or eigenvectors be nearly parallel"
            return replace(other, note="; ".join(filter(None, [note, other.note])))
    if isinstance(made, ValueError):
        raise made
    return made


def _fits(made: Reduction | ValueError, order: int) -> bool:
    return isinstance(made, Reduction) and (not made.note or made.stable_order >= _ENOUGH * order)


def warn_if_capped(rank: int, states: int, capped: bool, *, recorded: bool = False) -> None:
    """Warn that `rank` states were asked for and the numerical rank leaves `states`."""
    if capped and states < rank:
        more = ", because the recordings excite no more" if recorded else ""
        warn_caller(
            f"rank {rank} is beyond the numerical rank; the order of the reduced system is {states}{more}", RankWarning
        )


def _cast(x: Array, like: Array) -> Array:
    if is_double(x) and is_double(like):
        return x
    xp = namespace(x)
    wide = like.dtype in (xp.float64, xp.complex128)
    dtypes = (xp.float64, xp.complex128) if wide else (xp.float32, xp.complex64)
    return xp.astype(x, dtypes[arrays.is_complex(x)])
