"""A regulariser: train a layer that needs few states."""

import matplotlib.pyplot as plt
import numpy as np
import torch

import balred
from balred.adapters.torch import LRU

figure, ax = plt.subplots(figsize=(8, 4), layout="constrained")
for weight in (0.0, 1e-2):
    torch.manual_seed(0)
    model = torch.nn.Sequential(LRU(1, 32), torch.nn.Linear(1, 1))
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    for _ in range(100):  # learn a moving average over eight steps
        u = torch.randn(16, 48, 1)
        want = torch.nn.functional.avg_pool1d(u.mT, 8, stride=1).mT
        loss = (model(u)[:, 7:] - want).square().mean()
        sigma = balred.hsv(model[0])
        optimizer.zero_grad()
        (loss + weight * sigma.sum()).backward()  # the Hankel nuclear norm
        optimizer.step()
    rank = balred.Energy(0.99).order(sigma.detach().numpy())
    print(f"weight {weight}: loss {loss.item():.4f}, {rank} states for 99 %")
    ax.semilogy(
        np.arange(1, 33),
        sigma.detach()[:32],
        "o-",
        markersize=4,
        label=f"weight {weight:g}",
    )
ax.set(
    xlabel="number", ylabel="Hankel singular value", title="After 100 steps"
)
ax.legend()
plt.show()
