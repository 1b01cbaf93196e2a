r"""Where the operator of a layer sits among the tensors that the layer computes: found, not told, and so verified where it is used.

A layer is more than its operator: it may hold sequences channels first, run both ways, and mix, activate or scale what comes
out.  Its system is known, so what it must answer to the layer's input is too, and the tensor that holds this answer is the
operator's output, with or without the direct term.  No adapter has to say where that is, and a layer that computes something
else is found out.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from balred.layers.along_data import states_along
from balred.systems import arrays
from balred.systems.arrays import Array, namespace, to_numpy
from balred.systems.leaves import System

Host = Any
_LAYOUTS = ("features last", "features first")
_WAYS = ("one way", "both ways", "both ways, the second from the next position on")


@dataclass(frozen=True)
class Place:
    """How the input and the output of an operator lie in tensors."""

    inputs: str
    outputs: str
    way: str

    def signals(self, system: System, u: Array, w: Array | None) -> Iterator[tuple[Array, Array | None]]:
        """Inputs and gradients as :func:`balred.layers.along_data.data_sums` takes them, for each direction of the layer."""
        u = _inputs(system, u, self.inputs)
        outputs = int(system.C.shape[-2]) // (1 if self.way == _WAYS[0] else 2)
        w = None if w is None else _outputs(system, w, self.outputs, outputs)
        if self.way == _WAYS[0]:
            yield u, w
            return
        xp = namespace(u)
        yield u, None if w is None else xp.concat([w, xp.zeros_like(w)], axis=-1) / 2**0.5
        if w is not None:
            w = xp.flip(w, axis=-2)
            if self.way == _WAYS[2]:  # the first position that it sees is the second one
                w = xp.concat([w[..., 1:, :], xp.zeros_like(w[..., :1, :])], axis=-2)
            w = xp.concat([xp.zeros_like(w), w], axis=-1) / 2**0.5
        yield xp.flip(u, axis=-2), w


class Finder:
    """What a system must answer to an input, in every layout that the input may have, to be compared with tensors.

    Parameters
    ----------
    system : DiagonalSystem or DenseSystem
    u : array
        What enters the layer; of several sequences the first one is looked at.
    """

    def __init__(self, system: System, u: Array) -> None:
        self.leading = u.ndim > 2
        self._size = int(math.prod(u.shape))
        self._system = arrays.mapped(system, to_numpy)
        first = to_numpy(u[:1] if self.leading else u).astype(np.float64)
        self._answers: list[tuple[str, str, Host, Host]] = []
        batch = int(math.prod(system.B.shape[:-2]))
        p, widths = int(system.C.shape[-2]), batch * int(system.B.shape[-1])
        for layout in _LAYOUTS:
            if not system.discrete or len(system.B.shape) > 3 or not _fits(first, widths, layout):
                continue
            if len(system.B.shape) > 2 and system.B.shape[-1] != 1:  # a stack of layers
                continue
            x = _inputs(self._system, first, layout)
            states = states_along(self._system, x)
            dense = self._system.to_dense()
            y = states @ np.swapaxes(dense.C, -1, -2)[..., None, :, :]
            direct = x @ np.swapaxes(dense.D, -1, -2)[..., None, :, :]
            self._answers.append((layout, _WAYS[0], y, direct))
            if p % 2 == 0:
                back = np.flip(x, -2)
                back = states_along(self._system, back) @ np.swapaxes(dense.C, -1, -2)[..., None, :, :]
                back, half = np.flip(back, -2)[..., p // 2 :], p // 2
                both = (y[..., :half] + back) / 2**0.5
                self._answers.append((layout, _WAYS[1], both, direct[..., :half] / 2**0.5))
                later = np.concatenate([back[..., 1:, :], np.zeros_like(back[..., :1, :])], axis=-2)
                self._answers.append((layout, _WAYS[2], (y[..., :half] + later) / 2**0.5, direct[..., :half] / 2**0.5))
        self.sizes = {self._size // widths * batch * y.shape[-1] for _, _, y, _ in self._answers}
        """How many numbers a tensor has that may hold the operator's output."""

    def find(self, t: Array) -> Place | None:
        """The place in which `t` is the operator's output, if it is."""
        if int(math.prod(t.shape)) not in self.sizes or t.ndim < 2:
            return None
        tolerance = arrays.eps(t) ** 0.4
        one = to_numpy(t[:1] if self.leading else t)
        for inputs, way, y, direct in self._answers:
            size = max(float(np.linalg.norm(y)), np.finfo(np.float32).tiny)
            for outputs in _LAYOUTS:
                if not _holds(self._system, one, y, outputs):
                    continue
                with np.errstate(
                    all="ignore"
                ):  # most tensors are something else, and some are memory not written to yet
                    got = _outputs(self._system, one, outputs, y.shape[-1]).astype(np.float64) - y
                    apart = min(np.linalg.norm(got), np.linalg.norm(got - direct))
                if apart < tolerance * size:
                    return Place(inputs, outputs, way)
        return None


def _fits(x: Host, features: int, layout: str) -> bool:
    return bool(x.shape[-1 if layout == _LAYOUTS[0] else -2] == features)


def _holds(system: System, t: Host, y: Host, layout: str) -> bool:
    """Whether `t` has the axes of an output: length and features, those of several outputs apart or as one axis."""
    batch, length, p = math.prod(system.B.shape[:-2]), y.shape[-2], y.shape[-1]
    if t.size != y.size:
        return False
    if layout == _LAYOUTS[0]:
        return bool(t.shape[-2:] == (length, batch * p) or (batch > 1 and t.shape[-3:] == (length, p, batch)))
    return bool(t.shape[-2:] == (batch * p, length) or (batch > 1 and t.shape[-3:] == (p, batch, length)))


def _inputs(system: System, u: Array, layout: str) -> Array:
    """(..., L, features) or (..., features, L) as (batch, sequences, L, inputs)."""
    xp = namespace(u)
    u = u if layout == _LAYOUTS[0] else xp.matrix_transpose(u)
    flat = xp.reshape(u, (-1, *u.shape[-2:]))
    return flat if system.B.ndim == 2 else xp.permute_dims(flat, (2, 0, 1))[..., None]


def _outputs(system: System, t: Array, layout: str, p: int) -> Array:
    """The same of an output, in which channels are side by side and outputs of a channel further out."""
    xp = namespace(t)
    if system.B.ndim == 2:
        t = t if layout == _LAYOUTS[0] else xp.matrix_transpose(t)
        return xp.reshape(t, (-1, *t.shape[-2:]))
    batch = int(system.B.shape[0])
    if layout == _LAYOUTS[0]:
        length = int(t.shape[-2]) if int(t.shape[-1]) == batch * p else int(t.shape[-3])
        return xp.permute_dims(xp.reshape(t, (-1, length, p, batch)), (3, 0, 1, 2))
    return xp.permute_dims(xp.reshape(t, (-1, p, batch, int(t.shape[-1]))), (2, 0, 3, 1))
