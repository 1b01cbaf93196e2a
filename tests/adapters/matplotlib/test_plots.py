"""What the pictures show: lines are read back and compared with what the library computes otherwise."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

import balred

matplotlib = pytest.importorskip("matplotlib")
matplotlib.use("Agg")

import matplotlib.pyplot as plt  # noqa: E402

from balred.adapters.matplotlib import plot_bode, plot_error, plot_hsv, plot_sigma  # noqa: E402

ERROR_LABEL = "bound on the H-infinity norm of the error"


@pytest.fixture(autouse=True)
def _closed():
    """Every picture can be drawn and saved without a warning, nothing is shown, no setting stays changed."""
    before = dict(matplotlib.rcParams)
    shown = plt.show
    plt.show = lambda *args, **kwargs: pytest.fail("plt.show was called")
    yield
    plt.show = shown
    try:
        for number in plt.get_fignums():
            plt.figure(number).canvas.draw()
    finally:
        plt.close("all")
    assert dict(matplotlib.rcParams) == before


def lines(ax):
    return {line.get_label(): line for line in ax.get_lines()}


def xy(line):
    return np.asarray(line.get_xdata(), float), np.asarray(line.get_ydata(), float)


def legend(ax):
    return [text.get_text() for text in ax.get_legend().get_texts()]


def test_values_bound_and_cut_of_one_system():
    g = balred.testing.random_system(12, 2, 2, seed=0)
    a = balred.analyze(g)
    ax = plot_hsv(g, balred.Energy(0.9))
    r = a.rank(balred.Energy(0.9))
    i, values = xy(lines(ax)["values"])
    assert_array_equal(i, np.arange(1, 13))
    assert_allclose(values, balred.hsv(g))
    k, bounds = xy(lines(ax)[ERROR_LABEL])
    assert_allclose(bounds, [a.bound(int(j)) for j in k])
    assert k[0] == 1
    cut = lines(ax)[f"cut: {r} of 12 states, bound {a.bound(r):.3g}"]
    assert_allclose(cut.get_xdata(), r + 0.5)
    assert (ax.get_yscale(), ax.get_xlabel(), ax.get_ylabel()) == (
        "log", "order $i$", r"Hankel singular value $\sigma_i$"
    )  # fmt: skip
    assert set(legend(ax)) == set(lines(ax))


def test_given_axes_and_an_analysis_are_used():
    figure, (left, right) = plt.subplots(1, 2)
    a = balred.analyze(balred.testing.random_system(6))
    assert plot_hsv(a, 2, ax=right) is right
    assert plot_error(a.system, a.reduce(2), ax=left) is left
    assert plt.get_fignums() == [figure.number]


def test_the_cut_of_a_conjugate_system_is_at_the_states_of_the_operator():
    g = balred.testing.random_system(16, 2, 2, dt=1, kind="conjugate", seed=1)
    ax = plot_hsv(g, 5)
    _, values = xy(lines(ax)["values"])
    assert_allclose(values, balred.hsv(g))
    made = balred.analyze(g).reduction(5)
    (cut,) = [line for label, line in lines(ax).items() if label.startswith("cut")]
    assert cut.get_label() == f"cut: {made.system.states} of 16 states, bound {float(made.bound):.3g}"
    assert_allclose(cut.get_xdata(), made.stable_order + 0.5)


def test_unstable_modes_are_marked_apart():
    g = balred.ss(np.diag([0.5, 0.2, -1.0, -2.0, -3.0]), np.ones((5, 1)), np.arange(1.0, 6.0)[None])
    ax = plot_hsv(g, 3)
    i, values = xy(lines(ax)["values"])
    assert_array_equal(i, [3, 4, 5])
    assert_allclose(values, balred.hsv(g)[2:])
    assert_array_equal(lines(ax)[r"unstable, $\sigma = \infty$"].get_xdata(), [1, 2])
    k, bounds = xy(lines(ax)[ERROR_LABEL])
    assert_array_equal(k, [3, 4])
    a = balred.analyze(g)
    assert_allclose(bounds, [a.bound(3), a.bound(4)])
    (cut,) = [line for label, line in lines(ax).items() if label.startswith("cut: 3 of 5")]
    assert_allclose(cut.get_xdata(), 3.5)


def test_nothing_but_unstable_modes_and_a_static_gain():
    ax = plot_hsv(balred.ss([[1.0]], [[1.0]], [[1.0]]))
    assert_array_equal(lines(ax)[r"unstable, $\sigma = \infty$"].get_xdata(), [1])
    ax = plot_hsv(balred.ss(np.zeros((0, 0)), np.zeros((0, 1)), np.zeros((1, 0)), [[3.0]]))
    assert xy(lines(ax)["values"])[0].size == 0


def test_zeros_are_not_drawn():
    g = balred.ss(np.diag([-1.0, -2.0, -3.0]), [[1.0], [1.0], [0.0]], [[1.0, 1.0, 0.0]])
    _, values = xy(lines(plot_hsv(g))["values"])
    assert np.isnan(values[2])
    assert_allclose(values[:2], balred.hsv(g)[:2])


@pytest.mark.parametrize(
    ("method", "label"),
    [
        ("stochastic", "bound on the relative error, |G^-1 (G - Gk)|"),
        ("lqg", "bound on the error of the normalised coprime factors"),
        ("positive_real", None),
    ],
)
def test_other_methods_show_their_own_values_and_bounds(method, label):
    g = balred.testing.random_system(6, 2, 2, seed=2)
    g = balred.ss(g.A, g.B, g.B.T, 50 * np.eye(2))
    a = balred.analyze(g, method=method)
    ax = plot_hsv(g, 2, method=method)
    _, values = xy(lines(ax)["values"])
    assert_allclose(values, a.sigma)
    assert ax.get_ylabel() == r"value $\sigma_i$ of the method"
    bounds = [name for name in lines(ax) if name.startswith("bound")]
    assert bounds == ([] if label is None else [label])
    if label:
        k, drawn = xy(lines(ax)[label])
        assert_allclose(drawn, [a.bound(int(j)) for j in k])


def test_options_reach_the_method():
    g = balred.testing.random_system(6, 2, 2, seed=2)
    _, values = xy(lines(plot_hsv(g, method="stochastic", beta=3.0))["values"])
    assert_allclose(values, balred.analyze(g, method="stochastic", beta=3.0).sigma)
    with pytest.raises(TypeError, match="the options of method 'truncate' are none, got 'beta'"):
        plot_hsv(g, beta=3.0)


@pytest.mark.full
def test_several_layers_get_a_curve_each():
    layers = {
        "first": balred.testing.random_system(8, dt=1, seed=1),
        "second": balred.testing.random_system(6, dt=1, kind="conjugate", seed=2),
        "third": balred.testing.random_system(3, dt=1, seed=3),
    }
    ax = plot_hsv(layers, 4)
    assert legend(ax) == ["first: 4 of 8 states", "second: 4 of 6 states", "third: 3 states"]
    for name, label in zip(layers, legend(ax), strict=True):
        assert_allclose(xy(lines(ax)[label])[1], balred.hsv(layers[name]))
    assert len({lines(ax)[label].get_color() for label in legend(ax)}) == 3
    rings = [xy(line) for line in ax.get_lines() if line.get_label() not in legend(ax)]
    kept = balred.analyze(layers["second"]).reduction(4).stable_order
    assert [int(x[0]) for x, _ in rings] == [4, kept]
    assert_allclose(rings[0][1], balred.hsv(layers["first"])[3])
    ax = plot_hsv(layers, {"second": balred.Energy(0.9)})
    assert legend(ax)[::2] == ["first: 8 states", "third: 3 states"]
    analyses = {name: balred.analyze(g) for name, g in layers.items()}
    assert legend(plot_hsv(analyses, 4)) == legend(plot_hsv(layers, 4))


@pytest.mark.full
def test_many_layers_have_different_colours():
    ax = plot_hsv([balred.testing.random_system(3, seed=k) for k in range(14)])
    assert len({tuple(line.get_color()) for line in ax.get_lines()}) == 14


def test_a_batch_is_a_median_in_a_band_with_the_largest_bound():
    g = balred.testing.random_system(6, dt=1, batch=(2, 7), seed=3)
    ax = plot_hsv(g, 3)
    _, values = xy(lines(ax)["values, median of 14"])
    all_values = balred.hsv(g).reshape(14, 6)
    assert_allclose(values, np.median(all_values, axis=0))
    assert len(ax.collections) == 2
    outer = ax.collections[0].get_paths()[0].vertices[:, 1]
    assert_allclose([outer.min(), outer.max()], [all_values.min(), all_values.max()])
    _, bounds = xy(lines(ax)[ERROR_LABEL])
    assert_allclose(bounds[2], np.max(balred.analyze(g).bound(3)))


@pytest.mark.parametrize("dt", [0, True, 0.1])
def test_gains_error_and_bound(dt):
    g = balred.testing.random_system(10, 2, 3, dt=dt, seed=4)
    a = balred.analyze(g)
    small = a.reduce(4)
    ax = plot_error(g, small, bound=a)
    omega, full = xy(lines(ax)["full, 10 states"])
    step = 1.0 if dt is True else dt
    for j in (0, 200, len(omega) - 1):
        s = 1j * omega[j] if dt == 0 else np.exp(1j * omega[j] * step)
        for label, matrix in [("full, 10 states", g(s)), ("reduced, 4 states", small(s)), ("error", g(s) - small(s))]:
            assert_allclose(xy(lines(ax)[label])[1][j], 20 * np.log10(np.linalg.norm(matrix, 2)), rtol=1e-9)
    bound = lines(ax)[f"bound {a.bound(4):.3g}"]
    assert_allclose(bound.get_ydata(), 20 * np.log10(a.bound(4)))
    error = xy(lines(ax)["error"])[1]
    assert error.max() <= 20 * np.log10(float(balred.error(g, small))) + 1e-6
    assert error.max() > 20 * np.log10(0.95 * float(balred.error(g, small)))
    assert ax.get_xlabel() == ("frequency (rad per step)" if dt is True else "frequency (rad/s)")
    assert ax.get_ylabel() == "largest singular value (dB)"
    assert ax.get_xscale() == "log"
    assert ("Nyquist frequency" in lines(ax)) == bool(dt)
    if dt:
        assert_allclose(omega[-1], np.pi / step)
        assert_allclose(lines(ax)["Nyquist frequency"].get_xdata(), np.pi / step)
    assert full.shape == omega.shape


def test_a_number_as_bound_given_frequencies_and_no_bound():
    g = balred.testing.random_system(6, seed=5)
    small = balred.reduce(g, 2)
    ax = plot_error(g, small, omega=[3.0, 1.0], bound=0.25)
    assert_array_equal(lines(ax)["error"].get_xdata(), [1.0, 3.0])
    assert_allclose(lines(ax)["bound 0.25"].get_ydata(), 20 * np.log10(0.25))
    for nothing in (None, np.nan, 0.0):
        assert [x for x in lines(plot_error(g, small, bound=nothing)) if x.startswith("bound")] == []


def test_an_error_of_zero_is_not_drawn():
    g = balred.testing.random_system(4, seed=6)
    assert np.all(np.isnan(xy(lines(plot_error(g, g))["error"])[1]))


def test_of_complex_systems_the_larger_gain_of_both_signs_is_drawn():
    g = balred.ss(np.array([[-0.1 - 3j]]), np.ones((1, 1)), np.ones((1, 1)))
    ax = plot_error(g, balred.ss([[-1.0]], [[1.0]], [[1.0]]), omega=[3.0])
    assert_allclose(xy(lines(ax)["full, 1 states"])[1], 20.0)  # 1 / 0.1 at -3 rad/s


def test_curves_that_fall_away_do_not_squeeze_the_others():
    n = 60
    A = 900.0 * (np.diag(np.ones(n - 1), 1) - 2 * np.eye(n) + np.diag(np.ones(n - 1), -1))
    rod = balred.ss(A, np.eye(n)[:, :1], np.eye(n)[-1:])
    for dt in (0, 1e-3):
        g = rod if dt == 0 else balred.ss(np.linalg.inv(np.eye(n) - dt * A), rod.B, rod.C, dt=dt)
        ax = plot_error(g, balred.reduce(g, 3))
        lowest = min(np.nanmax(xy(lines(ax)[name])[1]) for name in ("error", f"full, {n} states", "reduced, 3 states"))
        assert ax.get_ylim()[0] >= lowest - 80 - 1e-9


def test_an_unspecified_step_is_that_of_the_other():
    g = balred.testing.random_system(4, dt=0.1, seed=7)
    same = balred.ss(g.A, g.B, g.C, g.D, dt=True)
    ax = plot_error(g, same)
    assert np.all(np.isnan(xy(lines(ax)["error"])[1]))
    assert ax.get_xlabel() == "frequency (rad/s)"


def test_bode_magnitude_and_phase():
    g = balred.testing.random_system(8, 1, 1, seed=8)
    small = balred.reduce(g, 3)
    magnitude, phase = plot_bode(g, small, labels=["plant", "model"])
    assert legend(magnitude) == ["plant", "model"]
    assert phase.get_legend() is None
    for label, system in (("plant", g), ("model", small)):
        omega, m = xy(lines(magnitude)[label])
        _, degrees = xy(lines(phase)[label])
        want = np.array([system(1j * w)[0, 0] for w in omega])
        assert_allclose(10 ** (m / 20) * np.exp(1j * np.radians(degrees)), want, rtol=1e-9)
        assert np.abs(np.diff(degrees)).max() < 90
    assert (magnitude.get_ylabel(), phase.get_ylabel(), phase.get_xlabel()) == (
        "magnitude (dB)", "phase (degrees)", "frequency (rad/s)"
    )  # fmt: skip
    axes = plt.subplots(2, 1)[1]
    assert plot_bode(g, axes=axes) is axes


def test_phases_start_on_the_same_turn():
    """-1/(s + 1) and its like with rounding errors have angles of 180 or -180 degrees."""
    a, b = (balred.ss([[-1.0]], [[1.0 + 0j]], [[-1.0]], [[1e-12j * sign]]) for sign in (1, -1))
    _, phase = plot_bode(a, b, omega=[1e-13, 1.0], labels=["a", "b"])
    assert_allclose(xy(lines(phase)["a"])[1], xy(lines(phase)["b"])[1], atol=1e-6)


SISO, MIMO = balred.testing.random_system(3, 1, 1), balred.testing.random_system(3)
BATCH = balred.testing.random_system(3, batch=(2,))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: plot_hsv(SISO, 9), "rank must be between 1 and 3, got 9"),
        (lambda: plot_hsv(SISO, method="nothing"), "method must be one of"),
        (lambda: plot_error(BATCH, BATCH), r"a single system is needed, got a batch of shape \(2,\)"),
        (lambda: plot_error(SISO, MIMO), "must have the same outputs and inputs"),
        (lambda: plot_error(SISO, balred.testing.random_system(3, 1, 1, dt=1)), "must have the same dt, got 0, 1"),
        (
            lambda: plot_error(*(balred.testing.random_system(3, dt=dt) for dt in (0.1, 0.2))),
            "must have the same dt, got 0.1, 0.2",
        ),
        (lambda: plot_error(SISO, SISO, omega=[0.0, 1.0]), "omega must be a vector of positive frequencies"),
        (lambda: plot_error(SISO, SISO, omega=[]), "omega must be a vector of positive frequencies"),
        (lambda: plot_error(SISO, SISO, omega=[[1.0]]), "omega must be a vector of positive frequencies"),
        (lambda: plot_error(SISO, SISO, bound=-1.0), "bound must not be negative, got -1.0"),
        (
            lambda: plot_error(MIMO, balred.reduce(MIMO, 2), bound=balred.analyze(MIMO, method="stochastic")),
            "bound must be a bound of the H-infinity norm of the error, got an analysis that bounds the relative error",
        ),
        (lambda: plot_bode(), "a Bode plot needs at least one system, got none"),
        (lambda: plot_sigma(), "a plot of singular values needs at least one system, got none"),
        (lambda: plot_bode(MIMO, SISO), r"same outputs and inputs, got \[\(2, 2\), \(1, 1\)\]"),
        (lambda: plot_bode(MIMO, inputs=2), "inputs must be between 0 and 1, got 2"),
        (lambda: plot_bode(MIMO, outputs="position"), "outputs must be between 0 and 1, got 'position'"),
        (lambda: plot_bode(MIMO, outputs=[]), "outputs must be at least one, got none"),
        (lambda: plot_bode(MIMO, axes=[1, 2]), "axes must be 4 x 2 for these inputs and outputs, got 2"),
        (lambda: plot_bode(SISO, labels=["a", "b"]), "a label for each of the 1 systems, got 2"),
    ],
)
def test_bad_input(call, message):
    with pytest.raises(ValueError, match=message):
        call()
    assert plt.get_fignums() == []  # nothing is left half drawn


def test_a_layer_is_drawn():
    torch = pytest.importorskip("torch")
    from balred.adapters.torch import LRU

    torch.manual_seed(0)
    layer = LRU(features=2, states=12)
    small = balred.reduce(layer, 5)
    ax = plot_hsv(layer, 5)
    assert_allclose(xy(lines(ax)["values"])[1], balred.hsv(layer).detach().numpy(), rtol=1e-5)
    ax = plot_error(layer, small, bound=balred.analyze(layer))
    assert np.max(xy(lines(ax)["error"])[1]) < 20 * np.log10(balred.analyze(layer).bound(5))


def test_singular_values_are_those_of_the_response():
    g, small = MIMO, balred.reduce(MIMO, 2)
    omega = np.logspace(-2, 2, 30)
    ax = plot_sigma(g, small, omega=omega, labels=["plant", "model"])
    drawn = [xy(line)[1] for line in ax.get_lines()]
    for system, pair in ((g, drawn[:2]), (small, drawn[2:])):
        values = np.linalg.svd([system(1j * w) for w in omega], compute_uv=False)
        assert_allclose(np.array(pair).T, 20 * np.log10(values), rtol=1e-6, atol=1e-6)
    assert legend(ax) == ["plant", "model"]
    assert len(plot_sigma(g, small, every=False).get_lines()) == 2


def test_a_bode_plot_has_every_channel_or_those_asked_for():
    omega = np.logspace(-2, 2, 30)
    axes = plot_bode(MIMO, omega=omega)
    assert axes.shape == (4, 2)
    h = np.array([MIMO(1j * w) for w in omega])
    for p in range(2):
        for m in range(2):
            _, magnitude = xy(axes[2 * p, m].get_lines()[0])
            assert_allclose(magnitude, 20 * np.log10(np.abs(h[:, p, m])), rtol=1e-6)
            _, phase = xy(axes[2 * p + 1, m].get_lines()[0])
            assert_allclose(np.exp(1j * np.radians(phase)), h[:, p, m] / np.abs(h[:, p, m]), rtol=1e-6)
    (magnitude, _) = plot_bode(MIMO, omega=omega, inputs=1, outputs=[0])
    assert_array_equal(xy(magnitude.get_lines()[0])[1], xy(axes[0, 1].get_lines()[0])[1])


def test_channels_go_by_the_names_of_a_file_and_of_python_control():
    from balred.files import StoredSystem

    named = [StoredSystem(MIMO, inputs=("force", "torque"), outputs=("x", "angle"))]
    control = pytest.importorskip("control")
    named.append(control.ss(MIMO.A, MIMO.B, MIMO.C, MIMO.D, inputs=["force", "torque"], outputs=["x", "angle"]))
    for g in named:
        axes = plot_bode(g, inputs=["torque", 0], outputs="angle")
        assert [ax.get_title() for ax in axes[0]] == ["from torque to angle", "from force to angle"]
        with pytest.raises(ValueError, match="inputs must be between 0 and 1, or one of force, torque, got 'volt'"):
            plot_bode(g, inputs="volt")


@pytest.mark.parametrize("layers", [3, 80, 400])
def test_a_plan_of_many_layers_has_names_that_do_not_overlap(layers: int) -> None:
    g = balred.testing.random_system(4, 1, 1, seed=0)
    plan = balred.plan({f"layers.{i}.mixer": g for i in range(layers)}, 2)
    for given in (None, plt.subplots(figsize=(6, 4), layout="constrained")[1]):
        ax = plan.plot(ax=given)
        ax.figure.canvas.draw()
        boxes = [label.get_window_extent() for label in ax.get_yticklabels()]
        assert all(lower.y1 <= upper.y0 + 1 for upper, lower in itertools.pairwise(boxes))
        assert ax.get_yticklabels()[0].get_text() == "layers.0.mixer"
        assert len(ax.containers[1]) == layers
        assert len(boxes) == (layers if layers == 3 or (given is None and layers == 80) else len(boxes))
        plt.close(ax.figure)
