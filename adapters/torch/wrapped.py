"""Projections that are more than a weight and a bias: a linear module inside another, which adds something to it (LoRA).

What such a module computes is linear in its input, whatever it is made of, so its weight is read off its answers.  Its outputs lie
along the first axes of some of its tensors (the weight inside, the second factors of all adapters, magnitudes), and these are cut
together.  Whether that cuts the outputs and nothing else is tried out on a copy with random values, so that factors which are
still zero count.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from balred.adapters.torch.modules import blank_copy
from balred.adapters.torch.running import evaluating

Tensor = torch.Tensor
Change = Callable[[Tensor], Tensor]
"""Makes other outputs of a tensor's, which are along its first axis."""


def effective(module: Any) -> tuple[Tensor, Tensor | None]:
    """The weight, (outputs, inputs), and the bias of what a linear module computes in evaluation mode.

    Examples
    --------
    >>> class Doubled(nn.Linear):
    ...     def __init__(self):
    ...         super().__init__(2, 3)
    ...         self.twice = nn.Parameter(torch.full((3,), 2.0))
    ...     def forward(self, x):
    ...         return super().forward(x) * self.twice
    >>> module = Doubled()
    >>> torch.allclose(effective(module)[0], 2 * module.weight)
    True
    """
    if is_plain(module):
        return module.weight, getattr(module, "bias", None)
    inputs = module.weight.shape[1]
    one = torch.eye(inputs + 1, inputs, dtype=_input_dtype(module), device=module.weight.device)
    made = _run(module, one)
    return (made[:-1] - made[-1]).mT, made[-1]


def is_plain(module: nn.Module) -> bool:
    """Whether a projection has a weight and perhaps a bias, and no other tensors."""
    return _tensors(module).keys() <= {"weight", "bias"}


def mixes_outputs(module: Any) -> bool:
    """Whether the outputs of a projection can be mixed by what is done to its tensors, and not only selected."""
    if is_plain(module):
        return True
    size = module.weight.shape[0]
    mix = torch.randn(size, size, generator=torch.Generator().manual_seed(1), dtype=torch.float64, device="cpu")
    return _fault(module, lambda x: torch.tensordot(mix.to(x.device), x.double(), 1).to(x.dtype)) is None


def with_outputs(layer: Any, part: str, change: Change) -> dict[str, Any]:
    """The tensors, and the sizes, of the projection `part` of `layer` with other outputs, by their names in the layer.

    Raises
    ------
    ValueError
        They do not tell the outputs by their first axes.
    """
    module = getattr(layer, part)
    if not is_plain(module) and (fault := _fault(module, change)) is not None:
        raise ValueError(
            f"a projection that is cut must have its outputs along the first axes of its tensors, got {', '.join(_tensors(module))} in {part}, "
            f"a {type(module).__name__}, {fault}: merge them into the weight first"
        )
    return {f"{part}.{name}": value for name, value in _changed(module, change).items()}


def _changed(module: Any, change: Change) -> dict[str, Any]:
    size = module.weight.shape[0]
    tensors = {n: change(x.detach()) for n, x in _tensors(module).items() if x.ndim and len(x) == size}
    made = len(next(iter(tensors.values())))
    inside = ((f"{path}." if path else "", part) for path, part in module.named_modules())
    sizes = {f"{path}out_features": made for path, part in inside if vars(part).get("out_features") == size}
    return tensors | sizes


def _fault(module: Any, change: Change) -> str | None:
    """What is wrong where tensors with other outputs do not make these."""
    size, inputs = module.weight.shape[:2]
    like = [n for n, x in _tensors(module).items() if tuple(x.shape) == (size, inputs)]
    if len(like) != 1:
        return f"of which {' and '.join(like) or 'none'} {'have' if len(like) > 1 else 'has'} the shape {(size, inputs)} of a weight"
    random = torch.Generator().manual_seed(0)
    full = blank_copy(module, {})
    with torch.no_grad():
        for x in (*full.parameters(), *full.buffers()):
            if x.is_floating_point():
                x.copy_(torch.randn(x.shape, generator=random, device="cpu").to(x))
        try:
            small = blank_copy(full, _changed(full, change))
            x = torch.randn(16, inputs, generator=random, device="cpu").to(full.weight.device, _input_dtype(full))
            want, got = change(_run(full, x).mT), _run(small, x).mT
        except Exception as error:  # whatever a module makes of tensors of other sizes
            return f"which fails with fewer outputs: {type(error).__name__}: {error}"
    eps = max(torch.finfo(y.dtype).eps for y in (x, want))
    if want.shape == got.shape and float((want - got).norm()) <= eps**0.5 * float(want.norm()):
        return None
    return "which changes the outputs that stay"


def _run(module: Any, x: Tensor) -> Tensor:
    """What a module makes of rows of inputs, past the hooks on it."""
    with evaluating(module):
        made: Tensor = module.forward(x[None])[0]
    return made


def _input_dtype(module: Any) -> torch.dtype:
    """What a module is called with: its own precision, unless its weight is stored in a byte."""
    weight: Tensor = module.weight
    return weight.dtype if weight.is_floating_point() and weight.element_size() > 1 else torch.get_default_dtype()


def _tensors(module: nn.Module) -> dict[str, Tensor]:
    return dict(module.named_parameters()) | dict(module.named_buffers())
