"""Faults that pages get from merges and replacements, and that no build of them notices."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGES = [*sorted((ROOT / "docs").rglob("*.md")), *sorted(ROOT.glob("*.md"))]
PAGES = [page for page in PAGES if not {"_build", "generated", "_tables"} & set(page.parts)]


def faults(text: str) -> list[str]:
    """Definitions that have lost their term, lines of a table that stand twice in it, words said twice, and bars that a table takes."""
    prose = re.sub(r"```.*?```", "", text, flags=re.DOTALL)
    found = [f"no term: {line}" for line in re.findall(r"(?<=\n\n)(: .{0,40})", prose)]
    for table in re.findall(r"(?:^\|.*\n)+", prose, re.MULTILINE):
        keys = [line for line in table.splitlines()[2:] if line.partition("|")[2].partition("|")[0].strip()]
        found += [f"twice: {line[:60]}" for line in dict.fromkeys(keys) if keys.count(line) > 1]
    found += [
        f"a norm in a table is written with Vert: {row[:60]}"
        for row in re.findall(r"^\| .*\\\|.*$", prose, re.MULTILINE)
    ]
    return found + [f"twice: {said}" for said in re.findall(r"\b(\w+\s+[a-z]+)[ \n]\1\b", prose)]


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("The modes:\n\n: a model\n", "no term: : a model"),
        ("| a | b |\n|---|---|\n| x | 1 |\n| y | 2 |\n| x | 1 |\n", "twice: | x | 1 |"),
        ("| $\\|G\\|$ |\n", "a norm in a table is written with Vert: | $\\|G\\|$ |"),
        ("and all\nother tabs other tabs follow", "twice: other tabs"),
    ],
)
def test_a_fault_is_seen(text: str, fault: str) -> None:
    assert faults(text) == [fault]


def test_pages_have_none_of_these_faults() -> None:
    assert len(PAGES) > 40
    assert {page.name: found for page in PAGES if (found := faults(page.read_text(encoding="utf-8")))} == {}


SHOWN = ("{testcode}", "{code-block}", "{written-file}", "{session}", "python", "sh", "matlab", "toml", "json")
"""How fences open that hold what readers copy; others hold what is printed, and drawings."""


def wide(text: str) -> list[str]:
    """Lines of code, and commands, that a window of 79 columns does not show whole."""
    found, fence = [], ""
    for line in text.splitlines():
        if line.lstrip().startswith("```"):
            fence = "" if fence else line.strip()[3:] or "text"
        elif fence.startswith(SHOWN) and len(line) > 79 and (line.lstrip().startswith("$") or "session" not in fence):
            found.append(line)
    return found


@pytest.mark.parametrize("fence", ["```{testcode}", "```python", "  ```sh", "```{code-block} matlab", "```{session}"])
def test_a_wide_line_of_code_is_seen(fence: str) -> None:
    line = "$ a" + 77 * "b"
    page = [fence, line, line[:79], "```", line, "```{testoutput}", line, "```", "```", line, "```"]
    assert wide("\n".join(page)) == [line]


def test_code_fits_a_narrow_window() -> None:
    found = {page.name: wide(page.read_text(encoding="utf-8")) for page in PAGES}
    shown = [*(ROOT / "docs" / "gallery").glob("*.py"), ROOT / "docs" / "distributed_example.py"]
    scripts = {path.name: path.read_text(encoding="utf-8") for path in shown}
    found |= {name: [line for line in text.splitlines() if len(line) > 79] for name, text in scripts.items()}
    assert len(scripts) > 10
    assert {name: lines for name, lines in found.items() if lines} == {}


def test_what_is_read_as_plain_markdown_has_no_roles() -> None:
    for name in ("README.md", "CHANGELOG.md", "CONTRIBUTING.md", "SECURITY.md"):
        assert re.findall(r"(?<!`)\{\w+\}`[^`]*`", (ROOT / name).read_text(encoding="utf-8")) == []
