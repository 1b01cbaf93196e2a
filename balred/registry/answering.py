"""Whether a layer computes what its adapter reads from its arrays.

A layer is known by its class, or by the names of its arrays.  A subclass, or another project, may turn the same arrays into other
poles, and then a cut would balance a system that is not there.  What surrounds the operator (norms, gates, a sum of two
directions) is not known, so outputs cannot be compared with those of the system.  Instead several operators are written into the
layer.  Those that are alike must give the same outputs, whatever surrounds them.

What surrounds them may hide an operator: a norm before or after it takes away what channels have in common, a gate or a projection may
be zero at first, and arithmetic inside may be coarser than arrays and outputs are.  None of these is a contradiction.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from balred.registry.entries import container_of, entry_of, is_known_itself
from balred.registry.tensors import tensors_of, with_tensors
from balred.systems.arrays import backend_of, is_complex, to_numpy
from balred.systems.diagonal_system import DiagonalSystem
from balred.systems.leaves import System

TOKENS = 12
"""The most inputs on which layers are compared."""
_COARSE = 0.03
"""Operators that are alike may differ in this part of what another gain changes: layers compute in bfloat16 inside, or with integers."""
_ROUNDINGS = 32
"""So many of the outputs are no difference."""
_DECAYS = 0.5, 1.2
"""How fast the poles of an operator decay at low frequencies and at high ones; the other way round in one that is alike but for these."""

Answers = Callable[[Sequence[Any]], "tuple[list[Any], float] | None"]


def check_follows(layer: Any, system: System, rebuild: Callable[[Any], Any]) -> None:
    """Raise unless a layer computes with the arrays that it is given as its adapter reads them, and with nothing else.

    Written into the layer, an operator must answer as another does that has other poles and equals it, or as
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
    one, other, more = plain_system(system, n), plain_system(system, n, gain=0.5), plain_system(system, n, times=2)
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
    found = _found(answers, one, other, alike[0])
    if found is None:
        return None
    effect, gap, least = found
    if effect <= least:
        hidden = _found(answers, _nudged(one), _nudged(other))
        if hidden is None or hidden.effect > hidden.least:
            return None
        return (
            "the same outputs with other arrays: it keeps what it computed from the old ones, so clear its caches first (many "
            "layers do so in train())"
        )
    far = max(least, _COARSE * effect)
    if gap <= far:
        return None
    if len(alike) > 1:
        beside = _found(answers, one, alike[-1])
        if beside is not None and beside.effect <= far:
            return (
                "other outputs with an operator that is the same: it makes poles or gains of its arrays in another way "
                "than the layers that have such names, so register an adapter of its own for this class"
            )
    return (
        "other outputs with added states that do nothing: a factor that depends on the number of states would change the outputs at "
        "every cut"
    )


class _Found(NamedTuple):
    effect: float
    """How far outputs of a second layer are from those of the first."""
    gap: float
    """The same of the last."""
    least: float
    """What rounding may make of no difference."""


def _found(answers: Answers, one: Any, *others: Any) -> _Found | None:
    """How far outputs of other layers are from those of one; None if they cannot be compared."""
    found = answers([one, *others])
    if found is None:
        return None
    (y, *rest), eps = found
    least = min(eps**0.5, _ROUNDINGS * eps) * float(np.linalg.norm(y))
    if not least > 0 or any(x.shape != y.shape or not np.isfinite(x).all() for x in (y, *rest)):
        return None
    first, *_, last = (float(np.linalg.norm(x - y)) for x in (rest[0], *rest))
    return _Found(first, last, least)


def _nudged(layer: Any) -> Any:
    """A copy in which nothing is zero: every array has the same added to it as one of its shape in another copy."""

    def moved(x: Any) -> Any:
        if "float" not in str(x.dtype):
            return x
        more = np.random.default_rng(0).uniform(0.25, 1.0, tuple(x.shape))
        return backend_of(x).from_numpy(to_numpy(x) + more, like=x)

    return with_tensors(layer, {name: moved(x) for name, x in tensors_of(layer).items()})


