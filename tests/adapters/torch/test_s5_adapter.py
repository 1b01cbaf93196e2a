"""The layers of s5-pytorch, as their package ships them."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
s5 = pytest.importorskip("s5")

from s5_pytorch_layers import expected, layer  # noqa: E402

import balred  # noqa: E402
from balred.adapters.torch import InTrainingReducer  # noqa: E402
from balred.testing import check_adapter, simulate  # noqa: E402

BOTH = pytest.mark.parametrize("bidir", [False, True], ids=["one way", "both ways"])


def apply(full: Any, u: Any) -> Any:
    with torch.no_grad():
        return full(torch.tensor(u, dtype=torch.float32)[None])[0].numpy()


def response(full: Any, width: int, length: int = 512) -> Any:
    """Transfer matrices of the layer at the unit circle, from what it does to impulses in the middle of a sequence."""
    at = length // 2
    u = np.zeros((width, length, width))
    u[np.arange(width), at, np.arange(width)] = 1
    with torch.no_grad():
        y = full(torch.tensor(u, dtype=torch.float32)).numpy().astype(float)
    return np.fft.fft(y, axis=1).transpose(1, 2, 0)


def test_check_adapter() -> None:
    check_adapter(layer(), apply)
    check_adapter(layer().seq)
    check_adapter(layer(states=12, block_count=3), apply)


@BOTH
def test_at_full_rank_the_outputs_are_the_layers(bidir: bool) -> None:
    full = layer(bidir=bidir)
    system, rebuild = balred.adapt(full)
    u = np.random.default_rng(1).standard_normal((60, 3))
    want = apply(full, u)
    # float32, a hundred times its rounding
    assert np.abs(expected(system, u, 3) - want).max() < 1e-5 * np.abs(want).max()
    assert np.abs(apply(rebuild(system), u) - want).max() < 1e-5 * np.abs(want).max()


@BOTH
@pytest.mark.parametrize("rank", [1, 4, 7])
def test_outputs_are_those_of_the_reduced_system(bidir: bool, rank: int) -> None:
    full = layer(bidir=bidir)
    before = copy.deepcopy(full.state_dict())
    small = balred.reduce(full, rank)
    assert type(small) is s5.S5
    assert {n: tuple(p.shape) for n, p in small.named_parameters()} == {
        "seq.Lambda": (rank,), "seq.B": (rank, 3, 2), "seq.C": (3, rank * (2 if bidir else 1)), "seq.D": (3,),
        "seq.log_step": (rank,),
    }  # fmt: skip
    assert {p.dtype for p in (small.seq.Lambda, small.seq.C)} == {torch.complex64}
    u = np.random.default_rng(1).standard_normal((60, 3))
    want = expected(balred.reduce(balred.adapt(full)[0], rank), u, 3)
    assert np.abs(apply(small, u) - want).max() < 1e-5 * np.abs(want).max()
    assert all(torch.equal(before[k], v) for k, v in full.state_dict().items())


@BOTH
@pytest.mark.parametrize("rank", [2, 5, 8])
def test_the_layers_own_frequency_response_is_within_the_bound(bidir: bool, rank: int) -> None:
    full = layer(bidir=bidir)
    row = balred.plan(full, rank).rows[0]
    small = balred.reduce(full, rank)
    worst = np.linalg.norm(response(full, 3) - response(small, 3), ord=2, axis=(1, 2)).max()
    assert row.bound is not None
    assert 0 < worst <= row.bound
    assert float(balred.error(full, small)) <= row.bound * (1 + 1e-4)
    assert worst <= float(balred.error(full, small)) * (1 + 1e-4)


def test_slow_poles_keep_their_input_gain_in_single_precision() -> None:
    """exp(x) - 1 at x = -1e-5 has two digits in float32; the layer is written with the gain that it will compute."""
    full = layer(states=6)
    with torch.no_grad():
        full.seq.Lambda.copy_(torch.linspace(-1e-5, -2e-4, 6) * (1 + 0.3j) / torch.exp(full.seq.log_step))
        full.seq.D.zero_()
    small = balred.reduce(full, 4)
    impulse = np.zeros((1, 3))
    impulse[0, 0] = 1  # the first output is Re(C g B u): the poles have no part in it
    want = simulate(balred.reduce(balred.adapt(full)[0], 4), impulse)
    assert np.abs(apply(small, impulse) - want).max() < 1e-5 * np.abs(want).max()


def test_stepping_and_streaming_run_after_a_cut() -> None:
    small = balred.reduce(layer(), 4)
    u = torch.randn(1, 30, 3, generator=torch.Generator().manual_seed(1))
    whole = small(u)[0]
    x, steps = torch.zeros(4, dtype=torch.complex64), []
    for k in u[0]:
        y, x = small.seq.forward_rnn(k, x)
        steps.append(y)
    torch.testing.assert_close(torch.stack(steps), whole, rtol=1e-4, atol=1e-5)


def test_a_bilinear_layer_is_written_back_as_such() -> None:
    from s5.s5_model import S5SSM

    torch.manual_seed(1)
    one = torch.eye(8, dtype=torch.complex64)
    poles = torch.complex(-torch.rand(8) - 0.2, 8 * torch.randn(8))
    full = S5SSM(poles, one, one, 3, 8, 0.02, 0.2, discretization="bilinear", bcInit="dense")
    check_adapter(full)
    assert balred.reduce(full, 3).discretize is full.discretize


@pytest.mark.alike
@pytest.mark.parametrize("moments", ["reset", "carry"])
@BOTH
def test_in_training(bidir: bool, moments: str) -> None:
    model = s5.S5Block(4, 12, bidir)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    reducer = InTrainingReducer(model, optimizer, balred.Energy(0.9), (0, 4), 2, moments=moments)
    u = torch.randn(2, 16, 4, generator=torch.Generator().manual_seed(1))
    losses, cuts = [], 0
    for _ in range(30):
        optimizer.zero_grad()
        loss = (model(u) - u.cumsum(1) / 4).square().mean()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
        report = reducer.step()
        cuts += len(report.cuts) if report else 0
    states = model.s5.seq.Lambda.shape[0]
    assert cuts
    assert states < 12
    assert model.s5.seq.C.shape == (4, states * (2 if bidir else 1))
    for p in model.parameters():
        for key in ("exp_avg", "exp_avg_sq"):
            assert optimizer.state[p][key].shape == p.shape
    assert losses[-1] < losses[4]


def test_what_is_not_time_invariant_or_not_of_degree_one_is_refused() -> None:
    with pytest.raises(ValueError, match="must be time-invariant, got a liquid one"):
        balred.adapt(layer(liquid=True))
    with pytest.raises(ValueError, match="must have degree 1, got 2"):
        balred.adapt(layer(degree=2))


def test_singular_perturbation_is_refused() -> None:
    with pytest.raises(ValueError, match="method='truncate'"):
        balred.reduce(layer(), 4, method="singular_perturbation")


@pytest.mark.parametrize("size", [1e-3, 1e-6, 1e-8, 1e-12])
def test_however_slow_poles_are_the_layer_at_full_rank_is_the_layer(size: float) -> None:
    """Its own gain (exp(x) - 1) / x has few digits in single precision, and counts all the same, as it did before."""
    slow, u = layer(), np.random.default_rng(0).standard_normal((40, 3)).astype(np.float32)
    with torch.no_grad():
        slow.seq.Lambda.mul_(size)
        want, got = (
            one(torch.tensor(u)[None])[0].numpy() for one in (slow, balred.reduce(slow, slow.seq.Lambda.shape[0]))
        )
    assert np.abs(got - want).max() < 2e-6 * np.abs(want).max()


def test_parameters_that_single_precision_cannot_hold_are_refused() -> None:
    """An entry of B near the largest number of single precision: its row is scaled beside C, which the other rows share."""
    large = layer()
    with torch.no_grad():
        large.seq.B[0, 0, 0] = 3e38
        large.seq.C[:, 0] *= 1e10
    with pytest.raises(
        OverflowError, match="parameters of a reduced layer must be finite in its precision, got NaN or infinity in"
    ):
        balred.reduce(large, large.seq.Lambda.shape[0])
