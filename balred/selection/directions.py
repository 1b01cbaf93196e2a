r"""Which scalar of a model's outputs gradients are taken of: directions in the outputs, NumPy only.

Every scalar here is linear in the outputs once they are known, :math:`\sum W \cdot z`, so a framework has to pull W back and
nothing more.  Squares of what comes out then have one unit for all layers of a model: the mean over W of the squared change
of the scalar for each prediction.

A direction is drawn for each sequence, from the sequence itself and a seed.  So it does not matter how sequences are put into
batches, or shared out to processes: their sums are the same.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from hashlib import blake2b
from typing import Any

import numpy as np
from numpy.typing import NDArray

from balred.ranks.divergence import log_softmax

Host = NDArray[Any]
SCALARS = ("outputs", "tempered", "fisher")
TEMPERATURE = 3.0
DRAWS = 2
"""Directions for each sequence: one pass forward serves them all, and each costs a pass backward.  More tell no more of the states
(``benchmarks/calibration.py``): what differs from sequence to sequence is more than what differs from direction to direction."""


def check_scalar(scalar: Any) -> None:
    """Raise unless `scalar` is one of ``SCALARS`` or a function.

    Examples
    --------
    >>> check_scalar("loss")
    Traceback (most recent call last):
        ...
    ValueError: scalar must be one of outputs, tempered, fisher or a function of the model's outputs, got 'loss'
    """
    if scalar not in SCALARS and not callable(scalar):
        raise ValueError(
            f"scalar must be one of {', '.join(SCALARS)} or a function of the model's outputs, got {scalar!r}"
        )


def direction(outputs: Host, scalar: str, rng: np.random.Generator) -> Host:
    r"""One random direction W of outputs (..., values), the same shape.

    ==========  =====================================================================================================
    "outputs"   standard normal: measures the squared change of all outputs
    "fisher"    the gradient of the log-likelihood of labels drawn from the outputs as logits: their Kullback-Leibler
                divergence, twice, to second order
    "tempered"  the same of logits divided by 3, which keeps a gradient where the model is certain
    ==========  =====================================================================================================

    Examples
    --------
    >>> W = direction(np.log([[0.25, 0.75]] * 100_000), "fisher", np.random.default_rng(0))
    >>> bool(np.allclose(W.sum(-1), 0)), round(float((W[:, 0] ** 2).mean()), 2)  # of which .25 * .75 is expected
    (True, 0.19)
    """
    if scalar == "outputs":
        return rng.standard_normal(outputs.shape)
    if outputs.shape[-1] < 2:
        raise ValueError(
            f"scalar {scalar!r} takes outputs as logits of at least two classes, got one value: use scalar='outputs'"
        )
    temperature = TEMPERATURE if scalar == "tempered" else 1.0
    p = np.exp(log_softmax(outputs / temperature))
    drawn = (np.cumsum(p, axis=-1) < rng.random((*p.shape[:-1], 1)) * p.sum(-1, keepdims=True)).sum(-1)
    labels = np.arange(p.shape[-1]) == np.minimum(drawn, p.shape[-1] - 1)[..., None]
    return np.asarray((labels - p) / temperature)


class Directions:
    """The random directions of a pass over data.

    Parameters
    ----------
    scalar : str
        One of ``SCALARS``.
    seed : int
        Another one gives other directions.

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> u, z = rng.standard_normal((3, 4)), np.zeros((3, 5, 2))
    >>> whole = next(Directions("outputs", 0).of(z, [u]))
    >>> apart = Directions("outputs", 0)
    >>> last = next(apart.of(z[2:], [u[2:]]))
    >>> bool(np.array_equal(last, whole[2:]))
    True
    """

    def __init__(self, scalar: str, seed: int) -> None:
        self._scalar, self._seed = scalar, seed
        self._met: Counter[bytes] = Counter()

    def of(self, z: Host, inputs: Sequence[Host]) -> Iterator[Host]:
        """Some directions of predictions `z`, one after the other.

        Parameters
        ----------
        z : (..., values) array
        inputs : sequence of arrays
            What was predicted from, with the sequences along their first axes.  The rows of `z` belong to the sequences in
            their order, equally many to each; where this cannot be, all belong together.
        """
        count = len(inputs[0]) if inputs else 1
        apart = count > 0 and z.shape[0] % count == 0
        parts = np.split(z, count) if apart else [z]
        several = [self._generator(i if apart else slice(None), inputs) for i in range(len(parts))]
        for _ in range(DRAWS):
            drawn = [direction(part, self._scalar, rng) for part, rng in zip(parts, several, strict=True)]
            yield np.concatenate(drawn)

    def _generator(self, now: int | slice, inputs: Sequence[Host]) -> np.random.Generator:
        """Of a sequence that comes again another one."""
        hashed = blake2b(str(self._seed).encode(), digest_size=16)
        for x in inputs:
            hashed.update(np.ascontiguousarray(x[now]).tobytes())
        seen = hashed.digest()
        hashed.update(str(self._met[seen]).encode())
        self._met[seen] += 1
        return np.random.Generator(np.random.Philox(key=int.from_bytes(hashed.digest(), "little")))
