r"""Frequency-weighted balancing: a small error where a weight says that it matters.

:math:`\|W_o(G-G_k)W_i\|` is made small rather than :math:`\|G-G_k\|`.  The Gramians of the cascades :math:`GW_i` and
:math:`W_oG` say how much of a state's response passes the weights.  Techniques differ in what they make of these
Gramians, and so in what they keep: two weights may cost Enns's original its stability.

A recorded input signal is such a weight too (:func:`along_inputs`), known by what the states do under it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from balred.hankel.spectrum import Spectrum, spectrum, spectrum_of
from balred.measures.norms import norm
from balred.measures.promises import Gap, error_gap
from balred.measures.recordings import RecordingWarning, independent_inputs, recordings_of, signals_factor
from balred.measures.weights import UnderWeights, stable_weight
from balred.methods.method import Method, Reduced, no_bound
from balred.methods.truncation import truncate_or_match
from balred.ranks.bounds import a_priori_bound
from balred.solvers.gramians import factors, solved
from balred.solvers.riccati import controllability_factor, dual
from balred.systems.arrays import Array, backend_of, ct, mapped, to_numpy, warn_caller
from balred.systems.dense_system import DenseSystem
from balred.systems.leaves import System, shifted
from balred.systems.poles import UnstableError, check_stable, pole_margin
from balred.systems.units import Coordinates

Matrix = NDArray[Any]
Technique: TypeAlias = Literal["enns", "lin_chiu", "wang", "varga_anderson"]
_ROUNDING = 1e-10
"""Parts of the states of a weight, and of what it does not foretell of a system's, that are taken for rounding."""
TECHNIQUES = ("enns", "lin_chiu", "wang", "varga_anderson")


@dataclass(frozen=True)
class Weighted(UnderWeights):
    """The spectrum of the weighted Gramians, and the factor of its tail in the error bound (NaN without one)."""

    factor: float

    @property
    def system(self) -> DenseSystem:
        """The system that was analysed."""
        return self.spectrum.system


def frequency_weighted(
    system: DenseSystem,
    solver: str | None = None,
    *,
    left: Any = None,
    right: Any = None,
    technique: Technique = "enns",
    combine: float = 0.0,
    match_dc: bool = False,
) -> Weighted:
    r"""Frequency-weighted balancing: a small error where the weights are large.

    With a right weight :math:`W_i = (A_w, B_w, C_w, D_w)` the cascade :math:`GW_i` has the Gramian

    .. math::
        \begin{bmatrix}P_{11}&P_{12}\\P_{21}&P_{22}\end{bmatrix}
        \quad\text{of}\quad
        \Bigl(\begin{bmatrix}A&BC_w\\0&A_w\end{bmatrix},\begin{bmatrix}BD_w\\B_w\end{bmatrix}\Bigr),

    from which a technique makes the P that is balanced; Q comes from :math:`W_oG` by duality, and without a weight from
    the system alone.

    =================  ==============================================================================================
    "enns"             :math:`P = P_{11}`
    "lin_chiu"         :math:`P = P_{11}-P_{12}P_{22}^{-1}P_{21}`, of the states that the weight cannot foretell
    "wang"             P is the Gramian of :math:`(A,\bar B)`, :math:`\bar B = U|S|^{1/2}`, where
                       :math:`USU^H = -AP_{11}-P_{11}A^H` (in discrete time :math:`P_{11}-AP_{11}A^H`)
    "varga_anderson"   the same with the positive part of S alone, which stays closer to Enns
    =================  ==============================================================================================

    Parameters
    ----------
    left, right : system, layer, or anything :func:`balred.adapt` reads, optional
        The weights :math:`W_o`, with as many inputs as the system has outputs, and :math:`W_i`, with as many outputs as
        it has inputs; stable, of the same time step.  At least one.
    technique : {"enns", "lin_chiu", "wang", "varga_anderson"}, default "enns"
    combine : float, default 0
        In [0, 1]: :math:`P_{11}-\alpha^2P_{12}P_{22}^{-1}P_{21}` takes the place of :math:`P_{11}`.
    match_dc : bool, default False
        Singular perturbation instead of truncation.

    Raises
    ------
    ValueError
        No weight is given; a weight is unstable, or has the wrong shape or time step; `technique` is unknown; `combine` is out of range.

    Notes
    -----
    The reduced system is stable with one weight, and with two except for "enns".  Where :math:`\bar BK = B` and
    :math:`L\bar C = C`, which "wang" sees to,

    .. math:: \|W_o(G-G_k)W_i\|_\infty \le 2\,\|W_oL\|_\infty\|KW_i\|_\infty\textstyle\sum_{i>k}\sigma_i .

    Gramians are never squared: the definite forms come from :math:`-AP_{11}-P_{11}A^H = BM^H+MB^H+BD_wD_w^HB^H` with
    :math:`M = P_{12}C_w^H`, which has low rank.

    References
    ----------
    D. F. Enns, Model reduction with balanced realizations: an error bound and a frequency weighted generalization, CDC
    1984; C.-A. Lin and T.-Y. Chiu, Control Theory Adv. Tech. 8 (1992); G. Wang, V. Sreeram and W. Q. Liu, A new
    frequency-weighted balanced truncation method and an error bound, IEEE Trans. Automat. Control 44 (1999); A. Varga
    and B. D. O. Anderson, Accuracy-enhancing methods for balancing-related frequency-weighted model and controller
    reduction, Automatica 39 (2003) (SLICOT AB09ID with JOBC = JOBO = 'S', or 'E' for "varga_anderson").

    Examples
    --------
    >>> import balred
    >>> g = balred.testing.random_system(8, 1, 1, seed=0)
    >>> low_pass = balred.ss([[-0.1]], [[0.1]], [[1.0]])
    >>> balred.reduce(g, 3, method="frequency_weighted", right=low_pass)
    DenseSystem(states=3, inputs=1, outputs=1, continuous, float64, numpy)
    """
    if technique not in TECHNIQUES:
        raise ValueError(f"technique must be one of {', '.join(TECHNIQUES)}, got {technique!r}")
    if not 0 <= combine <= 1:
        raise ValueError(f"combine must be between 0 (Enns) and 1 (Lin and Chiu), got {combine}")
    if technique == "lin_chiu":
        if combine not in (0, 1):
            raise ValueError(f"combine must be left out with technique 'lin_chiu', got {combine}")
        technique, combine = "enns", 1.0
    if left is None and right is None:
        raise ValueError("at least one of the weights left and right must be given, got neither")
    check_stable(system)
    p, m = len(system.C), system.B.shape[1]
    nothing = None, 0.0
    outer, above = nothing if left is None else stable_weight("left weight", left, system, inputs=p)
    inner, before = nothing if right is None else stable_weight("right weight", right, system, outputs=m)
    turned = None if outer is None else dual(outer)
    Zp, Bbar = _factor(system, inner, technique, combine)
    Zq, Cbar = _factor(dual(system), turned, technique, combine)
    factor = _gain(system.B, Bbar, inner) * _gain(ct(system.C), Cbar, turned)
    sp = spectrum_of(system, Zp, Zq, match_dc=match_dc)
    return Weighted(sp, factor, left=outer, right=inner, power=above + before)


