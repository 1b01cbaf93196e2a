"""S4 layers: copied files with the layout of the state-spaces ``s4.py``, known by their structure.

The layer here is written from the description of it (arXiv 2111.00396, 2206.11893 and 2203.14343), under names of its
own and without FFTs of generating functions: kernels are sums of powers, or a recurrence.
"""

from __future__ import annotations

import copy
import dataclasses
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from s4_layers import Convolution, LowRank, Sums, U, applied, conv, nn, output  # noqa: E402

import balred  # noqa: E402
from balred.adapters.torch import InTrainingReducer  # noqa: E402
from balred.registry import layers_of  # noqa: E402
from balred.registry.entries import entry_of  # noqa: E402


class Block(nn.Module):
    """What S4 has around it."""

    def __init__(self, channels: int = 3, **kw: Any) -> None:
        super().__init__()
        self.layer = Convolution(channels, **kw)
        self.out = nn.Sequential(nn.GELU(), nn.Conv1d(channels, 2 * channels, 1), nn.GLU(dim=-2))

    def forward(self, u: Any) -> tuple[Any, None]:
        return self.out(self.layer(u)), None


CASES: dict[str, dict[str, Any]] = {
    "zoh": {},
    "bilinear": {"disc": "bilinear"},
    "two outputs": {"heads": 2},
    "two-sided": {"bidirectional": True},
    "shared": {"channels": 4, "copies": 2},
    "shared, bilinear": {"channels": 4, "copies": 1, "disc": "bilinear", "heads": 2},
    "shared, two-sided": {"channels": 4, "copies": 2, "bidirectional": True, "heads": 2},
    "dss": {"disc": "dss", "l_max": 50},
    "a step a state": {"tied": False},
    "transforms": {"transforms": ("softplus", "exp", "softplus"), "tied": False, "dt_fast": True},
    "more transforms": {"transforms": ("relu", "relu", "none"), "disc": "bilinear"},
    "band": {"bandlimit": 0.4},
    "buffers": {"lr": 0.0},
}
LOW = {
    "low rank": {},
    "low rank of two": {"rank": 2},
    "low rank, ready for a length": {"l_max": 50},
    "low rank, shared": {"channels": 4, "copies": 2},
    "low rank, shared and ready": {"channels": 4, "copies": 2, "l_max": 50},
    "low rank, two-sided": {"bidirectional": True, "heads": 2},
    "low rank, a step a state": {"tied": False},
}
EVERY = {**CASES, **{name: {"kind": LowRank, **kw} for name, kw in LOW.items()}}
case = pytest.mark.parametrize("name", EVERY)


@pytest.mark.parametrize(("double", "rounding"), [(True, 1e-9), (False, 1e-4)])
@case
def test_the_layer_is_its_systems_and_comes_back_at_full_rank(name: str, double: bool, rounding: float) -> None:
    full = conv(double, **EVERY[name])
    want = output(full)
    for _ in range(2):  # the second time after it has been used
        system, rebuild = balred.adapt(full)
        assert np.abs(applied(system, full) - want).max() < rounding * np.abs(want).max()
        assert np.abs(output(rebuild(system)) - want).max() < rounding * np.abs(want).max()
        full(torch.zeros(1, full.D.shape[1], 50, dtype=full.D.dtype))


@pytest.mark.parametrize(("double", "rounding"), [(True, 1e-8), (False, 2e-4)])
@pytest.mark.parametrize("rank", [1, 3, 6])
@case
def test_outputs_are_those_of_the_reduced_systems(name: str, rank: int, double: bool, rounding: float) -> None:
    full = conv(double, **EVERY[name])
    full(torch.zeros(1, full.D.shape[1], 20, dtype=full.D.dtype))
    before = copy.deepcopy(full.state_dict())
    small = balred.reduce(full, rank)
    assert type(small) is Convolution
    assert small.state_dict().keys() == before.keys()
    assert small.kernel.N == small.kernel.A_imag.shape[1] == small.kernel.C.shape[2] == rank
    want = applied(balred.reduce(balred.adapt(full)[0], rank), full)
    assert np.abs(output(small) - want).max() < rounding * np.abs(want).max()
    assert all(torch.equal(before[k], v) for k, v in full.state_dict().items())
    again = balred.adapt(small)[0]
    assert again.states == rank


