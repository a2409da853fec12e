"""How the modules lie: no circle of imports anywhere, counting those in functions and for types."""

from __future__ import annotations

import ast
import importlib
import re
import textwrap
from pathlib import Path

import pytest

import fmristore
import fmristore_stores

ROOTS = {package.__name__: Path(package.__path__[0]) for package in (fmristore, fmristore_stores)}


def modules() -> dict[str, Path]:
    """Files of all modules by their dotted names."""
    found = {}
    for name, root in ROOTS.items():
        for path in root.rglob("*.py"):
            parts = path.relative_to(root).with_suffix("").parts
            parts = parts[:-1] if parts[-1] == "__init__" else parts
            found[".".join((name, *parts))] = path
    return found


def imported(path: Path, known: dict[str, Path]) -> set[str]:
    """Modules of the packages that a file imports, wherever in it."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            full = {f"{node.module}.{alias.name}" for alias in node.names}
            names |= (full & known.keys()) or {node.module}
    return names & known.keys()


def faces() -> set[str]:
    """Packages that only hand on what lies below them, imported when it is asked for."""
    return {"fmristore", "fmristore_stores", "fmristore.formats", "fmristore.stores"}


def circles(arrows: dict[str, set[str]]) -> list[list[str]]:
    """Groups of modules that import each other: what is left when leaves are taken away."""
    left = {name: set(targets) for name, targets in arrows.items()}
    while True:
        leaves = {name for name, targets in left.items() if not targets & left.keys()}
        if not leaves:
            break
        for name in leaves:
            del left[name]
    while True:  # and what nobody imports any more
        wanted = set().union(*left.values()) if left else set()
        roots = left.keys() - wanted
        if not roots:
            return [sorted(left)] if left else []
        for name in roots:
            del left[name]


def test_no_circle_of_imports() -> None:
    known = modules()
    assert len(known) > 100
    arrows = {
        name: imported(path, known) - {name} - faces()
        for name, path in known.items()
        if name not in faces()
    }
    assert circles(arrows) == []


def test_a_circle_would_be_found() -> None:
    arrows = {"a": {"b"}, "b": {"c"}, "c": {"b", "d"}, "d": set(), "e": {"a"}}
    assert circles(arrows) == [["b", "c"]]


def foreign_privates(path: Path) -> list[str]:
    """Ways around ruff's SLF001: private names in texts, of other modules, and waived findings."""
    text = path.read_text()
    found = [f"{path.name}: SLF001 is waived"] if "noqa: SLF001" in text else []
    for node in ast.walk(ast.parse(text)):
        names: list[str] = []
        if isinstance(node, ast.Import):
            names = [part for alias in node.names for part in alias.name.split(".")]
        elif isinstance(node, ast.ImportFrom) and not (node.module or "").startswith("fmristore"):
            names = [*(node.module or "").split("."), *(alias.name for alias in node.names)]
        elif (
            isinstance(node, ast.Call)
            and isinstance(node.func, ast.Name)
            and node.func.id in ("getattr", "setattr", "hasattr", "delattr")
            and len(node.args) > 1
            and isinstance(node.args[1], ast.Constant)
        ):
            names = [str(node.args[1].value)]
        elif isinstance(node, ast.Attribute) and node.attr == "__dict__":
            own = isinstance(node.value, ast.Name) and node.value.id in ("self", "cls")
            names = [] if own else ["_everything"]
        found += [
            f"{path.name}:{getattr(node, 'lineno', 0)}: {name}"
            for name in names
            if name.startswith("_") and not name.startswith("__") and name not in ("_thread",)
        ]
    return found


def test_nothing_private_of_other_packages() -> None:
    assert [one for path in modules().values() for one in foreign_privates(path)] == []


def test_something_private_would_be_found(tmp_path: Path) -> None:
    lines = (
        "import numpy._core",
        "from s3fs.core import _error_wrapper",
        "getattr(fs, '_s3')",
        "other.__dict__['a']",
        "fs._s3  # noqa: SLF001",
    )
    path = tmp_path / "a.py"
    for line in lines:
        path.write_text(line)
        assert len(foreign_privates(path)) == 1, line


PUBLIC = {
    "fmristore",
    "fmristore.bids",
    "fmristore.demo",
    "fmristore.formats",
    "fmristore.many",
    "fmristore.nilearn",
    "fmristore.sampling",
    "fmristore.sampling.torch",
    "fmristore.stores",
    "fmristore.testing",
}
"""What users and authors of formats import from; everything else may change at any time."""


def code_of(page: Path) -> str:
    """Code of a module, or of the blocks of a page."""
    text = page.read_text(encoding="utf-8")
    if page.suffix == ".py":
        return text
    return "\n".join(
        textwrap.dedent(block)
        for block in re.findall(r"^ *```python\n(.*?)^ *```", text, re.DOTALL | re.MULTILINE)
    )


def undocumented(code: str) -> list[str]:
    """Names that code imports from elsewhere than the packages that list them."""
    found = []
    for node in ast.walk(ast.parse(code)):
        if isinstance(node, ast.Import):
            found += [a.name for a in node.names if a.name.partition(".")[0] in ROOTS]
            found = [name for name in found if name not in PUBLIC]
        elif isinstance(node, ast.ImportFrom) and (node.module or "").partition(".")[0] in ROOTS:
            module = str(node.module)
            exported = importlib.import_module(module).__all__ if module in PUBLIC else ()
            found += [f"{module}.{a.name}" for a in node.names if a.name not in exported]
    return found


def test_pages_and_examples_import_what_a_public_package_lists() -> None:
    top = Path(__file__).parents[1]
    if not (top / "docs").is_dir():
        pytest.skip("there is no checkout")
    for page in (
        top / "README.md",
        top / "CONTRIBUTING.md",
        *(top / "docs").rglob("*.md"),
        *(top / "examples").glob("*.py"),
        *(top / "tests" / "plugins").glob("*.py"),
        *(top / "tests" / "typing_examples").glob("*.py"),
    ):
        assert undocumented(code_of(page)) == [], page
    assert undocumented("from fmristore.formats.base import StoredObject") == [
        "fmristore.formats.base.StoredObject"
    ]


def lines_of(function: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    """Lines of what a function does: without signature, docstring, and classes that it makes."""
    body = function.body[1:] if ast.get_docstring(function) is not None else function.body
    if not body:
        return 0
    classes = [node for node in body if isinstance(node, ast.ClassDef)]
    inner = sum((node.end_lineno or 0) - node.lineno + 1 for node in classes)
    return (body[-1].end_lineno or 0) - body[0].lineno + 1 - inner


def test_functions_are_short_and_long_modules_say_why() -> None:
    for path in modules().values():
        text = path.read_text(encoding="utf-8")
        tree = ast.parse(text)
        for node in ast.walk(tree):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                assert lines_of(node) <= 50, f"{path}:{node.lineno} {node.name}"
        if text.count("\n") > 600:  # some lines above 500 are let pass
            assert "long" in (ast.get_docstring(tree) or ""), f"{path} does not say why it is long"
