"""Linear systems as values: the two kinds of system, the arrays in them, and their parts."""

from balred.systems.dense_system import DenseSystem, ss
from balred.systems.diagonal_system import DiagonalSystem, diagonal
from balred.systems.leaves import System

__all__ = ["DenseSystem", "DiagonalSystem", "System", "diagonal", "ss"]
