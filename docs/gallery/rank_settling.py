"""A figure from the literature: the states a layer needs settle early."""

import matplotlib.pyplot as plt
import torch
from sklearn.datasets import load_digits

import balred
from balred.adapters.torch import LRU

# small pictures of digits, pixel after pixel
digits = load_digits()
pixels = torch.tensor(digits.data / 16, dtype=torch.float32)[:, :, None]
labels = torch.tensor(digits.target)

torch.manual_seed(0)
layer = LRU(features=16, states=64)
encoder, head = torch.nn.Linear(1, 16), torch.nn.Linear(16, 10)
parameters = [
    p for module in (encoder, layer, head) for p in module.parameters()
]
optimizer = torch.optim.AdamW(parameters, lr=2e-2)
schedule = torch.optim.lr_scheduler.OneCycleLR(
    optimizer, 2e-2, total_steps=401
)

steps, ranks, losses = [], [], []
for step in range(401):
    chosen = torch.randint(len(labels), (32,))
    features = torch.nn.functional.gelu(layer(encoder(pixels[chosen])))
    loss = torch.nn.functional.cross_entropy(
        head(features.mean(1)), labels[chosen]
    )
    if step % 10 == 0:
        steps.append(step)
        losses.append(loss.item())
        ranks.append(balred.analyze(layer).rank(balred.Energy(0.99)))
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    schedule.step()

print(
    "loss",
    f"{losses[0]:.1f} -> {losses[-1]:.1f}",
    "states",
    f"{ranks[0]} -> {ranks[-1]}",
)
figure, ax = plt.subplots(figsize=(8, 4), layout="constrained")
ax.plot(
    steps,
    ranks,
    "o-",
    label="states for 99 % of the sum of Hankel singular values",
)
ax.set(xlabel="step", ylabel="states of 64", ylim=(0, 65))
other = ax.twinx()
other.plot(steps, losses, "C1--", label="loss")
other.set_ylabel("loss")
figure.legend(loc="outside upper center", ncols=2)
plt.show()
