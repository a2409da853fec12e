"""Zarr arrays that other software wrote, or could have written."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
import zarr

from fmristore_stores.codecs import pipeline as codecs
from fmristore_stores.errors import (
    MetadataError,
    NotFoundError,
    ReadOnlyError,
    UnknownFormatError,
)
from fmristore_stores.protocol import Capability
from fmristore_stores.spec import STRING, ArraySpec, ChunkLayout
from fmristore_stores.zarr.store import ZarrStore
from tests.stores.zarr.zarr_arrays import (
    SHAPE,
    decoded,
    encoded,
    make,
    random_values,
    reopened,
)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "store.zarr"


BLOSC = {
    "name": "blosc",
    "configuration": {
        "cname": "lz4",
        "clevel": 3,
        "shuffle": "shuffle",
        "typesize": 4,
        "blocksize": 0,
    },
}
PIPELINES: dict[str, Any] = {
    "default": "auto",
    "none": None,
    "gzip": [{"name": "gzip", "configuration": {"level": 5}}],
    "zstd": [{"name": "zstd", "configuration": {"level": 3, "checksum": True}}],
    "blosc": [BLOSC],
    "crc32c": [{"name": "crc32c"}],
    "blosc and crc32c": [BLOSC, {"name": "crc32c"}],
}


@pytest.mark.parametrize("shards", [None, (8, 8, 4)], ids=["chunks", "shards"])
@pytest.mark.parametrize("pipeline", PIPELINES)
def test_references_of_foreign_arrays(
    folder: Path, pipeline: str, shards: tuple[int, ...] | None
) -> None:
    root = zarr.create_group(folder, zarr_format=3)
    values = random_values("float32")
    foreign = root.create_array(
        "a",
        shape=SHAPE,
        chunks=(4, 4, 2),
        shards=shards,
        dtype="float32",
        compressors=PIPELINES[pipeline],
        fill_value=np.nan,
    )
    foreign[:8] = values[:8]
    array = reopened(folder, "a")
    assert codecs.supported(array.spec.codecs)
    assert array.spec.layout == ChunkLayout(chunks=(4, 4, 2), shards=shards)
    values[8:] = np.nan
    np.testing.assert_array_equal(decoded(array), values)
    np.testing.assert_array_equal(array.read(), values)


@pytest.mark.parametrize(
    "keys",
    [
        {"name": "default", "separator": "/"},
        {"name": "default", "separator": "."},
        {"name": "v2", "separator": "/"},
        {"name": "v2", "separator": "."},
    ],
    ids=str,
)
@pytest.mark.parametrize("shape", [SHAPE, ()], ids=str)
def test_key_encodings(folder: Path, keys: Any, shape: tuple[int, ...]) -> None:
    root = zarr.create_group(folder, zarr_format=3)
    values = random_values("int16", shape)
    foreign = root.create_array(
        "a", shape=shape, chunks=(4, 4, 2)[: len(shape)], dtype="int16", chunk_key_encoding=keys
    )
    foreign[...] = values
    np.testing.assert_array_equal(decoded(reopened(folder, "a")), values)


def test_index_at_the_start_of_a_shard(folder: Path) -> None:
    values = random_values("int16")
    with ZarrStore(str(folder), mode="w") as store:
        store.root.create_array("a", make(layout="both"))
    path = folder / "a" / "zarr.json"
    document = json.loads(path.read_text())
    document["codecs"][0]["configuration"]["index_location"] = "start"
    path.write_text(json.dumps(document))
    zarr.open_array(folder / "a", mode="r+")[...] = values
    np.testing.assert_array_equal(decoded(reopened(folder, "a")), values)
    with ZarrStore(str(folder), mode="r+") as store:
        array = store.root.array("a")
        shard = [encoded(array.spec, values + 1, key) for key in np.ndindex(2, 2, 2)]
        array.write_encoded((0, 0, 0), shard)
        values[:8, :8, :4] += 1
        np.testing.assert_array_equal(array.read(), values)
        np.testing.assert_array_equal(decoded(array), values)


LITTLE = {"name": "bytes", "configuration": {"endian": "little"}}
CRC32C = {"name": "crc32c"}


def transpose(*order: int) -> dict[str, Any]:
    return {"name": "transpose", "configuration": {"order": list(order)}}


def sharding(length: int, codecs: list[Any], index_codecs: list[Any]) -> dict[str, Any]:
    configuration = {
        "chunk_shape": [length] * 3,
        "codecs": codecs,
        "index_codecs": index_codecs,
    }
    return {"name": "sharding_indexed", "configuration": configuration}


FOREIGN: dict[str, list[Any]] = {
    "big endian": [{"name": "bytes", "configuration": {"endian": "big"}}],
    "two transposes": [transpose(2, 1, 0), transpose(1, 0, 2), LITTLE],
    "index without checksum": [sharding(4, [LITTLE], [LITTLE])],
    "around shards": [
        sharding(4, [LITTLE], [LITTLE, CRC32C]),
        {"name": "gzip", "configuration": {"level": 1}},
    ],
    "nested shards": [sharding(4, [sharding(2, [LITTLE], [LITTLE])], [LITTLE, CRC32C])],
}


@pytest.mark.filterwarnings("ignore:Combining a `sharding_indexed`")
@pytest.mark.parametrize("document", FOREIGN.values(), ids=FOREIGN.keys())
def test_what_only_zarr_python_reads(folder: Path, document: list[Any]) -> None:
    values = random_values("int16", (8, 8, 8))
    with ZarrStore(str(folder), mode="w") as store:
        spec = ArraySpec(
            shape=(8, 8, 8), dtype=np.dtype("i2"), layout=ChunkLayout(chunks=(8, 8, 8))
        )
        store.root.create_array("a", spec)
    path = folder / "a" / "zarr.json"
    metadata = json.loads(path.read_text())
    path.write_text(json.dumps(metadata | {"codecs": document}))
    zarr.open_array(folder / "a", mode="r+")[...] = values
    array = reopened(folder, "a")
    assert array.spec.dtype == np.dtype("<i2")
    assert Capability.CHUNK_REFS not in array.capabilities
    found = array.read()
    assert found.dtype == np.dtype("<i2")
    np.testing.assert_array_equal(found, values)


@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("dtype", ["<i2", ">f4", "|b1", "<c8"])
def test_format_2_is_read(folder: Path, dtype: str, order: Any) -> None:
    values = random_values(np.dtype(dtype).name)
    root = zarr.create_group(folder, zarr_format=2, attributes={"a": 1})
    inner = root.create_group("g")
    foreign = inner.create_array("a", shape=SHAPE, chunks=(4, 4, 2), dtype=dtype, order=order)
    foreign[...] = values
    foreign.attrs["_ARRAY_DIMENSIONS"] = ["z", "y", "x"]
    with ZarrStore(str(folder)) as store:
        assert store.root.read_attributes() == {"a": 1}
        assert list(store.root.group("g").children()) == ["a"]
        array = store.root.array("g/a")
        assert array.spec.layout.axes == ((0, 1, 2) if order == "C" else (2, 1, 0))
        assert array.spec.dims == ("z", "y", "x")
        assert array.spec.dtype.byteorder in "=|<"
        assert Capability.CHUNK_REFS not in array.capabilities
        np.testing.assert_array_equal(array.read(), values)
        with pytest.raises(NotFoundError):
            store.root.array("g")
    with pytest.raises(ReadOnlyError, match="format 2"):
        ZarrStore(str(folder), mode="r+")


@pytest.mark.parametrize("version", [2, 3])
def test_an_array_at_the_root_is_named(tmp_path: Path, version: Literal[2, 3]) -> None:
    zarr.create_array(tmp_path / "a.zarr", shape=(2,), dtype="i2", zarr_format=version)
    wanted = "a Zarr array of format 2; a store" if version == 2 else "a Zarr array; a store"
    with pytest.raises(UnknownFormatError, match=wanted):
        ZarrStore(str(tmp_path / "a.zarr"))


@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::UserWarning")
@pytest.mark.parametrize("dtype", ["U4", "S4"])
@pytest.mark.parametrize("version", [2, 3])
def test_foreign_text(folder: Path, dtype: str, version: Any) -> None:
    root = zarr.create_group(folder, zarr_format=version)
    text = np.array(["a", "bc", ""], dtype)
    root.create_array("a", shape=(3,), chunks=(2,), dtype=dtype)[:] = text
    array = reopened(folder, "a")
    assert array.spec.dtype == STRING
    assert array.read().tolist() == ["a", "bc", ""]
    assert array.read().dtype == STRING


def test_chunks_longer_than_the_axis_are_read(folder: Path) -> None:
    root = zarr.create_group(folder, zarr_format=3)
    root.create_array("a", shape=(3, 0), chunks=(8, 4), dtype="int16")
    root.create_array("b", shape=(3,), chunks=(8,), dtype="int16")[:] = [1, 2, 3]
    assert reopened(folder, "a").read().shape == (3, 0)
    np.testing.assert_array_equal(decoded(reopened(folder, "b")), [1, 2, 3])


@pytest.mark.parametrize("node", ["", "a"])
def test_an_attribute_that_is_nested_too_deep(folder: Path, node: str) -> None:
    """It is refused where it is asked for, as in what zarr-python parses; the others are there."""
    with ZarrStore(str(folder), mode="w") as store:
        store.root.create_group("a")
    path = folder / node / "zarr.json"
    deep = "[" * 200 + "]" * 200
    path.write_text(
        f'{{"zarr_format": 3, "node_type": "group", "attributes": {{"x": 1, "y": {deep}}}}}'
    )
    with ZarrStore(str(folder)) as store:
        group = store.root.group("a") if node else store.root
        view = group.view_attributes()
        assert (view["x"], view.get("z")) == (1, None)
        for ask in (lambda: view["y"], lambda: view.get("y"), group.read_attributes):
            with pytest.raises(MetadataError, match="'y'") as caught:
                ask()
            assert str(folder) in str(caught.value)
