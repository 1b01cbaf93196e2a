r"""What the tensors of an S4 kernel stand for, and the tensors that stand for a smaller system; used by ``s4.py``.

With copy h mod S of A and B, channel h applies :math:`K_l = 2\,\mathrm{Re}\,\sum_n f_nC_n\,g_nB_n\,\bar\lambda_n^l`:
:math:`\bar\lambda` and the gain g by the zero-order hold or the bilinear rule of :mod:`balred.layers.sampled`, and f from
what else stands between C and the output (:func:`factor`).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import nn

from balred.backends.torch import from_numpy
from balred.layers.dplr import as_conjugate, bilinear, real_columns, real_matrix, real_rows, untruncated
from balred.layers.sampled import Host, continuous_poles, input_gain, layer_gain, sampled_poles
from balred.systems.arrays import to_numpy
from balred.systems.dense_system import DenseSystem
from balred.systems.diagonal_system import DiagonalSystem, diagonal

_TINY = 1e-30
POSITIVE: dict[str, tuple[Callable[[torch.Tensor], torch.Tensor], Callable[[Host], Host]]] = {
    "none": (lambda x: x, lambda y: y),
    "exp": (torch.exp, lambda y: np.log(np.maximum(y, _TINY))),
    "relu": (lambda x: torch.relu(x) + 1e-4, lambda y: y - 1e-4),
    "sigmoid": (torch.sigmoid, lambda y: -np.log(1 / np.clip(y, _TINY, 1 - 1e-7) - 1)),
    "softplus": (nn.functional.softplus, lambda y: y + np.log(-np.expm1(-np.maximum(y, _TINY)))),
}
"""How kernels make positive numbers out of parameters, and the nearest way back."""


def poles(kernel: Any) -> torch.Tensor:
    """The continuous poles (S, N); those of a kernel with low-rank terms without these."""
    re, im = POSITIVE[kernel.real_transform][0], POSITIVE[kernel.imag_transform][0]
    return torch.complex(-re(kernel.A_real), -im(kernel.A_imag))


def steps(kernel: Any) -> torch.Tensor:
    """The steps, (H, 1) or (H, N)."""
    inner = torch.sinh(kernel.inv_dt) if getattr(kernel, "dt_fast", False) else kernel.inv_dt
    return POSITIVE[kernel.dt_transform][0](inner)


def rule_of(kernel: Any) -> str:
    """The sampling rule."""
    if hasattr(kernel, "l_kernel"):
        return "bilinear"
    disc = getattr(kernel, "disc", None)
    if disc not in ("zoh", "bilinear", "dss"):
        raise ValueError(f"an S4 kernel must be sampled by zoh, bilinear or dss, got {disc!r}")
    return "bilinear" if disc == "bilinear" else "zoh"


def low_rank(kernel: Any) -> bool:
    """Whether the low-rank terms are there, and not zero."""
    return hasattr(kernel, "P") and bool(torch.any(kernel.P != 0))


def shared(kernel: Any) -> bool:
    """Whether channels share A and B."""
    several = kernel.A_real.shape[0] < kernel.C.shape[1]
    if several and kernel.inv_dt.shape[1] != 1:
        shape = tuple(kernel.inv_dt.shape)
        raise ValueError(f"S4 channels that share A must have one step each (dt_tie), got inv_dt of shape {shape}")
    return bool(several)


def every(kernel: Any, x: torch.Tensor) -> torch.Tensor:
    """(S, N) as (H, N)."""
    return x.repeat(kernel.C.shape[1] // kernel.A_real.shape[0], 1)


def gain(kernel: Any, A: torch.Tensor, step: torch.Tensor) -> torch.Tensor:
    """The input gain in the kernel's own arithmetic."""
    if rule_of(kernel) == "bilinear":
        return (1.0 - A * step / 2).reciprocal() * step
    return (torch.exp(A * step) - 1.0) / A


