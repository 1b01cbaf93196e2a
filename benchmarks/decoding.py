"""Decoding one token after another, full against cut: tokens a second and bytes of state, where states cost most surely.

    python benchmarks/decoding.py [--tiny] [--out benchmarks/results]

LRU and S5 are stacks of layers with weights as they are initialised, Mamba and Mamba-2 those of transformers, whose cache is
what decoding carries on.  The weights are random: what is measured is speed, not what a cut loses.  Full and cut models
take turns, one thread, best time of a step.  The second table is the share of the states in the whole cache of models that
also attend, at the sizes their configurations have by default; their tensors have shapes only and take no memory.
``--tiny`` tries the script itself.
"""

from __future__ import annotations

import argparse
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import s5
import torch
import transformers
from benchmarks_common import describe_machine, markdown, write

import balred
from balred.adapters.torch import LRU

BATCHES = (1, 64)
SHARES = (2, 4)
"""A cut model has this part of the states."""
CONTEXTS = (4096, 32768)

Step = Callable[[], Any]


def tensors(value: Any) -> Iterator[tuple[str, torch.Tensor]]:
    """All tensors of a cache, each once, with the name of the attribute that holds it."""
    left, seen = [("", value)], set()
    while left:
        name, x = left.pop()
        if id(x) in seen:
            continue
        seen.add(id(x))
        if isinstance(x, torch.Tensor):
            yield name, x
        elif isinstance(x, (list, tuple)):
            left += [(name, y) for y in x]
        elif isinstance(x, dict):
            left += [(name, y) for y in x.values()]
        elif hasattr(x, "__dict__") and not isinstance(x, type):
            left += list(vars(x).items())


def size_of(value: Any) -> int:
    return sum(x.numel() * x.element_size() for _, x in tensors(value))


class Stack(torch.nn.Module):
    """Layers with a residual around each, run a position at a time."""

    def __init__(self, layers: list[torch.nn.Module]) -> None:
        super().__init__()
        self.layers = torch.nn.ModuleList(layers)


