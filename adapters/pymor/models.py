"""pyMOR's models of linear systems, in and out: ``LTIModel``, and ``SecondOrderModel``, which a reduction keeps as such."""

from __future__ import annotations

from typing import Any

import numpy as np
from pymor.models.iosys import LTIModel, SecondOrderModel
from pymor.solvers.matrix_equations.utils import mat_eqn_sparse_min_size

from balred.adapters.pymor.equations import full, is_sparse
from balred.realisations.descriptor import descriptor
from balred.realisations.second_order.system import SecondOrderSystem, second_order
from balred.realisations.sparse import SparseSystem, sparse_system
from balred.registry.entries import register, register_entry
from balred.registry.kinds import Entry
from balred.registry.reading import adapt
from balred.systems.dense_system import is_discrete, ss
from balred.systems.leaves import System


@register(LTIModel)
def adapt_lti(model: Any) -> tuple[System, Any]:
    """The system of a pyMOR ``LTIModel``, and the way back to one without E.

    E is divided out, and may be singular where the response is proper.  Sparse operators become full matrices below the
    order from which pyMOR itself uses its sparse solvers (``mat_eqn_sparse_min_size``, 1000); above it the model is read
    as a :class:`balred.realisations.sparse.SparseSystem`, that is by its most accurate balanced truncation.

    The result has no visualizer, error estimator or presets, because these belong to the old state space.  It keeps the
    final time and the time stepper if the initial data are zero.

    Raises
    ------
    ValueError
        The model depends on parameters; its response is not proper; initial data that are not zero, on the way back.

    Examples
    --------
    >>> import balred
    >>> from balred.adapters.pymor import lti_model
    >>> from balred.adapters.pymor.models import adapt_lti
    >>> system, rebuild = adapt_lti(lti_model(balred.testing.random_system(8, seed=0)))
    >>> system.states, rebuild(balred.reduce(system, 3)).order
    (8, 3)
    """
    _check_fixed(model)
    A, B, C, D, E = model.to_abcde_matrices()
    dt = model.sampling_time
    system: System
    if is_sparse(A) and model.order >= mat_eqn_sparse_min_size():
        system = sparse_system(A, B, C, None if D is None else full(D), E, dt).compressed
    elif E is None:
        system = ss(full(A), full(B), full(C), None if D is None else full(D), dt)
    else:
        system = descriptor(full(E), full(A), full(B), full(C), None if D is None else full(D), dt)

    def rebuild(reduced: System) -> Any:
        keep: dict[str, Any] = {}
        if model.T is not None:
            if model.initial_data.as_range_array().norm().any():
                raise ValueError("initial data must be zero for a reduced LTIModel, got others: set T=None first")
            keep = {"T": model.T, "time_stepper": model.time_stepper, "num_values": model.num_values}
        g = reduced.to_dense()
        return LTIModel.from_matrices(
            *(g.A, g.B, g.C, g.D if np.any(g.D) else None),
            sampling_time=dt,
            matrix_equation_solvers=model.matrix_equation_solvers,
            name=model.name,
            **keep,
        )

    return system, rebuild


def _check_fixed(model: Any) -> None:
    if model.parametric:
        raise ValueError(
            f"{'an' if isinstance(model, LTIModel) else 'a'} {type(model).__name__} must not depend on parameters to be read, "
            f"got {model.parameters}: assemble its operators first"
        )


def adapt_second_order(model: Any) -> tuple[System, Any]:
    """The system of a pyMOR ``SecondOrderModel``, read through its ``to_lti()``, and the way back to an ``LTIModel``.

    So :func:`balred.hsv`, :func:`balred.norm` and :func:`balred.analyze` see it, in whose reduced systems states are no positions
    and velocities any more.  :func:`balred.reduce` returns a ``SecondOrderModel``.

    Raises
    ------
    ValueError
        The model depends on parameters, or its mass matrix is singular.

    Examples
    --------
    >>> import balred, numpy as np
    >>> from balred.adapters.pymor import second_order_model
    >>> from balred.adapters.pymor.models import adapt_second_order
    >>> K = 2 * np.eye(6) - np.eye(6, k=1) - np.eye(6, k=-1)
    >>> model = second_order_model(balred.second_order(np.eye(6), 0.1 * K, K, np.eye(6)[:, :1], np.eye(6)[:1]))
    >>> system, rebuild = adapt_second_order(model)
    >>> system.states, type(rebuild(system)).__name__
    (12, 'LTIModel')
    """
    return adapt_lti(model.to_lti())


