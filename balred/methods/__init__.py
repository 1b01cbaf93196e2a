"""A family of reduction methods a file, and the one table of them."""

from balred.methods.method import Method, Of
from balred.methods.table import METHODS, method_called

__all__ = ["METHODS", "Method", "Of", "method_called"]
