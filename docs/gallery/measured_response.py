"""A model from measured frequencies: no equations are known."""

import matplotlib.pyplot as plt
import numpy as np

import balred

# what an analyser measured at 60 frequencies:
# here of a system with six states, and noise
hidden = balred.ss(
    np.kron(np.eye(3), [[-0.05, 1.0], [-1.0, -0.05]])
    * np.kron(np.diag([1.0, 2.3, 4.1]), np.ones((2, 2))),
    np.ones((6, 1)),
    np.array([[1.0, -0.5, 0.6, 0.2, -0.4, 0.5]]),
)
omega = np.geomspace(0.3, 10, 60)
rng = np.random.default_rng(0)
noise = 1e-4 * (rng.standard_normal(60) + 1j * rng.standard_normal(60))
values = np.array([hidden(1j * w) for w in omega]) + noise[:, None, None]

model = balred.loewner(1j * omega, values, tol=1e-3)
print(model)
poles = np.linalg.eigvals(model.A)
print(
    "poles with a positive frequency:",
    np.sort(poles.imag[poles.imag > 0]).round(2),
)

fine = np.geomspace(0.3, 10, 800)
figure, ax = plt.subplots(figsize=(8, 4), layout="constrained")
ax.loglog(
    fine,
    [abs(model(1j * w)).item() for w in fine],
    label=f"model with {model.states} states",
)
ax.loglog(omega, abs(values).ravel(), "k.", label="measured")
ax.set(xlabel="frequency (rad/s)", ylabel="gain")
ax.legend()
plt.show()
