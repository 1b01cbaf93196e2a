"""Whether a layer computes what its adapter reads from its arrays.

A layer is known by its class, or by the names of its arrays.  A subclass, or another project, may turn the same arrays into other
poles, and then a cut would balance a system that is not there.  What surrounds the operator (norms, gates, a sum of two
directions) is not known, so outputs cannot be compared with those of the system.  Instead several operators are written into the
layer.  Those that are alike on a few inputs must give the same outputs, whatever surrounds them.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from balred.registry.entries import container_of, entry_of, is_known_itself
from balred.systems.arrays import backend_of, is_complex, to_numpy
from balred.systems.diagonal_system import DiagonalSystem
from balred.systems.leaves import System

TOKENS = 12
"""The most inputs on which layers are compared."""

Answers = Callable[[Sequence[Any]], "tuple[list[Any], float] | None"]


def check_follows(layer: Any, system: System, rebuild: Callable[[Any], Any]) -> None:
    """Raise unless a layer computes with the arrays that it is given as its adapter reads them, and with nothing else.

    Written into the layer, an operator must answer as another does that has other poles and equals it on a few inputs, or as
    itself with more states where poles are not free.  One with another gain must answer otherwise.

    Raises
    ------
    ValueError
        It makes other poles of its arrays, or has something of its own: a kernel that it keeps from its last run, a factor
        that depends on the number of states.
    """
    container, entry = container_of(layer), entry_of(layer)
    if is_known_itself(layer) or container is None or container.answers is None:
        return
    n = system.states
    one, other, more = plain_system(system, n), plain_system(system, n, gain=-1.0), plain_system(system, n, times=2)
    alike = [more]
    compared = entry is not None and entry.compares
    if not compared and system.discrete and isinstance(one, DiagonalSystem) and is_complex(one.log_poles):
        alike.insert(0, _moved(one))
    try:
        first, *rest = [rebuild(small) for small in (one, other, *alike)]
    except (ValueError, TypeError, ArithmeticError):
        return  # a layer that not every operator fits
    reason = _differs(container.answers, first, *rest)
    if reason is not None:
        raise ValueError(f"a layer must compute what its arrays stand for, got {reason} in {type(layer).__name__}")


def _differs(answers: Answers, one: Any, other: Any, *alike: Any) -> str | None:
    """How layers contradict that `other` answers otherwise than `one`, and all of `alike` as it does: the last has the same poles."""
    found = answers([one, other, alike[0]])
    if found is None:
        return None
    (y, turned, again), eps = found
    far = eps**0.5 * float(np.linalg.norm(y))
    if not far > 0 or not y.shape == turned.shape == again.shape:
        return None
    if float(np.linalg.norm(turned - y)) <= far:
        return (
            "the same outputs with other arrays: it keeps what it computed from the old ones, so clear its caches first (many "
            "layers do so in train())"
        )
    if float(np.linalg.norm(again - y)) <= far:
        return None
    if len(alike) > 1:
        beside = answers([one, alike[-1]])
        if beside is not None and float(np.linalg.norm(beside[0][1] - beside[0][0])) <= far:
            return (
                "other outputs with an operator that is the same on these inputs: it makes poles or gains of its arrays in another way "
                "than the layers that have such names, so register an adapter of its own for this class"
            )
    return (
        "other outputs with added states that do nothing: a factor that depends on the number of states would change the outputs at "
        "every cut"
    )


def plain_system(system: System, states: int, times: int = 1, gain: float = 1.0) -> System:
    """A system like this one, of another size, that any layer can hold: distinct poles, neither slow nor fast, none of them unstable.

    Parameters
    ----------
    system : System
    states : int
    times : int, default 1
        So many copies of each state, which together do what one does.
    gain : float, default 1.0
    """
    A = to_numpy(system.leaves[0])
    many = states * times
    outputs = np.full(many, gain / many)
    if isinstance(system, DiagonalSystem):
        poles = np.tile(np.linspace(-0.2, -0.1, states) + 1j * np.linspace(0.1, 2.9, states), times)
        return _of(system, np.broadcast_to(poles, (*A.shape[:-1], many)).astype(A.dtype), outputs)
    # a layer without dynamics can hold none
    values = np.tile(np.linspace(0.1, 0.9, states), times) * (1 if system.discrete else -1) * bool(A.any())
    return _of(system, np.broadcast_to(np.diag(values), (*A.shape[:-2], many, many)).astype(A.dtype), outputs)


def _of(system: System, first: np.ndarray[Any, Any], outputs: np.ndarray[Any, Any]) -> System:
    """A system like this one with this A, or these log poles, B of ones, and rows of C that are all `outputs`."""
    B, C = (to_numpy(x) for x in (system.B, system.C))
    many = len(outputs)
    leaves = {
        "log_poles" if isinstance(system, DiagonalSystem) else "A": first,
        "B": np.ones((*B.shape[:-2], many, B.shape[-1]), B.dtype),
        "C": np.broadcast_to(outputs, (*C.shape[:-1], many)).astype(C.dtype),
    }
    be = backend_of(system.B)
    return dataclasses.replace(system, **{key: be.from_numpy(x, like=system.B) for key, x in leaves.items()})


def _moved(plain: DiagonalSystem) -> System:
    """A system with other poles, and more of them, whose first values of the impulse response are those of `plain`.

    Examples
    --------
    >>> import balred
    >>> g = balred.diagonal(log_poles=[-0.1 + 0.5j], B=np.ones((1, 1)), C=np.ones((1, 1)), dt=1, conjugate=True)
    >>> other = _moved(g)
    >>> now, then = ([(x.C @ np.linalg.matrix_power(x.A, k) @ x.B).item() for k in (0, 5)] for x in (g.to_dense(), other.to_dense()))
    >>> np.allclose(now, then), other.states
    (True, 24)
    """
    logs, C = (to_numpy(x).astype(np.complex128) for x in (plain.log_poles, plain.C))
    old, outputs = logs.reshape(-1, logs.shape[-1])[0], C.reshape(-1, C.shape[-1])[0]
    many = max(2 * len(old), 2 * TOKENS)
    poles = np.linspace(-0.4, -0.3, many) + 1j * np.linspace(0.05, 2.95, many)
    now, then = (np.exp(np.arange(TOKENS)[:, None] * x) for x in (old, poles))
    want: Any = now @ outputs
    if plain.conjugate:
        both = np.linalg.lstsq(np.concatenate([then.real, -then.imag], 1), want.real, rcond=None)[0]
        new = both[:many] + 1j * both[many:]
    else:
        new = np.linalg.lstsq(then, want, rcond=None)[0]
    return _of(plain, np.broadcast_to(poles, (*logs.shape[:-1], many)).astype(to_numpy(plain.log_poles).dtype), new)
