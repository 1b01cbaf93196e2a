"""What a reducer remembers between the steps of a training, and how a checkpoint keeps it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from typing import Any, Generic, Protocol, TypeVar

from balred.intraining.fitting import check_fit
from balred.intraining.policy import Guard, PolicyState
from balred.intraining.report import Report


class Kept(Protocol):
    """What a framework keeps of a training before a cut, so that it can be put back."""

    def to_dict(self) -> dict[str, Any]:
        """As plain values and arrays by name, for a checkpoint."""


K = TypeVar("K", bound=Kept)


@dataclass(frozen=True)
class Held(Generic[K]):
    """A cut that a guard has still to judge.

    Attributes
    ----------
    due : int
        The step of the judgement.
    metric : float
        The guard's, before the cut.
    step : int
        The step of the cut.
    ranks : dict
        The states of every layer before it.
    kept : Kept
        All else that was before it.
    """

    due: int
    metric: float
    step: int
    ranks: Mapping[str, int]
    kept: K

    def verdict(self, guard: Guard | None, measure: Callable[[Guard], float], step: int) -> Report | None:
        """The report of a cut that must be taken back at `step`; None if it may stay, as it may without a guard.

        ``measure(guard)`` returns the guard's metric of now.
        """
        if guard is None or guard.accepts(self.metric, measure(guard)):
            return None
        return Report(step, (), dict(self.ranks), restored=True, back_to=self.step)

    def to_dict(self) -> dict[str, Any]:
        """As plain values, and arrays in "kept", for a checkpoint."""
        numbers = {"due": self.due, "metric": self.metric, "step": self.step, "ranks": dict(self.ranks)}
        return {**numbers, "kept": self.kept.to_dict()}


Keep = Callable[[Mapping[str, Any], dict[str, int]], Kept]


@dataclass(frozen=True)
class ReducerState:
    """The memory of a reducer between steps.

    Attributes
    ----------
    policy : PolicyState
    ranks : dict
        The states of every layer.
    events : dict
        How many events its log files hold, by the names of the files.
    held : object, optional
        A cut that the guard has not judged yet.

    Examples
    --------
    >>> from balred.intraining import ReducerState
    >>> from balred.intraining.policy import PolicyState
    >>> state = ReducerState(PolicyState(step=100), ranks={"encoder": 12})
    >>> state.to_dict()["ranks"]
    {'encoder': 12}
    """

    policy: PolicyState
    ranks: Mapping[str, int] = field(default_factory=dict)
    events: Mapping[str, int] = field(default_factory=dict)
    held: Held[Any] | None = None

    def to_dict(self) -> dict[str, Any]:
        """As plain values, for a checkpoint; with a cut that is still to be judged arrays too."""
        held = None if self.held is None else self.held.to_dict()
        return {"policy": self.policy.to_dict(), "ranks": dict(self.ranks), "events": dict(self.events), "held": held}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any], keep: Keep, beside: tuple[str, ...] = ()) -> ReducerState:
        """The state that :meth:`to_dict` wrote.

        Parameters
        ----------
        values : dict
        keep : callable
            ``keep(saved, ranks)`` makes what can be put back from what it was saved as, or raises if that does not fit.
        beside : tuple of str
            What else `values` must have.

        Raises
        ------
        ValueError
            Something is missing, or does not fit.
        """
        check_fit("entries", dict.fromkeys((*(f.name for f in fields(cls)), *beside)), dict.fromkeys(values))
        ranks, events = (_whole_numbers(values[name]) for name in ("ranks", "events"))
        return cls(PolicyState.from_dict(values["policy"]), ranks, events, _held(values["held"], keep))


def _held(values: Mapping[str, Any] | None, keep: Keep) -> Held[Any] | None:
    if values is None:
        return None
    check_fit("entries of a cut to be judged", dict.fromkeys(f.name for f in fields(Held)), dict.fromkeys(values))
    ranks = _whole_numbers(values["ranks"])
    return Held(int(values["due"]), float(values["metric"]), int(values["step"]), ranks, keep(values["kept"], ranks))


def _whole_numbers(values: Mapping[str, Any]) -> dict[str, int]:
    return {name: int(number) for name, number in values.items()}
