"""Systems and models in files, read without running anything that a file brings.

The functions here are for systems (``.mat``, ``.npz``, ``.json``); :func:`balred.save` and :func:`balred.load` are for models.
"""

from balred.files.stored import StoredSystem, load, save

__all__ = ["StoredSystem", "load", "save"]
