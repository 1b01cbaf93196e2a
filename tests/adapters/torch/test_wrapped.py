"""Projections with something around them: reduced as the same projections are whose weights are what these compute."""

from __future__ import annotations

import copy
import warnings
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")
from adapted_models import PARTS, Bytes, Factors, adapted, moved, with_parts, wrapped  # noqa: E402
from mamba_models import build, logits, tokens  # noqa: E402

import balred  # noqa: E402
from balred.adapters.torch import InTrainingReducer  # noqa: E402
from balred.adapters.torch.running import evaluating  # noqa: E402
from balred.adapters.torch.wrapped import effective  # noqa: E402

MIXED = [("Mamba", "Lora", {}), ("Mamba", "Lora", {"use_rslora": True, "lora_dropout": 0.3}), ("Mamba", "AdaLora", {}), ("Mamba", "HRA", {})]  # fmt: skip
SELECTED = [("Mamba", "Lora", {"use_dora": True}), ("Mamba", "IA3", {}), ("Mamba", "LoHa", {})]
OTHERS = [
    (name, kind, options)
    for name in ("Mamba2", "Jamba", "Qwen3Next", "OlmoHybrid")
    for kind, options in (("Lora", {}), ("Lora", {"use_dora": True}), ("AdaLora", {}), ("IA3", {}), ("LoHa", {}))
]
QUICK = [*MIXED[:1], *SELECTED[:1], OTHERS[0]]


def case(name: str, kind: str, options: dict[str, Any], refit: bool) -> Any:
    marks = () if (name, kind, options) in QUICK else pytest.mark.full
    return pytest.param(name, kind, options, refit, id="-".join([name, kind, *options]), marks=marks)


CASES = [*(case(*one, True) for one in MIXED), *(case(*one, False) for one in SELECTED + OTHERS)]


def close(got: Any, want: Any) -> None:
    torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("name", "kind", "options", "refit"), CASES)
def test_cut_as_merged_weights_are(name: str, kind: str, options: Any, refit: bool) -> None:
    """peft's own ``merge_and_unload`` says what the model is; where outputs cannot be mixed, C is not refitted."""
    model, data = adapted(name, kind, **options), tokens()
    names = [n for n, p in model.named_parameters() if p.requires_grad]
    merged = copy.deepcopy(model).merge_and_unload().eval()
    small = balred.reduce(model, 4, calibration=data)
    close(logits(small, data), logits(balred.reduce(merged, 4, calibration=data, compensate=refit), data))
    assert [n for n, p in small.named_parameters() if p.requires_grad] == names
    assert float((logits(small, data) - logits(model, data)).abs().max()) > 1e-2
    close(logits(small.merge_and_unload(), data), logits(small, data))


def test_biases_of_factors_are_cut_with_them() -> None:
    """peft cannot merge these into projections without biases, so the expected weights are those read."""
    model, data = adapted("Mamba2", lora_bias=True), tokens()
    plain = copy.deepcopy(model).unload()
    layers = [[m for m in x.modules() if hasattr(m, "A_log")] for x in (model, plain)]
    for mine, his in zip(*layers, strict=True):
        weight, bias = effective(mine.in_proj)
        assert bias is not None
        his.in_proj.weight, his.in_proj.bias = (torch.nn.Parameter(x.detach()) for x in (weight, bias))
    small = balred.reduce(model, 4, calibration=data)
    close(logits(plain, data), logits(model, data))
    close(logits(small, data), logits(balred.reduce(plain, 4, calibration=data), data))


def test_states_of_adapters_stay_what_they_are() -> None:
    """Merged, disabled, several at once: each is cut as it is, and afterwards becomes the others."""
    peft = pytest.importorskip("peft")
    model, data = adapted("Mamba"), tokens()
    model.add_adapter("other", peft.LoraConfig(r=3, target_modules=["x_proj"]))
    moved(model)
    want = balred.reduce(model, 4, calibration=data)
    model.merge_adapter()
    merged = balred.reduce(model, 4, calibration=data)
    model.unmerge_adapter()
    close(logits(merged, data), logits(want, data))
    merged.unmerge_adapter()
    close(logits(merged, data), logits(want, data))
    with model.disable_adapter():
        bare = balred.reduce(model, 4, calibration=data)
        close(logits(bare, data), logits(balred.reduce(copy.deepcopy(model).unload(), 4, calibration=data), data))
    model.base_model.set_adapter(["default", "other"])
    both = copy.deepcopy(model).merge_and_unload(adapter_names=["default", "other"])
    close(
        logits(balred.reduce(model, 4, calibration=data), data), logits(balred.reduce(both, 4, calibration=data), data)
    )


