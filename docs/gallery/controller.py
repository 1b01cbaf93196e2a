"""A controller in its loop: reduce it for the loop, not by itself."""

import matplotlib.pyplot as plt
import numpy as np
from scipy.linalg import solve_continuous_are

import balred

# a chain of masses, pushed at one end, watched in its middle,
# and an LQG controller with as many states
n = 15
K = 2 * np.eye(n) - np.eye(n, k=1) - np.eye(n, k=-1)
A = np.block([[np.zeros((n, n)), np.eye(n)], [-K, -0.1 * np.eye(n) - 0.2 * K]])
B, C = np.eye(2 * n)[:, n : n + 1], np.eye(2 * n)[n // 2 : n // 2 + 1]
plant = balred.ss(A, B, C)
F = B.T @ solve_continuous_are(A, B, 100 * C.T @ C, np.eye(1))
L = solve_continuous_are(A.T, C.T, 100 * B @ B.T, np.eye(1)) @ C.T
controller = balred.ss(A - B @ F - L @ C, L, F)  # u = -K y


def closed(k):
    loop = np.block([[A, -B @ k.C], [k.B @ C, k.A]])
    return balred.ss(loop, np.vstack([B, 0 * k.B]), np.hstack([C, 0 * k.C]))


orders, whole = range(2, 11), closed(controller)
size = balred.norm(whole, "hinf")
figure, ax = plt.subplots(figsize=(8, 4), layout="constrained")
for label, small in (
    (
        "for the loop",
        [balred.controller_reduction(plant, controller, r) for r in orders],
    ),
    ("by itself", [balred.reduce(controller, r) for r in orders]),
):
    errors = [balred.error(whole, closed(k)) / size for k in small]
    print(f"{label}: {errors[orders.index(8)]:.1e} with 8 states")
    ax.semilogy(orders, errors, "o-", label=f"reduced {label}")
ax.set(
    xlabel="states of the controller",
    ylabel="change of the closed loop (relative)",
)
ax.legend()
plt.show()
