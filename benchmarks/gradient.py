"""The Hankel nuclear norm in a training: a step with it against one without, and its gradient against autodiff.

The step is the demo's: an LRU of 256 states in a classifier of width 16, batch 32, length 64, AdamW, on PyTorch and JAX; and
the published one, width 8, batch 50, length 784 (sequential MNIST), for which Hankel-norm regularisation was reported to make
training 16 times slower.  The gradient is that of the same layer, against reverse-mode differentiation of what one would write
down: the poles with their conjugates, Gramians as dense matrices (in closed form, to the peer's favour), then ``eigvals`` of
their product, or factors and ``svd``; and the same with our real form of the Gramians, half the work, which one would have to
know.  All contenders run in turn, the best of many rounds counts, on one thread.
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ.setdefault("XLA_FLAGS", "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1")

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import torch
from benchmarks_common import describe_machine, markdown, write
from threadpoolctl import threadpool_limits

import balred
from balred.solvers.closed_form import diagonal_gramians
from balred.studies.models.jax_models import Classifier as JaxClassifier
from balred.studies.models.torch_models import Classifier as TorchClassifier

STATES, STRENGTH, RENEWED = 256, 1e-4, 10
SIZES = {"demo": (16, 32, 64), "published": (8, 50, 784)}
PRECISIONS = ("float64", "float32")
Task = Callable[[], Any]


def in_turn(tasks: dict[str, Task], rounds: int) -> dict[str, float]:
    """Best time of each task in seconds; a round runs them all, so that each meets the machine in the same moods."""
    best = dict.fromkeys(tasks, np.inf)
    for task in tasks.values():
        task()
    for _ in range(rounds):
        for name, task in tasks.items():
            began = time.perf_counter()
            task()
            best[name] = min(best[name], time.perf_counter() - began)
    return best


def torch_steps(width: int, batch: int, length: int) -> dict[str, Task]:
    model = TorchClassifier(width, [STATES], seed=0)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4)
    x, y = torch.randn(batch, length), torch.randint(0, 10, (batch,))

    def step(regulariser: Callable[[], torch.Tensor] | None) -> None:
        optimizer.zero_grad()
        loss = torch.nn.functional.cross_entropy(model(x), y)
        if regulariser is not None:
            loss = loss + STRENGTH * regulariser()
        loss.backward()
        optimizer.step()

    def every_so_often(precision: str) -> None:
        weights = balred.hankel_weights(model, precision=precision)
        for _ in range(RENEWED):
            step(lambda: balred.hankel_nuclear_norm(model, weights=weights, precision=precision))

    tasks: dict[str, Task] = {
        "without": lambda: step(None),
        "hsv": lambda: step(lambda: balred.hsv(model.blocks[0].lru).sum()),
    }
    for p in PRECISIONS:
        tasks[f"norm {p}"] = lambda p=p: step(lambda: balred.hankel_nuclear_norm(model, precision=p))
        tasks[f"bound {p}"] = lambda p=p: every_so_often(p)
    return tasks


def jax_steps(width: int, batch: int, length: int) -> dict[str, Task]:
    model = JaxClassifier(width, [STATES], key=jax.random.key(0))
    optimizer = optax.adamw(1e-4)
    state = optimizer.init(eqx.filter(model, eqx.is_inexact_array))
    x, y = jax.random.normal(jax.random.key(1), (batch, length)), jnp.zeros(batch, jnp.int32)

    def make(regulariser: Callable[[Any, Any], Any] | None) -> Callable[[Any], Any]:
        @eqx.filter_jit
        def step(model: Any, state: Any, weights: Any) -> Any:
            def loss(model: Any) -> Any:
                task = jnp.mean(optax.softmax_cross_entropy_with_integer_labels(model(x), y))
                return task if regulariser is None else task + STRENGTH * regulariser(model, weights)

            updates, new = optimizer.update(
                eqx.filter_grad(loss)(model), state, eqx.filter(model, eqx.is_inexact_array)
            )
            return eqx.apply_updates(model, updates), new

        return lambda weights: jax.block_until_ready(step(model, state, weights))

    plain = make(None)
    tasks: dict[str, Task] = {"without": lambda: plain(None)}
    values = make(lambda m, _: balred.hsv(m.blocks[0].lru).sum())
    tasks["hsv"] = lambda: values(None)
    for p in PRECISIONS:
        exact = make(lambda m, _, p=p: balred.hankel_nuclear_norm(m, precision=p))
        bound = make(lambda m, w, p=p: balred.hankel_nuclear_norm(m, weights=w, precision=p))

        def every_so_often(p: str = p, bound: Callable[[Any], Any] = bound) -> None:
            weights = balred.hankel_weights(model, precision=p)
            for _ in range(RENEWED):
                bound(weights)

        tasks[f"norm {p}"] = lambda exact=exact: exact(None)
        tasks[f"bound {p}"] = every_so_often
    return tasks


def steps(rounds: int) -> list[dict[str, Any]]:
    rows = []
    for framework, make in (("torch", torch_steps), ("jax", jax_steps)):
        for size, shape in SIZES.items():
            tasks = make(*shape)
            if size == "published":  # a step takes seconds there, and ten of them tell nothing that one does not
                tasks = {name: task for name, task in tasks.items() if not name.startswith("bound")}
            seconds = in_turn(tasks, rounds if size == "demo" else 2)
            seconds = {k: t / RENEWED if k.startswith("bound") else t for k, t in seconds.items()}
            rows.append({"framework": framework, "size": size, "seconds": seconds})
            print(framework, size, f"{1e3 * seconds['without']:.1f} ms",
                  {k: f"{t / seconds['without']:.2f}x" for k, t in seconds.items()}, flush=True)  # fmt: skip
    return rows


def layer(width: int) -> tuple[Any, ...]:
    """Log poles, B and C of an LRU layer as it starts, in double precision."""
    g, _ = balred.adapt(TorchClassifier(width, [STATES], seed=0).blocks[0].lru)
    return tuple(x.detach().numpy().astype(np.complex128) for x in g.leaves)


def system(l: Any, B: Any, C: Any) -> Any:
    return balred.diagonal(log_poles=l, B=B, C=C, dt=1, conjugate=True)


def plain_gramians(xp: Any, l: Any, B: Any, C: Any) -> tuple[Any, Any]:
    """Gramians of the doubled system, (poles, conjugates), by the formula for discrete time."""
    poles = xp.exp(xp.concatenate([l, l.conj()]))
    B, C = xp.concatenate([B, B.conj()]), xp.concatenate([C, C.conj()], 1)
    d = 1 - poles[:, None] * poles.conj()[None, :]
    return (B @ B.conj().mT) / d, (C.conj().mT @ C) / d.conj()


def real_gramians(xp: Any, *leaves: Any) -> tuple[Any, Any]:
    return diagonal_gramians(system(*leaves))


def by_eigvals(xp: Any, gramians: Callable[..., Any], *leaves: Any) -> Any:
    P, Q = gramians(xp, *leaves)
    return xp.sqrt(xp.linalg.eigvals(P @ Q).real.clip(1e-30)).sum()


def by_svd(xp: Any, gramians: Callable[..., Any], *leaves: Any) -> Any:
    factors = []
    for G in gramians(xp, *leaves):
        U, s, _ = xp.linalg.svd(G)
        factors.append(U * xp.sqrt(s))
    return xp.linalg.svd(factors[1].conj().mT @ factors[0])[1].sum()


PEERS = {
    "eigvals": (by_eigvals, plain_gramians), "svd": (by_svd, plain_gramians),
    "eigvals, real": (by_eigvals, real_gramians), "svd, real": (by_svd, real_gramians),
}  # fmt: skip


def gradients(width: int, rounds: int) -> list[dict[str, Any]]:
    leaves, rows = layer(width), []
    norms: dict[str, Callable[..., Any]] = {
        p: lambda *x, p=p: balred.hankel_nuclear_norm(system(*x), precision=p) for p in PRECISIONS
    }
    on_torch, on_jax = (
        {**norms, **{name: lambda *x, f=f, G=G, xp=xp: f(xp, G, *x) for name, (f, G) in PEERS.items()}}
        for xp in (torch, jnp)
    )
    found: dict[str, Any] = {}

    def of_torch(name: str) -> None:
        x = [torch.tensor(a, requires_grad=True) for a in leaves]
        on_torch[name](*x).backward()
        found[name] = [a.grad.numpy() for a in x]

    tasks: dict[str, Task] = {name: lambda name=name: of_torch(name) for name in on_torch}
    rows.append({"framework": "torch", "width": width, "seconds": in_turn(tasks, rounds)})
    rows[-1]["difference"] = differences(found)
    with jax.enable_x64(True):
        inputs = [jnp.asarray(a) for a in leaves]
        compiled = {name: jax.jit(jax.grad(f, argnums=(0, 1, 2))) for name, f in on_jax.items()}

        def of_jax(name: str) -> None:
            found[name] = [np.conj(a) for a in jax.block_until_ready(compiled[name](*inputs))]

        rows.append({
            "framework": "jax", "width": width, "seconds": in_turn({n: lambda n=n: of_jax(n) for n in on_jax}, rounds)
        })  # fmt: skip
    rows[-1]["difference"] = differences(found)
    for row in rows:
        t = row["seconds"]
        print(row["framework"], width, f"{1e3 * t['float64']:.1f} ms",
              {k: f"{v / t['float64']:.2f}x" for k, v in t.items()}, row["difference"], flush=True)  # fmt: skip
    return rows


def differences(found: dict[str, Any]) -> dict[str, float]:
    """Distance of each gradient from ours in float64, relative in norm, the worst of the three parts."""
    mine = found["float64"]
    return {
        name: max(float(np.linalg.norm(a - b) / np.linalg.norm(b)) for a, b in zip(grads, mine, strict=True))
        for name, grads in found.items()
    }


def floor(rounds: int) -> dict[str, dict[str, float]]:
    """What the exact gradient cannot do without: one Cholesky factorisation, six products, one eigenproblem, of order 512."""
    out = {}
    for p in PRECISIONS:
        A = torch.randn(2 * STATES, 2 * STATES, dtype=getattr(torch, p))
        S = A @ A.mT
        out[p] = in_turn(
            {
                "cholesky": lambda S=S: torch.linalg.cholesky(S + S.trace() * torch.eye(len(S), dtype=S.dtype)),
                "product": lambda A=A: A @ A,
                "eigh": lambda S=S: torch.linalg.eigh(S),
            },
            rounds,
        )
    return out


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results"))
    parser.add_argument("--rounds", type=int, default=12)
    args = parser.parse_args()
    torch.set_num_threads(1)
    with threadpool_limits(1):
        least = floor(args.rounds)
        trainings = steps(args.rounds)
        made = [row for width in (8, 64) for row in gradients(width, max(2, args.rounds // 5))]
    columns = ["without", "hsv", *(f"{k} {p}" for k in ("norm", "bound") for p in PRECISIONS)]
    table = []
    for row in trainings:
        t = row["seconds"]
        cells = [f"{t[c] / t['without']:.2f}x" if c in t else "–" for c in columns[1:]]
        table.append([row["framework"], row["size"], f"{1e3 * t['without']:.0f} ms", *cells])
    names = ["sum of hsv", *(f"{k}, {p}" for k in ("norm", f"bound renewed every {RENEWED}") for p in PRECISIONS)]
    text = markdown(["framework", "step", "without", *names], table)
    table = []
    for row in made:
        mine, d = row["seconds"]["float64"], row["difference"]
        table.append([
            row["framework"], str(row["width"]), f"{1e3 * mine:.0f} ms", f"{row['seconds']['float32'] / mine:.2f}x",
            *(f"{row['seconds'][name] / mine:.1f}x ({d[name]:.0e})" for name in PEERS), f"{d['float32']:.0e}",
        ])  # fmt: skip
    header = ["gradient", "H", "balred", "in float32", *(f"through {name}" for name in PEERS)]
    text += "\n" + markdown([*header, "float32 differs by"], table)
    ours = {r["width"]: r["seconds"] for r in made if r["framework"] == "torch"}[8]
    lines = []
    for p, t in least.items():
        bare = t["cholesky"] + 6 * t["product"] + t["eigh"]
        lines.append(
            f"{p}: a Cholesky factorisation {1e3 * t['cholesky']:.1f} ms, six products {6e3 * t['product']:.1f} ms, "
            f"an eigenproblem {1e3 * t['eigh']:.1f} ms, together {1e3 * bare:.1f} ms; the gradient {1e3 * ours[p]:.1f} ms"
        )
    text += "\nThe floor of the exact gradient in PyTorch, order 512. " + ". ".join(lines) + ".\n"
    print(text)
    write(
        args.out,
        "gradient",
        {"machine": describe_machine(), "steps": trainings, "gradients": made, "floor": least},
        text,
    )


if __name__ == "__main__":
    main()
