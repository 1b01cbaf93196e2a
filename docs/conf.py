"""Sphinx configuration; the tables of capabilities and of backend functions are read off the code here."""

from __future__ import annotations

import ast
import importlib
import inspect
import pkgutil
import re
from pathlib import Path
from typing import Any, get_origin

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.environment import BuildEnvironment
from sphinx.util import logging
from sphinx.util.docutils import SphinxDirective
from sphinx.util.images import get_image_size

import balred
from balred.methods import METHODS
from balred.solvers.gramians import SOLVERS

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
    "sphinx-mathjax-offline",  # copies MathJax and its fonts into the pages: formulas need no network
    "sphinx_copybutton",
    "sphinx_design",
]
exclude_patterns = ["_build", "_tables"]
templates_path = ["_templates"]
nitpicky = True
nitpick_ignore_regex = [("py:class", r"(collections|numpy|torch)\..*")]  # in aliases of types

myst_enable_extensions = ["amsmath", "colon_fence", "deflist", "dollarmath"]
myst_heading_anchors = 3

autosummary_generate = True
autosummary_imported_members = False
autosummary_ignore_module_all = True  # a folder lists its modules, whatever names it hands on
autosummary_filename_map = {"balred.Plan": "balred.Plan-class"}  # macOS and Windows take balred.plan for the same file
FACES = [
    importlib.import_module(f"balred.{name}") for _, name, folder in pkgutil.iter_modules(balred.__path__) if folder
]
autosummary_context = {
    "undocumented": "Reduced, Projection, Read, Hosts, Path",  # aliases of generics, on which autodoc fails
    "repeated": {  # what ``balred`` itself hands on has a page already
        face.__name__: ", ".join(
            n for n in getattr(face, "__all__", ()) if getattr(face, n) is getattr(balred, n, None)
        )
        for face in FACES
    }
    | {"balred.adapters.equinox": "ReducerState"},  # balred.intraining has it
}
autodoc_typehints = "none"  # the docstrings give types and shapes
autodoc_member_order = "bysource"
autodoc_inherit_docstrings = False
numpydoc_show_class_members = False  # the class template lists them

# the pages' own blocks; pytest --doctest-modules runs those of the docstrings
doctest_test_doctest_blocks = ""
doctest_global_setup = "import warnings; warnings.simplefilter('error')"
doctest_global_cleanup = "import matplotlib.pyplot as plt; plt.close('all')"

copybutton_prompt_text = "$ "  # of a session, the commands are copied and what they print is not

html_theme = "furo"
html_title = f"balred {release}"
html_static_path = ["_style"]
html_css_files = ["custom.css"]
pygments_dark_style = "github-dark"  # furo's own underlines names of modules as if they were links


class Capabilities(SphinxDirective):
    """A table of which solver and which method take which structure, from the tables that the code itself uses."""

    def run(self) -> list[nodes.Node]:
        """Parse a Markdown table."""
        kinds = list(next(iter(SOLVERS.values())))
        lines = [f"| | {' | '.join(kinds)} |", "|---" * (len(kinds) + 1) + "|"]
        for name, row in SOLVERS.items():
            lines.append(f'| `solver="{name}"` | ' + " | ".join(row[kind] or "yes" for kind in kinds) + " |")
        for name, method in METHODS.items():  # a method works on what a solver gave, whatever the structure
            cell = "yes" if method.takes == "arrays" else "single systems"
            lines.append(f'| `method="{name}"` | ' + " | ".join(cell for _ in kinds) + " |")
        return self.parse_text_to_nodes("\n".join(lines))


class BackendFunctions(SphinxDirective):
    """A table of the functions in ``backends/``, what each is for, and which module supplies it."""

    def run(self) -> list[nodes.Node]:
        """Parse a Markdown table; the sources are read, not imported."""
        modules = ("numpy", "torch", "jax", "scipy", "slycot")
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


class Session(SphinxDirective):
    """What a terminal shows: a line that begins with ``$`` and is run when the pages are tested, and what it prints.

    ``shell(line)`` of the page's ``testsetup`` runs it.
    """

    has_content = True

    def run(self) -> list[nodes.Node]:
        """One block to read and to copy from; a hidden test and its output for each command."""
        text = "\n".join(self.content)
        found: list[nodes.Node] = [nodes.literal_block(text, text, language="console")]
        for command in re.split(r"^\$ ", text, flags=re.MULTILINE)[1:]:
            line, _, printed = command.partition("\n")
            found.append(_hidden("testcode", f"shell({line!r})"))
            if printed.strip():
                found.append(_hidden("testoutput", printed.rstrip("\n"), options={}))
        for node in found:
            self.set_source_info(node)
        return found