def far_responses(small: Any, full: Any, length: int = 8192) -> Any:
    """Frequency responses of the difference of the two layers, (c, H, length), from their kernels."""
    with torch.no_grad():  # the slowest poles decay by exp(-0.005) a step, so the tail is 1e-17 at the end
        k, r = (copy.deepcopy(x).kernel(L=length)[0].numpy() for x in (full, small))
    found = np.fft.fft(k - r, axis=-1)
    if full.bidirectional:
        ahead, back = np.split(found, 2)
        found = ahead + np.exp(2j * np.pi * np.arange(length) / length) * back.conj()
    return found


@pytest.mark.parametrize("rank", [2, 5])
@pytest.mark.parametrize("name", [n for n, kw in EVERY.items() if "copies" not in kw and kw.get("kind") is not LowRank])
def test_the_kernels_own_frequency_responses_are_within_the_bound(name: str, rank: int) -> None:
    kw = EVERY[name] | ({"l_max": None} if name == "dss" else {})
    full = conv(**kw)
    row = balred.plan(full, rank).rows[0]
    assert row.bound is not None
    small = balred.reduce(full, rank)
    error = np.abs(far_responses(small, full)).max()
    assert 0 < error <= row.bound
    if not full.bidirectional and full.D.shape[0] == 1:
        assert error == pytest.approx(float(balred.error(full, small).max()), rel=1e-3)


@pytest.mark.parametrize("rank", [2, 4])
@pytest.mark.parametrize("kw", [{}, {"bidirectional": True}])
def test_low_rank_terms_gone_the_responses_are_within_the_bound(kw: Any, rank: int) -> None:
    full = conv(kind=LowRank, **kw)
    small = balred.reduce(full, rank)
    assert not small.kernel.P.any()
    bound = balred.plan(full, rank).rows[0].bound
    assert bound is not None
    assert 0 < np.abs(far_responses(small, full, 1024)).max() <= bound


@pytest.mark.parametrize("disc", ["zoh", "bilinear"])
@pytest.mark.parametrize("rank", [2, 5])
def test_what_shares_its_poles_is_reduced_jointly(rank: int, disc: str) -> None:
    full = conv(channels=4, copies=2, disc=disc)
    small = balred.reduce(full, rank)
    assert small.kernel.A_real.shape == (2, rank)
    assert small.kernel.B.shape == (1, 2, rank, 2)
    assert torch.equal(small.kernel.inv_dt, full.kernel.inv_dt)
    bound = balred.plan(full, rank).rows[0].bound
    assert bound is not None
    points = 1j * np.concatenate([[0], np.logspace(-3, 4, 2000)])

    def response(layer: Any) -> Any:  # of the continuous systems, from the tensors
        A, _, B, C = (x.detach().numpy() for x in layer.kernel.values())
        residues = C[0] * B[0]
        return np.stack([(residues / (s - A) + residues.conj() / (s - A.conj())).sum(-1) for s in points])

    error = response(full) - response(small)  # (points, channels)
    for copy_ in range(2):  # channels 0 and 2 share, and 1 and 3
        assert 0 < np.linalg.norm(error[:, copy_::2], axis=1).max() <= bound


def test_channels_alike_in_a_copy_are_alike_after_it() -> None:
    full = conv(channels=4, copies=2)
    with torch.no_grad():
        full.kernel.C[:, 2:] = full.kernel.C[:, :2]
        full.kernel.inv_dt[2:] = full.kernel.inv_dt[:2]
    small = balred.reduce(full, 3)
    with torch.no_grad():
        k = small.kernel(L=40)[0]
    torch.testing.assert_close(k[:, :2], k[:, 2:])


