"""How a use of a model may end, for the matrices of both frameworks: right, refused, or lacking in the package itself."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest


class Lacking(Exception):
    """The package itself does not do with the whole model what is asked of the smaller one."""


def check_use(
    use: Callable[[Any, Path], None], family: Any, folder: Path, lacking: str | None, refused: str | None = None
) -> None:
    """Fails unless the use is right, or ends with the message that a table of exceptions has for it."""
    if refused is not None:
        with pytest.raises(ValueError, match=refused):
            use(family, folder)
    elif lacking is not None:
        with pytest.raises(Lacking, match=lacking):
            use(family, folder)
    else:
        use(family, folder)
