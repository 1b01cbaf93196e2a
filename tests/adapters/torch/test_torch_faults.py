"""What would go silently wrong about a layer is right or refused by name: functions on instances, ties, computed weights, ..."""

from __future__ import annotations

import functools
import sys
import types
import typing
import weakref
from typing import Any

import pytest

import balred
from balred.reduction import SkippedWarning
from balred.registry import AdapterNotFound

torch = pytest.importorskip("torch")
from mamba_models import build, logits, tokens  # noqa: E402

from balred.adapters.torch import LRU, InTrainingReducer, resize_on_load  # noqa: E402


def lru(states: int = 16) -> Any:
    return LRU(3, states, generator=torch.Generator().manual_seed(0))


def reducer(model: Any, rule: Any = None, **options: Any) -> Any:
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    return InTrainingReducer(model, optimizer, rule or balred.Order(4), (0, 1), 1, **options)


class Patched(LRU):
    """Calls itself by what is bound when it is made."""

    def __init__(self) -> None:
        super().__init__(3, 16)
        self.run = functools.partial(LRU.forward, self)
        self.sizes = [self.states]

    def forward(self, u: Any) -> Any:
        return self.run(u)


def replaced() -> Any:
    layer = lru()
    layer.forward = types.MethodType(lambda self, u: LRU.forward(self, u), layer)
    return layer


@pytest.mark.parametrize("make", [replaced, Patched])
def test_functions_bound_to_a_live_layer_stay_bound_to_it(make: Any) -> None:
    """After a cut all parameters have gradients, and the layer computes what a fresh one with its weights does."""
    layer = make()
    reducer(layer).step()
    u = torch.randn(2, 9, 3)
    layer(u).square().mean().backward()
    assert layer.states == 4
    assert all(p.grad is not None for p in layer.parameters())
    plain = LRU(3, 4)
    plain.load_state_dict(layer.state_dict())
    torch.testing.assert_close(layer(u), plain(u))


class AroundParameter(torch.nn.Module):
    """As LoRA on a parameter that is no weight of a projection (``target_parameters`` of peft)."""

    def __init__(self, base_layer: Any, name: str) -> None:
        super().__init__()
        self.base_layer, self.parameter_name = base_layer, name
        self.added = torch.nn.Parameter(torch.zeros(16))

    def forward(self, u: Any) -> Any:
        return self.base_layer(u)


def test_a_layer_one_of_whose_parameters_is_adapted_from_around_is_refused() -> None:
    """The added part would keep its shape, and the model would fail in its next forward pass."""
    one = torch.nn.Sequential(AroundParameter(lru(), "nu_log"))
    two = torch.nn.Sequential(AroundParameter(AroundParameter(lru(), "other"), "B_re"))
    for model, name in ((one, "nu_log"), (two, "B_re")):
        for make in (lambda m: balred.reduce(m, 4), reducer):
            with pytest.raises(
                ValueError, match=f"its {name} is computed by the AroundParameter around it: make it a plain"
            ):
                make(model)


class Itself:
    """What a copy of a model shares with it, on purpose."""

    def __init__(self, held: Any) -> None:
        self.held = held

    def __deepcopy__(self, memo: Any) -> Any:
        return self


