"""S4D layers: copied files with the layout of the state-spaces ``s4d.py``, known by their structure.

The layer here is written from the description of it (arXiv 2206.11893, section 3 and listing 1), under names of its own.
"""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from s4d_layers import DiagonalConvolution, Mixer, channels, mixer, nn, output  # noqa: E402

import balred  # noqa: E402
from balred.adapters.torch import InTrainingReducer  # noqa: E402
from balred.registry import layers_of  # noqa: E402
from balred.registry.entries import entry_of  # noqa: E402

U = np.random.default_rng(0).standard_normal((3, 40))


@pytest.mark.parametrize(("dtype", "rounding"), [(torch.float64, 1e-11), (torch.float32, 1e-4)])
@pytest.mark.parametrize("lr", [None, 1e-3, 0.0])
def test_the_layer_is_its_systems_and_comes_back_at_full_rank(dtype: Any, rounding: float, lr: float | None) -> None:
    full = mixer(dtype, lr=lr)
    system, rebuild = balred.adapt(full)
    assert system.B.shape == (3, 8, 1)
    want = output(full, U)
    assert np.abs(channels(system, U) - want).max() < rounding * np.abs(want).max()
    assert np.abs(output(rebuild(system), U) - want).max() < rounding * np.abs(want).max()


@pytest.mark.parametrize(("dtype", "rounding"), [(torch.float64, 1e-11), (torch.float32, 1e-4)])
@pytest.mark.parametrize("rank", [1, 3, 6])
def test_outputs_are_those_of_the_reduced_systems(rank: int, dtype: Any, rounding: float) -> None:
    full = mixer(dtype)
    before = copy.deepcopy(full.state_dict())
    small = balred.reduce(full, rank)
    assert type(small) is Mixer
    shapes = {n: tuple(p.shape) for n, p in small.kernel.named_parameters()}
    assert shapes == {"C": (3, rank, 2), "log_dt": (3,), "log_A_real": (3, rank), "A_imag": (3, rank)}
    assert small.n == 2 * rank
    want = channels(balred.reduce(balred.adapt(full)[0], rank), U)
    assert np.abs(output(small, U) - want).max() < rounding * np.abs(want).max()
    assert all(torch.equal(before[k], v) for k, v in full.state_dict().items())
    assert torch.equal(small.kernel.log_dt, full.kernel.log_dt)


@pytest.mark.parametrize("rank", [2, 4, 6])
def test_the_kernels_own_frequency_response_is_within_the_bound(rank: int) -> None:
    full = mixer()
    row = balred.plan(full, rank).rows[0]
    small = balred.reduce(full, rank)
    with torch.no_grad():  # the slowest pole decays by exp(-0.005) a step, so the tail is 1e-17 at the end
        error = np.fft.fft((full.kernel(8192) - small.kernel(8192)).numpy(), axis=1)
    assert row.bound is not None
    assert 0 < np.abs(error).max() <= row.bound
    assert np.abs(error).max() == pytest.approx(float(balred.error(full, small).max()), rel=1e-3)


def test_buffers_stay_buffers_and_optimizer_hints_stay() -> None:
    small = balred.reduce(mixer(lr=0.0), 4)
    assert dict(small.kernel.named_buffers()).keys() == {"log_dt", "log_A_real", "A_imag"}
    assert small.kernel.A_imag.shape == (3, 4)
    small = balred.reduce(mixer(lr=1e-3), 4)
    assert small.kernel.A_imag._optim == {"weight_decay": 0.0, "lr": 1e-3}


def test_a_model_of_copied_layers_is_walked() -> None:
    model = nn.ModuleDict({"enc": nn.Linear(3, 3), "layers": nn.ModuleList([mixer(), mixer(d_state=8)])})
    assert list(layers_of(model)) == ["layers.0", "layers.1"]
    small = balred.reduce(model, {"layers.0": 3, "layers.1": balred.Energy(0.9)})
    assert small["layers"][0].kernel.C.shape == (3, 3, 2)
    assert small["layers"][1].kernel.C.shape[1] < 4


def test_a_kernel_on_its_own() -> None:
    full = mixer().kernel
    small = balred.reduce(full, 4)
    assert type(small) is DiagonalConvolution
    bound = balred.plan(full, 4).rows[0].bound
    assert bound is not None
    with torch.no_grad():  # a value of the kernel is at most the norm of the transfer function
        assert float((small(64) - full(64)).abs().max()) <= bound


@pytest.mark.parametrize("lr", [None, 0.0])
def test_in_training(lr: float | None) -> None:
    model = nn.Sequential(mixer(torch.float32, lr=lr))
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    reducer = InTrainingReducer(model, optimizer, balred.Energy(0.95), (0, 4), 2)
    u = torch.tensor(U, dtype=torch.float32)[None]
    losses = []
    for _ in range(25):
        optimizer.zero_grad()
        loss = (model(u)[0] - u.cumsum(-1) / 4).square().mean()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
        reducer.step()
    states = model[0].kernel.C.shape[1]
    assert states < 8
    assert model[0].kernel.A_imag.shape == (3, states)
    assert model[0].n == 2 * states
    for p in model.parameters():
        assert optimizer.state[p]["exp_avg"].shape == p.shape
    assert losses[-1] < losses[4]


# ------------------------------------------------------------------------------------------------ what is not S4D


class Bilinear(DiagonalConvolution):
    """The same tensors, sampled in another way."""

    def forward(self, length: int) -> Any:
        A = torch.complex(-self.log_A_real.exp(), self.A_imag)
        dt = self.log_dt.exp()[:, None]
        pole = (1 + A * dt / 2) / (1 - A * dt / 2)
        C = torch.view_as_complex(self.C) * dt / (1 - A * dt / 2)
        return 2 * torch.einsum("hn,hnl->hl", C, pole[..., None] ** torch.arange(length)).real


class Transposed(DiagonalConvolution):
    def forward(self, length: int) -> Any:
        return super().forward(length).T


class Wordy(DiagonalConvolution):
    def forward(self, length: int, rate: float) -> Any:
        return super().forward(length)


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        (Bilinear, r"must compute 2 Re\(C .* largest value"),
        (Transposed, r"must have shape \(3, 16\), got \(16, 3\)"),
        (Wordy, "must return its 16 first values when called with 16, got TypeError"),
    ],
)
def test_a_kernel_that_is_another_one_is_refused(kind: Any, message: str) -> None:
    torch.manual_seed(0)
    with pytest.raises(ValueError, match=message):
        balred.reduce(kind(3, 16), 4)


@pytest.mark.parametrize("change", ["extra", "missing", "shape", "child"])
def test_what_has_other_tensors_is_not_recognised(change: str) -> None:
    kernel = mixer().kernel
    if change == "extra":
        kernel.B = nn.Parameter(torch.randn(3, 8, 2))
    elif change == "missing":
        del kernel.log_dt
    elif change == "shape":
        kernel.log_dt = nn.Parameter(torch.zeros(3, 8))
    else:
        kernel.norm = nn.Identity()
    assert entry_of(kernel) is None


def test_a_class_that_is_registered_comes_before_its_structure() -> None:
    class Own(DiagonalConvolution):
        pass

    balred.register(Own, lambda kernel: (balred.testing.random_system(5), lambda system: kernel))
    assert balred.hsv(Own(3, 16)).shape == (5,)


def test_singular_perturbation_is_refused() -> None:
    with pytest.raises(ValueError, match="method='truncate'"):
        balred.reduce(mixer(), 4, method="singular_perturbation")