def factor(kernel: Any, A: torch.Tensor, step: torch.Tensor, length: int | None) -> torch.Tensor:
    """What C is multiplied by, (H, N), in a kernel of that length; endless if None.

    Examples
    --------
    >>> from types import SimpleNamespace
    >>> A, step = torch.tensor([-1.0 + 0j]), torch.tensor([0.1])
    >>> factor(SimpleNamespace(disc="zoh"), A, step, None)  # other kernels multiply C by one
    tensor([1.+0.j])
    """
    if hasattr(kernel, "l_kernel"):  # C was made to see the first values only
        seen = int(kernel.l_kernel)
        return -1 / torch.expm1(seen * sampled_poles(A, step, "bilinear")) if seen else torch.ones_like(A)
    if kernel.disc == "dss":  # the real part, not twice that
        x = -A if length is None else A * (torch.exp(A * step * length) - 1)
        return A * x.conj() / (x * x.conj() + 1e-7) / 2
    return torch.ones_like(A)


def _heard(kernel: Any, A: torch.Tensor, step: torch.Tensor) -> torch.Tensor:
    """C (c, H, N), zero where the band limit silences a state."""
    C, band = torch.view_as_complex(kernel.C), getattr(kernel, "bandlimit", None)
    return C if band is None else C * (step * A.imag.abs() / (2 * torch.pi) < band / 2)


