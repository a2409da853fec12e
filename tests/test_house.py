"""How the modules lie and what they say: imports, words, lengths, what is public."""

from __future__ import annotations

import ast
import importlib
import re
import textwrap
from functools import cache
from pathlib import Path

import pytest

import fmristore
import fmristore_stores

pytestmark = pytest.mark.once

ROOTS = {package.__name__: Path(package.__path__[0]) for package in (fmristore, fmristore_stores)}


@cache
def parsed(path: Path) -> ast.Module:
    """Syntax tree of a file, parsed once for all tests."""
    return ast.parse(path.read_text(encoding="utf-8"))


@cache
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
    for node in ast.walk(parsed(path)):
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


def depth(arrows: dict[str, set[str]]) -> int:
    """Modules on the longest way along arrows, which go in no circle."""
    found: dict[str, int] = {}

    def below(name: str) -> int:
        if name not in found:
            found[name] = 1 + max(map(below, arrows[name] & arrows.keys()), default=0)
        return found[name]

    return max(map(below, arrows), default=0)


def test_formats_are_seven_modules_deep_at_most() -> None:
    known = {name: path for name, path in modules().items() if "fmristore.formats." in name}
    assert depth({name: imported(path, known) - {name} for name, path in known.items()}) <= 7
    assert depth({"a": {"b", "c"}, "b": {"c"}, "c": set()}) == 3


def test_a_circle_would_be_found() -> None:
    arrows = {"a": {"b"}, "b": {"c"}, "c": {"b", "d"}, "d": set(), "e": {"a"}}
    assert circles(arrows) == [["b", "c"]]


def foreign_privates(path: Path) -> list[str]:
    """Ways around ruff's SLF001: private names in texts, of other modules, and waived findings."""
    text = path.read_text()
    found = [f"{path.name}: SLF001 is waived"] if "noqa: SLF001" in text else []
    for node in ast.walk(parsed(path)):
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
    for number, line in enumerate(lines):
        path = tmp_path / f"{number}.py"
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
        tree = parsed(path)
        for node in ast.walk(tree):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                assert lines_of(node) <= 50, f"{path}:{node.lineno} {node.name}"
        if text.count("\n") > 600:  # some lines above 500 are let pass
            assert "long" in (ast.get_docstring(tree) or ""), f"{path} does not say why it is long"


NO_NOUN = {"What", "How", "Where", "Whether", "Which", "When", "Who", "Why"}
"""First words of docstrings that are neither a noun nor an imperative."""

OLD_WORDS = re.compile(
    r"\b(numbers meant|laid out|anew|told|spellings?|insist\w*|doubts|boxes|turned around"
    r"|[Gg]oing elsewhere|newobjects|change_store|\w+Parts|Piece|Understood|MapStack|ScanRequest"
    r"|SeriesRequest|SpreadSource|write_numbers|describe_numbers)\b"
)
"""Words that have a better one: data and values, reported, rechunked, block, layout, content."""


def docstrings(tree: ast.AST) -> list[ast.Constant]:
    """Docstrings of a module, its classes, functions and attributes."""
    found = []
    for node in ast.walk(tree):
        for one in (
            getattr(node, "body", ()) if not isinstance(node, ast.Lambda | ast.IfExp) else ()
        ):
            value = one.value if isinstance(one, ast.Expr) else None
            if isinstance(value, ast.Constant) and isinstance(value.value, str):
                found.append(value)
    return found


def worded(path: Path) -> list[str]:
    """Docstrings that do not say what something is, and words that have a better one."""
    text = path.read_text(encoding="utf-8")
    found = [
        f"{path.name}:{doc.lineno}: starts with {str(doc.value).split()[0]}"
        for doc in docstrings(parsed(path))
        if str(doc.value).split()[0].rstrip(",:") in NO_NOUN
    ]
    for number, line in enumerate(text.splitlines(), 1):
        found += [f"{path.name}:{number}: {word[0]}" for word in OLD_WORDS.finditer(line)]
    return found


def test_docstrings_start_with_a_noun_or_an_imperative_in_the_words_of_the_field() -> None:
    assert [one for path in modules().values() for one in worded(path)] == []


def test_other_words_would_be_found(tmp_path: Path) -> None:
    lines = ('"""What it is."""', 'x = 1\n"""Where it lies."""', "# laid out anew", "Piece = 1")
    for number, line in enumerate((*lines, '"""Place of the data."""\n')):
        path = tmp_path / f"{number}.py"
        path.write_text(line)
        assert bool(worded(path)) == (line in lines), line


def documented_parameters(doc: str) -> list[str]:
    """Names in the section *Parameters* of a numpydoc docstring."""
    section = re.search(
        r"^Parameters\n-+\n(.*?)(?=^\w[^\n]*\n-+$|\Z)", doc, re.DOTALL | re.MULTILINE
    )
    lines = section[1].splitlines() if section else []
    entries = [line.partition(" : ")[0] for line in lines if line and not line.startswith(" ")]
    return [name.strip().lstrip("*") for entry in entries for name in entry.split(",")]


def arguments(node: ast.AST) -> set[str]:
    """Parameters of a function, or of what makes an object of a class."""
    if isinstance(node, ast.ClassDef):
        made = [one for one in node.body if isinstance(one, ast.FunctionDef)]
        init = [one for one in made if one.name in ("__init__", "__new__")]
        fields = {
            one.target.id
            for one in node.body
            if isinstance(one, ast.AnnAssign) and isinstance(one.target, ast.Name)
        }
        return set().union(fields, *map(arguments, init))
    assert isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    given = node.args
    return {
        one.arg
        for one in (*given.posonlyargs, *given.args, *given.kwonlyargs, given.vararg, given.kwarg)
        if one is not None
    }


def wrong_parameters(path: Path) -> list[str]:
    """Documented parameters that a function or class does not have."""
    found = []
    for node in ast.walk(parsed(path)):
        if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            continue
        have = arguments(node)
        if isinstance(node, ast.ClassDef) and (not have or node.bases):
            continue  # what it inherits is not seen here
        options = isinstance(node, ast.FunctionDef) and node.args.kwarg is not None
        found += [
            f"{path.name}:{node.lineno} {node.name}: {name}"
            for name in documented_parameters(ast.get_docstring(node) or "")
            if name not in have and not options
        ]
    return found


def test_parameters_are_documented_by_their_names() -> None:
    assert [one for path in modules().values() for one in wrong_parameters(path)] == []


def test_architecture_lists_every_folder() -> None:
    page = Path(__file__).parents[1] / "ARCHITECTURE.md"
    if not page.is_file():
        pytest.skip("there is no checkout")
    text = page.read_text(encoding="utf-8")
    folders = {path.parent.name for path in modules().values()} - ROOTS.keys()
    assert [name for name in folders if not re.search(rf"^ +{name}/ ", text, re.MULTILINE)] == []
