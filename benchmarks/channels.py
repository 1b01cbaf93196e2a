"""Hankel singular values of a thousand S4D channels, against loops over SLICOT and python-control and against batched eig(PQ).

    python benchmarks/channels.py [--channels 1024] [--out benchmarks/results]

A channel is a conjugate system of 64 stored states (real order 128), one input, one output, poles as S4D-Lin with random
decay and step.  SLICOT's AB09AD (balancing off, order 2 asked for) and ``control.hsvd`` get the same real systems, built
beforehand (python-control in continuous time, by the bilinear map); "eig(PQ)" is what one would write down: both Gramians of the poles and their conjugates by formula, the
eigenvalues of their product.  Everything runs in one process on all cores; ours best of three, the peers, which take
minutes, once.  The error is the largest difference to SLICOT's values, relative to the first.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

import control
import jax
import jax.numpy as jnp
import numpy as np
import slycot
import torch
from benchmarks_common import best_of, describe_machine, markdown, write

import balred

STATES, PIECE = 64, 64


def channels(count: int) -> tuple[Any, Any, Any]:
    """Log poles, B and C."""
    rng = np.random.default_rng(5)
    poles = -np.exp(0.3 * rng.standard_normal((count, STATES))) + 1j * np.pi * np.arange(STATES)
    step = np.exp(rng.uniform(np.log(1e-3), np.log(1e-1), (count, 1)))
    C = rng.standard_normal((count, 1, STATES)) + 1j * rng.standard_normal((count, 1, STATES))
    return poles * step, np.ones((count, STATES, 1), complex), C / 2


def real_form(l: Any, C: Any) -> tuple[Any, Any, Any]:
    """One channel as a real system: a 2 x 2 block for each pair, state (Re x, Im x) of y = 2 Re(C x)."""
    poles, n = np.exp(l), len(l)
    A, b, c = np.zeros((2 * n, 2 * n)), np.zeros((2 * n, 1)), np.zeros((1, 2 * n))
    for k, z in enumerate(poles):
        A[2 * k : 2 * k + 2, 2 * k : 2 * k + 2] = [[z.real, z.imag], [-z.imag, z.real]]
    b[::2, 0], c[0, ::2], c[0, 1::2] = 2, C[0].real, C[0].imag
    return A, b, c


def in_continuous_time(A: Any, b: Any, c: Any) -> Any:
    """The system with the same Hankel singular values for python-control, which has none of discrete time."""
    eye = np.eye(len(A))
    inverse = np.linalg.inv(eye + A)
    return control.ss((A - eye) @ inverse, np.sqrt(2) * inverse @ b, np.sqrt(2) * c @ inverse, 0)


def by_eig(xp: Any, l: Any, B: Any, C: Any) -> Any:
    """Eigenvalues of the product of the Gramians, a piece of the batch at a time for the memory."""
    out = []
    for i in range(0, len(l), PIECE):
        part = slice(i, i + PIECE)
        poles = xp.exp(xp.concatenate([l[part], l[part].conj()], -1))
        b = xp.concatenate([B[part], B[part].conj()], 1)
        c = xp.concatenate([C[part], C[part].conj()], 2)
        d = 1 - poles[:, :, None] * poles[:, None, :].conj()
        P, Q = b * b.conj().mT / d, c.conj().mT * c / d.conj()
        out.append(xp.sqrt(xp.linalg.eigvals(P @ Q).real.clip(0)))
    return -np.sort(-np.asarray(xp.concatenate(out)))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--channels", type=int, default=1024)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results"))
    args = parser.parse_args()
    l, B, C = channels(args.channels)
    reals = [real_form(*x) for x in zip(l, C, strict=True)]
    objects = [in_continuous_time(*x) for x in reals]
    order = 2 * STATES

    def ours(f: Callable[[Any], Any]) -> Any:
        return balred.diagonal(log_poles=f(l), B=f(B), C=f(C), dt=1, conjugate=True)

    def slicot() -> Any:
        return np.stack(
            [slycot.ab09ad("D", "B", "N", order, 1, 1, A.copy("F"), b.copy("F"), c.copy("F"), nr=2)[-1] for A, b, c in reals]
        )  # fmt: skip

    with jax.enable_x64(True):
        jitted = jax.jit(balred.hsv)
        numpy, on_torch, on_jax = ours(np.asarray), ours(torch.as_tensor), ours(jnp.asarray)
        ways: dict[str, tuple[Callable[[], Any], int]] = {
            "balred, NumPy": (lambda: balred.hsv(numpy), 3),
            "balred, PyTorch": (lambda: balred.hsv(on_torch), 3),
            "balred, JAX, jitted": (lambda: jax.block_until_ready(jitted(on_jax)), 3),
            'balred, solver="cauchy"': (lambda: balred.hsv(numpy, solver="cauchy"), 3),
            "loop over slycot ab09ad": (slicot, 1),
            "loop over python-control hsvd": (lambda: np.stack([control.hsvd(g) for g in objects]), 1),
            "eig(PQ), NumPy, batched": (lambda: by_eig(np, l, B, C), 1),
            "eig(PQ), PyTorch, batched": (lambda: by_eig(torch, *map(torch.as_tensor, (l, B, C))), 1),
        }
        seconds, values = {}, {}
        for name, (run, repeats) in ways.items():
            if repeats > 1:
                run()
            seconds[name], found = best_of(run, repeats)
            values[name] = np.asarray(found)
            print(f"{name}: {seconds[name]:.2f} s", flush=True)
    one = np.stack([np.random.default_rng(0).standard_normal((order, order))] * args.channels)
    floor = best_of(lambda: np.linalg.svd(one, compute_uv=False), 2)[0]
    truth, rows, mine = values["loop over slycot ab09ad"], [], [k for k in ways if k.startswith("balred")]
    best = min(seconds[k] for k in mine)
    for name, t in seconds.items():
        error = float(np.max(np.abs(values[name] - truth) / truth[:, :1]))
        ratios = ["–", "–"] if name in mine else [f"{t / best:.1f}x", f"{t / seconds['balred, PyTorch']:.1f}x"]
        rows.append(
            [name, f"{1e3 * t / args.channels:.2f} ms", *ratios, "–" if truth is values[name] else f"{error:.0e}"]
        )
    rows.append(["(one SVD of this order each)", f"{1e3 * floor / args.channels:.2f} ms", "–", "–", "–"])
    header = ["way", "a channel", "slower than our fastest", "slower than ours on PyTorch", "difference to slycot"]
    text = markdown(header, rows)
    print(text)
    errors = {k: float(np.max(np.abs(v - truth) / truth[:, :1])) for k, v in values.items()}
    record = {"channels": args.channels, "seconds": seconds, "floor": floor, "difference": errors}
    write(args.out, "channels", {"machine": describe_machine(), **record}, text)


if __name__ == "__main__":
    main()
