"""JAX models along data: their answers, and sums of states and gradients of the layers that have an operator.

A framework opens a model into a function of its values and of what it is called with, in which layers mark where they run.  All
else is here: whether the model takes batches or one sequence, tracing, and one program for each shape of a batch that gives
the answers, what enters the operators, and the way back from directions of the answers to their outputs.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from balred.adapters.jax.marking import is_numbers
from balred.adapters.jax.tracing import QUICKLY, Spot, members_first, outline, spots_in, with_zeros, zeros_for
from balred.layers.along_data import DataSums
from balred.layers.passages import Passage, Passages, directions, mask_of, predicted, predictions_in
from balred.registry.kinds import Running
from balred.selection.calibration import Batch, Calibration, batches
from balred.selection.directions import Directions
from balred.systems import arrays
from balred.systems.arrays import to_numpy
from balred.systems.leaves import System

Answer = tuple[np.ndarray[Any, Any], np.ndarray[Any, Any] | None]
_PROBES = (5, 7)
"""Numbers of sequences with which a model is traced, to see whether it takes batches of any."""


class Opened(NamedTuple):
    """A model in evaluation mode as ``call(values, *args, **kwargs)``, and its values, a pytree of arrays.

    Models of equal `structure` and shapes make one program of the call; None where that cannot be told.
    """

    call: Callable[..., Any]
    values: Any
    structure: Hashable = None


Open = Callable[[Any, Mapping[str, str]], Opened]
"""``opened(model, names)``: `names` of layers, each with the name under which it marks where it runs."""


Programs = dict[Any, Any]
"""What was compiled for a model of one structure, by what it is called with and what it is for."""


def _programs(one: Opened, how: Calibration) -> Programs:
    """What earlier passes compiled for models of this structure; what they did for others goes, as the model they were for has.

    A scalar of the user's may mean something else each time it is traced, so nothing of it is kept.
    """
    if how.kept is None or one.structure is None or callable(how.scalar):
        return {}
    leaves, tree = jax.tree.flatten(one.values)
    structure = (one.structure, tree, tuple((x.shape, str(x.dtype)) for x in leaves), how.basis)
    try:
        if structure not in how.kept:
            how.kept.clear()
        kept: Programs = how.kept.setdefault(structure, {})
    except TypeError:  # no hash
        return {}
    return kept


def _once(programs: Programs, key: Any, make: Callable[[], Any]) -> Any:
    if key not in programs:
        programs[key] = make()
    return programs[key]


class _Called(NamedTuple):
    """What a model is called with, apart: its arrays, and a function that puts others in their places."""

    arrays: list[Any]
    call: Callable[[Any, Sequence[Any]], Any]
    sequences: int | None
    fixed: Any

    @property
    def key(self) -> Any:
        """Equal where one program serves."""
        return self.fixed, tuple((x.shape, str(x.dtype)) for x in self.arrays)

    @property
    def mapped(self) -> list[bool]:
        """Which arrays have the sequences along their first axis."""
        return [x.ndim > 0 and len(x) == self.sequences for x in self.arrays]


def _apart(call: Callable[..., Any], batch: Batch) -> _Called:
    leaves, structure = jax.tree.flatten(batch)
    where = [i for i, x in enumerate(leaves) if isinstance(x, (jax.Array, np.ndarray))]
    fixed = [None if i in where else x for i, x in enumerate(leaves)]

    def called(values: Any, given: Sequence[Any]) -> Any:
        mine = dict(zip(where, given, strict=True))
        args, kwargs = jax.tree.unflatten(structure, [mine.get(i, x) for i, x in enumerate(fixed)])
        return call(values, *args, **kwargs)

    count = next((len(leaves[i]) for i in where if leaves[i].ndim > 0), None)
    return _Called([jnp.asarray(leaves[i]) for i in where], called, count, (structure, repr(fixed)))


def _each(call: Callable[[Any, Sequence[Any]], Any], mapped: Sequence[bool]) -> Callable[[Any, Sequence[Any]], Any]:
    """The same over sequences, one at a time."""
    return jax.vmap(call, in_axes=(None, [0 if one else None for one in mapped]))


def one_by_one(opened: Opened, batch: Batch, told: bool | None, programs: Programs) -> bool:
    """Whether a model takes one sequence, and is mapped over those of a batch; answers are compared with `programs`.

    Raises
    ------
    ValueError
        It runs on the data in neither way; or in both, with other answers, and nobody told which is meant.
    """
    one = _apart(opened.call, batch)
    each = _each(one.call, one.mapped)
    if told is None and any(one.mapped):
        whole, apart = _once(programs, ("takes", one.key), lambda: _taken(one, each, opened.values))
        if not (whole and apart):
            return bool(apart)
        both = _once(programs, ("both", one.key), lambda: _answering((one.call, each)))
        two, mapped = _answers(both, opened.values, one, slice(0, 2))
        if _near(two, mapped):
            return False
        first = _once(programs, ("whole", one.key), lambda: _answering((one.call,)))
        alone = [_answers(first, opened.values, one, slice(i, i + 1))[0] for i in range(len(two))]
        if not _near(two, np.concatenate(alone)):  # what it takes for a batch is none: it runs along the sequences
            return True
        raise ValueError(
            "it must be clear whether the model takes batches or one sequence, got one that runs on both with different answers: "
            "pass vmapped=False for batches, or vmapped=True for one sequence, over which the model is then mapped"
        )
    return bool(told)


def _taken(one: _Called, each: Callable[[Any, Sequence[Any]], Any], values: Any) -> tuple[bool, bool]:
    """Whether a model runs on the data as a whole, and one by one."""
    whole, apart = _takes(one.call, values, one), _takes(each, values, one)
    if whole is not None and apart is not None:
        raise ValueError(
            "the model must run on the calibration data, whose sequences lie along the first axis, got for the whole batch "
            f"{type(whole).__name__}: {whole}; for one sequence {type(apart).__name__}: {apart}"
        ) from whole
    return whole is None, apart is None


def _takes(call: Callable[[Any, Sequence[Any]], Any], values: Any, one: _Called) -> Exception | None:
    """Why a function does not take any number of sequences; None if it does."""
    for count in _PROBES:
        shapes = [
            jax.ShapeDtypeStruct((count, *x.shape[1:]) if m else x.shape, x.dtype)  # type: ignore[no-untyped-call]
            for x, m in zip(one.arrays, one.mapped, strict=True)
        ]
        try:
            answer = jax.eval_shape(lambda v, a: _predicted(call(v, a)), values, shapes)
        except Exception as error:  # whatever somebody's model raises
            return error
        if answer.shape[0] != count:
            return ValueError(f"{answer.shape[0]} answers to {count} sequences")
    return None


def _answering(calls: Sequence[Callable[..., Any]]) -> Callable[[Any, Sequence[Any]], list[Any]]:
    """A program that answers in each way."""
    return jax.jit(lambda values, given: [_predicted(call(values, given)) for call in calls], compiler_options=QUICKLY)


def _answers(ways: Callable[[Any, Sequence[Any]], list[Any]], values: Any, one: _Called, now: slice) -> list[Any]:
    """What some of the sequences are answered in each way."""
    few = [x[now] if m else x for x, m in zip(one.arrays, one.mapped, strict=True)]
    return [to_numpy(z) for z in ways(values, few)]


def _near(a: np.ndarray[Any, Any], b: np.ndarray[Any, Any]) -> bool:
    if a.shape != b.shape:
        return False
    tolerance = arrays.eps(a) ** 0.5
    a, b = a.astype(np.float64), b.astype(np.float64)
    return bool(np.linalg.norm(a - b) <= tolerance * max(float(np.linalg.norm(a)), 1e-30))


def _predicted(answer: Any) -> Any:
    return predicted(answer, is_numbers)


def running(opened: Open, signature: Callable[[Any], inspect.Signature | None]) -> Running:
    """How models of a framework run along data, from how they are opened, and what they take."""

    def given(model: Any, data: Any) -> Iterable[Batch]:
        return batches(data, (jax.Array, np.ndarray), signature(model))

    def outputs(model: Any, how: Calibration) -> Callable[[Batch], Answer]:
        one = opened(model, {})
        programs: Programs = {}

        def answering(called: _Called, batch: Batch) -> Any:
            each = one_by_one(one, batch, how.vmapped, {})
            call = _each(called.call, called.mapped) if each else called.call
            return jax.jit(lambda values, given: _predicted(call(values, given)))

        def answer(batch: Batch) -> Answer:
            called = _apart(one.call, batch)
            program = _once(programs, called.fixed, lambda: answering(called, batch))
            z = to_numpy(program(one.values, called.arrays))
            return z, mask_of(batch, z.shape[:-1])

        return answer

    def sums(
        model: Any, layers: Mapping[str, tuple[Any, System]], given_batches: Iterable[Batch], how: Calibration
    ) -> dict[str, DataSums | str]:
        systems = {name: arrays.mapped(system, to_numpy) for name, (_, system) in layers.items()}
        mine = {n: (layer, systems[n]) for n, (layer, _) in layers.items()}
        found = Passages(mine, wanted=how.basis == "data", max_bytes=how.max_bytes)
        names = {name: first for name, (layer, _) in layers.items() if (first := found.name_of(layer)) is not None}
        one = opened(model, names)
        drawn = Directions(how.scalar, how.seed)
        programs = _programs(one, how)
        looked: set[Any] = set()
        each: bool | None = None
        for batch in given_batches:
            called = _apart(one.call, batch)
            if each is None:
                each = one_by_one(one, batch, how.vmapped, programs)
            program = _once(programs, (each, called.key), partial(_Program, one, called, each, how))
            if called.key not in looked:
                looked.add(called.key)
                found.unseen.update(program.look(one.values, called.arrays, systems, found.unseen))
            for name, runs in program.run(one.values, called.arrays, batch, drawn):
                found.add(name, runs, batch, program.predictions)
        return found.told()

    return Running(given, outputs, sums)


class _Program:
    """A model traced for one shape of batches, and compiled once: for any values, in which the operators are looked for anew."""

    def __init__(self, one: Opened, called: _Called, each: bool, how: Calibration) -> None:
        self._each, self._how, self._mapped = each, how, called.mapped
        whole, first = self._parts(called.arrays)
        self._traced, shape = jax.make_jaxpr(called.call, return_shape=True)(one.values, whole)
        short = self._traced if each else jax.make_jaxpr(called.call)(one.values, first)
        self._on_first = list(outline(short.jaxpr)) == list(outline(self._traced.jaxpr))
        self._spots_in = spots_in(short if self._on_first else self._traced)
        self._answers = jax.tree.structure(shape)
        self._sequences = called.sequences if each else None
        self._spots: list[Spot] | None = None
        self.predictions = 0.0

    def _parts(self, arrays: Sequence[Any]) -> tuple[list[Any], list[Any]]:
        """What the traced program is called with, of a batch and of its first sequence."""
        each, pairs = self._each, list(zip(arrays, self._mapped, strict=True))
        return (
            [x[0] if m and each else x for x, m in pairs],
            [x[0] if m and each else x[:1] if m else x for x, m in pairs],
        )

    def look(
        self, values: Any, arrays: Sequence[Any], systems: Mapping[str, System], unseen: Mapping[str, str]
    ) -> dict[str, str]:
        """Find the operators of the layers that are not `unseen`; why those that are missing now are."""
        whole, first = self._parts(arrays)
        spots, why = self._spots_in(jax.tree.leaves((values, first if self._on_first else whole)), systems)
        spots = [spot for spot in spots if spot.layer not in {**unseen, **why}]
        if spots != self._spots:
            self._spots = spots
            self._compile()
        return why

    def _compile(self) -> None:
        spots, each, how, structure = self._spots or [], self._each, self._how, self._answers
        self._shapes = zeros_for(self._traced.jaxpr, spots)
        program = with_zeros(self._traced, spots)

        def run(values: Any, given: Sequence[Any], zeros: Sequence[Any]) -> tuple[Any, list[Any]]:
            flat, entered = program(jax.tree.leaves((values, given)), zeros)
            return jax.tree.unflatten(structure, flat), entered

        if each:
            run = jax.vmap(run, in_axes=(None, [0 if m else None for m in self._mapped], 0))

        def forward(values: Any, given: Sequence[Any], zeros: Sequence[Any]) -> tuple[Any, Any, Any]:
            def scalar(zeros: Sequence[Any]) -> tuple[Any, Any]:
                answer, entered = run(values, given, zeros)
                z = _predicted(answer)
                return (how.scalar(answer) if callable(how.scalar) else z), (z, entered)

            if how.basis != "data":
                return None, *scalar(zeros)
            value, pull, beside = jax.vjp(scalar, zeros, has_aux=True)
            return pull, value, beside

        self._forward = jax.jit(forward)
        self._back = jax.jit(lambda pull, W: pull(W)[0])

    def run(
        self, values: Any, given: Sequence[Any], batch: Batch, drawn: Directions
    ) -> Iterable[tuple[str, list[Passage]]]:
        """The runs of each layer on a batch."""
        lead = () if self._sequences is None else (self._sequences,)
        zeros = [jnp.zeros((*lead, *x.shape), x.dtype) for x in self._shapes]
        pull, value, (z, entered) = self._forward(values, given, zeros)
        pulled: list[list[Any]] = []
        if pull is not None:
            mask = mask_of(batch, z.shape[:-1])
            if callable(self._how.scalar):
                if getattr(value, "shape", None) != ():
                    raise ValueError(f"scalar must return an array of one number, got {value!r}")
                several: Iterable[Any] = [np.ones(())]
            else:
                several = directions(to_numpy(z), mask, batch, drawn)
            pulled = [self._back(pull, jnp.asarray(W, value.dtype)) for W in several]
            self.predictions = predictions_in(z.shape, mask) * len(pulled)
        runs: dict[str, list[Passage]] = {}
        for i, (spot, u) in enumerate(zip(self._spots or [], entered, strict=True)):
            runs.setdefault(spot.layer, []).append(self._passage(spot, u, [draw[i] for draw in pulled]))
        return runs.items()

    def _passage(self, spot: Spot, u: Any, gradients: Sequence[Any]) -> Passage:
        lead = 0 if self._sequences is None else 1
        entered, host = to_numpy(u), [to_numpy(w) for w in gradients]
        if spot.along is not None and spot.member is not None:
            of_input, of_output = spot.along
            one = (*[slice(None)] * lead, spot.position)
            entered = entered if of_input is None else members_first(entered, of_input, lead)[one]
            host = [members_first(w, of_output, lead)[one] for w in host]
        axis = spot.axis + lead
        moved = [w if spot.axis == 0 else np.moveaxis(w, axis, axis - spot.axis) for w in host]
        reached = any(w.any() for w in moved)
        return Passage(entered, spot.place, moved if reached else None, spot.member)
