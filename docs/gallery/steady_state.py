"""Step responses: which method keeps the steady state."""

import matplotlib.pyplot as plt
import numpy as np
import scipy.signal

import balred

# five tanks in a row, of different sizes; what leaves one flows into the next
rates = np.array([0.3, 0.5, 1.0, 2.0, 4.0])
A = np.diag(-rates) + np.diag(rates[:-1], -1)
tanks = balred.ss(A, np.eye(5)[:, :1], np.ones((1, 5)))

times = np.linspace(0, 25, 400)
figure, ax = plt.subplots(figsize=(8, 4), layout="constrained")


def draw(system, label, style):
    matrices = (system.A, system.B, system.C, system.D)
    ax.plot(*scipy.signal.step(matrices, T=times), style, label=label)


draw(tanks, "5 states", "k-")
for method, style in (("truncate", "C1--"), ("singular_perturbation", "C0-.")):
    small = balred.reduce(tanks, 1, method=method)
    gain = (small(0) / tanks(0)).real.item()
    print(f"{method}: {gain:.4f} of the steady state")
    draw(small, f'1 state, "{method}"', style)
ax.set(
    xlabel="time",
    ylabel="water in all tanks",
    title="Response to a step of the inflow",
)
ax.legend()
plt.show()
