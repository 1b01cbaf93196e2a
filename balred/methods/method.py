"""What a method of reduction is, so that the one table in ``table.py`` can hold them all.

A method is two functions.  ``prepare`` looks at a system once (solves for its Gramians, say) and returns a state;
``reduce`` makes a system of any order from that state.  Methods with the same ``prepare`` share an analysis.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Any, Literal, Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

from balred.hankel.spectrum import Spectrum, spectrum
from balred.ranks.bounds import a_priori_bound
from balred.systems.arrays import Array
from balred.systems.leaves import System

Reduced: TypeAlias = tuple[System, Array | None, Array | None]
"""A reduced system, with the projections L and R of the state (L x = reduced x) or None where it is no projection."""


class State(Protocol):
    """What ``prepare`` returns."""

    @property
    def system(self) -> Any:
        """The system that was analysed, dense."""

    @property
    def sigma(self) -> NDArray[np.float64]:
        """What rank rules read, on the host: descending values, zero-padded to the order, shape (..., n)."""

    @property
    def cap(self) -> int:
        """The largest order the method makes (beyond the numerical rank nothing can be gained)."""

    def closed(self, k: int) -> int:
        """The least order of at least `k` that keeps together what belongs together; most methods keep any `k`."""


class Of(Enum):
    """What an a-priori bound is of: the kind is what code asks for, its value is what a reader is told."""

    ERROR = "H-infinity norm of the error"
    RELATIVE = "relative error, |G^-1 (G - Gk)|"
    COPRIME = "error of the coprime factors"
    NORMALIZED = "error of the normalised coprime factors"
    WEIGHTED = "weighted error, |W_o (G - Gk) W_i|"
    WEIGHTED_HANKEL = "Hankel norm of the weighted error"

    def __str__(self) -> str:
        return self.value


@dataclass(frozen=True)
class OfSpectrum:
    """What a state that holds a spectrum and more has of it: what rules read, and the numerical rank."""

    spectrum: Spectrum

    @property
    def sigma(self) -> NDArray[np.float64]:
        """The values of the spectrum."""
        return self.spectrum.sigma

    @property
    def cap(self) -> int:
        """Their numerical rank."""
        return self.spectrum.cap

    def closed(self, k: int) -> int:
        """`k` itself: no values belong together."""
        return self.spectrum.closed(k)


def tail_bound(state: State, k: int) -> NDArray[np.float64]:
    r""":math:`2\sum_{i>k}\sigma_i`, distinct values counted once."""
    return a_priori_bound(state.sigma, k)


def no_bound(state: State, k: int) -> NDArray[np.float64]:
    """NaN: the method has no a-priori bound (none is needed where nothing is cut)."""
    sigma = state.sigma
    return np.full(sigma.shape[:-1], 0.0 if k >= sigma.shape[-1] else np.nan)


@dataclass(frozen=True)
class Method:
    """A row of the table of methods.

    Attributes
    ----------
    reduce : callable
        ``reduce(state, k) -> (system, L, R)``.  It may return fewer than `k` states where `k` would split what
        belongs together (a conjugate pair, equal singular values).
    prepare : callable
        ``prepare(system, solver, **options) -> state``; its keyword-only arguments are the method's options.
    bound : callable
        ``bound(state, k)``, the a-priori bound.
    bounds : Of
        What `bound` bounds.
    takes : {"dense", "host", "arrays"}
        What it is given: one dense system of NumPy arrays in float64 (or complex128), whose result is written back; the
        same, but a diagonal system as it is; or whatever there is, arrays of every library, batches and diagonal systems.
    takes_unstable : bool
        Whether unstable systems are reduced as they are.  Otherwise the method sees the stable part, and the unstable
        part is put back whole.
    """

    reduce: Callable[[Any, int], Reduced]
    prepare: Callable[..., Any] = spectrum
    bound: Callable[[Any, int], NDArray[np.float64]] = tail_bound
    bounds: Of = Of.ERROR
    takes: Literal["dense", "host", "arrays"] = "dense"
    takes_unstable: bool = False

    @property
    def options(self) -> dict[str, Any]:
        """The options that the method has, with their defaults (``inspect.Parameter.empty``: it must be given)."""
        found = inspect.signature(self.prepare).parameters.values()
        return {p.name: p.default for p in found if p.kind is p.KEYWORD_ONLY}

    def check_options(self, name: str, options: Mapping[str, Any]) -> None:
        """Raise if `options` holds one that the method does not have."""
        known = self.options if options else {}  # to look them up takes as long as to balance three states
        unknown = [key for key in options if key not in known]
        if unknown:
            raise TypeError(
                f"the options of method {name!r} are {', '.join(known) or 'none'}, got {', '.join(map(repr, unknown))}"
            )
