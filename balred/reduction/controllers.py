r"""Reduce controllers with little effect on the loop that they are part of.

At frequencies where the loop has no gain an error of the controller costs nothing; near the crossover it may cost stability.  The
closed loop supplies weights for this, and frequency-weighted balancing uses them.
"""

from __future__ import annotations

from typing import Any, Literal, TypeAlias

import numpy as np

from balred.hankel.spectrum import spectrum, spectrum_of
from balred.methods.coprime import Factors, coprime
from balred.methods.method import Reduced
from balred.methods.truncation import truncate
from balred.methods.weighted import Technique
from balred.ranks.choosing import check_rank
from balred.reduction.plan import reduce
from balred.registry.reading import dense_on_host
from balred.solvers.riccati import controllability_factor, dual, observability_factor
from balred.systems.checks import host_array
from balred.systems.dense_system import DenseSystem
from balred.systems.parts import block_diagonal, check_same_time
from balred.systems.poles import UnstableError, check_stable, known_poles

Weight: TypeAlias = Literal["output", "input", "performance"]


def reduce_controller(
    plant: Any,
    controller: Any,
    rank: Any,
    *,
    weight: Weight = "performance",
    sign: int = -1,
    technique: Technique = "enns",
    match_dc: bool = False,
    offset: float | None = None,
) -> Any:
    r"""Reduce a controller K of a plant G, weighted by the loop :math:`u = \pm Ky` that the two form.

    With :math:`S = (I\mp GK)^{-1}` the norm of :math:`W_o(K-K_r)W_i` is made small, where

    =============  ===========  ===========  ==============================================
    `weight`       :math:`W_o`  :math:`W_i`  for
    =============  ===========  ===========  ==============================================
    "output"       :math:`SG`   I            stability, judged at the plant's output
    "input"        I            :math:`SG`   stability, judged at the plant's input
    "performance"  :math:`SG`   S            stability, and the response of the closed loop
    =============  ===========  ===========  ==============================================

    Parameters
    ----------
    plant, controller : system, or anything :func:`balred.adapt` reads
        The controller has as many inputs as the plant has outputs, and the other way round.  Both may be unstable.
    rank : int or rule
        The number of states to keep, or a rule such as ``balred.Energy(0.99)``.  Unstable poles of the controller are kept
        and counted.
    weight : {"output", "input", "performance"}, default "performance"
    sign : {-1, 1}, default -1
        Of the feedback :math:`u = \pm Ky`: -1 as in ``control.feedback``, 1 as in SLICOT and for MATLAB's regulators.
    technique : {"enns", "lin_chiu", "wang", "varga_anderson"}, default "enns"
        How Gramians are made from those of system and weights in series
        (:func:`balred.methods.weighted.frequency_weighted` has the equations).  "lin_chiu" raises an error, because the
        weights cancel the poles of K.
    match_dc : bool, default False
        Singular perturbation, which keeps the steady state, instead of truncation.
    offset : float, optional
        Poles within `offset` of the stability boundary count as unstable and are kept.

    Returns
    -------
    The same type as `controller`
        It stabilises the plant; this is checked.

    Raises
    ------
    UnstableError
        The controller does not stabilise the plant, or its reduction does not.
    ValueError
        Shapes or time steps do not fit; the loop is not well posed; `weight` is unknown; `rank` is out of range, or the rule
        cannot be met.

    Notes
    -----
    If K and :math:`K_r` have equally many unstable poles (they have, unless the reduction itself is unstable) and
    :math:`\|SG(K-K_r)\|_\infty < 1` or :math:`\|(K-K_r)SG\|_\infty < 1`, then :math:`K_r` stabilises the plant.
    :func:`balred.reduction.controllers.loop_weights` gives the weights, so that you can see the weighted singular values before you choose a rank.

    References
    ----------
    B. D. O. Anderson and Y. Liu, Controller reduction: concepts and approaches, IEEE Trans. Automat. Control 34 (1989);
    A. Varga and B. D. O. Anderson, Frequency-weighted balancing related controller reduction, IFAC World Congress 2002
    (SLICOT SB16AD with WEIGHT = 'O', 'I', 'P').

    Examples
    --------
    >>> import balred
    >>> from balred.reduction.controllers import reduce_controller
    >>> plant = balred.ss([[0.0, 1.0], [0.0, 0.0]], [[0.0], [1.0]], [[1.0, 0.0]])
    >>> lead = balred.ss([[-10.0, 0.0], [0.0, -80.0]], [[8.0], [4.0]], [[-8.0, 1.0]], [[9.0]])
    >>> reduce_controller(plant, lead, 1)
    DenseSystem(states=1, inputs=1, outputs=1, continuous, float64, numpy)
    """
    options: dict[str, Any] = {"technique": technique, "match_dc": match_dc}
    options |= loop_weights(plant, controller, weight=weight, sign=sign)
    small = reduce(controller, rank, method="frequency_weighted", offset=offset, **options)
    g, k = dense_on_host("plant", plant), dense_on_host("controller", small)
    _check_loop("reduced controller", _loop(g, k, sign), f"at order {k.order}: keep more states, or try another weight")
    return small