def test_buffers_stay_buffers_and_optimizer_hints_stay() -> None:
    small = balred.reduce(conv(lr=0.0), 4)
    assert dict(small.kernel.named_buffers()).keys() == {"inv_dt", "A_real", "A_imag", "B"}
    small = balred.reduce(conv(lr=1e-3, kind=LowRank), 4)
    assert small.kernel.A_imag._optim == small.kernel.P._optim == {"weight_decay": 0.0, "lr": 1e-3}
    assert small.kernel.C._optim == {"weight_decay": 0.0}


@pytest.mark.parametrize("kind", [Sums, LowRank])
def test_gradients_flow(kind: Any) -> None:
    small = balred.reduce(conv(kind=kind), 4)
    small(torch.tensor(U[None, :3])).square().sum().backward()
    for name, parameter in small.named_parameters():
        assert parameter.grad.shape == parameter.shape
        assert bool(parameter.grad.any()) == (name != "kernel.P")  # which stays zero, so the kernel stays diagonal
    before = balred.reduce(conv(kind=kind), 4)
    balred.hsv(before).sum().backward()
    assert all(before.kernel.get_parameter(n).grad.any() for n in ("A_real", "A_imag", "B", "C", "inv_dt"))


def test_a_checkpoint_goes_into_a_layer_made_that_small() -> None:
    small = balred.reduce(conv(kind=LowRank, l_max=50), 4)
    fresh = conv(kind=LowRank, order=8, l_max=50)
    fresh.load_state_dict(small.state_dict())
    np.testing.assert_array_equal(output(fresh), output(small))


def test_a_model_of_copied_blocks_is_walked() -> None:
    torch.manual_seed(0)
    model = nn.ModuleList([Block(), Block(kind=LowRank), Block(channels=4, copies=2)])
    assert list(layers_of(model)) == ["0.layer", "1.layer", "2.layer"]
    small = balred.reduce(model, {"0.layer": 3, "1.layer": 4, "2.layer": balred.Energy(0.9)})
    assert [block.layer.kernel.C.shape[2] for block in small[:2]] == [3, 4]
    assert small[2].layer.kernel.C.shape[2] < 8


def test_a_kernel_on_its_own() -> None:
    full = conv().kernel
    small = balred.reduce(full, 4)
    assert type(small) is Sums
    bound = balred.plan(full, 4).rows[0].bound
    assert bound is not None
    with torch.no_grad():  # a value of the kernel is at most the norm of the transfer function
        assert 0 < float((small(64)[0] - full(64)[0]).abs().max()) <= bound


@pytest.mark.alike
@pytest.mark.parametrize("kw", [{}, {"kind": LowRank}, {"channels": 4, "copies": 2}])
def test_in_training(kw: Any) -> None:
    torch.manual_seed(0)
    block = Block(order=24, **kw)
    model = nn.Sequential(block)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    reducer = InTrainingReducer(model, optimizer, balred.Energy(0.8), (0, 4), 2)
    u = torch.tensor(U[: block.layer.D.shape[1]], dtype=torch.float32)[None]
    losses = []
    for _ in range(25):
        optimizer.zero_grad()
        loss = (model(u)[0] - u.cumsum(-1) / 4).square().mean()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
        reducer.step()
    kernel = block.layer.kernel
    states = kernel.C.shape[2]
    assert states < 12
    assert kernel.N == kernel.A_imag.shape[1] == kernel.B.shape[2] == states
    for p in model.parameters():
        assert optimizer.state[p]["exp_avg"].shape == p.shape
    assert losses[-1] < losses[4]


