"""Systems and models in files."""

from balred.files.stored import StoredSystem, load, save

__all__ = ["StoredSystem", "load", "save"]
