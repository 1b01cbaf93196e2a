r"""How layers that sample a continuous system come from its poles and a step to those that they run, and back.

S5 and S4D train continuous poles :math:`\Lambda` and steps :math:`\Delta`, and run the sampled recurrence

.. math:: x_k = \bar\lambda x_{k-1} + g\,Bu_k,\qquad \bar\lambda = e^{\Lambda\Delta},\; g = (e^{\Lambda\Delta}-1)/\Lambda

(zero-order hold), or :math:`\bar\lambda = \frac{1+\Lambda\Delta/2}{1-\Lambda\Delta/2}`, :math:`g =
\frac{\Delta}{1-\Lambda\Delta/2}` (bilinear).  Both are inverted exactly: any stable discrete pole but 0, and -1 for the
bilinear rule, has its :math:`\Lambda`.  Only the product :math:`\Lambda\Delta` and the scaled input matter, so the
step may be chosen.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from balred.layers.lru import decays
from balred.systems.arrays import Array, namespace, to_complex, to_numpy

Host = NDArray[Any]
# gain(poles, step) is the input gain g as a layer computes it.  In single precision exp(ΛΔ) - 1 loses as many digits as
# ΛΔ is small by; a layer that is written with its own gain applies the input matrix that it was given all the same.
Gain = Callable[[Host, Host], Host]
RULES = ("zoh", "bilinear")


def sampled_poles(poles: Array, step: Array, rule: str = "zoh") -> Array:
    """Logarithms of the sampled poles; `poles` complex, `step` real, broadcast against each other.

    Examples
    --------
    >>> sampled_poles(np.array([-1 + 2j]), np.array([0.1]))
    array([-0.1+0.2j])
    """
    _check_rule(rule)
    product = poles * to_complex(step)
    return product if rule == "zoh" else 2 * namespace(product).atanh(product / 2)


def input_gain(poles: Array, step: Array, rule: str = "zoh") -> Array:
    """The input gain g, without cancellation; a zero-order hold at a pole of zero integrates over the step.

    Examples
    --------
    >>> input_gain(np.array([-1e-9 + 0j, 0j]), np.array([0.5, 0.5])).real
    array([0.5, 0.5])
    """
    _check_rule(rule)
    xp, step = namespace(poles), to_complex(step)
    if rule == "bilinear":
        return step / (1 - poles * step / 2)
    zero = poles == 0
    divisor = xp.where(zero, xp.ones_like(poles), poles)
    return xp.where(zero, step * xp.ones_like(poles), xp.expm1(poles * step) / divisor)


def continuous_poles(log_poles: Array, step: Host, rule: str = "zoh", *, grows: bool = False) -> Host:
    """The poles whose samples with `step` have the logarithms `log_poles`, on the host in double precision.

    Poles of modulus below exp(-30) are written as exp(-30), which has a gradient in single precision; a decay of zero,
    which rounding may leave, as the least positive one.  Growing poles stay as they are in layers that can hold them.

    Raises
    ------
    ValueError
        There is one in a layer that cannot (`grows` is not set); a step is not positive.

    Examples
    --------
    >>> continuous_poles(np.log(np.array([0.5 + 0.5j])), np.array(0.01), "bilinear").round(6)
    array([-40.+80.j])
    """
    _check_rule(rule)
    if not ((step > 0) & (step < np.inf)).all():
        raise ValueError(
            f"every step of a layer must be a positive number, got {step[~((step > 0) & (step < np.inf))][0]}"
        )
    logs = to_numpy(log_poles).astype(np.complex128)
    logs = -decays(logs.real, grows=grows) + 1j * logs.imag
    return np.asarray((logs if rule == "zoh" else 2 * np.tanh(logs / 2)) / step)


def _check_rule(rule: str) -> None:
    if rule not in RULES:
        raise ValueError(f"the sampling rule must be one of {', '.join(RULES)}, got {rule!r}")


def check_sampled(system: Any, layer: str) -> None:
    """Raise unless a `layer` of that name can hold the system."""
    if not (getattr(system, "conjugate", False) and system.discrete):
        raise ValueError(f"an {layer} layer holds a discrete conjugate system, got {system!r}")


def layer_gain(poles: Host, step: Host, rule: str, gain: Gain | None) -> Host:
    """The gain that the layer itself will compute of parameters, right or not: what it makes of them is what they stand for.

    Raises
    ------
    ValueError
        It is zero or no number where a pole rounds to 1 in the layer's precision: no parameters make up for that.
    """
    own = np.asarray(input_gain(poles, step, rule) if gain is None else gain(poles, step))
    if (lost := ~(np.isfinite(own) & (own != 0))).any():
        slowest = 1 / float(np.abs(poles * step)[lost].max())
        raise ValueError(
            f"every pole must differ from 1 in the precision of the layer, got a state that lasts for {slowest:.2g} steps, whose pole is "
            "rounded to 1, so that no input reaches it: convert the layer to double precision"
        )
    return own
