"""Objects of a kind that are alive, whoever holds them: PyTorch keeps no list of optimizers, nor of copies of weights."""

from __future__ import annotations

import gc
from typing import Any


def living(*kinds: type) -> list[Any]:
    """All objects of these classes and of those made from them.

    Their types are compared, since ``isinstance`` asks an object's ``__class__``, which may run somebody's code.

    Examples
    --------
    >>> import torch
    >>> optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)])
    >>> any(one is optimizer for one in living(torch.optim.Optimizer))
    True
    """
    wanted, todo = set[type](), list(kinds)
    while todo:
        if (kind := todo.pop()) not in wanted:
            wanted.add(kind)
            todo += type.__subclasses__(kind)
    return [one for one in gc.get_objects() if type(one) in wanted]
