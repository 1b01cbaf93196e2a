r"""LinOSS layers: banks of forced oscillators, of which whole ones are kept.

Every oscillator n makes two states from the drive :math:`Bu` (Rusch and Rus, ICLR 2025, arXiv 2410.03943; damped: Boyer,
Rusch and Rus, arXiv 2505.12171),

.. math:: \begin{pmatrix} z_k\\ x_k\end{pmatrix} = M_n \begin{pmatrix} z_{k-1}\\ x_{k-1}\end{pmatrix} + f_n (Bu_k)_n,
   \qquad y_k = \mathrm{Re}(C x_k) + D \odot u_k,

so the operator is :math:`\sum_n h_n(k)\, R_n` with a scalar response :math:`h_n` and :math:`R_n = \mathrm{Re}(c_n b_n)`.  A reduced system
has no such form, but the layer is time-invariant: for white noise the error of every set of oscillators follows from
:math:`\sum_k h_n(k)h_m(k)`, and so do the best C for given B and the best B for given C.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from balred.arrays import Array, eye, namespace, to_numpy
from balred.selection import FloatArray, Moments, Selection, select
from balred.systems import DenseSystem, ss

HORIZON = 4096
"""Steps over which energy counts where an oscillator is not damped, so that it has none over all time, and nobody says."""
_DAMPED = 1e-6
_RIDGE = 1e-8
"""Relative weight that holds B and C at what they are where the error does not say better."""
_SWEEPS = 20


def is_linoss(tree: Mapping[str, Any], settings: Any) -> bool:
    """Whether the mapping holds the parameters of one LinOSS layer: A_diag, steps, (G_diag) (N), B (N, H, 2), C (P, N, 2), D."""
    names = {"A_diag", "B", "C", "D", "steps"}
    if set(tree) - {"G_diag"} != names or getattr(settings, "discretization", None) not in ("IM", "IMEX"):
        return False
    shape = {name: tuple(getattr(value, "shape", ())) for name, value in tree.items()}
    if len(shape["B"]) != 3 or len(shape["C"]) != 3:
        return False
    (n, h, _), p = shape["B"], shape["C"][0]
    poles = {shape["A_diag"], shape["steps"], shape.get("G_diag", (n,))}
    return poles == {(n,)} and (shape["B"], shape["C"], shape["D"]) == ((n, h, 2), (p, n, 2), (h,)) and h == p


def recurrence(tree: Mapping[str, Any], scheme: str) -> tuple[list[Array], list[Array]]:
    """The entries of M, row by row, and of f, each of shape (N,), as the layer makes them from its parameters.

    Implicit ("IM") or implicit-explicit ("IMEX"); damped where there is a G_diag, the stiffness then kept where both
    poles have one modulus.

    Examples
    --------
    >>> tree = {"A_diag": np.array([4.0]), "steps": np.array([0.0])}
    >>> [float(x[0]) for x in recurrence(tree, "IM")[0]]  # a step of 1/2
    [0.5, -1.0, 0.25, 0.5]
    """
    xp, A = namespace(tree["steps"]), _positive(tree["A_diag"])
    step = 1 / (1 + xp.exp(-tree["steps"]))
    if scheme == "IM":
        s = 1 / (1 + step**2 * A)
        return [s, -step * A * s, step * s, s], [step * s, step**2 * s]
    s = xp.ones_like(A)
    if "G_diag" in tree:
        s = 1 + step * _positive(tree["G_diag"])
        low, high = (((xp.sqrt(s) + sign) / step) ** 2 for sign in (-1, 1))
        A = low + _positive(tree["A_diag"] - low) - _positive(tree["A_diag"] - high)
    return [1 / s, -step * A / s, step / s, 1 - step**2 * A / s], [step / s, step**2 / s]


def _positive(x: Array) -> Array:
    xp = namespace(x)
    return xp.where(x > 0, x, xp.zeros_like(x))


def linoss_system(tree: Mapping[str, Any], scheme: str) -> DenseSystem:
    """The operator, real, of 4 N states: z and x, each with the real and the imaginary parts of its N drives."""
    M, f = recurrence(tree, scheme)
    xp, B, C, D = namespace(tree["B"]), tree["B"], tree["C"], tree["D"]
    unit = eye(D, D.shape[0])
    blocks = [eye(x, 2 * x.shape[0]) * xp.concat([x, x]) for x in M]
    A = xp.concat([xp.concat(blocks[:2], axis=1), xp.concat(blocks[2:], axis=1)], axis=0)
    drive = xp.concat([B[..., 0], B[..., 1]], axis=0)
    output = xp.concat([C[..., 0], -C[..., 1]], axis=1)
    forced = xp.concat([xp.concat([x, x])[:, None] * drive for x in f], axis=0)
    return ss(A, forced, xp.concat([xp.zeros_like(output), output], axis=1), unit * D, dt=True)


def refuse(_: Any) -> Any:
    """In place of the way back from a system."""
    raise ValueError(
        "a LinOSS layer holds whole oscillators, so no other system can be written into it: select some with balred.reduce(model, rank)"
    )


@dataclass(frozen=True, eq=False)
class Oscillators(Moments):
    """What oscillators do under white noise, and the matrices that can be refitted.

    Parameters
    ----------
    responses : (N, N)
        Inner products of the scalar responses.
    drives, outputs : (2 N, H)
        Rows :math:`\\mathrm{Re}\\,b_n, \\mathrm{Im}\\,b_n` and :math:`\\mathrm{Re}\\,c_n, -\\mathrm{Im}\\,c_n`, so that
        :math:`R_n` is the sum of two outer products.
    """

    responses: FloatArray | None = None
    drives: FloatArray | None = None
    outputs: FloatArray | None = None


def oscillators(tree: Mapping[str, Any], scheme: str, length: int | None = None) -> Oscillators:
    """The moments of a LinOSS layer over sequences of `length` steps, or all time.

    Without a length it is all time if every oscillator is damped, else ``HORIZON`` steps.
    """
    host = {k: to_numpy(v).astype(np.float64) for k, v in tree.items()}
    M, f = recurrence(host, scheme)
    K = response_gram(np.stack(M, axis=-1).reshape(-1, 2, 2), np.stack(f, axis=-1), length)
    B = np.swapaxes(host["B"], 1, 2).reshape(2 * len(K), -1)
    C = np.moveaxis(host["C"] * [1, -1], 0, -1).reshape(2 * len(K), -1)
    pairs = _inner(K, (B, C), (B, C)).reshape(len(K), 2, len(K), 2).sum(axis=(1, 3))
    b, c = ((x**2).mean(axis=1).reshape(1, -1, 2).sum(-1) for x in (B, C))
    return Oscillators(pairs, 1, b, c, responses=K, drives=B, outputs=C)


def response_gram(M: FloatArray, f: FloatArray, length: int | None = None) -> FloatArray:
    r"""Inner products :math:`\sum_{k<L} h_n(k)h_m(k)` of the responses :math:`h_n(k) = (M_n^kf_n)_2`, by doubling.

    Parameters
    ----------
    M : (N, 2, 2)
    f : (N, 2)
    length : int, optional
        As :func:`oscillators`.

    Examples
    --------
    >>> response_gram(np.array([[[0.0, 0.0], [1.0, 0.5]]]), np.array([[0.0, 1.0]])).round(12)
    array([[1.33333333]])
    """
    radius = np.abs(np.linalg.eigvals(M)).max()
    if length is None and radius > 1 - _DAMPED:
        length = HORIZON
    first = f[:, None, :, None] * f[None, :, None, :]
    X, power = np.zeros_like(first), np.broadcast_to(np.eye(2), M.shape)

    def ahead(P: FloatArray, X: FloatArray) -> FloatArray:
        return np.asarray(P[:, None] @ X @ np.swapaxes(P, 1, 2)[None])

    with np.errstate(over="ignore", invalid="ignore"):  # told below
        if length is None:
            X, power = first, M
            while np.abs(power).max() > 1e-20:
                X, power = X + ahead(power, X), power @ power
        for bit in bin(length)[2:] if length is not None else "":
            X, power = X + ahead(power, X), power @ power
            if bit == "1":
                X, power = first + ahead(M, X), M @ power
    if not np.isfinite(X).all():
        raise ValueError(
            f"the responses must stay finite over the {length} steps that count, got an oscillator with a pole of modulus {radius:.3g}"
        )
    return np.asarray(X[..., 1, 1])


Factors = tuple[FloatArray, FloatArray]


def _inner(K: FloatArray, one: Factors, other: Factors) -> FloatArray:
    """Inner products of outer products weighted by responses: (2 N, 2 M) for factors of N and M oscillators."""
    return np.asarray(np.kron(K, np.ones((2, 2))) * (one[0] @ other[0].T) * (one[1] @ other[1].T))


def refitted(m: Oscillators, kept: NDArray[np.intp]) -> tuple[FloatArray, FloatArray, float]:
    """B and C (as in :class:`Oscillators`) of the oscillators `kept` that stand in for all, and the error's energy.

    Linear least squares for C with B as it is, then for B, and so on: no sweep raises the error.
    """
    assert m.responses is not None
    assert m.drives is not None
    assert m.outputs is not None
    rows = (2 * kept[:, None] + np.arange(2)).reshape(-1)
    full = m.drives, m.outputs
    B, C = (x[rows] for x in full)
    ours, cross = m.responses[np.ix_(kept, kept)], m.responses[kept]
    total, error = float(np.sum(_inner(m.responses, full, full))), np.inf
    for _ in range(_SWEEPS):
        C = _least_squares(ours, cross, (B, C), full)
        B = _least_squares(ours, cross, (C, B), full[::-1])
        now = total + float(np.sum(_inner(ours, (B, C), (B, C))) - 2 * np.sum(_inner(cross, (B, C), full)))
        if now > 0.99 * error:
            break
        error = now
    return B, C, max(min(now, error), 0.0)


def _least_squares(ours: FloatArray, cross: FloatArray, mine: Factors, full: Factors) -> FloatArray:
    """The best second factor for the first of `mine`, to come close to `full`."""
    gram = np.kron(ours, np.ones((2, 2))) * (mine[0] @ mine[0].T)
    wanted = (np.kron(cross, np.ones((2, 2))) * (mine[0] @ full[0].T)) @ full[1]
    scale = np.sqrt(np.maximum(np.diag(gram), 1e-12 * max(float(np.max(np.diag(gram))), 1e-300)))[:, None]
    held = _RIDGE * np.eye(len(gram))
    return np.asarray(np.linalg.solve(gram / scale / scale.T + held, wanted / scale + _RIDGE * scale * mine[1]) / scale)


def selected(moments: Moments, rank: int, how: str = "joint", *, seed: int = 0) -> Selection:
    """As :func:`balred.selection.select`, with the error after :func:`refitted`; "joint" looks at it for its choice too."""
    plain = select(moments, rank, how, seed=seed)
    if not isinstance(moments, Oscillators) or rank == moments.states:
        return plain
    sets = [plain.kept[0], _eliminated(moments, rank)] if how == "joint" else [plain.kept[0]]
    error, kept = min(((refitted(moments, kept)[2], kept) for kept in sets), key=lambda found: found[0])
    total = float(np.sum(moments.contributions))
    return Selection(kept[None], None, error / total if total > 0 else 0.0)


def _eliminated(m: Oscillators, rank: int) -> NDArray[np.intp]:
    """The oscillators that remain when each time the one goes whose loss costs least once C is refitted."""
    assert m.responses is not None
    assert m.drives is not None
    assert m.outputs is not None
    n = m.states
    gram = np.kron(m.responses, np.ones((2, 2))) * (m.drives @ m.drives.T)
    scale = np.sqrt(np.maximum(np.diag(gram), 1e-12 * max(float(np.max(np.diag(gram))), 1e-300)))
    inverse = np.linalg.inv(gram / scale[:, None] / scale + _RIDGE * np.eye(2 * n))
    beta, alive = m.outputs * scale[:, None], np.arange(n)
    for _ in range(n - rank):
        pairs = np.einsum("ninj->nij", inverse.reshape(len(alive), 2, len(alive), 2))
        own = beta.reshape(len(alive), 2, -1)
        price = np.sum(own * np.linalg.solve(pairs, own), axis=(1, 2))
        i = int(np.argmin(price))
        b, rest = slice(2 * i, 2 * i + 2), np.delete(np.arange(2 * len(alive)), [2 * i, 2 * i + 1])
        step = np.linalg.solve(pairs[i], np.column_stack([inverse[b][:, rest], beta[b]]))
        columns = inverse[rest, b]
        inverse = inverse[np.ix_(rest, rest)] - columns @ step[:, : len(rest)]
        beta, alive = beta[rest] - columns @ step[:, len(rest) :], np.delete(alive, i)
    return alive


def smaller(tree: Mapping[str, Any], selection: Selection, moments: Moments) -> dict[str, Any]:
    """The parameters of the selected oscillators in host arrays, B and C refitted if the moments are :class:`Oscillators`."""
    kept = selection.kept[0]
    values = {k: to_numpy(tree[k])[kept] for k in ("A_diag", "G_diag", "steps", "B") if k in tree}
    values["C"] = to_numpy(tree["C"])[:, kept]
    if isinstance(moments, Oscillators) and len(kept) < moments.states:
        B, C, _ = refitted(moments, kept)
        values["B"] = np.moveaxis(B.reshape(len(kept), 2, -1), 1, 2)
        values["C"] = np.moveaxis(C.reshape(len(kept), 2, -1), 2, 0) * [1, -1]
    return values