def weighted_bound(state: Weighted, k: int) -> NDArray[np.float64]:
    r"""The bound of the weighted error, :math:`2\,\|W_oL\|_\infty\|KW_i\|_\infty\sum_{i>k}\sigma_i`."""
    if np.isnan(state.factor):
        return no_bound(state.spectrum, k)
    return np.asarray(state.factor * a_priori_bound(state.sigma, k))


def weighted_gap(state: Weighted, small: DenseSystem, options: Mapping[str, Any]) -> Gap:
    """The weighted error."""
    inner, left, right = error_gap(state.system, small), state.left, state.right

    def gap(at: Any) -> Matrix:
        E = inner(at)
        E = E if left is None else _responses(left, at) @ E
        return E if right is None else np.asarray(E @ _responses(right, at))

    return gap


def _responses(w: DenseSystem, at: Any) -> Matrix:
    points = np.asarray(at)
    return np.reshape([w(complex(s)) for s in points.ravel()], (*points.shape, *w.D.shape))


def weighted_truncation(state: Weighted, k: int) -> Reduced:
    """Truncation or singular perturbation; an error where two weights cost the system its stability."""
    two = state.left is not None and state.right is not None
    more = "technique='lin_chiu', 'wang' or 'varga_anderson', or " if two else ""
    return _stable(truncate_or_match(state.spectrum, k), k, f"try {more}another rank")


def _stable(made: Reduced, k: int, advice: str) -> Reduced:
    """A reduction, looked at."""
    poles, margin = pole_margin(mapped(made[0], to_numpy))
    if margin.min(initial=0.0) < 0:
        raise UnstableError(
            f"the reduced system must be stable, got a pole at {complex(poles.flat[np.argmin(margin)]):.4g} at order {k}: {advice}"
        )
    return made


