"""What notebooks show: every value that the text has, escaped, in a table that fits."""

from __future__ import annotations

import re
from html.parser import HTMLParser

import numpy as np
import pytest

import balred
from balred.files.stored import StoredSystem
from balred.intraining import Cut, Report
from balred.ranks.shown import table_html


class Cells(HTMLParser):
    """The cells of a table, row by row, and what is left open."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.rows: list[list[str]] = []
        self.open: list[str] = []
        self.feed(html)

    def handle_starttag(self, tag, attrs):
        self.open.append(tag)
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append("")

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open[-1] in ("td", "th"):
            self.rows[-1][-1] += data


def shown(obj) -> list[list[str]]:
    html = obj._repr_html_()
    found = Cells(html)
    assert found.open == []
    assert "<script" not in html
    assert len({len(row) for row in found.rows}) == 1
    return found.rows


@pytest.mark.parametrize(
    "system",
    [
        balred.testing.random_system(5, 2, 3),
        balred.testing.random_system(6, 1, 1, dt=1, kind="conjugate"),
        balred.second_order(np.eye(2), np.eye(2), np.eye(2), np.ones((2, 1)), np.ones((1, 2))),
    ],
    ids=lambda g: type(g).__name__,
)
def test_a_system_has_the_facts_of_its_repr(system) -> None:
    head, row = shown(system)
    for name, value in re.findall(r"(\w+)=(\w+)", repr(system)):
        assert row[head.index(name)] == value


def test_a_plan_has_a_row_for_each_layer_and_escapes_names() -> None:
    layers = {"a<b>": balred.testing.random_system(8, seed=1), "c": balred.testing.random_system(4, seed=2)}
    plan = balred.plan(layers, 5)
    assert [row[:4] for row in shown(plan)[1:]] == [["a<b>", "DenseSystem", "8", "5"], ["c", "DenseSystem", "4", "-"]]
    assert "a<b>" not in plan._repr_html_()


def test_an_analysis_has_values_and_bounds_by_order() -> None:
    g = balred.ss(np.diag([0.5, -1.0, -2.0, -3.0]), np.ones((4, 1)), np.ones((1, 4)))
    a = balred.analyze(g)
    rows = shown(a)[1:]
    assert [row[0] for row in rows] == ["2", "3", "4"]
    assert [float(row[1]) for row in rows] == pytest.approx(list(balred.hsv(g)[1:]), rel=1e-3)
    assert [float(row[3]) for row in rows[:2]] == pytest.approx([a.bound(2), a.bound(3)], rel=1e-3)
    assert "1 unstable states" in a._repr_html_()
    rows = shown(balred.analyze(balred.testing.random_system(200, seed=0)))[1:]  # of which rounding leaves some forty
    assert all(float(row[1]) > 0 for row in rows if row[1])
    batch = balred.diagonal(log_poles=-np.ones((2, 3)) * [1, 2, 3], B=np.ones((2, 3, 1)), C=np.ones((2, 1, 3)), dt=True)
    assert shown(balred.analyze(batch))[1][0] == "DiagonalSystem"
    static = balred.ss(np.zeros((0, 0)), np.zeros((0, 1)), np.zeros((1, 0)), [[3.0]])
    assert shown(balred.analyze(static))[1][0] == "DenseSystem"


def test_a_report_has_its_cuts_and_what_was_skipped() -> None:
    report = Report(7, (Cut("a", 8, 4, 0.9, float("nan")),), {"a": 4}, {"b": "no <reason>"}, loss=(1.0, 2.0))
    assert shown(report)[1] == ["a", "8", "4", "0.9000", "", ""]
    assert "no &lt;reason&gt;" in report._repr_html_()
    assert "1 -> 2" in report._repr_html_().replace("&gt;", ">")
    assert shown(Report(8, (), {"a": 4}))[1] == ["step 8: nothing cut"]


def test_a_system_from_a_file_has_its_names() -> None:
    plant = StoredSystem(balred.testing.random_system(4, 2, 1), inputs=("left <force>", "right force"))
    assert shown(plant)[1][:2] == ["DenseSystem", "4"]
    assert "<p>inputs: left &lt;force&gt;, right force</p>" in plant._repr_html_()
    assert "outputs:" not in plant._repr_html_()


def test_a_long_table_is_cut_in_the_middle() -> None:
    rows = Cells(table_html(("i", "x"), [(str(i), "") for i in range(100)])).rows[1:]
    assert (len(rows), rows[0][0], rows[12][0], rows[-1][0]) == (25, "0", "… 76 more", "99")
