"""A passive system: a reduced model that generates no energy."""

import matplotlib.pyplot as plt
import numpy as np

import balred

# what scatters less than comes in, S,
# has a passive impedance (I - S)^-1 (I + S)
S = balred.testing.random_system(8, 2, 2, seed=20)
peak = 1.01 * balred.norm(S, "hinf")
B, C, D = S.B, -S.C / peak, -S.D / peak
inverse = np.linalg.inv(np.eye(2) - D)
impedance = balred.ss(
    S.A + B @ inverse @ C,
    2**0.5 * B @ inverse,
    2**0.5 * inverse @ C,
    inverse @ (np.eye(2) + D),
)

omega = np.geomspace(0.01, 100, 600)


def resistance(system):
    """Least eigenvalue of the Hermitian part: below 0, energy comes out."""
    responses = [system(1j * w) for w in omega]
    return np.array(
        [np.linalg.eigvalsh(g + g.conj().T)[0] / 2 for g in responses]
    )


figure, ax = plt.subplots(figsize=(8, 4), layout="constrained")
ax.semilogx(omega, resistance(impedance), "k", label="8 states")
for method, style in (("truncate", "C1--"), ("positive_real", "C0-.")):
    least = resistance(balred.reduce(impedance, 3, method=method))
    print(f"{method}: least resistance {least.min():+.3f}")
    ax.semilogx(omega, least, style, label=f'3 states, "{method}"')
ax.axhline(0, color="0.6", linewidth=0.8)
ax.set(
    xlabel="frequency (rad/s)",
    ylabel="least resistance",
    title="A passive system has none below zero",
)
ax.legend()
plt.show()
