"""Run the code of every page of the methods up to its picture, and keep that in ``docs/_static/methods``."""

import re
import sys
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt

HERE = Path(__file__).parent
PAGES = sorted(path for path in HERE.glob("*.md") if path.stem != "index")
PICTURES = HERE.parent / "_static" / "methods"


def drawn(path: Path) -> plt.Figure:
    """The figure that the blocks of a page draw; there is one."""
    names: dict[str, object] = {}
    for block in re.findall(r"```\{testcode\}\n(.*?)```", path.read_text("utf-8"), re.DOTALL):
        exec(compile(block, str(path), "exec"), names)
        if plt.get_fignums():
            break
    [number] = plt.get_fignums()
    return plt.figure(number)


if __name__ == "__main__":
    PICTURES.mkdir(exist_ok=True)
    for page in PAGES:
        if not sys.argv[1:] or page.stem in sys.argv[1:]:
            print(page.name, flush=True)
            drawn(page).savefig(PICTURES / f"{page.stem}.png", dpi=100, metadata={"Software": None})
            plt.close("all")
