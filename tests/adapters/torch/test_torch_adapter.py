"""The torch LRU layer, models of layers, and truncation during training with torch's optimizers."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")

import array_api_compat.torch  # noqa: E402

import balred  # noqa: E402
from balred.adapters.torch import LRU, InTrainingReducer  # noqa: E402
from balred.intraining import Guard  # noqa: E402
from balred.layers.scans import scan  # noqa: E402
from balred.reduction import SkippedWarning  # noqa: E402
from balred.systems.arrays import to_numpy  # noqa: E402
from balred.testing import check_adapter, simulate  # noqa: E402

nn = torch.nn
RULE = balred.Energy(0.9)
Module = Any


def lru(features: int = 3, states: int = 12, seed: int = 0, dtype: Any = torch.float64, **kw: Any) -> Any:
    return LRU(features, states, generator=torch.Generator().manual_seed(seed), **kw).to(dtype)


def batch(*shape: int, seed: int = 0, dtype: Any = torch.float64) -> Any:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def same_tensors(a: Module, b: dict[str, Any]) -> bool:
    mine = a.state_dict()
    return mine.keys() == b.keys() and all(torch.equal(mine[k], b[k]) for k in b)


def with_poles(poles: list[complex], features: int = 2) -> Any:
    """A layer with these poles, written by the adapter from a random conjugate system."""
    rng = np.random.default_rng(1)
    n = len(poles)
    B, C = (rng.standard_normal((2, *shape)) for shape in ((n, features), (features, n)))
    system = balred.diagonal(
        np.array(poles, dtype=complex),
        B=B[0] + 1j * B[1],
        C=C[0] + 1j * C[1],
        D=np.eye(features),
        dt=True,
        conjugate=True,
    )
    template = lru(features, n)
    torch.nn.init.ones_(template.D)
    return balred.adapt(template)[1](system), system


# ------------------------------------------------------------------------------------------------ the layer


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-13), (torch.float32, 1e-5)])
@pytest.mark.parametrize("length", [1, 2, 7, 64, 100])
def test_scan_is_the_recurrence(dtype: Any, tolerance: float, length: int) -> None:
    complex_dtype = torch.complex128 if dtype == torch.float64 else torch.complex64
    log_poles = torch.complex(-torch.rand(5, dtype=dtype) - 0.01, 6 * torch.rand(5, dtype=dtype))
    u = torch.randn(2, length, 5, dtype=complex_dtype)
    x, want = torch.zeros(2, 5, dtype=torch.complex128), []
    for k in range(length):
        x = torch.exp(log_poles.to(torch.complex128)) * x + u[:, k]
        want.append(x)
    got = scan(array_api_compat.torch, log_poles, u)
    assert got.dtype == complex_dtype
    expected = torch.stack(want, dim=1)
    assert float((got - expected).abs().max() / expected.abs().max()) < tolerance


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-13), (torch.float32, 2e-5)])
def test_layer_is_the_plain_recurrence_of_the_paper(dtype: Any, tolerance: float) -> None:
    layer, u = lru(dtype=dtype), batch(50, 3, dtype=dtype)
    wide = copy.deepcopy(layer).double()
    lam = torch.exp(torch.complex(-torch.exp(wide.nu_log), torch.exp(wide.theta_log)))
    B, C = torch.complex(wide.B_re, wide.B_im), torch.complex(wide.C_re, wide.C_im)
    x, want = torch.zeros(12, dtype=torch.complex128), []
    for step in u.double():
        x = lam * x + torch.exp(wide.gamma_log) * (B @ step.to(B.dtype))
        want.append((C @ x).real + wide.D * step)
    expected, got = torch.stack(want).detach(), layer(u).detach()
    assert got.dtype == dtype
    assert float((got - expected).abs().max() / expected.abs().max()) < tolerance


def test_batches_are_leading_axes() -> None:
    layer, u = lru(), batch(2, 4, 20, 3)
    y = layer(u)
    assert y.shape == u.shape
    torch.testing.assert_close(y[1, 2], layer(u[1, 2]), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("arguments", [(0, 4), (4, 0), (4, 4, 0.9, 0.5), (4, 4, 0.0, 1.5)])
def test_bad_sizes_and_rings(arguments: tuple[Any, ...]) -> None:
    with pytest.raises(ValueError, match="must"):
        LRU(*arguments)


# ------------------------------------------------------------------------------------------------ adapt and reduce


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("ring", [(0.0, 1.0), (0.9, 0.999)])
def test_check_adapter(dtype: Any, ring: tuple[float, float]) -> None:
    check_adapter(lru(3, 16, dtype=dtype, r_min=ring[0], r_max=ring[1]))


def test_check_adapter_is_not_content_with_a_wrong_layer() -> None:
    class Louder(LRU):
        def forward(self, u: Any) -> Any:
            return 1.001 * super().forward(u)

    layer = Louder(3, 8).double()
    with pytest.raises(AssertionError, match="layer against its system"):
        check_adapter(layer)


@pytest.mark.parametrize("rank", [1, 2, 5, 9, 12])
def test_the_reduced_layer_is_the_reduced_system(rank: int) -> None:
    layer, u = lru(), batch(40, 3)
    system = balred.adapt(layer)[0]
    small = balred.reduce(layer, rank)
    want = simulate(balred.reduce(system, rank), u.numpy())
    assert np.abs(to_numpy(small(u)) - want).max() < 1e-11 * np.abs(want).max()
    # and within Glover's bound of the full layer, in the energy of the output over an energy of the input
    s = to_numpy(balred.hsv(layer))
    gap = float((small(u) - layer(u)).detach().norm() / u.norm())
    assert gap <= 2 * s[2 * rank :].sum() + 1e-9 or small.states < rank


def test_full_rank_reproduces() -> None:
    layer, u = lru(), batch(40, 3)
    torch.testing.assert_close(balred.reduce(layer, 12)(u), layer(u), rtol=1e-11, atol=1e-11)


def test_the_original_is_untouched_and_shares_nothing() -> None:
    layer = lru()
    before = copy.deepcopy(layer.state_dict())
    small = balred.reduce(layer, 5)
    with torch.no_grad():
        for p in small.parameters():
            p.add_(1.0)
    assert same_tensors(layer, before)
    assert all(p.grad is None for p in layer.parameters())


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_modes_dtypes_hooks_and_attributes_survive(dtype: Any) -> None:
    layer, calls = lru(dtype=dtype).eval(), []
    layer.register_forward_hook(lambda *_: calls.append(1))
    layer.theta_log.requires_grad_(False)
    layer.nu_log._optim = {"lr": 1e-3, "weight_decay": 0.0}
    layer.note = "kept"
    layer.D._optim = {"lr": 0.0}
    small = balred.reduce(layer, 5)
    assert type(small) is LRU
    assert not small.training
    assert {p.dtype for p in small.parameters()} == {dtype}
    assert [n for n, p in small.named_parameters() if not p.requires_grad] == ["theta_log"]
    assert small.nu_log._optim == {"lr": 1e-3, "weight_decay": 0.0}
    assert small.D._optim == {"lr": 0.0}
    assert small.note == "kept"
    assert all(isinstance(p, nn.Parameter) and p.is_leaf for p in small.parameters())
    small(batch(4, 3, dtype=dtype))
    assert calls == [1]


def test_reducing_a_layer_with_gradients_and_under_no_grad() -> None:
    layer = lru()
    layer(batch(5, 3)).sum().backward()
    grads = {n: p.grad.clone() for n, p in layer.named_parameters()}
    with torch.no_grad():
        small = balred.reduce(layer, 5)
    assert all(torch.equal(p.grad, grads[n]) for n, p in layer.named_parameters())
    assert all(p.grad is None for p in small.parameters())


POLES = {
    "positive real": [0.9, 0.5, 0.1],
    "negative real": [-0.9, -0.5, -0.1],
    "zero": [0.0, 0.5 + 0.5j],
    "pairs": [0.6 + 0.7j, -0.2 + 0.9j, 0.99 * np.exp(0.001j)],
    "lower half": [0.6 - 0.7j, -0.2 - 0.3j],
    "near the circle": [0.99999, -0.99999, 0.9999999 * np.exp(2j)],
    "mixed": [0.9, -0.8, 0.0, 0.3 + 0.4j],
}


@pytest.mark.parametrize("poles", POLES.values(), ids=POLES)
def test_poles_written_back_survive_with_finite_gradients(poles: list[complex]) -> None:
    layer, system = with_poles(poles)
    got = to_numpy(balred.adapt(layer)[0].poles)
    # exp(-30) = 9e-14 stands for zero: the fastest pole the layer writes
    np.testing.assert_allclose(got, np.array(poles), rtol=0, atol=2e-13)
    assert all(bool(torch.isfinite(p).all()) for p in layer.parameters())
    u = batch(12, 2)
    want = simulate(system, u.numpy())
    assert np.abs(to_numpy(layer(u)) - want).max() < 1e-10 * np.abs(want).max()
    layer(u).square().sum().backward()
    for name, p in layer.named_parameters():
        assert bool(torch.isfinite(p.grad).all()), name
    # an angle stored as 2 pi learns: its gradient is that of the angle times 2 pi, not zero for ever
    assert float(layer.theta_log.grad.abs().max()) > 0 or all(np.imag(poles) == 0)


def test_a_positive_real_pole_can_leave_the_real_axis() -> None:
    layer, _ = with_poles([0.9, 0.5])
    angles = torch.exp(layer.theta_log.detach())
    torch.testing.assert_close(angles, torch.full_like(angles, 2 * math.pi))
    with torch.no_grad():
        layer.C_im.add_(1.0)
    layer(batch(12, 2)).square().sum().backward()
    assert bool((layer.theta_log.grad.abs() > 0).all())


def test_rebuild_refuses_what_an_lru_cannot_hold() -> None:
    rebuild = balred.adapt(lru(2, 4))[1]
    kw: dict[str, Any] = {"B": np.ones((2, 2), complex), "C": np.ones((2, 2), complex)}
    with pytest.raises(ValueError, match=r"discrete conjugate system, got.*continuous"):
        rebuild(balred.diagonal([-1 + 1j, -2 + 1j], conjugate=True, **kw))
    with pytest.raises(ValueError, match="discrete conjugate system, got"):
        rebuild(balred.diagonal([0.5 + 0.1j, 0.2j], dt=1, **kw))
    with pytest.raises((ValueError, TypeError), match="discrete conjugate system, got"):
        rebuild(balred.testing.random_system(3, dt=1))


def test_singular_perturbation_needs_a_full_feedthrough() -> None:
    with pytest.raises(ValueError, match="method='truncate'"):
        balred.reduce(lru(), 5, method="singular_perturbation")


def test_hsv_of_a_layer_is_differentiable() -> None:
    layer = lru(2, 6)
    balred.hsv(layer).sum().backward()
    for name in ("nu_log", "theta_log", "gamma_log", "B_re", "B_im", "C_re", "C_im"):
        g = getattr(layer, name).grad
        assert bool(torch.isfinite(g).all()), name
        assert float(g.abs().max()) > 0
    # central difference of the sum along one parameter
    step, values = 1e-6, []
    for sign in (1, -1):
        moved = copy.deepcopy(layer)
        with torch.no_grad():
            moved.nu_log[2] += sign * step
            values.append(float(balred.hsv(moved).sum().detach()))
    assert float(layer.nu_log.grad[2]) == pytest.approx((values[0] - values[1]) / (2 * step), rel=1e-5)


# ------------------------------------------------------------------------------------------------ models


class Blocks(nn.Module):  # type: ignore[misc, name-defined, unused-ignore]
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.norm = nn.BatchNorm1d(3)
        self.layers = nn.ModuleList([lru(3, 12, seed=1), lru(3, 8, seed=2)])
        self.head = nn.Linear(3, 2)
        self.double()

    def forward(self, u: Any) -> Any:
        u = self.norm(u.mT).mT
        for layer in self.layers:
            u = u + torch.tanh(layer(u))
        return self.head(u[..., -1, :])


def test_a_model_is_walked_by_name() -> None:
    model = Blocks()
    before = copy.deepcopy(model.state_dict())
    assert list(balred.hsv(model)) == ["layers.0", "layers.1"]
    assert balred.analyze(model)["layers.1"].hsv.shape == (16,)
    small = balred.reduce(model, {"layers.0": 4, "layers.1": balred.Energy(0.9)})
    assert type(small) is Blocks
    assert small.layers[0].states == 4
    assert small.layers[1].states < 8
    assert same_tensors(model, before)
    assert torch.equal(small.head.weight, model.head.weight)
    assert small.head.weight is not model.head.weight
    small(batch(5, 10, 3)).sum().backward()
    with pytest.warns(SkippedWarning, match=r"layers\.1.*not in ranks"):
        assert [m.states for m in balred.reduce(model, {"layers.0": 4}).layers] == [4, 8]


def test_attributes_of_parameters_outside_the_layers_survive_too() -> None:
    model = Blocks()
    model.head.weight._optim = {"weight_decay": 0.0}
    small = balred.reduce(model, 4)
    assert small.head.weight._optim == {"weight_decay": 0.0}


def test_models_in_lists_and_dicts() -> None:
    small = balred.reduce({"a": [nn.Sequential(lru(3, 8)), lru(3, 6)]}, 4)
    assert [small["a"][0][0].states, small["a"][1].states] == [4, 4]


def test_a_layer_used_twice_stays_one_layer() -> None:
    shared = lru(3, 10)
    model = nn.ModuleDict({"one": shared, "two": nn.Sequential(shared, nn.Linear(3, 3).double())})
    small = balred.reduce(model, 4)
    assert small["one"].states == 4
    assert small["two"][0] is small["one"]
    assert model["one"] is shared
    assert shared.states == 10


def test_a_model_without_a_layer_is_an_error() -> None:
    with pytest.raises(TypeError, match="register"):
        balred.reduce(nn.Sequential(nn.Linear(3, 3)), 2)


# ------------------------------------------------------------------------------------------------ in training


def train(model: Any, optimizer: Any, reducer: Any, steps: int, u: Any | None = None) -> tuple[list[float], list[Any]]:
    """The loop of every tutorial: the last loss stays alive while the model is cut."""
    u = batch(4, 12, 3, seed=9) if u is None else u
    losses, reports = [], []
    for _ in range(steps):
        optimizer.zero_grad()
        loss = (model(u) - 1).square().mean()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
        reports.append(reducer.step())
    return losses, reports


def setup(make: Callable[..., Any] | None = None, **kw: Any) -> tuple[Any, Any, Any]:
    model = Blocks()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2) if make is None else make(model.parameters())
    arguments: dict[str, Any] = {"rule": RULE, "window": (0, 6), "attempts": 2} | kw
    return model, optimizer, InTrainingReducer(model, optimizer, **arguments)


def states(model: Any) -> list[int]:
    return [layer.states for layer in model.layers]


def is_cut(model: Any) -> bool:
    return all(now < before for now, before in zip(states(model), (12, 8), strict=True))


def test_cuts_happen_at_the_steps_of_the_policy_and_nowhere_else() -> None:
    model, optimizer, reducer = setup(window=(0, 9), attempts=3, min_cut=0.0)
    _, reports = train(model, optimizer, reducer, 14)
    assert [i + 1 for i, r in enumerate(reports) if r is not None] == [3, 6, 9] == list(reducer.policy.steps)
    assert [r for r in reports if r is not None] == reducer.reports
    first = reports[2]
    assert [(c.layer, c.before) for c in first.cuts] == [("layers.0", 12), ("layers.1", 8)]
    assert all(c.after < c.before and c.energy >= 0.9 and c.bound > 0 for c in first.cuts)
    assert f"layers.0 12 -> {first.cuts[0].after} states" in str(first)
    assert "layers.0" in repr(first)
    assert reducer.reports[-1].ranks == dict(zip(("layers.0", "layers.1"), states(model), strict=True))


def test_a_later_attempt_starts_from_the_cut_layer() -> None:
    model, optimizer, reducer = setup(rule=balred.Energy(0.8), window=(0, 4), attempts=2, min_cut=0.0)
    train(model, optimizer, reducer, 2)
    middle = states(model)
    train(model, optimizer, reducer, 2)
    assert all(a <= b for a, b in zip(states(model), middle, strict=True))
    for cut in reducer.reports[1].cuts:
        assert cut.before == middle[int(cut.layer[-1])]


def test_the_cut_at_a_step_is_the_reduction_of_the_layer() -> None:
    model, optimizer, reducer = setup()
    train(model, optimizer, reducer, 2)
    twin = copy.deepcopy(model)
    u = batch(4, 12, 3, seed=9)
    optimizer.zero_grad()
    (model(u) - 1).square().mean().backward()
    optimizer.step()
    twin.load_state_dict(model.state_dict())
    report = reducer.step()
    want = balred.reduce(twin, RULE)
    assert report.cuts
    assert same_tensors(model, want.state_dict())


def test_identity_groups_and_schedulers_are_kept() -> None:
    model, _, _ = setup()
    groups = [{"params": list(model.layers.parameters()), "lr": 1e-2}, {"params": list(model.head.parameters())}]
    optimizer = torch.optim.AdamW(groups, lr=3e-3)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda k: 0.9**k)
    reducer = InTrainingReducer(model, optimizer, RULE, (0, 6), 2)
    before = dict(model.named_parameters())
    for _ in range(8):
        train(model, optimizer, reducer, 1)
        schedule.step()
    assert is_cut(model)
    after = dict(model.named_parameters())
    assert list(after) == list(before)
    assert all(after[n] is before[n] for n in before)
    held = [p for group in optimizer.param_groups for p in group["params"]]
    assert all(any(p is q for q in held) for p in model.layers.parameters())
    assert schedule.last_epoch == 8
    assert optimizer.param_groups[0]["lr"] == pytest.approx(1e-2 * 0.9**8)


def test_hooks_on_parameters_and_layers_survive_a_cut() -> None:
    model, optimizer, reducer = setup()
    calls: list[str] = []
    model.layers[0].register_forward_hook(lambda *_: calls.append("forward"))
    model.layers[0].B_re.register_hook(lambda g: calls.append(f"gradient {g.shape[0]}"))
    model.layers[0].B_re.register_post_accumulate_grad_hook(lambda p: calls.append("accumulated"))
    train(model, optimizer, reducer, 6)
    n = model.layers[0].states
    calls.clear()
    train(model, optimizer, reducer, 1)
    assert calls == ["forward", f"gradient {n}", "accumulated"]


O = torch.optim
OPTIMIZERS: dict[str, Callable[..., Any]] = {
    "SGD": lambda p: O.SGD(p, lr=1e-2),
    "SGD momentum": lambda p: O.SGD(p, lr=1e-2, momentum=0.9),
    "SGD nesterov": lambda p: O.SGD(p, lr=1e-2, momentum=0.9, nesterov=True, weight_decay=1e-3),
    "Adam": lambda p: O.Adam(p, lr=1e-2),
    "Adam amsgrad": lambda p: O.Adam(p, lr=1e-2, amsgrad=True),
    "AdamW": lambda p: O.AdamW(p, lr=1e-2),
    "AdamW foreach": lambda p: O.AdamW(p, lr=1e-2, foreach=True),
    "AdamW fused": lambda p: O.AdamW(p, lr=1e-2, fused=True),
    "RMSprop": lambda p: O.RMSprop(p, lr=1e-3),
    "RMSprop centered": lambda p: O.RMSprop(p, lr=1e-3, centered=True, momentum=0.5),
    "Adagrad": lambda p: O.Adagrad(p, lr=1e-2, initial_accumulator_value=0.1),
    "Adadelta": lambda p: O.Adadelta(p, lr=1.0),
    "NAdam": lambda p: O.NAdam(p, lr=1e-2),
    "RAdam": lambda p: O.RAdam(p, lr=1e-2),
    "Adamax": lambda p: O.Adamax(p, lr=1e-2),
    "ASGD": lambda p: O.ASGD(p, lr=1e-2),
    "Rprop": lambda p: O.Rprop(p, lr=1e-3),
    "Adafactor": lambda p: O.Adafactor(p, lr=1e-2),
}


@pytest.mark.full
@pytest.mark.alike
@pytest.mark.parametrize("moments", ["reset", "carry"])
@pytest.mark.parametrize("make", OPTIMIZERS.values(), ids=OPTIMIZERS)
def test_every_optimizer_trains_on_with_state_in_the_new_shapes(make: Callable[..., Any], moments: str) -> None:
    model, optimizer, reducer = setup(make, moments=moments, window=(0, 4), attempts=2)
    train(model, optimizer, reducer, 4)
    assert is_cut(model)
    losses, _ = train(model, optimizer, reducer, 40)
    fresh = make([nn.Parameter(p.detach().clone()) for p in model.parameters()])
    for group in fresh.param_groups:
        for p in group["params"]:
            p.grad = torch.zeros_like(p)
    fresh.step()
    twins = [p for group in fresh.param_groups for p in group["params"]]
    for p, twin in zip(model.parameters(), twins, strict=True):
        # what the same optimizer holds for a parameter that never was larger
        want, got = fresh.state.get(twin, {}), optimizer.state.get(p, {})
        assert {k: v.shape for k, v in got.items() if isinstance(v, torch.Tensor)} == {
            k: v.shape for k, v in want.items() if isinstance(v, torch.Tensor)
        }
        assert all(bool(torch.isfinite(v).all()) for v in got.values() if isinstance(v, torch.Tensor))
    assert losses[-1] < losses[0]
    assert all(math.isfinite(x) for x in losses)


def test_an_optimizer_with_a_flat_history_is_refused() -> None:
    model = Blocks()
    with pytest.raises(ValueError, match="LBFGS"):
        InTrainingReducer(model, torch.optim.LBFGS(model.parameters()), RULE, (0, 4))


def test_an_optimizer_without_a_parameter_of_a_layer_is_refused() -> None:
    model = Blocks()
    some = [p for n, p in model.named_parameters() if not n.endswith("1.C_re")]
    with pytest.raises(ValueError, match=r"layers\.1 without C_re"):
        InTrainingReducer(model, torch.optim.SGD(some), RULE, (0, 4))


def test_frozen_parameters_need_no_optimizer_and_are_cut_along() -> None:
    model = Blocks()
    model.layers[0].theta_log.requires_grad_(False)
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad])
    reducer = InTrainingReducer(model, optimizer, RULE, (0, 2), 1)
    train(model, optimizer, reducer, 4)
    assert model.layers[0].theta_log.shape[0] == model.layers[0].states < 12
    assert not model.layers[0].theta_log.requires_grad


@pytest.mark.parametrize("bad", [{"moments": "slice"}, {"attempts": 0}, {"window": (4, 2)}, {"rule": 0.99}])
def test_bad_arguments(bad: dict[str, Any]) -> None:
    with pytest.raises((ValueError, TypeError), match="must"):
        setup(**bad)


def test_a_model_that_is_itself_a_layer() -> None:
    layer = lru(3, 16)
    optimizer = torch.optim.AdamW(layer.parameters(), lr=1e-2)
    reducer = InTrainingReducer(layer, optimizer, RULE, (0, 4), 2)
    losses, reports = train(layer, optimizer, reducer, 30)
    assert layer.states < 16
    assert reports[1].cuts[0].layer == ""
    assert losses[-1] < losses[4]


def test_a_layer_that_says_nothing_is_skipped_with_a_reason() -> None:
    model, optimizer, reducer = setup(window=(0, 2), attempts=1)
    for name in ("C_re", "C_im"):
        getattr(model.layers[0], name).requires_grad_(False).zero_()
    _, reports = train(model, optimizer, reducer, 2)
    report = reports[1]
    assert list(report.skipped) == ["layers.0"]
    assert "zero" in report.skipped["layers.0"]
    assert "skipped" in str(report)
    assert report.ranks["layers.0"] == model.layers[0].states == 12
    assert model.layers[1].states < 8


def test_a_layer_gone_nan_is_skipped_with_a_reason() -> None:
    model, _, reducer = setup(window=(0, 1), attempts=1)
    with torch.no_grad():
        model.layers[1].B_re[0, 0] = math.nan
    report = reducer.step()
    assert "finite" in report.skipped["layers.1"]
    assert states(model)[1] == 8


@pytest.mark.full
def test_training_after_a_cut_goes_on_to_a_lower_loss_and_the_layer_stays_small() -> None:
    model, optimizer, reducer = setup(window=(0, 10), attempts=2)
    losses, _ = train(model, optimizer, reducer, 80)
    assert is_cut(model)
    assert losses[-1] < 0.5 * losses[10]


def test_float32_models_are_cut_too() -> None:
    model = Blocks().float()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    reducer = InTrainingReducer(model, optimizer, RULE, (0, 4), 2)
    train(model, optimizer, reducer, 6, batch(4, 12, 3, dtype=torch.float32))
    assert is_cut(model)
    assert {p.dtype for p in model.parameters()} == {torch.float32}


# ------------------------------------------------------------------------------------------------ moments


def doubled(half: Any, seed: int = 3) -> Any:
    """A layer with every mode of `half` twice, with other weights: as good as `half`, and in no way minimal."""
    n = half.states
    full = lru(half.features, 2 * n)
    generator = torch.Generator().manual_seed(seed)
    share = torch.randn(n, 2, generator=generator, dtype=torch.float64)
    again = torch.randn(n, 2, generator=generator, dtype=torch.float64)
    alpha, beta = torch.complex(share[:, 0], share[:, 1]), torch.complex(again[:, 0], again[:, 1])
    B, C = torch.complex(half.B_re, half.B_im), torch.complex(half.C_re, half.C_im)
    # x1 = alpha x, x2 = beta x, and C1 alpha + C2 beta = C
    B2 = torch.cat([alpha[:, None] * B, beta[:, None] * B])
    C2 = torch.cat([0.3 * C / alpha, 0.7 * C / beta], dim=1)
    values = {"B_re": B2.real, "B_im": B2.imag, "C_re": C2.real, "C_im": C2.imag, "D": half.D}
    values |= {k: torch.cat([getattr(half, k)] * 2) for k in ("nu_log", "theta_log", "gamma_log")}
    with torch.no_grad():
        for k, v in values.items():
            getattr(full, k).copy_(v)
    return full


def gradients(layer: Any, u: Any) -> dict[str, Any]:
    layer.zero_grad()
    (layer(u).square().sum() + layer(u)[..., -1, :].sum()).backward()
    return {n: p.grad.clone() for n, p in layer.named_parameters()}


def cosine(a: Any, b: Any) -> float:
    return float((a * b).sum() / (a.norm() * b.norm()))


@pytest.mark.parametrize("key", ["exp_avg", "momentum_buffer"])
def test_carried_first_moments_are_the_gradients_of_the_cut_layer(key: str) -> None:
    half, u = lru(3, 5, seed=4), batch(2, 15, 3)
    full = doubled(half)
    torch.testing.assert_close(full(u), half(u), rtol=1e-10, atol=1e-10)
    optimizer: Any
    optimizer = (
        torch.optim.Adam(full.parameters()) if key == "exp_avg" else torch.optim.SGD(full.parameters(), momentum=0.9)
    )
    for p in full.parameters():
        p.grad = torch.zeros_like(p)
    optimizer.step()
    exact = gradients(full, u)
    for n, p in full.named_parameters():
        optimizer.state[p][key].copy_(exact[n])
    reducer = InTrainingReducer(full, optimizer, balred.Energy(1.0), (0, 1), 1, moments="carry")
    report = reducer.step()
    assert full.states == 5  # nothing of the operator was lost, so the loss is the same function of B and C
    assert report.cuts[0].bound < 1e-9
    want = gradients(full, u)
    for n in ("B_re", "B_im", "C_re", "C_im", "gamma_log", "D"):
        got = optimizer.state[getattr(full, n)][key]
        assert cosine(got, want[n]) > 1 - 1e-6, n
        torch.testing.assert_close(got, want[n], rtol=1e-5, atol=1e-6 * float(want[n].abs().max()))
    for n in ("nu_log", "theta_log"):  # only the diagonal of the gradient is known: a direction, not the value
        assert cosine(optimizer.state[getattr(full, n)][key], want[n]) > 0, n


def test_carried_second_moments_are_positive_and_of_the_right_size() -> None:
    model, optimizer, reducer = setup(moments="carry", window=(0, 10), attempts=1)
    train(model, optimizer, reducer, 10)
    sizes = {}
    for n, p in model.layers[0].named_parameters():
        v = optimizer.state[p]["exp_avg_sq"]
        assert bool((v > 0).all()), n
        sizes[n] = v.mean()
    # the squared gradient of the cut layer on the same data, up to the factor that a mean over ten steps may make
    u = batch(4, 12, 3, seed=9)
    model.zero_grad()
    (model(u) - 1).square().mean().backward()
    for n in ("B_re", "B_im", "C_re", "C_im"):
        now = getattr(model.layers[0], n).grad.square().mean() * (1 - 0.999**10)
        assert 0.01 < float(sizes[n] / now) < 100, n


def test_reset_forgets_cut_parameters_only() -> None:
    model, optimizer, reducer = setup(window=(0, 5), attempts=1)
    train(model, optimizer, reducer, 4)
    kept = {n: optimizer.state[p]["exp_avg"].clone() for n, p in model.named_parameters()}
    assert reducer.step().cuts
    for n, p in model.named_parameters():
        state = optimizer.state.get(p, {})
        if n.startswith("layers") and not n.endswith(".D"):
            assert not state or float(state["exp_avg"].abs().max()) == 0, n
        else:
            assert torch.equal(state["exp_avg"], kept[n]), n


# ------------------------------------------------------------------------------------------------ the guard


def whole(model: Any, optimizer: Any) -> tuple[Any, Any]:
    return copy.deepcopy(model.state_dict()), copy.deepcopy(optimizer.state_dict())


def check_whole(model: Any, optimizer: Any, want: tuple[Any, Any]) -> None:
    assert same_tensors(model, want[0])
    got = optimizer.state_dict()
    assert got["param_groups"] == want[1]["param_groups"]
    assert got["state"].keys() == want[1]["state"].keys()
    for i, state in want[1]["state"].items():
        for k, v in state.items():
            assert torch.equal(got["state"][i][k], v), (i, k)


@pytest.mark.alike
@pytest.mark.parametrize("moments", ["reset", "carry"])
@pytest.mark.parametrize("after", [0.4, math.nan])
def test_a_guard_restores_at_once_and_for_good(after: float, moments: str) -> None:
    seen: list[int] = []

    def metric(m: Any) -> float:
        seen.append(sum(states(m)))
        return 0.9 if sum(states(m)) == 20 else after

    model, optimizer, reducer = setup(guard=Guard(metric, tolerance=0.1), window=(0, 6), attempts=3, moments=moments)
    identity = [id(p) for p in model.parameters()]
    train(model, optimizer, reducer, 1)
    optimizer.zero_grad()
    (model(batch(4, 12, 3, seed=9)) - 1).square().mean().backward()
    optimizer.step()
    want = whole(model, optimizer)
    report = reducer.step()
    assert report.restored
    assert report.cuts == ()
    assert report.ranks == {"layers.0": 12, "layers.1": 8}
    assert "taken back" in str(report)
    assert seen[0] == 20 > seen[1]
    check_whole(model, optimizer, want)
    assert [id(p) for p in model.parameters()] == identity
    _, reports = train(model, optimizer, reducer, 10)
    assert reports == [None] * 10
    assert states(model) == [12, 8]


def test_a_delayed_guard_restores_the_state_before_the_cut_buffers_included() -> None:
    model, optimizer, reducer = setup(
        guard=Guard(lambda m: float(sum(states(m))), tolerance=1.0, delay=3), window=(0, 6), attempts=3
    )
    train(model, optimizer, reducer, 1)
    optimizer.zero_grad()
    loss = (model(batch(4, 12, 3, seed=9)) - 1).square().mean()
    loss.backward()
    optimizer.step()
    want = whole(model, optimizer)
    assert reducer.step().cuts
    small = states(model)
    assert is_cut(model)
    _, reports = train(model, optimizer, reducer, 2)  # the attempt due at step 4 waits for the judgement
    assert reports == [None, None]
    assert states(model) == small
    assert float(model.norm.num_batches_tracked) == 4
    optimizer.zero_grad()
    loss = (model(batch(4, 12, 3, seed=9)) - 1).square().mean()
    loss.backward()
    optimizer.step()
    report = reducer.step()
    assert report.restored
    assert report.step == 5
    check_whole(model, optimizer, want)
    losses, reports = train(model, optimizer, reducer, 10)
    assert reports == [None] * 10
    assert losses[-1] < losses[0]


def test_a_guard_that_accepts_lets_later_attempts_through() -> None:
    model, optimizer, reducer = setup(
        rule=balred.Energy(0.9), guard=Guard(lambda m: 1.0, tolerance=0.0, delay=2), window=(0, 6), attempts=3
    )
    _, reports = train(model, optimizer, reducer, 8)
    assert [r.step for r in reports if r is not None] == [2, 4, 6]
    assert not any(r.restored for r in reducer.reports)
    assert is_cut(model)


def test_a_metric_that_should_fall() -> None:
    model, optimizer, reducer = setup(
        guard=Guard(lambda m: -float(sum(states(m))), tolerance=0.5, higher_is_better=False), window=(0, 2), attempts=1
    )
    train(model, optimizer, reducer, 2)
    assert states(model) == [12, 8]


def test_bfloat16_layers_are_analysed_in_double_and_stay_bfloat16() -> None:
    layer = LRU(3, 16, generator=torch.Generator().manual_seed(0))
    rounded = layer.bfloat16()
    small = balred.reduce(rounded, 8)
    assert {p.dtype for p in small.parameters()} == {torch.bfloat16}
    # the same parameters held in float32 give the same values
    want = balred.hsv(copy.deepcopy(rounded).float())
    torch.testing.assert_close(balred.hsv(rounded), want, rtol=1e-6, atol=0)
