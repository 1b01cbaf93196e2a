"""Mean-square error: H2-optimal models beside balanced ones."""

import matplotlib.pyplot as plt
import numpy as np

import balred

# a string of 30 masses, pushed and watched at the same point
n = 30
K = 2 * np.eye(n) - np.eye(n, k=1) - np.eye(n, k=-1)
A = np.block(
    [[np.zeros((n, n)), np.eye(n)], [-K, -0.05 * np.eye(n) - 0.1 * K]]
)
string = balred.ss(A, np.eye(2 * n)[:, [n + 4]], np.eye(2 * n)[[n + 4]])

orders = range(2, 17, 2)
size = balred.norm(string, "h2")
figure, ax = plt.subplots(figsize=(8, 4), layout="constrained")
for method, style in (("truncate", "C1s--"), ("irka", "C0o-")):
    errors = [
        balred.error(
            string, balred.reduce(string, r, method=method), kind="h2"
        )
        / size
        for r in orders
    ]
    print(f"{method}: H2 error with 8 states {errors[orders.index(8)]:.3f}")
    ax.semilogy(orders, errors, style, label=f'"{method}"')
ax.set(xlabel="states", ylabel="H2 norm of the error (relative)")
ax.legend()
plt.show()
