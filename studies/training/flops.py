"""What a training step computes, in floating-point operations: a cost that does not depend on the machine.

Matrix products are counted, forwards and backwards, those of complex numbers as the four products of real ones that they are.
What is done number by number is not: it costs memory traffic, not operations.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

_ATEN = torch.ops.aten
_LEFT = {_ATEN.mm: 0, _ATEN.bmm: 0, _ATEN.addmm: 1, _ATEN.baddbmm: 1}
"""Which argument is the left factor."""


class MatrixProducts(TorchDispatchMode):
    """Counts the operations of the matrix products that run while it is entered.

    Examples
    --------
    >>> with MatrixProducts() as products:
    ...     y = torch.ones(2, 3) @ torch.ones(3, 4)
    >>> products.flops  # 2 x 4 sums of 3 products
    48
    >>> with MatrixProducts() as products:
    ...     y = torch.ones(2, 3, dtype=torch.complex64) @ torch.ones(3, 4, dtype=torch.complex64)
    >>> products.flops
    192
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.flops = 0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        left = _LEFT.get(func.overloadpacket)
        if left is not None:
            self.flops += 2 * result.numel() * args[left].shape[-1] * (4 if result.is_complex() else 1)
        return result
