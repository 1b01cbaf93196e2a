r"""Norms of systems, and the measured error of a reduction.

H2 from a Gramian, Hankel from the largest Hankel singular value, H-infinity by the level-set method on Hamiltonian
eigenvalues, which finds peaks that a frequency grid misses.  The L2 and L-infinity norms are the same integrals and
suprema over the boundary of the stable region, and exist for unstable systems too.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import numpy as np

from balred.hankel.gradients import energy_cotangents, in_given_units, in_moderate_units
from balred.hankel.projections import projected
from balred.hankel.spectrum import spectrum
from balred.hankel.values import hsv
from balred.measures.hinf import hinf_peak, per_time
from balred.measures.modes import told_of_modes
from balred.measures.shared_modes import without_shared_modes
from balred.ranks.bounds import numerical_rank
from balred.realisations.minimal import minimal_realisation
from balred.registry.reading import system_of
from balred.solvers.closed_form import is_siso
from balred.solvers.gramians import solved
from balred.solvers.smith import Solved, output_energy
from balred.systems import arrays
from balred.systems.arrays import (
    Array,
    backend_of,
    double_precision,
    is_at_hand,
    is_concrete,
    namespace,
    to_numpy,
)
from balred.systems.checks import check_representable, of_kind
from balred.systems.dense_system import DenseSystem
from balred.systems.diagonal_system import DiagonalSystem
from balred.systems.leaves import (
    Ports,
    System,
    are_ordinary,
    at_hand,
    cast_like,
    moderate,
    unit_of,
    with_leaves,
)
from balred.systems.parts import difference, split
from balred.systems.poles import UnstableError, check_boundary, check_stable, check_stored
from balred.systems.units import evened


def norm(obj: Any, kind: str = "h2", *, solver: str | None = None, peak: bool = False) -> Any:
    r"""Norm of a system.

    .. math::
        \|G\|_2^2 = \tfrac1{2\pi}\int\|G(i\omega)\|_F^2\,d\omega
            = \mathrm{tr}(CPC^H)\ [+\ \|D\|_F^2\ \text{in discrete time}], \quad
        \|G\|_\infty = \sup_\omega \bar\sigma(G(i\omega)), \quad \|G\|_H = \sigma_1

    (over the unit circle in discrete time).  "h2" and "hinf" are norms of stable systems.  "l2" and "linf" are the same
    integral and supremum for any system without poles on the boundary of the stable region.  For an unstable system they say
    nothing about its response in time, but they say, for example, how far apart two unstable systems are.

    Parameters
    ----------
    obj : system, layer, or anything :func:`balred.adapt` reads
    kind : {"h2", "hinf", "hankel", "l2", "linf"}, default "h2"
    solver : str, optional
        How the Gramians of "h2", "l2" and "hankel" are computed: "smith", "closed", "cauchy", "scipy" or "slycot".
    peak : bool, default False
        For "hinf" and "linf": return the frequency of the largest gain, too.

    Returns
    -------
    array, shape (...), or with `peak` a pair of them
        The norm; H2 and L2 are infinite for a continuous system with D != 0.  With `peak` also the frequency of the
        peak, in rad per unit of time (per step if `dt` is True).  It is infinite if the gain approaches its peak at
        high frequencies.  It is negative for complex systems only.

    Raises
    ------
    UnstableError
        The system is not stable; for "l2" and "linf": a pole lies on the boundary.
    ValueError
        Unknown `kind`; `peak` with another norm than "hinf" and "linf"; for "l2": stable and unstable poles are too close to be separated.

    References
    ----------
    N. A. Bruinsma and M. Steinbuch, A fast algorithm to compute the H-infinity norm of a transfer function matrix,
    Systems & Control Letters 14 (1990).  The L2 norm of an unstable system is that of SLICOT's AB13BD.

    Examples
    --------
    >>> import balred
    >>> sys = balred.ss([[-1.0]], [[1.0]], [[1.0]])
    >>> [round(float(balred.norm(sys, kind)), 6) for kind in ("h2", "hinf", "hankel")]
    [0.707107, 1.0, 0.5]
    >>> unstable = balred.ss([[2.0]], [[1.0]], [[1.0]])
    >>> [round(float(balred.norm(unstable, kind)), 6) for kind in ("l2", "linf")]
    [0.5, 0.5]

    A resonance, 1/(s^2 + s/5 + 1), and where it is:

    >>> value, w = balred.norm(balred.ss([[0.0, 1.0], [-1.0, -0.2]], [[0.0], [1.0]], [[1.0, 0.0]]), "hinf", peak=True)
    >>> round(float(value), 4), round(float(w), 4)
    (5.0252, 0.9899)
    """
    system = system_of(obj)
    of_kind("kind", kind, "str")
    of_kind("solver", solver, "str | None")
    of_kind("peak", peak, "bool")
    if peak and kind not in ("hinf", "linf"):
        raise ValueError(f"peak must go with kind 'hinf' or 'linf', got {kind!r}")
    if kind == "hankel":
        check_stable(system)
        values = hsv(system, solver=solver)
        return values[..., 0] if values.shape[-1] else namespace(values).sum(values, axis=-1)
    if kind == "h2":
        check_stored(system)
        return cast_like(_h2(at_hand(system), solver), system)
    if kind not in ("hinf", "l2", "linf"):
        raise ValueError(f"kind must be 'h2', 'hinf', 'hankel', 'l2' or 'linf', got {kind!r}")
    if not is_concrete(*system.leaves):
        name = {"hinf": "H-infinity", "l2": "L2", "linf": "L-infinity"}[kind]
        raise TypeError(f"the {name} norm needs concrete values, got traced arrays")
    quick = told_of_modes(system) if kind == "hinf" and solver is None else None
    if quick is not None and (not quick[0].ndim or not np.isnan(quick[0]).any()):
        return quick if peak else quick[0]
    if kind == "hinf":
        rest = np.isnan(quick[0]) if quick is not None and quick[0].ndim else None  # those that were told are stable
        check_stable(system if rest is None else with_leaves(system, tuple(x[rest] for x in system.leaves)))
    else:
        check_boundary(system)
    function = {"hinf": _hinf, "linf": _linf, "l2": _l2}[kind]
    A, B, C, D = (to_numpy(x) for x in _dense_leaves(system))
    batch = B.shape[:-2]
    D = np.broadcast_to(D, (*batch, *D.shape[-2:]))
    if quick is None and kind == "hinf" and solver is None:
        quick = told_of_modes(DenseSystem(A, B, C, D, system.dt))
    told = np.full((2, *batch), np.nan) if quick is None else np.array(quick)
    for at in map(tuple, np.argwhere(np.isnan(told[0]))):
        told[(slice(None), *at)] = _moderated(function, DenseSystem(A[at], B[at], C[at], D[at], system.dt), solver)
    if not (kind == "l2" and not system.discrete and D.any()):  # which is infinite
        check_representable("norms", told[0])
    values, where = (backend_of(system.B).from_numpy(x, like=system.B, real=True) for x in told)
    return (values, where) if peak else values


def _moderated(
    function: Callable[[DenseSystem, str | None], tuple[float, float]], system: DenseSystem, solver: str | None
) -> tuple[float, float]:
    """A norm of one system on the host, and a frequency, by a `function` that squares what it is given."""
    g, ports = moderate(system)
    through = unit_of(system.D) if system.D.any() else None
    if ports is None and (through is None or are_ordinary(system.D)):
        return function(system, solver)
    if ports is None:
        ports = Ports(*(np.ones((1, 1)) for _ in range(3)))
    power = float(np.sum([sign * np.log2(x) for sign, x in zip((-1, 1, 1), ports, strict=True)]))
    if through is not None:
        D, more = system.D / through, float(np.log2(through.item())) - power
        if more > 0:  # D is larger than the rest, which is made smaller in these units
            g, power = dataclasses.replace(g, C=_times(g.C, -more)), power + more
        else:
            D = _times(D, more)
        g = dataclasses.replace(g, D=D)
    value, frequency = function(g, solver)
    root = 0.5 * float(np.log2(ports.time.item())) if function is _l2 else 0.0
    return float(_times(np.float64(value), power + root)), frequency * float(ports.time.item())


def _times(x: Any, power: float) -> Any:
    """``x * 2**power``, which may be zero, or infinite."""
    with np.errstate(over="ignore", under="ignore"):
        return x * 2.0 ** np.clip(power / 2, -1000, 1000) * 2.0 ** np.clip(power / 2, -1000, 1000)


def error(sys: Any, reduced: Any, kind: str = "hinf", *, solver: str | None = None) -> Array:
    """Norm of the difference of two systems with the same inputs, outputs and time step.

    Parameters
    ----------
    sys, reduced : system, layer, or anything :func:`balred.adapt` reads
    kind : {"hinf", "h2", "hankel", "linf", "l2"}, default "hinf"

    Returns
    -------
    array, shape (...)

    Raises
    ------
    ValueError
        Inputs, outputs or `dt` differ.
    UnstableError
        The two systems do not have the same unstable and marginal modes.  For "linf" and "l2", only their modes on the
        stability boundary must be the same.

    Notes
    -----
    If a single system shares unstable or marginal modes with the other, for example an integrator, these modes cancel.
    They count as shared if they are equal within the rounding errors of the entries
    (:func:`balred.measures.shared_modes.without_shared_modes`).  Such an error has no gradient.

    Examples
    --------
    >>> import balred
    >>> a, b = balred.ss([[-1.0]], [[1.0]], [[1.0]]), balred.ss([[-1.0]], [[1.0]], [[3.0]])
    >>> round(float(balred.error(a, b)), 6)
    2.0

    The integrator in 1/s + 1/(s + 1) and 1/s + 2/(s + 3) is no error:

    >>> a = balred.ss([[0.0, 0.0], [0.0, -1.0]], [[1.0], [1.0]], [[1.0, 1.0]])
    >>> b = balred.ss([[0.0, 0.0], [0.0, -3.0]], [[1.0], [1.0]], [[1.0, 2.0]])
    >>> round(float(balred.error(a, b, "h2")), 6)  # the root of 1/2 + 4/6 - 4/4
    0.408248
    """
    full, small = system_of(sys), system_of(reduced)
    wider = max(full, small, key=lambda g: g.B.dtype.itemsize)
    if all(is_at_hand(*g.leaves) for g in (full, small)):
        full, small = at_hand(full), at_hand(small)
    return cast_like(_error(full, small, kind, solver), wider)


def _error(full: System, small: System, kind: str, solver: str | None) -> Array:
    apart = difference(full, small)
    if is_concrete(*apart.leaves) and not is_stable(apart):
        cancelled = without_shared_modes(full, small, boundary_only=kind in ("linf", "l2"))
        if cancelled is not None:
            value = np.asarray(norm(cancelled, kind, solver=solver))
            return backend_of(apart.B).from_numpy(value, like=apart.B, real=True)
    if kind in ("h2", "hankel") and isinstance(apart, DiagonalSystem) and not is_siso(apart):
        apart = apart.to_dense()  # whose factors keep the digits of a small difference; a root of a Gramian does not
    return norm(apart, kind, solver=solver)


def is_stable(system: System) -> bool:
    """Whether every pole lies inside the stable region, by more than rounding."""
    try:
        check_stable(system)
    except UnstableError:
        return False
    return True


def _dense_leaves(system: System) -> tuple[Array, Array, Array, Array]:
    work = at_hand(system)
    with double_precision(*work.leaves) as leaves:
        g = with_leaves(work, leaves).to_dense()
    return g.A, g.B, g.C, g.D


def _hinf(system: DenseSystem, solver: str | None) -> tuple[float, float]:
    """H-infinity norm of one stable system on the host, and the frequency where it is attained.

    The difference of a system and its reduction is nearly non-minimal, and the imaginary eigenvalues of its Hamiltonian
    may not come out imaginary; those of its balanced minimal realisation do.  So both propose frequencies, and the
    whole system alone, in the coordinates where it was solved, says what the gain is there.
    """
    if system.order == 0:
        return float(np.linalg.norm(system.D, 2)), 0.0
    with double_precision(*system.leaves):
        try:
            sp = spectrum(system, solver)
        except ArithmeticError:  # its gain can be told, if not its Gramians
            return _linf(system, solver)
        # of a system whose inputs do not reach its outputs (G - G) all values are rounding errors of the product
        noise = system.order * np.finfo(np.float64).eps * np.linalg.norm(sp.Zp) * np.linalg.norm(sp.Zq)
        rank = int(numerical_rank(sp.sigma)) if sp.sigma[0] > noise else 0
        minimal = [projected(sp, rank)[0]] if 0 < rank < system.order else []
    return _peak(sp.system, *minimal, given=None if sp.coordinates.right is None else evened(system)[0])


def _linf(system: DenseSystem, solver: str | None) -> tuple[float, float]:
    """L-infinity norm of one system without poles on the boundary, on the host, and the frequency where it is attained."""
    if system.order == 0:
        return float(np.linalg.norm(system.D, 2)), 0.0
    system, smaller = evened(system)[0], minimal_realisation(system)
    return _peak(system, *([smaller] if 0 < smaller.order < system.order else []))


def _peak(system: DenseSystem, *others: DenseSystem, given: DenseSystem | None = None) -> tuple[float, float]:
    """The largest gain, and its frequency in rad per unit of time; of a real system the positive one."""
    return per_time(system, *hinf_peak(system, *others, given=given))


def _l2(system: DenseSystem, solver: str | None) -> tuple[float, float]:
    r"""L2 norm of one system without poles on the boundary, on the host; no frequency (NaN) is its own.

    The stable and the antistable part of :math:`G` are orthogonal.  The latter is the adjoint of a stable system: in
    continuous time that of :math:`(-A,\,B,\,C)`; in discrete time, as a series in z,

    .. math:: C(zI-A)^{-1}B = -CA^{-1}B - \sum_{k\ge1} z^k\,CA^{-1}\,A^{-k}B,

    whose constant term adds to D.
    """
    unstable, stable = split(system, None)
    D = system.D
    parts = [] if stable is None else [float(_h2(dataclasses.replace(stable, D=0 * D), solver))]
    if unstable is not None:
        g = unstable.to_dense()
        A, B, C = (-g.A, g.B, g.C) if not g.discrete else (np.linalg.inv(g.A), g.B, g.C)
        if g.discrete:
            B = A @ B
            D, C = D - C @ B, C @ A
        parts.append(float(_h2(DenseSystem(A, B, C, 0 * D, g.dt), solver)))
    if system.discrete:
        parts.append(float(_magnitude(D)))
    elif D.any():
        return np.inf, np.nan
    return math.hypot(*parts), np.nan


def _h2(system: System, solver: str | None) -> Array:
    r"""H2 norm with the gradient of its square, :math:`\mathrm{tr}(CPC^H) = \mathrm{tr}(B^HQB)`.

    For a dense system :math:`dA = 2QAP` (discrete) or :math:`2QP`, :math:`dB = 2QB`, :math:`dC = 2CP`; for a diagonal one
    as for the Hankel singular values, with the two Gramians' cotangents :math:`C^HC` and :math:`BB^H` sharing the work.
    """
    xp, be = namespace(system.B), backend_of(*system.leaves)
    bare = dataclasses.replace(system, D=None)

    def size(found: Solved) -> Array:
        C, Zp = found.system.to_dense().C, found.Zp
        dtype = namespace(C).result_type(C, Zp)
        return _magnitude(namespace(C).astype(C, dtype) @ namespace(C).astype(Zp, dtype))

    def value(*leaves: Array, residuals: bool = True, traced: bool = False) -> tuple[Array, Any]:
        with double_precision(*(be.stop_gradient(x) for x in leaves)) as wide:
            precise = with_leaves(bare, wide)
            alone = not residuals and solver in (None, "smith") and isinstance(wide[0], np.ndarray) and wide[0].ndim > 2
            if alone and isinstance(precise, DenseSystem) and precise.order > 0:
                energy = output_energy(precise)
                if energy is not None:
                    return cast_like(energy, bare), None
            found = solved(precise, solver)
            return cast_like(size(found), bare), found

    def vjp(residuals: Solved, g: Array) -> tuple[Array, ...]:
        with double_precision(g, *residuals.system.leaves) as wide:
            ports: Ports | None = None
            if isinstance(residuals.system, DenseSystem):
                moderated, Zp, Zq, ports = in_moderate_units(*residuals[:3])
                residuals = residuals._replace(system=moderated, Zp=Zp, Zq=Zq)
            root = size(residuals)
            half = 2 * namespace(root).where(root > 0, root, namespace(root).ones_like(root))
            weight = (wide[0] / half)[..., None, None]
            cotangents = energy_cotangents(residuals)
            scaled = tuple(c * (weight if c.ndim == weight.ndim else weight[..., 0]) for c in cotangents)
            if ports is not None:
                scaled = in_given_units(scaled, ports, namespace(root).sqrt(ports.time))
            return tuple(cast_like(c, bare) for c in scaled)

    proper = be.differentiable(value, vjp, *system.leaves)
    check_representable("H2 norms", proper)
    if system.discrete:
        return _magnitude(xp.stack([proper, _magnitude(system.D)], axis=-1)[..., None])
    return xp.where(xp.any(system.D != 0, axis=(-2, -1)), xp.inf, proper)


def _magnitude(x: Array) -> Array:
    """Frobenius norms wherever they are numbers, with derivatives where they are not zero."""
    xp, be = namespace(x), backend_of(x)
    if 0 in x.shape[-2:]:
        return arrays.zeros(arrays.real(x), x.shape[:-2])
    size = xp.abs(x)
    unit = be.stop_gradient(xp.max(size, axis=(-2, -1)))
    unit = xp.where(unit > 0, unit, xp.ones_like(unit))
    square = xp.sum((size / unit[..., None, None]) ** 2, axis=(-2, -1))
    none = square == 0  # nor is a NaN anything
    return xp.where(none, xp.zeros_like(square), unit * xp.sqrt(xp.where(none, xp.ones_like(square), square)))
