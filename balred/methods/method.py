"""What a method of reduction is, so that the one table in ``table.py`` can hold them all.

A method is two functions.  ``prepare`` analyses a system once (for example, it solves for its Gramians) and returns a state;
``reduce`` makes a system of any order from that state.  Methods with the same ``prepare`` share an analysis.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from enum import Enum
from typing import Any, Literal, NamedTuple, Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

from balred.hankel.spectrum import Spectrum, spectrum
from balred.measures.promises import Gap, Promise, error_gap
from balred.measures.weights import UnderWeights
from balred.ranks.bounds import a_priori_bound
from balred.solvers.gramians import of_good_digits
from balred.systems import arrays
from balred.systems.arrays import Array, namespace
from balred.systems.checks import check_finite, of_kind
from balred.systems.dense_system import DenseSystem
from balred.systems.leaves import Ports, System, are_ordinary, unit_of, with_leaves
from balred.systems.units import Coordinates

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
    """The quantity that an a-priori bound bounds.  Code asks for the member; its value is the text for a reader.

    Examples
    --------
    >>> from balred.methods import METHODS, Of
    >>> METHODS["truncate"].bounds is Of.ERROR, str(METHODS["stochastic"].bounds)
    (True, 'relative error, |G^-1 (G - Gk)|')
    """

    ERROR = "H-infinity norm of the error"
    RELATIVE = "relative error, |G^-1 (G - Gk)|"
    COPRIME = "error of the coprime factors"
    NORMALIZED = "error of the normalised coprime factors"
    WEIGHTED = "weighted error, |W_o (G - Gk) W_i|"
    WEIGHTED_HANKEL = "Hankel norm of the weighted error"

    def __str__(self) -> str:
        return self.value


def tail_bound(state: State, k: int) -> NDArray[np.float64]:
    r""":math:`2\sum_{i>k}\sigma_i`, distinct values counted once."""
    return a_priori_bound(state.sigma, k)


def no_bound(state: State, k: int) -> NDArray[np.float64]:
    """NaN: the method has no a-priori bound (none is needed where nothing is cut)."""
    sigma = state.sigma
    return np.full(sigma.shape[:-1], 0.0 if k >= sigma.shape[-1] else np.nan)


class AtPorts(NamedTuple):
    """The state of a system in other units of inputs and outputs, and of states, seen from those that were given."""

    state: Any
    ports: Ports
    D: Array | None
    """What was kept aside: it may be of a size that has no number in these units."""
    power: float = 0.0
    """Of two, which the gain of weights was divided by."""
    at: Coordinates = Coordinates(None)
    """How the states that were analysed stand for those that were given."""
    invariant: bool = False
    """Whether values and bounds are those of every multiple of the system."""

    @property
    def system(self) -> DenseSystem:
        """The system that was analysed, dense."""
        g: DenseSystem = self._given(self.state.system)
        return g if self.D is None else replace(g, D=self.D)

    @property
    def sigma(self) -> NDArray[np.float64]:
        """As they are of the system given."""
        return self.gain(self.state.sigma)

    def gain(self, x: NDArray[Any]) -> NDArray[Any]:
        """Values of the state as they are of the system and the weights given."""
        return x if self.invariant else self.ports.gain(x, more=self.power)

    @property
    def cap(self) -> int:
        """That of the state."""
        cap: int = self.state.cap
        return cap

    def closed(self, k: int) -> int:
        """As the state has it."""
        closed: int = self.state.closed(k)
        return closed

    def reduced(self, reduce: Callable[[Any, int], Reduced], k: int) -> Reduced:
        """A reduction of the state as one of the system given, in balanced units of states if it was."""
        g, L, R = reduce(self.state, k)
        d = _root(self.ports)
        xp = namespace(g.B)
        if L is not None and R is not None:
            size = xp.astype(d, L.dtype)
            L, R = self.at.after(L / size), self.at.before(R * size)
        return self._given(g), L, R

    def within(self, g: DenseSystem) -> DenseSystem:
        """A system as it was given in the units of the state: what :meth:`reduced` makes of the state's, undone."""
        inputs, outputs = self._gains(g)
        D = (g.D if self.D is None else g.D - self.D) / inputs / outputs
        return replace(g, B=g.B / inputs, C=g.C / outputs, D=D)

    def _given(self, g: Any) -> Any:
        inputs, outputs = self._gains(g)
        D = g.D * inputs * outputs if self.D is None else self.D + g.D * inputs * outputs
        return replace(g, B=g.B * inputs, C=g.C * outputs, D=D)

    def _gains(self, g: Any) -> tuple[Array, Array]:
        """What B and C are multiplied by: half of the gain each, as balanced states have it."""
        xp, d = namespace(g.B), _root(self.ports)
        dtype = arrays.real(g.B).dtype
        return xp.astype(self.ports.inputs / d, dtype), xp.astype(self.ports.outputs * d, dtype)


