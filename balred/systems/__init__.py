"""Linear systems as values: two kinds, dense and diagonal, immutable records of arrays of any library; and their parts.

There is no other.  A layer of a neural network, a ``control.StateSpace`` or a ``scipy.signal`` system becomes one of the two
through :func:`balred.adapt`, and is written back from one.
"""

from balred.systems.dense_system import DenseSystem, ss
from balred.systems.diagonal_system import DiagonalSystem, diagonal
from balred.systems.leaves import System

__all__ = ["DenseSystem", "DiagonalSystem", "System", "diagonal", "ss"]
