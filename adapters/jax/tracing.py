"""Where in the traced program of a JAX model the operators of its layers sit, and the program with zeros added there.

The program is gone through equation by equation, into what is jitted or has a derivative of its own.  Between the marks of a
layer (:mod:`balred.adapters.jax.marking`) every array is a candidate; which one is the operator's output its values tell, on
one sequence (:mod:`balred.layers.operator_place`).  Then the same program runs with zeros added to it, whose gradient is the one
at the output.  Looking is a program too, compiled once and run for every new set of values, so that what is kept from one attempt of
a training to the next is what compilation costs, never where something was found.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from balred.adapters.jax.marking import ENTERS, LEAVES
from balred.layers.operator_place import Finder, Place
from balred.layers.passages import NOT_FOUND
from balred.systems.arrays import to_numpy
from balred.systems.leaves import System

Path = tuple[int, ...]
"""The number of an equation in the program, of one inside it, and so on."""

_CALLS = {"jit", "pjit", "closed_call", "core_call", "call", "remat", "remat2", "checkpoint", "custom_jvp_call", "custom_vjp_call", "custom_vjp_call_jaxpr"}  # fmt: skip
_INSIDE = ("jaxpr", "call_jaxpr", "fun_jaxpr")
QUICKLY = {"xla_backend_optimization_level": 0}
"""How to compile what runs once on one sequence: in half the time."""
_LOOP = "it runs inside a loop or a branch of JAX, where its signals cannot be seen"


@dataclass(frozen=True)
class Spot:
    """Where a run of a layer begins, and where the output of its operator is made."""

    layer: str
    enters: Path
    made: Path
    output: int
    axis: int
    """Of the output, along which the sequences lie."""
    place: Place


@dataclass
class _Run:
    """A run of a layer in a program: its name, where it begins, how large an output is, and all that may be one."""

    layer: str
    enters: Path
    sizes: set[int]
    made: list[tuple[Path, int]] = field(default_factory=list)


def _inner(equation: Any) -> tuple[Any, Sequence[Any]] | None:
    """The program of a call and its constants; None for anything else."""
    if equation.primitive.name not in _CALLS:
        return None
    inner = next((equation.params[key] for key in _INSIDE if key in equation.params), None)
    return None if inner is None else (inner.jaxpr, inner.consts) if hasattr(inner, "consts") else (inner, ())


def _gone_through(
    program: Any,
    constants: Sequence[Any],
    arguments: Sequence[Any],
    into: Callable[[Path], bool],
    see: Callable[[Path, Any, list[Any], list[Any]], list[Any]],
    path: Path = (),
) -> list[Any]:
    """What the program returns; ``see(path, equation, inputs, outputs)`` returns the outputs to go on with."""
    values: dict[Any, Any] = dict(zip(program.constvars, constants, strict=True))
    values |= dict(zip(program.invars, arguments, strict=True))

    def of(variable: Any) -> Any:
        return variable.val if hasattr(variable, "val") else values[variable]

    for i, equation in enumerate(program.eqns):
        here, inputs = (*path, i), [of(x) for x in equation.invars]
        inner = _inner(equation) if into(here) else None
        made = _bound(equation, inputs) if inner is None else _gone_through(*inner, inputs, into, see, here)
        values |= dict(zip(equation.outvars, see(here, equation, inputs, made), strict=True))
    return [of(x) for x in program.outvars]


def _bound(equation: Any, inputs: list[Any]) -> list[Any]:
    primitive, params = equation.primitive, equation.primitive.get_bind_params(equation.params)
    functions, params = params if isinstance(params, tuple) else ((), params)
    made = primitive.bind(*functions, *inputs, **params)
    return list(made) if primitive.multiple_results else [made]


def outline(program: Any, path: Path = ()) -> Iterator[tuple[Path, str]]:
    """The equations of a program by path and name: two programs with the same outline have the same spots."""
    for i, equation in enumerate(program.eqns):
        yield (*path, i), equation.primitive.name
        inner = _inner(equation)
        if inner is not None:
            yield from outline(inner[0], (*path, i))


def _equation(program: Any, path: Path) -> Any:
    equation = program.eqns[path[0]]
    inner = _inner(equation)
    return equation if len(path) == 1 or inner is None else _equation(inner[0], path[1:])


def _marks_out_of_reach(program: Any) -> Iterator[str]:
    """The layers that run in programs which are not gone through."""
    for equation in program.eqns:
        inner = _inner(equation)
        if inner is not None:
            yield from _marks_out_of_reach(inner[0])
            continue
        for value in jax.tree.leaves(equation.params, is_leaf=lambda x: hasattr(x, "eqns") or hasattr(x, "jaxpr")):
            if hasattr(value, "eqns") or hasattr(value, "jaxpr"):
                yield from _marks_in(getattr(value, "jaxpr", value))


def _marks_in(program: Any) -> Iterator[str]:
    for equation in program.eqns:
        if equation.primitive is ENTERS:
            yield equation.params["layer"]
    yield from _marks_out_of_reach(program)
    for equation in program.eqns:
        inner = _inner(equation)
        if inner is not None:
            yield from _marks_in(inner[0])


Spots = tuple[list[Spot], dict[str, str]]


def spots_in(traced: Any) -> Callable[[Sequence[Any], Mapping[str, System]], Spots]:
    """A function that finds the spots of each run of each layer, and by name why a layer cannot be seen.

    It takes what the program is called with, one sequence or few, and the operators of the layers by name: with other values of the
    same shapes it can be called again.

    Parameters
    ----------
    traced : ClosedJaxpr
        The program of the model, with marks.
    """
    out_of_reach = set(_marks_out_of_reach(traced.jaxpr))
    runs: list[_Run] = []
    """Of the trace: what is compiled returns their tensors in this order."""

    def look(systems: Mapping[str, System], arguments: Sequence[Any]) -> Any:
        seen: list[tuple[Any, list[Any]]] = []
        open_: dict[str, tuple[_Run, list[Any]]] = {}
        runs.clear()

        def see(path: Path, equation: Any, inputs: list[Any], made: list[Any]) -> list[Any]:
            if equation.primitive is ENTERS:
                layer = equation.params["layer"]
                run = _Run(layer, path, Finder(systems[layer], np.zeros(inputs[0].shape)).sizes)
                open_[layer] = run, []
                runs.append(run)
                seen.append((inputs[0], open_[layer][1]))
            elif equation.primitive is LEAVES:
                open_.pop(equation.params["layer"], None)
            for run, tensors in open_.values() if equation.primitive is not ENTERS else ():
                for k, x in enumerate(made):
                    if x.size in run.sizes and x.ndim > 1 and jnp.issubdtype(x.dtype, jnp.floating):
                        run.made.append((path, k))
                        tensors.append(x)
            return made

        _gone_through(traced.jaxpr, traced.consts, arguments, lambda path: True, see)
        return seen

    compiled: Any = None

    def find(arguments: Sequence[Any], systems: Mapping[str, System]) -> Spots:
        nonlocal compiled
        if compiled is None:
            compiled = jax.jit(partial(look, systems), compiler_options=QUICKLY)
        looked = compiled(arguments)
        unseen = dict.fromkeys(out_of_reach, _LOOP)
        spots = []
        for run, (u, tensors) in zip(runs, looked, strict=True):
            spot = _spot(run, to_numpy(u), tensors, systems[run.layer])
            if spot is None:
                unseen.setdefault(run.layer, NOT_FOUND)
            else:
                spots.append(spot)
        return spots, unseen

    return find


def _spot(run: _Run, u: Any, tensors: Sequence[Any], system: System) -> Spot | None:
    """Where among what a layer made its operator's output is; under ``vmap`` its sequences may be an inner axis."""
    finder = Finder(system, u)
    for (path, k), tensor in zip(run.made, tensors, strict=True):
        x = to_numpy(tensor)
        axes = [0, *(i for i in range(1, x.ndim - 1) if u.ndim > 2 and x.shape[i] == u.shape[0])]
        for axis in axes:
            place = finder.find(np.moveaxis(x, axis, 0))
            if place is not None:
                return Spot(run.layer, run.enters, path, k, axis, place)
    return None