class ByShared(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.lru = lru()
        self.shared = Itself([self.lru])

    def forward(self, u: Any) -> Any:
        return self.shared.held[0](u)


def test_a_layer_in_an_object_that_copies_share_is_refused_and_cut_in_place() -> None:
    """The smaller model would run the original; in training the object holds the layer that is cut."""
    model = ByShared()
    with pytest.raises(ValueError, match=r"got lru: shared is or has .*\(or another object that copies share\)"):
        balred.reduce(model, 4)
    reducer(model).step()
    assert (model.lru.states, model.shared.held[0]) == (4, model.lru)
    model.shared = Itself(torch.ones(3))  # nothing of the model
    assert balred.reduce(model.lru, 2).states == 2


class SharedParameter(torch.nn.Parameter):
    def __deepcopy__(self, memo: Any) -> Any:
        return self


class SharedLayer(LRU):
    def __deepcopy__(self, memo: Any) -> Any:
        return self


def test_layers_and_parameters_that_are_their_own_copies_are_refused_and_stay() -> None:
    layer, kept = lru(), SharedLayer(3, 16)
    layer.B_re = SharedParameter(layer.B_re.data)
    before = layer.B_re.detach().clone()
    for make in (lambda x: balred.reduce(x, 4), reducer):
        with pytest.raises(ValueError, match="got B_re of LRU, a SharedParameter whose __deepcopy__ returns itself"):
            make(layer)
        with pytest.raises(ValueError, match="got a SharedLayer whose __deepcopy__ returns itself"):
            make(kept)
    assert torch.equal(layer.B_re, before)
    assert kept.B_re.shape == (16, 3)


def by_closure(layer: Any) -> Any:
    own = layer.forward
    return lambda u: own(u)


def by_list(layer: Any) -> Any:
    parts = [layer]
    return lambda u: LRU.forward(parts[0], u)


def by_object(layer: Any) -> Any:
    box = types.SimpleNamespace(inner=types.SimpleNamespace(layer=layer))
    return lambda u: LRU.forward(box.inner.layer, u)


def by_default(layer: Any) -> Any:
    return lambda u, of={"layer": layer}: LRU.forward(of["layer"], u)


def by_decorator(layer: Any) -> Any:
    return functools.partial(torch.no_grad()(by_closure(layer)))


def by_weak_reference(layer: Any) -> Any:
    one = weakref.ref(layer)
    return lambda u: LRU.forward(one(), u)


def by_weak_proxy(layer: Any) -> Any:
    box = types.SimpleNamespace(layers=[weakref.proxy(layer)])
    return functools.partial(lambda box, u: LRU.forward(box.layers[0], u), box)


def by_tensor(layer: Any) -> Any:
    D = layer.D
    return lambda u: u * D


def by_global(layer: Any) -> Any:
    WORLD["layer"] = layer
    return lambda u: LRU.forward(WORLD["layer"], u)


WORLD: dict[str, Any] = {}


@pytest.mark.alike
@pytest.mark.parametrize(
    "make",
    [
        by_closure,
        by_list,
        by_object,
        by_default,
        by_decorator,
        by_weak_reference,
        by_weak_proxy,
        by_tensor,
        by_global,
    ],
)
def test_a_copy_that_would_go_on_running_the_original_is_refused(make: Any) -> None:
    layer = lru()
    layer.forward = make(layer)
    with pytest.raises(ValueError, match="forward is or has a function that holds a module or a tensor of the model"):
        balred.reduce(torch.nn.Sequential(layer), 4)


def test_hooks_that_read_another_layer_are_refused_and_others_are_not() -> None:
    model = torch.nn.Sequential(lru(), lru())
    seen: list[Any] = []
    model[0].register_forward_hook(lambda module, args, output: seen.append(output.shape))
    assert balred.reduce(model, 4)[0].states == 4
    other = model[0]
    model[1].register_forward_hook(lambda module, args, output: output * other.D)
    with pytest.raises(ValueError, match=r"1\._forward_hooks is or has a function that holds"):
        balred.reduce(model, 4)


def test_what_refers_to_a_layer_refers_to_the_smaller_one() -> None:
    model = torch.nn.Sequential(lru())
    model.run, model.all = model[0].forward, [model[0]]
    small = balred.reduce(model, 4)
    assert small.all[0] is small[0] is small.run.__self__
    assert model.all[0] is model[0]


class Both(torch.nn.Module):
    def __init__(self, *names: str) -> None:
        super().__init__()
        self.f, self.b = lru(), lru()
        for name in names:
            setattr(self.b, name, getattr(self.f, name))


def test_an_optimizer_in_a_model_goes_on_with_the_smaller_copy() -> None:
    """Of parameters that were cut it starts anew; in the model it stays what it was."""
    model = torch.nn.Sequential(lru(), torch.nn.Linear(3, 1))
    model.optimizer = torch.optim.Adam(model.parameters())

    def step(model: Any) -> None:
        model.optimizer.zero_grad()
        model(torch.ones(2, 5, 3)).sum().backward()
        model.optimizer.step()

    step(model)
    small = balred.reduce(model, 4)
    for _ in range(2):
        step(small)
    assert {int(small.optimizer.state[p]["step"]) for p in small[1].parameters()} == {3}
    assert small.optimizer.state[small[0].B_re]["exp_avg"].shape == (4, 3)
    assert model.optimizer.state[model[0].B_re]["exp_avg"].shape == (16, 3)
    step(model)


def test_layers_that_share_states_are_refused_and_those_that_share_others_stay_tied() -> None:
    """D has no states: a cut leaves it, and it stays one parameter."""
    tied = Both("nu_log")
    before = {n: p.clone() for n, p in tied.named_parameters()}
    for cut in (balred.reduce, lambda model, rank: reducer(model)):
        with pytest.raises(ValueError, match=r"f: its nu_log is shared with b\.nu_log"):
            cut(tied, 4)
    assert all(torch.equal(p, before[n]) for n, p in tied.named_parameters())
    small = balred.reduce(Both("D"), 4)
    assert small.f.D is small.b.D
    assert small.f.states == small.b.states == 4


@pytest.mark.parametrize("part", ["in_proj", "out_proj", "dt_proj"])
def test_modules_that_mamba_layers_share_stay_shared(part: str) -> None:
    model = build("Mamba")
    first, second = (layer.mixer for layer in model.backbone.layers)
    setattr(second, part, getattr(first, part))
    for rank in (8, 4):
        small = balred.reduce(model, rank, calibration=tokens())
        one, other = (getattr(layer.mixer, part) for layer in small.backbone.layers)
        assert one is other
        assert len(list(small.parameters())) == len(list(model.parameters()))


@pytest.mark.parametrize("how", ["module", "memory"])
def test_mamba_layers_that_share_what_a_cut_changes_are_refused(how: str) -> None:
    model = build("Mamba")
    first, second = (layer.mixer for layer in model.backbone.layers)
    if how == "module":
        second.x_proj = first.x_proj
    else:
        second.x_proj.weight.data = first.x_proj.weight.data
    for cut in (lambda: balred.reduce(model, 4, calibration=tokens()), lambda: reducer(model, calibration=tokens())):
        with pytest.raises(ValueError, match=r"its x_proj\.weight is shared with backbone\.layers\.1\.mixer\.x_proj"):
            cut()


def test_checkpoints_of_another_size_do_not_resize_what_is_shared() -> None:
    tied = Both("nu_log")
    resize_on_load(tied)
    with pytest.raises(ValueError, match=r"can be resized on load, got f: its nu_log is shared with b\.nu_log"):
        tied.load_state_dict(balred.reduce(Both(), 4).state_dict())


def test_where_a_configuration_holds_one_size_all_layers_are_cut_or_none() -> None:
    """A layer with an array that is not known, and one that is no known layer any more."""
    for change, match in (
        (
            lambda mixer: mixer.register_buffer("start", torch.zeros(8)),
            "cut together or not at all, got backbone.layers.1.mixer: every array",
        ),
        (
            lambda mixer: setattr(mixer, "x_proj", torch.nn.Sequential(mixer.x_proj)),
            "one number of states for all of them, and backbone.layers.1.mixer",
        ),
    ):
        model = build("Mamba")
        change(model.backbone.layers[1].mixer)
        with pytest.raises(ValueError, match=match):
            balred.reduce(model, 4, calibration=tokens())


def test_a_compiled_layer_inside_a_model_is_cut() -> None:
    """Its wrapper passes on what it is asked for, and so looks like the layer."""
    model = build("Mamba")
    want = logits(balred.reduce(model, 4, calibration=tokens()), tokens())
    model.backbone.layers[0].mixer = torch.compile(model.backbone.layers[0].mixer, backend="eager")
    model = torch.compile(model, backend="eager")
    assert next(iter(balred.registry.reading.layers_of(model))).endswith("mixer._orig_mod")
    with torch.compiler.set_stance("force_eager"):
        small = balred.reduce(model, 4, calibration=tokens())
        assert torch.equal(logits(small, tokens()), want)


@pytest.mark.parametrize("extra", [(16,), (16, 2), (3, 16), (32,), (48,)])
def test_a_parameter_of_the_states_that_an_adapter_does_not_know_is_refused(extra: tuple[int, ...]) -> None:
    class More(LRU):
        def __init__(self) -> None:
            super().__init__(3, 16)
            self.start = torch.nn.Parameter(torch.zeros(extra))

    for cut in (lambda: balred.reduce(More(), 4), lambda: reducer(More())):
        with pytest.raises(ValueError, match=r"got start of shape .* in More"):
            cut()


def test_one_parameter_in_two_places_of_a_layer_is_refused() -> None:
    layer = LRU(3, 16)
    layer.B_im = layer.B_re
    for cut in (lambda: balred.reduce(layer, 4), lambda: reducer(layer)):
        with pytest.raises(
            ValueError, match="got one parameter that is both B_re and B_im in LRU, which a cut makes different"
        ):
            cut()


def test_a_second_way_that_is_not_the_whole_of_one_is_refused() -> None:
    vim = pytest.importorskip("mambapy.vim")
    model = vim.VMamba(vim.MambaConfig(d_model=16, n_layers=1, d_state=8))
    layer = model.layers[0].mixer
    layer.conv1d_b, whole = torch.nn.Identity(), layer.conv1d_b
    with pytest.raises(
        ValueError, match=r"got (A_log_b|x_proj_b\.weight) of shape .* which a cut would leave as it is"
    ):
        balred.registry.sizes.of_size(layer, 4)
    layer.conv1d_b, layer.x_proj_b = whole, torch.nn.Linear(32, layer.x_proj_b.out_features + 1)
    with pytest.raises(
        ValueError, match=r"got (A_log_b|x_proj_b\.weight) of shape .* which a cut would leave as it is"
    ):
        balred.registry.sizes.of_size(layer, 4)


def test_a_plain_tensor_of_the_states_is_refused() -> None:
    layer = lru()
    layer.start = [torch.zeros(16)]
    with pytest.raises(ValueError, match=r"got start\.0 of shape \(16,\) in LRU"):
        balred.reduce(layer, 4)


class Codes(torch.Tensor):
    """As tensors of quantised weights are."""


class Keeping(LRU):
    """Keeps in evaluation mode what it has computed for an input of this shape, as layers keep their kernels."""

    kept: Any = None

    def forward(self, u: Any) -> Any:
        if self.training or self.kept is None or self.kept.shape != u.shape:
            self.kept = super().forward(u)
        return self.kept


class Divided(LRU):
    def forward(self, u: Any) -> Any:
        return super().forward(u) / self.states


class Doubled(LRU):
    """A factor that does not depend on the states is no reason to refuse a layer."""

    def forward(self, u: Any) -> Any:
        return 2 * torch.tanh(super().forward(u))


def filled(layer: Any) -> Any:
    """A layer that has run on what it will be tried with."""
    layer.eval()
    layer(torch.ones(2, 5, 3))
    return layer


@pytest.mark.parametrize(
    ("make", "why"),
    [
        (lambda: filled(Keeping(3, 16)), "the same outputs with other arrays"),
        (lambda: Divided(3, 16), "other outputs with added states"),
    ],
)
def test_layers_that_do_not_follow_their_arrays_are_refused(make: Any, why: str) -> None:
    """A cut would compute the kept outputs of the whole layer, or multiples of its own."""
    for use in (lambda layer: balred.reduce(layer, 4), reducer):
        with pytest.raises(ValueError, match=f"must compute what its arrays stand for, got {why}"):
            use(make())
    for fit in (Keeping(3, 16), Doubled(3, 16)):
        assert balred.reduce(fit, 4).states == 4


def test_tensors_of_other_classes_are_refused() -> None:
    layer = lru()
    layer.B_re = torch.nn.Parameter(layer.B_re.data.as_subclass(Codes))
    with pytest.raises(ValueError, match="its B_re is a Codes, which may stand for other values"):
        balred.reduce(layer, 4)


def test_weights_that_are_stored_otherwise_are_refused() -> None:
    from torch.testing._internal.two_tensor import TwoTensor

    model = build("Mamba2")
    for make, why in (
        (lambda w: w.to_sparse(), "is stored as sparse_coo: make it dense first"),
        (lambda w: TwoTensor(w, w.clone()), "is a TwoTensor, which may stand for other values"),
        (lambda w: w.to(torch.int8), "is of torch.int8, which stands for other values"),
    ):
        for layer in model.backbone.layers:
            dense = torch.ones(layer.mixer.in_proj.out_features, layer.mixer.in_proj.in_features)
            layer.mixer.in_proj.weight = torch.nn.Parameter(make(dense), requires_grad=False)
        for cut in (
            lambda: balred.reduce(model, 4, calibration=tokens()),
            lambda: reducer(model, calibration=tokens()),
        ):
            with pytest.raises(ValueError, match=f"its in_proj.weight {why}"):
                cut()


def old_weight_norm(module: Any) -> None:
    with pytest.warns(FutureWarning):
        torch.nn.utils.weight_norm(module)


COMPUTED = {
    "weight_norm": torch.nn.utils.parametrizations.weight_norm,
    "old weight_norm": old_weight_norm,
    "spectral_norm": torch.nn.utils.parametrizations.spectral_norm,
    "old spectral_norm": torch.nn.utils.spectral_norm,
}


@pytest.mark.parametrize("how", [*COMPUTED, "pruning"])
@pytest.mark.parametrize("part", ["x_proj", "in_proj"])
def test_computed_weights_are_refused(how: str, part: str) -> None:
    model = build("Mamba")
    for layer in model.backbone.layers:
        module = getattr(layer.mixer, part)
        if how == "pruning":
            from torch.nn.utils import prune

            prune.l1_unstructured(module, "weight", 0.3)
        else:
            COMPUTED[how](module)
    with pytest.raises(ValueError, match=f"its {part}.weight is computed from other tensors.*merge_and_unload"):
        balred.reduce(model, 4, calibration=tokens())
    with pytest.raises(ValueError, match=f"its {part}.weight is computed"):
        reducer(model, calibration=tokens())


@pytest.mark.parametrize("how", ["old weight_norm", "pruning"])
def test_models_with_computed_weights_elsewhere_are_copied_after_a_call(how: str) -> None:
    """A call leaves a tensor that is computed from parameters, which PyTorch itself copies only where nothing has a gradient."""
    from torch.nn.utils import prune

    model = torch.nn.Sequential(torch.nn.Linear(3, 3), lru())
    if how == "pruning":
        prune.l1_unstructured(model[0], "weight", 0.3)
    else:
        COMPUTED[how](model[0])
    u = torch.randn(2, 9, 3)
    y = model(u)
    small = balred.reduce(model, 16)
    torch.testing.assert_close(small(u), y, rtol=1e-4, atol=1e-5)
    half = balred.reduce(model, 8)
    half(u).sum().backward()
    assert half[1].states == 8
    assert [p.grad is not None for p in half[0].parameters()] == [True] * len(list(half[0].parameters()))
    assert all(p.grad is None for p in model.parameters())


@pytest.mark.filterwarnings("ignore")  # PyTorch's, of tracing
def test_a_traced_model_is_told_to_be_none_that_is_known() -> None:
    model = torch.nn.Sequential(lru())
    with pytest.raises(AdapterNotFound, match="traced or scripted, so its code is fixed"):
        balred.reduce(torch.jit.trace(model, torch.randn(2, 9, 3)), 4)


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::torch.jit.TracerWarning")
def test_traced_layers_that_are_known_by_their_parameters_are_told_too() -> None:
    """Of their own, within a traced module, and beside others, which are cut."""
    mixer = build("Mamba").backbone.layers[0].mixer.eval()
    x = torch.randn(2, 9, 32)
    traced = torch.jit.trace(mixer, (x,))
    for model, name in (
        (torch.nn.Sequential(traced), "0"),
        (torch.jit.trace(torch.nn.Sequential(mixer), (x,)), "itself"),
    ):
        with pytest.raises(AdapterNotFound, match=rf"{name} \(.*\) is traced or scripted, so its code is fixed"):
            balred.reduce(model, 4, calibration=x)
    small = balred.reduce(torch.nn.Sequential(traced, LRU(32, 8)), 4)
    assert small[1].states == 4
    assert small[0].A_log.shape == mixer.A_log.shape


def test_a_loss_that_is_none_to_be_called_is_refused_at_once() -> None:
    model = lru()
    with pytest.raises(TypeError, match="loss must be a function that returns the loss of the last batch, got float"):
        reducer(model).step(0.5)


def test_weights_that_are_not_there_are_refused() -> None:
    with pytest.raises(ValueError, match="on the meta device"):
        balred.reduce(LRU(3, 16).to("meta"), 4)


@pytest.mark.alike
@pytest.mark.parametrize(
    "name", ["Mamba", "FalconMamba", "Jamba", "Zamba", "Mamba2", "Bamba", "Zamba2", "NemotronH", "FalconH1"]
)
def test_checkpoints_of_both_sizes_load(name: str) -> None:
    full = build(name)
    small = balred.reduce(full, 3, calibration=tokens())
    model = build(name)
    resize_on_load(model)
    for stored in (small, full):
        model.load_state_dict(stored.state_dict())
        assert torch.equal(logits(model, tokens()), logits(stored, tokens()))


@pytest.mark.parametrize("before", [False, True])
@pytest.mark.parametrize("groups", [1, 2])
def test_gated_norms_are_read_as_the_layer_applies_them(before: bool, groups: int) -> None:
    """An error would be one of the comparison with the layer's own output."""
    model = build("FalconH1", mamba_rms_norm=True, mamba_norm_before_gate=before, mamba_n_groups=groups)
    assert balred.plan(model, 4, calibration=tokens()).rows[0].after == 4


def test_a_layer_that_computes_something_else_is_refused() -> None:
    model = build("Mamba")
    model.backbone.layers[1].mixer.dt_proj.register_forward_hook(lambda module, args, output: 0 * output)
    model.backbone.layers[1].mixer.out_proj.register_forward_hook(lambda module, args, output: 2 * output)
    with pytest.raises(
        ValueError, match=r"the output of layer .*layers\.1\.mixer \(MambaMixer\) must follow from its weights"
    ):
        balred.reduce(model, 4, calibration=tokens())


def test_every_configuration_follows() -> None:
    """Objects, dicts, nested ones, and arguments that left the layer's default."""
    model = build("Mamba")
    model.args = types.SimpleNamespace(ssm_cfg={"layer": "Mamba"}, mamba_config=types.SimpleNamespace(d_state=8))
    model.hparams = {"model": {"ssm_cfg": {"d_state": 8}}, "width": 8}
    small = balred.reduce(model, 3, calibration=tokens())
    assert (small.args.ssm_cfg, small.args.mamba_config.d_state) == ({"layer": "Mamba", "d_state": 3}, 3)
    assert small.hparams == {"model": {"ssm_cfg": {"d_state": 3}}, "width": 8}
    assert (small.config.state_size, model.config.state_size, model.hparams["model"]["ssm_cfg"]["d_state"]) == (3, 8, 8)
    assert {m.mixer.config.state_size for m in small.backbone.layers} == {3}


class Slots:
    """A configuration without a ``__dict__``."""

    __slots__ = ("d_state", "width")

    def __init__(self) -> None:
        self.d_state = self.width = 8


class Named(typing.NamedTuple):
    """One that cannot be changed."""

    d_state: int = 8
    width: int = 8


def test_configurations_of_other_kinds_follow() -> None:
    """Slots, named tuples, lists of dicts, and the number as an attribute of what is around the layers; others do not."""
    model = build("Mamba")
    model.config_a, model.config_b, model.d_state = Slots(), Named(), 8
    model.layer_configs, model.widths, model.lm_head.d_state = [{"d_state": 8}, {"of": Named()}], [8, 8], 8
    small = balred.reduce(model, 3, calibration=tokens())
    assert (small.config_a.d_state, small.config_a.width, small.config_b, small.d_state) == (3, 8, Named(3), 3)
    assert small.layer_configs == [{"d_state": 3}, {"of": Named(3)}]
    assert (small.widths, small.lm_head.d_state) == ([8, 8], 8)
    assert (model.config_a.d_state, model.config_b, model.d_state, model.layer_configs[0]) == (
        8,
        Named(),
        8,
        {"d_state": 8},
    )


def test_calibration_that_does_not_fit_is_an_error_when_the_reducer_is_made() -> None:
    model = build("Mamba")
    for data, match in (
        ({"pixels": tokens()}, "must run on the calibration data"),
        (torch.full((2, 5), 999), "must run on the calibration data"),
        ([(tokens(), tokens())], "pass the inputs of the model"),
        ({"input_ids": tokens().tolist()}, "return_tensors"),
        (iter([tokens()]), "every attempt"),
        (lambda step: tokens(), "function without arguments"),
        ({"input_ids": tokens(), "attention_mask": torch.zeros_like(tokens())}, "masked tokens do not count"),
    ):
        with pytest.raises(ValueError, match=match):
            reducer(model, calibration=data)


def test_a_function_that_has_no_data_at_an_attempt_is_an_error() -> None:
    """It must not count as a model without data, whose states are chosen by a surrogate."""
    late = reducer(build("Mamba"), calibration=lambda: None)
    report = late.step()
    assert report.cuts == ()
    assert all(
        "must return data at every attempt if it is a function, got None" in reason
        for reason in report.skipped.values()
    )
    assert len(report.skipped) == 2


def test_loaders_with_labels_are_understood() -> None:
    mamba = pytest.importorskip("mambapy.mamba")
    torch.manual_seed(0)
    model = mamba.Mamba(mamba.MambaConfig(d_model=16, n_layers=1, d_state=8))
    x, y = torch.randn(4, 6, 16), torch.arange(4)
    loader = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(x, y), batch_size=2)
    whole, pairs, named = (
        balred.plan(model, 3, calibration=c) for c in ([x[:2], x[2:]], loader, {"x": x, "labels": y})
    )
    assert pairs.rows[0].energy == whole.rows[0].energy
    assert named.rows[0].energy == pytest.approx(whole.rows[0].energy, rel=1e-5)
    before = torch.get_rng_state()
    reducer(model, calibration=loader)
    assert torch.equal(torch.get_rng_state(), before)


