"""Names of objects are literal on every kind of storage, and a failure is not an absence."""

from __future__ import annotations

import shutil
import tarfile
import uuid
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import fsspec
import numpy as np
import pytest
from fsspec import AbstractFileSystem
from fsspec.implementations.memory import MemoryFileSystem

from fmristore_stores.chunks.reader import ChunkReader
from fmristore_stores.errors import AccessDeniedError, InvalidInputError, NotFoundError
from fmristore_stores.io import objects
from fmristore_stores.io.conditional_put import create_object
from fmristore_stores.io.location import filesystem
from fmristore_stores.opening import open_store
from fmristore_stores.publishing.publish import create_store
from fmristore_stores.testing.strategies import make_spec
from fmristore_stores.zarr.store import ZarrStore
from tests.conftest import S3Server

NAMES = [
    *"*?[]{}!%#+ ~&=;,@$'()^`|<>\":",
    "[ab]",
    "a*",
    "{a,b}",
    "%41",
    "%2F",
    "ü",
    "e\u0301",
    "脳",
    ".lead",
    "trail.",
    "a  b",
    "a..b",
]
OTHERS = ["a", "b", "aX", "A"]
SPEC = make_spec(chunks=(3, 4))
VALUES = np.arange(20, dtype="f4").reshape(5, 4)


def fill(url: str, names: Sequence[str], options: Mapping[str, Any], *, plus: int = 0) -> None:
    """Make a store with an array of each name, or replace it."""
    with create_store(url, overwrite=plus > 0, storage_options=options) as store:
        for number, name in enumerate(names):
            store.root.create_array(name, SPEC).write(None, VALUES + number + plus)


def give_up(url: str, name: str, options: Mapping[str, Any]) -> None:
    """Begin a store, and fail."""
    with create_store(url, storage_options=options) as store:
        store.root.create_group(name)
        raise ZeroDivisionError


def check(url: str, names: Sequence[str], options: Mapping[str, Any], *, plus: int = 0) -> None:
    """All numbers of `fill`, through references and without, and the names of all nodes."""
    with open_store(url, storage_options=options) as store:
        assert set(store.root.children()) == set(names)
        for number, name in enumerate(names):
            array = store.root.array(name)
            np.testing.assert_array_equal(array.read(), VALUES + number + plus)
            found = ChunkReader(array, missing="error").read(None)
            np.testing.assert_array_equal(found, VALUES + number + plus)


