"""The units of states: powers of two that give rows and columns of a system like norms.

A state in metres beside one in nanometres is no harder than two in metres, but norms and orthogonal bases, which mix
states, lose the small one's digits.  Other units lose none, because powers of two round nothing.  The state matrix
decides first, by LAPACK's balancing; inputs and outputs decide between states that do not drive each other.
"""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from balred.systems import arrays
from balred.systems.arrays import Array, backend, backend_of, ct, is_concrete, is_one, namespace, to_numpy
from balred.systems.dense_system import DenseSystem
from balred.systems.leaves import System, are_ordinary, with_leaves

Matrix = NDArray[Any]

_PORTS = 0.125
"""What inputs and outputs weigh beside the state matrix where groups of states are not told apart."""
_UNEVEN = 1024.0
"""Units of state that differ by less are left as they are by :func:`in_even_units`."""
_BALANCINGS = 40
"""A chain of states that lead on by 1e8 of their own size is even after so many."""
_SWEEPS = 8
"""How often every state's unit is chosen where nobody can look whether it still changes."""


class Coordinates(NamedTuple):
    """How states x' that were computed with stand for those that were given: x = right x', x' = left x.

    Attributes
    ----------
    d : array, shape (..., n), or None
        Units: right = diag(d).
    right, left : arrays, shape (..., n, n), or None
        Where units are not all.
    """

    d: Array | None
    right: Array | None = None
    left: Array | None = None

    def before(self, X: Array) -> Array:
        """``right @ X``."""
        if self.right is not None:
            return self.right @ X
        return X if self.d is None else self.d[..., :, None] * X

    def after(self, Y: Array) -> Array:
        """``Y @ left``."""
        if self.left is not None:
            return Y @ self.left
        return Y if self.d is None else Y / self.d[..., None, :]

    def within(self, d: Array | None) -> Coordinates:
        """The same as seen from outside of units d: right becomes diag(d) right."""
        if d is None:
            return self
        if self.right is None or self.left is None:
            return Coordinates(d if self.d is None else d * self.d)
        return Coordinates(None, d[..., :, None] * self.right, self.left / d[..., None, :])

    def factors(self, Zp: Array, Zq: Array) -> tuple[Array, Array]:
        """Gramian factors of the system as it was given, from those in these coordinates."""
        return self.before(Zp), ct(self.after(ct(Zq)))

    def cotangents(self, dA: Array, dB: Array, dC: Array) -> tuple[Array, Array, Array]:
        """Derivatives with respect to A, B and C as given, from those in these coordinates (A' = left A right)."""
        half = ct(self.before(ct(dA)))
        return ct(self.after(ct(half))), ct(self.after(ct(dB))), ct(self.before(ct(dC)))


def rescaled(A: Matrix, B: Matrix, C: Matrix) -> tuple[Matrix, Matrix, Matrix, Matrix]:
    """One system (NumPy) in other units, with rows of [A, B] and columns of [A; C] of like norms, and d: x = d x_new."""
    d = even_units(A, B, C).astype(A.real.dtype)
    return A * d / d[:, None], B / d[:, None], C * d, d


def even_units(A: Matrix, B: Matrix, C: Matrix) -> NDArray[np.float64]:
    r"""Powers of two d for one system (NumPy), x = d x_new, that make its rows and columns alike.

    First of the state matrix alone, until rows and columns are alike beside its diagonal.  That leaves open how large
    groups of states are beside each other that do not drive each other both ways: inputs, outputs and what leads from
    group to group decide that, relative to their own norms in the new units.  So neither the units of inputs, outputs
    and time nor those of the states as given decide.

    References
    ----------
    R. James, J. Langou and B. R. Lowery, On matrix balancing and eigenvector computation, 2014 (LAPACK's xGEBAL).

    Examples
    --------
    >>> import numpy as np
    >>> even_units(np.array([[-1.0, 1e6], [1e-6, -1.0]]), np.ones((2, 1)), np.ones((1, 2)))
    array([5.120000e+02, 9.765625e-04])
    """
    n = len(A)
    if n < 2 or already_even(A).all():
        return np.ones(n)
    W = np.abs(A)
    edges = W != 0
    W = W * _inverse_size(W)
    groups = np.zeros(n, np.int64) if edges.all() else _groups(edges)
    # what leads one way only would be made as small as rounding
    within = np.where(groups[:, None] != groups, 0.0, W)
    d = np.ones(n) if _alike(within) else balanced(within)
    b, c = (np.linalg.norm(x * _inverse_size(x), axis=axis) for x, axis in ((B, 1), (C, 0)))
    return np.asarray(d * _between(W * d / d[:, None], b / d, c * d, groups, by_rate=True))


