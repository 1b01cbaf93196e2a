"""The command ``balred``, and ``python -m balred`` where the script is not on the path.

Until everything is imported Ctrl-C ends it at once and without a word: there is nothing yet to be told or put in order.
"""

import importlib
import os
import signal
from types import FrameType


def main() -> None:
    """Run the command line."""
    before = signal.signal(signal.SIGINT, _end)
    app = importlib.import_module("balred.cli").app
    signal.signal(signal.SIGINT, before)
    app(prog_name="balred")


def _end(number: int, frame: FrameType | None) -> None:
    os._exit(130)


if __name__ == "__main__":
    main()