def _factor(g: DenseSystem, w: DenseSystem | None, technique: str, combine: float) -> tuple[Matrix, Matrix | None]:
    """Z with P = Z Z^H, and the input matrix of which P is the Gramian, or None where it is of none."""
    n = g.order
    if w is None:
        return controllability_factor(g.A, g.B, g.dt), g.B
    zero = np.zeros((w.order, n), g.A.dtype)
    A = np.block([[g.A, g.B @ w.C], [zero, w.A]])
    Z = controllability_factor(A, np.concatenate([g.B @ w.D, w.B]), g.dt)
    Z1, Z2 = Z[:n], Z[n:]
    B1 = _decoupled(g, w, Z1, Z2) if combine else np.zeros((n, 0), Z.dtype)
    if combine == 1:
        own, whole = (np.linalg.norm(x, axis=1) for x in (controllability_factor(g.A, B1, g.dt), Z1))
        if not (own > _ROUNDING * whole).any():
            raise ValueError(
                "with technique 'lin_chiu' a weight must not cancel all poles of the system, got one that does: try 'enns' or 'wang'"
            )
    rest = 1 - combine**2
    if technique == "enns":
        if not combine:
            return Z1, None
        Z0 = controllability_factor(g.A, B1, g.dt)
        return (Z0, B1) if rest == 0 else (np.concatenate([rest**0.5 * Z1, combine * Z0], axis=1), None)
    M, S, I = Z1 @ ct(w.C @ Z2), w.D @ ct(w.D), np.eye(g.B.shape[1])
    if g.discrete:
        M, S = g.A @ M, S + w.C @ Z2 @ ct(w.C @ Z2)
    F = np.concatenate([g.B, M, B1], axis=1)
    J = np.zeros((F.shape[1], F.shape[1]), F.dtype)
    J[: 2 * len(I), : 2 * len(I)] = rest * np.block([[S, I], [I, 0 * I]])
    J[2 * len(I) :, 2 * len(I) :] = combine**2 * np.eye(B1.shape[1])
    Bbar = definite_factor(F, J, positive=technique == "varga_anderson")
    return controllability_factor(g.A, Bbar, g.dt), Bbar


def _decoupled(g: DenseSystem, w: DenseSystem, Z1: Matrix, Z2: Matrix) -> Matrix:
    r"""The input matrix of which :math:`P_{11}-P_{12}P_{22}^{-1}P_{21}` is the Gramian.

    In the coordinates :math:`x-Xx_w`, :math:`X=P_{12}P_{22}^{-1}`, the cascade has a block-diagonal Gramian.
    """
    size = np.linalg.norm(Z2, axis=1)
    size = np.where(size > 0, size, 1.0)
    # of a weight with more states than it needs, what is left of those is rounding
    X = Z1 @ np.linalg.pinv(Z2 / size[:, None], rcond=_ROUNDING) / size if len(Z2) else np.zeros((g.order, 0))
    B1: Matrix = g.B @ w.D - X @ w.B
    if not g.discrete:
        return B1
    return np.concatenate([B1, (g.A @ X - X @ w.A + g.B @ w.C) @ Z2], axis=1)


def definite_factor(F: Matrix, J: Matrix, *, positive: bool) -> Matrix:
    r""":math:`U|S|^{1/2}` for :math:`FJF^H = USU^H`, or its part with positive S alone."""
    Q, R = np.linalg.qr(F)
    X = R @ J @ ct(R)
    s, U = np.linalg.eigh((X + ct(X)) / 2)
    size = np.abs(s)
    kept = (s if positive else size) > len(s) * np.finfo(np.float64).eps * size.max()
    return np.asarray(Q @ U[:, kept] * np.sqrt(size[kept]))


def _gain(B: Matrix, Bbar: Matrix | None, w: DenseSystem | None) -> float:
    r"""The norm of :math:`KW_i` with :math:`\bar BK = B`, NaN where there is no such K."""
    if w is None:
        return 1.0
    if Bbar is None:
        return np.nan
    K = np.linalg.lstsq(Bbar, B, rcond=None)[0]
    if np.linalg.norm(Bbar @ K - B) > 1e-9 * np.linalg.norm(B):
        return np.nan
    return float(norm(DenseSystem(w.A, w.B, K @ w.C, K @ w.D, w.dt), "hinf"))


