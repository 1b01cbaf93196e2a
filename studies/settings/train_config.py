"""What ``balred train`` is told: one flat table of keys, read from TOML with the two scales beside it, every key checked."""

from __future__ import annotations

import difflib
import tomllib
import typing
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Literal

from balred.ranks import Budget, Divergence, Energy, Order, Rule
from balred.studies.settings.records import Schedule

TaskName = Literal[
    "digits", "mnist", "fashion", "cifar", "cifar-colour", "listops", "text", "imdb", "aan", "pathfinder"
]
Mode = Literal["full", "truncated", "squeezed", "random", "small", "posthoc", "nuclear", "guarded"]
Scale = Literal["cpu", "paper"]
SCALES: tuple[Scale, ...] = typing.get_args(Scale)
_OWN_FOLDER = ("imdb", "aan", "pathfinder")


@dataclass(frozen=True)
class TrainConfig(Schedule):
    """Everything that decides what a study computes; ``docs/training_runs.md`` says what each key means."""

    task: TaskName = "digits"
    model: Literal["lru", "mamba"] = "lru"
    folder: str = ""
    shrink: int = 1
    length: int = 0
    train: int = 0
    test: int = 0
    validation: int = 0
    read: Literal["last", "mean"] = "last"
    dropout: float = 0.0
    layer_rate: float = 1.0
    decay_layers: bool = False
    clip: float = 0.0
    modes: tuple[Mode, ...] = ("full", "truncated", "small")
    taus: tuple[float, ...] = (0.05,)
    cut_to: int = 0
    budget: int = 0
    divergence: float = 0.0
    balanced_on: Literal["noise", "data"] = "noise"
    gradual: bool = False
    balancing: Literal["real", "half"] = "real"
    moments: Literal["reset", "carry", "slice"] = "reset"  # type: ignore[assignment]  # one more than the library has
    calibration: int = 64
    window: float = 0.1
    min_cut: float = 0.05
    settled: int = 0
    ranks: tuple[int, ...] = ()
    ranks_from: str = ""
    nuclear: float = 1e-3
    nuclear_every: int = 20
    tolerance: float = 0.01
    delay: int = 0
    keep_systems: bool = True
    checkpoint_every: int = 500
    log_every: int = 20
    device: Literal["cpu", "cuda"] = "cpu"
    threads: int = 1

    states: tuple[int, ...] = (256,)
    batch: int = 50
    rate: float = 4e-4
    multiple_of: int = 1
    attempts: int = 4

    def __post_init__(self) -> None:
        super().__post_init__()
        for key in (
            "batch",
            "shrink",
            "nuclear_every",
            "checkpoint_every",
            "log_every",
            "threads",
            "width",
            "multiple_of",
            "calibration",
        ):
            if getattr(self, key) < 1:
                raise ValueError(f"{key} must be at least 1, got {getattr(self, key)}")
        for key in (
            "train", "test", "validation", "length", "clip", "settled", "nuclear", "tolerance", "delay", "cut_to", "budget",
            "divergence",
        ):  # fmt: skip
            if getattr(self, key) < 0:
                raise ValueError(f"{key} must not be negative, got {getattr(self, key)}")
        for key in ("rate", "layer_rate"):
            if getattr(self, key) <= 0:
                raise ValueError(f"{key} must be positive, got {getattr(self, key)}")
        if not 0 < self.window <= 1:
            raise ValueError(f"window must be in (0, 1], a share of the steps, got {self.window}")
        if self.attempts > self.last_cut:
            raise ValueError(f"attempts must be between 1 and the window's {self.last_cut} steps, got {self.attempts}")
        if not 0 <= self.dropout < 1:
            raise ValueError(f"dropout must be in [0, 1), got {self.dropout}")
        if not self.modes or len(set(self.modes)) != len(self.modes):
            raise ValueError(f"modes must be different and at least one, got {self.modes}")
        if not self.taus or not all(0 < tau < 1 for tau in self.taus):
            raise ValueError(f"taus must be in (0, 1), the share of the energy that a cut may lose, got {self.taus}")
        if self.task in _OWN_FOLDER and not self.folder:
            raise ValueError(f"folder must be given for the task {self.task}, which no package holds, got none")
        if "guarded" in self.modes and not self.validation:
            raise ValueError("validation must be at least 1 for the mode guarded, which judges cuts by it, got 0")
        needed = [mode for mode in ("small", "posthoc") if mode in self.modes]
        if needed and not ("truncated" in self.modes or self.ranks or self.ranks_from):
            raise ValueError(
                f"the mode {needed[0]} needs ranks: from the mode truncated, from ranks or from ranks_from, got none of them"
            )
        asked = {key: getattr(self, key) for key in ("cut_to", "budget", "divergence") if getattr(self, key)}
        if len(asked) > 1:
            got = " and ".join(f"{key} = {value:g}" for key, value in asked.items())
            raise ValueError(f"one of cut_to, budget and divergence may be given, got {got}")
        if self.divergence and self.balanced_on == "noise" and self.model == "lru":
            raise ValueError(
                f"balanced_on must be 'data' for a divergence, got 'noise' and divergence = {self.divergence:g}"
            )
        if self.cut_to >= max(self.states):
            raise ValueError(f"cut_to must be less than the {max(self.states)} states of the layers, got {self.cut_to}")
        if self.model == "mamba":
            for key, value in (("balancing", "real"), ("budget", 0)):
                if getattr(self, key) != value:
                    raise ValueError(f"{key} must be {value!r} for Mamba, got {getattr(self, key)!r}")
            for mode in ("nuclear", "squeezed"):
                if mode in self.modes:
                    raise ValueError(f"the mode {mode} needs layers with Hankel singular values, got the model mamba")
            if len(set(self.states)) > 1:
                raise ValueError(f"the blocks of Mamba must have one number of states, got {self.states}")
        elif "random" in self.modes:
            raise ValueError(f"the mode random is for layers whose states are selected, got the model {self.model}")
        if self.ranks and self.ranks_from:
            raise ValueError("ranks or ranks_from may be given, not both, got both")
        if len(self.ranks) not in (0, 1, len(self.states)):
            raise ValueError(
                f"ranks must be one number, or one for each of {len(self.states)} layers, got {self.ranks}"
            )
        if "posthoc" in self.modes and not {"full", "nuclear"} & set(self.modes):
            raise ValueError(
                f"the mode posthoc cuts the models of full or nuclear, got the modes {', '.join(self.modes)}"
            )

    @property
    def last_cut(self) -> int:
        """The last step at which a cut may happen."""
        return max(1, int(self.window * self.steps))

    @property
    def stability_rule(self) -> Rule:
        """Whose choice the stability metrics follow."""
        return Energy(1 - self.taus[0], multiple_of=self.multiple_of)

    def rule(self, tau: float | None) -> Rule | Budget | Divergence:
        """What chooses the ranks: `tau` where it does, else the states that the configuration asks for."""
        if tau is not None:
            return Energy(1 - tau, multiple_of=self.multiple_of)
        if self.budget:
            return Budget(states=self.budget, multiple_of=self.multiple_of)
        if self.divergence:
            return Divergence(self.divergence, multiple_of=self.multiple_of)
        return Order(self.cut_to, multiple_of=self.multiple_of)