def plain_system(system: System, states: int, times: int = 1, gain: float = 1.0) -> System:
    """A system like this one, of another size, that any layer can hold: distinct poles, none of them slow.

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
        poles = np.tile(_poles(states, *_DECAYS), times)
        return _of(system, np.broadcast_to(poles, (*A.shape[:-1], many)).astype(A.dtype), outputs)
    # a layer without dynamics can hold none
    values = np.tile(np.linspace(0.1, 0.9, states), times) * (1 if system.discrete else -1) * bool(A.any())
    return _of(system, np.broadcast_to(np.diag(values), (*A.shape[:-2], many, many)).astype(A.dtype), outputs)


def _poles(many: int, low: float, high: float) -> np.ndarray[Any, Any]:
    """Logarithms of poles at all frequencies, with how fast they decay at low ones and at high ones."""
    logs: np.ndarray[Any, Any] = np.linspace(-low, -high, many) + 1j * np.linspace(0.1, 2.9, many)
    return logs


def _of(system: System, first: np.ndarray[Any, Any], outputs: np.ndarray[Any, Any]) -> System:
    """A system like this one with this A, or these log poles, states that are driven alike, and `outputs` as rows of C.

    Each input and each output has a gain of its own, so that what they have in common is not all there is.
    """
    B, C = (to_numpy(x) for x in (system.B, system.C))
    many = len(outputs)
    leaves = {
        "log_poles" if isinstance(system, DiagonalSystem) else "A": first,
        "B": np.broadcast_to(_gains((*B.shape[:-2], 1, B.shape[-1])), (*B.shape[:-2], many, B.shape[-1])).astype(
            B.dtype
        ),
        "C": (_gains((*C.shape[:-1], 1)) * outputs).astype(C.dtype),
    }
    be = backend_of(system.B)
    return dataclasses.replace(system, **{key: be.from_numpy(x, like=system.B) for key, x in leaves.items()})


def _gains(shape: tuple[int, ...]) -> np.ndarray[Any, Any]:
    """Numbers between 0.5 and 1.5 that follow no pattern which a layer may have."""
    golden = (5**0.5 - 1) / 2
    gains: np.ndarray[Any, Any] = 0.5 + np.arange(np.prod(shape, dtype=int)) * golden % 1
    return gains.reshape(shape)


def _moved(plain: DiagonalSystem) -> System:
    """A system with other poles, and more of them, whose impulse response is that of `plain` for all that is seen of it.

    Examples
    --------
    >>> import balred
    >>> g = balred.diagonal(log_poles=[-0.6 + 0.5j], B=np.full((1, 1), 0.5), C=np.full((1, 1), 0.5), dt=1, conjugate=True)
    >>> other = _moved(g)
    >>> now, then = ([(x.C @ np.linalg.matrix_power(x.A, k) @ x.B).item() for k in range(30)] for x in (g.to_dense(), other.to_dense()))
    >>> np.allclose(now[:12], then[:12]), np.allclose(now, then, atol=1e-2), other.states
    (True, True, 48)
    """
    logs = to_numpy(plain.log_poles).astype(np.complex128)
    old = logs.reshape(-1, logs.shape[-1])[0]
    many = max(2 * len(old), 4 * TOKENS)
    poles = _poles(many, *reversed(_DECAYS))
    poles[1::2] = poles[1::2].conj()  # where half of a frequency is another one
    now, then = (np.exp(np.arange(TOKENS)[:, None] * x) for x in (old, poles))
    want: Any = now.mean(axis=1)
    if plain.conjugate:
        both = np.linalg.lstsq(np.concatenate([then.real, -then.imag], 1), want.real, rcond=None)[0]
        new = both[:many] + 1j * both[many:]
    else:
        new = np.linalg.lstsq(then, want, rcond=None)[0]
    return _of(plain, np.broadcast_to(poles, (*logs.shape[:-1], many)).astype(to_numpy(plain.log_poles).dtype), new)
