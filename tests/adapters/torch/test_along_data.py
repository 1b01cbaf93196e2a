"""PyTorch models balanced on data: what is seen of each layer against autograd, what is told, and what it is good for."""

from __future__ import annotations

import math
import warnings
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")

import s4_layers  # noqa: E402
import s4d_layers  # noqa: E402

import balred  # noqa: E402
from balred.adapters.torch import LRU, InTrainingReducer, running  # noqa: E402
from balred.layers import along_data, passages  # noqa: E402
from balred.reduction import diagonalisation  # noqa: E402
from balred.selection import Calibration  # noqa: E402
from balred.selection.calibration import batches  # noqa: E402

nn = torch.nn
WIDTH = 3


def lru() -> Any:
    return LRU(WIDTH, 6, generator=torch.Generator().manual_seed(1))


def package_lru() -> Any:
    torch.manual_seed(1)
    return pytest.importorskip("LRU_pytorch").LRU(WIDTH, WIDTH, 4)


def s5(**kw: Any) -> Any:
    from s5_pytorch_layers import layer

    return layer(WIDTH, **kw)


LAYERS = {
    "LRU": lru,
    "lru-pytorch": package_lru,
    "S5": s5,
    "S5, both ways": lambda: s5(bidir=True),
    "S4D": lambda: s4d_layers.mixer(torch.float32),
    "S4": lambda: s4_layers.conv(double=False),
    "S4, both ways": lambda: s4_layers.conv(double=False, bidirectional=True),
    "S4, low-rank terms": lambda: s4_layers.conv(double=False, kind=s4_layers.LowRank),
}


class Model(nn.Module):
    """A layer between what makes its inputs coloured and what makes its outputs matter unlike."""

    def __init__(self, layer: Any) -> None:
        super().__init__()
        torch.manual_seed(2)
        self.channels_first = hasattr(layer, "kernel")
        self.before, self.layer, self.after = nn.Linear(1, WIDTH), layer, nn.Linear(WIDTH, 4)

    def forward(self, x: Any, attention_mask: Any = None) -> Any:
        z = torch.tanh(self.before(x).cumsum(1))
        z = self.layer(z.mT) if self.channels_first else self.layer(z)
        z = z[0] if isinstance(z, tuple) else z
        return self.after((z.mT if self.channels_first else z)[:, ::2].mean(1))


def data(count: int = 5, length: int = 12) -> Any:
    return torch.randn(count, length, 1, generator=torch.Generator().manual_seed(3))


def recurrence(system: Any, u: Any, added: Any = None) -> tuple[Any, Any]:
    """The output and the real states, differentiable, a position at a time: (batch, sequences, length, outputs or states).

    What is `added` to the states is there to differentiate by.
    """
    poles, B, C = (x.to(torch.complex128) for x in system.leaves)
    x, found, states = 0.0, [], []
    for t in range(u.shape[-2]):
        x = torch.exp(poles)[..., None, :] * x + u[..., t, :].to(B.dtype) @ B.mT
        if added is not None:
            x = x + torch.complex(*added[..., t, :].chunk(2, -1)) / 2**0.5
        found.append(2 * (x @ C.mT).real + u[..., t, :].double() @ system.D.double().mT)
        states.append(2**0.5 * torch.cat([x.real, x.imag], -1))
    return torch.stack(found, -2), torch.stack(states, -2)