class WrittenFile(SphinxDirective):
    """A file that the reader may write; in the page's tests it is written before what follows."""

    has_content = True
    required_arguments = 1

    def run(self) -> list[nodes.Node]:
        """The text under the file's name, and a hidden test that writes it."""
        name, text = self.arguments[0], "\n".join(self.content)
        shown = self.parse_text_to_nodes(f"```{{code-block}} {Path(name).suffix[1:]}\n:caption: {name}\n\n{text}\n```")
        hidden = _hidden("testcode", f"import pathlib; _ = pathlib.Path({name!r}).write_text({text!r}, 'utf-8')")
        self.set_source_info(hidden)
        return [*shown, hidden]


def _hidden(kind: str, text: str, **more: Any) -> nodes.Node:
    return nodes.comment(text, text, testnodetype=kind, groups=["default"], **more)


def of_the_library(app: Sphinx, env: BuildEnvironment, node: nodes.Element, shown: nodes.TextElement) -> Any:
    """Where a docstring calls what ``balred`` hands on by its bare name."""
    name = node.get("reftarget", "")
    if node.get("refdomain") != "py" or name.partition(".")[0] not in balred.__all__:
        return None
    domain = env.get_domain("py")
    return domain.resolve_xref(env, node["refdoc"], app.builder, node["reftype"], f"balred.{name}", node, shown)


PUBLIC = {name for face in (balred, *FACES) for name in getattr(face, "__all__", ())} | {
    name
    for path in (ROOT / "adapters").rglob("*.py")  # read, not imported: some need packages that are not there
    for node in ast.parse(path.read_text("utf-8")).body
    if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__"
    for name in ast.literal_eval(node.value)
}
NAMED = {
    target.rpartition(".")[2].strip("~")
    for folder in ("docs", "balred", "adapters")
    for path in (ROOT / folder).rglob("*.*")
    if path.suffix in (".py", ".md", ".rst") and not {"_build", "generated"} & set(path.parts)
    for target in re.findall(
        r"(?::(?:func|class|exc|data):|\{(?:func|class|exc|data)\})`~?([\w.]+)`", path.read_text("utf-8")
    )
}
"""The functions and classes that a page or a docstring links to, by the last part of their names."""


def linked(pattern: str, *suffixes: str) -> set[str]:
    """What roles in pages or docstrings link to, by its full name."""
    found = re.compile(rf"(?::(?:{pattern}):|\{{(?:{pattern})\}})`(?:[^`<]*<)?~?([\w.]+)>?`")
    paths = (path for folder in ("docs", "balred", "adapters") for path in (ROOT / folder).rglob("*.*"))
    texts = (p.read_text("utf-8") for p in paths if p.suffix in suffixes and not {"_build", "generated"} & set(p.parts))
    return {target for text in texts for target in found.findall(text)}


LINKED = linked("func|class|exc|data|meth", ".py", ".md", ".rst")
PAGES = linked("mod", ".md", ".rst")


def internal() -> set[str]:
    """Modules that are the library's own, by the same rule as :func:`left_out`: nothing of them would be shown."""
    found = set()
    for top in ("balred", "adapters"):
        for path in (p for p in (ROOT / top).rglob("*.py") if p.resolve() == p and p.name != "__init__.py"):
            name = ".".join(("balred", *path.relative_to(ROOT).with_suffix("").parts[top == "balred" :]))
            shown = name in PAGES or any(target.startswith(f"{name}.") for target in LINKED)
            for node in ast.parse(path.read_text("utf-8")).body:
                if isinstance(node, (ast.FunctionDef, ast.ClassDef)) and not node.name.startswith("_"):
                    shown |= node.name in PUBLIC or "Examples\n" in (ast.get_docstring(node) or "")
            found |= set() if shown else {name}
    return found


autosummary_context["internal"] = internal()


def left_out(app: Sphinx, what: str, name: str, obj: Any, skip: bool, options: Any) -> bool | None:
    """Leave out what is the library's own: no folder hands it on, no page links to it, and it has no example."""
    if what != "module" or name in PUBLIC | NAMED:
        return None
    if get_origin(obj) is not None:  # a short name for a type
        return True
    if "balred.backends" in app.env.docname:  # what another backend must have
        return None
    if not (inspect.isclass(obj) or inspect.isfunction(obj)):
        return True if not inspect.ismodule(obj) else None
    ours = str(getattr(obj, "__module__", "")).startswith("balred")
    return True if ours and "Examples" not in (inspect.getdoc(obj) or "") else None


def no_alias(app: Sphinx, what: str, name: str, obj: Any, options: Any, lines: list[str]) -> None:
    """The fields of named tuples that nobody described have their names, and not Python's "Alias for field number 0"."""
    lines[:] = [line for line in lines if not line.startswith("Alias for field number")]


