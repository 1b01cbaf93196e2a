"""How results show themselves: tables of layers, ranks and values, as text in a terminal and as HTML in a notebook.

Notebooks ask an object for ``_repr_html_``.  What it returns here needs no style sheet and no script, and fits a page: long tables
are cut in the middle.
"""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

_MOST = 24
"""Rows that a notebook shows: a model of a hundred layers has its first and its last ones there."""


def table_text(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table for a terminal: columns as wide as their widest cell.

    Examples
    --------
    >>> print(table_text(("layer", "from", "to"), [("ssm", "64", "8")]))
    layer  from  to
    ssm    64    8
    """
    lines = [tuple(head), *map(tuple, rows)]
    widths = [max(len(line[i]) for line in lines) for i in range(len(head))]
    return "\n".join("  ".join(c.ljust(w) for c, w in zip(line, widths, strict=True)).rstrip() for line in lines)


def table_html(head: Sequence[str], rows: Sequence[Sequence[str]], caption: str = "", notes: Sequence[str] = ()) -> str:
    """A table for a notebook, with a caption above it and notes below.

    Examples
    --------
    >>> table_html(("layer", "to"), [("a<b", "8")], notes=["done"])
    '<table><thead><tr><th>layer</th><th>to</th></tr></thead><tbody><tr><td>a&lt;b</td><td>8</td></tr></tbody></table><p>done</p>'
    """
    shown = [list(map(escape, row)) for row in rows]
    if len(shown) > _MOST:
        half = _MOST // 2
        shown = [*shown[:half], [f"… {len(shown) - 2 * half} more", *[""] * (len(head) - 1)], *shown[-half:]]
    body = "".join(f"<tr>{''.join(f'<td>{cell}</td>' for cell in row)}</tr>" for row in shown)
    top = f"<caption>{escape(caption)}</caption>" if caption else ""
    heads = "".join(f"<th>{escape(name)}</th>" for name in head)
    below = "".join(f"<p>{escape(note)}</p>" for note in notes)
    return f"<table>{top}<thead><tr>{heads}</tr></thead><tbody>{body}</tbody></table>{below}"


def facts_html(described: str, notes: Sequence[str] = ()) -> str:
    """A ``repr`` of the form ``Name(states=4, continuous)`` as a table of one row, with notes below.

    Examples
    --------
    >>> "<th>states</th><th></th>" in facts_html("DenseSystem(states=4, continuous)")
    True
    """
    name, _, inside = described.partition("(")
    facts = [fact.partition("=") for fact in inside.removesuffix(")").split(", ")]
    head = ["", *(key if value else "" for key, _, value in facts)]
    return table_html(head, [[name, *(value or key for key, _, value in facts)]], notes=notes)
