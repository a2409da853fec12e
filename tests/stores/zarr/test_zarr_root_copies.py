"""Nodes of a remote store by the copies in its root, which zarr-python is not asked for."""

from __future__ import annotations

import json
import uuid
from collections.abc import Callable
from typing import Any

import fsspec
import numpy as np
import pytest
import zarr

from fmristore_stores.errors import FmristoreError, NotFoundError
from fmristore_stores.spec import STRING, ArraySpec, ChunkLayout
from fmristore_stores.zarr.files import RemoteFiles
from fmristore_stores.zarr.store import ZarrStore

VALUES = np.arange(24, dtype="i2").reshape(6, 4)
SPEC = ArraySpec(
    shape=(6, 4), dtype=np.dtype("i2"), layout=ChunkLayout(chunks=(3, 2), shards=(6, 4))
)
TEXT = ArraySpec(shape=(2,), dtype=STRING, layout=ChunkLayout(chunks=(2,)))
PATHS = ["", "a", "g", "g/b", "g/text", "late", "missing", "g/missing", "../a", "g/../a"]


def make(*, texts: bool) -> tuple[Any, str]:
    """A store in memory, and a node that its root does not know."""
    fs, path = fsspec.filesystem("memory"), f"/copies-{uuid.uuid4().hex}/s.zarr"
    with ZarrStore(path, mode="w", fs=fs) as store:
        store.root.write_attributes({"of": "root"})
        store.root.create_array("a", SPEC, {"of": "a"}).write(None, VALUES)
        group = store.root.create_group("g", {"of": "g", "list": [1.5, None, "ü"]})
        group.create_array("b", SPEC).write(None, VALUES + 1)
        if texts:
            group.create_array("text", TEXT).write(None, np.array(["x", "yz"], STRING))
        store.consolidate()
    zarr.create_array(f"memory:/{path}", name="late", shape=(3,), dtype="i2", zarr_format=3)
    return fs, path


def changed(document: dict[str, Any], where: str, value: Any) -> bytes:
    """The document with something else at a path of keys."""
    found: Any = document
    *keys, last = where.split("|")
    for key in keys:
        found = found[key]
    found[last] = value
    return json.dumps(document).encode()


COPIES = "consolidated_metadata"
ROOTS: dict[str, Callable[[dict[str, Any]], bytes]] = {
    "as it is": lambda root: json.dumps(root).encode(),
    "without copies": lambda root: json.dumps({**root, COPIES: None}).encode(),
    "of another kind": lambda root: changed(root, f"{COPIES}|kind", "elsewhere"),
    "to be understood": lambda root: changed(root, f"{COPIES}|must_understand", True),
    "copies that are a list": lambda root: changed(root, f"{COPIES}|metadata", []),
    "no copies at all": lambda root: changed(root, f"{COPIES}|metadata", {}),
    "a copy that is a number": lambda root: changed(root, f"{COPIES}|metadata|a", 3),
    "a copy without a shape": lambda root: changed(
        root, f"{COPIES}|metadata|a", {"zarr_format": 3, "node_type": "array"}
    ),
    "a codec that nobody knows": lambda root: changed(
        root, f"{COPIES}|metadata|g/b|codecs", [{"name": "nobody", "configuration": {}}]
    ),
    "a name that is none": lambda root: changed(
        root, f"{COPIES}|metadata|../a", root[COPIES]["metadata"]["a"]
    ),
    "no attributes": lambda root: changed(root, "attributes", 7),
    "another format": lambda root: changed(root, "zarr_format", 4),
    "an array": lambda root: json.dumps(
        {**root[COPIES]["metadata"]["a"], "attributes": {}}
    ).encode(),
}


def described(store: ZarrStore, path: str) -> Any:
    """What a store says of a node, or its error."""
    found: list[Any] = []
    for asked in (
        lambda: store.root.has(path) if "/" not in path else None,
        lambda: store.root.array(path).spec,
        lambda: store.root.array(path).read_attributes(),
        lambda: store.root.array(path).read().tolist(),
        lambda: store.root.group(path).read_attributes() if path else None,
        lambda: store.root.group(path).children() if path else store.root.children(),
        store.root.read_attributes,
    ):
        try:
            found.append(asked())
        except FmristoreError as error:
            found.append((type(error), str(error)))
    return found


def everything(fs: Any, path: str, root: bytes) -> Any:
    try:
        with ZarrStore(path, fs=fs, metadata=root) as store:
            return {node: described(store, node) for node in PATHS}
    except FmristoreError as error:
        return type(error), str(error)


@pytest.mark.parametrize("kind", list(ROOTS))
@pytest.mark.parametrize("texts", [False, True])
def test_all_is_as_zarr_python_has_it(
    monkeypatch: pytest.MonkeyPatch, kind: str, texts: bool
) -> None:
    fs, path = make(texts=texts)
    root = ROOTS[kind](json.loads(fs.cat_file(f"{path}/zarr.json")))
    fs.pipe_file(f"{path}/zarr.json", root)
    found = everything(fs, path, root)
    monkeypatch.setattr(RemoteFiles, "document", lambda *_: None)
    assert everything(fs, path, root) == found


def test_plain_nodes_need_no_zarr_python(monkeypatch: pytest.MonkeyPatch) -> None:
    fs, path = make(texts=False)
    root = fs.cat_file(f"{path}/zarr.json")
    for name in ("open_group", "open_array"):
        monkeypatch.delattr(zarr, name)
    monkeypatch.setattr(RemoteFiles, "sizes", lambda *_: pytest.fail("a request"))
    with ZarrStore(path, fs=fs, metadata=root) as store:
        assert store.root.read_attributes() == {"of": "root"}
        assert store.root.array("a").read_attributes() == {"of": "a"}
        assert store.root.group("g").read_attributes()["list"] == [1.5, None, "ü"]
        assert store.root.array("g/b").spec == SPEC
        assert store.root.has("g")
        assert not store.root.has("missing")


def test_nodes_that_are_not_there() -> None:
    fs, path = make(texts=False)
    with ZarrStore(path, fs=fs, metadata=fs.cat_file(f"{path}/zarr.json")) as store:
        with pytest.raises(NotFoundError):
            store.root.array("missing")
        assert store.root.array("late").spec.shape == (3,)
