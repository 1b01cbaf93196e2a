"""The gallery of the pages: every script runs as a reader would run it, and has a page, a card and a picture; methods have one."""

from __future__ import annotations

import runpy
from pathlib import Path
from typing import Any

import pytest

METHODS = Path(__file__).parents[2] / "docs" / "methods"
GALLERY = Path(__file__).parents[2] / "docs" / "gallery"
SCRIPTS = sorted(path.stem for path in GALLERY.glob("*.py") if path.stem != "pictures")
QUICK = ("heat_rod", "steady_state", "passive")
"""The others take seconds each, and show the same of the gallery."""


@pytest.mark.parametrize("name", [pytest.param(s, marks=() if s in QUICK else pytest.mark.full) for s in SCRIPTS])
def test_a_script_runs_and_shows_one_picture(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    matplotlib = pytest.importorskip("matplotlib")
    if name in ("layer_on_inputs", "rank_settling", "regulariser"):
        pytest.importorskip("torch")
    if name == "rank_settling":
        pytest.importorskip("sklearn")
    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    shown: list[Any] = []
    monkeypatch.setattr(plt, "show", lambda: shown.append(plt.gcf()))
    try:
        runpy.run_path(str(GALLERY / f"{name}.py"), run_name="__main__")
        assert [bool(figure.axes) for figure in shown] == [True]
        assert all(axes.lines or axes.collections for axes in shown[0].axes)
    finally:
        plt.close("all")


def test_every_script_has_a_page_a_card_and_a_picture() -> None:
    cards = (GALLERY / "index.md").read_text(encoding="utf-8")
    assert {path.stem for path in GALLERY.glob("*.md")} == {*SCRIPTS, "index"}
    for name in SCRIPTS:
        page = (GALLERY / f"{name}.md").read_text(encoding="utf-8")
        picture = f"../_static/gallery/{name}.png"
        assert (GALLERY / picture).is_file()
        assert f"]({picture})" in page
        assert f"{{literalinclude}} {name}.py" in page
        assert f"<{name}.py>`" in page
        assert f":link: {name}\n" in cards
        assert f":img-top: {picture}\n" in cards
        assert f"\n{name}\n" in cards


PAGES = sorted(path.stem for path in METHODS.glob("*.md") if path.stem != "index")


@pytest.mark.parametrize("name", PAGES)
def test_a_page_of_a_method_shows_the_picture_that_its_code_draws(name: str) -> None:
    page = (METHODS / f"{name}.md").read_text(encoding="utf-8")
    before, _, _ = page.partition(f"](../_static/methods/{name}.png)")
    assert before != page
    assert "ax = plot_" in before.rpartition("```{testcode}")[2]
    assert (METHODS.parent / "_static" / "methods" / f"{name}.png").is_file()


def test_the_code_of_a_page_draws_one_picture() -> None:
    matplotlib = pytest.importorskip("matplotlib")
    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    try:
        figure = runpy.run_path(str(METHODS / "pictures.py"))["drawn"](METHODS / "truncation.md")
        assert [text.get_text() for text in figure.axes[0].get_legend().get_texts()][
            -1
        ] == "bound 1.43"  # as the page prints
    finally:
        plt.close("all")
