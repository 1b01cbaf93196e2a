"""Selective layers: the choice of states and its compensation, against exact identities on models built for the purpose."""

from __future__ import annotations

import itertools
import warnings
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from torch import nn  # noqa: E402
from torch.nn import functional as F  # noqa: E402

import balred  # noqa: E402
from balred.adapters.torch.layers.mamba import _mamba1, _mamba2  # noqa: E402
from balred.adapters.torch.layers.signals import Accumulator  # noqa: E402
from balred.reduction import CalibrationWarning  # noqa: E402
from balred.registry import AdapterNotFound  # noqa: E402
from balred.registry.entries import entry_of  # noqa: E402
from balred.selection import Moments, refitted, select  # noqa: E402
from balred.selection.elimination import elimination, spectrum  # noqa: E402

WIDTH, CHANNELS, STATES, TOKENS = 6, 8, 5, 20


class Mamba(nn.Module):
    """The Mamba-1 layout written from its equations, one token after the other."""

    def __init__(self, states: int = STATES) -> None:
        super().__init__()
        self.d_state = states
        self.in_proj = nn.Linear(WIDTH, 2 * CHANNELS, bias=False)
        self.conv1d = nn.Conv1d(CHANNELS, CHANNELS, 3, groups=CHANNELS, padding=2)
        self.x_proj = nn.Linear(CHANNELS, 2 + 2 * states, bias=False)
        self.dt_proj = nn.Linear(2, CHANNELS)
        self.A_log = nn.Parameter(torch.log(torch.rand(CHANNELS, states) * 3 + 0.1))
        self.D = nn.Parameter(torch.randn(CHANNELS))
        self.out_proj = nn.Linear(CHANNELS, WIDTH, bias=False)

    def forward(self, hidden: Any) -> Any:
        x, z = self.in_proj(hidden).chunk(2, -1)
        x = F.silu(self.conv1d(x.mT)[..., : x.shape[1]].mT)
        dt, B, C = self.x_proj(x).split([2, self.d_state, self.d_state], -1)
        dt = F.softplus(self.dt_proj(dt))
        h, y = x.new_zeros(len(x), CHANNELS, self.d_state), []
        for t in range(x.shape[1]):
            h = torch.exp(-dt[:, t, :, None] * self.A_log.exp()) * h + (dt * x)[:, t, :, None] * B[:, t, None, :]
            y.append((h * C[:, t, None, :]).sum(-1) + self.D * x[:, t])
        return self.out_proj(torch.stack(y, 1) * F.silu(z))


