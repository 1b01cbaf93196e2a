"""The LRU layer, forward and backward on one thread: the form that ``balred`` chooses, against others, in one run.

    python benchmarks/layers.py [--tiny] [--frameworks torch,jax] [--out benchmarks/results]

The others are every chunk, the scan of all states, a convolution with the layer's H x H kernel by FFT, and in JAX,
under ``jit``, ``lax.scan``.  All of a shape are run in turn, so that they meet the machine in the same moods, and the
best time of each counts; all outputs are compared.  A ratio above 1 says how many times longer the other takes.
``--tiny`` tries the script itself.
"""

from __future__ import annotations

import argparse
import itertools
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import torch
from array_api_compat import torch as torch_xp
from benchmarks_common import describe_machine, markdown, write

from balred.layers.recurrence import chunk_of, lru_initial, lru_output
from balred.layers.scans import chunked_output, scan
from balred.studies.demo import one_thread

CHUNKS = (4, 8, 16, 32)
LARGEST = 2048
"""Rows of the Toeplitz matrix above which a chunk is not tried."""
BUDGET = 1.5
"""Seconds for the rounds of a shape, at least as many as there are forms and at most 20 of them."""

Layer = Any
Forms = Mapping[str, Callable[[Layer, Any], Any]]


def poles_and_matrices(xp: Any, layer: Layer) -> tuple[Any, Any, Any]:
    gain = xp.exp(layer.gamma_log)[:, None]
    log_poles = -xp.exp(layer.nu_log) + 1j * xp.exp(layer.theta_log)
    return log_poles, gain * layer.B_re + 1j * (gain * layer.B_im), layer.C_re + 1j * layer.C_im


def forms_of(xp: Any, steps: Any, features: int, length: int) -> Forms:
    """Ways to compute the same output; `steps` is the framework's own loop, if it has one."""

    def chunked(size: int) -> Callable[[Layer, Any], Any]:
        return lambda layer, u: chunked_output(xp, *poles_and_matrices(xp, layer), u, size) + layer.D * u

    def scanned(layer: Layer, u: Any) -> Any:
        log_poles, B, C = poles_and_matrices(xp, layer)
        x = scan(xp, log_poles, u @ xp.real(B).T + 1j * (u @ xp.imag(B).T))
        return xp.real(x) @ xp.real(C).T - xp.imag(x) @ xp.imag(C).T + layer.D * u

    def convolved(layer: Layer, u: Any) -> Any:
        log_poles, B, C = poles_and_matrices(xp, layer)
        powers = xp.exp(log_poles[:, None] * xp.arange(length))
        kernel = xp.real(xp.einsum("on,nl,ni->loi", C, powers, B))
        product = xp.einsum(
            "koi,bki->bko", xp.fft.rfft(kernel, n=2 * length, axis=0), xp.fft.rfft(u, n=2 * length, axis=1)
        )
        return xp.fft.irfft(product, n=2 * length, axis=1)[:, :length] + layer.D * u

    forms = {"balred": lambda layer, u: lru_output(xp, layer, u), "scan": scanned}
    if features <= 64:
        forms["FFT"] = convolved
    if steps is not None:
        forms["lax.scan"] = steps
    sizes = [size for size in CHUNKS if 2 * size <= length and size * features <= LARGEST]
    return forms | {f"T = {size}": chunked(size) for size in sizes}


def lax_scan(layer: Layer, u: Any) -> Any:
    log_poles, B, C = poles_and_matrices(jnp, layer)
    drive = jnp.moveaxis(u, 1, 0) @ B.T

    def step(x: Any, v: Any) -> Any:
        x = jnp.exp(log_poles) * x + v
        return x, jnp.real(x @ C.T)

    return jnp.moveaxis(jax.lax.scan(step, jnp.zeros_like(drive[0]), drive)[1], 0, 1) + layer.D * u


def of_torch(
    features: int, states: int, length: int, rows: int
) -> Mapping[str, tuple[Callable[[], Any], Callable[[], Any]]]:
    """A training step and an output, for each form."""
    generator = torch.Generator().manual_seed(0)
    values = lru_initial(
        features, states, 0.5, 0.99, 2 * np.pi,
        lambda n: torch.rand(n, generator=generator), lambda *shape: torch.randn(*shape, generator=generator),
    )  # fmt: skip
    layer = SimpleNamespace(**{k: v.requires_grad_() for k, v in values.items()})
    u = torch.randn(rows, length, features, generator=generator)

    def step(form: Any) -> None:
        inner = u.clone().requires_grad_()  # as inside a model
        torch.autograd.grad(form(layer, inner).square().mean(), [*vars(layer).values(), inner])

    forms = forms_of(torch_xp, None, features, length)
    return {k: (lambda f=f: step(f), lambda f=f: f(layer, u).detach().numpy()) for k, f in forms.items()}