def test_training_goes_on_with_the_adapters_alone(tmp_path: Path) -> None:
    """And what it leaves is saved as peft saves it: the smaller base model, and the adapter."""
    peft = pytest.importorskip("peft")
    model, data = adapted("Mamba").train(), tokens()
    trained = {n: p for n, p in model.named_parameters() if p.requires_grad}
    optimizer = torch.optim.AdamW(trained.values(), lr=1e-2)
    reducer = InTrainingReducer(model, optimizer, balred.Order(4), (0, 3), 1, calibration={"input_ids": data})
    losses = []
    for _ in range(12):
        optimizer.zero_grad()
        loss = model(input_ids=data, labels=data).loss
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
        reducer.step()
    assert [(cut.before, cut.after) for cut in reducer.reports[0].cuts] == [(8, 4)] * 2
    assert {n for n, p in model.named_parameters() if p.requires_grad and p.grad is not None} == set(trained)
    assert all(p.grad is None for p in model.parameters() if not p.requires_grad)
    assert all(optimizer.state[p]["exp_avg"].shape == p.shape for p in trained.values())
    assert trained["base_model.model.backbone.layers.0.mixer.x_proj.lora_B.default.weight"].shape == (2 + 2 * 4, 2)
    assert losses[-1] < losses[3] < losses[0]

    model.eval().save_pretrained(tmp_path / "adapter")
    base = copy.deepcopy(model).unload()
    base.save_pretrained(tmp_path / "base")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        again = peft.PeftModel.from_pretrained(type(base).from_pretrained(tmp_path / "base"), tmp_path / "adapter")
    close(logits(again.eval(), data), logits(model, data))


@pytest.mark.parametrize(
    ("kind", "why"),
    [
        ("LoKr", "which fails with fewer outputs: RuntimeError"),
        ("Vera", "is shared with|which changes the outputs that stay"),
    ],
)
@pytest.mark.parametrize("name", ["Mamba", pytest.param("Mamba2", marks=pytest.mark.full)])
def test_what_has_no_rows_of_outputs_is_refused(kind: str, why: str, name: str) -> None:
    """A Kronecker product, and a factor that all layers share."""
    model = adapted(name, kind)
    before = {n: p.clone() for n, p in model.named_parameters()}
    for cut in (
        lambda: balred.reduce(model, 4, calibration=tokens()),
        lambda: InTrainingReducer(
            model, torch.optim.SGD(model.parameters()), balred.Order(4), (0, 1), 1, calibration=tokens()
        ),
    ):
        with pytest.raises(ValueError, match=why):
            cut()
    assert all(torch.equal(p, before[n]) for n, p in model.named_parameters())


def test_an_adapter_that_the_layer_passes_by_is_refused() -> None:
    """transformers' MambaMixer multiplies by the weight of dt_proj itself, so that LoRA on it does nothing."""
    with pytest.raises(ValueError, match="must follow from its weights"):
        balred.reduce(adapted("Mamba", target_modules=["dt_proj"]), 4, calibration=tokens())


def test_convolutions_with_an_adapter_are_refused() -> None:
    class Louder(torch.nn.Conv1d):
        def __init__(self, of: Any) -> None:
            super().__init__(of.in_channels, of.out_channels, of.kernel_size, groups=of.groups, padding=of.padding)
            self.gain = torch.nn.Parameter(torch.ones(len(self.weight), 1))

        def forward(self, x: Any) -> Any:
            return self.gain * super().forward(x)

    for name in ("Mamba", "Mamba2"):
        with pytest.raises(ValueError, match=r"a convolution must have a weight and a bias only, got others in conv1d"):
            balred.reduce(with_parts(build(name), Louder, "conv1d"), 4, calibration=tokens())


# ----------------------------------------------------------------------------------------- of other packages