def zeros_for(program: Any, spots: Sequence[Spot]) -> list[Any]:
    """Shapes and dtypes of what is added at the spots."""
    made = [_equation(program, spot.made).outvars[spot.output].aval for spot in spots]
    return [jax.ShapeDtypeStruct(x.shape, x.dtype) for x in made]  # type: ignore[no-untyped-call]


def with_zeros(traced: Any, spots: Sequence[Spot]) -> Callable[..., tuple[list[Any], list[Any]]]:
    """The program as a function of its arguments and of what is added at the spots.

    It returns what the program returns, and what enters the layers at the spots.
    """
    wanted = {path[:n] for spot in spots for path in (spot.enters, spot.made) for n in range(1, len(path))}

    def run(arguments: Sequence[Any], zeros: Sequence[Any]) -> tuple[list[Any], list[Any]]:
        entered: dict[Path, Any] = {}

        def see(path: Path, equation: Any, inputs: list[Any], made: list[Any]) -> list[Any]:
            if equation.primitive is ENTERS:
                entered[path] = inputs[0]
            for spot, more in zip(spots, zeros, strict=True):
                if spot.made == path:
                    made = [x + more if k == spot.output else x for k, x in enumerate(made)]
            return made

        answers = _gone_through(traced.jaxpr, traced.consts, arguments, wanted.__contains__, see)
        return answers, [entered[spot.enters] for spot in spots]

    return run
