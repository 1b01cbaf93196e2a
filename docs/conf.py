"""Sphinx configuration; the tables of capabilities and of backend functions are read off the code here."""

from __future__ import annotations

import ast
from pathlib import Path

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

import balred
from balred.solvers.gramians import SOLVERS
from balred.methods import METHODS

ROOT = Path(__file__).parent.parent

project = "balred"
author = "The balred developers"
copyright = "2026, The balred developers"
version = release = balred.__version__

extensions = [
    "myst_parser",
    "numpydoc",
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx.ext.doctest",
    "sphinx.ext.mathjax",
    "sphinx.ext.viewcode",
]
exclude_patterns = ["_build", "_tables"]
templates_path = ["_templates"]
nitpicky = True

myst_enable_extensions = ["amsmath", "colon_fence", "deflist", "dollarmath"]
myst_heading_anchors = 3

autosummary_generate = True
autosummary_imported_members = False
autodoc_typehints = "none"  # the docstrings give types and shapes
autodoc_member_order = "bysource"
autodoc_inherit_docstrings = False
numpydoc_show_class_members = False  # the class template lists them

# the pages' own blocks; pytest --doctest-modules runs those of the docstrings
doctest_test_doctest_blocks = ""
doctest_global_setup = "import warnings; warnings.simplefilter('error')"

html_theme = "furo"
html_title = f"balred {release}"


class Capabilities(SphinxDirective):
    """A table of which solver and which method take which structure, from the tables that the code itself uses."""

    def run(self) -> list[nodes.Node]:
        """Parse a Markdown table."""
        kinds = list(next(iter(SOLVERS.values())))
        lines = [f"| | {' | '.join(kinds)} |", "|---" * (len(kinds) + 1) + "|"]
        for name, row in SOLVERS.items():
            lines.append(f'| `solver="{name}"` | ' + " | ".join(row[kind] or "yes" for kind in kinds) + " |")
        for name, method in METHODS.items():  # a method works on what a solver gave, whatever the structure
            cell = "yes" if method.agnostic else "single systems"
            lines.append(f'| `method="{name}"` | ' + " | ".join(cell for _ in kinds) + " |")
        return self.parse_text_to_nodes("\n".join(lines))


class BackendFunctions(SphinxDirective):
    """A table of the functions in ``backends/``, what each is for, and which module supplies it."""

    def run(self) -> list[nodes.Node]:
        """Parse a Markdown table; the sources are read, not imported."""
        modules = ("numpy", "torch", "jax", "slycot")
        found: dict[str, dict[str, str]] = {}
        for module in modules:
            for node in ast.parse((ROOT / "backends" / f"{module}.py").read_text("utf-8")).body:
                if isinstance(node, ast.FunctionDef) and not node.name.startswith("_"):
                    arguments = ", ".join(a.arg for a in node.args.args) + (", *args" if node.args.vararg else "")
                    summary = (ast.get_docstring(node) or "").partition("\n")[0].replace("``", "`")
                    found.setdefault(f"{node.name}({arguments})", {})[module] = summary
        lines = [f"| function | {' | '.join(modules)} |", "|---" * (len(modules) + 1) + "|"]
        for signature, by_module in found.items():
            lines.append(f"| `{signature}` | " + " | ".join(by_module.get(m, "–") for m in modules) + " |")
        return self.parse_text_to_nodes("\n".join(lines))


def setup(app: Sphinx) -> None:
    """Register the directives."""
    app.add_directive("capabilities", Capabilities)
    app.add_directive("backend-functions", BackendFunctions)
