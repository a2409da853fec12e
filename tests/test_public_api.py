"""The public surface: what is exported, what importing costs, what is raised, what is shown."""

from __future__ import annotations

import ast
import copy
import html
import importlib
import inspect
import math
import pickle
import pkgutil
import typing
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

import fmristore
import fmristore.stores
import fmristore_stores
from fmristore_stores import errors
from fmristore_stores.errors import ClosedError, FmristoreError
from tests.images import RAW, SCALED, SHAPE, STORES, make_values, run_python, store

PACKAGES = (fmristore, fmristore_stores)
FILES = sorted(
    path for package in PACKAGES for path in Path(str(package.__file__)).parent.rglob("*.py")
)

HEAVY = ("h5py", "zarr", "nibabel", "fsspec", "numcodecs", "isal", "numpy", "rich", "typer")
"""Packages that ``import fmristore`` must not load; numpy is the price of the first use."""

FORBIDDEN = {
    "ArithmeticError",
    "AssertionError",
    "AttributeError",
    "BaseException",
    "EOFError",
    "Exception",
    "FileNotFoundError",
    "IOError",
    "ImportError",
    "IndexError",
    "KeyError",
    "LookupError",
    "NotImplementedError",
    "OSError",
    "OverflowError",
    "RuntimeError",
    "TypeError",
    "ValueError",
}
"""Exceptions that callers could not tell from accidents."""

DRAWN = {"svg", "rect", "text"}
"""Tags of the picture of chunks."""

SHIPPED_TESTS = "fmristore_stores/testing/"


def modules() -> Iterator[ModuleType]:
    """Every module of both packages, except those that run when they are imported."""
    for package in PACKAGES:
        yield package
        for found in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
            if not found.name.endswith("__main__"):
                yield importlib.import_module(found.name)


