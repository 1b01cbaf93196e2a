"""Help for tests: random systems, a plain simulation, and a check of an adapter."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from balred.reduction.plan import reduce
from balred.registry.reading import adapt
from balred.systems.arrays import backend_of, double_precision, to_numpy
from balred.systems.dense_system import DenseSystem, ss
from balred.systems.diagonal_system import DiagonalSystem, diagonal
from balred.systems.leaves import System, with_leaves
from balred.systems.poles import check_stable


def random_system(
    n: int,
    m: int = 2,
    p: int = 2,
    *,
    dt: float | bool = 0,
    kind: str = "dense",
    complex: bool = False,
    batch: tuple[int, ...] = (),
    seed: int | np.random.Generator = 0,
) -> Any:
    """A random stable system in float64 (NumPy).

    Parameters
    ----------
    n, m, p : int
        States (stored ones), inputs, outputs.  A dense system may have no states: a static gain.
    dt : float or bool, default 0
    kind : {"dense", "diagonal", "conjugate"}, default "dense"
    complex : bool, default False
        A dense system with complex matrices.
    batch : tuple of int, default ()
    seed : int or numpy.random.Generator, default 0

    Returns
    -------
    DenseSystem or DiagonalSystem

    Examples
    --------
    >>> random_system(4, kind="conjugate", dt=1)
    DiagonalSystem(states=4, inputs=2, outputs=2, dt=1, conjugate, complex128, numpy)
    """
    rng = np.random.default_rng(seed)
    discrete = dt is True or dt > 0

    def normal(*shape: int, wants_complex: bool) -> NDArray[Any]:
        x = rng.standard_normal((*batch, *shape))
        return x + 1j * rng.standard_normal((*batch, *shape)) if wants_complex else x

    if kind == "dense":
        A = normal(n, n, wants_complex=complex) / np.sqrt(max(n, 1))
        poles = np.linalg.eigvals(A)
        if discrete:
            A = 0.95 * A / np.abs(poles).max(axis=-1, initial=1e-300)[..., None, None]
        else:
            A = A - (poles.real.max(axis=-1, initial=-1e300)[..., None, None] + 0.1) * np.eye(n)
        return ss(
            A,
            normal(n, m, wants_complex=complex),
            normal(p, n, wants_complex=complex),
            normal(p, m, wants_complex=complex),
            dt,
        )
    if kind not in ("diagonal", "conjugate"):
        raise ValueError(f"kind must be 'dense', 'diagonal' or 'conjugate', got {kind!r}")
    size = rng.uniform(0.02, 1.0, (*batch, n))
    log_poles = -size + 1j * rng.uniform(0, np.pi, (*batch, n))
    return diagonal(
        log_poles=log_poles,
        B=normal(n, m, wants_complex=True),
        C=normal(p, n, wants_complex=True) / np.sqrt(n),
        D=normal(p, m, wants_complex=False),
        dt=dt,
        conjugate=kind == "conjugate",
    )


def simulate(system: System, u: NDArray[Any]) -> NDArray[Any]:
    """Output of an unbatched discrete system from rest, by the plain recurrence in float64.

    LRU's convention: the output at step k sees the input of step k, :math:`x_k = Ax_{k-1} + Bu_k`,
    :math:`y_k = Cx_k + Du_k`.

    Parameters
    ----------
    system : DenseSystem or DiagonalSystem
    u : ndarray, shape (L, m)

    Returns
    -------
    ndarray, shape (L, p)
    """
    if not system.discrete:
        raise ValueError(f"only discrete systems can be stepped, got dt = {system.dt}")
    with double_precision(*system.leaves) as leaves:
        g = with_leaves(system, leaves).to_dense()
    A, B, C, D = (to_numpy(x) for x in (g.A, g.B, g.C, g.D))
    x = np.zeros(A.shape[0], dtype=np.result_type(A, B))
    y = np.empty((len(u), C.shape[0]), dtype=np.result_type(A, B, C, D))
    for k, step in enumerate(u):
        x = A @ x + B @ step
        y[k] = C @ x + D @ step
    return y


def check_adapter(
    layer: Any,
    apply: Callable[[Any, NDArray[Any]], NDArray[Any]] | None = None,
    *,
    length: int = 32,
    rtol: float | None = None,
    seed: int = 0,
) -> None:
    """Check the adapter of `layer` by the layer's outputs on data.  Use it in the tests of your own adapters.

    Four rules are checked.  On random input the layer must give the output of its system.  Rebuilt at full rank, it must
    give the same output.  Reduced, it must have the same type and at most the states that were asked for, and give the
    output of the reduced system.  The original must not change.

    Parameters
    ----------
    layer : object
        Of a registered type, with at least two states and a discrete system.
    apply : callable, optional
        ``apply(layer, u)`` with u a float64 array of shape (length, inputs) returns the output, shape (length,
        outputs).  By default ``layer(u)`` with u converted to the layer's array library and precision.
    length : int, default 32
    rtol : float, optional
        Relative to the largest output; by default ``1e3 * eps`` of the layer's dtype.
    seed : int, default 0

    Raises
    ------
    AssertionError
        The message says which rule fails, and by how much.

    Examples
    --------
    >>> import balred, torch
    >>> from balred.adapters.torch import LRU
    >>> balred.testing.check_adapter(LRU(2, 16, generator=torch.Generator().manual_seed(0)))  # says nothing if all is right
    """
    system, rebuild = adapt(layer)
    assert isinstance(system, (DenseSystem, DiagonalSystem)), (
        f"the adapter must return a system, got {type(system).__name__}"
    )
    assert system.B.ndim == 2, f"check_adapter takes unbatched systems, got batch {tuple(system.B.shape[:-2])}"
    check_stable(system)
    be = backend_of(system.B)
    eps = np.finfo(to_numpy(system.B).real.dtype).eps
    rtol = 1e3 * float(eps) if rtol is None else rtol
    u = np.random.default_rng(seed).standard_normal((length, int(system.B.shape[-1])))

    def run(x: Any) -> NDArray[Any]:
        if apply is not None:
            return np.asarray(apply(x, u))
        return np.asarray(be.to_numpy(x(be.from_numpy(u, like=system.B, real=True))))

    def agree(got: NDArray[Any], want: NDArray[Any], what: str) -> None:
        assert got.shape == want.shape, f"{what}: outputs must have shape {want.shape}, got {got.shape}"
        worst = float(np.abs(got - want).max() / max(np.abs(want).max(), 1e-300))
        assert worst <= rtol, f"{what}: outputs must agree to {rtol:.1e} of the largest, got {worst:.1e}"

    before = [to_numpy(x).copy() for x in system.leaves]
    output = run(layer)
    agree(output, simulate(system, u).real, "layer against its system")
    same = rebuild(system)
    assert type(same) is type(layer), f"rebuild must return a {type(layer).__name__}, got {type(same).__name__}"
    agree(run(same), output, "layer rebuilt at full rank against the layer")
    for rank in sorted({system.states // 2, max(1, system.states - 1)}):
        small = reduce(layer, rank)
        after = [to_numpy(x) for x in adapt(layer)[0].leaves]
        same_values = all(np.array_equal(a, b) for a, b in zip(before, after, strict=True))
        assert same_values, "reduce must leave the original as it was, got other values in it"
        assert type(small) is type(layer), f"reduce must return a {type(layer).__name__}, got {type(small).__name__}"
        written = adapt(small)[0]
        assert written.states <= rank, f"the reduced layer must have at most {rank} states, got {written.states}"
        agree(run(small), simulate(reduce(system, rank), u).real, f"layer reduced to {rank} against the reduced system")
