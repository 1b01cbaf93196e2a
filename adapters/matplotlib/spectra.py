"""Spectra of Hankel singular values in matplotlib: what a reduction cuts, and the bound of every order."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from balred.adapters.matplotlib.style import BOUND, ERROR, FULL, finished, new_axes
from balred.hankel.spectrum import spectrum
from balred.ranks.choosing import is_rule
from balred.reduction.analysis import Analysis, analyze

FloatArray = NDArray[np.float64]


def plot_hsv(obj: Any, rank: Any = None, *, method: str = "truncate", ax: Axes | None = None, **options: Any) -> Axes:
    r"""Draw Hankel singular values on a logarithmic axis, with the a-priori error bound of every order and the cut.

    Parameters
    ----------
    obj : Analysis, system, layer, model, or anything :func:`balred.adapt` reads
        A model with several layers, or a dict of analyses by name, gets a curve for each, without bounds.  A batch gets
        the range of its members, their 10 % and 90 % quantiles, the median, and the largest bound.
    rank : int or rule, optional
        The cut to mark; for several layers also a dict by name.
    method : str, default "truncate"
        A name in ``balred.methods.METHODS``; the values that it ranks states by are drawn.  An analysis has a method already.
    ax : matplotlib Axes, optional
        New ones are made otherwise.
    **options
        Options of the method, and `solver`, `offset` and `precision`, as in :func:`balred.analyze`.

    Returns
    -------
    matplotlib Axes
        The horizontal axis counts states of the operator, of which a stored state of a conjugate system stands for two.
        Unstable modes, whose value is infinite, are triangles at the upper edge.

    Raises
    ------
    ValueError, TypeError
        The method or an option is unknown, `obj` cannot be analysed, or no order satisfies the rule.

    Examples
    --------
    >>> import balred, matplotlib.pyplot
    >>> ax = plot_hsv(balred.testing.random_system(20), balred.Energy(0.99))
    >>> ax.get_yscale()
    'log'
    >>> matplotlib.pyplot.close(ax.figure)
    """
    found = obj if _is_analysed(obj) else analyze(obj, method=method, **options)
    several = isinstance(found, Mapping)
    layers: dict[str, Analysis] = dict(found) if several else {"": found}
    ranks = rank if isinstance(rank, Mapping) else dict.fromkeys(layers, rank)
    cuts = {name: _cut(a, ranks.get(name), spare_small=several) for name, a in layers.items()}
    ax = new_axes() if ax is None else ax
    if several:
        many = len(layers) > 10
        colours = colormaps["viridis"](np.linspace(0, 0.9, len(layers))) if many else [f"C{i}" for i in range(10)]
        for (name, a), colour in zip(layers.items(), colours, strict=many):
            _draw_layer(ax, name, a, cuts[name], colour)
    else:
        _draw_single(ax, found, cuts[""])
    analyses = layers.values()
    hankel = all(a.method.prepare is spectrum for a in analyses)
    ax.set(
        xlabel="order $i$", ylabel=r"Hankel singular value $\sigma_i$" if hankel else r"value $\sigma_i$ of the method"
    )
    ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    largest = max((float(a.sigma.max(initial=0.0)) for a in analyses), default=0.0)
    if largest:  # far below rounding errors, and far above every value, there is nothing to see
        ax.set_yscale("log")
        low, high = ax.get_ylim()
        ax.set_ylim(max(low, 1e-18 * largest), max(3 * largest, min(high, 1e4 * largest)))
    else:
        ax.set_yticks([])
    return finished(ax)


def _is_analysed(obj: Any) -> bool:
    many = isinstance(obj, Mapping) and len(obj) > 0
    return isinstance(obj, Analysis) or (many and all(isinstance(a, Analysis) for a in obj.values()))


def _fixed(analysis: Analysis) -> int:
    """Order of the unstable part, which is kept whole and comes first."""
    return 0 if analysis.unstable is None else analysis.unstable.order


def _rows(analysis: Analysis) -> FloatArray:
    """The values of the stable part, a row for each member of a batch."""
    sigma = analysis.sigma
    return sigma.reshape(int(np.prod(sigma.shape[:-1])), sigma.shape[-1])


class _Cut(NamedTuple):
    """States kept as a rank counts them, and as the axis does; and the largest bound there."""

    states: int
    order: int
    bound: float


def _cut(analysis: Analysis, rank: Any, spare_small: bool) -> _Cut | None:
    """What `rank` cuts; None for nothing, which in a model (:func:`balred.plan`) a layer of fewer states is spared."""
    if rank is None or (spare_small and not is_rule(rank) and rank > analysis.system.states):
        return None
    made = analysis.reduction(analysis.rank(rank) if is_rule(rank) else rank)
    bound = float(np.max(made.bound, initial=0.0))
    return _Cut(made.system.states, _fixed(analysis) + made.stable_order, bound)


def _draw_values(ax: Axes, analysis: Analysis, colour: Any, label: str) -> None:
    """The values of one analysis: a line, or for a batch its median within its range."""
    sigma = _rows(analysis)
    fixed = _fixed(analysis)
    i = fixed + 1 + np.arange(sigma.shape[-1])
    middle = sigma[0]
    if len(sigma) > 1:
        low, q10, middle, q90, high = np.quantile(sigma, [0, 0.1, 0.5, 0.9, 1], axis=0)
        floor = sigma[sigma > 0].min(initial=1.0)  # a band needs a lower edge that a logarithmic axis has
        ax.fill_between(i, np.maximum(low, floor), high, color=colour, alpha=0.15, lw=0)
        ax.fill_between(i, np.maximum(q10, floor), q90, color=colour, alpha=0.25, lw=0)
    marker = "o" if len(i) <= 60 else ""
    ax.plot(i, np.where(middle > 0, middle, np.nan), marker=marker, ms=3.5, color=colour, label=label)
    if fixed:
        top, at = np.full(fixed, 0.97), ax.get_xaxis_transform()
        ax.plot(1 + np.arange(fixed), top, "^", color=ERROR, label=r"unstable, $\sigma = \infty$", transform=at)


def _draw_single(ax: Axes, analysis: Analysis, cut: _Cut | None) -> None:
    """Values, the bound that each order has, and the cut."""
    sigma, fixed = _rows(analysis), _fixed(analysis)
    _draw_values(ax, analysis, FULL, "values" if analysis.sigma.ndim == 1 else f"values, median of {len(sigma)}")
    orders = np.arange(1, 0 if analysis.state is None else analysis.state.cap)
    bounds = np.array([np.max(analysis.method.bounded(analysis.state, int(k))) for k in orders])
    known = np.isfinite(bounds) & (bounds > 0)
    if known.any():
        label = f"bound on the {analysis.method.bounds}"
        ax.plot(fixed + orders[known], bounds[known], "--", color=BOUND, lw=1.2, label=label)
    end = fixed + int(np.count_nonzero(sigma.max(axis=0))) + 0.5
    if cut is not None:
        at, bound = cut.order + 0.5, f", bound {cut.bound:.3g}" if cut.bound > 0 else ""
        label = f"cut: {cut.states} of {analysis.system.states} states{bound}"
        ax.axvline(at, color=ERROR, lw=1.2, label=label)
        end = max(end, at)
        ax.axvspan(at, end, color=ERROR, alpha=0.06, lw=0)
    ax.set_xlim(0.5, max(end, 1.5))


def _draw_layer(ax: Axes, name: str, analysis: Analysis, cut: _Cut | None, colour: Any) -> None:
    """One layer of several, with a ring around the last value kept."""
    kept = "" if cut is None else f"{cut.states} of "
    _draw_values(ax, analysis, colour, f"{name}: {kept}{analysis.system.states} states")
    fixed = _fixed(analysis)
    if cut is not None and cut.order > fixed:
        value = np.median(analysis.sigma[..., cut.order - fixed - 1])
        ax.plot(cut.order, value, "o", ms=9, mfc="white", mec=colour, mew=2, zorder=5)
