r"""Which scalar of a model's outputs gradients are taken of: directions in the outputs, NumPy only.

Every scalar here is linear in the outputs once they are known, :math:`\sum W \cdot z`, so a framework has to pull W back and
nothing more.  Squares of what comes out then have one unit for all layers of a model: the mean over W of the squared change
of the scalar for each prediction.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from balred.ranks.divergence import log_softmax

Host = NDArray[Any]
SCALARS = ("outputs", "tempered", "fisher")
TEMPERATURE = 3.0
DRAWS = 2
"""Directions for each batch: one pass forward serves them all, and each costs a pass backward.  More tell no more of the states
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