@pytest.fixture(params=["local", "memory", "s3"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[str, Mapping[str, Any]]:
    """Where stores can be put, and its storage options."""
    if request.param == "local":
        return str(tmp_path), {}
    if request.param == "memory":
        return f"memory://{uuid.uuid4().hex}", {}
    server: S3Server = request.getfixturevalue("s3")
    return server.url("stores"), server.options


def test_names_of_nodes_mean_themselves(place: tuple[str, Mapping[str, Any]]) -> None:
    folder, options = place
    fill(f"{folder}/a.zarr", NAMES, options)
    check(f"{folder}/a.zarr", NAMES, options)


def test_names_of_stores_mean_themselves(place: tuple[str, Mapping[str, Any]]) -> None:
    folder, options = place
    for other in OTHERS:
        fill(f"{folder}/{other}.zarr", ["x"], options)
    for name in ("a*", "?", "[ab]", "{a,b}", "%41 #+ü.", ".a"):
        url = f"{folder}/{name}.zarr"
        fill(url, [name], options)
        fill(url, [name, "more"], options, plus=1)
        check(url, [name, "more"], options, plus=1)
    for name in ("a?", "[a]*", "*"):
        with pytest.raises(ZeroDivisionError):
            give_up(f"{folder}/{name}.zarr", name, options)
        with pytest.raises(NotFoundError):
            open_store(f"{folder}/{name}.zarr", storage_options=options)
    for other in OTHERS:
        check(f"{folder}/{other}.zarr", ["x"], options)


@pytest.mark.parametrize("kind", ["zip", "tar"])
def test_a_store_that_is_the_content_of_an_archive(tmp_path: Path, kind: str) -> None:
    folder = tmp_path / "run.zarr"
    fill(str(folder), NAMES, {})
    if kind == "tar":  # fsspec before 2026.9 does not read names that begin with "./"
        with tarfile.open(tmp_path / "run.tar", "w") as archive:
            for path in sorted(folder.iterdir()):
                archive.add(path, path.name)
    else:
        shutil.make_archive(str(tmp_path / "run"), kind, folder)
    check(f"{kind}://::{tmp_path}/run.{kind}", NAMES, {})


@pytest.mark.parametrize("name", ["a*b", "[ab]", "x"])
def test_trees_are_removed_and_copied_by_name(name: str) -> None:
    fs = fsspec.filesystem("memory")
    root = f"/{uuid.uuid4().hex}"
    for child in (name, "a1b", "a", "b"):
        fs.pipe_file(f"{root}/{child}/f", child.encode())
        fs.mkdir(f"{root}/{child}/empty")
    assert list(objects.find(fs, f"{root}/{name}")) == [f"{root}/{name}/f"]
    objects.copy(fs, f"{root}/{name}/f", f"{root}/[to]*")
    assert fs.cat_file(f"{root}/[to]*") == name.encode()
    objects.remove_tree(fs, f"{root}/{name}")
    assert not objects.exists(fs, f"{root}/{name}")
    assert set(objects.find(fs, root)) == {f"{root}/{c}" for c in ("a1b/f", "a/f", "b/f", "[to]*")}
    with pytest.raises(NotFoundError):
        objects.remove_tree(fs, f"{root}/{name}")
    with pytest.raises(InvalidInputError):
        objects.remove_tree(fs, "/")


def test_a_key_that_clients_would_cut_is_not_touched(s3: S3Server) -> None:
    fs, path = filesystem(s3.url("a"), s3.options)
    fs.pipe_file(path, b"mine")
    touches: list[Callable[[str], None]] = [
        lambda name: objects.remove(fs, name),
        lambda name: objects.remove_all(fs, [name]),
        lambda name: objects.copy(fs, path, name),
        lambda name: create_object(fs, name, b"other", name),
    ]
    for touch in touches:
        with pytest.raises(InvalidInputError, match="versionId"):
            touch(f"{path}?versionId=1")
    assert fs.cat_file(path) == b"mine"


@pytest.mark.parametrize(
    ("root", "key", "path"),
    [
        ("http://h/a.zarr", "0/c/ü#?", "http://h/a.zarr/0/c/%C3%BC%23%3F"),
        ("http://h/a.zarr/?sig=a/b", "100%", "http://h/a.zarr/100%25?sig=a/b"),
        ("http://h/a.zarr?sig=a", "", "http://h/a.zarr?sig=a"),
    ],
)
def test_keys_on_web_servers(root: str, key: str, path: str) -> None:
    assert objects.below(fsspec.filesystem("http"), root, key) == path


class Refusing(MemoryFileSystem):  # type: ignore[misc]
    """Memory that does not let some folders be listed, nor anything in them be looked at."""

    protocol = "refusing"
    store: ClassVar[dict[str, Any]] = {}
    pseudo_dirs: ClassVar[list[str]] = [""]
    cachable = False
    closed: ClassVar[set[str]] = set()
    find = AbstractFileSystem.find

    def _check(self, path: str) -> None:
        if any(self._strip_protocol(path).endswith(name) for name in self.closed):
            raise PermissionError("not allowed")

    def ls(self, path: str, detail: bool = True, **kwargs: Any) -> Any:
        self._check(path)
        return super().ls(path, detail=detail, **kwargs)

    def info(self, path: str, **kwargs: Any) -> Any:
        self._check(path)
        return super().info(path, **kwargs)


def test_what_cannot_be_looked_at_is_not_absent() -> None:
    fs = Refusing()
    with ZarrStore("/s.zarr", mode="w", fs=fs) as store:
        array = store.root.create_group("g").create_array("a", make_spec())
        array.write(None, VALUES)
    Refusing.closed.add("/a/c")
    try:
        with ZarrStore("/s.zarr", fs=fs) as store, pytest.raises(AccessDeniedError):
            ChunkReader(store.root.array("g/a")).read(None)
        with pytest.raises(AccessDeniedError):
            objects.exists(fs, "/s.zarr/g/a/c")
        with pytest.raises(PermissionError):
            objects.find(fs, "/s.zarr")
        Refusing.closed.add("/0")
        with pytest.raises(PermissionError):
            objects.remove_tree(fs, "/s.zarr")
    finally:
        Refusing.closed.clear()
    with ZarrStore("/s.zarr", fs=fs) as store:
        np.testing.assert_array_equal(store.root.array("g/a").read(), VALUES)