def loop_weights(
    plant: Any, controller: Any, *, weight: Weight = "performance", sign: int = -1
) -> dict[str, DenseSystem]:
    r"""The weights ``{"left": W_o, "right": W_i}`` of :func:`reduce_controller`; identities are left out.

    Examples
    --------
    >>> import balred
    >>> from balred.reduction.controllers import loop_weights
    >>> plant, gain = balred.ss([[1.0]], [[1.0]], [[1.0]]), balred.ss([[-9.0]], [[9.0]], [[3.0]])
    >>> balred.analyze(gain, method="frequency_weighted", **loop_weights(plant, gain)).hsv.round(4)
    array([0.4086])
    """
    if weight not in ("output", "input", "performance"):
        raise ValueError(f"weight must be 'output', 'input' or 'performance', got {weight!r}")
    if sign not in (-1, 1):
        raise ValueError(f"sign must be -1 (u = -K y) or 1 (u = K y), got {sign!r}")
    g, k = dense_on_host("plant", plant), dense_on_host("controller", controller)
    wanted, given = g.D.shape[::-1], k.D.shape
    if wanted != given:
        raise ValueError(
            f"the controller must have the plant's inputs as outputs and its outputs as inputs, {wanted}, got {given}"
        )
    check_same_time("controller", k, "plant", g)
    loop = _loop(g, k, sign)
    _check_loop("controller", loop, f"with u = {'-K y (sign=-1)' if sign < 0 else 'K y (sign=1)'}")
    m = g.B.shape[1]
    from_u = DenseSystem(loop.A, loop.B[:, :m], loop.C, loop.D[:, :m], loop.dt)
    from_y = DenseSystem(loop.A, loop.B[:, m:], loop.C, loop.D[:, m:], loop.dt)
    return {"output": {"left": from_u}, "input": {"right": from_u}}.get(weight, {"left": from_u, "right": from_y})


