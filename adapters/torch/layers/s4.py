r"""S4 layers as the state-spaces ``s4.py`` writes them: one file that people copy into their projects, under any name.

They are known by what they hold: a kernel module with the tensors inv_dt (H, 1), A_real, A_imag (S, N), B (1, S, N, 2)
and C (c, H, N, 2), for low-rank terms also P (R, S, N, 2) and l_kernel, and the names of three transforms; around it a
module with that ``kernel`` and D.  What looks like such a kernel but computes another one is refused.

What is decided here:

- Channel h has copy h mod S of A and B.  Where there are fewer copies than channels (``n_ssm``), the channels of a
  copy differ in their steps, so what they share is a *continuous* system.  It is reduced jointly, as one operator whose
  outputs are those of all its channels, and each channel goes on sampling it with its own step; Hankel singular values
  and bounds are those of that operator.  Otherwise the systems are what the channels apply, in discrete time.
- A kernel with low-rank terms becomes diagonal: its class and the names of its tensors stay, P is zero.  The gradient
  of P is zero there too, so it stays diagonal.  The Hankel singular values of such a kernel have no gradient until then.
- A two-sided layer is one system whose outputs are those of both directions, times :math:`\sqrt2`, as in
  :func:`balred.layers.s5.s5_system`.
- ``dss`` kernels depend on the length they are asked for: the system is that of ``l_max``, or of endless sequences.
- States beyond ``bandlimit`` are left out, and the smaller kernel has no band limit.

A. Gu, K. Goel and C. Ré, ICLR 2022 (arXiv 2111.00396); A. Gu, A. Gupta, K. Goel and C. Ré, NeurIPS 2022
(arXiv 2206.11893); A. Gupta, A. Gu and J. Berant, NeurIPS 2022 (arXiv 2203.14343).
"""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import torch

from balred.adapters.torch.layers.s4_kernels import POSITIVE, low_rank, outputs, sides_of, system_of, values_of, written
from balred.adapters.torch.modules import blank_copy, check_complex
from balred.layers.lru import keep_feedthrough
from balred.layers.sampled import Host
from balred.registry.entries import register_entry
from balred.registry.kinds import Entry, Rebuild
from balred.systems.arrays import is_concrete, to_numpy
from balred.systems.diagonal_system import DiagonalSystem
from balred.systems.leaves import System

_NAMES = {"inv_dt", "A_real", "B", "C"}
_CACHED = ("dA", "dB", "dC", "step_params")
"""What kernels keep from setting up their recurrence; it is of the old size."""
_PROBE = 16


def _is_kernel(module: Any) -> bool:
    tensors = {k: v for k, v in (*module._parameters.items(), *module._buffers.items()) if v is not None}
    transforms = [vars(module).get(f"{name}_transform") for name in ("real", "imag", "dt")]
    if not all(isinstance(x, str) and x in POSITIVE for x in transforms) or module._modules:
        return False
    if set(tensors) - {"A_imag", "P", "l_kernel"} != _NAMES or ("P" in tensors) != ("l_kernel" in tensors):
        return False
    shape = {name: tuple(value.shape) for name, value in tensors.items()}
    two = (2,) if "A_imag" in tensors else ()
    if len(shape["A_real"]) != 2 or len(shape["C"]) != 3 + len(two):
        return False
    (S, N), (c, H) = shape["A_real"], shape["C"][:2]
    fits = shape["B"] == (1, S, N, *two) and shape["C"] == (c, H, N, *two) and H % S == 0
    fits = fits and shape["inv_dt"] in ((H, 1), (H, N)) and shape.get("A_imag", (S, N)) == (S, N)
    return fits and ("P" not in shape or (bool(two) and shape["P"][1:] == (S, N, 2)))


def _is_layer(module: Any) -> bool:
    kernel: Any = dict(module.named_children()).get("kernel")
    D = dict(module.named_parameters(recurse=False)).get("D")
    if kernel is None or D is None or D.ndim != 2 or not _is_kernel(kernel):
        return False
    sides = 2 if getattr(module, "bidirectional", False) else 1
    return (sides * D.shape[0], D.shape[1]) == tuple(kernel.C.shape[:2])