def test_what_was_set_up_for_the_old_size_is_forgotten() -> None:
    full = conv()
    full.kernel.dA, full.kernel.dC = torch.zeros(3, 8), torch.zeros(1, 3, 8)
    small = balred.reduce(full, 4)
    assert not hasattr(small.kernel, "dA")
    assert not hasattr(small.kernel, "dC")
    assert full.kernel.dA.shape == (3, 8)


def test_as_many_states_as_it_has_leave_a_low_rank_kernel_as_it_is() -> None:
    full = conv(kind=LowRank)
    states = balred.adapt(full)[0].states  # real poles take a state each, so there may be more than the kernel's
    assert states >= full.kernel.N
    small = balred.reduce(full, states)
    assert all(torch.equal(v, full.state_dict()[k]) for k, v in small.state_dict().items())


# ------------------------------------------------------------------------------------------------- what is not S4


class Doubled(Sums):
    def forward(self, L: int, **kw: Any) -> tuple[Any, None]:
        return 2 * super().forward(L)[0], None


class Transposed(Sums):
    def forward(self, L: int, **kw: Any) -> tuple[Any, None]:
        return super().forward(L)[0].mT, None


class Wordy(Sums):
    def forward(self, L: int, mask: Any, **kw: Any) -> tuple[Any, None]:
        return super().forward(L)


@pytest.mark.parametrize(
    ("kernel", "message"),
    [
        (
            lambda: Doubled(3, 16),
            r"must compute the response of these tensors, got one that differs by 1.0e\+00 of the largest",
        ),
        (lambda: Transposed(3, 16), r"called with L=16, got shape \(1, 16, 3\)"),
        (lambda: Wordy(3, 16), r"must return its first values, \(c, H, L\), when called with L, got TypeError"),
        (lambda: Sums(3, 16, disc="foh"), "must be sampled by zoh, bilinear or dss, got 'foh'"),
        (lambda: Sums(4, 16, copies=2, tied=False), r"must have one step each .*, got inv_dt of shape \(4, 8\)"),
    ],
)
def test_a_kernel_that_is_another_one_is_refused(kernel: Any, message: str) -> None:
    torch.manual_seed(0)
    with pytest.raises(ValueError, match=message):
        balred.reduce(kernel(), 4)


def test_real_kernels_are_refused() -> None:
    kernel = Sums(3, 16)
    with torch.no_grad():
        kernel.B, kernel.C = nn.Parameter(kernel.B[..., 0]), nn.Parameter(kernel.C[..., 0])
    del kernel.A_imag
    with pytest.raises(ValueError, match=r"must have complex poles to be reduced, .* got is_real=True"):
        balred.reduce(kernel, 4)


def test_what_a_transform_cannot_hold_is_refused() -> None:
    system, rebuild = balred.adapt(conv(transforms=("sigmoid", "none", "exp")))
    faster = dataclasses.replace(system, log_poles=3 * system.log_poles)  # decays of 1.5, and a sigmoid ends at 1
    with pytest.raises(ValueError, match=r"must hold the reduced system to 5.5e-07, got .* with transforms sigmoid"):
        rebuild(faster)


@pytest.mark.parametrize("change", ["extra", "missing", "shape", "child", "transform", "alone"])
def test_what_has_other_tensors_is_not_recognised(change: str) -> None:
    kernel = LowRank(3, 16) if change == "alone" else Sums(3, 16)
    if change == "extra":
        kernel.Q = nn.Parameter(torch.randn(3, 8, 2))
    elif change == "missing":
        del kernel.inv_dt
    elif change == "shape":
        kernel.inv_dt = nn.Parameter(torch.zeros(3))
    elif change == "child":
        kernel.norm = nn.Identity()
    elif change == "transform":
        kernel.imag_transform = "tanh"
    else:
        del kernel.l_kernel
    assert entry_of(kernel) is None


def test_singular_perturbation_is_refused() -> None:
    with pytest.raises(ValueError, match="method='truncate'"):
        balred.reduce(conv(), 4, method="singular_perturbation")