def reduce_observer_controller(
    plant: Any,
    F: Any,
    G: Any,
    rank: int,
    *,
    factors: Literal["left", "right"] = "left",
    weighted: bool = True,
    match_dc: bool = False,
) -> DenseSystem:
    r"""Reduce the controller made of a state feedback F and an observer gain G through its coprime factors.

    .. math:: K(s) = F\,(sI-A-BF-GC-GDF)^{-1}G, \qquad u = -Ky

    The left factors :math:`K = M^{-1}N` have the realisation :math:`[N\ M] = (A+GC,\ [G\ \ {-B-GD}],\ F,\ [0\ I])`, and
    are stable however unstable K is, as are the right ones, :math:`[N;M] = (A+BF,\ G,\ [F;\ {-C-DF}],\ [0;I])`.

    Parameters
    ----------
    plant : system, or anything :func:`balred.adapt` reads
    F : array_like, shape (m, n)
        A + BF is stable.
    G : array_like, shape (n, p)
        A + GC is stable.
    rank : int
    factors : {"left", "right"}, default "left"
    weighted : bool, default True
        Weight the error of the factors by its effect on stability.  The method then balances the controllability
        Gramian of :math:`(A+BF, B)` and the observability Gramian of :math:`(A+GC, F)`; for right factors those of
        :math:`(A+BF, G)` and :math:`(A+GC, C)`.  With False the factors are truncated as they are.
    match_dc : bool, default False
        Singular perturbation of the factors; only with ``weighted=False``.

    Returns
    -------
    DenseSystem
        It stabilises the plant; this is checked.

    Raises
    ------
    UnstableError
        A + BF or A + GC is not stable; the reduced controller does not stabilise the plant.
    ValueError
        Shapes do not fit; `rank` is out of range; `match_dc` with `weighted`.

    References
    ----------
    Y. Liu, B. D. O. Anderson and U.-L. Ly, Coprime factorization controller reduction with Bezout identity induced
    frequency weighting, Automatica 26 (1990) (SLICOT SB16CD; SB16BD without weights).

    Examples
    --------
    >>> import balred
    >>> from balred.reduction.controllers import reduce_observer_controller
    >>> plant = balred.ss([[1.0, 0, 0], [0, -2.0, 0], [0, 0, -5.0]], [[1.0]] * 3, [[1.0] * 3])
    >>> reduce_observer_controller(plant, F=[[-6.0, 0, 0]], G=[[-6.0], [0], [0]], rank=2)
    DenseSystem(states=2, inputs=1, outputs=1, continuous, float64, numpy)
    """
    if factors not in ("left", "right"):
        raise ValueError(f"factors must be 'left' or 'right', got {factors!r}")
    if weighted and match_dc:
        raise ValueError("match_dc must be False where the factors are weighted, got True")
    g = dense_on_host("plant", plant)
    n, m, p = g.order, g.B.shape[1], len(g.C)
    F, G = (host_array(*named) for named in (("F", F), ("G", G)))
    if (F.shape, G.shape) != ((m, n), (n, p)):
        raise ValueError(f"F and G must have shapes {(m, n)} and {(n, p)}, got {F.shape} and {G.shape}")
    rank = check_rank(rank, n)
    AF, AG = g.A + g.B @ F, g.A + G @ g.C
    for name, A in (("A + BF", AF), ("A + GC", AG)):
        try:
            check_stable(DenseSystem(A, g.B, g.C, g.D, g.dt))
        except UnstableError as error:
            raise UnstableError(f"{name} must be stable: {error}") from None
    k = DenseSystem(AF + G @ (g.C + g.D @ F), G, F, np.zeros((m, p)), g.dt)
    made: Reduced
    if weighted:
        Zp = controllability_factor(AF, g.B if factors == "left" else G, g.dt)
        Zq = observability_factor(AG, F if factors == "left" else g.C, g.dt)
        sp = spectrum_of(k, Zp, Zq)
        made = truncate(sp, min(rank, sp.cap))
    else:
        extended = DenseSystem(
            AG, np.concatenate([G, -g.B - G @ g.D], axis=1), F, np.concatenate([k.D, np.eye(m)], axis=1), g.dt
        )
        if factors == "right":
            extended = dual(
                DenseSystem(AF, G, np.concatenate([F, -g.C - g.D @ F]), np.concatenate([k.D, np.eye(p)]), g.dt)
            )
        state = Factors(
            spectrum(extended, None)._replace(match_dc=match_dc), k, m if factors == "right" else p, factors == "right"
        )
        made = coprime(state, min(rank, state.cap))
    small = made[0].to_dense()
    _check_loop(
        "reduced controller",
        _loop(g, small, -1),
        f"at order {small.order}: keep more states, or reduce the other factors",
    )
    return small


def _loop(g: DenseSystem, k: DenseSystem, sign: int) -> DenseSystem:
    r"""The closed loop's [S G, S], from signals added to the plant's input and to its output, to its output."""
    n, m, p = g.order, g.B.shape[1], len(g.C)
    C, D = sign * k.C, sign * k.D
    direct = np.eye(p) - g.D @ D
    if not np.linalg.svd(direct, compute_uv=False)[-1] > p * np.finfo(np.float64).eps * np.linalg.norm(direct):
        raise ValueError(f"the loop must be well posed, got a singular I - D_plant D_controller, {direct.tolist()}")
    # y and u in terms of the plant's state, the controller's, and the two signals added
    y = np.linalg.solve(direct, np.concatenate([g.C, g.D @ C, g.D, np.eye(p)], axis=1))
    u = np.concatenate([np.zeros((m, n)), C, np.eye(m), np.zeros((m, p))], axis=1) + D @ y
    order = n + k.order
    states = np.concatenate([g.B @ u, k.B @ y])
    states = states + np.pad(block_diagonal(g.A, k.A), ((0, 0), (0, m + p)))
    return DenseSystem(states[:, :order], states[:, order:], y[:, :order], y[:, order:], g.dt)


def _check_loop(name: str, loop: DenseSystem, how: str) -> None:
    poles = known_poles(loop)
    if not poles.inside().all():
        worst = complex(poles.at[np.argmin(poles.margin)])
        raise UnstableError(f"the {name} must stabilise the plant, got a closed-loop pole at {worst:.4g} {how}")
