"""CITATION.cff, the page for papers and the bibliography cite the same works, and the version that is there."""

from __future__ import annotations

import re
from pathlib import Path

import balred

ROOT = Path(__file__).parents[2]
CITATION = (ROOT / "CITATION.cff").read_text(encoding="utf-8")
PAPER = (ROOT / "docs" / "paper.md").read_text(encoding="utf-8")
THEORY = (ROOT / "docs" / "theory.md").read_text(encoding="utf-8")


def entry(key: str) -> dict[str, str]:
    """The fields of an entry of BibTeX."""
    text = PAPER.partition(f"{{{key},")[2].partition("\n}")[0]
    return dict(re.findall(r"^  (\w+) *= \{(.*)\},?$", text, re.MULTILINE))


def test_the_version_is_the_one_that_is_there() -> None:
    assert re.findall(r"^version: (.*)$", CITATION, re.MULTILINE) == [balred.__version__]
    assert entry("balred")["version"] == balred.__version__
    assert set(re.findall(r"balred (\d+\.\d+\.\d+)", PAPER)) == {balred.__version__}
    newest = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8").partition("\n## ")[2].partition("\n### ")[0]
    assert re.findall(r"\d+\.\d+\.\d+", newest) == [balred.__version__]


def test_titles_and_authors_agree() -> None:
    titles = re.findall(r'^ *(?:- )?title: "(.*)"$', CITATION, re.MULTILINE)
    assert titles == [entry("balred")["title"], entry("chahine2026compressm")["title"]]
    family = re.findall(r"family-names: (\w+)", CITATION)
    given = re.findall(r'given-names: "?([\w. ]+)"?', CITATION)
    names = [f"{last}, {first}" for last, first in zip(family, given, strict=True)]
    assert " and ".join(names) == entry("chahine2026compressm")["author"]
    assert all(name in THEORY.partition("(chahine2026)=")[2].partition("\n\n")[0] for name in family)


def test_the_year_and_the_preprint_agree() -> None:
    method = entry("chahine2026compressm")
    assert re.findall(r"^    year: (\d+)$", CITATION, re.MULTILINE) == [method["year"]]
    assert f"https://arxiv.org/abs/{method['eprint']}" in CITATION
    reference = THEORY.partition("(chahine2026)=")[2].partition("\n\n")[0]
    assert f"arXiv:{method['eprint']}" in reference
    assert f"ICLR {method['year']}" in reference
