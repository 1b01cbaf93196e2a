"""The one table of layers that balred is tested on: it drives ``test_support.py``, and the support table of the docs.

``python tests/support/layers.py`` measures every row and writes ``docs/_tables/support.md``.

A new layer is one more function here, named by its row: it makes a layer of the real package (or, where people copy the
layer's file, one written from its description) and returns :func:`exact` or :func:`selected` (in PyTorch :func:`mamba`) of it.
Packages are imported inside, so that a row skips where its package is absent.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import balred
from balred.registry.entries import entry_of
from balred.selection import Moments, select
from balred.testing import simulate

PAGE = Path(__file__).parents[2] / "docs" / "_tables" / "support.md"


@dataclasses.dataclass(frozen=True)
class Errors:
    """Largest error of the outputs on random data, relative to the largest output."""

    full: float  # the layer that is returned at full rank, against the layer
    reduced: float  # the layer that is returned at half the rank, against the reduced operator


@dataclasses.dataclass(frozen=True)
class Layer:
    """A row: `kind` is E where operators are written back exactly, S where a selection of states is."""

    name: str
    package: str  # the distribution whose version is stated
    kind: str
    measure: Callable[[], Errors]
    note: str = ""  # why the reduced layer is approximate; empty where it is right to rounding

    @property
    def within(self) -> float:
        """What the error of the reduced layer stays below."""
        return 0.5 if self.note else ROUNDING

    def __str__(self) -> str:
        return self.name


LAYERS: list[Layer] = []
ROUNDING = 1e3 * float(np.finfo(np.float32).eps)  # the layers are float32


def row(name: str, package: str, kind: str = "E", note: str = "") -> Callable[[Callable[[], Errors]], None]:
    """Enter a function that measures as a row."""
    return lambda measure: LAYERS.append(Layer(name, package, kind, measure, note))


def apart(got: Any, want: Any) -> float:
    assert got.shape == want.shape
    return float(np.abs(got - want).max() / np.abs(want).max())


def exact(layer: Any, apply: Callable[..., Any], expected: Callable[..., Any] = simulate, shape: Any = None) -> Errors:
    """Errors of E: ``apply(layer, u)`` against the layer's own output and ``expected(system, u)``, u of (40, inputs) or `shape`."""
    system, _ = balred.adapt(layer)
    u = np.random.default_rng(0).standard_normal(shape or (40, system.B.shape[-1]))
    same, small = balred.reduce(layer, system.states), balred.reduce(layer, system.states // 2)
    assert type(same) is type(small) is type(layer)
    want = np.real(expected(balred.reduce(system, system.states // 2), u))
    return Errors(apart(apply(same, u), apply(layer, u)), apart(apply(small, u), want))


def selected(layer: Any, x: Any, apply: Callable[..., Any], replayed: Callable[..., Any]) -> Errors:
    """Errors of S: the operator is ``replayed(layer, x, kept)``, the layer's own scan of the kept states alone."""
    selective = entry_of(layer).selective
    states = selective.states(layer)
    same, small = (balred.reduce(layer, r, calibration=x, compensate=False) for r in (states, states // 2))
    assert type(same) is type(small) is type(layer)
    m = selective.gather(layer, {"": layer}, x)[""]
    kept = select(Moments(m.contributions, m.groups, m.B, m.C), states // 2).kept
    want = np.asarray(replayed(layer, x, kept))
    return Errors(apart(apply(same, x), apply(layer, x)), apart(apply(small, x), want))


# ------------------------------------------------------------------------------------------------ exact, PyTorch


def lru() -> Any:
    """Our torch layer in single precision."""
    torch = pytest.importorskip("torch")
    from balred.adapters.torch import LRU

    return LRU(3, 12, generator=torch.Generator().manual_seed(0))


def batched(layer: Any, u: Any) -> Any:
    """The output of a torch layer that wants a batch axis."""
    import torch

    with torch.no_grad():
        return layer(torch.tensor(u, dtype=torch.float32)[None])[0].numpy()


@row("`balred.adapters.torch.LRU`", "torch")
def torch_lru() -> Errors:
    return exact(lru(), batched)


@row("`LRU_pytorch.LRU`", "lru-pytorch")
def lru_pytorch() -> Errors:
    package, torch = pytest.importorskip("LRU_pytorch"), pytest.importorskip("torch")
    torch.manual_seed(0)
    return exact(package.LRU(3, 2, 10), batched)


@row("`s5.S5`, one way", "s5-pytorch")
def s5_one_way() -> Errors:
    from s5_pytorch_layers import layer

    return exact(layer(), batched)


@row("`s5.S5`, both ways", "s5-pytorch")
def s5_both_ways() -> Errors:
    from s5_pytorch_layers import expected, layer

    return exact(layer(bidir=True), batched, lambda system, u: expected(system, u, 3))


@row("S4D, copies of state-spaces `s4d.py`", "torch")
def s4d() -> Errors:
    from s4d_layers import channels, mixer, output, torch

    return exact(mixer(torch.float32), output, channels, shape=(3, 40))


@row("S4, copies of state-spaces `s4.py`, diagonal", "torch")
def s4() -> Errors:
    from s4_layers import applied, conv, output

    layer = conv(double=False)
    return exact(layer, output, lambda system, u: applied(system, layer, u), shape=(4, 50))


@row("S4, copies of state-spaces `s4.py`, diagonal, shared `n_ssm`", "torch")
def s4_shared() -> Errors:
    from s4_layers import applied, conv, output

    layer = conv(double=False, channels=4, copies=2)
    return exact(layer, output, lambda system, u: applied(system, layer, u), shape=(4, 50))


@row("S4, copies of state-spaces `s4.py`, low-rank terms", "torch")
def s4_low_rank() -> Errors:
    from s4_layers import LowRank, applied, conv, output

    layer = conv(double=False, kind=LowRank)
    return exact(layer, output, lambda system, u: applied(system, layer, u), shape=(4, 50))


@row("`xLSTMLayer`'s mLSTM: queries and keys", "transformers")
def mlstm() -> Errors:
    from attention_layers import apply, layer, with_best_products

    full = layer()
    same, small = balred.reduce(full, 32), balred.reduce(full, 16)
    return Errors(apart(apply(same), apply(full)), apart(apply(small), apply(with_best_products(full, 16))))


# ------------------------------------------------------------------------------------------------ exact, JAX


@row("`balred.adapters.equinox.LRU`", "equinox")
def equinox_lru() -> Errors:
    jax, eqx = pytest.importorskip("jax"), pytest.importorskip("equinox")
    from balred.adapters.equinox import LRU

    run = eqx.filter_jit(lambda layer, u: layer(u))
    return exact(LRU(2, 8, key=jax.random.key(0)), lambda layer, u: np.asarray(run(layer, np.float32(u))))


@row("LRU by minimal-LRU's names, equinox", "equinox")
def equinox_copy() -> Errors:
    from lru_copies import Equinox, output, parameters

    return exact(Equinox(**parameters(8), state_dim=8), lambda layer, u: np.asarray(output(layer, u)))


@row("LRU by minimal-LRU's names, flax nnx", "flax")
def nnx_lru() -> Errors:
    from lru_copies import Nnx, output

    return exact(Nnx(8), lambda layer, u: np.asarray(output(layer, u)))


@row("LRU as minimal-LRU writes it, flax linen", "flax")
def linen_lru() -> Errors:
    from linen_layers import apply, bound_lru

    return exact(bound_lru(), apply)


@row("S5 as its authors write it, one way, flax linen", "flax")
def linen_s5() -> Errors:
    from linen_layers import apply, bound_s5

    return exact(bound_s5(), apply)


@row("S5 as its authors write it, both ways, flax linen", "flax")
def linen_s5_both_ways() -> Errors:
    from linen_layers import apply, bound_s5, expected

    return exact(bound_s5(bidirectional=True), apply, lambda system, u: expected(system, u, 3))


@row("S5 as its authors write it, one way, equinox", "equinox")
def equinox_s5() -> Errors:
    from s5_copies import equinox_layer

    return exact(equinox_layer(), lambda layer, u: np.asarray(layer(np.float32(u))))


@row("S5 as its authors write it, one way, flax nnx", "flax")
def nnx_s5() -> Errors:
    from s5_copies import nnx_layer

    return exact(nnx_layer(), lambda layer, u: np.asarray(layer(np.float32(u))))


# ------------------------------------------------------------------------------------------------ selective


@row("LinOSS by discretax's names, damped, equinox", "equinox", "S")
def linoss() -> Errors:
    from linoss_layers import N, U, linoss

    layer = linoss("damped")
    small = balred.reduce(layer, N // 2, compensate=False)
    kept = [int(np.flatnonzero(np.asarray(layer.steps) == s)[0]) for s in np.asarray(small.steps)]
    silent = np.setdiff1d(np.arange(N), kept)
    import equinox as eqx

    want = eqx.tree_at(lambda m: m.C, layer, layer.C.at[:, silent].set(0))
    run = lambda m: np.asarray(m(np.float32(U)))  # noqa: E731
    return Errors(apart(run(balred.reduce(layer, N)), run(layer)), apart(run(small), run(want)))


def mamba(layer: Any) -> Errors:
    """Errors of a Mamba layer in PyTorch."""
    from mamba_models import replayed, torch

    width = getattr(layer, "hidden_size", None) or layer.in_proj.weight.shape[1]
    x = torch.randn(2, 24, width, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        return selected(layer, x, lambda layer, x: layer(x).numpy(), replayed)


NORMS = "norms over the states"


def transformers(name: str, note: str = "") -> None:
    """A row for the Mamba layer in the small model of this name."""

    @row(f"mixer of `{name}ForCausalLM`", "transformers", "S", note)
    def measure() -> Errors:
        from mamba_models import build

        return mamba(next(m for m in build(name).modules() if getattr(m, "A_log", None) is not None))


transformers("Mamba")
transformers("FalconMamba", NORMS)
transformers("Jamba", NORMS)
transformers("Zamba")
for _mamba2 in ("Mamba2", "Bamba", "GraniteMoeHybrid", "NemotronH", "Zamba2", "FalconH1"):
    transformers(_mamba2)


def delta_net(name: str) -> None:
    @row(f"Gated DeltaNet of `{name}ForCausalLM`", "transformers", "S", "half of the keys silent")
    def measure() -> Errors:
        from mamba_models import build, silence_keys

        return mamba(silence_keys(next(m for m in build(name).modules() if getattr(m, "A_log", None) is not None)))


for _delta in ("Qwen3Next", "Qwen3_5", "OlmoHybrid", "LaraMini"):
    delta_net(_delta)


def mambapy(name: str, note: str = "") -> None:
    @row(name, "mambapy", "S", note)
    def measure() -> Errors:
        package, torch = pytest.importorskip("mambapy.mamba"), pytest.importorskip("torch")
        torch.manual_seed(0)
        config = package.MambaConfig(d_model=16, n_layers=1, d_state=8, inner_layernorms=bool(note))
        return mamba(package.Mamba(config).layers[0].mixer)


mambapy("`mambapy.mamba.MambaBlock`")
mambapy("`mambapy.mamba.MambaBlock`, `inner_layernorms`", NORMS)


def lora(name: str, note: str = "") -> None:
    """A row for the layer in the small model of this name, whose projections have LoRA around them."""

    @row(f"LoRA on the mixer of `{name}ForCausalLM`", "peft", "S", note)
    def measure() -> Errors:
        from adapted_models import adapted

        return mamba(next(m for m in adapted(name).modules() if getattr(m, "A_log", None) is not None))


for _adapted in ("Mamba", "Mamba2"):
    lora(_adapted)


@row("`mambapy.vim.VMambaBlock`, both ways", "mambapy", "S")
def two_way() -> Errors:
    from vim_layers import mixer, noise, output, silenced

    return selected(mixer(), noise(), output, lambda layer, x, kept: output(silenced(layer, kept), x))


@row("`mamba2_jax.Mamba2Mixer`", "mamba2-jax", "S")
def mamba2_jax() -> Errors:
    from mamba2_jax_models import build, jax, mixer, replayed

    x = jax.random.normal(jax.random.key(2), (2, 13, 32))
    return selected(mixer(build(layers=1)), x, lambda layer, x: np.asarray(layer(x)[0]), replayed)


# ------------------------------------------------------------------------------------------------ the page


HEADER = ("layer", "package and version", "", "at full size", "reduced", "")


def table() -> str:
    """The table of the docs, measured now."""
    rows = [HEADER, ("---",) * len(HEADER)]
    for layer in LAYERS:
        e, tested = layer.measure(), version(layer.package).partition("+")[0]
        rows.append((
            layer.name, f"{layer.package} {tested}", layer.kind, written(e.full), written(e.reduced), layer.note,
        ))  # fmt: skip
    return "".join(f"| {' | '.join(cells)} |\n" for cells in rows)


def written(error: float) -> str:
    return f"{error:.0e}" if error else "0"


if __name__ == "__main__":
    PAGE.write_text(table(), encoding="utf-8")