def _root(ports: Ports) -> Array:
    """The unit of state in which inputs and outputs are alike: the root of inputs / outputs, a power of two."""
    xp = namespace(ports.inputs)
    power: Array = 2.0 ** ((xp.log2(ports.inputs) - xp.log2(ports.outputs)) / 2)
    return power


def _moderate(
    system: System, linear: bool, invariant: bool, limits: tuple[float, float]
) -> tuple[System, Ports | None]:
    """`system` in units of inputs and outputs in which it is near one, without D if `linear`, with D if `invariant`; of others with the
    gain it has, if that is between `limits`."""
    _, B, C = system.leaves
    if are_ordinary(B, C):
        return system, None
    for name, x in (("B", B), ("C", C)):
        check_finite(name, x)
    xp = namespace(B)
    inputs, outputs = unit_of(B, step=2), unit_of(C, step=2)
    one = xp.ones_like(inputs)
    ports = Ports(one, inputs, outputs)
    least, most = limits
    if invariant:
        D = system.D / inputs / outputs
        size = float(np.max(np.abs(D), initial=0.0))
        if not (size == 0 or least < size < most):
            raise OverflowError(
                f"for this method the size of D must be between {least:g} and {most:g} beside that of the system, inputs times "
                f"outputs, got about {size:.3g}"
            )
    elif not linear:
        sizes = ports.gain(np.ones(tuple(B.shape[:-2])))
        if not np.all((sizes > least) & (sizes < most)):
            raise OverflowError(
                f"for this method the size of the system, inputs times outputs, must be between {least:g} and "
                f"{most:g}, got about {float(np.max(sizes)):.3g}: measure inputs or outputs in other units"
            )
        d = 2.0 ** xp.round(xp.log2(_root(ports)))
        ports = Ports(one, d, 1 / d)
    first, B, C = system.leaves
    B, C = (x / xp.astype(size, x.dtype) for x, size in ((B, ports.inputs), (C, ports.outputs)))
    g = with_leaves(system, (first, B, C))
    if invariant:
        return replace(g, D=D), ports
    return (replace(g, D=0 * g.D) if linear else g), ports