def per_copy(x: Any, copies: int) -> Any:
    """(c, H, n) as (S, c H / S, n): the channels of a copy are S apart."""
    c, H, n = x.shape
    return x.reshape(c, H // copies, copies, n).swapaxes(1, 2).swapaxes(0, 1).reshape(copies, -1, n)


def per_channel(x: Host, outputs: int) -> Host:
    """The inverse, for c = `outputs`."""
    copies, several, n = x.shape
    split = x.reshape(copies, outputs, several // outputs, n).swapaxes(0, 1).swapaxes(1, 2)
    return split.reshape(outputs, -1, n)


def system_of(kernel: Any, D: torch.Tensor | None, length: int | None) -> DiagonalSystem:
    """The systems of a kernel of that length with D (c, H), or (c / 2, H) around a two-sided one."""
    A, step = poles(kernel), steps(kernel)
    copies, sides = len(A), sides_of(kernel, D)
    A_all, B = every(kernel, A), torch.view_as_complex(kernel.B)[0]
    C = sides**0.5 * _heard(kernel, A_all, step)
    if D is not None:
        D = per_copy(sides**0.5 * torch.cat([D, *[torch.zeros_like(D)] * (sides - 1)])[..., None], copies)
    if low_rank(kernel):
        found = as_conjugate(_dense(kernel, C))
        like = torch.empty(0, dtype=torch.float64, device=C.device)
        logs, B, C = (from_numpy(x, like=like) for x in found.leaves)
        D = None if D is None else D.to(like.dtype)
    else:
        C = per_copy(C * factor(kernel, A_all, step, length), copies)
        logs = A if shared(kernel) else sampled_poles(A, step, rule_of(kernel))
        B = (B if shared(kernel) else gain(kernel, A, step) * B)[..., None]
    return diagonal(log_poles=logs, B=B, C=C, D=D, dt=not shared(kernel), conjugate=True)


def values_of(kernel: Any, system: DiagonalSystem, times: Host) -> Host:
    """The values (c, H, times) of a kernel with the steps of `kernel` that holds `system`, on the host."""
    logs, b, c = (to_numpy(x).astype(np.complex128) for x in system.leaves)
    residues = per_channel(c * b.swapaxes(-1, -2), kernel.C.shape[0])
    if not system.discrete:
        step, rule = to_numpy(steps(kernel)).astype(np.float64), rule_of(kernel)
        A = np.tile(logs, (len(step) // len(logs), 1))
        logs, residues = sampled_poles(A, step, rule), residues * input_gain(A, step, rule)
    return np.asarray(2 * (residues[:, :, None, :] * np.exp(logs[:, None, :] * times[:, None])).sum(-1).real)


def sides_of(kernel: Any, D: torch.Tensor | None) -> int:
    """2 if the kernel holds those of two directions."""
    return 1 if D is None else int(kernel.C.shape[0] // D.shape[0])


def _dense(kernel: Any, C: torch.Tensor) -> DenseSystem:
    """The real systems of a kernel with low-rank terms, on the host in double precision."""
    given = (poles(kernel), torch.view_as_complex(kernel.P), torch.view_as_complex(kernel.B)[0], C)
    A, P, B, c = (to_numpy(x).astype(np.complex128) for x in given)
    matrix, column, rows = real_matrix(A, P), real_columns(B), real_rows(c)
    seen, common = int(kernel.l_kernel), shared(kernel)
    if seen or not common:
        times = c.shape[1] // len(A)
        step = np.tile(np.broadcast_to(to_numpy(steps(kernel)).astype(np.float64), c.shape[1:]), 2)
        sampled = bilinear(np.tile(matrix, (times, 1, 1)), np.tile(column, (times, 1)), step)
        rows = untruncated(rows, sampled[0], seen) if seen else rows
        matrix, column = (matrix, column) if common else sampled
    rows = per_copy(rows, len(A))
    return DenseSystem(matrix, column[..., None], rows, np.zeros((*rows.shape[:2], 1)), not common)


def written(kernel: Any, reduced: DiagonalSystem) -> dict[str, Any]:
    """Tensors and attributes of the smaller kernel; C follows by :func:`outputs`, when the others are in place."""
    step = to_numpy(steps(kernel)).astype(np.float64)
    logs = to_numpy(reduced.log_poles).astype(np.complex128)
    B = np.linalg.norm(to_numpy(kernel.B)[0], axis=-1)
    size = np.sqrt(np.mean(B**2, axis=1, keepdims=True))
    values: dict[str, Any] = {}
    if step.shape[1] > 1:  # only its product with the pole matters
        step = np.broadcast_to(np.exp(np.log(step).mean(axis=1, keepdims=True)), logs.shape)
        inner = POSITIVE[kernel.dt_transform][1](step)
        values["inv_dt"] = np.arcsinh(inner) if getattr(kernel, "dt_fast", False) else inner
    A = continuous_poles(logs, step, rule_of(kernel)) if reduced.discrete else logs
    values["A_real"] = POSITIVE[kernel.real_transform][1](-A.real)
    values["A_imag"] = POSITIVE[kernel.imag_transform][1](np.abs(A.imag))
    one = np.broadcast_to(np.where(size > 0, size, 1.0), A.shape)
    values["B"] = np.stack([one, np.zeros_like(one)], axis=-1)[None]
    values["C"] = np.zeros((*kernel.C.shape[:2], A.shape[1], 2))
    if hasattr(kernel, "P"):
        values["P"] = np.zeros((kernel.P.shape[0], *A.shape, 2))
    attributes = {"N": A.shape[1]} if vars(kernel).get("N") == kernel.A_real.shape[1] else {}
    attributes |= {"bandlimit": None} if hasattr(kernel, "bandlimit") else {}
    return {name: from_numpy(value, like=kernel.A_real) for name, value in values.items()} | attributes


def outputs(small: Any, reduced: DiagonalSystem, sides: int, length: int | None) -> torch.Tensor:
    """C of the smaller kernel, whose other tensors are in place, such that it is that of `reduced`."""
    logs, b, c = (to_numpy(x).astype(np.complex128) for x in reduced.leaves)
    residues = c * b.swapaxes(-1, -2)
    # poles are written with a negative imaginary part: a state and its conjugate are the same state
    residues = np.where(logs.imag[:, None] > 0, residues.conj(), residues)
    A, step = poles(small), steps(small)
    divisor = torch.view_as_complex(small.B)[0]
    if reduced.discrete:
        wide = [to_numpy(x).astype(np.complex128) for x in (A, step)]
        own = to_numpy(gain(small, A, step)).astype(np.complex128)
        residues = residues / layer_gain(wide[0], wide[1], rule_of(small), lambda *_: own)[:, None]
    A, divisor = every(small, A), every(small, divisor)
    divisor = sides**0.5 * divisor * factor(small, A, step, length)
    C = per_channel(residues, small.C.shape[0]) / to_numpy(divisor).astype(np.complex128)
    return from_numpy(np.stack([C.real, C.imag], axis=-1), like=small.C)