def lru_step(layer: Any, x: torch.Tensor, u: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    poles = torch.exp(torch.complex(-torch.exp(layer.nu_log), torch.exp(layer.theta_log)))
    gain = torch.exp(layer.gamma_log)[:, None]
    x = poles * x + torch.complex(u @ (gain * layer.B_re).T, u @ (gain * layer.B_im).T)
    return x, x.real @ layer.C_re.T - x.imag @ layer.C_im.T + layer.D * u


def of_lru(features: int, states: int, batch: int, share: int | None) -> tuple[Step, int]:
    torch.manual_seed(0)
    model = Stack([LRU(features, states, r_min=0.9, r_max=0.999) for _ in range(4)])
    if share is not None:
        model = balred.reduce(model, balred.Order(states // share))
    carried = [torch.zeros(batch, layer.nu_log.shape[0], dtype=torch.complex64) for layer in model.layers]
    u = torch.randn(batch, features)

    def step() -> None:
        v = u
        for i, layer in enumerate(model.layers):
            carried[i], y = lru_step(layer, carried[i], v)
            v = v + y

    return step, size_of(carried)


def of_s5(features: int, states: int, batch: int, share: int | None) -> tuple[Step, int]:
    torch.manual_seed(0)
    model = Stack([s5.S5(features, states) for _ in range(4)])
    if share is not None:
        model = balred.reduce(model, balred.Order(states // share))
    carried = [torch.zeros(batch, layer.seq.Lambda.shape[0], dtype=torch.complex64) for layer in model.layers]
    u = torch.randn(batch, 1, features)

    def step() -> None:
        v = u
        for i, layer in enumerate(model.layers):
            y, carried[i] = layer(v, state=carried[i], return_state=True)
            v = v + y

    return step, size_of(carried)


def of_transformers(kind: str, features: int, states: int, batch: int, share: int | None) -> tuple[Step, int]:
    torch.manual_seed(0)
    more = {"num_heads": features // 32, "head_dim": 64, "n_groups": 1} if kind == "Mamba2" else {}
    config = getattr(transformers, f"{kind}Config")(
        hidden_size=features, state_size=states, num_hidden_layers=4, vocab_size=256, **more
    )
    model = getattr(transformers, f"{kind}ForCausalLM")(config).eval()
    if share is not None:
        tokens = torch.randint(0, 256, (8, 64))
        model = balred.reduce(model, states // share, calibration={"input_ids": tokens})
    tokens = torch.randint(0, 256, (batch, 8))
    cache = model(tokens, use_cache=True).cache_params
    states_only = sum(x.numel() * x.element_size() for name, x in tensors(cache) if "conv" not in name)
    return lambda: model(tokens[:, :1], cache_params=cache, use_cache=True), states_only


def decoded(tiny: bool) -> tuple[list[dict[str, Any]], list[list[str]]]:
    features, steps = (32, 2) if tiny else (256, 40)
    models: dict[str, tuple[Callable[..., tuple[Step, int]], int]] = {
        "LRU": (of_lru, 32 if tiny else 256),
        "S5": (of_s5, 32 if tiny else 256),
        "Mamba": (lambda *a: of_transformers("Mamba", *a), 16),
        "Mamba-2": (lambda *a: of_transformers("Mamba2", *a), 16 if tiny else 128),
    }
    rows, table = [], []
    for name, (make, states) in models.items():
        for batch in BATCHES:
            sizes = [states, *(states // share for share in SHARES)]
            made = [make(features, states, batch, share) for share in (None, *SHARES)]
            best = [float("inf")] * len(made)
            for _ in range(steps):
                for i, (step, _) in enumerate(made):
                    began = time.perf_counter()
                    step()
                    best[i] = min(best[i], time.perf_counter() - began)
            for size, seconds, (_, held) in zip(sizes, best, made, strict=True):
                rows.append({"model": name, "batch": batch, "states": size, "seconds": seconds, "bytes": held})
                table.append([
                    name, str(batch), str(size), f"{batch / seconds:.0f}", f"{best[0] / seconds:.2f}", f"{held / 1024:.0f} kB",
                    f"{made[0][1] / held:.2f}",
                ])  # fmt: skip
                print(table[-1], flush=True)
    return rows, table


def shares(tiny: bool) -> tuple[list[dict[str, Any]], list[list[str]]]:
    """Of hybrid models on the ``meta`` device, whose caches have shapes and no memory."""
    rows, table = [], []
    for name, field in (("FalconH1", "mamba_d_state"), ("Zamba2", "mamba_d_state")):
        for context in (256,) if tiny else CONTEXTS:
            held = {}
            for share in (1, 4):
                config = getattr(transformers, f"{name}Config")()
                setattr(config, field, getattr(config, field) // share)
                with torch.device("meta"):
                    model = getattr(transformers, f"{name}ForCausalLM")(config).eval()
                    cache = model(torch.zeros(1, context, dtype=torch.long), use_cache=True).past_key_values
                sums = {"states": 0, "rest": 0}
                for attribute, x in tensors(cache):
                    sums["states" if attribute == "recurrent_states" else "rest"] += x.numel() * x.element_size()
                held[share] = sums
            whole = sum(held[1].values())
            rows.append({"model": name, "context": context, "bytes": held})
            table.append([
                name, str(getattr(transformers, f"{name}Config")().__dict__[field]), str(context), f"{whole / 2**20:.0f} MB",
                f"{100 * held[1]['states'] / whole:.0f} %", f"{100 * (1 - sum(held[4].values()) / whole):.0f} %",
            ])  # fmt: skip
            print(table[-1], flush=True)
    return rows, table


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tiny", action="store_true")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results"))
    args = parser.parse_args()
    torch.set_num_threads(1)
    transformers.logging.set_verbosity_error()
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that kernels for CUDA are missing
        rows, table = decoded(args.tiny)
        hybrid, second = shares(args.tiny)
    text = markdown(["model", "batch", "states", "tokens a second", "faster", "bytes of state", "smaller"], table)
    text += "\n" + markdown(
        ["model", "states", "context", "whole cache, float32", "of it states", "saved by a quarter of the states"],
        second,
    )
    print(text)
    if not args.tiny:
        write(args.out, "decoding", {"machine": describe_machine(), "rows": rows, "hybrid": hybrid}, text)


if __name__ == "__main__":
    main()
