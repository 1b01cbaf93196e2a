"""Nothing is written but through :func:`balred.files.replacing.replacing`: read from the source, whoever adds a writer."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
FOLDERS = ("balred", "adapters", "backends", "studies")

ENCODERS = {"savefig", "savemat", "save", "savez", "savez_compressed", "save_file", "serialize_file", "dump", "savetxt"}
"""What writes to the path or stream that it is given; a method ``save`` counts where its library is named before it."""
WRITERS = {
    "write_text",
    "write_bytes",
    "tofile",
    "to_csv",
    "touch",
    "copyfile",
    "copy2",
    "move",
    "symlink_to",
    "hardlink_to",
}
SAVING = {"np", "numpy", "torch", "scipy", "matplotlib", "json", "pickle", "shutil"}
STREAMS = {"replacing", "BytesIO", "StringIO"}

EXCEPTIONS = {
    "balred/files/locking.py": "the lock, which is gone when its owner is",
    "balred/intraining/events.py": "a log is appended to line by line, and cut back to whole lines",
    "studies/data/sources.py": "moves what a client wrote, whose SHA-256 is checked at every read",
}


def written(tree: ast.Module) -> Iterator[tuple[int, str]]:
    """Lines that write past :func:`replacing`, and how."""
    streams = {name for node in ast.walk(tree) for name in _streams(node)}
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call):
            continue
        called = node.func
        name = called.attr if isinstance(called, ast.Attribute) else called.id if isinstance(called, ast.Name) else ""
        owner = ast.unparse(called.value).split(".")[0] if isinstance(called, ast.Attribute) else ""
        if name in ("open", "fdopen", "FileIO"):
            mode = [a.value for a in (*node.args, *(k.value for k in node.keywords)) if isinstance(a, ast.Constant)]
            if any(isinstance(m, str) and set(m) <= set("rwxabt+") and set(m) & set("wxa+") for m in mode):
                yield node.lineno, ast.unparse(node)
        elif name in WRITERS:
            yield node.lineno, ast.unparse(node)
        elif name in ENCODERS and (name not in ("save", "dump") or owner in SAVING):
            target = node.args[1] if owner in ("torch", "json", "pickle") and len(node.args) > 1 else node.args[0]
            if not (isinstance(target, ast.Name) and target.id in streams):
                yield node.lineno, ast.unparse(node)


def _streams(node: ast.AST) -> Iterator[str]:
    """Names that hold a stream of :func:`replacing`, or one in memory."""
    if isinstance(node, ast.With):
        for item in node.items:
            if isinstance(item.optional_vars, ast.Name) and _makes(item.context_expr):
                yield item.optional_vars.id
    if isinstance(node, ast.Assign) and _makes(node.value):
        yield from (target.id for target in node.targets if isinstance(target, ast.Name))


def _makes(node: ast.expr) -> bool:
    return isinstance(node, ast.Call) and ast.unparse(node.func).split(".")[-1] in STREAMS


def files() -> list[Path]:
    return sorted({p.resolve() for folder in FOLDERS for p in (ROOT / folder).rglob("*.py")})


def test_every_file_is_replaced_in_one_go() -> None:
    assert len(files()) > 100
    found = {}
    for path in files():
        name = path.relative_to(ROOT).as_posix()
        if lines := list(written(ast.parse(path.read_text(encoding="utf-8")))):
            found[name] = lines
    assert {name: lines for name, lines in found.items() if name not in EXCEPTIONS} == {}
    assert set(EXCEPTIONS) <= set(found), "an exception that nothing needs"


@pytest.mark.parametrize(
    "line",
    [
        "open(path, 'w')", "path.open('a')", "path.write_text('')", "figure.savefig(path)", "np.savez(path, x=x)",
        "torch.save(x, path)", "json.dump(x, path.open('w'))", "path.open(mode='r+b')", "scipy.io.savemat(path, x)",
        "with open(path, 'xb') as f: pass", "os.fdopen(3, 'wb')", "np.save(str(path), x)",
    ],
)  # fmt: skip
def test_a_writer_is_seen(line: str) -> None:
    assert list(written(ast.parse(line)))


@pytest.mark.parametrize(
    "line",
    ["with replacing(path, 'wb') as f: torch.save(x, f)", "s = io.BytesIO(); np.savez(s, x=x)", "open(path)", "path.open('rb')"],
)  # fmt: skip
def test_what_may_be_written_is_not_seen(line: str) -> None:
    assert not list(written(ast.parse(line)))
