r"""LinOSS layers, banks of forced oscillators, by the names and shapes of their parameters, in any array library.

Every oscillator makes two states, z and x, from the drive :math:`Bu` (Rusch and Rus, ICLR 2025, arXiv 2410.03943; damped:
Boyer, Rusch and Rus, arXiv 2505.12171),

.. math:: \begin{pmatrix} z_k\\ x_k\end{pmatrix} = M_n \begin{pmatrix} z_{k-1}\\ x_{k-1}\end{pmatrix} + f_n (Bu_k)_n,
   \qquad y_k = \mathrm{Re}(C x_k) + D \odot u_k.

That is a linear system, but no other linear system has this form: whole oscillators are kept (:mod:`balred.selection.oscillators`).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from balred.selection.moments import Moments, Selection
from balred.selection.oscillators import Oscillators, moments_of, refitted, response_gram
from balred.systems.arrays import Array, eye, namespace, to_numpy
from balred.systems.dense_system import DenseSystem, ss

LINOSS_NAMES = {"A_diag", "B", "C", "D", "steps"}
"""The parameters of a layer; a damped one has G_diag as well."""


def is_linoss(tree: Mapping[str, Any], settings: Any) -> bool:
    """Whether the mapping holds the parameters of one LinOSS layer: A_diag, steps, (G_diag) (N), B (N, H, 2), C (P, N, 2), D."""
    if set(tree) - {"G_diag"} != LINOSS_NAMES or getattr(settings, "discretization", None) not in ("IM", "IMEX"):
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
        "a LinOSS layer holds whole oscillators, so a balanced system cannot be written into it: balred.reduce(model, rank) keeps some of its own oscillators"
    )


def linoss_moments(tree: Mapping[str, Any], scheme: str, length: int | None = None) -> Oscillators:
    """The moments of a LinOSS layer over sequences of `length` steps; without one as :func:`balred.selection.oscillators.response_gram`."""
    host = {k: to_numpy(v).astype(np.float64) for k, v in tree.items()}
    M, f = recurrence(host, scheme)
    K = response_gram(np.stack(M, axis=-1).reshape(-1, 2, 2), np.stack(f, axis=-1), length)
    B = np.swapaxes(host["B"], 1, 2).reshape(2 * len(K), -1)
    C = np.moveaxis(host["C"] * [1, -1], 0, -1).reshape(2 * len(K), -1)
    return moments_of(K, B, C)


def smaller(tree: Mapping[str, Any], selection: Selection, moments: Moments | None) -> dict[str, Any]:
    """The parameters of the selected oscillators in host arrays, with B and C refitted if that was asked for."""
    kept = selection.kept[0]
    values = {k: to_numpy(tree[k])[kept] for k in ("A_diag", "G_diag", "steps", "B") if k in tree}
    values["C"] = to_numpy(tree["C"])[:, kept]
    if isinstance(moments, Oscillators) and len(kept) < moments.states:
        B, C, _ = refitted(moments, kept)
        values["B"] = np.moveaxis(B.reshape(len(kept), 2, -1), 1, 2)
        values["C"] = np.moveaxis(C.reshape(len(kept), 2, -1), 2, 0) * [1, -1]
    return values