class Mamba2(nn.Module):
    """The Mamba-2 layout written from its equations: two groups of two heads of two channels, no norm."""

    def __init__(self, states: int = STATES, groups: int = 2) -> None:
        super().__init__()
        self.d_state, self.ngroups = states, groups
        conv = CHANNELS + 2 * groups * states
        self.in_proj = nn.Linear(WIDTH, CHANNELS + conv + 4, bias=False)
        self.conv1d = nn.Conv1d(conv, conv, 3, groups=conv, padding=2)
        self.dt_bias = nn.Parameter(torch.randn(4))
        self.A_log = nn.Parameter(torch.randn(4))
        self.D = nn.Parameter(torch.randn(4))
        self.out_proj = nn.Linear(CHANNELS, WIDTH, bias=False)

    def forward(self, hidden: Any) -> Any:
        g, n = self.ngroups, self.d_state
        z, xBC, dt = self.in_proj(hidden).split([CHANNELS, self.conv1d.out_channels, 4], -1)
        xBC = F.silu(self.conv1d(xBC.mT)[..., : xBC.shape[1]].mT)
        x, B, C = xBC.split([CHANNELS, g * n, g * n], -1)
        dt = F.softplus(dt + self.dt_bias)
        x = x.unflatten(-1, (4, 2))
        B, C = (v.unflatten(-1, (g, n)).repeat_interleave(4 // g, 2) for v in (B, C))
        h, y = x.new_zeros(len(x), 4, 2, n), []
        for t in range(x.shape[1]):
            decay = torch.exp(-dt[:, t] * self.A_log.exp())[..., None, None]
            h = decay * h + (dt[:, t, :, None] * x[:, t])[..., None] * B[:, t, :, None, :]
            y.append((h * C[:, t, :, None, :]).sum(-1) + self.D[:, None] * x[:, t])
        return self.out_proj(torch.stack(y, 1).flatten(-2) * F.silu(z))


@pytest.fixture(params=[Mamba, Mamba2])
def layer(request: Any) -> Any:
    torch.manual_seed(0)
    return request.param().double()


@pytest.fixture
def data() -> Any:
    return torch.randn(3, TOKENS, WIDTH, dtype=torch.double, generator=torch.Generator().manual_seed(1))


def moments_of(layer: Any, data: Any) -> Moments:
    read = _mamba1 if isinstance(layer, Mamba) else _mamba2
    sums = Accumulator()
    with torch.no_grad():
        sums.add(read(layer, data, None))
    return sums.moments()


def drop(layer: Any, states: Any) -> Any:
    """The layer with the read-out of these states (of the group they are in) set to zero, by hand."""
    import copy

    new = copy.deepcopy(layer)
    with torch.no_grad():
        for s in states:
            if isinstance(layer, Mamba):
                new.x_proj.weight[2 + STATES + s] = 0
            else:
                row = CHANNELS + layer.ngroups * STATES + s
                new.in_proj.weight[CHANNELS + row] = 0
                new.conv1d.bias[row] = 0
    return new


# ------------------------------------------------------------------------------------------------ the mathematics


def random_moments(n: int, groups: int = 1, seed: int = 0, mixable: bool = False) -> Moments:
    rng = np.random.default_rng(seed)
    if not mixable:
        x = rng.normal(size=(40, groups * n)) @ rng.normal(size=(groups * n, groups * n))
        return Moments(x.T @ x, groups, np.ones((groups, n)), np.ones((groups, n)))
    C, V = rng.normal(size=(60, n)), rng.normal(size=(60, n)) @ rng.normal(size=(n, n))
    f = np.einsum("tn,tm->tnm", C, V)
    g = np.einsum("tnn->tn", f)
    return Moments(g.T @ g, 1, np.ones((1, n)), np.ones((1, n)), np.einsum("tnm,tkl->nmkl", f, f))


@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize("rank", [1, 2, 3])
def test_the_error_of_a_set_is_the_quadratic_form_and_exchange_is_locally_best(groups: int, rank: int) -> None:
    m = random_moments(4, groups)
    found = select(m, rank)
    gone = np.ones((groups, 4))
    np.put_along_axis(gone, found.kept, 0, axis=1)
    g = gone.reshape(-1)
    assert found.error == pytest.approx(g @ m.contributions @ g / m.contributions.sum(), rel=1e-12)
    for a, b in itertools.product(range(groups * 4), repeat=2):
        if a // 4 == b // 4 and g[a] == 0 and g[b] == 1:
            other = g.copy()
            other[a], other[b] = 1, 0
            assert other @ m.contributions @ other >= g @ m.contributions @ g * (1 - 1e-12)


def test_cancelling_states_go_together() -> None:
    """States 1 and 2 cancel: each has the largest energy, both together have none."""
    x = np.random.default_rng(0).normal(size=(50, 2))
    parts = np.column_stack([x[:, 0], 10 * x[:, 1], -10 * x[:, 1]])
    m = Moments(parts.T @ parts, 1, np.ones((1, 3)), np.ones((1, 3)))
    assert select(m, 1).kept.tolist() == [[0]]
    assert select(m, 1).error == pytest.approx(0, abs=1e-12)
    assert select(m, 1, "separate").kept.tolist() != [[0]]


@pytest.mark.parametrize("rank", [1, 2, 4])
def test_refitting_is_the_least_squares_fit(rank: int) -> None:
    """Against numpy's lstsq on the samples themselves."""
    rng = np.random.default_rng(3)
    C, V = rng.normal(size=(80, 5)), rng.normal(size=(80, 5)) @ rng.normal(size=(5, 5))
    f = np.einsum("tn,tm->tnm", C, V)
    kept = [3, 0, 4, 1][:rank]
    K, error = refitted(np.einsum("tnm,tkl->nmkl", f, f), sorted(kept))
    design = f[:, :, sorted(kept)].reshape(80, -1)
    want, *_ = np.linalg.lstsq(design, np.einsum("tnn->t", f), rcond=None)
    # the ridge is 1e-6 relative; its bias is of that order times the conditioning of the design
    np.testing.assert_allclose(K, want.reshape(5, rank).T, atol=1e-3)
    miss = np.einsum("tnn->t", f) - design @ want
    assert error == pytest.approx(miss @ miss, rel=1e-4)


def test_elimination_prices_are_the_errors_after_refitting() -> None:
    m = random_moments(4, mixable=True)
    order, errors = elimination(m)
    assert sorted(order[0]) == [0, 1, 2, 3]
    for rank in (1, 2, 3):
        _, error = refitted(m.products, np.sort(order[0, 4 - rank :]))
        assert errors[rank] == pytest.approx(error, rel=1e-3)
    assert errors[4] == 0
    assert errors[0] == pytest.approx(m.contributions.sum(), rel=1e-3)


@pytest.mark.parametrize("mixable", [False, True])
def test_the_spectrum_bounds_the_error_by_its_tail(mixable: bool) -> None:
    m = random_moments(5, mixable=mixable, seed=2)
    s, errors = spectrum(m), elimination(m)[1]
    assert (np.diff(s) <= 0).all()
    for r in range(6):
        assert (s[r:] ** 2).sum() >= errors[r] * (1 - 1e-9)


def test_an_unknown_selection_is_an_error() -> None:
    with pytest.raises(ValueError, match="selection must be one of joint, separate, random, got 'best'"):
        select(random_moments(3), 1, "best")


# ------------------------------------------------------------------------------------------------ moments of a layer


def test_moments_are_those_of_what_the_layer_puts_out(layer: Any, data: Any) -> None:
    """Setting the read-out of states to zero changes the output by exactly the energy that the moments say."""
    m = moments_of(layer, data)
    total = layer.ngroups * STATES if isinstance(layer, Mamba2) else STATES
    for states in ([0], [1, 3], list(range(total))):
        gone = np.zeros(total)
        gone[states] = 1
        with torch.no_grad():
            change = (layer(data) - drop(layer, states)(data)).square().sum()
        assert gone @ m.contributions @ gone == pytest.approx(float(change), rel=1e-10)


def test_moments_add_up_over_batches_and_chunks(layer: Any, data: Any, monkeypatch: Any) -> None:
    whole = moments_of(layer, data)
    monkeypatch.setattr("balred.adapters.torch.layers.signals._CHUNK", 1)
    sums = Accumulator()
    read = _mamba1 if isinstance(layer, Mamba) else _mamba2
    with torch.no_grad():
        for row in data:
            sums.add(read(layer, row[None], None))
    parts = sums.moments()
    np.testing.assert_allclose(parts.contributions, whole.contributions, rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(parts.B, whole.B, rtol=1e-12)
    if whole.products is not None:
        np.testing.assert_allclose(parts.products, whole.products, rtol=1e-9, atol=1e-12)
        np.testing.assert_allclose(np.einsum("nnkk->nk", whole.products), whole.contributions, rtol=1e-9, atol=1e-12)


# ------------------------------------------------------------------------------------------------ reduced layers


@pytest.mark.parametrize("rank", [1, 3, 5])
def test_the_measured_error_is_the_planned_one(layer: Any, data: Any, rank: int) -> None:
    small = balred.reduce(layer, rank, calibration=data)
    row = balred.plan(layer, rank, calibration=data).rows[0]
    assert (row.before, row.after) == (5, rank)
    with torch.no_grad():
        y, z = layer(data), small(data)
        silent = drop(layer, range(moments_of(layer, data).contributions.shape[0]))(data)
    share = float((y - z).square().sum() / (y - silent).square().sum())
    assert 1 - row.energy == pytest.approx(share, rel=1e-6, abs=1e-12)


def test_full_rank_is_the_same_operator_in_a_new_layer(layer: Any, data: Any) -> None:
    same = balred.reduce(layer, STATES, calibration=data)
    assert same is not layer
    assert torch.equal(same(data), layer(data))


def test_dead_states_go_first_and_without_error(layer: Any, data: Any) -> None:
    dead = [1, 4] if isinstance(layer, Mamba) else [1, 4, STATES, STATES + 2]
    layer = drop(layer, dead)
    small = balred.reduce(layer, 3, calibration=data)
    with torch.no_grad():
        torch.testing.assert_close(small(data), layer(data), rtol=1e-9, atol=1e-10)


def test_a_selection_is_the_layer_with_the_others_silent(layer: Any, data: Any) -> None:
    small = balred.reduce(layer, 2, calibration=data, compensate=False)
    kept = select(Moments(m.contributions, m.groups, m.B, m.C), 2).kept if (m := moments_of(layer, data)) else None
    gone = [g * STATES + s for g, row in enumerate(kept) for s in range(STATES) if s not in row]
    with torch.no_grad():
        torch.testing.assert_close(small(data), drop(layer, gone)(data), rtol=1e-10, atol=1e-12)


def test_shapes_and_sizes_shrink(data: Any) -> None:
    torch.manual_seed(0)
    one, two = balred.reduce([Mamba(), Mamba2()][0].double(), 2, calibration=data), None
    two = balred.reduce(Mamba2().double(), 2, calibration=data)
    assert one.d_state == two.d_state == 2
    assert {n: tuple(p.shape) for n, p in one.named_parameters() if n in ("A_log", "x_proj.weight")} == {
        "A_log": (8, 2), "x_proj.weight": (6, 8),
    }  # fmt: skip
    assert one.x_proj.out_features == 6
    assert two.in_proj.weight.shape == (8 + 16 + 4, 6)
    assert two.conv1d.weight.shape == (16, 1, 3)
    assert (two.conv1d.in_channels, two.conv1d.out_channels, two.conv1d.groups) == (16, 16, 16)


def test_compensation_lowers_the_error_on_new_data(data: Any) -> None:
    """States 0 and 1 have the same poles and B, so one can do the work of both; selection alone cannot."""
    torch.manual_seed(0)
    layer = Mamba().double()
    with torch.no_grad():
        layer.A_log[:, 1] = layer.A_log[:, 0]
        layer.x_proj.weight[3] = layer.x_proj.weight[2]
    fresh = torch.randn(2, 30, WIDTH, dtype=torch.double, generator=torch.Generator().manual_seed(9))
    with torch.no_grad():
        ours = balred.reduce(layer, 4, calibration=data)(fresh) - layer(fresh)
        plain = balred.reduce(layer, 4, calibration=data, compensate=False)(fresh) - layer(fresh)
    assert ours.abs().max() < 1e-4 * layer(fresh).abs().max()
    assert plain.abs().max() > 1e-2 * layer(fresh).abs().max()


# ------------------------------------------------------------------------------------------------ models and data


class Model(nn.Module):
    def __init__(self, layers: int = 2) -> None:
        super().__init__()
        self.layers = nn.ModuleList(Mamba() for _ in range(layers))
        self.drop = nn.Dropout(0.5)

    def forward(self, x: Any) -> Any:
        for layer in self.layers:
            x = x + self.drop(layer(x))
        return x


@pytest.fixture
def model() -> Any:
    torch.manual_seed(0)
    return Model().double()


def test_every_form_of_calibration_is_the_same(model: Any, data: Any) -> None:
    loader = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(data), batch_size=2)
    forms = [data, {"x": data}, [data], [{"x": data}], (d[None] for d in data), loader, list(loader)]
    want = balred.reduce(model, 2, calibration=data).state_dict()
    for form in forms:
        for name, value in balred.reduce(model, 2, calibration=form).state_dict().items():
            torch.testing.assert_close(value, want[name], rtol=1e-5, atol=1e-8)


def test_the_original_keeps_weights_modes_and_no_hooks(model: Any, data: Any) -> None:
    model.train()
    model.layers[1].eval()
    before = {n: v.clone() for n, v in model.state_dict().items()}
    small = balred.reduce(model, 2, calibration=data)
    assert all(torch.equal(v, before[n]) for n, v in model.state_dict().items())
    assert (model.training, model.layers[0].training, model.layers[1].training) == (True, True, False)
    assert not model.layers[0]._forward_pre_hooks
    assert not small.layers[0]._forward_pre_hooks


def test_hooks_and_modes_come_back_after_an_error(model: Any) -> None:
    model.train()
    with pytest.raises(ValueError, match="must run on the calibration data, got RuntimeError"):
        balred.reduce(model, 2, calibration=torch.zeros(1, 4, WIDTH + 1, dtype=torch.double))
    assert model.training
    assert not model.layers[0]._forward_hooks


@pytest.mark.parametrize(
    ("calibration", "given"),
    [
        (3, "got 3"),
        ("text", "got 'text'"),
        ([1.0], "got a batch of type float"),
        ([(1, 2)], "got a batch of type tuple"),
    ],
)
def test_wrong_calibration_is_an_error(model: Any, calibration: Any, given: str) -> None:
    with pytest.raises(ValueError, match=f"calibration must be an array, a dict.*{given}"):
        balred.reduce(model, 2, calibration=calibration)


def test_empty_calibration_is_an_error(model: Any) -> None:
    with pytest.raises(ValueError, match="at least one batch, got none"):
        balred.reduce(model, 2, calibration=iter(()))


def test_calibration_that_is_not_finite_is_an_error(model: Any, data: Any) -> None:
    data = data.clone()
    data[0, 0, 0] = float("nan")
    with pytest.raises(ValueError, match=r"must be finite, got NaN or infinity in layers\.0"):
        balred.reduce(model, 2, calibration=data)


def test_a_layer_that_data_do_not_reach_is_an_error(model: Any, data: Any) -> None:
    model.unused = Mamba().double()
    with pytest.raises(ValueError, match="every selective layer, got none in unused"):
        balred.reduce(model, 2, calibration=data)


@pytest.mark.parametrize("rank", [0, -1, 6, 2.5, True])
def test_a_bad_rank_is_an_error(model: Any, data: Any, rank: Any) -> None:
    with pytest.raises(ValueError, match="rank must be"):
        balred.reduce(model, rank, calibration=data)


def test_an_error_bound_and_methods_are_refused(model: Any, data: Any) -> None:
    with pytest.raises(ValueError, match="no a-priori error bound"):
        balred.reduce(model, balred.ErrorBound(0.1), calibration=data)
    with pytest.raises(ValueError, match=r"method must keep its default for selective layers, .*, got 'modal'"):
        balred.reduce(model, 2, calibration=data, method="modal")


def test_no_calibration_warns_of_what_is_lost(model: Any, data: Any) -> None:
    with pytest.warns(CalibrationWarning, match="white noise, which does not know what real inputs select") as caught:
        small = balred.reduce(model, 2)
    assert caught[0].filename == __file__
    assert small.layers[0].d_state == 2
    assert torch.isfinite(small(data)).all()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        balred.reduce(model, 2, calibration=data)


def test_without_calibration_dead_states_go_first_too(layer: Any, data: Any) -> None:
    dead = [0, 2] if isinstance(layer, Mamba) else [0, 2, STATES + 1, STATES + 3]
    layer = drop(layer, dead)
    with pytest.warns(CalibrationWarning):
        small = balred.reduce(layer, 3)
    with torch.no_grad():
        torch.testing.assert_close(small(data), layer(data), rtol=1e-5, atol=1e-6)


def test_rules_and_dicts_are_rounded_up_to_the_largest(model: Any, data: Any) -> None:
    p = balred.plan(model, {"layers.0": 2, "layers.1": 3}, calibration=data)
    assert [r.after for r in p.rows] == [3, 3]
    assert "2 rounded up to 3" in p.rows[0].note
    assert "rounded" not in p.rows[1].note
    rule = balred.plan(model, balred.Energy(0.9, squared=True), calibration=data)
    assert rule.rows[0].after == rule.rows[1].after
    assert all(r.energy >= 0.9 for r in rule.rows)
    with pytest.raises(ValueError, match="must be layers of the model"):
        balred.plan(model, {"layer": 2}, calibration=data)


def test_a_selective_layer_has_no_operator(model: Any) -> None:
    assert entry_of(model.layers[0]).selective is not None
    with pytest.raises(AdapterNotFound, match="calibration=data"):
        balred.hsv(model)


def test_other_modules_are_not_taken_for_mamba() -> None:
    assert entry_of(nn.Linear(2, 2)) is None
    odd = Mamba2()
    odd.in_proj = nn.Linear(WIDTH, 7)  # holds something else than z, x, B, C and dt
    assert entry_of(odd) is None


def test_linear_layers_beside_selective_ones_are_served_as_before(data: Any) -> None:
    from balred.adapters.torch import LRU, InTrainingReducer

    torch.manual_seed(0)
    model = nn.Sequential(LRU(WIDTH, 12), Mamba())
    assert list(balred.hsv(model)) == ["0"]
    reducer = InTrainingReducer(model, torch.optim.SGD(model.parameters(), lr=0.0), balred.Energy(0.5), (0, 1), 1)
    report = reducer.step()
    assert report is not None
    assert [cut.layer for cut in report.cuts] == ["0"]
    p = balred.plan(model, 3, calibration=data.float())
    assert [(r.type, r.after) for r in p.rows] == [("LRU", 3), ("Mamba", 3)]


def test_half_precision(data: Any) -> None:
    torch.manual_seed(0)
    model = Model().to(torch.bfloat16)
    small = balred.reduce(model, 2, calibration=data.to(torch.bfloat16))
    assert {p.dtype for p in small.parameters()} == {torch.bfloat16}
    assert small.layers[0].A_log.shape == (CHANNELS, 2)
