"""The plain PyTorch reducer under Accelerate: what it prepares, accumulates, saves and loads."""

from __future__ import annotations

from typing import Any

import pytest

import balred
from balred.intraining import Guard

accelerate = pytest.importorskip("accelerate")
import torch  # noqa: E402

from balred.adapters.torch import LRU, InTrainingReducer  # noqa: E402

RULE = balred.Energy(0.9)
STEPS = 12


class Net(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        g = torch.Generator().manual_seed(0)
        self.first, self.second = LRU(2, 16, generator=g), LRU(2, 16, generator=g)

    def forward(self, u: Any) -> Any:
        return self.second(torch.tanh(self.first(u)))


def ranks(model: Any) -> list[int]:
    return [len(model.first.nu_log), len(model.second.nu_log)]


def batch(step: int) -> Any:
    return torch.randn(4, 12, 2, generator=torch.Generator().manual_seed(step))


def loss_of(model: Any, u: Any) -> Any:
    return (model(u).float() - u.roll(2, dims=1)).square().mean()


def prepared(guarded: bool = False, **kw: Any) -> tuple[Any, ...]:
    """Everything as a script of Accelerate's has it; the reducer gets what ``prepare`` returned."""
    accelerate.state.AcceleratorState._reset_state(reset_partial_state=True)
    accelerator = accelerate.Accelerator(cpu=True, **kw)
    net = Net()
    optimizer = torch.optim.AdamW(net.parameters(), lr=1e-2)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, STEPS)
    model, optimizer, schedule = accelerator.prepare(net, optimizer, schedule)
    guard = Guard(lambda m: -float(len(m.first.nu_log) < 16), tolerance=0.5, delay=3) if guarded else None
    reducer = InTrainingReducer(model, optimizer, RULE, (0, 8), 2, guard=guard, restore=[schedule])
    accelerator.register_for_checkpointing(reducer)
    return accelerator, model, optimizer, schedule, reducer


def train(steps: range, parts: int, made: tuple[Any, ...]) -> list[float]:
    accelerator, model, optimizer, schedule, reducer = made
    losses = []
    for step in steps:
        for part in range(parts):
            with accelerator.accumulate(model):
                loss = loss_of(model, batch(step * parts + part))
                accelerator.backward(loss)
                optimizer.step()
                schedule.step()
                optimizer.zero_grad()
                losses.append(loss.item())
            if accelerator.sync_gradients:
                reducer.step()
    return losses


@pytest.mark.full
@pytest.mark.parametrize("parts", [1, 3])
def test_a_prepared_loop_is_the_plain_loop(parts: int) -> None:
    """`parts` batches are accumulated to a step."""
    plain, want = Net(), []
    optimizer = torch.optim.AdamW(plain.parameters(), lr=1e-2)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, STEPS)
    reducer = InTrainingReducer(plain, optimizer, RULE, (0, 8), 2)
    for step in range(STEPS):
        for part in range(parts):
            loss = loss_of(plain, batch(step * parts + part))
            (loss / parts).backward()
            want.append(loss.item())
        optimizer.step()
        optimizer.zero_grad()
        schedule.step()
        reducer.step()

    made = prepared(gradient_accumulation_steps=parts)
    assert train(range(STEPS), parts, made) == want
    assert ranks(made[1]) == ranks(plain) != [16, 16]
    assert isinstance(made[4].optimizer, torch.optim.AdamW)  # not what Accelerate wraps it in
    assert [r.cuts for r in made[4].reports] == [r.cuts for r in reducer.reports]
    assert all(torch.equal(a, b) for a, b in zip(made[1].parameters(), plain.parameters(), strict=True))


@pytest.mark.parametrize("safe", [False, True])
@pytest.mark.parametrize("guarded", [False, True])
def test_a_saved_state_of_smaller_shapes_is_loaded(guarded: bool, safe: bool, tmp_path: Any) -> None:
    """Saved after step 5, a cut at step 4; with a guard, before that cut was judged, which takes it back."""
    first = prepared(guarded)
    train(range(5), 1, first)
    first[0].save_state(tmp_path, safe_serialization=safe)
    want = train(range(5, STEPS), 1, first)
    second = prepared(guarded)
    second[0].load_state(tmp_path)
    assert ranks(second[1]) != [16, 16]
    assert train(range(5, STEPS), 1, second) == want
    assert ranks(second[1]) == ranks(first[1])
    assert (ranks(second[1]) == [16, 16]) == guarded
    assert all(torch.equal(a, b) for a, b in zip(first[1].parameters(), second[1].parameters(), strict=True))


def test_mixed_precision() -> None:
    """The prepared model's forward is wrapped in autocast; the cut is in float32."""
    made = prepared(mixed_precision="bf16")
    losses = train(range(3 * STEPS), 1, made)
    assert ranks(made[0].unwrap_model(made[1])) != [16, 16]
    assert all(p.dtype == torch.float32 for p in made[1].parameters())
    assert sum(losses[-6:]) < sum(losses[:6])


@pytest.mark.gpu
def test_a_scaler_on_a_device() -> None:
    accelerate.state.AcceleratorState._reset_state(reset_partial_state=True)
    accelerator = accelerate.Accelerator(mixed_precision="fp16")
    net = Net()
    model, optimizer = accelerator.prepare(net, torch.optim.AdamW(net.parameters(), lr=1e-2))
    reducer = InTrainingReducer(model, optimizer, RULE, (0, 8), 2, restore=[accelerator.scaler])
    for step in range(STEPS):
        accelerator.backward(loss_of(model, batch(step).cuda()))
        optimizer.step()
        optimizer.zero_grad()
        reducer.step()
    assert ranks(net) != [16, 16]
    assert all(bool(torch.isfinite(p).all()) for p in net.parameters())