def read_config(path: Path, scale: Scale = "cpu", settings: Sequence[str] = ()) -> TrainConfig:
    """A configuration from a TOML file.

    Parameters
    ----------
    path : path
        Keys of :class:`TrainConfig`, and tables ``[cpu]`` and ``[paper]`` with keys that hold at that scale.
    scale : {"cpu", "paper"}
    settings : sequence of str
        ``key=value`` beside the file, which override it; a value is TOML, or text as it stands.

    Raises
    ------
    ValueError
        The file is no TOML, a key is unknown, or a value is not as it must be.
    OSError
        The file cannot be read.
    """
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8"))
    except tomllib.TOMLDecodeError as error:
        raise ValueError(f"{path}: must be TOML, got {error}") from None
    except UnicodeDecodeError:
        raise ValueError(f"{path}: must be TOML, got bytes that are no text") from None
    if not table:  # nobody means a training of everything as it comes by default
        raise ValueError(f"{path}: must be a configuration, got a file without a key")
    scaled = {name: table.pop(name, {}) for name in SCALES}
    for name, part in scaled.items():
        if not isinstance(part, dict):
            raise ValueError(f"{path}: {name} must be a table of keys, got {part!r}")
        check_keys(part, f"{path}, [{name}]")
    check_keys(table, str(path))
    given = {key: (f"{path}: ", value) for key, value in (table | scaled[scale]).items()}
    for setting in settings:
        key, equals, text = setting.partition("=")
        if not key or not equals:
            raise ValueError(f"--set must be given key=value, got {setting!r}")
        check_keys([key], "--set")
        given[key] = ("--set ", _value(text))
    return config_from(given)


def config_from(given: Mapping[str, tuple[str, Any]]) -> TrainConfig:
    """The configuration of keys with (where it was said, value)."""
    for key, (where, _) in given.items():
        check_keys([key], where.strip(": "))
    hints = typing.get_type_hints(TrainConfig)
    return TrainConfig(**{key: _typed(value, hints[key], where + key) for key, (where, value) in given.items()})


def check_keys(given: Any, where: str) -> None:
    """Raise if one of `given` is no key; the nearest that is one is named."""
    known = [f.name for f in fields(TrainConfig)]
    for key in given:
        if key not in known:
            near = difflib.get_close_matches(key[:60], known, n=1, cutoff=0.0)[0]
            raise ValueError(f"{where}: a key must be one that balred train knows, got {key!r:.80}: is {near!r} meant?")


def _value(text: str) -> Any:
    try:
        return tomllib.loads(f"x = {text}")["x"]
    except tomllib.TOMLDecodeError:
        return text


def _typed(value: Any, hint: Any, where: str) -> Any:
    """`value` as the type `hint`: integers pass for floats, lists for tuples, one member for a tuple of one."""
    origin, inner = typing.get_origin(hint), typing.get_args(hint)
    if origin is Literal:
        if value not in inner:
            near = difflib.get_close_matches(str(value)[:60], inner, n=1)
            raise ValueError(
                f"{where} must be one of {', '.join(inner)}, got {value!r}"
                + (f": is {near[0]!r} meant?" if near else "")
            )
        return value
    if origin is tuple:
        members = value if isinstance(value, (list, tuple)) else [value]
        if inner[-1] is not Ellipsis and len(members) != len(inner):
            raise ValueError(f"{where} must be {len(inner)} values, got {value!r}")
        return tuple(_typed(member, inner[0], where) for member in members)
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if not isinstance(value, hint) or (hint is int and isinstance(value, bool)):
        names = {int: "an integer", float: "a number", bool: "true or false", str: "text"}
        raise ValueError(f"{where} must be {names[hint]}, got {value!r}")
    return value