def gap_of_error(state: State, small: DenseSystem, options: Mapping[str, Any]) -> Gap:
    """The error itself."""
    return error_gap(state.system, small)


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
    gap : callable or None
        ``gap(state, small, options)``, what `bound` bounds as a function of a point of the boundary, with which a result is
        compared with its bound; it gives None where there is none.  None for methods that compare by themselves.
    takes : {"dense", "host", "arrays"}
        What it is given: one dense system of NumPy arrays in float64 (or complex128), whose result is written back; the
        same, but a diagonal system as it is; or whatever there is, arrays of every library, batches and diagonal systems.
    takes_unstable : bool
        Whether unstable systems are reduced as they are.  Otherwise the method sees the stable part, and the unstable
        part is put back whole.
    linear : bool
        Whether a multiple of a system is reduced to that multiple of the reduced system, and D only added to.
    nested : bool
        Whether a reduced system is the leading block of those of higher orders.
    invariant : bool
        Whether a multiple of a system, D and all, is reduced to that multiple, with the same values and the same bound, unless
        an option (`beta`) is measured in outputs.
    sizes : (float, float)
        Of the systems that it takes where it is neither linear nor invariant; a Riccati equation has their fourth powers.
    mixes_units : bool
        Whether what it makes depends on the units of states (it takes the definite part of a matrix, say), so that those given are
        kept where they do no harm.

    Examples
    --------
    >>> from balred.methods import METHODS
    >>> METHODS["hankel_norm"].takes, METHODS["lqg"].takes_unstable, METHODS["hankel_norm"].takes_unstable
    ('dense', True, False)
    """

    reduce: Callable[[Any, int], Reduced]
    prepare: Callable[..., Any] = spectrum
    bound: Callable[[Any, int], NDArray[np.float64]] = tail_bound
    bounds: Of = Of.ERROR
    gap: Callable[[Any, DenseSystem, Mapping[str, Any]], Gap | None] | None = gap_of_error
    takes: Literal["dense", "host", "arrays"] = "dense"
    takes_unstable: bool = False
    linear: bool = False
    invariant: bool = False
    sizes: tuple[float, float] = (1e-120, 1e120)
    nested: bool = False
    mixes_units: bool = False

    def prepared(self, system: System, solver: str | None, rounding: float = 0.0, **options: Any) -> Any:
        """The state of `system`, in units of its inputs and outputs in which its squares are numbers.

        `rounding` is the relative error of its entries where they were of a narrower kind before.

        Raises
        ------
        OverflowError
            There are none for a method that depends on the size of the system.
        """
        invariant = self.invariant and not options.get("beta")
        g, ports = _moderate(system, self.linear, invariant, self.sizes)
        spectrum_alone = self.prepare is spectrum or self.takes == "arrays"  # which looks after its digits
        g, at = (g, Coordinates(None)) if spectrum_alone else of_good_digits(g)
        state = self.prepare(g, solver, **options)
        # what is made of a diagonal system is rounded in another form, and measured there
        if isinstance(system, DenseSystem) and isinstance(state, Spectrum) and rounding > state.rounding:
            state = state._replace(rounding=rounding)
        power = state.power if isinstance(state, UnderWeights) else 0.0
        if ports is None and not power and at.right is None:
            return state
        one = np.ones((1, 1))
        D = system.D if self.linear and ports else None
        return AtPorts(state, ports or Ports(one, one, one), D, power, at, invariant)

    def reduced(self, state: Any, k: int) -> Reduced:
        """``reduce(state, k)`` in the units that were given."""
        return state.reduced(self.reduce, k) if isinstance(state, AtPorts) else self.reduce(state, k)

    def bounded(self, state: Any, k: int) -> NDArray[np.float64]:
        """``bound(state, k)`` in the units that were given."""
        if not isinstance(state, AtPorts):
            return self.bound(state, k)
        return state.gain(np.asarray(self.bound(state.state, k)))

    def promise(self, state: Any, small: DenseSystem, options: Mapping[str, Any], order: int) -> Promise | None:
        """What is promised of a reduced system, in the units of the state; None where nothing is, or nothing left to look at."""
        if isinstance(state, AtPorts):
            state, small = state.state, state.within(small)
        if self.gap is None or small.order >= state.system.order:
            return None
        bound, first = float(self.bound(state, order)), float(self.bound(state, 0))
        gap = self.gap(state, small, options) if np.isfinite(bound) else None
        return None if gap is None else Promise(gap, small, bound, first if np.isfinite(first) else 1.0)

    @property
    def options(self) -> dict[str, Any]:
        """The options that the method has, with their defaults (``inspect.Parameter.empty``: it must be given)."""
        return {name: p.default for name, p in self._parameters().items()}

    def _parameters(self) -> dict[str, inspect.Parameter]:
        found = inspect.signature(self.prepare).parameters
        return {name: p for name, p in found.items() if p.kind is p.KEYWORD_ONLY}

    def checked_options(self, name: str, options: Mapping[str, Any]) -> dict[str, Any]:
        """`options` with numbers in the place of arrays of one.

        Raises
        ------
        TypeError
            The method does not have one of them, or one is of another kind than its annotation says.
        """
        known = self._parameters() if options else {}  # to look them up takes as long as to balance three states
        unknown = [key for key in options if key not in known]
        if unknown:
            raise TypeError(
                f"the options of method {name!r} are {', '.join(known) or 'none'}, got {', '.join(map(repr, unknown))}"
            )
        return {key: of_kind(key, value, str(known[key].annotation)) for key, value in options.items()}
