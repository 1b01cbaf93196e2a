"""The way back from a reduced dense system to diagonal form.

A diagonal system is reduced in the (real) coordinates of its dense form and then diagonalised again: a conjugate pair
of the reduced real system becomes one stored state, and so does a real pole.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import cached_property
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from balred.methods.method import Reduced
from balred.systems import arrays
from balred.systems.arrays import backend_of, to_numpy
from balred.systems.batches import each_array, member
from balred.systems.coordinates import Change, Complex, coefficients
from balred.systems.diagonal_system import DiagonalSystem
from balred.systems.leaves import System

_Modes: TypeAlias = tuple[NDArray[Any], ...]
"""Logarithms of poles, b, c and the four matrices of :class:`Change`, of one member of a batch."""
_Form: TypeAlias = tuple[int, "_Modes | None"]
"""How many stored states a form takes, and its modes; None where poles are unstable, or eigenvectors nearly parallel."""


class Forms:
    """The diagonal forms of what a method makes of a system, by order: a rule asks about orders that are then cut to.

    Parameters
    ----------
    template : DiagonalSystem
        What is reduced, in the precision of the computation.
    reduce : callable
        ``reduce(state, order)`` in dense coordinates, the method's.
    state : Any
        The method's state.
    original : System
        As it was given, in whose dtype the result is to be.
    margin : float or None
        How far inside the stable region all poles must lie.
    nested : bool
        Whether what the method makes is the leading block of what it makes of higher orders.

    Examples
    --------
    >>> import balred
    >>> from balred.reduction.writing_back import forms_of
    >>> a = balred.analyze(balred.testing.random_system(16, dt=1, kind="conjugate", seed=0))
    >>> forms_of(a.solved, a.settings).stored(4)
    2
    """

    def __init__(
        self,
        template: DiagonalSystem,
        reduce: Callable[[Any, int], Reduced],
        state: Any,
        original: System,
        margin: float | None,
        nested: bool,
    ) -> None:
        self._template, self._reduce, self._state, self._original, self._margin, self._nested = (
            template, reduce, state, original, margin, nested,
        )  # fmt: skip
        self._limit = float(max(arrays.eps(g.B) for g in (original, template)) ** -0.5)
        self._reduced: tuple[int, Reduced] | None = None
        self._last: tuple[int, list[_Form], Reduced] | None = None
        self._known: dict[int, list[tuple[int, bool]]] = {}
        self._members: dict[int, Forms] = {}

    def stored(self, order: int) -> int:
        """How many stored states the reduction to `order` fills, the most over a batch."""
        return max(stored for stored, _ in self._seen(order))

    def _seen(self, order: int) -> list[tuple[int, bool]]:
        """For each member the stored states that it takes, and whether its form is a good one."""
        if order not in self._known:
            self._made(order)
        return self._known[order]

    def _made(self, order: int) -> tuple[list[_Form], Reduced]:
        if self._last is None or self._last[0] != order:  # only the last one is kept: they are large
            reduced = self._to(order)
            forms = _forms(reduced, self._template, self._limit, self._margin)
            self._last = order, forms, reduced
            self._known[order] = [(stored, modes is not None) for stored, modes in forms]
        return self._last[1:]

    def _to(self, order: int) -> Reduced:
        if self._reduced is None or self._reduced[0] != order:
            self._reduced = order, self._reduce(self._state, order)
        return self._reduced[1]

    def _fitting(self, order: int, states: int) -> int:
        """The largest order up to `order` whose poles fit into `states` stored states, where leading blocks tell it.

        Their poles cost less than forms.  Of other methods, and of several members, `order` itself.
        """
        if not (self._nested and self._template.conjugate) or order <= states:
            return order
        A = to_numpy(self._to(order)[0].leaves[0])
        if A.ndim > 2:
            return order

        def crowded(k: int) -> int:
            return int((np.linalg.eigvals(A[:k, :k]).imag >= 0).sum()) - states

        k: int = min(order, self._state.cap)
        high = k + 1
        while k > 1 and (excess := crowded(k)) > 0:
            high, k = k, max(1, k - excess)
        while k + 1 < high and crowded(k + 1) <= 0:  # the step down may have been too long
            k += 1
        return k

    def within(self, order: int, states: int) -> tuple[DiagonalSystem, NDArray[np.int64], Change | None, str]:
        """The reduction to `order`, or to as much of it as fits into `states` stored states, one round trip for a whole batch.

        Each member gets the largest order, also returned, whose poles fit, lie further than the margin inside the stable
        region where there is one, and whose eigenvectors are well enough conditioned for the dtype of the original, and for that
        of the computation.  The last value tells if that, or real poles, which fill a stored state each, left fewer states.
        """
        template, be, asked = self._template, backend_of(*self._template.leaves), order
        order = self._fitting(order, states)
        made, reduced = self._made(order)
        batch, D = tuple(template.B.shape[:-2]), reduced[0].D
        orders = np.full(len(made), order)
        modes = [one if stored <= states else None for stored, one in made]
        wrong = [i for i, one in enumerate(modes) if one is None]
        unfit = False
        if wrong:
            feedthrough = np.broadcast_to(to_numpy(D), (*batch, *D.shape[-2:])).reshape(-1, *D.shape[-2:]).copy()
            for i in wrong:
                one = self._of_member(i)
                orders[i], bad = one._largest(one._fitting(order, states), states)
                unfit |= bad
                [(_, modes[i])], (small, _, _) = one._made(int(orders[i]))
                feedthrough[i] = to_numpy(small.D)
            D = be.from_numpy(feedthrough.reshape(*batch, *D.shape[-2:]), like=template.B)
        parts = [one for one in modes if one is not None]
        count = max(len(one[0]) for one in parts)
        several = zip(*(_extended(one, count) for one in parts), strict=True)
        log_poles, b, c, *maps = (np.stack(x).reshape(*batch, *x[0].shape) for x in several)
        log_poles, b, c = (be.from_numpy(x, like=template.B) for x in (log_poles, b, c))
        small_one = DiagonalSystem(log_poles, b, c, D, template.dt, template.conjugate)
        note = ""
        if unfit:
            note = f"order {int(orders.min())} instead of {asked}, which has unstable poles or nearly parallel eigenvectors"
        elif count < states and int(orders.min()) < asked:
            note = f"{count} states instead of {states}: real poles fill one each, and the next order needs more than {states}"
        return small_one, orders.reshape(batch), None if reduced[1] is None else Change(*maps), note

    @cached_property
    def _on_host(self) -> Any:
        return each_array(self._state, to_numpy)

    def _of_member(self, i: int) -> Forms:
        """Those of one member of a batch, on the host: what remains is a search, in steps too small for a device."""
        batch = tuple(self._template.B.shape[:-2])
        if i not in self._members:
            if not batch and backend_of(*self._template.leaves).on_host(self._template.B):
                return self
            state = member(self._on_host, np.unravel_index(i, batch)) if batch else self._on_host
            self._members[i] = Forms(self._template, self._reduce, state, self._original, self._margin, self._nested)
        return self._members[i]

    def _largest(self, order: int, states: int) -> tuple[int, bool]:
        """The largest order up to `order` of which a good form takes no more than `states`, and whether a bad one was in the way.

        One state less frees at most one stored state, as a rule, so an order that takes too many tells the next one to
        try.  Below a bad form it is one of 16 at most, and between the last bad one and a good one the interval is halved: to
        try every order would take as long as hundreds of cuts.
        """
        good = [k for k, [(stored, fit)] in self._known.items() if k <= order and fit and stored <= states]
        low, high, k, unfit = max(good, default=0), order + 1, order, False
        while True:
            [(stored, fit)] = self._seen(k)
            crowded = stored - states
            if fit and crowded <= 0:
                low = max(low, k)
            else:
                high, unfit = k, unfit or crowded <= 0
            if high - low <= 1:
                break
            if crowded > 0:
                k -= crowded
            elif not fit:
                k -= max(1, order // 16)
            else:
                k = (low + high) // 2 if unfit else low + 1  # the step down may have been too long
            if k <= low:
                k = (low + high) // 2
        if low == 0:
            raise ValueError(
                "the reduced system must have a diagonal form, which is what a layer holds, got nearly parallel eigenvectors or "
                f"unstable poles with {states} states and with fewer"
            )
        return low, unfit


def _forms(reduced: Reduced, template: DiagonalSystem, limit: float, least: float | None) -> list[_Form]:
    """For each member: how many stored states it takes, and its modes if they are stable and well conditioned."""
    g, L, R = reduced
    A, B, C = (to_numpy(x) for x in g.leaves)
    poles, vectors = np.linalg.eig(A)
    vectors = vectors.astype(np.complex128)
    condition = np.linalg.cond(vectors) if poles.size else np.ones(poles.shape[:-1])
    usable = np.isfinite(condition)[..., None]
    vectors = np.where(usable[..., None], vectors, np.eye(vectors.shape[-1]))
    paired = np.where(usable, poles, 0.0)
    b, c = coefficients(paired, vectors, B), C @ vectors
    picked = _picked(poles, b, c, template.conjugate)
    margin = (1 - np.abs(poles)) if template.discrete else -poles.real
    good = condition < limit
    if least is not None:
        good &= np.all(margin > least, axis=-1)
    if L is None or R is None:  # no projection: there are no coordinates to carry over
        V, W = (
            np.zeros((*b.shape[:-2], *shape))
            for shape in ((template.order, b.shape[-2]), (b.shape[-2], template.order))
        )
    else:
        V, W = to_numpy(R) @ vectors, coefficients(paired, vectors, to_numpy(L))
    flat = [x.reshape(good.size, *x.shape[-2:]) for x in (b, c, V, W)]
    members = zip(poles.reshape(good.size, poles.shape[-1]), picked, good.reshape(-1), *flat, strict=True)
    return [(len(at), _one_mode_set(template, lam, at, *four) if fine else None) for lam, at, fine, *four in members]


def _picked(poles: NDArray[Any], b: NDArray[Any], c: NDArray[Any], conjugate: bool) -> list[NDArray[np.intp]]:
    """For each member of a batch the indices of the modes to store, by decreasing modulus of the pole.

    All, or one of each conjugate pair and the real ones; but not those that stand for states a member does not have.
    """
    alive = (np.abs(b).max(axis=-1) > 0) | (np.abs(c).max(axis=-2) > 0)
    chosen, rows = [], (math.prod(poles.shape[:-1]), poles.shape[-1])
    for lam, living in zip(poles.reshape(rows), alive.reshape(rows), strict=True):
        index = np.flatnonzero(living & (lam.imag >= 0)) if conjugate else np.flatnonzero(living)
        chosen.append(index[np.lexsort((lam[index].imag, -np.abs(lam[index])))])
    return chosen


def _one_mode_set(template: DiagonalSystem, poles: Complex, picked: NDArray[np.intp], *parts: Complex) -> _Modes:
    """The modes picked of one member; `parts` are its b, c, right and left eigenvectors in coordinates of the state."""
    b, c, V, W = parts
    lam = poles[picked].astype(np.complex128)
    b, c, V, W = b[picked], c[:, picked], V[:, picked], W[picked]
    if template.conjugate:
        # a stored state speaks twice (2 Re), so a real mode must speak half as loud
        half = np.where(lam.imag == 0, 0.5, 1.0)
        c, V = c * half, V * half
        n = V.shape[0] // 2
        top, bottom = V[:n], V[n:]
        V1, V2 = (top + 1j * bottom) / 2**0.5, np.conj(top - 1j * bottom) / 2**0.5
        left, right = W[:, :n], W[:, n:]
        W1, W2 = (left - 1j * right) / 2**0.5, (left + 1j * right) / 2**0.5
    else:
        V1, V2, W1, W2 = V, np.zeros_like(V), W, np.zeros_like(W)
    # the modes' scale is free: give input and output vectors the same norm, and a sign that rounding cannot turn
    nb, nc = np.linalg.norm(b, axis=1), np.linalg.norm(c, axis=0)
    scale = np.sqrt(np.where((nb > 0) & (nc > 0), nc, 1.0) / np.where((nb > 0) & (nc > 0), nb, 1.0))
    largest = np.take_along_axis(b, np.abs(b).argmax(axis=1, keepdims=True), axis=1)[:, 0]
    scale = np.where(largest.real < 0, -scale, scale)
    b, c, V1, V2, W1, W2 = (
        b * scale[:, None],
        c / scale,
        V1 / scale,
        V2 / scale,
        W1 * scale[:, None],
        W2 * scale[:, None],
    )
    if template.discrete:
        lam = np.where(lam == 0, np.finfo(np.float64).tiny, lam)
        logs = np.log(lam)
    else:
        logs = lam
    return logs, b, c, V1, V2, W1, W2


def _extended(modes: _Modes, count: int) -> _Modes:
    """`modes` and, where they are fewer than `count`, states that neither hear nor speak."""
    logs, b, c, V1, V2, W1, W2 = modes
    extra = count - len(logs)
    if extra:
        logs = np.concatenate([logs, np.full(extra, -1.0)])
        b, W1, W2 = (np.concatenate([x, np.zeros((extra, x.shape[1]))]) for x in (b, W1, W2))
        c, V1, V2 = (np.concatenate([x, np.zeros((x.shape[0], extra))], axis=1) for x in (c, V1, V2))
    return logs, b, c, V1, V2, W1, W2