def second_order_of_model(model: Any) -> tuple[SecondOrderSystem, Any] | None:
    """The second-order system of a continuous ``SecondOrderModel``, and the way back; None for a discrete one.

    Positions are counted where sizes are compared: from ``mat_eqn_sparse_min_size`` on, 1000, sparse operators stay sparse.
    A direct term takes no part, and is the same in the reduced model.

    Raises
    ------
    ValueError
        The model depends on parameters; its mass matrix is singular.
    """
    if is_discrete(model.sampling_time):
        return None
    _check_fixed(model)
    M, E, K, B, Cp, Cv, D = model.to_matrices()
    if model.order < mat_eqn_sparse_min_size():
        M, E, K = (full(x) for x in (M, E, K))
    system = second_order(M, E, K, B, Cp, Cv)

    def rebuild(reduced: SecondOrderSystem) -> Any:
        solvers = model.matrix_equation_solvers
        return second_order_model(
            reduced, D=None if D is None else full(D), matrix_equation_solvers=solvers, name=model.name
        )

    return system, rebuild


register_entry(SecondOrderModel, Entry(adapt_second_order, second_order=second_order_of_model))


def lti_model(obj: Any, *, sampling_time: float | None = None, **options: Any) -> Any:
    """A pyMOR ``LTIModel`` of a system of this library, or of anything :func:`balred.adapt` reads.

    Parameters
    ----------
    obj : system, SparseSystem, ``control.StateSpace``, layer, ...
        A :class:`balred.realisations.sparse.SparseSystem` keeps its sparse matrices and E.
    sampling_time : float, optional
        Needed for discrete systems with an unspecified step, ``dt=True``.
    **options
        Of ``LTIModel.from_matrices``: ``name``, ``matrix_equation_solvers``, ...

    Returns
    -------
    LTIModel

    Raises
    ------
    ValueError
        A discrete system without a step; a `sampling_time` that is not that of the system.

    Examples
    --------
    >>> import balred
    >>> from balred.adapters.pymor import lti_model
    >>> model = lti_model(balred.testing.random_system(8, seed=0), name="plant")
    >>> model.order, balred.reduce(model, 3).order
    (8, 3)
    """
    system: Any = obj if isinstance(obj, SparseSystem) else adapt(obj)[0].to_dense()
    step = sampling_time if system.dt is True or sampling_time is not None else system.dt
    if step is None:
        raise ValueError("a discrete LTIModel needs a step, got dt=True: give sampling_time")
    if is_discrete(step) != is_discrete(system.dt) or (system.dt is not True and step != system.dt):
        raise ValueError(f"sampling_time must be that of the system, {system.dt}, got {sampling_time}")
    D = system.D if np.any(system.D) else None
    E = system.E if isinstance(system, SparseSystem) else None
    return LTIModel.from_matrices(system.A, system.B, system.C, D, E, sampling_time=step, **options)


def second_order_model(g: SecondOrderSystem, *, D: Any = None, **options: Any) -> Any:
    """A pyMOR ``SecondOrderModel`` of a second-order system of this library, sparse where it is.

    Parameters
    ----------
    g : balred.SecondOrderSystem
        Its damping D is pyMOR's E.
    D : array, shape (p, m), optional
        A direct term; second-order systems of balred have none.
    **options
        Of ``SecondOrderModel.from_matrices``: ``name``, ``matrix_equation_solvers``, ...

    Returns
    -------
    SecondOrderModel

    Raises
    ------
    TypeError
        `g` is not a second-order system.

    Examples
    --------
    >>> import numpy as np, balred
    >>> from balred.adapters.pymor import second_order_model
    >>> K = 2 * np.eye(6) - np.eye(6, k=1) - np.eye(6, k=-1)
    >>> model = second_order_model(balred.second_order(np.eye(6), 0.1 * K, K, np.eye(6)[:, :1], np.eye(6)[:1]))
    >>> small = balred.reduce(model, 3, balancing="velocity")
    >>> type(small).__name__, small.order
    ('SecondOrderModel', 3)
    """
    if not isinstance(g, SecondOrderSystem):
        raise TypeError(f"g must be a SecondOrderSystem, got {type(g).__name__}: lti_model takes others")
    Cv = g.Cv if np.any(g.Cv) else None
    return SecondOrderModel.from_matrices(g.M, g.D, g.K, g.B, g.Cp, Cv, D if np.any(D) else None, **options)