def _of_one_group(A: Matrix, B: Matrix, C: Matrix) -> NDArray[np.float64]:
    """The same of a batch whose states all drive each other, and are not even, shape (..., n)."""
    W, b, c = (np.abs(x) for x in (A, B, C))
    W, b, c = (x * np.ldexp(1.0, -np.frexp(x.max(axis=(-2, -1), keepdims=True, initial=0.0))[1]) for x in (W, b, c))
    d = balanced(W)
    b, c = (np.linalg.norm(x, axis=(-2, -1)) for x in (b / d[..., None], c * d[..., None, :]))
    size = c / np.where(b > 0, b, 1.0)
    uniform = 2.0 ** -np.round(np.log2(np.where(size > 0, size, 1.0)) / 2)
    return np.asarray(d * uniform[..., None])


def already_even(A: Matrix) -> NDArray[np.bool_]:
    """Whether :func:`even_units` leaves a state matrix, or each of a batch, as it is: told by a few sums, shape (...).

    Every state drives every other, and no row is four times as long as its column, or a quarter, beside its diagonal.
    """
    if is_one(A) and are_ordinary(A):  # the same in fewer calls
        S = np.square(A if A.dtype.kind == "f" else np.abs(A))
        ones = _ones(len(A), S.dtype)
        rows, columns = S.dot(ones), ones.dot(S)
        if not np.minimum.reduce(S, axis=None) > 1e-30 * rows.dot(ones):
            return np.asarray(False)
        least = np.minimum(16 * columns - rows, 16 * rows - columns)
        return np.asarray((least >= 15 * S.diagonal()).all())
    W = np.abs(A)
    largest = W.max(axis=(-2, -1), keepdims=True)
    if not np.isfinite(largest).all():
        return np.zeros(A.shape[:-2], bool)
    W *= np.ldexp(1.0, -np.frexp(largest)[1])
    W *= W
    rows, columns = W.sum(-1), W.sum(-2)
    own = 15 * W.diagonal(axis1=-2, axis2=-1)
    alike = (rows + own <= 16 * columns) & (columns + own <= 16 * rows)
    return np.asarray((W != 0).all(axis=(-2, -1)) & alike.all(axis=-1))


@functools.lru_cache(maxsize=64)
def _ones(n: int, dtype: np.dtype[Any]) -> Matrix:
    ones = np.ones(n, dtype)
    ones.flags.writeable = False
    return ones


def whole_units(A: Matrix, B: Matrix, C: Matrix) -> NDArray[np.float64]:
    """Other units than :func:`even_units`: inputs and outputs count as much as the state matrix, for every state.

    They are better where states drive each other by rounding errors only, and worse for filters in companion form.
    """
    W = np.abs(A)
    b, c = (np.linalg.norm(x * _inverse_size(x), axis=axis) for x, axis in ((B, 1), (C, 0)))
    return _between(W * _inverse_size(W), b, c, np.arange(len(A)))


def balanced(M: Matrix) -> NDArray[np.float64]:
    """LAPACK's balancing of a nonnegative matrix, or of each of a batch."""
    d: NDArray[np.float64] = backend("numpy").balancing(M)
    return d


def _alike(W: Matrix) -> bool:
    """Whether balancing would find little to do: no row is four times as long as its column, or a quarter."""
    with np.errstate(all="ignore"):
        S = W * W
        own = S.diagonal()
        rows, columns = S.sum(1) - own, S.sum(0) - own
        return bool(np.all((rows <= 16 * columns) & (columns <= 16 * rows)))


def _groups(edges: NDArray[np.bool_]) -> NDArray[np.int64]:
    """For every state the first of those that it drives and that drive it: one number for each such group, from 0 on."""
    n = len(edges)
    if n > 64:
        return np.asarray(backend("scipy").strong_components(edges))
    reach = edges | np.eye(n, dtype=bool)
    for _ in range(int(n - 1).bit_length()):
        reach = (reach.astype(np.float32) @ reach) > 0
    first = (reach & reach.T).argmax(axis=1)
    return np.asarray(np.unique(first, return_inverse=True)[1]) if first.any() else first


