"""Zarr stores that are damaged, or made to do damage."""

from __future__ import annotations

import json
import math
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import google_crc32c
import numpy as np
import pytest
import zarr
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fmristore_stores.chunks.reader import ChunkReader
from fmristore_stores.errors import (
    CodecError,
    CorruptDataError,
    FmristoreError,
    FormatError,
    InvalidInputError,
    LayoutNotSupportedError,
    MetadataError,
    NotFoundError,
    UnknownFormatError,
)
from fmristore_stores.protocol import Capability
from fmristore_stores.spec import CodecSpec
from fmristore_stores.zarr.shards import parse_index, shard_parts
from fmristore_stores.zarr.store import ZarrStore
from tests.stores.zarr.zarr_arrays import LAYOUTS, SHAPE, decoded, make, random_values


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A store with an array in every layout."""
    place = tmp_path / "store.zarr"
    with ZarrStore(str(place), mode="w") as store:
        for layout in LAYOUTS:
            array = store.root.create_array(layout, make("float32", layout))
            array.write(None, random_values("float32"))
    return place


def changed(path: Path, **fields: Any) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | fields))


# Metadata ----------------------------------------------------------------------------------------

ROOTS = {
    "not json": b"{",
    "empty": b"",
    "binary": b"\xff\xfe\x00",
    "a list": b"[]",
    "text": b'"x"',
    "a number": b"3",
    "null": b"null",
    "deep": b"[" * 200_000,
    "attributes are a number": b'{"zarr_format":3,"node_type":"group","attributes":5}',
    "format of the future": b'{"zarr_format":4,"node_type":"group","attributes":{}}',
    "kind unknown": b'{"zarr_format":3,"node_type":"table","attributes":{}}',
}


@pytest.mark.parametrize("mode", ["r", "r+"])
@pytest.mark.parametrize("content", ROOTS.values(), ids=ROOTS.keys())
def test_damaged_root(tmp_path: Path, content: bytes, mode: Any) -> None:
    (tmp_path / "zarr.json").write_bytes(content)
    with pytest.raises(FormatError, match=str(tmp_path)):
        ZarrStore(str(tmp_path), mode=mode)
    assert (tmp_path / "zarr.json").read_bytes() == content


def test_damaged_root_of_format_2(tmp_path: Path) -> None:
    (tmp_path / ".zgroup").write_text("{")
    with pytest.raises(FormatError):
        ZarrStore(str(tmp_path))


REGULAR = "regular"
ARRAYS: dict[str, dict[str, Any]] = {
    "negative shape": {"shape": [-1, 10, 5]},
    "fractional shape": {"shape": [1.5, 10, 5]},
    "shape is text": {"shape": "9"},
    "absurd shape": {"shape": [10**30, 10, 5]},
    "absurd product": {"shape": [2**40, 2**40, 5]},
    "absurd rank": {
        "shape": [1] * 100,
        "chunk_grid": {"name": REGULAR, "configuration": {"chunk_shape": [1] * 100}},
        "dimension_names": None,
        "codecs": [{"name": "bytes", "configuration": {"endian": "little"}}],
    },
    "absurd shards": {
        "shape": [2**30, 10, 5],
        "chunk_grid": {"name": REGULAR, "configuration": {"chunk_shape": [2**30, 4, 2]}},
        "codecs": [
            {
                "name": "sharding_indexed",
                "configuration": {
                    "chunk_shape": [1, 1, 1],
                    "codecs": [{"name": "bytes", "configuration": {"endian": "little"}}],
                    "index_codecs": [{"name": "bytes", "configuration": {"endian": "little"}}],
                },
            }
        ],
    },
    "absurd chunks": {
        "chunk_grid": {"name": REGULAR, "configuration": {"chunk_shape": [2**60, 2**60, 1]}}
    },
    "negative chunks": {
        "chunk_grid": {"name": REGULAR, "configuration": {"chunk_shape": [-4, 4, 2]}}
    },
    "chunks of another rank": {
        "chunk_grid": {"name": REGULAR, "configuration": {"chunk_shape": [4, 4]}}
    },
    "unknown grid": {"chunk_grid": {"name": "hexagonal", "configuration": {}}},
    "dtype of another planet": {"data_type": "float1024"},
    "dtype not for us": {
        "data_type": {
            "name": "numpy.datetime64",
            "configuration": {"unit": "s", "scale_factor": 1},
        },
        "fill_value": 0,
    },
    "order of another rank": {
        "codecs": [
            {"name": "transpose", "configuration": {"order": [1, 0]}},
            {"name": "bytes", "configuration": {"endian": "little"}},
        ]
    },
    "order is no permutation": {
        "codecs": [
            {"name": "transpose", "configuration": {"order": [0, 0, 5]}},
            {"name": "bytes", "configuration": {"endian": "little"}},
        ]
    },
    "no codecs": {"codecs": []},
    "codecs are text": {"codecs": "bytes"},
    "shards that do not divide": {
        "codecs": [
            {
                "name": "sharding_indexed",
                "configuration": {
                    "chunk_shape": [3, 3, 3],
                    "codecs": [{"name": "bytes", "configuration": {"endian": "little"}}],
                    "index_codecs": [{"name": "bytes", "configuration": {"endian": "little"}}],
                },
            }
        ]
    },
    "names of another rank": {"dimension_names": ["z"]},
    "names are numbers": {"dimension_names": [1, 2, 3]},
    "unknown keys": {"chunk_key_encoding": {"name": "hilbert"}},
    "no fill value": {"fill_value": "black"},
    "transformers": {"storage_transformers": [{"name": "x"}]},
    "attributes are a list": {"attributes": [1]},
    "kind unknown": {"node_type": "table"},
    "must be understood": {"more": {"must_understand": True}},
}


@pytest.mark.parametrize("fields", ARRAYS.values(), ids=ARRAYS.keys())
def test_damaged_array(folder: Path, fields: dict[str, Any]) -> None:
    changed(folder / "plain" / "zarr.json", **fields)
    with ZarrStore(str(folder)) as store:
        refused = (FormatError, CodecError, LayoutNotSupportedError)
        with pytest.raises(refused, match=r"store\.zarr\[/plain\]"):
            store.root.array("plain")
        assert store.root.array("both").spec.shape == SHAPE


@pytest.mark.parametrize("field", ["shape", "data_type", "chunk_grid", "codecs", "fill_value"])
def test_incomplete_array(folder: Path, field: str) -> None:
    path = folder / "plain" / "zarr.json"
    document = json.loads(path.read_text())
    del document[field]
    path.write_text(json.dumps(document))
    with ZarrStore(str(folder)) as store, pytest.raises(MetadataError):
        store.root.array("plain")


def test_codecs_that_nobody_knows(folder: Path) -> None:
    little = {"name": "bytes", "configuration": {"endian": "little"}}
    changed(folder / "plain" / "zarr.json", codecs=[little, {"name": "squeeze"}])
    with ZarrStore(str(folder)) as store, pytest.raises(CodecError, match="squeeze"):
        store.root.array("plain")


@pytest.mark.filterwarnings("ignore:Numcodecs codecs")
def test_codecs_that_only_zarr_python_knows(folder: Path) -> None:
    root = zarr.open_group(folder)
    foreign = root.create_array(
        "a",
        shape=(4,),
        chunks=(2,),
        dtype="int16",
        compressors=[{"name": "numcodecs.bz2", "configuration": {"level": 1}}],
    )
    foreign[:] = [1, 2, 3, 4]
    with ZarrStore(str(folder)) as store:
        array = store.root.array("a")
        (step,) = array.spec.codecs
        assert isinstance(step, CodecSpec)
        assert step.name == "zarr:numcodecs.bz2"
        assert json.loads(step.get("configuration"))["level"] == 1
        assert array.read().tolist() == [1, 2, 3, 4]
        assert Capability.CHUNK_REFS not in array.capabilities
        assert ChunkReader(array).read().tolist() == [1, 2, 3, 4]


def test_nodes_of_the_other_kind(folder: Path) -> None:
    with ZarrStore(str(folder), mode="r+") as store:
        store.root.create_group("g")
    with ZarrStore(str(folder)) as store:
        for path in ("g", "", "nothing", "plain/c", "plain/zarr.json", "zarr.json"):
            with pytest.raises(NotFoundError):
                store.root.array(path)
        for path in ("plain", "plain/c", "", "nothing/below"):
            with pytest.raises(NotFoundError):
                store.root.group(path)


def test_other_files_are_left_out(folder: Path) -> None:
    (folder / ".DS_Store").write_bytes(b"x")
    (folder / "README").write_text("x")
    (folder / "folder").mkdir()
    (folder / "folder" / "file").write_text("x")
    with ZarrStore(str(folder)) as store:
        assert sorted(store.root.children()) == sorted(LAYOUTS)


@settings(
    max_examples=150,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(data=st.data())
def test_any_change_of_the_metadata_is_understood_or_refused(folder: Path, data: Any) -> None:
    """Whatever one value of a metadata document is replaced by, no foreign error comes out."""
    path = folder / "both" / "zarr.json"
    original = path.read_text()
    document = json.loads(original)
    places: list[tuple[Any, Any]] = []

    def walk(value: Any) -> None:
        for key in value if isinstance(value, dict) else range(len(value)):
            places.append((value, key))
            if isinstance(value[key], dict | list):
                walk(value[key])

    walk(document)
    container, key = places[data.draw(st.integers(0, len(places) - 1))]
    container[key] = data.draw(
        st.none()
        | st.booleans()
        | st.integers(-2, 12)
        | st.sampled_from([2**31, 2**63, 10**30, -(10**30), 1e300, "x", "", "default", "v2"])
        | st.lists(st.integers(-1, 6), max_size=4)
        | st.just({})
    )
    try:
        path.write_text(json.dumps(document))
        with ZarrStore(str(folder)) as store:
            array = store.root.array("both")
            layout = array.spec.layout
            if max(math.prod(layout.chunks), math.prod(layout.units)) < 2**20:
                array.read(tuple(slice(0, min(n, 1)) for n in array.spec.shape))
    except FmristoreError as error:
        assert str(folder) in str(error)  # noqa: PT017
    finally:
        path.write_text(original)


# Chunks ------------------------------------------------------------------------------------------


def first_chunk(folder: Path, layout: str) -> Path:
    return folder / layout / "c" / "0" / "0" / "0"


@pytest.mark.parametrize("layout", LAYOUTS)
def test_damaged_chunks(folder: Path, layout: str) -> None:
    path = first_chunk(folder, layout)
    data = bytearray(path.read_bytes())
    data[:20] = b"\xff" * 20
    path.write_bytes(data)
    with ZarrStore(str(folder)) as store:
        array = store.root.array(layout)
        with pytest.raises(CorruptDataError, match=layout):
            array.read()
        with pytest.raises(CorruptDataError):
            decoded(array)


@pytest.mark.parametrize("layout", ["plain", "sharded"])
@pytest.mark.parametrize("keep", [0, 3, 60])
def test_truncated_chunks(folder: Path, layout: str, keep: int) -> None:
    path = first_chunk(folder, layout)
    path.write_bytes(path.read_bytes()[:keep])
    with ZarrStore(str(folder)) as store, pytest.raises(CorruptDataError):
        decoded(store.root.array(layout))


def test_missing_chunks(folder: Path) -> None:
    for layout in ("plain", "sharded"):
        first_chunk(folder, layout).unlink()
        with ZarrStore(str(folder)) as store:
            assert store.root.array(layout).refs([(0, 0, 0), (2, 2, 2)])[0] is None
    shutil.rmtree(folder / "plain" / "c")
    with ZarrStore(str(folder)) as store:
        assert store.root.array("plain").refs([(0, 0, 0), (2, 2, 2)]) == [None, None]


@pytest.fixture
def shard() -> tuple[bytes, int]:
    """A shard of three chunks, the second one missing, and the length of its index."""
    return b"".join(shard_parts([b"abc", None, b"defgh"])), 3 * 16 + 4


def test_index_of_a_shard(shard: tuple[bytes, int]) -> None:
    data, length = shard
    index = parse_index(data[-length:], len(data), first=False, url="x")
    missing = 2**64 - 1
    assert index.tolist() == [[0, 3], [missing, missing], [3, 5]]
    data = b"".join(shard_parts([b"abc", None, b"defgh"], index_first=True))
    index = parse_index(data[:length], len(data), first=True, url="x")
    assert index.tolist() == [[length, 3], [missing, missing], [length + 3, 5]]


@pytest.mark.parametrize("position", range(0, 52, 3))
def test_damaged_index(shard: tuple[bytes, int], position: int) -> None:
    data, length = shard
    index = bytearray(data[-length:])
    index[position] ^= 0x10
    with pytest.raises(CorruptDataError, match="checksum"):
        parse_index(bytes(index), len(data), first=False, url="x")


@pytest.mark.parametrize(
    "entry",
    [(0, 9), (9, 0), (8, 1), (2**64 - 1, 1), (1, 2**64 - 1), (2**63, 2**63), (60, 0)],
)
@pytest.mark.parametrize("first", [False, True])
def test_index_that_points_elsewhere(entry: tuple[int, int], first: bool) -> None:
    index = np.array([entry], "<u8").tobytes()
    index += int(google_crc32c.value(index)).to_bytes(4, "little")
    with pytest.raises(CorruptDataError, match="outside"):
        parse_index(index, 8 + len(index), first=first, url="x")


# Links and names that lead elsewhere -------------------------------------------------------------


@pytest.fixture
def outside(tmp_path: Path) -> Iterator[Path]:
    """A store next to ours that nobody gave us."""
    place = tmp_path / "outside"
    with ZarrStore(str(place), mode="w") as store:
        store.root.create_array("secret", make("float32")).write(None, 42)
    before = {path: path.read_bytes() for path in place.rglob("*") if path.is_file()}
    yield place
    assert {path: path.read_bytes() for path in place.rglob("*") if path.is_file()} == before


@pytest.mark.parametrize(
    "path", ["..", "../outside", "a/../../outside", "/etc", "//", "./plain", "plain/..", "\x00"]
)
def test_names_that_lead_elsewhere(folder: Path, outside: Path, path: str) -> None:
    with ZarrStore(str(folder), mode="r+") as store:
        for call in (store.root.array, store.root.group, store.root.remove):
            with pytest.raises(NotFoundError):
                call(path)
        with pytest.raises(InvalidInputError):
            store.root.create_group(path)
        with pytest.raises(InvalidInputError):
            store.root.create_array(path, make())


def test_links_to_other_nodes(folder: Path, outside: Path) -> None:
    (folder / "link").symlink_to(outside)
    with ZarrStore(str(folder), mode="r+") as store:
        for path in ("link", "link/secret"):
            with pytest.raises(MetadataError, match="link"):
                store.root.array(path)
        with pytest.raises(MetadataError, match="link"):
            store.root.children()
        store.root.remove("link")
        assert sorted(store.root.children()) == sorted(LAYOUTS)


@pytest.mark.parametrize("layout", ["plain", "sharded"])
@pytest.mark.parametrize("level", ["c", "c/0", "c/0/0/0"])
def test_links_to_other_chunks(folder: Path, outside: Path, layout: str, level: str) -> None:
    inside = folder / layout / level
    if inside.is_dir():
        shutil.rmtree(inside)
    else:
        inside.unlink()
    inside.symlink_to(outside / "secret" / level)
    with ZarrStore(str(folder), mode="r+") as store:
        array = store.root.array(layout)
        chunks = [b"x"] * (8 if layout == "sharded" else 1)
        for call in (
            lambda: array.refs([(0, 0, 0)]),
            array.read,
            lambda: array.write(None, 1),
            lambda: array.write_encoded((0, 0, 0), chunks),
            lambda: array.write_encoded((0, 0, 0), [None] * len(chunks)),
        ):
            with pytest.raises(MetadataError, match="link"):
                call()


def test_links_within_the_store(folder: Path, tmp_path: Path) -> None:
    path = first_chunk(folder, "plain")
    path.rename(folder / "plain" / "moved")
    path.symlink_to(folder / "plain" / "moved")
    whole = tmp_path / "link.zarr"
    whole.symlink_to(folder)
    with ZarrStore(str(whole)) as store:
        array = store.root.array("plain")
        np.testing.assert_array_equal(array.read(), random_values("float32"))
        np.testing.assert_array_equal(decoded(array), random_values("float32"))


def test_pipes_are_not_opened(folder: Path) -> None:
    path = first_chunk(folder, "plain")
    path.unlink()
    os.mkfifo(path)
    with ZarrStore(str(folder)) as store:
        array = store.root.array("plain")
        for call in (lambda: array.refs([(0, 0, 0)]), array.read):
            with pytest.raises(CorruptDataError, match="neither"):
                call()


def test_root_that_is_an_array_is_refused(folder: Path) -> None:
    with pytest.raises(UnknownFormatError, match="array"):
        ZarrStore(str(folder / "plain"))
