"""Model reduction for linear systems and for the state-space layers of neural networks.

``import balred`` loads nothing.  The first name that is used loads NumPy, and nothing else.  A framework is loaded when
its arrays or layers arrive.  So the command answers Ctrl-C without a traceback from its first moment on.
"""

import importlib

# a type checker takes it for true; to import that of typing takes as long as half of Python's start
TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from balred.face import *  # noqa: F403


def __getattr__(name: str) -> "Any":
    """Load all names when the first of them is asked for."""
    if name.startswith("__") and name not in ("__all__", "__version__"):
        raise AttributeError(f"module 'balred' has no attribute {name!r}")
    face = importlib.import_module("balred.face")
    if hasattr(face, "__all__"):
        globals().update({known: getattr(face, known) for known in face.__all__}, __all__=face.__all__)
    if name not in globals():
        raise AttributeError(f"module 'balred' has no attribute {name!r}")
    return globals()[name]


def __dir__() -> list[str]:
    return sorted({*globals(), *importlib.import_module("balred.face").__all__})
