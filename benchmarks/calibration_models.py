"""The trained models of ``calibration.py``: made, trained or read back, and asked for answers, on PyTorch and JAX alike."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from benchmarks_common import train
from torch import nn

from balred.studies.data.tasks import Task
from balred.studies.models.torch_models import Classifier
from balred.studies.settings.plan import Order
from balred.studies.settings.train_config import TrainConfig
from balred.studies.training.run_torch import TorchRun

OWN_STEPS = 400
"""Of S5 and S4D, whose layers are slow on a CPU."""
OWN_STATES = (64, 64)
OWN_RATE = 4e-3
GROWING = "s5-growing"
"""S5 as well, with continuous poles whose real parts start anywhere between -0.5 and 0.5."""
_CHUNK = 64


@dataclass
class Trained:
    """A model, and what is done with it.

    Attributes
    ----------
    model : object
    steps : int
    states : sequence of int
    inputs : callable
        Rows of a task as the model reads them.
    answers : callable
        ``answers(model, x)``: log-probabilities, float64 array (n, classes) or (n, L, classes).
    step : callable
        ``step(x, y)`` trains on a batch; the weights change.
    """

    model: Any
    steps: int
    states: Sequence[int]
    inputs: Callable[[Any], Any]
    answers: Callable[[Any, Any], Any]
    step: Callable[[Any, Any], object]


def trained(name: str, config: TrainConfig, task: Task, seed: int, kept: Path) -> Trained:
    """The model called `name`, from the folder `kept` where it is there."""
    kept.mkdir(parents=True, exist_ok=True)
    order = Order(len(task.train_y) - config.validation, config.batch, seed + 1000)
    if name == "jax":
        return _jax(config, task, seed, kept / f"jax-{seed}-{config.steps}.eqx", order)
    steps = config.steps
    if name in OWN_BLOCKS:
        steps = config.steps if name == "mamba2" else min(OWN_STEPS, config.steps)
        run: Any = OwnRun(name, task, config, steps, seed)
    else:
        run = TorchRun(config, task, config.states, seed)
    path = kept / f"{name}-{seed}-{steps}.pt"
    if path.exists():
        run.model.load_state_dict(torch.load(path, weights_only=True))
    else:
        train(run.train_step, task, order, config.validation, 1, steps)
        torch.save(run.model.state_dict(), path)

    def inputs(x: Any) -> torch.Tensor:
        return torch.from_numpy(np.ascontiguousarray(task.inputs(x)))

    def answers(model: Any, x: Any) -> Any:
        with torch.no_grad():
            return torch.cat([model(part) for part in inputs(x).split(_CHUNK)]).double().log_softmax(-1).numpy()

    stored = {
        "s5": OWN_STATES,
        "mamba2": OWN_STATES,
        GROWING: OWN_STATES,
        "s4d": tuple(n // 2 for n in OWN_STATES),
    }  # S4D stores one of each conjugate pair
    # steps are timed on the run's own model; cuts are of a copy
    return Trained(
        copy.deepcopy(run.model).eval(), steps, stored.get(name, config.states), inputs, answers, run.train_step
    )


class OwnRun:
    """AdamW with warm-up and cosine decay on a classifier of S5, S4D or Mamba-2 blocks."""

    def __init__(self, name: str, task: Task, config: TrainConfig, steps: int, seed: int) -> None:
        torch.manual_seed(seed)
        width, make = config.width, OWN_BLOCKS[name]
        self.task = task
        self.model = Classifier(
            width, OWN_STATES, task.classes, seed, channels=task.channels, vocabulary=task.vocabulary,
            read="each" if task.dense else config.read, pairs=task.pairs, block=lambda states: make(width, states),
        )  # fmt: skip
        if name == GROWING:
            generator = torch.Generator().manual_seed(seed + 7)
            with torch.no_grad():
                for block in self.model.blocks:
                    real = block.s5.seq.Lambda.real
                    real[:] = torch.rand(real.shape, generator=generator) - 0.5
        self.optimizer = torch.optim.AdamW(self.model.parameters(), OWN_RATE)
        warm = max(1, steps // 10)
        self.schedule = torch.optim.lr_scheduler.LambdaLR(
            self.optimizer, lambda i: min(1.0, (i + 1) / warm) * 0.5 * (1 + math.cos(math.pi * min(1.0, i / steps)))
        )

    def train_step(self, x: Any, y: Any) -> None:
        """One step on a batch."""
        self.model.train()
        self.optimizer.zero_grad()
        logits = self.model(torch.from_numpy(self.task.inputs(x)))
        nn.functional.cross_entropy(logits.flatten(0, -2), torch.from_numpy(y).flatten()).backward()
        self.optimizer.step()
        self.schedule.step()


class S5Block(nn.Module):
    """``x + GLU(Linear(GELU(S5(LayerNorm(x)))))`` with the layer of s5-pytorch."""

    def __init__(self, width: int, states: int) -> None:
        super().__init__()
        import s5

        self.norm, self.gate = nn.LayerNorm(width), nn.Linear(width, 2 * width)
        self.s5 = s5.S5(width, state_width=states)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Sequences (batch, L, width)."""
        y: torch.Tensor = x + nn.functional.glu(self.gate(nn.functional.gelu(self.s5(self.norm(x)))), dim=-1)
        return y


