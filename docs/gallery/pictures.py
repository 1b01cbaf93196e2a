"""Run every script of the gallery and keep its picture in ``docs/_static``."""

import runpy
import sys
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt

HERE = Path(__file__).parent
SCRIPTS = sorted(path for path in HERE.glob("*.py") if path != Path(__file__))
PICTURES = HERE.parent / "_static" / "gallery"


def run(path: Path) -> plt.Figure:
    """The figure that the script at `path` shows."""
    shown = []
    plt.show = lambda: shown.append(plt.gcf())
    runpy.run_path(str(path), run_name="__main__")
    [figure] = shown
    return figure


if __name__ == "__main__":
    wanted = sys.argv[1:]
    for script in SCRIPTS:
        if not wanted or script.stem in wanted:
            print(script.name)
            run(script).savefig(PICTURES / f"{script.stem}.png", dpi=80)
            plt.close("all")
