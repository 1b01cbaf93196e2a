"""Hankel singular values: the singular values of the operator that maps past inputs to future outputs."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import numpy as np

from balred.hankel.gradients import cotangents
from balred.hankel.spectrum import Spectrum, decomposed, hankel_matrix, spectrum
from balred.registry.reading import per_layer
from balred.solvers.closed_form import is_siso, siso_values, squared_values_matrix
from balred.solvers.gramians import check_precision, solved
from balred.solvers.smith import smith_solved
from balred.systems import arrays
from balred.systems.arrays import (
    Array,
    backend,
    backend_of,
    in_precision,
    is_one,
    namespace,
    on_host,
    to_numpy,
)
from balred.systems.batches import check_budget, streamed, together
from balred.systems.checks import check_representable
from balred.systems.dense_system import DenseSystem
from balred.systems.diagonal_system import DiagonalSystem
from balred.systems.leaves import System, cast_like, where_fastest, with_leaves
from balred.systems.parts import separated
from balred.systems.poles import UnstableError, check_stable, entry_rounding


def hsv(
    obj: Any,
    *,
    solver: str | None = None,
    offset: float | None = None,
    precision: str = "float64",
    max_bytes: int | None = None,
) -> Any:
    r"""Hankel singular values, descending.

    .. math:: \sigma_i = \sqrt{\lambda_i(PQ)} = \mathrm{svd}(Z_q^H Z_p)_i

    They are computed in float64, and returned in the dtype of the data.  JAX and PyTorch can differentiate them; where values
    repeat, this holds for functions that are symmetric in them, such as sums and energies.  JAX can trace the computation.

    Parameters
    ----------
    obj : system, layer, model, or anything :func:`balred.adapt` reads
    solver : {"smith", "closed", "cauchy", "scipy", "slycot"}, optional
        How they are computed; by default "smith" for dense systems and "closed" for diagonal ones.  "cauchy", for diagonal
        systems with one input and one output, finds every value to high relative accuracy, down to 1e-40 of the first.
    offset : float, optional
        Poles within `offset` of the stability boundary count as unstable.
    precision : {"float64", "float32"}, default "float64"
        The precision of the computation.  float32 is for devices without fast float64; every value then has an error as
        large as the rounding of the first.
    max_bytes : int, optional
        The most memory to use: a larger batch is computed piece by piece, at least one system at a time.

    Returns
    -------
    array, shape (..., order)
        For a conjugate system 2n values, those of the real operator.  Unstable modes have ``inf``.  For a model
        with several layers a dict by layer name.

    Raises
    ------
    ValueError
        A batch with unstable members; a `precision` that `solver` does not have.

    References
    ----------
    K. Glover, Int. J. Control 39 (1984), section 2.

    Examples
    --------
    >>> import balred
    >>> balred.hsv(balred.ss([[1.0, -2.0], [3.0, -4.0]], [[5.0], [7.0]], [[6.0, 8.0]], [[9.0]])).round(4)
    array([24.4269,  0.5731])
    """
    check_precision(precision, solver)
    check_budget(max_bytes)

    def values(system: System) -> Array:
        return streamed(lambda part: _hsv(part, solver, offset, precision), system, max_bytes)

    systems = per_layer(obj, lambda system, _: system)
    return together(values, systems) if isinstance(systems, dict) else values(systems)


def _hsv(system: System, solver: str | None, offset: float | None, precision: str) -> Array:
    be = backend_of(*system.leaves)
    if system.order == 0:  # a static gain
        return arrays.zeros(arrays.real(system.B), (*system.B.shape[:-2], 0))
    if offset is None and solver is None and precision == "float64" and (quick := _of_one(system)) is not None:
        return quick
    system = dataclasses.replace(system, D=None)  # no part in it, and a derivative rule may not close over it

    def value(*leaves: Array, residuals: bool = True, traced: bool = False) -> tuple[Array, Any]:
        given = with_leaves(system, tuple(be.stop_gradient(x) for x in leaves))
        moved = on_host(*leaves) and not traced and not isinstance(leaves[0], np.ndarray)
        with in_precision(precision, *(arrays.mapped(given, to_numpy) if moved else given).leaves) as wide:
            precise = with_leaves(system, wide)
            solve = spectrum if residuals else _values
            unstable, stable, solution = separated(
                precise, offset, lambda part: solve(part, solver), entry_rounding(given)
            )
            if stable is None or solution is None:
                return cast_like(arrays.full(arrays.real(given.B), (system.order,), np.inf), system), None
            s = _padded(solution.s if isinstance(solution, Spectrum) else solution, stable.order)
            check_representable("Hankel singular values", cast_like(s, system))
            if unstable is not None:
                xp = namespace(s)
                s = xp.concat([arrays.full(s, (unstable.order,), np.inf), s], axis=-1)
            return cast_like(s, system), (solution, stable if unstable is None else None)

    def vjp(residuals: Any, g: Array) -> tuple[Array, ...]:
        if residuals is None or residuals[1] is None:
            raise ValueError("hsv must be finite to be differentiated, got a system with unstable poles")
        sp, stable = residuals
        host = on_host(*stable.leaves) and be is not backend_of(*stable.leaves)
        with in_precision(precision, to_numpy(g) if host else g, *stable.leaves) as wide:
            grads = cotangents(sp, stable, wide[0][..., : sp.s.shape[-1]])
            return tuple(cast_like(x, system) for x in grads)

    return be.differentiable(value, vjp, *system.leaves)


def _of_one(system: System) -> Array | None:
    """The values of one dense system of NumPy in double precision: all that is below, in the few calls that it needs.

    None of another system, or of one that may have poles to be set aside.
    """
    if not (isinstance(system, DenseSystem) and all(is_one(x) and x.dtype == np.float64 for x in system.leaves)):
        return None
    be = backend("numpy")
    with be.double_scope():
        try:
            found = smith_solved(system)
        except (UnstableError, ArithmeticError):
            return None
        with be.few_threads(system.order):
            s = be.svdvals(hankel_matrix(found.Zp, found.Zq, found.product))
    if not s[0] < np.inf:
        check_representable("Hankel singular values", s)
    return _padded(s, system.order)


def _values(system: System, solver: str | None) -> Array:
    if isinstance(system, DiagonalSystem) and is_siso(system) and solver in (None, "closed", "cauchy"):
        return siso_values(system, relative=solver == "cauchy")
    found = solved(system, solver)
    return decomposed(backend_of(found.Zp).svdvals, found.Zp, found.Zq, found.product)


def _padded(s: Array, n: int) -> Array:
    xp = namespace(s)
    missing = n - s.shape[-1]
    if missing <= 0:
        return s[..., :n]
    return xp.concat([s, arrays.zeros(s, (*s.shape[:-1], missing))], axis=-1)


def values_in_single(system: System) -> np.ndarray[Any, Any]:
    """The Hankel singular values in float32 arithmetic, on the host, shape (..., 2, n): a quick look at a stable system.

    Twice, as :func:`values_between` gives them.
    """
    work = where_fastest(system)
    with in_precision("float32", *work.leaves) as leaves:
        s = np.asarray(to_numpy(_padded(_values(with_leaves(work, leaves), None), work.order)))
    return np.stack([s, s], axis=-2)


def values_between(system: DiagonalSystem) -> np.ndarray[Any, Any]:
    r"""What the Hankel singular values of a stable diagonal system lie between, on the host, shape (..., 2, n): the quickest look at it.

    They are the roots of :math:`\lambda_i(Z_p^HQZ_p) \mp \delta`, in float32, where :math:`\delta` is what rounding may have
    added, so nothing is known of values far below the first.  Rules that keep the least order by a share, a sum or a size of the
    values keep no less with the second than with the values, and no more with the first.
    """
    work = where_fastest(system)
    with in_precision("float32", *work.leaves) as leaves:
        precise = with_leaves(work, leaves)
        assert isinstance(precise, DiagonalSystem)
        check_stable(precise)
        K, unit = squared_values_matrix(precise)
        be, n = backend_of(K), int(K.shape[-1])
        squares = np.asarray(to_numpy(be.over_batch(be.eigvalsh, tuple(K.shape[:-2]), K)))[..., None, ::-1]
        rounding = _FOLD * float(np.finfo(np.float32).eps) * math.sqrt(n) * squares[..., :1]
        bounds = np.maximum(np.concatenate([squares - rounding, squares + rounding], axis=-2), 0.0)
        return np.asarray(_padded(np.sqrt(bounds) * to_numpy(unit)[..., None], system.order))


_FOLD = 4.0
"""Times the root of the order, that many roundings of the first are in the squares of the values."""
