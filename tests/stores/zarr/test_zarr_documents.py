"""Metadata of Zarr stores that are understood without zarr-python: as it understands them."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fmristore_stores.edit import edit_store
from fmristore_stores.errors import (
    AlreadyExistsError,
    ChangedError,
    FmristoreError,
    InvalidInputError,
    MetadataError,
    NotFoundError,
    StorageError,
)
from fmristore_stores.opening import open_store
from fmristore_stores.protocol import Capability
from fmristore_stores.publishing.publish import create_store
from fmristore_stores.spec import MAX_ATTRIBUTE_DEPTH, STRING, ArraySpec, ChunkLayout, CodecSpec
from fmristore_stores.testing.strategies import attributes, specs
from fmristore_stores.zarr.documents import ParsedNode, array_document, parse_node
from fmristore_stores.zarr.files import LocalFiles
from fmristore_stores.zarr.metadata import Described, creation, describe
from fmristore_stores.zarr.store import ZarrStore
from tests.stores.zarr.zarr_arrays import DTYPES, LAYOUTS, SHAPE, make, random_values

PIPELINES = {
    "none": (),
    "blosc": (
        CodecSpec.of(
            "blosc", cname="zstd", clevel=5, shuffle="bitshuffle", typesize=2, blocksize=65536
        ),
    ),
    "zstd": (CodecSpec.of("zstd", level=3, checksum=False),),
    "gzip": (CodecSpec.of("gzip", level=4),),
    "checked": (CodecSpec.of("gzip", level=1), CodecSpec.of("crc32c")),
}


def document(folder: Path, name: str = "") -> dict[str, Any]:
    parsed: dict[str, Any] = json.loads((folder / name / "zarr.json").read_text())
    return parsed


def by_zarr(folder: Path, found: dict[str, Any]) -> Described:
    """The array as zarr-python understands it; its errors where it does not."""
    probe = folder / "probe"
    probe.mkdir(exist_ok=True)
    (probe / "zarr.json").write_text(json.dumps(found))
    array = zarr.open_array(probe, mode="r", zarr_format=3)
    return describe(array.metadata.to_dict(), array.dtype, array.fill_value)


def ours(found: Any) -> ParsedNode | None:
    return parse_node(json.dumps(found).encode())


def assert_same(found: Described, expected: Described) -> None:
    assert found == expected
    assert found.spec.fill == expected.spec.fill
    assert type(found.spec.fill) is type(expected.spec.fill)


def write(folder: Path, spec: ArraySpec) -> dict[str, Any]:
    with ZarrStore(str(folder), mode="w") as store:
        store.root.create_array("0", spec, {"units": "V", "more": {"a": [1, None]}})
    return document(folder, "0")


@pytest.mark.parametrize("codecs", PIPELINES)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_what_we_write(tmp_path: Path, layout: str, codecs: str) -> None:
    spec = ArraySpec(
        shape=SHAPE,
        dtype=np.dtype("i2"),
        dims=("z", "", "x"),
        layout=LAYOUTS[layout],
        codecs=PIPELINES[codecs],
    )
    stored = write(tmp_path / "a.zarr", spec)
    found = ours(stored)
    assert found is not None
    assert found.described is not None
    assert found.attributes == {"units": "V", "more": {"a": [1, None]}}
    assert found.described.spec == spec
    assert_same(found.described, by_zarr(tmp_path, stored))


@pytest.mark.parametrize("dtype", DTYPES)
def test_every_type_of_numbers(tmp_path: Path, dtype: str) -> None:
    stored = write(tmp_path / "a.zarr", make(dtype, "sharded"))
    found = ours(stored)
    if np.dtype(dtype).kind == "c":
        assert found is None  # rare, and left to zarr-python
        return
    assert found is not None
    assert found.described is not None
    assert_same(found.described, by_zarr(tmp_path, stored))


def test_what_zarr_python_writes(tmp_path: Path) -> None:
    zarr.create_array(tmp_path / "a.zarr", shape=(6, 5), dtype="uint8", chunks=(3, 5))
    found = ours(document(tmp_path / "a.zarr"))
    assert found is not None
    assert found.described is not None
    assert_same(found.described, by_zarr(tmp_path, document(tmp_path / "a.zarr")))


def test_groups(tmp_path: Path) -> None:
    with ZarrStore(str(tmp_path / "a.zarr"), mode="w") as store:
        store.root.write_attributes({"a": {"b": [1]}})
        store.root.create_group("g")
        store.consolidate()
    assert ours(document(tmp_path / "a.zarr")) == ({"a": {"b": [1]}}, None)
    assert ours(document(tmp_path / "a.zarr", "g")) == ({}, None)


@given(spec=specs(Capability.SHARDS | Capability.CHUNK_ORDER), words=attributes())
def test_arrays_are_described_as_zarr_python_does(spec: ArraySpec, words: dict[str, Any]) -> None:
    try:
        arguments = creation(spec)
    except FmristoreError:
        return
    found = array_document(spec, words)
    if found is None:
        return
    there: dict[str, Any] = {}
    zarr.create_array(there, name="a", attributes=words, **arguments)
    assert json.loads(json.dumps(found)) == json.loads(there["a/zarr.json"].to_bytes())


@pytest.mark.parametrize("codecs", PIPELINES)
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", ["bool", "u1", "<i2", "<u8", "<f2", "<f8", STRING])
def test_plain_arrays_need_no_zarr_python(dtype: Any, layout: str, codecs: str) -> None:
    text = dtype is STRING
    spec = ArraySpec(
        shape=SHAPE,
        dtype=np.dtype(dtype),
        dims=("z", "", "x"),
        layout=ChunkLayout(chunks=LAYOUTS[layout].chunks) if text else LAYOUTS[layout],
        codecs=() if text else PIPELINES[codecs],
    )
    found = array_document(spec, {"units": "V"})
    assert found is not None
    there: dict[str, Any] = {}
    zarr.create_array(there, name="a", attributes={"units": "V"}, **creation(spec))
    assert json.loads(json.dumps(found)) == json.loads(there["a/zarr.json"].to_bytes())


@pytest.mark.parametrize(
    "spec",
    [
        ArraySpec(shape=(4,), dtype=np.dtype("c8"), layout=ChunkLayout(chunks=(2,))),
        ArraySpec(
            shape=(4,), dtype=np.dtype("f4"), layout=ChunkLayout(chunks=(2,)), fill_value=np.nan
        ),
        ArraySpec(
            shape=(4,),
            dtype=np.dtype("f4"),
            layout=ChunkLayout(chunks=(2,)),
            codecs=(CodecSpec.of("deflate", level=4),),
        ),
    ],
    ids=["complex", "not-0", "zlib"],
)
def test_other_arrays_are_made_by_zarr_python(tmp_path: Path, spec: ArraySpec) -> None:
    assert array_document(spec, {}) is None
    with ZarrStore(str(tmp_path / "a.zarr"), mode="w") as store:
        store.root.create_array("a", spec).write(None, np.arange(4))
        store.consolidate()
    with ZarrStore(str(tmp_path / "a.zarr")) as store:
        np.testing.assert_array_equal(store.root.array("a").read(), np.arange(4))
    assert list(document(tmp_path / "a.zarr")["consolidated_metadata"]["metadata"]) == ["a"]


def test_consolidated_as_zarr_python_does(tmp_path: Path) -> None:
    folder = tmp_path / "a.zarr"
    spec = ArraySpec(shape=(4,), dtype=np.dtype("f4"), layout=ChunkLayout(chunks=(2,)))
    with ZarrStore(str(folder), mode="w") as store:
        store.root.write_attributes({"a": [1]})
        below = store.root.create_group("z", {"b": "é"}).create_group("y")
        below.create_array("x", spec)
        store.root.create_array("removed", spec)
        store.root.remove("removed")
        store.root.create_array("m", spec).write_attributes({"units": "mm"})
        store.consolidate()
    found = document(folder)
    assert set(found["consolidated_metadata"]["metadata"]) == {"m", "z", "z/y", "z/y/x"}
    with pytest.warns(UserWarning, match="Consolidated"):
        zarr.consolidate_metadata(folder, zarr_format=3)
    assert document(folder) == found


def test_what_is_there_is_not_made_again(tmp_path: Path) -> None:
    spec = ArraySpec(shape=(4,), dtype=np.dtype("f4"), layout=ChunkLayout(chunks=(2,)))
    with ZarrStore(str(tmp_path / "a.zarr"), mode="w") as store:
        group = zarr.open_group(tmp_path / "a.zarr")
        group.create_group("other", attributes={"kept": True})
        with pytest.raises(AlreadyExistsError):
            store.root.create_array("other", spec)
        with pytest.raises(AlreadyExistsError):
            store.root.create_group("other")
        assert store.root.group("other").read_attributes() == {"kept": True}


def test_attributes_that_could_not_be_stored_are_not_consolidated(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with ZarrStore(str(tmp_path / "a.zarr"), mode="w") as store:
        group = store.root.create_group("g", {"a": 1})
        with monkeypatch.context() as patch:
            patch.setattr(LocalFiles, "put", fail)
            with pytest.raises(StorageError, match="full"):
                group.write_attributes({"a": 2})
        assert group.read_attributes() == {"a": 1}
        store.consolidate()
    copies = document(tmp_path / "a.zarr")["consolidated_metadata"]["metadata"]
    assert copies["g"]["attributes"] == document(tmp_path / "a.zarr", "g")["attributes"] == {"a": 1}


def fail(*_: Any) -> None:
    msg = "the disk is full"
    raise StorageError(msg)


@pytest.mark.parametrize("name", ["a.zarr", "a.h5"])
def test_attributes_of_an_array_alone_are_changed(tmp_path: Path, name: str) -> None:
    spec = ArraySpec(shape=(4,), dtype=np.dtype("f4"), layout=ChunkLayout(chunks=(2,)))
    with create_store(tmp_path / name) as store:
        store.root.create_group("g").create_array("x", spec, {"a": 1}).write(None, np.ones(4))
    with edit_store(tmp_path / name) as store:
        store.root.array("g/x").write_attributes({"a": 2})
    with open_store(tmp_path / name) as store:
        assert store.root.array("g/x").read_attributes() == {"a": 2}
        assert store.root.array("g/x").read().tolist() == [1] * 4


def test_attributes_of_an_array_that_grew(tmp_path: Path) -> None:
    spec = ArraySpec(shape=(4,), dtype=np.dtype("f4"), layout=ChunkLayout(chunks=(2,)))
    with ZarrStore(str(tmp_path / "a.zarr"), mode="w") as store:
        array = store.root.create_array("x", spec)
        with array.longer(6) as longer:
            with pytest.raises(InvalidInputError, match="whole units"):
                longer.write((slice(4, 5),), [1])
            longer.write((slice(4, 6),), [1, 2])
        store.root.array("x").write_attributes({"a": 1})
        store.consolidate()
    with ZarrStore(str(tmp_path / "a.zarr")) as store:
        assert store.root.array("x").read_attributes() == {"a": 1}
        assert store.root.array("x").read().tolist() == [0, 0, 0, 0, 1, 2]


ROOT = {"zarr_format": 3, "node_type": "group"}


@pytest.mark.parametrize(
    "found",
    [
        None,
        [],
        "group",
        {},
        ROOT | {"zarr_format": 2},
        ROOT | {"node_type": "other"},
        ROOT | {"attributes": None},
        ROOT | {"attributes": []},
        ROOT | {"more": {"must_understand": True}},
        ROOT | {"more": 1},
    ],
)
def test_groups_left_to_zarr_python(found: Any) -> None:
    assert ours(found) is None


def test_fields_of_a_group_that_may_be_passed_over() -> None:
    assert ours(ROOT | {"more": {"must_understand": False}}) == ParsedNode({}, None)


@pytest.mark.parametrize("data", [b"", b"{", b"\xff\xfe\x00", b"[" * 100_000])
def test_what_is_not_json(data: bytes) -> None:
    assert parse_node(data) is None


REGULAR = {"name": "regular"}
FIELDS: dict[str, Any] = {
    "structured": {"data_type": {"name": "numpy.datetime64"}},
    "text": {"data_type": "string", "fill_value": ""},
    "other fill value": {"fill_value": 7},
    "not a number": {"data_type": "float32", "fill_value": "NaN"},
    "fill value of another kind": {"fill_value": 0.0},
    "no fill value": {"fill_value": None},
    "negative length": {"shape": [-1, 10, 5]},
    "fraction": {"shape": [9.0, 10, 5]},
    "truth": {"shape": [True, 10, 5]},
    "shape of text": {"shape": "abc"},
    "another rank": {"shape": [9, 10]},
    "absurd": {"shape": [2**62, 2**62, 5]},
    "names that are too few": {"dimension_names": ["a"]},
    "no names of three": {"dimension_names": []},
    "names that are numbers": {"dimension_names": [1, 2, 3]},
    "names that are text": {"dimension_names": "abc"},
    "transformers": {"storage_transformers": [{"name": "x"}]},
    "other chunks": {"chunk_grid": {"name": "rectilinear", "configuration": {}}},
    "empty chunks": {
        "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": [0, 4, 2]}}
    },
    "other keys": {"chunk_key_encoding": {"name": "v2", "configuration": {"separator": "."}}},
    "unknown field": {"more": 1},
    "attributes of another kind": {"attributes": [1]},
    "no codecs": {"codecs": []},
    "unknown codec": {"codecs": [{"name": "bytes"}, {"name": "mine"}]},
    "big-endian": {"codecs": [{"name": "bytes", "configuration": {"endian": "big"}}]},
    "unknown order of bytes": {"codecs": [{"name": "bytes"}]},
    "level out of range": {
        "codecs": [
            {"name": "bytes", "configuration": {"endian": "little"}},
            {"name": "gzip", "configuration": {"level": 11}},
        ]
    },
    "option left out": {
        "codecs": [
            {"name": "bytes", "configuration": {"endian": "little"}},
            {"name": "blosc", "configuration": {"cname": "zstd"}},
        ]
    },
    "transposed twice": {
        "codecs": [
            {"name": "transpose", "configuration": {"order": [0, 0, 1]}},
            {"name": "bytes", "configuration": {"endian": "little"}},
        ]
    },
}


@pytest.mark.parametrize("fields", FIELDS.values(), ids=FIELDS.keys())
def test_arrays_left_to_zarr_python(tmp_path: Path, fields: dict[str, Any]) -> None:
    stored = write(tmp_path / "a.zarr", make("int16", "plain"))
    assert ours(stored) is not None
    assert ours(stored | fields) is None


VALUES = st.one_of(
    st.none(),
    st.booleans(),
    st.sampled_from([-1, 0, 1, 2, 3, 16, 2**31, 2**64, 0.0, 2.5]),
    st.sampled_from(["", "little", "big", "start", "regular", "v2", ".", "int32", "gzip", "bytes"]),
    st.sampled_from([[], [1], [4, 4, 2], [0, 1, 2], {}, {"must_understand": False}]),
)


def change(data: Any, part: Any) -> None:
    """Replace, add or remove something somewhere in a document."""
    keys = list(part) if isinstance(part, dict) else list(range(len(part)))
    if not keys:
        return
    key = data.draw(st.sampled_from(keys))
    if isinstance(part[key], dict | list) and part[key] and data.draw(st.integers(0, 3)):
        change(data, part[key])
        return
    action = data.draw(st.sampled_from(["set", "set", "remove", "add"]))
    if action == "remove":
        del part[key]
    elif action == "set":
        part[key] = copy.deepcopy(data.draw(VALUES))
    elif isinstance(part, dict):
        part["more"] = copy.deepcopy(data.draw(VALUES))
    else:
        part.append(copy.deepcopy(part[key]))


@pytest.mark.filterwarnings("ignore")
@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_what_is_understood_zarr_python_understands_equally(tmp_path: Path, data: Any) -> None:
    layout = data.draw(st.sampled_from(list(LAYOUTS)))
    codecs = data.draw(st.sampled_from(list(PIPELINES)))
    folder = tmp_path / f"{layout}-{codecs}.zarr"
    if not folder.exists():
        spec = ArraySpec(
            shape=SHAPE, dtype=np.dtype("i2"), layout=LAYOUTS[layout], codecs=PIPELINES[codecs]
        )
        write(folder, spec)
    stored = document(folder, "0")
    for _ in range(data.draw(st.integers(1, 2))):
        change(data, stored)
    found = ours(stored)
    if found is not None and found.described is not None:
        assert_same(found.described, by_zarr(tmp_path, stored))
        assert found.attributes == stored.get("attributes", {})


@pytest.mark.parametrize("depth", [MAX_ATTRIBUTE_DEPTH + 1, 600, 900, 5000])
def test_attributes_that_are_too_deep(tmp_path: Path, depth: int) -> None:
    folder = tmp_path / "a.zarr"
    folder.mkdir()
    deep = '{"a": ' + "[" * depth + "]" * depth + "}"
    text = '{"zarr_format": 3, "node_type": "group", "attributes": ' + deep + "}"
    (folder / "zarr.json").write_text(text)
    with pytest.raises(MetadataError) as refused:
        ZarrStore(str(folder), mode="r").root.read_attributes()
    assert refused.value.url == str(folder)


def test_a_path_of_many_names(tmp_path: Path) -> None:
    write(tmp_path / "a.zarr", make("int16", "plain"))
    with ZarrStore(str(tmp_path / "a.zarr"), mode="r") as store, pytest.raises(NotFoundError):
        store.root.array("/".join("a" * 1900))


def test_an_array_that_changes_before_zarr_python_opens_it(tmp_path: Path) -> None:
    folder = tmp_path / "a.zarr"
    write(folder, make("int16", "plain"))
    with ZarrStore(str(folder), mode="r") as store:
        array = store.root.array("0")
        path = folder / "0" / "zarr.json"
        path.write_text(json.dumps(document(folder, "0") | {"shape": [3, 3, 3]}))
        with pytest.raises(ChangedError, match="since it was opened"):
            array.read()


def test_both_ways_of_reading_agree(tmp_path: Path) -> None:
    folder = tmp_path / "a.zarr"
    numbers = random_values("int16")
    with ZarrStore(str(folder), mode="w") as store:
        for name in LAYOUTS:
            store.root.create_array(name, make("int16", name)).write(None, numbers)
    with ZarrStore(str(folder), mode="r") as store:
        assert sorted(store.root.children()) == sorted(LAYOUTS)
        for name in LAYOUTS:
            assert np.array_equal(store.root.array(name).read(), numbers)


def test_a_chunk_layout_that_is_not_whole_is_refused_as_before(tmp_path: Path) -> None:
    spec = ArraySpec(
        shape=(8, 8), dtype=np.dtype("i2"), layout=ChunkLayout(chunks=(2, 2), shards=(4, 4))
    )
    stored = write(tmp_path / "a.zarr", spec)
    stored["chunk_grid"]["configuration"]["chunk_shape"] = [3, 4]
    assert ours(stored) is None
