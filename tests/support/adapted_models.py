"""Small models with adapters around their projections, as peft makes them and as other packages do."""

from __future__ import annotations

import warnings
from typing import Any

import pytest

torch = pytest.importorskip("torch")
from mamba_models import build  # noqa: E402

PARTS = {
    "Mamba": ["x_proj", "in_proj"],  # the forward of this and the next passes by an adapter on dt_proj
    "Jamba": ["x_proj", "in_proj", "out_proj"],
    "Mamba2": ["in_proj"],
    "Qwen3Next": ["in_proj_qkvz", "in_proj_ba", "out_proj"],
    "OlmoHybrid": ["q_proj", "k_proj", "o_proj"],
}
"""Projections of small models that peft takes."""


def moved(model: Any) -> Any:
    """The model with adapters that do something: theirs start as nothing."""
    random = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for p in model.parameters():
            if p.requires_grad:
                p.add_(0.05 * torch.randn(p.shape, generator=random))
    return model.eval()


def adapted(name: str, kind: str = "Lora", **options: Any) -> Any:
    """A small model of this name with adapters of this kind of peft."""
    peft = pytest.importorskip("peft")
    chosen = {"target_modules": PARTS[name], **options}
    if kind == "AdaLora":
        chosen |= {"total_step": 10, "tinit": 1, "tfinal": 1, "init_r": 2}
    elif kind == "IA3":
        chosen |= {"feedforward_modules": []}
    elif kind != "FourierFT":
        chosen |= {"r": 2}
    return wrapped(build(name), getattr(peft, f"{kind}Config")(**chosen))


def wrapped(model: Any, config: Any, **options: Any) -> Any:
    """The model with adapters of peft, as this configuration says."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # peft asks transformers by an old name
        return moved(pytest.importorskip("peft").get_peft_model(model, config, **options))


class Factors(torch.nn.Linear):
    """The layout of loralib: factors beside the weight, merged into it in evaluation."""

    def __init__(self, of: Any, rank: int = 2) -> None:
        super().__init__(of.in_features, of.out_features, bias=False)
        self.weight, self.bias = torch.nn.Parameter(of.weight.detach().clone(), requires_grad=False), of.bias
        random = torch.Generator().manual_seed(0)
        self.lora_A, self.lora_B = (
            torch.nn.Parameter(0.1 * torch.randn(shape, generator=random))
            for shape in ((rank, of.in_features), (of.out_features, rank))
        )
        self.merged = False

    def train(self, mode: bool = True) -> Any:
        super().train(mode)
        if mode == self.merged:
            self.weight.data += (-1 if mode else 1) * self.lora_B.data @ self.lora_A.data
            self.merged = not mode
        return self

    def forward(self, x: Any) -> Any:
        y = super().forward(x)
        return y if self.merged else y + x @ self.lora_A.mT @ self.lora_B.mT


class Bytes(torch.nn.Module):
    """A weight in 8 bits and a scale for each output, or one for all."""

    def __init__(self, of: Any, each: bool = True) -> None:
        super().__init__()
        weight, self.bias = of.weight.detach(), of.bias
        scale = (weight.abs().amax(1, keepdim=True) if each else weight.abs().amax()) / 127
        self.register_buffer("scale", scale)
        self.register_buffer("weight", (weight / scale).round().to(torch.int8))

    def forward(self, x: Any) -> Any:
        return torch.nn.functional.linear(x, self.weight.to(x.dtype) * self.scale.to(x.dtype), self.bias)


def with_parts(model: Any, make: Any, *parts: str) -> Any:
    """The model, these projections of its Mamba layers made anew from what they were."""
    for layer in [m for m in model.modules() if hasattr(m, "A_log")]:
        for part in parts:
            setattr(layer, part, make(getattr(layer, part)))
    return model
