"""python-control's functions for model reduction under its own names, so that a program changes one import.

Arguments and results are those of python-control 0.10: slycot is not needed, and what differs is what is wrong there.
Discrete systems are reduced as such, Hankel singular values are real, ``alpha`` counts for both methods, Gramian factors
exist for any number of inputs, and time base and signal names survive.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import control
import numpy as np

from balred.realisations.minimal import minimal
from balred.reduction.analysis import Analysis, analyze
from balred.registry.reading import adapt
from balred.systems.arrays import backend, warn_caller
from balred.systems.dense_system import DenseSystem
from balred.systems.parts import join
from balred.systems.poles import known_poles, warn_if_unstable

_METHODS = {"truncate": "truncate", "matchdc": "singular_perturbation"}


def balanced_reduction(
    sys: Any,
    orders: Any,
    method: str = "truncate",
    alpha: float | None = None,
    *,
    solver: str | None = None,
    offset: float | None = None,
) -> Any:
    r"""Balanced reduction to one order or several.

    Parameters
    ----------
    sys : control.StateSpace
        Continuous or discrete; unstable modes are kept and count.
    orders : int or sequence of int
    method : {"truncate", "matchdc"}
        Balanced truncation or singular perturbation, which keeps the DC gain.
    alpha : float, optional
        Boundary of stability, at most 0 for the real parts of continuous poles, in (0, 1] for the moduli of discrete
        ones: poles beyond it are kept as they are.
    solver : {"smith", "scipy", "slycot"}, optional
        Of the Lyapunov equations; by default "smith".
    offset : float, optional
        Poles within `offset` of the stability boundary are kept as they are: `alpha`, counted from that boundary.

    Returns
    -------
    control.StateSpace, or a list of them
        With the time base and the signal names of `sys`.  As in python-control a sequence of one order gives one system.

    Raises
    ------
    TypeError
        `sys` is not a state-space system.
    ValueError
        An order is not between the number of kept modes and that of states; another `method`; `alpha` out of range, or
        given together with `offset`.

    Warns
    -----
    RankWarning
        An order is beyond the numerical rank; the numerical rank is used instead.

    Examples
    --------
    >>> import control
    >>> from balred.adapters.control import balred
    >>> plant = control.tf2ss(control.tf([1, 11, 45, 32], [1, 15, 60, 200, 60]))
    >>> [g.nstates for g in balred(plant, [1, 2], method="matchdc")]
    [1, 2]
    """
    if method not in _METHODS:
        raise ValueError(f"method must be 'truncate' or 'matchdc', got {method!r}")
    check_statespace(sys, TypeError)
    if alpha is not None and offset is not None:
        raise ValueError(f"alpha or offset must be given, not both, got {alpha} and {offset}")
    if alpha is not None:
        discrete = sys.isdtime(strict=True)
        if not (0 < alpha <= 1 if discrete else alpha <= 0):
            rule = "in (0, 1] for a discrete" if discrete else "at most 0 for a continuous"
            raise ValueError(f"alpha must be {rule} system, got {alpha}")
        offset = 1 - alpha if discrete else -alpha
    several = list(orders) if isinstance(orders, Iterable) else [orders]
    analysis = analyze(sys, method=_METHODS[method], solver=solver, offset=offset)
    made = [_reduced(sys, analysis, order, method) for order in several]
    return made[0] if len(made) == 1 else made


def _reduced(sys: Any, analysis: Analysis, order: Any, method: str) -> Any:
    kept = 0 if analysis.unstable is None else analysis.unstable.order
    if not isinstance(order, (int, np.integer)) or not kept <= order <= sys.nstates:
        raise ValueError(
            f"orders must be integers between {kept}, the number of unstable modes, and {sys.nstates}, got {order!r}"
        )
    if order > kept:
        return analysis.reduce(int(order))
    # nothing of the stable part is left but, where asked, its DC gain
    system, rebuild = adapt(sys)
    D = system.D
    if method == "matchdc" and isinstance(analysis.stable, DenseSystem):
        D = np.real_if_close(analysis.stable(1.0 if system.discrete else 0.0))
    A, B, C = np.zeros((0, 0)), np.zeros((0, D.shape[1])), np.zeros((D.shape[0], 0))
    return rebuild(join(analysis.unstable, DenseSystem(A, B, C, D, system.dt)))


def model_reduction(
    sys: Any,
    elim_states: Any = None,
    method: str = "matchdc",
    elim_inputs: Any = None,
    elim_outputs: Any = None,
    keep_states: Any = None,
    keep_inputs: Any = None,
    keep_outputs: Any = None,
    warn_unstable: bool = True,
) -> Any:
    r"""Eliminate chosen states, inputs and outputs.

    With the states in two blocks, the second to be eliminated, "truncate" keeps the first blocks, and "matchdc" sets the
    second to its steady state: with :math:`E = -A_{22}` in continuous and :math:`E = I - A_{22}` in discrete time

    .. math::
        A_r = A_{11} + A_{12}E^{-1}A_{21},\quad B_r = B_1 + A_{12}E^{-1}B_2,\quad
        C_r = C_1 + C_2E^{-1}A_{21},\quad D_r = D + C_2E^{-1}B_2

    Parameters
    ----------
    sys : control.StateSpace
    elim_states, elim_inputs, elim_outputs : int, str, slice, sequence of int or str, or mask of bool, optional
    method : {"matchdc", "truncate"}
    keep_states, keep_inputs, keep_outputs : optional
        Instead of those to eliminate.
    warn_unstable : bool, default True

    Returns
    -------
    control.StateSpace
        What is kept keeps its order, its names and the time base.

    Raises
    ------
    TypeError
        `sys` is not a state-space system.
    ValueError
        Both `elim` and `keep` are given for one variable; another `method`; no such signal; a mask of another length, or one that
        keeps nothing; E is singular.

    Warns
    -----
    UserWarning
        The system is unstable; E is nearly singular in comparison with the state matrix.
    InstabilityWarning
        What is left has more unstable modes than the system.

    Examples
    --------
    >>> import control
    >>> from balred.adapters.control import modred
    >>> plant = control.ss([[-1.0, 1.0], [1.0, -20.0]], [[1.0], [1.0]], [[1.0, 0.0]], 0, states=["slow", "fast"])
    >>> small = modred(plant, elim_states="fast")
    >>> small.state_labels, bool(abs(small.dcgain() - plant.dcgain()) < 1e-12)
    (['slow'], True)
    """
    check_statespace(sys, TypeError)
    if method not in _METHODS:
        raise ValueError(f"method must be 'truncate' or 'matchdc', got {method!r}")
    discrete = sys.isdtime(strict=True)
    poles = np.linalg.eigvals(sys.A)
    if warn_unstable and (np.any(np.abs(poles) >= 1) if discrete else np.any(poles.real >= 0)):
        warn_caller("System is unstable; reduction may be meaningless", UserWarning)
    x, z = _chosen("states", elim_states, keep_states, sys.state_labels)
    u, _ = _chosen("inputs", elim_inputs, keep_inputs, sys.input_labels)
    y, _ = _chosen("outputs", elim_outputs, keep_outputs, sys.output_labels)
    A, B, C, D = sys.A[np.ix_(x, x)], sys.B[np.ix_(x, u)], sys.C[np.ix_(y, x)], sys.D[np.ix_(y, u)]
    if method == "matchdc" and z:
        E = (np.eye(len(z)) if discrete else 0) - sys.A[np.ix_(z, z)]
        _check_steady(sys.A, E, z, "I - A22" if discrete else "A22")
        XA, XB = np.linalg.solve(E, sys.A[np.ix_(z, x)]), np.linalg.solve(E, sys.B[np.ix_(z, u)])
        A12, C2 = sys.A[np.ix_(x, z)], sys.C[np.ix_(y, z)]
        A, B, C, D = A + A12 @ XA, B + A12 @ XB, C + C2 @ XA, D + C2 @ XB
    if warn_unstable and z and x:
        had = int((~known_poles(adapt(sys)[0]).inside()).sum())
        made = f"the system without {', '.join(sys.state_labels[i] for i in z)}"
        warn_if_unstable(DenseSystem(A, B, C, D, float(discrete)), had, made, "eliminate other states")
    labels = {
        "states": [sys.state_labels[i] for i in x],
        "inputs": [sys.input_labels[i] for i in u],
        "outputs": [sys.output_labels[i] for i in y],
    }
    return control.StateSpace(A, B, C, D, sys.dt, remove_useless_states=False, name=sys.name, **labels)


def _check_steady(A: Any, E: Any, z: list[int], block: str) -> None:
    """Raise if the states `z` have no steady state, warn if they hardly have one."""
    d = backend("numpy").balancing(A)  # units of the states do not decide
    s = np.linalg.svd(E * d[z] / d[z, None], compute_uv=False)
    size = max(float(np.linalg.norm(A * d / d[:, None], 2)), float(s[0]))
    if s[-1] <= len(z) * np.finfo(np.float64).eps * s[0]:
        raise ValueError(
            f"the eliminated states must have a steady state, got a {block} that is singular to working precision"
        )
    if s[-1] < np.finfo(np.float64).eps ** 0.5 * size:
        warn_caller(
            f"{block} is nearly singular, its smallest singular value is {s[-1]:.2g} beside {size:.2g} of the state matrix: the "
            "steady state of the eliminated states may be nothing but rounding",
            UserWarning,
        )


def _chosen(what: str, elim: Any, keep: Any, labels: list[str]) -> tuple[list[int], list[int]]:
    """Indices of the kept and of the eliminated signals, ascending."""

    def indices(key: Any) -> set[int]:
        if key is None:
            return set()
        if isinstance(key, slice):
            return set(range(len(labels))[key])
        if isinstance(key, str) and key in labels:
            return {labels.index(key)}
        if not isinstance(key, str) and isinstance(key, Iterable):
            keys = list(key)
            if keys and all(isinstance(k, (bool, np.bool_)) for k in keys):
                return masked(keys)
            return set().union(*(indices(k) for k in keys))
        if isinstance(key, (int, np.integer)) and not isinstance(key, bool) and -len(labels) <= key < len(labels):
            return {int(key) % len(labels)}
        raise ValueError(f"{what} must be among {', '.join(labels) or 'none'} or their indices, got {key!r}")

    def masked(mask: list[Any]) -> set[int]:
        if len(mask) != len(labels):
            raise ValueError(f"a mask of {what} must have {len(labels)} entries, got {len(mask)}")
        if keep is not None and not any(mask):
            raise ValueError(f"a mask of {what} must keep one at least, got one without True")
        return {i for i, chosen in enumerate(mask) if chosen}

    gone, left = indices(elim), indices(keep)
    if gone and left:
        raise ValueError(f"can't provide both 'keep' and 'elim' for same variables, got both for {what}")
    every = set(range(len(labels)))
    left = left or every - gone
    return sorted(left), sorted(every - left)


def minimal_realization(sys: Any, tol: float | None = None, verbose: bool = True) -> Any:
    """Remove uncontrollable and unobservable states, or cancel poles against zeros.

    Parameters
    ----------
    sys : control.StateSpace or control.TransferFunction
        A transfer function is left to python-control.
    tol : float, optional
        For a state-space system, what counts as zero beside the numbers it is compared with; 0 for the default, the square
        root of the rounding unit.  For a transfer function, the distance of a zero that cancels a pole.
    verbose : bool, default True
        Print how many states were removed.

    Returns
    -------
    The type of `sys`
        With its time base and, for a state-space system, its signal names.

    Examples
    --------
    >>> import control
    >>> from balred.adapters.control import minreal
    >>> sys = control.ss([[-1.0, 0.0], [0.0, -2.0]], [[1.0], [0.0]], [[1.0, 1.0]], 0)
    >>> minreal(sys).nstates
    1 states have been removed from the model
    1
    """
    if isinstance(sys, control.TransferFunction):
        small = sys.minreal(tol)
        removed = len(sys.poles()) - len(small.poles())
    else:
        small = statespace_minreal(sys, tol or 0.0)
        removed = sys.nstates - small.nstates
    if verbose:
        print(f"{removed} states have been removed from the model")
    return small


def statespace_minreal(sys: Any, tol: float = 0.0) -> Any:
    """A replacement of ``control.StateSpace.minreal`` without slycot: ``control.StateSpace.minreal = statespace_minreal``.

    Parameters
    ----------
    sys : control.StateSpace
    tol : float, default 0
        What counts as zero beside the numbers it is compared with; 0 for the default, the square root of the rounding unit.

    Returns
    -------
    control.StateSpace
        With the time base and the signal names of `sys`.

    Raises
    ------
    TypeError
        `sys` is not a state-space system.

    Examples
    --------
    >>> import control
    >>> from balred.adapters.control import statespace_minreal
    >>> statespace_minreal(control.ss([[-1.0, 0.0], [0.0, -2.0]], [[1.0], [0.0]], [[1.0, 1.0]], 0)).nstates
    1
    """
    check_statespace(sys, TypeError)
    system, rebuild = adapt(sys)
    return rebuild(minimal(system, tol or None))


def check_statespace(sys: Any, error: type[Exception]) -> None:
    """Raise `error`, as python-control does, unless `sys` is a state-space system."""
    if not isinstance(sys, control.StateSpace):
        raise error(f"the system must be StateSpace, got {type(sys).__name__}: control.ss makes one")


balred = balanced_reduction
modred = model_reduction
minreal = minimal_realization