def along_inputs(
    system: System,
    solver: str | None = None,
    *,
    inputs: Any,
    dt: float | None = None,
    hold: str = "zoh",
    left: Any = None,
) -> Spectrum:
    r"""Balancing on recorded inputs: the signal itself is the weight at the inputs.

    .. math:: P = \operatorname{mean}\,xx^H \text{ along the recordings}, \qquad A^HQ+QA+C^HC = 0 \ [\,A^HQA-Q+C^HC=0\,]

    A frequency weight with the signal's spectrum would give the same P for a stationary signal of endless length.  The squares of
    the values add up to the mean energy that the states along the recording would still send to the output without input.

    Parameters
    ----------
    inputs : array, shape (inputs, samples), or a list of such
        One recording or several, each from rest.
    dt, hold
        Seconds between samples, and "zoh" (default) or "foh" between them; for continuous systems.
    left : array (k, outputs), or system, layer, or anything :func:`balred.adapt` reads, optional
        A weight at the outputs, constant or with states: Q is then Enns's of the weighted outputs.

    Raises
    ------
    ValueError
        The recordings do not fit, or move no state; the weight does not fit, or is unstable.

    Warns
    -----
    RecordingWarning
        The recordings tell fewer inputs apart than the system has; the answers to the others are ignored.

    Notes
    -----
    In coordinates where Q is diagonal :math:`A_{11}^H\Sigma_1+\Sigma_1A_{11} = -C_1^HC_1`, so the reduced system is stable whatever
    P is, unless `left` has states.  There is no a-priori bound of the error.  P is never formed: its factor is that of
    a QR decomposition of all states, so that small values have their digits.

    Examples
    --------
    >>> import balred
    >>> from balred.methods.weighted import along_inputs
    >>> g = balred.ss(np.diag([0.9, 0.5]), np.ones((2, 1)), np.ones((1, 2)), dt=1)
    >>> slow = np.sin(0.01 * np.arange(1000))[None]
    >>> sigma = along_inputs(g, inputs=slow).sigma
    >>> bool(sigma[1] < 1e-2 * sigma[0])  # one state is enough for slow inputs
    True
    """
    recordings = recordings_of(system, inputs, dt, hold)
    if left is None:
        found = solved(system, solver)
        seen, Zq, coordinates, power = found.system, found.Zq, found.coordinates, 0.0
    else:
        seen, (Zq, power), coordinates = system, _seen_through(left, system, solver), Coordinates(None)
    n, m = system.order, int(system.B.shape[-1])
    Z, unit = signals_factor(seen, recordings)
    if not np.any(Z[..., :n, :]):
        raise ValueError("recorded inputs must move the states, got inputs under which all states stay at rest")
    if (apart := independent_inputs(Z, n)) < m:
        warn_caller(
            f"the recordings tell only {apart} of {m} inputs apart: how the system answers to the others is ignored",
            RecordingWarning,
        )
    Zp = backend_of(seen.B).from_numpy(Z[..., :n, :], like=seen.B, real=not np.iscomplexobj(Z))
    return spectrum_of(seen.to_dense(), Zp, Zq)._replace(
        coordinates=coordinates, unit=float(shifted(np.asarray(unit), power))
    )


def _seen_through(left: Any, system: System, solver: str | None) -> tuple[Array, float]:
    """The factor of Enns's Q of a system whose outputs are weighted, in units of a power of two, and this power."""
    like = system.C
    if getattr(left, "ndim", None) == 2:
        gain = to_numpy(left)
        nothing = np.zeros((0, 0), gain.dtype)
        left = DenseSystem(nothing, nothing[:, :0].reshape(0, gain.shape[1]), gain[:, :0], gain, system.dt)
    host = mapped(system, to_numpy)
    w, power = stable_weight("left weight", left, host, inputs=like.shape[-2])
    D = backend_of(like).from_numpy(w.D, like=like)
    if not w.order:
        return factors(replace(system, C=D @ like), solver)[1], power
    if like.ndim > 2:
        raise ValueError(
            f"a left weight with states takes a single system, got a batch of shape {tuple(like.shape[:-2])}"
        )
    g = host.to_dense()
    A = np.block([[g.A, np.zeros((g.order, w.order))], [w.B @ g.C, w.A]])
    cascade = DenseSystem(
        A, np.zeros((len(A), 1)), np.concatenate([w.D @ g.C, w.C], axis=1), np.zeros((len(w.C), 1)), g.dt
    )
    Zq = factors(cascade, None)[1][: g.order]
    return backend_of(like).from_numpy(Zq, like=like, real=not np.iscomplexobj(Zq)), power


def on_recordings(name: str, row: Method) -> Method:
    """A method of the table with recorded inputs in place of white noise: it has their options and no bound.

    Raises
    ------
    ValueError
        It needs more of a system than a pair of Gramians.
    """
    if row.prepare is not spectrum or row.takes != "arrays":
        raise ValueError(
            f"with recorded inputs a method must be truncate, square_root or singular_perturbation, got {name!r}"
        )
    return replace(row, reduce=partial(_along_inputs, row.reduce), prepare=along_inputs, bound=no_bound)


def _along_inputs(reduce: Callable[[Any, int], Reduced], state: Spectrum, k: int) -> Reduced:
    return _stable(
        reduce(state, k), k, "keep more states, or use a left weight without states, with which every result is stable"
    )
