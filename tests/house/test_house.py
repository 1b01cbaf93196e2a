"""The house stands as drawn: folders import to their left, files in no circle, frameworks in their own adapters alone.

What is drawn is read from the source, imports inside functions included; a new file needs no row here.
"""

from __future__ import annotations

import ast
import dataclasses
import functools
import graphlib
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]

ORDER = (
    "version", "ranks", "selection", "systems", "registry", "layers", "solvers", "hankel", "realisations", "measures",
    "methods", "reduction", "files", "intraining", "testing", "face", "balred", "cli", "__main__",
)  # fmt: skip
"""What stands at the top of the package, left to right; "face" hands on what stands before it, and "balred" that."""
OUTSIDE = ("adapters", "backends", "studies")
"""Folders that the core reaches by name only: the command alone imports them, to start studies and to draw."""
EVERYWHERE = {"numpy", "array_api_compat"}
BESIDE = {
    "cli": {"typer", "rich"},
    "backends/numpy": {"scipy", "threadpoolctl"},
    "backends/bands": {"scipy"},
    "backends/dissection": {"scipy"},
    "backends/multifrontal": {"scipy"},
    "backends/pencils": {"scipy"},
    "backends/triangles": {"scipy"},
    "adapters/equinox": {"jax"},
    "adapters/flax": {"jax"},
    "adapters/lightning": {"torch"},
    "adapters/hf_trainer": {"torch", "transformers"},
}
"""What a place may import beside the library that it is called like."""
LINES, FEWEST, MOST = 400, 4, 12


@dataclasses.dataclass(frozen=True)
class Module:
    """A file of the library: as users call it, and what it imports."""

    path: Path

    def __str__(self) -> str:
        return self.path.relative_to(ROOT).as_posix()

    @property
    def is_face(self) -> bool:
        return self.path.name == "__init__.py"

    @property
    def name(self) -> str:
        """The dotted name, "balred.systems.arrays" or (of a face) "balred.systems"."""
        parts = self.path.relative_to(ROOT).with_suffix("").parts
        parts = parts[:-1] if self.is_face else parts
        return ".".join(parts if parts[0] == "balred" else ("balred", *parts))

    @property
    def top(self) -> str:
        """What it stands in, or is, at the top of the package."""
        return (self.name + ".balred").split(".")[1]

    @property
    def place(self) -> str:
        """Outside the core the library that it serves, "adapters/torch"; inside it the folder."""
        first, *rest = self.name.split(".")[1:] or ["balred"]
        return f"{first}/{rest[0]}" if first in ("adapters", "backends") and rest else first

    @functools.cached_property
    def tree(self) -> ast.Module:
        return ast.parse(self.path.read_text(encoding="utf-8"))

    @functools.cached_property
    def imports(self) -> set[str]:
        """Dotted names of all modules it imports, wherever: a name in a module counts as that module."""
        return set(imported(self.tree))


def imported(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"imports are absolute, got a relative one in line {node.lineno}"
            for alias in node.names:
                inner = f"{node.module}.{alias.name}"
                yield inner if inner in MODULES else str(node.module)


MODULES = {m.name: m for top in ("balred", *OUTSIDE) for m in map(Module, sorted((ROOT / top).rglob("*.py")))}
CORE = [m for m in MODULES.values() if m.top not in OUTSIDE]
FILES = [m for m in MODULES.values() if not m.is_face]


def libraries(module: Module) -> set[str]:
    """The packages of other people that it imports."""
    return {name.partition(".")[0] for name in module.imports} - set(sys.stdlib_module_names) - {"balred"}


def may_import(place: str) -> set[str]:
    return {place.rpartition("/")[2], *BESIDE.get(place, ())}


def known(names: set[str]) -> list[Module]:
    return [MODULES[name] for name in sorted(names & set(MODULES))]


def test_what_is_drawn_here_is_there() -> None:
    assert {m.top for m in CORE} == set(ORDER)
    for place, beside in BESIDE.items():
        own = [m for m in MODULES.values() if m.place == place]
        theirs = [
            other for m in own for other in known(m.imports) if other.top == m.top
        ]  # NumPy's LAPACK is that of triangles
        assert beside <= {name for m in (*own, *theirs) for name in libraries(m)}, place


def test_folders_import_to_their_left() -> None:
    for module in CORE:
        left = {*ORDER[: ORDER.index(module.top)], module.top}
        if module.top in ("cli", "__main__"):
            left |= {"adapters", "studies"}
        assert [str(other) for other in known(module.imports) if other.top not in left] == [], module


def test_the_core_imports_numpy_and_itself() -> None:
    for module in CORE:
        assert libraries(module) <= EVERYWHERE | BESIDE.get(module.top, set()), module


def test_adapters_and_backends_serve_one_library() -> None:
    """They import the core; of each other those whose libraries are among their own, as equinox and flax do with jax."""
    ours = [m for m in MODULES.values() if m.top in ("adapters", "backends")]
    served = {name for m in ours for name in libraries(m)} - EVERYWHERE  # adapters/parameters serves none: all use it
    for module in ours:
        mine = may_import(module.place)
        assert libraries(module) <= EVERYWHERE | mine, module
        for other in known(module.imports):
            assert other.top not in ("balred", "cli", "__main__", "studies"), module
            if other.top in ("adapters", "backends"):
                assert may_import(other.place) & served <= mine, module
                assert (module.top, other.top) != ("backends", "adapters"), module


def test_files_import_in_no_circle() -> None:
    graph = {m.name: [n.name for n in known(m.imports) if not n.is_face] for m in FILES}
    graphlib.TopologicalSorter(graph).prepare()  # raises, and tells the circle


def test_the_library_imports_from_files_not_from_faces() -> None:
    for module in FILES:
        if module.top not in ("face", "cli", "__main__", "studies"):
            assert [str(other) for other in known(module.imports) if other.is_face] == [], module


def test_only_what_costs_time_is_imported_late() -> None:
    """An import inside a function is one of a library, or of what loads one: of the core it would hide a circle."""
    for module in MODULES.values():
        functions = [f for f in ast.walk(module.tree) if isinstance(f, (ast.FunctionDef, ast.AsyncFunctionDef))]
        late = {name for f in functions for name in imported(f)}
        assert [str(other) for other in known(late) if other.top not in OUTSIDE] == [], module


def test_files_are_short_and_folders_hold_few() -> None:
    long = [str(m) for m in MODULES.values() if len(m.path.read_text(encoding="utf-8").splitlines()) > LINES]
    assert long == []
    folders = Counter(m.path.parent.relative_to(ROOT).as_posix() for m in FILES)
    crowded = {folder: count for folder, count in folders.items() if count > MOST}
    assert crowded == {}
    assert {folder: n for folder, n in folders.items() if folder.startswith("balred/") and n < FEWEST} == {}


def handed_on(face: Module) -> Iterator[tuple[str, Module | None]]:
    """The names that a face gives to users, with the modules that these are, if they are."""
    for node in face.tree.body:
        if isinstance(node, ast.ImportFrom):
            for alias in node.names:
                yield alias.asname or alias.name, MODULES.get(f"{node.module}.{alias.name}")
        elif isinstance(node, (ast.FunctionDef, ast.ClassDef)):
            yield node.name, None


def test_no_module_is_called_like_what_its_parent_hands_on() -> None:
    """Else ``import balred.plan as m`` gives a function."""
    for face in MODULES.values():
        if face.is_face:
            names = [n for n, module in handed_on(face) if MODULES.get(f"{face.name}.{n}") not in (None, module)]
            assert names == [], face