@pytest.mark.parametrize("name", LAYERS)
def test_signals_of_an_operator_are_those_that_its_parameters_learn_from(name: str, monkeypatch: Any) -> None:
    """Gradients of the model's scalar, by autograd through the layer itself, are those of sum(w y) with the w and u that are seen.

    P and Q are those of the states of a plain recurrence on u, and of the gradients of sum(w y) with respect to them by autograd.
    """
    model = Model(LAYERS[name]())
    seen: list[Any] = []
    plain = passages.data_sums
    monkeypatch.setattr(passages, "data_sums", lambda *a, **k: (seen.append(a[:3]), plain(*a, **k))[1])
    system = balred.adapt(model.layer)[0]
    how = Calibration(data(), scalar=lambda z: (z**3).sum())
    found = running.sums(model, {"layer": (model.layer, system)}, batches(how.now(), (torch.Tensor,)), how)
    assert not isinstance(found["layer"], str), found

    parts = [(w[0].double() * recurrence(s, u)[0]).sum() for s, u, w in seen]
    mine = dict(model.layer.named_parameters())
    got = torch.autograd.grad(sum(parts), list(mine.values()), allow_unused=True)
    want = torch.autograd.grad((model(data()) ** 3).sum(), list(mine.values()), allow_unused=True)
    compared = 0
    for key, have, expected in zip(mine, got, want, strict=True):
        if have is not None:  # the rest is not the operator's
            scale = float(expected.abs().max())
            np.testing.assert_allclose(have.numpy(), expected.numpy(), rtol=5e-3, atol=2e-3 * scale, err_msg=key)
            compared += 1
    assert compared >= (1 if "low-rank" in name else 4)  # the poles of low-rank terms come from an eigenvalue problem

    P = Q = 0.0
    for s, u, w in seen:  # each way of a layer that runs both ways
        added = torch.zeros(*u.shape[:-1], s.order, dtype=torch.float64, requires_grad=True)
        y, x = recurrence(s, u, added)
        (g,) = torch.autograd.grad((w[0].double() * y).sum(), added)
        P, Q = (S + (z.detach().flatten(-3, -2).mT @ z.detach().flatten(-3, -2)).numpy() for S, z in ((P, x), (Q, g)))
    for name_of, have, expected in (("P", found["layer"].P, P), ("Q", found["layer"].Q, Q)):
        np.testing.assert_allclose(have, expected, rtol=0, atol=1e-9 * np.abs(expected).max(), err_msg=name_of)


