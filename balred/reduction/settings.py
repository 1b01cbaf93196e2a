"""What an analysis is made with, checked once and before anything is computed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from balred.hankel.spectrum import spectrum
from balred.methods.method import Method, no_bound
from balred.methods.table import method_called, method_name
from balred.methods.weighted import on_recordings
from balred.registry.reading import configured
from balred.solvers.gramians import check_precision


def configured_for(obj: Any, method: str, options: Mapping[str, Any]) -> tuple[Any, dict[str, Any]]:
    """`obj` with those of `options` that say how it is read, and those of the method.

    Examples
    --------
    A large sparse system has a tolerance; a method that has one too, as "irka", keeps its own:

    >>> import numpy as np, scipy.sparse
    >>> from balred.realisations.sparse import sparse_system
    >>> g = sparse_system(-scipy.sparse.identity(3), np.ones((3, 1)), np.ones((1, 3)))
    >>> new, rest = configured_for(g, "truncate", {"tol": 1e-8})
    >>> new.tol, rest
    (1e-08, {})
    >>> configured_for(g, "irka", {"tol": 1e-8})[1]
    {'tol': 1e-08}
    """
    if not options:  # to look up those of a method takes as long as to balance three states
        return obj, {}
    new, rest = configured(obj, options, method_called(method_name(method)).options)
    return new, dict(rest)


@dataclass(frozen=True)
class Settings:
    """A method, and how it is to compute.

    Parameters
    ----------
    method : str, default "truncate"
        A name in ``balred.methods.METHODS``, or "matchdc", which becomes "singular_perturbation".
    solver : str, optional
    offset : float, optional
        Poles within `offset` of the stability boundary count as unstable.
    precision : {"float64", "float32"}, default "float64"
    options : dict
        Of the method; with ``inputs``, recorded signals, those of :func:`balred.methods.weighted.along_inputs`.

    Raises
    ------
    ValueError
        The method is unknown; it does not compute in this precision, or the solver does not; it keeps no unstable part
        aside, and an offset is given.
    TypeError
        The method does not have one of the options.

    Examples
    --------
    >>> Settings("stochastic", options={"beta": 0.1}).by("truncate")
    Settings(method='truncate', solver=None, offset=None, precision='float64', options={})
    """

    method: str = "truncate"
    solver: str | None = None
    offset: float | None = None
    precision: str = "float64"
    options: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        object.__setattr__(self, "method", method_name(self.method))
        if self.options.get("inputs", self) is None:
            object.__setattr__(self, "options", {key: x for key, x in self.options.items() if key != "inputs"})
        row = self.row
        object.__setattr__(self, "options", row.checked_options(self.method, self.options))
        check_precision(self.precision, self.solver)
        if self.precision != "float64" and row.takes != "arrays":
            raise ValueError(f"method {self.method!r} computes in float64, got precision {self.precision!r}")
        if self.offset is not None and row.takes_unstable:
            raise ValueError(
                f"offset must be None for method {self.method!r}, which reduces unstable modes too, got {self.offset}"
            )

    @property
    def row(self) -> Method:
        """The method, on recorded inputs where there are any."""
        row = method_called(self.method)
        return on_recordings(self.method, row) if self.recorded else row

    @property
    def recorded(self) -> bool:
        """Whether states are ranked by what they do under recorded inputs, not under white noise."""
        return "inputs" in self.options

    @property
    def on_data(self) -> bool:
        """Whether the values are those of states along data, not of Gramians."""
        return False

    @property
    def told(self) -> str:
        """The method, in an error."""
        return f"{self.method!r} on recorded inputs" if self.recorded else repr(self.method)

    def check_recorded(self, layers: int, calibration: Any) -> None:
        """Raise if inputs were recorded, and not at one system."""
        if self.recorded and (layers != 1 or calibration is not None):
            what = f"a model with {layers} layers" if layers != 1 else "calibration data as well"
            raise ValueError(f"recorded inputs go with one system, got {what}: a model takes its data as calibration=")

    def by(self, method: str) -> Settings:
        """The settings for another method, which has the same options only if it prepares a system in the same way.

        Recorded inputs are never dropped: a method that cannot use them is an error.
        """
        shared = self.recorded or method_called(method).prepare is self.row.prepare
        return replace(self, method=method, options=self.options if shared else {})

    def shares(self, other: Settings) -> bool:
        """Whether a system solved with one is solved for the other too."""
        mine, theirs = ((s.row.prepare, s.row.takes, s.row.takes_unstable) for s in (self, other))
        return mine == theirs and replace(self, method=other.method) == other


@dataclass(frozen=True)
class DataSettings(Settings):
    """The same where matrices measured along data take the places of the Gramians: there is no a-priori bound then.

    Raises
    ------
    ValueError
        The method needs more of a system than a pair of Gramians.

    Examples
    --------
    >>> DataSettings("hankel_norm")
    Traceback (most recent call last):
        ...
    ValueError: on data, method must be truncate, square_root or singular_perturbation, got 'hankel_norm'; balanced_on='noise' allows the others
    """

    def __post_init__(self) -> None:
        super().__post_init__()
        row = super().row
        if row.prepare is not spectrum or row.takes != "arrays":
            raise ValueError(
                f"on data, method must be truncate, square_root or singular_perturbation, got {self.method!r}; "
                "balanced_on='noise' allows the others"
            )

    @property
    def row(self) -> Method:
        """The method, without its bound."""
        return replace(super().row, bound=no_bound)

    @property
    def on_data(self) -> bool:
        """That they are."""
        return True

    @property
    def told(self) -> str:
        """The method, in an error."""
        return f"{self.method!r} on data"
