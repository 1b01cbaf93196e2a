r"""Systems in files, for the command line and for exchange with MATLAB and others: ``.mat``, ``.npz`` and ``.json``.

A file is a set of named entries, the same in every format: ``A, B, C`` (or ``log_poles, B, C`` of a diagonal system),
optionally ``D``, ``E``, ``dt`` and names (documentation, *Command line*).  Nothing is ever unpickled, so that a file from a
stranger is data and no program.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np

from balred.files.formats import FORMATS, NAMES, SECOND_ORDER, Entries, Format
from balred.files.replacing import replacing
from balred.ranks.shown import facts_html
from balred.realisations.descriptor import descriptor
from balred.realisations.second_order.system import SecondOrderSystem, second_order
from balred.realisations.sparse import SparseSystem, sparse_system, with_options
from balred.registry.entries import register_entry
from balred.registry.kinds import Entry
from balred.registry.reading import adapt
from balred.systems.arrays import mapped, to_numpy
from balred.systems.dense_system import DenseSystem, ss
from balred.systems.diagonal_system import DiagonalSystem, diagonal
from balred.systems.leaves import System

_DENSE_UP_TO = 2000
"""A sparse A of at most this order is read as a full matrix, of which every Hankel singular value can be had."""

_FULL_BYTES = 2**30


@dataclass(frozen=True, eq=False)
class StoredSystem:
    """A system with the names that a file gives it.  You can pass it to every function of the library.

    Attributes
    ----------
    system : DenseSystem, DiagonalSystem, SparseSystem or SecondOrderSystem
    name : str
    inputs, outputs, states : tuple of str
        Empty if the file has no names.  The states of a reduced system have no names.

    Examples
    --------
    >>> import balred
    >>> plant = StoredSystem(balred.testing.random_system(4, 1, 1), inputs=("voltage",))
    >>> small = balred.reduce(plant, 2)
    >>> small.system.states, small.inputs
    (2, ('voltage',))
    """

    system: System | SparseSystem | SecondOrderSystem
    name: str = ""
    inputs: tuple[str, ...] = ()
    outputs: tuple[str, ...] = ()
    states: tuple[str, ...] = ()

    def _repr_html_(self) -> str:
        """The system and its names as a table, for notebooks."""
        named = [f"{key}: {', '.join(names)}" for key in ("inputs", "outputs") if (names := getattr(self, key))]
        return facts_html(repr(self.system), named)


def _adapt_stored(obj: StoredSystem) -> tuple[System, Callable[[System], StoredSystem]]:
    return adapt(obj.system)[0], lambda reduced: dataclasses.replace(obj, system=reduced, states=())


def _second_order_stored(obj: StoredSystem) -> tuple[Any, Callable[[Any], StoredSystem]] | None:
    if not isinstance(obj.system, SecondOrderSystem):
        return None
    return obj.system, lambda reduced: dataclasses.replace(obj, system=reduced, states=())


def _configured(obj: StoredSystem, options: Mapping[str, Any]) -> tuple[StoredSystem, Mapping[str, Any]]:
    if not isinstance(obj.system, SparseSystem):
        return obj, options
    system, rest = with_options(obj.system, options)
    return (obj if system is obj.system else dataclasses.replace(obj, system=system)), rest


register_entry(StoredSystem, Entry(_adapt_stored, second_order=_second_order_stored, configured=_configured))


def load(path: str | PathLike[str]) -> StoredSystem:
    """Read a system from a file.

    Parameters
    ----------
    path : path
        ``.mat`` (MATLAB, up to version 7), ``.npz`` (NumPy) or ``.json``.

    Returns
    -------
    StoredSystem
        Of NumPy arrays; integers become float64.  It holds a dense system, with three exceptions.  If the file has
        ``log_poles`` (or ``poles``) instead of A, the system is diagonal.  If A is sparse and has more than 2000
        states, it is sparse.  If the file has ``M``, ``D``, ``K``, ``B`` and ``Cp`` or ``Cv``, it is of second order.
        A matrix E is removed as :func:`balred.descriptor` does it.

    Raises
    ------
    OSError
        The file cannot be read.
    ValueError
        The suffix is unknown, the contents do not have that format, entries are missing, or the entries do not make a
        system.  The message begins with the name of the file.

    Examples
    --------
    >>> import pathlib, tempfile, balred, balred.files
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     balred.files.save(balred.ss([[-1.0]], [[1.0]], [[1.0]]), f"{folder}/lag.json")
    ...     text = pathlib.Path(folder, "lag.json").read_text()
    ...     lag = balred.files.load(f"{folder}/lag.json")
    >>> print(text)
    {"A": [[-1.0]], "B": [[1.0]], "C": [[1.0]], "D": [[0.0]], "dt": 0}
    >>> lag.system
    DenseSystem(states=1, inputs=1, outputs=1, continuous, float64, numpy)
    >>> balred.hsv(lag)
    array([0.5])
    """
    path = Path(path)
    decode, _ = _format(path)
    data = path.read_bytes()
    try:
        return _stored(decode(data))
    except (ValueError, TypeError) as error:
        raise ValueError(f"{path}: {error}") from None


def save(obj: Any, path: str | PathLike[str]) -> None:
    """Write a system to a file that :func:`load` reads.  An existing file is replaced.

    Parameters
    ----------
    obj : StoredSystem, system, or anything :func:`balred.adapt` reads
        A sparse system goes into ``.mat`` only.
    path : path
        ``.mat``, ``.npz`` or ``.json``.

    Raises
    ------
    OSError
        The file cannot be written.
    ValueError
        The suffix is unknown; sparse matrices in another format than ``.mat``.

    Examples
    --------
    >>> import tempfile, balred
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     save(balred.testing.random_system(4), f"{folder}/plant.npz")
    ...     load(f"{folder}/plant.npz").system.states
    4
    """
    path = Path(path)
    _, encode = _format(path)
    if not isinstance(obj, StoredSystem):
        obj = StoredSystem(obj if isinstance(obj, SparseSystem | SecondOrderSystem) else adapt(obj)[0])
    sparse = isinstance(obj.system, SparseSystem) or (isinstance(obj.system, SecondOrderSystem) and obj.system.sparse)
    if sparse and path.suffix.lower() != ".mat":
        raise ValueError(f"{path}: sparse matrices must go into a .mat file, got {path.suffix!r}")
    data = encode(_entries(obj))
    with replacing(path, "wb") as file:
        file.write(data)


def _format(path: Path) -> Format:
    if path.suffix.lower() not in FORMATS:
        raise ValueError(f"{path}: the suffix must be one of {', '.join(FORMATS)}, got {path.suffix!r}")
    return FORMATS[path.suffix.lower()]


def check_suffix(path: str | PathLike[str]) -> None:
    """Raise a ValueError unless `path` is called like one of the formats."""
    _format(Path(path))


def _stored(entries: Mapping[str, Any]) -> StoredSystem:
    """The system that the entries of a file describe."""
    if not {"A", "poles", "log_poles"} & entries.keys() and {"M", "K"} & entries.keys():
        return _stored_second_order(entries)
    poles = next((key for key in ("log_poles", "poles") if key in entries), "A")
    first = "A" if "A" in entries else poles
    missing = [key for key in (first, "B", "C") if key not in entries]
    if missing:
        raise ValueError(
            f"a system must have A, B and C (or log_poles, B and C), got {', '.join(entries) or 'nothing'}: "
            f"{', '.join(missing)} missing"
        )
    arrays = {key: _numbers(key, entries[key]) for key in (first, *"BCDE") if key in entries}
    arrays = {key: x for key, x in arrays.items() if key not in "DE" or 0 not in x.shape}  # D = [] and E = [] of MATLAB
    dt = _time_step(entries)
    system = _system(arrays, dt, bool(np.all(entries.get("conjugate", False))))
    order = arrays[first].shape[-1]
    names = _names(entries, system, order)
    if names.get("states") and system.states != order:
        del names["states"]  # the algebraic ones are gone
    return StoredSystem(system, "".join(_strings("name", entries.get("name", ""))), **names)


def _stored_second_order(entries: Mapping[str, Any]) -> StoredSystem:
    missing = [key for key in ("M", "D", "K", "B") if key not in entries] or ["Cp", "Cv"]
    if missing != ["Cp", "Cv"] or not ("Cp" in entries or "Cv" in entries):
        raise ValueError(
            f"a second-order system must have M, D, K, B and Cp or Cv, got {', '.join(entries)}: {', '.join(missing)} missing"
        )
    if _time_step(entries) != 0:
        raise ValueError(f"a second-order system must be continuous, got dt = {_time_step(entries)}")
    system = second_order(**{key: _numbers(key, entries[key]) for key in SECOND_ORDER if key in entries})
    names = _names(entries, system, system.states)
    return StoredSystem(system, "".join(_strings("name", entries.get("name", ""))), **names)


def _names(entries: Mapping[str, Any], system: Any, states: int) -> dict[str, tuple[str, ...]]:
    names = {key: _strings(key, entries[key]) for key in NAMES if key in entries}
    for key, count in zip(NAMES, (system.B.shape[-1], system.C.shape[-2], states), strict=True):
        if len(names.get(key, ())) not in (0, count):
            raise ValueError(f"{key} must have {count} names, got {len(names[key])}")
    return names


def _system(arrays: Mapping[str, Any], dt: float | bool, conjugate: bool) -> System | SparseSystem:
    B, C, D, E = (arrays.get(key) for key in "BCDE")
    if "A" not in arrays:
        kind = {key: _full(arrays[key]).reshape(-1) for key in ("poles", "log_poles") if key in arrays}
        return diagonal(B=_full(B), C=_full(C), D=_full(D), dt=dt, conjugate=conjugate, **kind)
    A = arrays["A"]
    if hasattr(A, "toarray") and A.shape[0] > _DENSE_UP_TO:
        return sparse_system(A, B, C, _full(D), E, dt)
    A, B, C, D, E = (_full(x) for x in (A, B, C, D, E))
    return ss(A, B, C, D, dt) if E is None else descriptor(E, A, B, C, D, dt)


def _entries(obj: StoredSystem) -> Entries:
    g = obj.system
    out: Entries
    if isinstance(g, SecondOrderSystem):
        out = {key: getattr(g, key) for key in SECOND_ORDER}
    elif isinstance(g, SparseSystem):
        out = {"A": g.A, "B": g.B, "C": g.C, "D": g.D, **({} if g.E is None else {"E": g.E})}
    else:
        g = mapped(g, to_numpy)
        first = {"A": g.A} if isinstance(g, DenseSystem) else {"log_poles": g.log_poles}
        out = {**first, "B": g.B, "C": g.C, "D": g.D}
    out["dt"] = g.dt
    if isinstance(g, DiagonalSystem):
        out["conjugate"] = g.conjugate
    if obj.name:
        out["name"] = obj.name
    return out | {key: list(getattr(obj, key)) for key in NAMES if getattr(obj, key)}


def _full(x: Any) -> Any:
    if not hasattr(x, "toarray"):
        return x
    if 16 * x.shape[0] * x.shape[1] > _FULL_BYTES:  # whose sizes no number in the file stands for
        raise ValueError(
            f"a sparse matrix that is read as a full one must be of at most {_FULL_BYTES} bytes, got shape {x.shape}"
        )
    return x.toarray()


def _numbers(key: str, value: Any) -> Any:
    """An array or sparse matrix of floating-point numbers; files store integers where values happen to be integral."""
    if not hasattr(value, "dtype") or value.dtype.kind not in "biufc":
        raise ValueError(f"{key} must hold numbers, got {getattr(value, 'dtype', type(value).__name__)}")
    return value if value.dtype.kind in "fc" else value.astype(np.float64)


def _time_step(entries: Mapping[str, Any]) -> float | bool:
    """``dt``, or ``Ts`` as MATLAB calls it, where -1 is a step that is not specified."""
    found = []
    for key in ("dt", "Ts"):
        if key in entries:
            value = np.asarray(entries[key])
            if value.size != 1 or value.dtype.kind not in "biuf":
                raise ValueError(f"{key} must be one number or true, got {entries[key]!r}")
            step = value.reshape(-1)[0].item()
            found.append(True if key == "Ts" and step == -1 else step)
    if len(found) == 2 and found[0] != found[1]:
        raise ValueError(f"dt and Ts must agree where both are given, got {found[0]} and {found[1]}")
    return found[0] if found else 0


def _strings(key: str, value: Any) -> tuple[str, ...]:
    """Names from a list, from an array of strings, or from a cell array, whose members are arrays again."""
    if not isinstance(value, (str, list, np.ndarray)):
        raise ValueError(f"{key} must be text, got {value!r}")
    flat = [np.asarray(item).reshape(-1) for item in np.asarray(value).reshape(-1)]
    if any(item.dtype.kind != "U" for item in flat if item.size):
        raise ValueError(f"{key} must be text, got {value!r}")
    return tuple("".join(item.tolist()).rstrip() for item in flat)