def test_a_model_without_known_layers_says_what_it_saw() -> None:
    near = torch.nn.Module()
    near.A_log, near.in_proj = torch.nn.Parameter(torch.zeros(4, 2)), torch.nn.Linear(2, 8)
    with pytest.raises(AdapterNotFound, match=r"0 \(Module\) lacks .*conv1d\.weight.* of Mamba"):
        balred.reduce(torch.nn.Sequential(near), 1)


@pytest.mark.parametrize("around", ["the model", "inside it", "outside it", "the optimizer"])
def test_engines_of_other_libraries_are_refused_by_name(around: str, monkeypatch: Any) -> None:
    """They keep parameters in flat buffers of the shapes they have seen; by the module their classes come from."""
    monkeypatch.setitem(sys.modules, "deepspeed.runtime", types.ModuleType("deepspeed.runtime"))
    engine = type("DeepSpeedEngine", (torch.nn.Sequential,), {"__module__": "deepspeed.runtime.engine"})
    optimizer = type("FP16_Optimizer", (torch.optim.SGD,), {"__module__": "deepspeed.runtime.fp16"})
    layer = lru()
    model = {"the model": lambda: engine(layer), "inside it": lambda: torch.nn.Sequential(engine(layer))}.get(
        around, lambda: layer
    )()
    held = engine(layer) if around == "outside it" else None
    kind = optimizer if around == "the optimizer" else torch.optim.SGD
    before = layer.nu_log.shape
    with pytest.raises(
        ValueError,
        match=r"must let its parameters change their shapes, got (DeepSpeedEngine|FP16_Optimizer) of deepspeed",
    ):
        InTrainingReducer(model, kind(model.parameters(), lr=0.0), balred.Order(4), (0, 1), 1)
    assert layer.nu_log.shape == before
    del held
    fused = type("FusedAdam", (torch.optim.SGD,), {"__module__": "deepspeed.ops.adam"})  # an optimizer like any other
    if around == "the optimizer":
        InTrainingReducer(layer, fused(layer.parameters(), lr=0.0), balred.Order(4), (0, 1), 1)


def test_another_kind_of_layer_keeps_its_size_in_the_same_configuration() -> None:
    """Each nested configuration with the layer's number follows; the others are those of other layers, and so are modules' numbers."""
    from s4d_layers import mixer

    mamba = build("Mamba").backbone.layers[0].mixer
    model = torch.nn.Module()
    model.first, model.second = mamba, mixer(torch.float32)
    model.config = {
        "mamba": {"d_state": 8, "expand": 2},
        "s4": {"d_state": 64},
        "others": [types.SimpleNamespace(d_state=8)],
    }
    model.d_state, model.args = 64, types.SimpleNamespace(ssm_cfg={"d_state": 64})
    x = torch.randn(2, 9, 32, generator=torch.Generator().manual_seed(0))
    model.forward = types.MethodType(lambda self, hidden: self.first(hidden), model)
    with pytest.warns(SkippedWarning, match="second"):
        small = balred.reduce(model, {"first": 4}, calibration=x)
    assert small.config == model.config | {"mamba": {"d_state": 4, "expand": 2}, "others": small.config["others"]}
    assert (small.d_state, small.args.ssm_cfg, small.first.ssm_state_size) == (64, {"d_state": 64}, 4)
    assert small.first.config.state_size == 4
