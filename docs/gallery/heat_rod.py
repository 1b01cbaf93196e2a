"""A heated rod: how many of its 100 states are needed."""

import matplotlib.pyplot as plt
import numpy as np

import balred
from balred.adapters.matplotlib import plot_error, plot_hsv

# 100 cells in a row; the first is heated, a thermometer sits in the last
n = 100
A = n**2 * (np.eye(n, k=1) - 2 * np.eye(n) + np.eye(n, k=-1))
rod = balred.ss(A, n**2 * np.eye(n)[:, :1], np.eye(n)[-1:])

analysis = balred.analyze(rod)
rank = analysis.rank(balred.ErrorBound(1e-3, relative=True))
small = analysis.reduce(rank)
print(f"{rod.states} -> {small.states} states")
print(
    f"bound {analysis.bound(rank):.1e}, "
    f"measured error {balred.error(rod, small):.1e}"
)

figure, (left, right) = plt.subplots(
    1, 2, figsize=(10, 4), layout="constrained"
)
plot_hsv(analysis, rank, ax=left)
left.set_xlim(0, 20)
left.set_ylim(1e-12, 1)
plot_error(rod, small, bound=analysis, ax=right)
plt.show()