def without_private(
    app: Sphinx, what: str, name: str, obj: Any, options: Any, signature: str | None, gives: str | None
) -> Any:
    """Parameters that begin with an underscore are filled by the library; others show no ``<factory>``."""
    if not signature or not ("_" in signature or "<factory>" in signature):
        return None
    signature = signature.replace("<factory>", "...")  # of a dataclass: its own empty list or dict
    shown = re.sub(r"(?<=[(,])\s*_\w+(?:=(?:<[^>]*>|\w+\([^)]*\)|[^,()]+))?(?:,|(?=\)))", "", signature)
    return re.sub(r",\s*\)$", ")", shown).replace("( ", "("), gives


def to_their_pages(app: Sphinx) -> tuple[()]:
    """Links from sources back to the pages: an object has its anchor on the page of the name that it is handed on by."""
    objects = app.env.get_domain("py").objects  # type: ignore[attr-defined]
    for module, entry in getattr(app.env, "_viewcode_modules", {}).items():
        if entry:
            _, _, used, home = entry
            for name in list(used):
                found = objects.get(f"{home}.{name}")
                used.update({name: found.docname}) if found else used.pop(name)
                if not found:  # a page links to it all the same
                    WITHOUT_ANCHOR.setdefault(module, []).append(name)
    return ()


WITHOUT_ANCHOR: dict[str, list[str]] = {}
"""By module, what has a link to its source from a page of the module, and none back."""


def with_anchors(app: Sphinx, page: str, template: str, context: dict[str, Any], tree: Any) -> None:
    """Where those links lead."""
    for name in WITHOUT_ANCHOR.get(page.removeprefix("_modules/").replace("/", "."), ()):
        defined = rf'<span class="n[fc]">{name.rpartition(".")[2]}</span>'
        context["body"] = re.sub(defined, rf'<a id="{name}"></a>\g<0>', context["body"], count=1)


ELSEWHERE = re.compile(
    r"""<(?:script|link|img|source|iframe)\b[^>]*?\b(?:src|href)="((?:https?:)?//[^"]+)"|url\(["']?((?:https?:)?//[^"')]+)"""
)
"""What a browser would fetch from another host to show a page, in HTML or in a style sheet."""


def loads_nothing_from_elsewhere(app: Sphinx, error: Exception | None) -> None:
    """The pages are for people without a network, too: warn of whatever would be missing there."""
    if error is not None or app.builder.format != "html":
        return
    out = Path(app.outdir)
    found = {
        next(filter(None, hit.groups())): path.relative_to(out)
        for path in (*out.rglob("*.html"), *out.rglob("*.css"))
        for hit in ELSEWHERE.finditer(path.read_text("utf-8"))
    }
    for address, page in found.items():
        logging.getLogger(__name__).warning("%s would be loaded from elsewhere by %s", address, page)


def unbroken_numbers(app: Sphinx, doctree: nodes.document) -> None:
    """Keep ``1.438 ± 0.016`` and ``128 + 128`` on one line of a table's cell."""
    for entry in doctree.findall(nodes.entry):
        for text in list(entry.findall(nodes.Text)):
            text.parent.replace(text, nodes.Text(re.sub(r"(?<=\d) ([±+→]) (?=\d)", "\u00a0\\1\u00a0", text)))


def with_widths(app: Sphinx, doctree: nodes.document) -> None:
    """Give pictures their width: Sphinx makes links to the files of those that have one."""
    for image in doctree.findall(nodes.image):
        if "width" not in image and "sd-card-img-top" not in image["classes"] and "://" not in image["uri"]:
            size = get_image_size(app.srcdir / image["uri"])
            image["width"] = f"{size[0]}px" if size else "100%"


def with_long_words(app: Sphinx, doctree: nodes.document, page: str) -> None:
    """Mark code with a word that is longer than a line of a phone: the style sheet lets no other word break."""
    for literal in doctree.findall(nodes.literal):
        if max(map(len, literal.astext().split()), default=0) > 32:
            literal["classes"].append("long")


def setup(app: Sphinx) -> None:
    """Register the directives, what is looked up elsewhere, and what is checked at the end."""
    app.connect("doctree-read", unbroken_numbers)
    app.connect("doctree-read", with_widths)
    app.connect("doctree-resolved", with_long_words)
    app.connect("missing-reference", of_the_library)
    app.connect("autodoc-skip-member", left_out)
    app.connect("autodoc-process-docstring", no_alias)
    app.connect("autodoc-process-signature", without_private)
    app.connect("html-collect-pages", to_their_pages, priority=400)
    app.connect("html-page-context", with_anchors)
    app.connect("build-finished", loads_nothing_from_elsewhere)
    app.add_directive("capabilities", Capabilities)
    app.add_directive("backend-functions", BackendFunctions)
    app.add_directive("session", Session)
    app.add_directive("written-file", WrittenFile)