def adapt_s4(layer: Any) -> tuple[System, Rebuild]:
    """The convolutions of an S4 layer, D included: a batch of systems, one for each copy of A and B."""
    return _adapted(layer, layer.kernel, layer.D, "kernel.")


def adapt_s4_kernel(kernel: Any) -> tuple[System, Rebuild]:
    """The same for a kernel on its own."""
    return _adapted(kernel, kernel, None, "")


register_entry("torch.nn.modules.module.Module", Entry(adapt_s4, compares=True), _is_layer)
register_entry("torch.nn.modules.module.Module", Entry(adapt_s4_kernel, compares=True), _is_kernel)


def _adapted(layer: Any, kernel: Any, D: torch.Tensor | None, prefix: str) -> tuple[System, Rebuild]:
    if not hasattr(kernel, "A_imag"):
        raise ValueError(
            "an S4 kernel must have complex poles to be reduced, because reduced systems have them, got is_real=True"
        )
    check_complex(kernel.C)
    sides, length = sides_of(kernel, D), getattr(kernel, "l_max", None)
    system = system_of(kernel, D, length)
    if is_concrete(kernel.C):
        scaled = system if getattr(kernel, "disc", None) != "dss" else system_of(kernel, D, _PROBE)
        _check_kernel(kernel, values_of(kernel, scaled, np.arange(_PROBE)) / sides**0.5)

    def rebuild(reduced: Any) -> Any:
        keep_feedthrough(reduced, system)
        if low_rank(kernel) and reduced.states >= kernel.A_real.shape[1] and _holds(kernel, system, reduced)[0]:
            return blank_copy(layer, {})  # nothing to gain, and no diagonal form is as accurate
        new = blank_copy(layer, {prefix + name: value for name, value in written(kernel, reduced).items()})
        small = new.kernel if prefix else new
        for name in _CACHED:
            vars(small).pop(name, None)
        with torch.no_grad():
            small.C.copy_(outputs(small, reduced, sides, length))
            right, worst, limit = _holds(small, system_of(small, D, length), reduced)
        if not right:
            raise ValueError(
                f"the tensors of an S4 kernel must hold the reduced system to {limit:.1e}, got {worst:.1e} in "
                f"{small.A_real.dtype} with transforms {small.real_transform} and {small.imag_transform}: "
                "ask for another rank, or convert the layer to float64"
            )
        return new

    return system, rebuild


def _check_kernel(kernel: Any, want: Host) -> None:
    """That the module computes the kernel that its tensors stand for; on a copy, since some change C when called."""
    rule = "must return its first values, (c, H, L), when called with L"
    with torch.no_grad():
        try:
            got = copy.deepcopy(kernel)(L=_PROBE)
        except Exception as error:
            raise ValueError(f"an S4 kernel {rule}, got {error!r}") from error
    got = got[0] if isinstance(got, tuple) else got
    if tuple(getattr(got, "shape", ())) != want.shape:
        raise ValueError(f"an S4 kernel {rule}={_PROBE}, got shape {tuple(getattr(got, 'shape', ()))}")
    worst = float(np.abs(to_numpy(got) - want).max() / max(np.abs(want).max(), np.finfo(np.float32).tiny))
    if not worst < 1e-3:
        raise ValueError(
            "a module with the tensors of an S4 kernel must compute the response of these tensors, "
            f"got one that differs by {worst:.1e} of the largest value"
        )


def _holds(kernel: Any, held: DiagonalSystem, wanted: DiagonalSystem) -> tuple[bool, float, float]:
    """Whether the kernel, whose system is `held`, holds `wanted` in its own precision; how far off it is, and may be."""
    times = np.unique(np.geomspace(1, 4096, 60).round()) - 1
    want, got = (values_of(kernel, system, times) for system in (wanted, held))
    limit = float(torch.finfo(kernel.A_real.dtype).eps) ** 0.4
    worst = float(np.abs(got - want).max() / max(np.abs(want).max(), np.finfo(np.float32).tiny))
    return worst < limit, worst, limit