@pytest.mark.parametrize("name", LAYERS)
def test_at_equal_states_data_are_nearer_than_noise_and_all_states_change_nothing(name: str) -> None:
    model, x, fresh = Model(LAYERS[name]()), data(64, 40), torch.randn(64, 40, 1)
    states = balred.adapt(model.layer)[0].states
    with torch.no_grad():
        want = model(fresh)
        errors = {}
        for basis in ("data", "noise"):
            plan = balred.plan(model, {"layer": max(1, states // 4)}, x, balanced_on=basis)
            assert plan.rows[0].note.startswith("balanced on data") == (basis == "data")
            assert "balanced on white" not in plan.rows[0].note
            errors[basis] = float((plan.apply()(fresh) - want).square().mean())
        whole = balred.reduce(model, states, calibration=x)(fresh)
    assert errors["data"] < errors["noise"]
    np.testing.assert_allclose(whole.numpy(), want.numpy(), rtol=1e-3, atol=1e-4)


def test_values_foretell_the_squared_change_of_the_outputs() -> None:
    """In order of magnitude: what states that are cut do at different times adds up as if it were independent, and is not."""
    model, x = Model(lru()), data(256, 30)
    plan = balred.plan(model, balred.Divergence(1e-3, of="values"), x, seed=1)
    foretold = float(repr(plan).rpartition(" ")[2])
    with torch.no_grad():
        change = float((plan.apply()(x) - model(x)).square().sum(-1).mean())
    assert foretold / 10 < change < foretold * 10


def test_padding_counts_in_no_sum_and_frozen_models_are_seen() -> None:
    model = Model(lru())
    system = balred.adapt(model.layer)[0]

    def sums(batch: Any) -> Any:
        how = Calibration(batch)
        return running.sums(model, {"layer": (model.layer, system)}, batches(batch, (torch.Tensor,)), how)["layer"]

    x, mask = data(), torch.ones(5, 12)
    mask[:, 7:] = 0
    padded = sums({"x": x, "attention_mask": mask})
    assert padded.positions == 35
    np.testing.assert_allclose(padded.P, sums(x[:, :7]).P, rtol=1e-5)

    full = sums(x)
    for p in model.parameters():
        p.requires_grad_(False)
    np.testing.assert_allclose(sums(x).Q, full.Q, rtol=1e-5)
    assert model.training
    assert "forward" not in vars(model.layer)
    assert full.P.dtype == full.Q.dtype == np.float64


def test_where_the_mask_leaves_nothing_there_is_nothing_to_balance_on() -> None:
    model = Model(lru())
    with pytest.warns(UserWarning, match="the mask leaves none of its positions"):
        plan = balred.plan(model, 4, {"x": data(), "attention_mask": torch.zeros(5, 12)})
    assert plan.rows[0].energy == balred.plan(model, 4).rows[0].energy


def test_inference_mode_changes_nothing() -> None:
    """Neither what is found nor what can be trained afterwards; data that were made in it are data."""
    model, x = Model(lru()), data()
    want = balred.reduce(model, 4, calibration=x)
    with torch.inference_mode():
        whole, alone, made = balred.reduce(model, 4, calibration=x), balred.reduce(model.layer, 4), 1 * x
        assert not torch.is_grad_enabled()
    for small in (whole, balred.reduce(model, 4, calibration=made)):
        assert torch.equal(small(x), want(x))
        small(x).sum().backward()
    alone(torch.ones(1, 4, 3)).sum().backward()
    assert not any(p.is_inference() for one in (whole, alone) for p in one.parameters())


class Noisy(Model):
    """Draws in evaluation mode too."""

    def forward(self, x: Any) -> Any:
        return super().forward(x + 0.1 * torch.randn_like(x))


def test_generators_are_what_they_were() -> None:
    """A loader draws the seed of its workers, and its order; a model may draw when it runs."""
    model, loader = Noisy(lru()), torch.utils.data.DataLoader(data(), batch_size=2, shuffle=True)
    state = torch.get_rng_state()
    balred.reduce(model, 4, calibration=loader)
    balred.plan(model, balred.Divergence(0.5, of="values"), calibration=[data(), data()])
    assert torch.equal(torch.get_rng_state(), state)


def test_the_default_device_is_no_matter() -> None:
    """On "meta" nothing that is made there has values."""
    model, x = Model(lru()), data()
    want = [balred.reduce(model, 4), balred.reduce(model, 4, calibration=x)]
    with torch.device("meta"):
        found = [balred.reduce(model, 4), balred.reduce(model, 4, calibration=x)]
    assert all(torch.equal(a(x), b(x)) for a, b in zip(found, want, strict=True))


def test_a_layer_in_two_places_is_summed_over_both() -> None:
    class Twice(Model):
        def forward(self, x: Any) -> Any:
            return self.after(self.layer(self.layer(self.before(x))).mean(1))

    model = Twice(lru())
    system = balred.adapt(model.layer)[0]
    found = running.sums(model, {"layer": (model.layer, system)}, batches(data(), (torch.Tensor,)), Calibration(data()))
    assert found["layer"].positions == 2 * 5 * 12
    assert balred.plan(model, {"layer": 2}, data()).apply().layer.states == 2


class Scaled(LRU):
    """Computes something else than its parameters say."""

    def forward(self, u: Any) -> Any:
        return torch.tanh(u) * super().forward(2 * u)


def test_what_cannot_be_seen_is_balanced_on_noise_and_told() -> None:
    model = Model(Scaled(WIDTH, 6))
    with pytest.warns(balred.reduction.CalibrationWarning, match="layer .no tensor in it"):
        plan = balred.plan(model, {"layer": 3}, data())
    assert plan.rows[0].note == "balanced on white noise: no tensor in it is the output of its linear operator"
    with pytest.raises(ValueError, match="balanced_on='data' needs layers whose operators are found"):
        balred.plan(model, {"layer": 3}, data(), balanced_on="data")
    with pytest.raises(ValueError, match="needs calibration data, got none"):
        balred.plan(model, {"layer": 3}, balanced_on="inputs")
    with pytest.raises(ValueError, match="on data, method must be"):
        balred.reduce(Model(lru()).layer, 3, calibration=torch.randn(4, 9, WIDTH), method="hankel_norm")


def test_several_ranks_and_batches_with_labels_are_on_data_too() -> None:
    model, x = Model(lru()), data(16, 20)
    loader = [(x[:8], torch.zeros(8)), (x[8:], torch.zeros(8))]
    plain = nn.Sequential(model.before, model.layer, model.after)
    several = balred.reduce(plain, [2, 4], calibration=loader)
    for rank, small in zip((2, 4), several, strict=True):
        again = balred.reduce(plain, rank, calibration=[x[:8], x[8:]])
        for mine, other in zip(small.parameters(), again.parameters(), strict=True):
            assert torch.equal(mine, other)
    white = balred.reduce(plain, 2)
    assert float((white[1].state_dict()["nu_log"] - several[0][1].state_dict()["nu_log"]).detach().abs().max()) > 1e-3


def test_second_order_systems_have_no_data() -> None:
    one = np.ones((3, 1))
    system = balred.second_order(np.eye(3), np.eye(3) / 10, np.diag([1.0, 2.0, 3.0]), one, one.T)
    for rank in (2, [1, 2]):
        with pytest.raises(
            ValueError, match="second-order systems are balanced on white noise, got balanced_on='data'"
        ):
            balred.reduce(system, rank, calibration=data())


def test_an_analysis_on_data_has_rules_reductions_and_no_bound() -> None:
    one = balred.analyze(Model(lru()), calibration=data())["layer"]
    assert one.sigma.shape == (12,)
    assert np.isnan(one.bound(2))
    assert one.reduce(2).states == 2
    assert 1 <= one.rank(balred.Relative(0.1)) <= 6
    with pytest.raises(
        ValueError, match="ErrorBound needs a method with an a-priori error bound, got 'truncate' on data"
    ):
        one.rank(balred.ErrorBound(1.0))


def test_a_rule_that_asks_for_all_takes_no_more_attempts_than_a_search_has_steps(monkeypatch: Any) -> None:
    """A step of a sixteenth of the order and the halvings of one, as :class:`balred.reduction.diagonalisation.Forms` says.

    Poles close together leave no good form at the largest order, and one by one all orders were tried for each number of states.
    """
    model = Model(LRU(WIDTH, 96, 0.9, 0.95, max_phase=1.0, generator=torch.Generator().manual_seed(1)))
    made: list[int] = []
    plain = diagonalisation._forms
    monkeypatch.setattr(diagonalisation, "_forms", lambda *a: (made.append(1), plain(*a))[1])
    row = balred.plan(model, {"layer": balred.Energy(1.0)}, data(32, 64)).rows[0]
    assert 2 <= len(made) <= 16 + math.ceil(math.log2(2 * 96 / 16))
    assert row.energy == 1.0
    assert row.note == "balanced on data"


def test_growing_poles_are_kept_or_refused_never_clipped() -> None:
    layer = s5()
    with torch.no_grad():
        layer.seq.Lambda.real[:2] = 1.0
        layer.seq.Lambda.real[2:] = -0.5
    model, x = Model(layer), data(64, 40)
    plan = balred.plan(model, {"layer": 8}, x)
    note = plan.rows[0].note
    assert note.startswith("balanced on data; 2 of 10 poles unstable; order 13 instead of 16, which has unstable poles")
    with torch.no_grad():
        want, got = model(x), plan.apply()(x)
        poles = [np.abs(np.asarray(balred.adapt(m.layer)[0].poles)).max() for m in (model, plan.apply())]
    assert float((got - want).square().mean()) < 1e-4 * float(want.square().mean())
    assert 1 < poles[1] <= poles[0] * (1 + 1e-6)
    # without data the two are kept whole, as they are
    with torch.no_grad(), warnings.catch_warnings():
        white = balred.reduce(layer, 9)
        u = torch.randn(2, 40, WIDTH)
        assert float((white(u) - layer(u)).abs().max()) < 0.05 * float(layer(u).abs().max())
    system = balred.adapt(layer)[0]
    with pytest.raises(ValueError, match="can hold stable poles only"):
        balred.adapt(lru())[1](balred.diagonal(log_poles=system.log_poles, B=system.B, C=system.C, D=balred.adapt(lru())[0].D, dt=True, conjugate=True))  # fmt: skip


@pytest.mark.parametrize("scalar", ["outputs", "fisher", "tempered"])
def test_a_divergence_is_measured_on_what_was_kept_out_and_holds(scalar: str) -> None:
    model, x = Model(lru()), data(128, 20)
    plan = balred.plan(model, balred.Divergence(1e-4), x, scalar=scalar)
    small, kept = plan.apply(), x[96:]
    with torch.no_grad():
        a, b = (torch.log_softmax(m(kept).double(), -1) for m in (model, small))
    kl = (a.exp() * (a - b)).sum(-1)
    assert plan.divergence is not None
    assert plan.divergence.value == pytest.approx(float(kl.mean()), rel=1e-4, abs=1e-9)
    assert plan.divergence.error == pytest.approx(float(kl.std() / 32**0.5), rel=1e-4, abs=1e-9)
    assert plan.divergence.value + plan.divergence.error <= 1e-4
    assert small.layer.states < 6
    assert "(tolerance 0.0001), measured on 32 sequences" in repr(plan)
    relative = balred.plan(model, balred.Divergence(0.01, of="values"), x)
    with torch.no_grad():
        want = (relative.apply()(kept) - model(kept)).square().sum() / model(kept).square().sum()
    assert relative.divergence is not None
    assert relative.divergence.value == pytest.approx(float(want), rel=1e-3)


def test_a_bar_is_shown_for_every_pass_over_the_batches() -> None:
    """All batches to keep a quarter out, those for the values, and those kept out for every try; it changes nothing."""
    model, given, seen = Model(lru()), list(data(32, 20).split(8)), []

    def bar(what: Any) -> Any:
        seen.append([len(x) for x in what])
        return what

    rule = balred.Divergence(1e-3)
    plan = balred.plan(model, rule, given, progress=bar)
    tries = int(repr(plan).partition(" tries")[0].rpartition(" ")[2])
    assert tries > 1
    assert seen == [[8] * 4, [6] * 4, *[[2] * 4] * tries]
    assert plan.rows == balred.plan(model, rule, given).rows
    seen.clear()
    assert list(balred.analyze(model, calibration=given, progress=bar)) == ["layer"]
    balred.reduce(model, 4, calibration=given[0], progress=bar)  # one batch is no pass
    assert seen == [[8] * 4]
    with pytest.raises(ValueError, match="progress must be a function of the batches"):
        balred.plan(model, 4, given, progress=True)


def test_states_along_data_take_no_more_memory_than_is_allowed(monkeypatch: Any) -> None:
    """What is held at a time follows: fewer sequences, then positions; the values do not change but by rounding."""
    model, given, held, states_along = Model(lru()), data(32, 20), [], along_data.states_along

    def counted(*args: Any) -> Any:
        x = states_along(*args)
        held.append(x.numel())
        return x

    monkeypatch.setattr(along_data, "states_along", counted)
    want, most = balred.analyze(model, calibration=given)["layer"].hsv, []
    assert max(held) == 32 * 20 * 12  # all of it, of order 12
    for max_bytes in (1 << 17, 1 << 13, 1):
        held.clear()
        got = balred.analyze(model, calibration=given, max_bytes=max_bytes)["layer"].hsv
        np.testing.assert_allclose(got, want, rtol=1e-6, atol=1e-6 * float(want[0]))
        most.append(max(held))
    assert most[0] <= (1 << 17) // 48
    assert most[1] <= (1 << 13) // 48 < 20 * 12
    assert most[2] == 12
    held.clear()
    balred.reduce(model, 4, calibration=given, max_bytes=1)
    assert max(held) == 12
    held.clear()
    how = Calibration(given, max_bytes=1)
    reducer = InTrainingReducer(
        model, torch.optim.SGD(model.parameters(), 1e-3), balred.Order(4), (0, 1), attempts=1, calibration=how
    )
    reducer.step()
    assert max(held) == 12
    with pytest.raises(ValueError, match="max_bytes must be a positive integer, got 0"):
        balred.plan(model, 4, given, max_bytes=0)


def test_a_divergence_needs_data_and_is_of_the_whole_model() -> None:
    model = Model(lru())
    with pytest.raises(ValueError, match="a divergence is measured on data"):
        balred.reduce(model, balred.Divergence(0.1))
    with pytest.raises(ValueError, match="shared by all layers of a model"):
        balred.plan(nn.ModuleList([model]), {"0.layer": balred.Divergence(0.1)}, data())
    with pytest.raises(ValueError, match="there must be at least 4 calibration sequences"):
        balred.reduce(model, balred.Divergence(0.1), calibration=data(3))