def _between(W: Matrix, b: Matrix, c: Matrix, groups: NDArray[np.int64], by_rate: bool = False) -> Matrix:
    """The units of whole groups of states, which balancing state by state would take for ever to find."""
    if not groups.any():  # one group: inputs and outputs alike
        size = float(np.linalg.norm(c)) / (float(np.linalg.norm(b)) or 1.0)
        return np.full(len(b), 2.0 ** -np.round(np.log2(size) / 2) if size else 1.0)
    count = int(groups.max()) + 1
    member = np.zeros((len(b), count))
    member[np.arange(len(b)), groups] = 1.0
    M = np.zeros((count + 1, count + 1))
    W = W * _inverse_size(W)
    between, b, c = np.sqrt(member.T @ W**2 @ member), np.sqrt(b**2 @ member), np.sqrt(c**2 @ member)
    own = between.diagonal().copy()
    inside = float(np.linalg.norm(own))
    np.fill_diagonal(between, 0.0)
    if by_rate and inside:
        # what a group passes on it has for as long as it lasts: beside slow states that is more
        rate = np.sqrt(np.where(own > 0, own, inside))
        between, b, c, inside = between / rate / rate[:, None], b / rate, c / rate, count**0.5
    d = np.ones(count)
    for _ in range(_BALANCINGS):
        M[:-1, :-1] = between * d / d[:, None]
        size = (
            inside or float(np.linalg.norm(M[:-1, :-1])) or 1.0
        )  # so that what leads on becomes as large as what stays
        x, y = b / d, c * d
        M[:-1, -1], M[-1, :-1] = (v * (size / (float(np.linalg.norm(v)) or 1.0)) for v in (x, y))
        factor = balanced(M)
        factor = factor[:-1] / factor[-1]
        d = d * factor
        if factor.max() <= 2 * factor.min():
            break
    return np.asarray(d[groups])


def _inverse_size(x: Matrix) -> float:
    """A power of two that brings the largest entry of `x` near one."""
    largest = float(np.abs(x).max(initial=0.0))
    return float(np.ldexp(1.0, min(-int(np.frexp(largest)[1]), 1022))) if largest else 1.0


def even_factors(b: Array, c: Array) -> Array:
    """Powers of two d, shape (..., n), with b / d and c d of one size for each state; what inputs do not reach, or outputs
    do not see, is as large as the largest of the others."""
    if b.shape[-1] == 0:
        return b
    xp = namespace(b, c)
    root = xp.sqrt(b) * xp.sqrt(c)
    if isinstance(root, np.ndarray) and root.size and root.min() > 0:  # nothing to mask, and fewer calls
        return 2.0 ** np.round(np.log2(b / root))
    one = xp.ones_like(b)
    most = xp.max(root, axis=-1, keepdims=True)
    most = xp.where(most > 0, most, xp.ones_like(most)) * one
    d = xp.where(b > 0, b, most) / xp.where(root > 0, root, most)
    d = xp.where((b > 0) | (c <= 0), d, most / xp.where(c > 0, c, one))
    d = xp.where((b > 0) | (c > 0), d, one)
    power: Array = 2.0 ** xp.round(xp.log2(d))
    return power


def in_even_units(system: System, uneven: float = _UNEVEN) -> tuple[System, np.ndarray[Any, Any] | None]:
    """A single system on the host in other units of state, and d (x = d x_new), where its own lie `uneven` apart.

    Other systems as they are, and None: what some methods make depends a little on the coordinates (frequency-weighted
    balancing with definite parts, say), and those given are the ones to use where they do no harm.

    Examples
    --------
    >>> import balred, numpy as np
    >>> g = balred.ss([[-1.0, 1e6], [1e-6, -1.0]], np.ones((2, 1)), np.ones((1, 2)))
    >>> even, d = in_even_units(g)
    >>> bool(np.abs(even.A).max() < 2), np.allclose(even(1j), g(1j))
    (True, True)
    """
    if not is_one(system.B) or system.order < 2:
        return system, None
    if isinstance(system, DenseSystem):
        A = _change(system.A, system.discrete)
        if already_even(A):
            return system, None
        d = even_units(A, system.B, system.C).astype(system.A.real.dtype)
    else:
        sizes = ((system.B, 1), (system.C, 0))
        d = even_factors(*(np.linalg.norm(x * _inverse_size(x), axis=axis) for x, axis in sizes))
    if d.max() <= uneven * d.min():
        return system, None
    if not isinstance(system, DenseSystem):
        poles, B, C = system.leaves
        return with_leaves(system, (poles, B / d[:, None], C * d)), d
    return in_units(system, d), d


