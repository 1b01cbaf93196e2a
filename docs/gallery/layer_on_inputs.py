"""A layer on its own inputs: white noise is not what it sees."""

import matplotlib.pyplot as plt
import torch

import balred
from balred.adapters.torch import LRU

torch.manual_seed(0)
layer = LRU(features=2, states=64)

# slow signals: sums of a few sines of low frequency
generator = torch.Generator().manual_seed(1)
times = torch.arange(400.0)
frequency, phase = (
    torch.rand(2, 32, 3, 2, generator=generator)
    * torch.tensor([0.15, 6.28])[:, None, None, None]
).unbind()
signals = (
    (times[None, :, None, None] * frequency[:, None] + phase[:, None])
    .sin()
    .sum(2)
)
seen, unseen = signals[:16], signals[16:]

with torch.no_grad():
    want = layer(unseen)
    orders = range(2, 25, 2)
    figure, ax = plt.subplots(figsize=(8, 4), layout="constrained")
    for label, options in (
        ("on white noise", {}),
        ("on inputs", {"calibration": seen, "balanced_on": "inputs"}),
    ):
        errors = [
            float(
                (balred.reduce(layer, r, **options)(unseen) - want).norm()
                / want.norm()
            )
            for r in orders
        ]
        twelve = errors[orders.index(12)]
        print(f"balanced {label}: error with 12 states {twelve:.3f}")
        ax.semilogy(orders, errors, "o-", label=f"balanced {label}")
ax.set(
    xlabel="states", ylabel="error on signals that were not seen (relative)"
)
ax.legend()
plt.show()
