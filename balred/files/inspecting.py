"""What could be cut from a checkpoint: its layers, and the ranks that keep all but a share of their Hankel singular values."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from os import PathLike

import numpy as np

from balred.files.families import FAMILIES, Layer, find_layers
from balred.files.opening import open_checkpoint
from balred.ranks.rules import Energy
from balred.reduction.analysis import Analysis, analyze

TAUS = (1e-1, 1e-2, 1e-3, 1e-4)
r"""Shares of :math:`\sum\sigma_i` that may go."""


@dataclass(frozen=True)
class Inspected:
    """A layer of a checkpoint.  If it has no ranks, `note` says why.

    Attributes
    ----------
    name, type : str
    states : int
        As the layer counts them.
    ranks : dict of int by float
        For each of :data:`TAUS` what ``balred.reduce(layer, Energy(1 - tau))`` would keep.
    bounds : dict of float by float
        The a-priori bound of the H-infinity error at each of these ranks.  If channels are separate systems, that of the worst channel.
    note : str
    analysis : Analysis or None
    """

    name: str
    type: str
    states: int
    ranks: dict[float, int] = field(default_factory=dict)
    bounds: dict[float, float] = field(default_factory=dict)
    note: str = ""
    analysis: Analysis | None = None


def inspect(
    path: str | PathLike[str], *, keep: bool = False, tell: Callable[[str], object] | None = None
) -> list[Inspected]:
    """The state-space layers of a checkpoint.

    Parameters
    ----------
    path : path
        A ``.safetensors`` file, an index of shards (``.index.json``), a folder of Hugging Face, or a file of PyTorch
        (``.pt``, ``.pth``, ``.bin``, ``.ckpt``).  Layers are read one after the other.
    keep : bool, default False
        Keep the analyses, too.
    tell : callable, optional
        Called with a line about every layer before it is analysed.

    Returns
    -------
    list of Inspected

    Raises
    ------
    OSError
        A file cannot be read.
    ValueError
        The file is not a checkpoint, or none of its layers is recognised.

    Examples
    --------
    >>> import tempfile, balred, numpy as np
    >>> from balred.layers.recurrence import lru_initial
    >>> rng = np.random.default_rng(0)
    >>> layer = lru_initial(2, 8, 0.5, 0.99, 3.0, rng.random, lambda *shape: rng.standard_normal(shape))
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     balred.save({"lru": layer}, f"{folder}/model.safetensors")
    ...     [found] = inspect(f"{folder}/model.safetensors")
    >>> found.name, found.type, found.states, found.ranks[1e-1] < 8
    ('lru', 'LRU', 8, True)
    """
    checkpoint = open_checkpoint(path)
    layers = find_layers(checkpoint)
    if not layers:
        some = ", ".join(list(checkpoint.tensors)[:3]) or "none"
        raise ValueError(
            f"{path}: a checkpoint must hold all tensors of a layer that balred knows (one of them is called {', '.join(FAMILIES)}), "
            f"got {len(checkpoint.tensors)} tensors ({some}) that are none"
        )
    found = []
    for i, layer in enumerate(layers):
        if tell is not None:
            tell(f"layer {i + 1} of {len(layers)}, {layer.name or layer.type}")
        one = _inspected(layer)
        found.append(one if keep else Inspected(one.name, one.type, one.states, one.ranks, one.bounds, one.note))
    return found


def _inspected(layer: Layer) -> Inspected:
    if layer.read is None:
        return Inspected(layer.name, layer.type, layer.states, note=layer.note)
    try:
        analysis = analyze(layer.read())
        ranks = {tau: analysis.rank(Energy(1 - tau)) for tau in TAUS}
        bounds = {tau: float(np.max(analysis.bound(rank), initial=0.0)) for tau, rank in ranks.items()}
    except (ValueError, ArithmeticError, MemoryError) as error:
        return Inspected(layer.name, layer.type, layer.states, note=str(error))
    return Inspected(layer.name, layer.type, layer.states, ranks, bounds, layer.note, analysis)
