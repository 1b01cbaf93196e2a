r"""Models from measured impulse responses: the eigensystem realisation algorithm.

The Hankel matrix of a system's impulse response is its Hankel operator on a finite window, so a measured response has
Hankel singular values and balanced coordinates too, and the same rules choose a rank from them.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from balred.hankel.projections import signed
from balred.ranks.bounds import numerical_rank
from balred.ranks.choosing import RankWarning, check_rank, choose_order, is_rule
from balred.ranks.rules import Order, Rule
from balred.realisations.markov import Matrix, count_of
from balred.systems.arrays import warn_caller
from balred.systems.checks import check_finite, checked_dt, host_array, of_kind
from balred.systems.dense_system import DenseSystem, is_discrete
from balred.systems.poles import warn_if_unstable


def hankel_matrix_hsv(
    markov: Any, *, rows: int | None = None, columns: int | None = None, stable: bool = False
) -> NDArray[np.float64]:
    r"""Singular values of the block Hankel matrix, descending; :func:`era` chooses a rank from them.

    They tend to the Hankel singular values of the system as the window grows beyond its memory.

    Parameters
    ----------
    markov : array_like, shape (steps, p, m), or (steps,) for one input and output
        :math:`h_0 = D, h_1, h_2, \dots`: outputs to a unit impulse.
    rows, columns : int, optional
        Numbers of blocks of H; by default as many as the data allow, in equal numbers.
    stable : bool, default False
        Take the response for zero after the end of the data.

    Returns
    -------
    ndarray, shape (min(rows * p, columns * m),)

    Examples
    --------
    >>> import balred
    >>> from balred.realisations.markov import markov_parameters
    >>> g = balred.ss([[0.5]], [[1.0]], [[1.0]], dt=1)
    >>> hankel_matrix_hsv(markov_parameters(g, 80))[:2].round(6) + 0.0, balred.hsv(g).round(6)
    (array([1.333333, 0.      ]), array([1.333333]))
    """
    h, rows, columns = _windowed(markov, rows, columns, stable)
    values: NDArray[np.float64] = np.linalg.svd(_pair(h, rows, columns)[0], compute_uv=False)
    return values


def era(
    markov: Any,
    rank: int | Rule,
    *,
    dt: float | bool = True,
    rows: int | None = None,
    columns: int | None = None,
    stable: bool = False,
) -> DenseSystem:
    r"""A model from an impulse response, by the eigensystem realisation algorithm.

    With the block Hankel matrix :math:`H_{ij} = h_{i+j+1} \approx U\Sigma V^H`, the shifted :math:`H'_{ij} = h_{i+j+2}`,
    and :math:`L = \Sigma^{-1/2}U^H`, :math:`R = V\Sigma^{-1/2}`,

    .. math::
        A = LH'R, \qquad B = L\,(\text{first block column of } H), \qquad
        C = (\text{first block row of } H)\,R, \qquad D = h_0

    Parameters
    ----------
    markov : array_like, shape (steps, p, m), or (steps,) for one input and output
        :math:`h_0 = D, h_1, h_2, \dots`: outputs to a unit impulse (not one of unit area).
    rank : int or rule
        The order, or a rule such as ``balred.Energy(0.999)`` for the singular values of H.
    dt : float or bool, default True
        The time step in seconds, or True.
    rows, columns : int, optional
        Numbers of blocks of H.  By default as many as the data allow, in equal numbers.  With noisy data, ``rows * p``
        and ``columns * m`` should be much larger than the order.
    stable : bool, default False
        Take the response for zero after the end of the data.  The model is then the balanced truncation of this finite
        response.  It is stable and has its error bound (if :math:`\sigma_{r+1} < \sigma_r`).

    Returns
    -------
    DenseSystem
        In the balanced coordinates of H, with the largest entry of each row of B positive.  Without `stable` it may be
        unstable if data are noisy, or if `rank` is too small.

    Raises
    ------
    ValueError
        Not three axes (or one); fewer than three parameters; NaN; `rows` and `columns` need more data than there are, or are given
        with `stable`; `rank` is more than the size of H; the response is zero; continuous `dt`.

    Warns
    -----
    RankWarning
        An integer `rank` is beyond the numerical rank of H; the numerical rank is used instead.
    InstabilityWarning
        Less than the numerical rank is kept, and the model is unstable.

    Notes
    -----
    Exact for a system of order n from :math:`h_0, \dots, h_{2n}` or more without noise.

    References
    ----------
    B. L. Ho and R. E. Kalman (1966); S.-Y. Kung, A new identification and model reduction algorithm via singular value
    decompositions, Asilomar 1978 (`stable`); J.-N. Juang and R. S. Pappa, An eigensystem realization algorithm for modal
    parameter identification and model reduction, J. Guidance Control Dyn. 8 (1985).

    Examples
    --------
    >>> g = era([0.0, 1.0, 1.0, 2.0, 3.0], 2)  # Fibonacci
    >>> np.linalg.eigvals(g.A).round(6)
    array([ 1.618034, -0.618034])
    """
    dt = checked_dt(dt)
    if not is_discrete(dt):
        raise ValueError(f"dt must be True or a positive step, since an impulse response is sampled, got {dt!r}")
    h, rows, columns = _windowed(markov, rows, columns, stable)
    H, shifted = _pair(h, rows, columns)
    U, s, Vh = np.linalg.svd(H, full_matrices=False)
    order = order_of(rank, s)
    root = np.sqrt(s[:order])
    p, m = h.shape[1:]
    L, R = signed((U[:, :order] / root).conj().T, Vh[:order].conj().T / root, H[:, :m])
    g = DenseSystem(L @ shifted @ R, L @ H[:, :m], H[:p] @ R, h[0], dt)
    warn_if_cut_unstable(g, order, s, "stable=True takes the response to be over at the end of the data")
    return g


def warn_if_cut_unstable(g: DenseSystem, order: int, s: NDArray[np.float64], how: str) -> None:
    """Warn that a model of data is unstable, if values were cut: the whole of the data may show an unstable system."""
    if order < numerical_rank(s):
        warn_if_unstable(g, 0, f"the model of order {g.order} of the data", f"if their system is stable, {how}")


def order_of(rank: Any, s: NDArray[np.float64]) -> int:
    """The order that `rank`, a number or a rule, means for the singular values `s` of data."""
    if not s.any():
        raise ValueError("the data must hold a response, got singular values that are all zero")
    if is_rule(rank):
        return choose_order(rank, s)
    order = choose_order(Order(check_rank(rank, len(s))), s)
    if order < rank:
        warn_caller(f"rank {rank} is beyond the numerical rank {order} of the data, which is used instead", RankWarning)
    return order


def _windowed(markov: Any, rows: int | None, columns: int | None, stable: bool = False) -> tuple[Matrix, int, int]:
    """The parameters, checked, and how many blocks their Hankel matrix has."""
    h = host_array("markov", markov)
    if h.ndim not in (1, 3) or 0 in h.shape[1:]:
        raise ValueError(f"markov must have shape (steps, p, m) or (steps,), got {h.shape}")
    h = h.reshape(len(h), *(h.shape[1:] or (1, 1)))
    if len(h) < 3:
        raise ValueError(f"at least 3 Markov parameters are needed, got {len(h)}")
    check_finite("markov", h)
    of_kind("stable", stable, "bool")
    if stable:
        if (rows, columns) != (None, None):
            raise ValueError(f"rows and columns must be left out with stable=True, got {rows} and {columns}")
        h = np.concatenate([h, np.zeros_like(h[1:])])
    most = len(h) - 1
    if rows is None and columns is None:
        rows = most // 2
    rows = most - count_of("columns", columns) if rows is None else count_of("rows", rows)
    columns = most - rows if columns is None else count_of("columns", columns)
    if rows < 1 or columns < 1 or rows + columns > most:
        raise ValueError(
            f"rows and columns must be positive and together at most {most} for {len(h)} Markov parameters, "
            f"got {rows} and {columns}"
        )
    return h, rows, columns


def _pair(h: Matrix, rows: int, columns: int) -> tuple[Matrix, Matrix]:
    """The Hankel matrix and the shifted one."""
    at = np.arange(rows)[:, None] + np.arange(columns) + 1
    p, m = h.shape[1:]
    H, shifted = (h[at + k].transpose(0, 2, 1, 3).reshape(rows * p, columns * m) for k in (0, 1))
    return H, shifted