def of_jax(
    features: int, states: int, length: int, rows: int
) -> Mapping[str, tuple[Callable[[], Any], Callable[[], Any]]]:
    keys = map(jax.random.key, itertools.count())
    values = lru_initial(
        features, states, 0.5, 0.99, 2 * np.pi,
        lambda n: jax.random.uniform(next(keys), (n,)), lambda *shape: jax.random.normal(next(keys), shape),
    )  # fmt: skip
    u = jax.random.normal(next(keys), (rows, length, features))
    result = {}
    for name, form in forms_of(jnp, lax_scan, features, length).items():
        output = jax.jit(lambda values, u, form=form: form(SimpleNamespace(**values), u))
        slope = jax.jit(jax.grad(lambda values, u, output=output: jnp.mean(output(values, u) ** 2), argnums=(0, 1)))
        result[name] = (
            lambda slope=slope: jax.block_until_ready(slope(values, u)),
            lambda output=output: np.asarray(output(values, u)),
        )
    return result


def measured(
    forms: Mapping[str, tuple[Callable[[], Any], Callable[[], Any]]],
) -> tuple[dict[str, float], dict[str, float]]:
    """Best seconds of a step by each form, and the largest difference from the scan's output, over the largest value."""
    want = forms["scan"][1]()
    differ = {k: float(np.abs(output() - want).max() / np.abs(want).max()) for k, (_, output) in forms.items()}
    for step, _ in forms.values():
        step()
    seconds = dict.fromkeys(forms, np.inf)
    began, rounds, order = time.perf_counter(), 0, list(forms)
    while rounds < len(forms) or (rounds < 20 and time.perf_counter() - began < BUDGET):
        rounds += 1
        order = order[1:] + order[:1]  # none always follows the one that leaves the caches full
        for name in order:
            step, _ = forms[name]
            start = time.perf_counter()
            step()
            seconds[name] = min(seconds[name], time.perf_counter() - start)
    return seconds, differ


def shapes(framework: str, tiny: bool) -> list[tuple[int, int, int, int]]:
    """Features, states, length and sequences; fewer where every form of every shape is compiled first."""
    if tiny:
        return [(8, 16, 64, 4), (64, 16, 64, 4)]
    if framework == "jax":
        return [(16, 64, 1024, 16), (16, 256, 256, 16), (16, 256, 1024, 16), (256, 256, 256, 16)]
    grid = itertools.product((16, 64, 256), (64, 256), (64, 256, 1024))
    return [(h, n, length, 16) for h, n, length in grid if h * n * length <= 2**24] + [(16, 64, 256, 1)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tiny", action="store_true")
    parser.add_argument("--frameworks", default="torch,jax")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results"))
    args = parser.parse_args()
    rows, table = [], []
    for framework in args.frameworks.split(","):
        for shape in shapes(framework, args.tiny):
            with one_thread(framework):
                seconds, differ = measured({"torch": of_torch, "jax": of_jax}[framework](*shape))
            assert max(differ.values()) < 1e-4, differ
            chosen = chunk_of(*shape[:3])
            rows.append({"framework": framework, "shape": shape, "chunk": chosen, "seconds": seconds, "differ": differ})
            ours = seconds["balred"]
            tried = {k: v for k, v in seconds.items() if k.startswith("T = ")}
            best = min(tried, key=lambda k: tried[k], default="")
            table.append([
                framework, *map(str, shape), f"T = {chosen}" if chosen else "scan", f"{1e3 * ours:.1f} ms",
                *(f"{seconds[k] / ours:.2f}" if k in seconds else "–" for k in ("scan", "FFT", "lax.scan")),
                f"{tried[best] / ours:.2f} ({best})" if best else "–", f"{max(differ.values()):.0e}",
            ])  # fmt: skip
            print(table[-1], flush=True)
    header = [
        "framework", "H", "N", "L", "batch", "balred's form", "balred", "scan", "FFT", "lax.scan", "best chunk",
        "outputs differ",
    ]  # fmt: skip
    text = markdown(header, table)
    print(text)
    if not args.tiny:
        write(args.out, "layers", {"machine": describe_machine(), "rows": rows}, text)


if __name__ == "__main__":
    main()
