"""Linear systems as values: the two kinds of system, the arrays in them, and their parts.
"""

from balred.systems.dense_system import DenseSystem, DiagonalSystem, System, diagonal, ss

__all__ = ["DenseSystem", "DiagonalSystem", "System", "diagonal", "ss"]
