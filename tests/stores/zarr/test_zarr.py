"""Zarr stores as others see them, and what others wrote as we see it."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import tensorstore as ts
import xarray as xr
import zarr

from fmristore_stores.errors import (
    AlreadyExistsError,
    InvalidInputError,
    LayoutNotSupportedError,
    NotFoundError,
    SelectionError,
    UnknownFormatError,
)
from fmristore_stores.grid import grid_shape
from fmristore_stores.protocol import Capability, ChunkRefs, Growing, RawWrite, Store
from fmristore_stores.spec import STRING, ArraySpec, ChunkLayout, CodecSpec
from fmristore_stores.zarr.store import ZarrStore
from tests.stores.zarr.zarr_arrays import (
    DTYPES,
    LAYOUTS,
    SHAPE,
    decoded,
    encoded,
    make,
    random_values,
    reopened,
)


def read_by_tensorstore(path: Path) -> Any:
    return ts.open(
        {"driver": "zarr3", "kvstore": {"driver": "file", "path": str(path)}}, read=True
    ).result()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "store.zarr"


@pytest.fixture
def store(folder: Path) -> Iterator[ZarrStore]:
    with ZarrStore(str(folder), mode="w") as opened:
        yield opened


def test_it_is_a_store_with_raw_arrays(store: ZarrStore) -> None:
    as_store: Store = store
    array = store.root.create_array("a", make())
    as_refs: ChunkRefs = array
    as_raw: RawWrite = array
    as_growing: Growing = array
    assert as_growing.spec == make()
    assert as_refs.spec == as_raw.spec == make()
    assert as_store.capabilities == (
        Capability.WRITE
        | Capability.CHUNK_REFS
        | Capability.RAW_WRITE
        | Capability.SHARDS
        | Capability.CHUNK_ORDER
        | Capability.GROWTH
    )


# Others read ours --------------------------------------------------------------------------------


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_everybody_reads_the_same(store: ZarrStore, folder: Path, dtype: str, layout: str) -> None:
    values = random_values(dtype)
    array = store.root.create_array("a", make(dtype, layout))
    array.write(None, values)
    plain = zarr.open_array(folder / "a", mode="r")
    np.testing.assert_array_equal(plain[...], values)
    assert plain.metadata.to_dict()["dimension_names"] == ("z", "y", "x")
    np.testing.assert_array_equal(decoded(array), values)
    judge = read_by_tensorstore(folder / "a")
    np.testing.assert_array_equal(judge.read().result(), values)
    assert judge.domain.labels == ("z", "y", "x")


@pytest.mark.parametrize("layout", LAYOUTS)
def test_encoded_chunks_are_what_zarr_would_write(
    store: ZarrStore, folder: Path, layout: str
) -> None:
    values = random_values("float32")
    spec = make("float32", layout)
    array = store.root.create_array("a", spec)
    chunks = grid_shape(spec.shape, spec.layout.chunks)
    ratio = tuple(u // c for u, c in zip(spec.layout.units, spec.layout.chunks, strict=True))
    for unit in np.ndindex(*grid_shape(spec.shape, spec.layout.units)):
        inner = [
            tuple(u * r + i for u, r, i in zip(unit, ratio, part, strict=True))
            for part in np.ndindex(*ratio)
        ]
        array.write_encoded(
            unit,
            [
                encoded(spec, values, key)
                if all(k < n for k, n in zip(key, chunks, strict=True))
                else None
                for key in inner
            ],
        )
    for found in (
        array.read(),
        decoded(array),
        zarr.open_array(folder / "a", mode="r")[...],
        read_by_tensorstore(folder / "a").read().result(),
    ):
        np.testing.assert_array_equal(found, values)


def test_xarray_reads_names_and_values(store: ZarrStore, folder: Path) -> None:
    values = random_values("float32")
    store.root.create_array("a", make("float32", "both"), {"units": "mm"}).write(None, values)
    axis = ArraySpec(shape=(9,), dtype=np.dtype("f8"), dims=("z",), layout=ChunkLayout(chunks=(9,)))
    store.root.create_array("z", axis).write(None, np.arange(9))
    labels = ArraySpec(shape=(5,), dtype=STRING, dims=("x",), layout=ChunkLayout(chunks=(5,)))
    store.root.create_array("name", labels).write(None, ["a", "ü", "", "x y", "日本"])
    scalar = ArraySpec(shape=(), dtype=np.dtype("i4"), layout=ChunkLayout(chunks=()))
    store.root.create_array("count", scalar).write(None, 3)
    store.consolidate()
    with xr.open_zarr(folder, chunks=None) as dataset:
        assert dataset["a"].dims == ("z", "y", "x")
        assert dataset["a"].attrs["units"] == "mm"
        np.testing.assert_array_equal(dataset["a"].to_numpy(), values)
        assert dataset["name"].to_numpy().tolist() == ["a", "ü", "", "x y", "日本"]
        assert int(dataset["count"]) == 3
        np.testing.assert_array_equal(dataset["z"], np.arange(9.0))


def test_text(store: ZarrStore, folder: Path) -> None:
    spec = ArraySpec(
        shape=(5, 2),
        dtype=STRING,
        dims=("row", ""),
        layout=ChunkLayout(chunks=(2, 2), shards=(4, 2)),
        codecs=(CodecSpec.of("zstd", level=3, checksum=False),),
        fill_value="-",
    )
    array = store.root.create_array("a", spec)
    array.write((slice(0, 3), slice(0, 2)), [["a", "ü"], ["", "a\nb"], ["x" * 3000, "日本"]])
    expected = [["a", "ü"], ["", "a\nb"], ["x" * 3000, "日本"], ["-", "-"], ["-", "-"]]
    assert array.read().tolist() == expected
    assert array.read().dtype == STRING
    assert Capability.CHUNK_REFS not in array.capabilities
    with pytest.raises(LayoutNotSupportedError, match="zarr-python only"):
        array.refs([(0, 0)])
    again = reopened(folder, "a")
    assert again.spec == spec
    assert again.spec.fill == "-"
    plain = zarr.open_array(folder / "a", mode="r")
    assert np.asarray(plain[...]).tolist() == expected
    assert plain.metadata.to_dict()["dimension_names"] == ("row", None)


@pytest.mark.parametrize("chunks", [(3, 4), (2, 2), (1, 4)], ids=str)
def test_text_in_any_order_of_memory(store: ZarrStore, chunks: tuple[int, ...]) -> None:
    spec = ArraySpec(shape=(3, 4), dtype=STRING, layout=ChunkLayout(chunks=chunks))
    array = store.root.create_array("a", spec)
    text = np.array([[f"{row}{column}" for column in range(4)] for row in range(3)], STRING)
    for values in (np.asfortranarray(text), np.broadcast_to(text[:, :1], (3, 4)), text[::-1, ::-1]):
        array.write(None, values)
        assert array.read().tolist() == values.tolist()


def test_metadata_are_core_zarr(store: ZarrStore, folder: Path) -> None:
    store.root.create_array("a", make("int16", "both"), {"n": None})
    document = json.loads((folder / "a" / "zarr.json").read_text())
    assert document["zarr_format"] == 3
    assert document["dimension_names"] == ["z", "y", "x"]
    assert document["chunk_key_encoding"]["configuration"]["separator"] == "/"
    (sharding,) = document["codecs"]
    inner = sharding["configuration"]
    assert [step["name"] for step in inner["codecs"]] == ["transpose", "bytes", "blosc"]
    assert inner["codecs"][1]["configuration"]["endian"] == "little"
    assert [step["name"] for step in inner["index_codecs"]] == ["bytes", "crc32c"]
    assert inner["index_location"] == "end"
    assert document["attributes"] == {"n": None}


def test_names_of_axes_are_left_out_where_there_are_none(store: ZarrStore, folder: Path) -> None:
    store.root.create_array("a", make(dims=()))
    assert "dimension_names" not in json.loads((folder / "a" / "zarr.json").read_text())
    assert reopened(folder, "a").spec.dims == ("", "", "")


@pytest.mark.parametrize("again", [False, True], ids=["new", "opened"])
@pytest.mark.parametrize("layout", ["plain", "sharded"])
def test_chunks_of_fill_value_are_stored(folder: Path, again: bool, layout: str) -> None:
    spec = make(layout=layout)
    with ZarrStore(str(folder), mode="w") as store:
        array = store.root.create_array("a", spec)
        if not again:
            array.write(None, 0)
    if again:
        with ZarrStore(str(folder), mode="r+") as store:
            store.root.array("a").write(None, 0)
    array = reopened(folder, "a")
    keys = list(np.ndindex(*grid_shape(spec.shape, spec.layout.chunks)))
    assert None not in array.refs(keys)


@pytest.mark.parametrize(
    "fill",
    [np.nan, np.inf, -np.inf, 1.5, complex(1, np.nan), complex(-np.inf, 2)],
    ids=str,
)
def test_fill_values(store: ZarrStore, folder: Path, fill: Any) -> None:
    dtype = "complex128" if isinstance(fill, complex) else "float64"
    store.root.create_array("a", make(dtype, fill_value=fill))
    array = reopened(folder, "a")
    for found in (array.spec.fill, array.read()[0, 0, 0], decoded(array)[0, 0, 0]):
        np.testing.assert_array_equal(found, np.dtype(dtype).type(fill))


def test_refused_layouts(store: ZarrStore) -> None:
    for shape, chunks in (((4,), (5,)), ((0,), (2,)), ((2**62,), (1,))):
        spec = ArraySpec(shape=shape, dtype=np.dtype("i2"), layout=ChunkLayout(chunks=chunks))
        with pytest.raises(LayoutNotSupportedError):
            store.root.create_array("a", spec)
    turned = ChunkLayout(chunks=(2, 2), order=(1, 0))
    with pytest.raises(LayoutNotSupportedError, match="text"):
        store.root.create_array("a", ArraySpec(shape=(2, 2), dtype=STRING, layout=turned))
    with pytest.raises(InvalidInputError, match="fill value"):
        store.root.create_array("a", make("uint8", fill_value=-1))
    assert store.root.children() == {}


# Stores and references ---------------------------------------------------------------------------


def test_references_that_do_not_exist(store: ZarrStore) -> None:
    for layout in ("plain", "sharded"):
        array = store.root.create_array(layout, make(layout=layout))
        assert array.refs([(0, 0, 0), (2, 2, 2)]) == [None, None]
        assert array.refs([]) == []
        for key in ((0, 0), (3, 0, 0), (-1, 0, 0), (0, 0, 0, 0)):
            with pytest.raises(SelectionError):
                array.refs([key])
            with pytest.raises(SelectionError):
                array.write_encoded(key, [b""])
        with pytest.raises(InvalidInputError, match="encoded chunks"):
            array.write_encoded((0, 0, 0), [b""] * 3)


def test_units_without_chunks_are_removed(store: ZarrStore, folder: Path) -> None:
    for layout, count in (("plain", 1), ("sharded", 8)):
        array = store.root.create_array(layout, make(layout=layout))
        array.write(None, 1)
        assert array.refs([(0, 0, 0)]) != [None]
        array.write_encoded((0, 0, 0), [None] * count)
        assert array.refs([(0, 0, 0)]) == [None]
        assert not (folder / layout / "c/0/0/0").exists()
        assert array.read()[0, 0, 0] == 0
        array.write_encoded((0, 0, 0), [None] * count)


def test_references_follow_what_is_written(store: ZarrStore) -> None:
    spec = make("int32", "sharded")
    array = store.root.create_array("a", spec)
    for number in range(3):
        values = np.full(SHAPE, number, "i4")
        array.write(None, values)
        np.testing.assert_array_equal(decoded(array), values)
    array.write_encoded((0, 0, 0), [None, encoded(spec, values + 9, (0, 0, 1)), *[None] * 6])
    values[:8, :8, :4] = 0
    values[:4, :4, 2:4] = 11
    np.testing.assert_array_equal(decoded(array), values)
    np.testing.assert_array_equal(array.read(), values)


def test_no_partial_files_remain(store: ZarrStore, folder: Path) -> None:
    array = store.root.create_array("a", make())
    array.write_encoded((0, 0, 0), [encoded(array.spec, random_values("int16"), (0, 0, 0))])
    names = {path.name for path in (folder / "a").rglob("*") if path.is_file()}
    assert names == {"zarr.json", "0"}


def test_handles_share_what_is_known(store: ZarrStore) -> None:
    first, second = store.root.create_group("g"), store.root.group("g")
    first.write_attributes({"a": 1})
    assert second.read_attributes() == {"a": 1}
    store.root.remove("g")
    with pytest.raises(NotFoundError):
        first.read_attributes()
    with pytest.raises(NotFoundError):
        first.create_group("orphan")


def test_new_stores_go_where_there_is_none(folder: Path) -> None:
    with ZarrStore(str(folder), mode="w"):
        pass
    with pytest.raises(AlreadyExistsError):
        ZarrStore(str(folder), mode="w")
    folder.with_name("file").write_text("x")
    with pytest.raises(AlreadyExistsError):
        ZarrStore(str(folder.with_name("file")), mode="w")
    with pytest.raises(InvalidInputError, match="mode"):
        ZarrStore(str(folder), mode=cast(Any, "a"))


@pytest.mark.parametrize("mode", ["r", "r+"])
def test_what_is_no_store(tmp_path: Path, mode: Any) -> None:
    with pytest.raises(NotFoundError):
        ZarrStore(str(tmp_path / "nothing"), mode=mode)
    assert not (tmp_path / "nothing").exists()
    (tmp_path / "file").write_text("x")
    with pytest.raises(UnknownFormatError, match="directory"):
        ZarrStore(str(tmp_path / "file"), mode=mode)
    (tmp_path / "empty").mkdir()
    with pytest.raises(UnknownFormatError, match=r"zarr\.json"):
        ZarrStore(str(tmp_path / "empty"), mode=mode)
    for version in (2, 3):
        place = tmp_path / f"array{version}"
        zarr.create_array(place, shape=(3,), dtype="i2", zarr_format=cast(Any, version))
        with pytest.raises(UnknownFormatError, match=str(place)):
            ZarrStore(str(place), mode=mode)


# Consolidated metadata ---------------------------------------------------------------------------


def has_consolidated(folder: Path) -> bool:
    document = json.loads((folder / "zarr.json").read_text())
    return document.get("consolidated_metadata") is not None


CHANGES: dict[str, Any] = {
    "create_group": lambda root: root.create_group("new"),
    "create_array": lambda root: root.create_array("new", make()),
    "attributes": lambda root: root.group("g").write_attributes({"b": 2}),
    "root attributes": lambda root: root.write_attributes({"b": 2}),
    "remove": lambda root: root.remove("g"),
}


@pytest.mark.parametrize("again", [False, True], ids=["same session", "reopened"])
@pytest.mark.parametrize("change", CHANGES)
def test_changes_drop_consolidated_metadata(folder: Path, change: str, again: bool) -> None:
    store = ZarrStore(str(folder), mode="w")
    store.root.create_group("g").create_group("h")
    store.root.write_attributes({"kept": True})
    store.consolidate()
    assert has_consolidated(folder)
    members = zarr.open_consolidated(folder).members(max_depth=None)
    assert [name for name, _ in members] == ["g", "g/h"]
    if again:
        store.close()
        store = ZarrStore(str(folder), mode="r+")
        assert list(store.root.children()) == ["g"]
        assert has_consolidated(folder)
    CHANGES[change](store.root)
    assert not has_consolidated(folder)
    if change != "root attributes":
        assert store.root.read_attributes() == {"kept": True}
    store.consolidate()
    assert has_consolidated(folder)
    children = list(store.root.children())
    assert sorted(dict(zarr.open_consolidated(folder).members())) == children


def test_stale_consolidated_metadata_do_not_matter(folder: Path) -> None:
    with ZarrStore(str(folder), mode="w") as store:
        store.root.create_group("g")
        store.consolidate()
    zarr.create_group(folder, path="g/late")
    with ZarrStore(str(folder)) as store:
        assert list(store.root.group("g").children()) == ["late"]


def test_every_combination_of_partial_writes(store: ZarrStore) -> None:
    for layout, region in itertools.product(
        LAYOUTS,
        [
            (slice(1, 9, 3), slice(0, 10, 2), slice(4, 5, 1)),
            (slice(3, 4), slice(2, 9, 7), slice(0, 5)),
            (slice(0, 0), slice(0, 10), slice(0, 5)),
        ],
    ):
        expected = random_values("int16")
        name = f"{layout}{region[0].start}"
        array = store.root.create_array(name, make(layout=layout))
        array.write(None, expected)
        shape = expected[region].shape
        values = np.arange(shape[-1])
        array.write(region, values)
        expected[region] = values
        np.testing.assert_array_equal(array.read(), expected)
        out = np.empty(shape, "i2")
        assert array.read(region, out=out) is out
        np.testing.assert_array_equal(out, expected[region])