def evened(system: DenseSystem) -> tuple[DenseSystem, Array | None]:
    """Dense systems of any array library in even units, and d, shape (..., n): x = d x_new; None if they are even as given.

    The units are constants for derivatives, and powers of two.
    """
    A, B, C = system.leaves
    if system.order < 2:
        return system, None
    be = backend_of(A, B, C)
    if is_one(A):  # the same in fewer calls
        host = [_change(A, system.discrete), B, C]
        if already_even(host[0]):
            return system, None
        units = _of_one_group(*(x[None] for x in host))[0] if host[0].all() else even_units(*host)
        if (units == 1).all():
            return system, None
        d = be.from_numpy(units, like=A, real=True)
    elif is_concrete(A, B, C):
        host = [to_numpy(be.stop_gradient(x)) for x in (A, B, C)]
        host[0] = _change(host[0], system.discrete)
        even = already_even(host[0])
        if even.all():
            return system, None
        units = np.ones(host[0].shape[:-1])
        whole = ~even & (host[0] != 0).all(axis=(-2, -1))
        if whole.any():
            units[whole] = _of_one_group(*(x[whole] for x in host))
        for i in np.argwhere(~(even | whole)):
            units[tuple(i)] = even_units(*(x[tuple(i)] for x in host))
        if (units == 1).all():
            return system, None
        d = be.from_numpy(units, like=A, real=True)
    else:
        d = _swept(*(be.stop_gradient(x) for x in (A, B, C)))
    return in_units(system, d), d


def _change(A: Matrix, discrete: bool) -> Matrix:
    """What a step of time changes of the states, where that is little; of other systems A itself."""
    if not discrete:
        return A
    change = A - np.eye(A.shape[-1], dtype=A.dtype)
    small = np.linalg.norm(change, axis=(-2, -1)) < 1
    return np.asarray(np.where(small[..., None, None], change, A))


def in_units(system: DenseSystem, d: Array) -> DenseSystem:
    """`system` with states x_new, x = d x_new."""
    A, B, C = system.leaves
    leaves = (A * (d[..., None, :] / d[..., :, None]), B / d[..., :, None], C * d[..., None, :])
    return DenseSystem(*leaves, system.D, system.dt)


def _swept(A: Array, B: Array, C: Array) -> Array:
    """The units of :func:`even_units` by sweeps over the states, in operations that can be traced."""
    xp, be = namespace(A), backend_of(A)
    n = int(A.shape[-1])
    one = arrays.eye(arrays.real(A), n)
    W, b, c = xp.abs(A) * (1 - one), xp.sum(xp.abs(B), axis=-1), xp.sum(xp.abs(C), axis=-2)
    tiny = float(xp.finfo(W.dtype).smallest_normal)

    def relative(x: Array, axis: int | tuple[int, int]) -> Array:
        return x / xp.maximum(xp.max(x, axis=axis, keepdims=True), xp.full_like(x[..., :1], tiny)[..., :1])

    W = W / xp.maximum(xp.max(xp.abs(A), axis=(-2, -1), keepdims=True), arrays.full(W, (1, 1), tiny))
    diagonal = xp.abs(xp.linalg.diagonal(A))
    diagonal = diagonal / xp.maximum(xp.max(xp.abs(A), axis=(-2, -1))[..., None], arrays.full(W, (1,), tiny))
    b, c = relative(b, -1), relative(c, -1)

    def step(state: tuple[Any, ...]) -> tuple[Any, ...]:
        d, count = state
        e = xp.take(one, count % n, axis=0) if not isinstance(count, int) else one[count % n]
        x, y = b / d, c * d
        S = W * (d[..., None, :] / d[..., :, None])
        size = xp.sum(S, axis=(-2, -1)) + xp.sum(diagonal, axis=-1)
        # the first half of the sweeps is the state matrix's alone
        late = xp.astype(xp.asarray(count) >= (_SWEEPS // 2) * n, W.dtype)
        weigh = late * _PORTS * size
        row = xp.sum(xp.sum(S, axis=-1) * e, axis=-1) + weigh * _share(x, e)
        column = xp.sum(xp.sum(S, axis=-2) * e, axis=-1) + weigh * _share(y, e)
        both = (row > 0) & (column > 0)
        ratio = xp.where(both, row, xp.ones_like(row)) / xp.where(both, column, xp.ones_like(row))
        factor = 2.0 ** xp.round(xp.log2(ratio) / 2)
        return d * (1 + e * (factor[..., None] - 1)), count + 1

    def _share(x: Array, e: Array) -> Array:
        total = xp.sum(x, axis=-1)
        return xp.sum(x * e, axis=-1) / xp.where(total > 0, total, xp.ones_like(total))

    start = (xp.ones_like(b), xp.asarray(0))
    d: Array = be.while_loop(lambda state: state[1] < _SWEEPS * n, step, start)[0]
    return d
