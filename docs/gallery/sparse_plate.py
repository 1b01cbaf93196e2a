"""A plate with 10 000 states: sparse matrices stay sparse."""

import time

import matplotlib.pyplot as plt
import numpy as np
import scipy.sparse as sp

import balred

# heat in a square plate of 100 x 100 cells; one edge is heated,
# the temperature of a spot is measured
n = 100
line = sp.diags([1.0, -2.0, 1.0], [-1, 0, 1], shape=(n, n))
A = n**2 * sp.csc_matrix(sp.kron(line, sp.eye(n)) + sp.kron(sp.eye(n), line))
edge, spot = np.zeros((n, n)), np.zeros((n, n))
edge[0], spot[60:65, 60:65] = n**2, 1 / 25
plate = balred.sparse_system(A, edge.reshape(-1, 1), spot.reshape(1, -1))

start = time.perf_counter()
sigma = balred.hsv(plate)
small = balred.reduce(plate, balred.ErrorBound(1e-4, relative=True))
print(f"{plate.states} -> {small.states} states")
seconds = time.perf_counter() - start

figure, (left, right) = plt.subplots(
    1, 2, figsize=(10, 4), layout="constrained"
)
left.semilogy(np.arange(1, 16), sigma[:15] / sigma[0], "o")
left.axvline(small.states + 0.5, color="0.6")
left.set(
    xlabel="number",
    ylabel="Hankel singular value / largest",
    title=f"{plate.states} states, {seconds:.0f} s",
)
times = np.linspace(0, 0.4, 200)
w, V = np.linalg.eig(small.A)
# the step response, mode by mode
modes = (small.C @ V) * np.linalg.solve(V, small.B).T / w
right.plot(times, ((np.exp(np.outer(times, w)) - 1) @ modes.T).real)
right.set(
    xlabel="time",
    ylabel="temperature of the spot",
    title=f"Step of the edge, {small.states} states",
)
plt.show()