def public_definitions(path: Path) -> set[str]:
    """Functions, classes and constants without underscore that a module defines at its top.

    Names of type variables and aliases are for the module's own annotations; a command of a
    command line is reached through it.
    """
    found = set()
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            if not any("app." in ast.unparse(d) for d in node.decorator_list):
                found.add(node.name)
        elif isinstance(node, ast.Assign | ast.AnnAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            found |= {t.id for t in targets if isinstance(t, ast.Name) and t.id.isupper()}
    return {name for name in found if not name.startswith("_")}


class TestExports:
    def test_what_is_exported_is_there_and_what_is_public_is_exported(self) -> None:
        found = list(modules())
        assert {Path(str(m.__file__)) for m in found} == {p for p in FILES if p.stem != "__main__"}
        for module in found:
            exported = getattr(module, "__all__", ())
            assert len(set(exported)) == len(exported), module.__name__
            for name in exported:
                assert getattr(module, name) is not None, f"{module.__name__}.{name}"
            lacking = public_definitions(Path(str(module.__file__))) - {*exported, "main"}
            assert not lacking, module.__name__

    @pytest.mark.parametrize("package", PACKAGES, ids=lambda p: p.__name__)
    def test_packages_list_what_they_export_and_nothing_else(self, package: ModuleType) -> None:
        assert dir(package) == sorted(package.__all__)
        for name in package.__all__:
            assert getattr(package, name) is getattr(package, name)
        with pytest.raises(AttributeError, match="no attribute 'nothing'"):
            package.nothing  # noqa: B018 - the access is the test

    def test_the_store_layer_under_its_public_name(self) -> None:
        assert sorted(fmristore.stores.__all__) == sorted(fmristore_stores.__all__)
        for name in fmristore_stores.__all__:
            assert getattr(fmristore.stores, name) is getattr(fmristore_stores, name)

    def test_main_names(self) -> None:
        assert {"open", "convert", "transcode", "verify", "NeuroVec", "NeuroVol"} <= set(
            fmristore.__all__
        )
        assert fmristore.errors is errors
        assert fmristore.__version__ == fmristore_stores.__version__

    def test_what_is_exported_is_documented(self) -> None:
        for module in modules():
            assert module.__doc__, module.__name__
            for name in getattr(module, "__all__", ()):
                value = getattr(module, name)
                if not (inspect.isclass(value) or inspect.isfunction(value)):
                    continue
                assert inspect.getdoc(value), f"{module.__name__}.{name}"
                for attribute, member in vars(value).items() if inspect.isclass(value) else ():
                    if not attribute.startswith("_") and inspect.isfunction(member):
                        assert inspect.getdoc(getattr(value, attribute)), f"{name}.{attribute}"


class TestImports:
    def test_importing_the_package_loads_nothing_heavy(self) -> None:
        code = "import sys, fmristore; print(*sorted(m for m in sys.modules if '.' not in m))"
        done = run_python(code)
        assert done.returncode == 0, done.stderr
        assert not set(HEAVY) & set(done.stdout.split())

    @pytest.mark.parametrize(
        ("first", "absent"),
        [
            ("fmristore.stores", ("h5py", "zarr", "nibabel")),
            ("fmristore.open", ("h5py", "zarr", "nibabel")),
            ("fmristore.NeuroVec", ("h5py", "zarr", "nibabel")),
            ("fmristore_stores.HDF5Store", ("zarr", "numcodecs", "fsspec", "nibabel")),
            ("fmristore_stores.ZarrStore", ("h5py", "zarr", "numcodecs", "fsspec", "nibabel")),
        ],
    )
    def test_first_use_loads_what_it_needs(self, first: str, absent: tuple[str, ...]) -> None:
        module, _, name = first.rpartition(".")
        done = run_python(f"import sys; from {module} import {name}; print(*sys.modules)")
        assert done.returncode == 0, done.stderr
        assert not set(absent) & set(done.stdout.split())

    @pytest.mark.parametrize("kind", STORES)
    def test_opening_one_kind_of_store_does_not_load_the_other(
        self, kind: str, tmp_path: Path
    ) -> None:
        values = np.arange(math.prod(SHAPE)).reshape(SHAPE) % 7  # numcodecs decodes noise
        store(tmp_path / f"a.{kind}", values).close()
        code = (
            "import sys, fmristore as fs\n"
            "with fs.open(sys.argv[1]) as image: image[0, 0, 0]\n"
            "print(*sys.modules)"
        )
        done = run_python(code, tmp_path / f"a.{kind}")
        assert done.returncode == 0, done.stderr
        loaded = set(done.stdout.split())
        assert not loaded & {"zarr", "numcodecs", "fsspec", "asyncio", "email", "nibabel"}
        assert ("h5py" in loaded) == (kind == "h5")


class TestErrors:
    def test_only_errors_of_the_tree_are_raised(self) -> None:
        for path in FILES:
            if SHIPPED_TESTS in path.as_posix():
                continue
            tree = ast.parse(path.read_text())
            allowed = {
                id(node)
                for function in ast.walk(tree)
                if isinstance(function, ast.FunctionDef) and function.name == "__getattr__"
                for node in ast.walk(function)
            }
            for node in ast.walk(tree):
                if isinstance(node, ast.Raise) and node.exc is not None and id(node) not in allowed:
                    raised = node.exc.func if isinstance(node.exc, ast.Call) else node.exc
                    assert ast.unparse(raised) not in FORBIDDEN, f"{path}:{node.lineno}"

    def test_documented_errors_exist(self) -> None:
        """Names in the Raises sections of docstrings are classes of the tree, or documented."""
        for path in FILES:
            for node in ast.walk(ast.parse(path.read_text())):
                if not isinstance(node, ast.FunctionDef | ast.ClassDef):
                    continue
                _, _, rest = (ast.get_docstring(node) or "").partition("Raises\n------\n")
                for line in rest.splitlines():
                    if line.startswith("---") or (line and line[0] == " "):
                        continue
                    for name in line.split(", "):
                        if name.endswith("Error"):
                            assert name in errors.__all__, f"{path}:{node.lineno} {name}"

    @pytest.mark.parametrize("name", errors.__all__)
    def test_errors_travel(self, name: str) -> None:
        error = getattr(errors, name)("what happened", url="/a.h5", node="0")
        for other in (pickle.loads(pickle.dumps(error)), copy.copy(error)):
            assert type(other) is type(error)
            assert str(other) == "/a.h5[/0]: what happened"
        assert isinstance(error, FmristoreError)
        assert error.kind


class Text(HTMLParser):
    """Tags and text of a piece of HTML."""

    def __init__(self, source: str) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.text = ""
        self.feed(source)

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        self.tags.add(tag)

    def handle_data(self, data: str) -> None:
        self.text += data


@pytest.mark.parametrize("kind", STORES)
class TestObjects:
    def test_what_people_see(self, kind: str, tmp_path: Path) -> None:
        for scales in (RAW, SCALED):
            url = tmp_path / f"{scales.slope}.{kind}"
            with store(url, make_values(), scales=scales) as image:
                for text in (repr(image), Text(image._repr_html_()).text):
                    assert "NeuroVec" in text
                    assert str(url) in text
                    assert "7 x 6 x 5 x 9" in text
                    assert "1.5 s" in text
                    assert "int16" in text
                    assert ("float32" in text) == (scales is SCALED)
                    assert len(text) < 1000
            assert repr(image)
            assert image._repr_html_()

    def test_hostile_names_are_escaped(self, kind: str, tmp_path: Path) -> None:
        folder = tmp_path / "<script>alert(1)<"
        folder.mkdir()
        url = folder / f"'\"&<img src=x onerror=alert(2)>.{kind}"
        with store(url, make_values()) as image:
            shown = image._repr_html_()
            parsed = Text(shown)
            assert parsed.tags <= {"div", "b", "table", "tr", "th", "td", "img", *DRAWN}
            assert str(url) in parsed.text
            assert "<script" not in shown
            assert shown.count("<img") == 1  # the slice
            assert html.escape(str(url)) in shown

    def test_pickling(self, kind: str, tmp_path: Path) -> None:
        for shape in (SHAPE, SHAPE[:3]):
            with store(tmp_path / f"{len(shape)}.{kind}", make_values(shape)) as image:
                with pickle.loads(pickle.dumps(image)) as other:
                    assert type(other) is type(image)
                    assert other.space == image.space
                    assert repr(other) == repr(image)
                    np.testing.assert_array_equal(np.asarray(other), np.asarray(image))
                assert not image.closed
                np.testing.assert_array_equal(np.asarray(image), make_values(shape))
            with pytest.raises(ClosedError):
                pickle.dumps(image)

    def test_a_copy_outlives_the_original(self, kind: str, tmp_path: Path) -> None:
        image = store(tmp_path / f"a.{kind}", make_values())
        other = copy.deepcopy(image)
        image.close()
        np.testing.assert_array_equal(np.asarray(other), make_values())
        other.close()
        with pytest.raises(ClosedError):
            other[0]


def test_open_is_typed_for_every_format() -> None:
    """What checkers and editors know: the class by ``format=``, and `AnyFormat` without."""
    returned = {
        str(overload.__annotations__.get("format")): str(overload.__annotations__["return"])
        for overload in typing.get_overloads(fmristore.open)
    }
    assert returned.pop("None") == "AnyFormat"
    assert returned.pop("str") == "StoredObject"
    own = {info for info in fmristore.formats() if info.cls.__module__.startswith("fmristore.")}
    assert {name[9:-2]: cls for name, cls in returned.items()} == {
        info.name: info.cls.__name__ for info in own
    }
