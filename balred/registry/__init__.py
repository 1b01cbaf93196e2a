"""Objects that are known: how they are read as systems, written back, looked into and resized."""

from balred.registry.entries import AdapterNotFound, register, register_container, register_entry, register_selective
from balred.registry.kinds import Container, Entry, Selective
from balred.registry.reading import adapt, layers_of, replace_layers

__all__ = [
    "AdapterNotFound",
    "Container",
    "Entry",
    "Selective",
    "adapt",
    "layers_of",
    "register",
    "register_container",
    "register_entry",
    "register_selective",
    "replace_layers",
]
