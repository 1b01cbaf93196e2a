"""A band of frequencies: accuracy where it is wanted."""

import matplotlib.pyplot as plt
import numpy as np

import balred
from balred.adapters.matplotlib import plot_sigma

# twelve masses between springs, lightly damped;
# the first is pushed, the last is watched
n = 12
K = 2 * np.eye(n) - np.eye(n, k=1) - np.eye(n, k=-1)
A = np.block(
    [[np.zeros((n, n)), np.eye(n)], [-K, -0.02 * np.eye(n) - 0.04 * K]]
)
chain = balred.ss(A, np.eye(2 * n)[:, n : n + 1], np.eye(2 * n)[n - 1 : n])

band = (0.6, 1.05)
everywhere = balred.reduce(chain, 8)
inside = balred.reduce(
    chain, 8, method="frequency_limited", band=band, stable=True
)

omega = np.linspace(0.05, 2.5, 1500)
in_band = omega[(omega >= band[0]) & (omega <= band[1])]
for name, small in (("truncate", everywhere), ("frequency_limited", inside)):
    worst = max(abs(chain(1j * w) - small(1j * w)).item() for w in in_band)
    print(f"{name}: largest error in the band {worst:.2f}")

figure, ax = plt.subplots(figsize=(8, 4), layout="constrained")
plot_sigma(
    chain,
    everywhere,
    inside,
    labels=["24 states", "8, everywhere", "8, in the band"],
    omega=omega,
    ax=ax,
)
ax.set_ylim(-40, 15)
ax.axvspan(*band, color="0.9", zorder=0)
plt.show()