@pytest.mark.parametrize("each", [True, False])
def test_weights_in_bytes(each: bool) -> None:
    """As the same weights in floats, whose C is refitted where that can be written in bytes: it cannot."""
    model, data = with_parts(build("Mamba"), lambda x: Bytes(x, each), "x_proj", "in_proj"), tokens()
    plain = copy.deepcopy(model)

    def floats(of: Any) -> Any:
        linear = torch.nn.Linear(of.weight.shape[1], len(of.weight), bias=False)
        linear.weight = torch.nn.Parameter(of.weight.float() * of.scale)
        return linear

    with_parts(plain, floats, "x_proj", "in_proj")
    small = balred.reduce(model, 4, calibration=data)
    assert small.backbone.layers[0].mixer.x_proj.weight.dtype == torch.int8
    close(logits(small, data), logits(balred.reduce(plain, 4, calibration=data, compensate=False), data))


def test_factors_beside_the_weight() -> None:
    """loralib's: merged in evaluation, and unmerged again when training goes on, or its factors would never learn."""
    model, data = with_parts(build("Mamba"), Factors, "x_proj").train(), tokens()
    plain = with_parts(build("Mamba"), lambda x: x, "x_proj")
    for mine, his in zip(model.backbone.layers, plain.backbone.layers, strict=True):
        factors = mine.mixer.x_proj
        his.mixer.x_proj.weight = torch.nn.Parameter(factors.weight + (factors.lora_B @ factors.lora_A).detach())
    small = balred.reduce(model, 4, calibration=data)
    close(logits(small.eval(), data), logits(balred.reduce(plain, 4, calibration=data), data))
    with evaluating(model):
        assert all(layer.mixer.x_proj.merged for layer in model.backbone.layers)
    small.train()(input_ids=data, labels=data).loss.backward()
    for each in (model, small):
        assert not any(layer.mixer.x_proj.merged for layer in each.backbone.layers)
    assert all(p.grad is not None for n, p in small.named_parameters() if "lora_" in n)


class Masked(torch.nn.Linear):
    """Two tensors of the shape of a weight."""

    def __init__(self, of: Any) -> None:
        super().__init__(of.in_features, of.out_features, bias=False)
        self.register_buffer("mask", torch.ones_like(self.weight))


class Rectified(torch.nn.Linear):
    """Not linear."""

    def __init__(self, of: Any) -> None:
        super().__init__(of.in_features, of.out_features, bias=False)
        self.weight = of.weight

    def forward(self, x: Any) -> Any:
        return super().forward(x).relu()


class Attribute(torch.nn.Linear):
    """A scale of the outputs that is no parameter, and no buffer."""

    def __init__(self, of: Any) -> None:
        super().__init__(of.in_features, of.out_features, bias=False)
        self.weight, self.scale = of.weight, 2 * torch.ones(of.out_features)

    def forward(self, x: Any) -> Any:
        return super().forward(x) * self.scale


@pytest.mark.parametrize(
    ("make", "why"),
    [
        (Masked, r"of which weight and mask have the shape \(18, 64\) of a weight"),
        (Rectified, "must follow from its weights"),
        (Attribute, "must follow from its weights"),
    ],
)
def test_other_projections_are_refused(make: Any, why: str) -> None:
    model = with_parts(build("Mamba"), make, "x_proj")
    with pytest.raises(ValueError, match=why):
        balred.reduce(model, 4, calibration=tokens())


# ----------------------------------------------------------------------------------------- queries and keys


@pytest.mark.parametrize("bias", [False, True])
def test_queries_and_keys_of_an_mlstm(bias: bool) -> None:
    peft, layers = pytest.importorskip("peft"), pytest.importorskip("attention_layers")
    model = layers.model(bias=bias, mode="train").double()
    config = peft.LoraConfig(r=3, target_modules=["q", "k"])
    model = wrapped(model, config, autocast_adapter_dtype=False)
    merged = copy.deepcopy(model).merge_and_unload()
    layer, want = (x.get_submodule("backbone.blocks.0.mlstm_layer") for x in (model.base_model.model, merged))
    small = balred.reduce(layer, 16)
    assert small.q.lora_B["default"].weight.shape == (64, 3)
    torch.testing.assert_close(
        torch.tensor(layers.apply(small)), torch.tensor(layers.apply(balred.reduce(want, 16))), rtol=1e-8, atol=1e-10
    )
    balred.hsv(layer).sum().backward()
    assert all(x.lora_A["default"].weight.grad.any() for x in (layer.q, layer.k))


def test_every_projection_is_one_that_peft_takes() -> None:
    """So that no test above is about nothing."""
    for name, parts in PARTS.items():
        held = {n.rpartition(".")[2] for n, _ in build(name).named_modules()}
        assert set(parts) <= held
