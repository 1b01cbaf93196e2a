"""A figure from the literature: Hankel singular values of Penzl's example."""

import matplotlib.pyplot as plt
import numpy as np

import balred
from balred.adapters.matplotlib import plot_sigma

# three resonances, at 100, 200 and 400 rad/s,
# and the real poles -1, -2, ..., -1000;
# C is the transpose of B
resonances = -1 + 100j * np.array([1, 2, 4])
poles = np.concatenate([resonances, resonances.conj(), -np.arange(1.0, 1001)])
b = np.concatenate([np.full(6, 10.0), np.ones(1000)])
penzl = balred.diagonal(poles=poles, B=b[:, None], C=b[None])

sigma = balred.hsv(penzl)
print(f"{penzl.states} states, the largest values:", sigma[:7].round(4))
print(
    "states for an error bound of 1e-4:",
    balred.ErrorBound(1e-4, relative=True).order(sigma),
)

figure, (left, right) = plt.subplots(
    1, 2, figsize=(10, 4), layout="constrained"
)
left.semilogy(np.arange(1, 41), sigma[:40] / sigma[0], "o", markersize=4)
left.set(
    xlabel="number",
    ylabel="Hankel singular value / largest",
    title="The first 40 of 1006",
)
systems, labels = (
    (penzl, balred.reduce(penzl, 10)),
    ["1006 states", "10 states"],
)
plot_sigma(*systems, labels=labels, omega=np.geomspace(1, 1e4, 600), ax=right)
plt.show()
