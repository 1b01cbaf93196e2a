r"""The policy of in-training truncation: when to look, what to cut, when to take it back.

The method is CompreSSM (arXiv 2510.02823, section 3): at a few steps inside the learning-rate warm-up every layer is
reduced to the least rank whose Hankel singular values hold :math:`1-\tau` of their sum, if that is well below its
present rank.  A policy is a pure pair ``init``/``update``: no framework, no clock, no randomness.  The adapters
measure, cut and restore; this module decides.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from balred.ranks.budget import Budget
from balred.ranks.choosing import check_rule
from balred.ranks.divergence import Divergence
from balred.ranks.rules import Rule


@dataclass(frozen=True)
class Guard:
    """Take a cut back if a metric falls by more than a tolerance.

    Parameters
    ----------
    metric : callable
        ``metric(model)`` returns a float, such as the validation accuracy.
    tolerance : float
        Largest fall (rise, for ``higher_is_better=False``) that is accepted.
    delay : int, default 0
        Training steps between a cut and its judgement; 0 judges the cut model at once.
    higher_is_better : bool, default True

    Examples
    --------
    >>> guard = Guard(lambda model: 0.9, tolerance=0.01)
    >>> guard.accepts(before=0.90, after=0.895), guard.accepts(before=0.90, after=0.85)
    (True, False)
    """

    metric: Callable[[Any], float]
    tolerance: float
    delay: int = 0
    higher_is_better: bool = True

    def __post_init__(self) -> None:
        if self.tolerance < 0:
            raise ValueError(f"tolerance must not be negative, got {self.tolerance}")
        if self.delay < 0:
            raise ValueError(f"delay must not be negative, got {self.delay}")

    def accepts(self, before: float, after: float) -> bool:
        """Whether `after` is within the tolerance of `before`; NaN never is."""
        return (before - after if self.higher_is_better else after - before) <= self.tolerance


@dataclass(frozen=True)
class PolicyState:
    """The memory of a policy: the last step seen, rank choices by layer, and whether it has stopped for good.

    Examples
    --------
    >>> PolicyState(step=100, choices={"encoder": (12, 12)}).to_dict()
    {'step': 100, 'choices': {'encoder': [12, 12]}, 'stopped': False}
    """

    step: int = 0
    choices: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    stopped: bool = False

    def to_dict(self) -> dict[str, Any]:
        """As plain values, for a checkpoint."""
        return {"step": self.step, "choices": {k: list(v) for k, v in self.choices.items()}, "stopped": self.stopped}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> PolicyState:
        """The state that :meth:`to_dict` wrote."""
        return cls(int(values["step"]), {k: tuple(v) for k, v in values["choices"].items()}, bool(values["stopped"]))


@dataclass(frozen=True)
class Policy:
    """When and how far to cut.

    Parameters
    ----------
    rule : rule, Budget, or Divergence
        Chooses each layer's rank, for example ``balred.Energy(0.99)``; a :class:`balred.Budget` of states is shared out over
        the layers; a :class:`balred.Divergence` bounds how far the model's answers may move at an attempt.
    window : (int, int)
        Steps between which cuts may happen: the learning-rate warm-up, or the first tenth of the training.
    attempts : int, optional
        How often a cut is tried, at equidistant steps, the last one at the end of the window (default 4).
    interval : int, optional
        Instead of `attempts`: the number of steps between two attempts, counted from the window's start.
    min_cut : float, default 0.05
        A layer is cut only to at most ``(1 - min_cut)`` of its present rank.
    settled : int, optional
        A layer is cut only after the rank chosen for it has stayed within 5 % (or one state) over this many attempts in a row.
    guard : Guard, optional
    dry_run : bool, default False
        Only report what would be cut.
    gradual : bool, default False
        Go to the rank that the rule chooses in as many steps as there are attempts, see :meth:`next_rank`.

    Examples
    --------
    >>> import balred
    >>> Policy(balred.Energy(0.99), window=(0, 4000), attempts=4).steps
    (1000, 2000, 3000, 4000)
    """

    rule: Rule | Budget | Divergence
    window: tuple[int, int]
    attempts: int | None = None
    interval: int | None = None
    min_cut: float = 0.05
    settled: int | None = None
    guard: Guard | None = None
    dry_run: bool = False
    gradual: bool = field(default=False, kw_only=True)

    def __post_init__(self) -> None:
        if isinstance(self.rule, Budget):
            if self.rule.states is None:
                raise ValueError(
                    f"in training, a budget must be a number of states: a fraction would refer to another total after each cut, got {self.rule}"
                )
        elif not isinstance(self.rule, Divergence):
            check_rule(self.rule)
        whole = isinstance(self.window, (tuple, list)) and all(isinstance(x, (int, np.integer)) for x in self.window)
        if not whole or len(self.window) != 2:
            raise ValueError(f"window must be (start, end) in whole steps, got {self.window!r}")
        start, end = self.window
        if not 0 <= start < end:
            raise ValueError(f"window must be (start, end) with 0 <= start < end, got {self.window}")
        if self.attempts is not None and self.interval is not None:
            raise ValueError(f"attempts or interval may be given, not both, got {self.attempts} and {self.interval}")
        length = end - start
        for name, value in (("attempts", self.attempts), ("interval", self.interval)):
            if value is not None and not isinstance(value, (int, np.integer)):
                raise ValueError(f"{name} must be an integer, got {value!r}")
            if value is not None and not 1 <= value <= length:
                raise ValueError(f"{name} must be between 1 and the window's length {length}, got {value}")
        if not 0 <= self.min_cut < 1:
            raise ValueError(f"min_cut must be in [0, 1), got {self.min_cut}")
        if self.settled is not None and self.settled < 2:
            raise ValueError(f"settled must be at least 2 attempts, got {self.settled}")
        if self.settled is not None and self.settled > len(self.steps):
            raise ValueError(f"settled must be at most the number of attempts, {len(self.steps)}, got {self.settled}")

    @property
    def last(self) -> int:
        """The last step at which anything may happen: the last attempt, or the judgement of its cut."""
        return self.steps[-1] + (self.guard.delay if self.guard else 0)

    @property
    def steps(self) -> tuple[int, ...]:
        """The steps at which cuts are attempted."""
        start, end = self.window
        if self.interval is not None:
            return tuple(range(start + self.interval, end + 1, self.interval))
        n = self.attempts if self.attempts is not None else min(4, end - start)
        return tuple(start + math.ceil((i + 1) * (end - start) / n) for i in range(n))

    def outline(self) -> str:
        """The rule and the steps of the attempts, for the ``repr`` of what follows this policy.

        Examples
        --------
        >>> import balred
        >>> Policy(balred.Order(16), window=(0, 4000), attempts=2).outline()
        'Order(rank=16, multiple_of=1), attempts at 2000, 4000'
        """
        steps = self.steps
        shown = steps if len(steps) <= 6 else (*steps[:3], "...", steps[-1])
        return f"{self.rule!r}, attempts at {', '.join(map(str, shown))}{', dry run' if self.dry_run else ''}"

    def init(self) -> PolicyState:
        """The state before the first step."""
        return PolicyState()

    def due(self, state: PolicyState, step: int) -> bool:
        """Whether a cut is to be attempted after training step `step` (counted from 1)."""
        return not state.stopped and step in self.steps

    def update(
        self, state: PolicyState, step: int, ranks: Mapping[str, tuple[int, int]]
    ) -> tuple[dict[str, int], PolicyState]:
        """Decide the cuts at `step`.

        Parameters
        ----------
        state : PolicyState
        step : int
        ranks : mapping
            By layer: (present rank, rank that the rule chooses).

        Returns
        -------
        cuts : dict
            The new rank of every layer to be cut.
        state : PolicyState
        """
        choices = {name: (*state.choices.get(name, ()), chosen) for name, (_, chosen) in ranks.items()}
        aims = {name: (present, self.next_rank(step, present, chosen)) for name, (present, chosen) in ranks.items()}
        cuts = {
            name: rank
            for name, (present, rank) in aims.items()
            if self.allows(present, rank) and self._is_settled(choices[name])
        }
        return cuts, replace(state, step=step, choices=choices)

    def next_rank(self, step: int, present: int, chosen: int) -> int:
        r"""The rank of a layer after the attempt at `step`: the chosen rank, or with gradual cuts a rank on the way there.

        Of n attempts the i-th leaves :math:`(1-i/n)^3` of the states that the rule would cut in all, as sparsity grows in
        gradual pruning (Zhu and Gupta 2017, arXiv 1710.01878, equation 1): many at first, few at the end.  What is left is seen
        from the present rank, so a rule may change its mind on the way.

        Examples
        --------
        >>> import balred
        >>> policy = Policy(balred.Order(28), window=(0, 400), attempts=4, gradual=True)
        >>> ranks = [92]
        >>> for step in policy.steps:
        ...     ranks.append(policy.next_rank(step, ranks[-1], 28))
        >>> ranks
        [92, 55, 36, 29, 28]
        """
        left = sum(at >= step for at in self.steps) if self.gradual else 1
        if left <= 1 or chosen >= present:
            return chosen
        rank = chosen - (-((left - 1) ** 3) * (present - chosen) // left**3)  # whole numbers, rounded up
        return min(present, -(-rank // self.rule.multiple_of) * self.rule.multiple_of)

    def allows(self, present: int, chosen: int) -> bool:
        """Whether a cut from rank `present` to rank `chosen` is large enough."""
        return chosen <= (1 - self.min_cut) * present and chosen < present

    def _is_settled(self, choices: tuple[int, ...]) -> bool:
        if self.settled is None:
            return True
        last = choices[-self.settled :]
        return len(last) == self.settled and max(last) - min(last) <= max(1, 0.05 * max(last))

    def stop(self, state: PolicyState) -> PolicyState:
        """Stop all further cuts, as a guard does after it took one back."""
        return replace(state, stopped=True)
