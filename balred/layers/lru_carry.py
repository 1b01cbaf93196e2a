"""Optimizer moments of an LRU layer, carried through a cut's change of coordinates: the layer goes on where it was."""

from __future__ import annotations

import numpy as np

from balred.layers.lru import (
    Host,
    lru_join,
    lru_split,
)
from balred.systems.coordinates import Change


def lru_carry(
    old: dict[str, Host], new: dict[str, Host], moments: dict[str, Host], change: Change, power: int
) -> dict[str, Host]:
    r"""Optimizer moments of an LRU layer after a cut.

    A first moment (`power` 1) is an average of gradients, so it is pulled back as one.  A change
    :math:`\delta B_r` of the reduced layer does what :math:`V_1\delta B_r + V_2\overline{\delta B_r}` does to the full
    one, likewise for C with W; for the poles only the diagonal of the gradient with respect to A is known, and
    carried.  A second moment (`power` 2) is carried as the variance of independent entries.

    Parameters
    ----------
    old, new : dict
        Parameters by the names of ``LRU_NAMES`` before and after the cut (B, C complex; without scaling changes of
        their own).
    moments : dict
        By the same names; complex entries hold those of the real and imaginary parts.
    change : Change
        Of the reduction.
    power : {1, 2}

    Returns
    -------
    dict
        The moments of the new parameters.

    Examples
    --------
    >>> import numpy as np
    >>> from balred.layers.lru_carry import lru_carry
    >>> from balred.systems.coordinates import Change
    >>> old = {"nu_log": np.zeros(2), "theta_log": np.zeros(2), "gamma_log": np.zeros(2)}
    >>> old |= {"B": np.ones((2, 1)) + 0j, "C": np.ones((1, 2)) + 0j}
    >>> first = {"B": slice(1), "C": np.s_[:, :1]}  # the first of both states is kept
    >>> new = {name: value[first.get(name, slice(1))] for name, value in old.items()}
    >>> keep = np.eye(2, 1) + 0j
    >>> change = Change(keep, 0 * keep, keep.T, 0 * keep.T)
    >>> lru_carry(old, new, {name: 2 * value for name, value in old.items()}, change, power=1)["B"]
    array([[2.+0.j]])
    """
    # the written-back modes may be scaled differently from the reduction's: z_new = s z
    gamma, gamma_new = np.exp(old["gamma_log"]), np.exp(new["gamma_log"])
    V1, V2, W1, W2 = change.V1, change.V2, change.W1, change.W2
    full_b = gamma[:, None] * old["B"]
    s = np.linalg.norm(gamma_new[:, None] * new["B"], axis=1) / np.maximum(
        np.linalg.norm(W1 @ full_b + W2 @ full_b.conj(), axis=1), 1e-300
    )
    V1, V2, W1, W2 = V1 / s, V2 / s, W1 * s[:, None], W2 * s[:, None]
    rate, angle = np.exp(old["nu_log"]), np.exp(old["theta_log"])
    rate_new, angle_new = np.exp(new["nu_log"]), np.exp(new["theta_log"])
    size, size_new = np.exp(-rate), np.exp(-rate_new)
    b_new = gamma_new[:, None] * new["B"]
    if power == 1:
        phase, phase_new = np.exp(1j * angle), np.exp(1j * angle_new)
        gb, gc = moments["B"] / gamma[:, None], 2 * moments["C"]
        gl = (-moments["nu_log"] / rate + 1j * moments["theta_log"] / angle) / (size * phase.conj())
        gb = V1.conj().T @ gb + np.conj(V2.conj().T @ gb)
        gc = gc @ W1.conj().T + np.conj(gc) @ W2.conj().T
        gl = np.conj(V1 * W1.T).T @ gl + (V2 * W2.T.conj()).T @ gl.conj()
        gl = gl * size_new * phase_new.conj()
        return {
            "nu_log": -rate_new * gl.real,
            "theta_log": angle_new * gl.imag,
            "gamma_log": np.sum(np.real(gb.conj() * b_new), axis=1),
            "B": gamma_new[:, None] * gb,
            "C": gc / 2,
        }
    total = {k: (m.real + m.imag if np.iscomplexobj(m) else m) for k, m in moments.items()}
    vb, vc = total["B"] / gamma[:, None] ** 2, 4 * total["C"]
    vl = (total["nu_log"] / rate**2 + total["theta_log"] / angle**2) / size**2
    spread_v, spread_w = np.abs(V1) ** 2 + np.abs(V2) ** 2, np.abs(W1) ** 2 + np.abs(W2) ** 2
    vb, vc = spread_v.T @ vb, vc @ spread_w.T
    vl = (np.abs(V1 * W1.T) ** 2 + np.abs(V2 * W2.T) ** 2).T @ vl * size_new**2
    both = 0.5 + 0.5j
    return {
        "nu_log": rate_new**2 * vl / 2,
        "theta_log": angle_new**2 * vl / 2,
        "gamma_log": np.sum(vb * np.abs(b_new) ** 2, axis=1) / 2,
        "B": both * gamma_new[:, None] ** 2 * vb,
        "C": both * vc / 4,
    }


def lru_carry_split(
    old: dict[str, Host], new: dict[str, Host], moments: dict[str, Host], change: Change, power: int
) -> dict[str, Host]:
    """:func:`lru_carry` for layers with split parameters."""
    return lru_split(lru_carry(lru_join(old), lru_join(new), lru_join(moments), change, power))
