"""Where in the traced program of a JAX model the operators of its layers sit, and the program with zeros added there.

The program is gone through equation by equation, into what is jitted or has a derivative of its own.  Between the marks of a
layer (``marking.py``) every array is a candidate; which one is the operator's output its values tell, on
one sequence (``operator_place.py``).  Then the same program runs with zeros added to it, whose gradient is the one
at the output.  Looking is a program too, compiled once and run for every new set of values, so that what is kept from one attempt of
a training to the next is what compilation costs, never where something was found.

A scan over the layers of a stack is written out: its i-th turn is a run of the i-th member.  Under ``vmap`` over the members one run is one
of each of them, and they lie along an axis of what the layer computes.  A stack with two leading axes may have one in a scan and the other
under ``vmap``, or both under it; which is which the values tell.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import permutations
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from balred.adapters.jax.marking import ENTERS, LEAVES
from balred.layers.operator_place import Finder, Place
from balred.layers.passages import NOT_FOUND
from balred.systems.arrays import to_numpy
from balred.systems.batches import member
from balred.systems.leaves import System

Axes = tuple[int, ...]
Turns = tuple[tuple[int, int], ...]
Path = tuple[int, ...]
"""The number of an equation in the program, of one inside it, and so on; in a scan that is written out ~i for its i-th turn."""

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
    member: int | None = None
    """Of a stack, which ran."""
    along: tuple[Axes | None, Axes] | None = None
    """Under ``vmap``, the axes of the input (None where all have one) and of the output along which members lie."""
    position: int = 0
    """Of the member along them."""


@dataclass
class _Run:
    """A run of a layer in a program: its name, where it begins, how large an output is, and all that may be one."""

    layer: str
    enters: Path
    turns: Turns
    """Of each scan that is written out, and how many there are."""
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
    into: Callable[[Path, Any], bool],
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
        inner = _inner(equation) if (inside := into(here, equation)) else None
        if inside and equation.primitive.name == "scan":
            made = _turn_by_turn(equation, inputs, into, see, here)
        else:
            made = _bound(equation, inputs) if inner is None else _gone_through(*inner, inputs, into, see, here)
        values |= dict(zip(equation.outvars, see(here, equation, inputs, made), strict=True))
    return [of(x) for x in program.outvars]


def _turn_by_turn(equation: Any, inputs: list[Any], into: Any, see: Any, path: Path) -> list[Any]:
    """What a scan returns, its turns written out."""
    params, body = equation.params, equation.params["jaxpr"]
    ends = params["num_consts"], params["num_consts"] + params["num_carry"]
    constants, carry, each = inputs[: ends[0]], inputs[ends[0] : ends[1]], inputs[ends[1] :]
    turns = range(params["length"])
    made: dict[int, list[Any]] = {}
    for i in reversed(turns) if params["reverse"] else turns:
        given = [*constants, *carry, *(x[i] for x in each)]
        answers = _gone_through(body.jaxpr, body.consts, given, into, see, (*path, ~i))
        carry, made[i] = answers[: params["num_carry"]], answers[params["num_carry"] :]
    return [*carry, *(jnp.stack(several) for several in zip(*(made[i] for i in turns), strict=True))]


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
        elif equation.primitive.name == "scan":
            yield from outline(equation.params["jaxpr"].jaxpr, (*path, i, ~0))


def _equation(program: Any, path: Path) -> Any:
    equation = program.eqns[path[0]]
    if equation.primitive.name == "scan" and len(path) > 2:
        return _equation(equation.params["jaxpr"].jaxpr, path[2:])
    inner = _inner(equation)
    return equation if len(path) == 1 or inner is None else _equation(inner[0], path[1:])


def _over_members(equation: Any, members: Mapping[str, int]) -> bool:
    """Whether it is a scan over the layers of stacks, of which the numbers of `members` are given."""
    if equation.primitive.name != "scan":
        return False
    inside = list(_marks_in(equation.params["jaxpr"].jaxpr, {}))
    return bool(inside) and all(members.get(layer, 1) % equation.params["length"] == 0 for layer in inside)


def _marks_out_of_reach(program: Any, members: Mapping[str, int]) -> Iterator[str]:
    """The layers that run in programs which are not gone through."""
    for equation in program.eqns:
        inner = _inner(equation)
        if inner is None and _over_members(equation, members):
            inner = equation.params["jaxpr"].jaxpr, ()
        if inner is not None:
            yield from _marks_out_of_reach(inner[0], members)
            continue
        for value in jax.tree.leaves(equation.params, is_leaf=lambda x: hasattr(x, "eqns") or hasattr(x, "jaxpr")):
            if hasattr(value, "eqns") or hasattr(value, "jaxpr"):
                yield from _marks_in(getattr(value, "jaxpr", value), members)


def _marks_in(program: Any, members: Mapping[str, int]) -> Iterator[str]:
    for equation in program.eqns:
        if equation.primitive is ENTERS:
            yield equation.params["layer"]
    yield from _marks_out_of_reach(program, members)
    for equation in program.eqns:
        inner = _inner(equation)
        if inner is not None:
            yield from _marks_in(inner[0], members)


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
    runs: list[_Run] = []
    """Of the trace: what is compiled returns their tensors in this order."""

    def look(systems: Mapping[str, System], arguments: Sequence[Any]) -> Any:
        seen: list[tuple[Any, list[Any]]] = []
        open_: dict[str, tuple[_Run, list[Any]]] = {}
        members = _members(systems)
        runs.clear()

        def see(path: Path, equation: Any, inputs: list[Any], made: list[Any]) -> list[Any]:
            if equation.primitive is ENTERS:
                layer = equation.params["layer"]
                turns = _turns_of(path, traced.jaxpr)
                run = _Run(layer, path, turns, _sizes(systems[layer], turns, inputs[0].shape))
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

        def into(path: Path, equation: Any) -> bool:
            return equation.primitive.name != "scan" or _over_members(equation, members)

        _gone_through(traced.jaxpr, traced.consts, arguments, into, see)
        return seen

    compiled: Any = None

    def find(arguments: Sequence[Any], systems: Mapping[str, System]) -> Spots:
        nonlocal compiled
        if compiled is None:
            compiled = jax.jit(partial(look, systems), compiler_options=QUICKLY)
        looked = compiled(arguments)
        unseen = dict.fromkeys(_marks_out_of_reach(traced.jaxpr, _members(systems)), _LOOP)
        spots = []
        for run, (u, tensors) in zip(runs, looked, strict=True):
            found = _spots(run, systems[run.layer], to_numpy(u), [to_numpy(x) for x in tensors])
            if not found:
                unseen.setdefault(run.layer, NOT_FOUND)
            spots += found
        return spots, unseen

    return find


def _members(systems: Mapping[str, System]) -> dict[str, int]:
    """Of each stack of layers the number of its members."""
    return {name: int(system.B.shape[0]) for name, system in systems.items() if system.B.ndim == 3}


def _turns_of(path: Path, program: Any) -> Turns:
    """In which turn of each scan that is written out an equation is, and how many there are."""
    return tuple((~i, int(_equation(program, path[:k]).params["length"])) for k, i in enumerate(path) if i < 0)


def _choices(count: int, turns: Turns) -> list[list[int]]:
    """Which of so many members may run in one run, in the order in which they would lie under ``vmap``.

    Examples
    --------
    >>> _choices(6, ()), _choices(6, ((1, 2),)), _choices(6, ((1, 2), (0, 3)))
    ([[0, 1, 2, 3, 4, 5]], [[3, 4, 5], [1, 3, 5]], [[3], [1]])
    """
    sizes = [length for _, length in turns]
    sizes.append(count // math.prod(sizes))
    found: list[list[int]] = []
    for order in permutations(range(len(sizes))):
        grid = np.arange(count).reshape([sizes[k] for k in order]).transpose(np.argsort(order))
        one = [int(m) for m in grid[tuple(i for i, _ in turns)]]
        found += [] if one in found else [one]
    return found


def _axes_of(shape: tuple[int, ...], count: int) -> Iterator[Axes]:
    """The axes along which so many members may lie: one, or two; the last two of all are those of a sequence."""
    sizes = shape[:-2]
    yield from ((i,) for i, n in enumerate(sizes) if n == count)
    yield from (
        (i, j) for i, n in enumerate(sizes) for j, m in enumerate(sizes) if i != j and 1 < n < count and n * m == count
    )


def members_first(x: Any, axes: Axes, lead: int = 0) -> Any:
    """An array with the members, which lie along `axes` behind the `lead` first ones, along one axis there.

    Examples
    --------
    >>> members_first(np.zeros((5, 2, 3, 4)), (1, 2)).shape
    (6, 5, 4)
    """
    moved = np.moveaxis(x, [lead + a for a in axes], range(lead, lead + len(axes)))
    return moved.reshape(*moved.shape[:lead], -1, *moved.shape[lead + len(axes) :])


def _sizes(system: System, turns: Turns, shape: tuple[int, ...]) -> set[int]:
    """How many numbers a tensor has that may hold the outputs."""
    if system.B.ndim != 3:
        return Finder(system, np.zeros(shape)).sizes
    count, first = len(_choices(int(system.B.shape[0]), turns)[0]), member(system, 0)
    if count == 1:
        return Finder(first, np.zeros(shape)).sizes
    apart = [tuple(n for i, n in enumerate(shape) if i not in axes) for axes in _axes_of(shape, count)]
    return {count * size for one in (shape, *apart) for size in Finder(first, np.zeros(one)).sizes}


_NOTHING = np.zeros(0)


def _spots(run: _Run, system: System, u: Any, tensors: Sequence[Any]) -> list[Spot]:
    """Where among what a layer made its operator's output is; of a stack under ``vmap`` one spot for each member, or none."""
    if system.B.ndim != 3:
        spot = _spot(run, system, u, tensors)
        return [] if spot is None else [spot]
    for members in _choices(int(system.B.shape[0]), run.turns):
        if len(members) == 1:
            spot = _spot(run, member(system, members[0]), u, tensors)
            if spot is not None:
                return [replace(spot, member=members[0])]
            continue
        ways: list[tuple[Axes | None, Any]] = [(None, [u] * len(members))]
        ways += [(axes, members_first(u, axes)) for axes in _axes_of(u.shape, len(members))]
        for along, entered in ways:
            for axes in sorted({axes for x in tensors for axes in _axes_of(x.shape, len(members))}):
                apart = [members_first(x, axes) if axes in _axes_of(x.shape, len(members)) else None for x in tensors]
                found = []
                for k, m in enumerate(members):
                    mine = [_NOTHING if x is None else x[k] for x in apart]
                    spot = _spot(run, member(system, m), entered[k], mine)
                    if spot is None:
                        break
                    found.append(replace(spot, member=m, along=(along, axes), position=k))
                if len(found) == len(members):
                    return found
    return []


def _spot(run: _Run, system: System, u: Any, tensors: Sequence[Any]) -> Spot | None:
    """Where the output of one operator is; under ``vmap`` its sequences may be an inner axis."""
    finder = Finder(system, u)
    for (path, k), x in zip(run.made, tensors, strict=True):
        axes = [0, *(i for i in range(1, x.ndim - 1) if u.ndim > 2 and x.shape[i] == u.shape[0])]
        for axis in axes if x.ndim > 1 else ():
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

        answers = _gone_through(traced.jaxpr, traced.consts, arguments, lambda path, _: path in wanted, see)
        return answers, [entered[spot.enters] for spot in spots]

    return run
