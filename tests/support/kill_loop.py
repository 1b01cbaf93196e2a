"""A plain training loop that saves after every third step and kills itself (kill -9) where it is told: for test_kill.py.

``python kill_loop.py FOLDER [PLACE STEP]``, the place being "step", "cut", "restore" or "save".
"""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path
from typing import Any

import torch

import balred
from balred.adapters.torch import LRU, InTrainingReducer
from balred.adapters.torch.training import reducer, snapshot
from balred.intraining import Guard

STEPS = 20


class Net(torch.nn.Module):
    """Two LRU layers, buffers that change with every batch, and a layer that draws from the generator."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = LRU(2, 16), LRU(2, 16)
        self.norm, self.drop, self.head = torch.nn.BatchNorm1d(2), torch.nn.Dropout(0.1), torch.nn.Linear(2, 2)

    def forward(self, u: torch.Tensor) -> Any:
        h = self.norm(self.first(u).mT).mT
        return self.head(self.drop(torch.tanh(self.second(h))))


def die_in(place: str, step: int) -> None:
    """Make the reducer kill this process in the middle of a cut or of a rollback."""

    # in a cut a layer is small already, but not its optimizer state, and the other layer is large
    found: Any = {"cut": (reducer, "forget"), "restore": (snapshot, "set_random_states")}.get(place)
    if found is None:
        return
    module, name = found
    real = getattr(module, name)

    def dying(*args: Any) -> Any:
        if now[0] == step:
            os.kill(os.getpid(), signal.SIGKILL)
        return real(*args)

    setattr(module, name, dying)


now = [0]


def main(folder: Path, place: str = "", at: int = 0) -> None:
    die_in(place, at)
    torch.manual_seed(0)
    net = Net()
    optimizer = torch.optim.AdamW(net.parameters(), lr=1e-2)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, STEPS)
    fell = Guard(lambda m: -float(len(m.first.nu_log) < 4), tolerance=0.5, delay=1)  # the third cut goes too far
    cutting = InTrainingReducer(
        net, optimizer, balred.Energy(0.9), (0, 12), 3, guard=fell, restore=[schedule], log=folder / "cuts.jsonl"
    )
    parts = {"reducer": cutting, "net": net, "optimizer": optimizer, "schedule": schedule}  # the reducer first
    file, done = folder / "checkpoint.pt", 0
    if file.exists():
        saved = torch.load(file, weights_only=True)
        for name, part in parts.items():
            part.load_state_dict(saved[name])
        torch.set_rng_state(saved["random"])
        done = saved["done"]
    for step in range(done + 1, STEPS + 1):
        now[0] = step
        u = torch.randn(4, 12, 2, generator=torch.Generator().manual_seed(step))
        loss = (net(u) - u.roll(2, dims=1)).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        cutting.step()
        if (place, at) == ("step", step):
            os.kill(os.getpid(), signal.SIGKILL)
        if step % 3 == 0 or step == STEPS:
            state = {name: part.state_dict() for name, part in parts.items()}
            part_file = file.with_suffix(".part")
            torch.save(state | {"random": torch.get_rng_state(), "done": step}, part_file)
            if (place, at) == ("save", step):
                os.truncate(part_file, part_file.stat().st_size // 2)
                os.kill(os.getpid(), signal.SIGKILL)
            part_file.replace(file)


if __name__ == "__main__":
    main(Path(sys.argv[1]), *sys.argv[2:3], *map(int, sys.argv[3:4]))
