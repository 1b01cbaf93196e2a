r"""The Hankel nuclear norm, the sum of all Hankel singular values, as a regulariser that a training can afford.

It is a convex substitute for the order of a system.  As a regulariser it makes a layer easy to truncate.
Written for its gradient: with :math:`P = ZZ^H` from a Cholesky factorisation, the norm is the trace of the square root of
:math:`S = Z^HQZ`, so that one symmetric eigenproblem gives it and

.. math:: dN = \langle W_P, dP\rangle + \langle W_Q, dQ\rangle, \qquad
          W_Q = \tfrac12 ZS^{-1/2}Z^H, \quad W_P = \tfrac12 QZS^{-3/2}Z^HQ.

Nothing is divided by differences of singular values, which may therefore repeat.  Held fixed, the same weights give an
upper bound that touches the norm where they were made, :func:`hankel_weights`, for next to nothing.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, NamedTuple, cast

from balred.hankel.gradients import weighted_cotangents
from balred.hankel.values import hsv
from balred.registry.reading import adapt, layers_of
from balred.solvers.closed_form import complexified, diagonal_gramians
from balred.systems import arrays
from balred.systems.arrays import Array, backend_of, ct, in_precision, is_at_hand, is_concrete, namespace, to_numpy
from balred.systems.checks import check_finite, check_representable
from balred.systems.diagonal_system import DiagonalSystem
from balred.systems.leaves import System, cast_like, unit_of, with_leaves
from balred.systems.poles import check_stable

_NOISE = 4
"""Eigenvalues of S below so many units of rounding of the first are rounding errors."""


class Weights(NamedTuple):
    """The derivative of the Hankel nuclear norm with respect to both Gramians; made by :func:`hankel_weights`.

    Attributes
    ----------
    P, Q : arrays, shape (..., n, n), or (..., n, 2n) for a conjugate system
        The derivatives with respect to P and to the conjugate of Q.  For a conjugate system their upper halves.
    """

    P: Array
    Q: Array


def hankel_nuclear_norm(obj: Any, *, weights: Any = None, precision: str = "float64") -> Any:
    r"""Sum of the Hankel singular values, differentiable by JAX and PyTorch.

    .. math:: N = \sum_i\sigma_i = \mathrm{tr}\,(Z_p^HQZ_p)^{1/2}

    For a batch or a model the sum includes all members and all layers.  In diagonal systems, values below about 1e-8 of
    the first (1e-3 in float32) are left out of the sum and of the gradient.

    Parameters
    ----------
    obj : system, layer, model, or anything :func:`balred.adapt` reads
        Stable.
    weights : optional
        From :func:`hankel_weights`, at an earlier state of the same `obj`: the upper bound
        :math:`\mathrm{Re}\langle W_P, P\rangle + \mathrm{Re}\langle W_Q, Q\rangle \ge N` instead, which costs little.
    precision : {"float64", "float32"}, default "float64"
        What it is computed in, whatever the dtype of the data.

    Returns
    -------
    array, shape ()
        In the library and dtype of the data.

    Raises
    ------
    UnstableError
        A pole is unstable or marginal.  Under ``jax.jit``, where values are not known, the result is NaN instead.
    ValueError
        `weights` do not fit `obj`, which may have been cut since.

    References
    ----------
    M. Fazel, H. Hindi and S. Boyd, A rank minimization heuristic with application to minimum order system
    approximation, ACC 2001; M. Forgione, M. Mejari and D. Piga, Model order reduction of deep structured state-space
    models: a system-theoretic approach, 2024 (arXiv 2403.14833).

    Examples
    --------
    >>> import balred
    >>> sys = balred.diagonal([-1.0, -2.0], B=[[1.0], [1.0]], C=[[1.0, 1.0]])
    >>> float(balred.hankel_nuclear_norm(sys).round(12)) == float(balred.hsv(sys).sum().round(12))
    True
    """
    arrays.check_precision(precision)
    layers = layers_of(obj)
    given: Mapping[str, Any] = weights if list(layers) != [""] and len(layers) else {"": weights}
    if weights is not None and set(given) != set(layers):
        raise ValueError(f"weights must be those of the layers {', '.join(layers)}, got {', '.join(given)}")
    total: Any = 0.0
    for name, layer in layers.items():
        value = _norm(adapt(layer)[0], None if weights is None else given[name], precision)
        total = total + namespace(value).sum(value)
    return total


def hankel_weights(obj: Any, *, precision: str = "float64") -> Any:
    r"""Weights that make :func:`hankel_nuclear_norm` cheap in the training steps that follow.

    For every positive definite W, :math:`N \le \frac12(\mathrm{tr}\,WP + \mathrm{tr}\,W^{-1}Q)`, with equality for the
    W of `obj` itself.  With W held fixed the right-hand side and its gradient need no factorisation, agree with N and
    its gradient where W was made, and lie above N elsewhere: descending on the bound and renewing it every so many
    steps descends on N (majorisation and minimisation).

    Parameters
    ----------
    obj : system, layer, model, or anything :func:`balred.adapt` reads
        Stable, with diagonal state matrices.
    precision : {"float64", "float32"}, default "float64"
        What the weights are computed in, whatever the dtype of the data.

    Returns
    -------
    Weights
        For a model with several layers a dict by layer name; a pytree of arrays, without derivatives.

    Raises
    ------
    UnstableError
        A pole is unstable or marginal.
    ValueError
        The system is dense: its Gramians take most of the time, and weights need them too.

    Examples
    --------
    >>> import balred
    >>> sys = balred.testing.random_system(8, kind="conjugate", dt=1, seed=0)
    >>> later = balred.testing.random_system(8, kind="conjugate", dt=1, seed=1)
    >>> weights = balred.hankel_weights(sys)
    >>> bool(abs(balred.hankel_nuclear_norm(sys, weights=weights) / balred.hankel_nuclear_norm(sys) - 1) < 1e-6)
    True
    >>> bool(balred.hankel_nuclear_norm(later, weights=weights) >= balred.hankel_nuclear_norm(later))
    True
    """
    arrays.check_precision(precision)
    layers = layers_of(obj)
    found = {name: _weights(adapt(layer)[0], precision) for name, layer in layers.items()}
    return found[""] if list(found) == [""] else found


def _norm(system: System, weights: Weights | None, precision: str) -> Array:
    if not isinstance(system, DiagonalSystem):
        if weights is not None:
            raise ValueError("weights must go with a diagonal system, got a dense one: leave them out")
        check_stable(system)
        values = hsv(system, precision=precision)
        return namespace(values).sum(values, axis=-1)
    be = backend_of(*system.leaves)
    bare = _checked(system)
    fixed = () if weights is None else _fitting(system, weights)

    def value(*args: Array, residuals: bool = True, traced: bool = False) -> tuple[Array, Any]:
        if not residuals and not traced and not fixed and is_at_hand(*args):
            with in_precision(precision, *map(to_numpy, args)) as wide:
                return cast_like(_value(with_leaves(bare, wide)), system), None
        with in_precision(precision, *(be.stop_gradient(x) for x in args)) as wide:
            precise = cast(DiagonalSystem, with_leaves(bare, wide[:3]))
            if fixed:
                grads = weighted_cotangents(precise, *wide[3:])
                # the Gramians are quadratic in B and in C
                total = (_inner(grads[1], precise.B) + _inner(grads[2], precise.C)) / 2
            elif residuals:
                total, made = _solved(precise)
                grads = weighted_cotangents(precise, *made)
            else:
                return cast_like(_value(precise), system), None
            return cast_like(total, system), tuple(cast_like(x, system) for x in grads)

    def vjp(grads: Any, g: Array) -> tuple[Array, ...]:
        dl, dB, dC = grads
        xp = namespace(dl)
        g = xp.astype(g, dl.dtype)[..., None]
        none = (xp.broadcast_to(arrays.zeros(x, ()), x.shape) for x in fixed)
        return g * dl, g[..., None] * dB, g[..., None] * dC, *none

    result: Array = be.differentiable(value, vjp, *bare.leaves, *fixed)
    check_representable("Hankel nuclear norms", result)
    return result


def _weights(system: System, precision: str) -> Weights:
    if not isinstance(system, DiagonalSystem):
        raise ValueError(
            "weights must go with a diagonal system, got a dense one: its Gramians take the time, and weights do not save them"
        )
    be = backend_of(*system.leaves)
    bare = _checked(system)
    host = is_at_hand(*bare.leaves)
    with in_precision(precision, *(to_numpy(x) if host else be.stop_gradient(x) for x in bare.leaves)) as wide:
        made = _solved(with_leaves(bare, wide))[1]
        return Weights(*(cast_like(x, system) for x in made))


def _checked(system: DiagonalSystem) -> DiagonalSystem:
    """`system` without D, which has no part in it; an error unless it is stable and finite."""
    check_stable(system)
    if is_concrete(*system.leaves):
        check_finite("B", system.B)
        check_finite("C", system.C)
    return dataclasses.replace(system, D=None)


def _fitting(system: DiagonalSystem, weights: Weights) -> tuple[Array, Array]:
    n = system.states
    want = (*system.B.shape[:-2], n, 2 * n if system.conjugate else n)
    for name, W in zip(("P", "Q"), weights, strict=True):
        if tuple(W.shape) != want:
            raise ValueError(
                f"weights must have the shape {want} of the system, got {name} of shape {tuple(W.shape)}: "
                "make new ones after a cut"
            )
    return weights.P, weights.Q


def _inner(x: Array, y: Array) -> Array:
    """Real inner products of matrices."""
    xp = namespace(x)
    return xp.sum(arrays.real(xp.conj(x) * y) if arrays.is_complex(x) else x * y, axis=(-2, -1))


def _factorised(system: System) -> tuple[Array, Array, Array, Array]:
    """Z with P = Z Z^H, Q Z, S = Z^H Q Z, and whether each member is stable where nobody could look."""
    assert isinstance(system, DiagonalSystem)
    xp = namespace(system.B)
    P, Q = diagonal_gramians(system)
    n = system.order
    stable = xp.max(arrays.real(system.log_poles), axis=-1) < 0
    I = arrays.eye(P, n)
    if not is_concrete(*system.leaves):  # a factorisation must not fail
        P, Q = (xp.where(stable[..., None, None], G, I) for G in (P, Q))
    size = arrays.real(xp.linalg.diagonal(P))
    if system.conjugate:  # of a nearly real pole one of the two is a difference, and known to the rounding of both
        size = (size + xp.concat([size[..., n // 2 :], size[..., : n // 2]], axis=-1)) / 2
    d = xp.astype(xp.sqrt(size), P.dtype)
    safe = xp.where(d != 0, d, xp.ones_like(d))
    # what is added to the scaled diagonal is the rounding of its entries, which would make it indefinite
    scaled = P / (safe[..., :, None] * safe[..., None, :]) + (n + 16) * arrays.eps(P) * I
    Z = d[..., :, None] * xp.linalg.cholesky(scaled)
    QZ = Q @ Z
    return Z, QZ, ct(Z) @ QZ, stable


def _roots(w: Array) -> tuple[Array, Array]:
    """Hankel singular values from their squares, ascending, and which of them are more than rounding errors."""
    xp = namespace(w)
    alive = w > _NOISE * arrays.eps(w) * w[..., -1:]
    return xp.sqrt(xp.where(alive, w, xp.ones_like(w))), alive


def _total(sigma: Array, alive: Array, stable: Array) -> Array:
    xp = namespace(sigma)
    return xp.where(stable, xp.sum(xp.where(alive, sigma, xp.zeros_like(sigma)), axis=-1), xp.nan)


def _in_units(system: System) -> tuple[System, Array, Array]:
    """`system` in units of inputs and outputs in which squares of squares are numbers, and these, shape (..., 1, 1)."""
    inputs, outputs = unit_of(system.B), unit_of(system.C)
    xp = namespace(system.B)
    B, C = system.B / xp.astype(inputs, system.B.dtype), system.C / xp.astype(outputs, system.C.dtype)
    return dataclasses.replace(system, B=B, C=C), inputs, outputs


def _value(system: System) -> Array:
    system, inputs, outputs = _in_units(system)
    _, _, S, stable = _factorised(system)
    return _total(*_roots(namespace(S).linalg.eigvalsh(S)), stable) * (inputs * outputs)[..., 0, 0]


def _solved(system: System) -> tuple[Array, Weights]:
    """The norm, and the weights it gives."""
    system, inputs, outputs = _in_units(system)
    Z, QZ, S, stable = _factorised(system)
    xp = namespace(S)
    w, V = xp.linalg.eigh(S)
    sigma, alive = _roots(w)
    total = _total(sigma, alive, stable)
    if backend_of(S).DYNAMIC_SHAPES and S.ndim == 2 and is_concrete(S):
        dead = int(w.shape[-1]) - int(xp.sum(xp.astype(alive, xp.int64)))
        sigma, alive, V = sigma[dead:], alive[dead:], V[:, dead:]
    half = xp.sqrt(sigma)
    mask = xp.astype(alive, sigma.dtype) / 2**0.5
    T = (Z @ V) * xp.astype(mask / half, V.dtype)[..., None, :]
    W = (QZ @ V) * xp.astype(mask / (sigma * half), V.dtype)[..., None, :]
    WP, WQ = W @ ct(W), T @ ct(T)
    if isinstance(system, DiagonalSystem) and system.conjugate:
        WP, WQ = complexified(WP), complexified(WQ)
    ratio = xp.astype(outputs / inputs, WP.dtype)
    total = total * (inputs * outputs)[..., 0, 0]
    return total, Weights(WP * ratio, (xp.conj(WQ) if arrays.is_complex(WQ) else WQ) / ratio)