class S4DKernel(nn.Module):
    """The kernel of S4D-Lin after a zero-order hold, in the layout of the authors' ``s4d.py``."""

    def __init__(self, channels: int, states: int) -> None:
        super().__init__()
        half = states // 2
        self.C = nn.Parameter(torch.randn(channels, half, 2))
        self.log_dt = nn.Parameter(torch.empty(channels).uniform_(math.log(1e-2), math.log(3e-1)))
        self.log_A_real = nn.Parameter(torch.full((channels, half), 0.5).log())
        self.A_imag = nn.Parameter(math.pi * torch.arange(half).repeat(channels, 1).float())

    def forward(self, length: int) -> torch.Tensor:
        """K (channels, length)."""
        A = torch.complex(-self.log_A_real.exp(), self.A_imag)
        dtA = A * self.log_dt.exp()[:, None]
        C = torch.view_as_complex(self.C) * (torch.exp(dtA) - 1.0) / A
        return 2 * torch.einsum("hn,hnl->hl", C, torch.exp(dtA[..., None] * torch.arange(length))).real


class S4D(nn.Module):
    """The convolution with the kernel, and the skip `D`."""

    def __init__(self, channels: int, states: int) -> None:
        super().__init__()
        self.h, self.n = channels, states
        self.D = nn.Parameter(torch.randn(channels))
        self.kernel = S4DKernel(channels, states)
        self.activation, self.dropout = nn.GELU(), nn.Identity()
        self.output_linear = nn.Sequential(nn.Conv1d(channels, 2 * channels, 1), nn.GLU(dim=-2))

    def forward(self, u: torch.Tensor) -> tuple[torch.Tensor, None]:
        """Sequences (batch, channels, L)."""
        length = u.shape[-1]
        K = torch.fft.rfft(self.kernel(length), n=2 * length)
        y = torch.fft.irfft(torch.fft.rfft(u, n=2 * length) * K, n=2 * length)[..., :length] + self.D[:, None] * u
        return self.output_linear(self.activation(y)), None


class S4DBlock(nn.Module):
    """``x + S4D(LayerNorm(x))``."""

    def __init__(self, width: int, states: int) -> None:
        super().__init__()
        self.norm, self.s4d = nn.LayerNorm(width), S4D(width, states)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Sequences (batch, L, width)."""
        y, _ = self.s4d(self.norm(x).transpose(-1, -2))
        out: torch.Tensor = x + y.transpose(-1, -2)
        return out


class Mamba2Block(nn.Module):
    """``x + Mamba2(LayerNorm(x))`` with the mixer of transformers, in heads of 16."""

    def __init__(self, width: int, states: int) -> None:
        super().__init__()
        from transformers import Mamba2Config
        from transformers.models.mamba2.modeling_mamba2 import Mamba2Mixer

        head = 16
        self.norm = nn.LayerNorm(width)
        self.mixer = Mamba2Mixer(
            Mamba2Config(hidden_size=width, state_size=states, head_dim=head, num_heads=2 * width // head, n_groups=1,
                         chunk_size=64), layer_idx=0,
        )  # fmt: skip

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Sequences (batch, L, width)."""
        return x + self.mixer(self.norm(x))  # type: ignore[no-any-return]


OWN_BLOCKS: dict[str, Callable[[int, int], nn.Module]] = {
    "s5": S5Block, GROWING: S5Block, "s4d": S4DBlock, "mamba2": Mamba2Block,
}  # fmt: skip


def _jax(config: TrainConfig, task: Task, seed: int, path: Path, order: Order) -> Trained:
    import equinox as eqx
    import jax

    from balred.studies.settings.records import DemoConfig
    from balred.studies.training.train_jax import JaxTrainer

    run = JaxTrainer(DemoConfig(steps=config.steps), config.states, seed, truncate=False)

    def inputs(x: Any) -> Any:
        return np.ascontiguousarray(task.inputs(x)[..., 0])

    def step(x: Any, y: Any) -> None:
        run.train_step(inputs(x), y)
        run.loss()

    if path.exists():
        run.model = eqx.tree_deserialise_leaves(path, run.model)
    else:
        train(step, task, order, config.validation, 1, config.steps)
        eqx.tree_serialise_leaves(path, run.model)
    forward = eqx.filter_jit(lambda model, x: model(x))

    def answers(model: Any, x: Any) -> Any:
        parts = np.array_split(inputs(x), max(1, len(x) // _CHUNK))
        logits = np.concatenate([np.asarray(forward(model, part), dtype=np.float64) for part in parts])
        top = logits.max(-1, keepdims=True)
        return logits - top - np.log(np.exp(logits - top).sum(-1, keepdims=True))

    model = jax.tree.map(
        lambda leaf: leaf.copy() if eqx.is_array(leaf) else leaf, run.model
    )  # steps donate the run's own
    return Trained(model, config.steps, config.states, inputs, answers, step)
