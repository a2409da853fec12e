"""Zarr arrays that zarr-python refuses, or reads alone: the rest of their store stays usable."""

from __future__ import annotations

import json
import uuid
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pytest
import zarr
import zarr.registry
from zarr.codecs import Crc32cCodec
from zarr.codecs.numcodecs import BZ2, LZ4, LZMA

import fmristore as fs
from fmristore.cli.describe import describe_store
from fmristore_stores.chunks.reader import ChunkReader
from fmristore_stores.errors import (
    CodecError,
    LayoutNotSupportedError,
    LossyError,
    MetadataError,
)
from fmristore_stores.opening import open_store
from fmristore_stores.zarr.store import ZarrStore

NUMBERS = np.arange(12, dtype="i2").reshape(3, 4)
BYTES = {"name": "bytes", "configuration": {"endian": "little"}}
GRID = {"name": "rectilinear", "configuration": {"kind": "inline", "chunk_shapes": [[3], [4]]}}
STRUCT = {"name": "struct", "configuration": {"fields": [{"name": "a", "data_type": "int32"}]}}
LAYOUT, CODEC = LayoutNotSupportedError, CodecError
REFUSED: dict[str, tuple[dict[str, Any], type[Exception], str]] = {
    "grid": ({"chunk_grid": GRID}, LAYOUT, "'rectilinear' is not regular"),
    "codec": ({"codecs": [BYTES, {"name": "squeeze"}]}, CODEC, "squeeze"),
    "package": ({"codecs": [BYTES, {"name": "needs_a_package"}]}, CODEC, "needs_a_package"),
    "name of a codec": ({"codecs": [BYTES, "squeeze"]}, LAYOUT, "a name alone"),
    "dtype": ({"data_type": "bfloat16"}, LAYOUT, "'bfloat16'"),
    "struct": ({"data_type": STRUCT, "fill_value": "AAAAAA=="}, LAYOUT, r"struct|dtype \["),
    "transformer": ({"storage_transformers": [{"name": "x"}]}, LAYOUT, "storage transformers"),
    "field": ({"more": {"must_understand": True}}, LAYOUT, "'more'"),
}


def write(folder: Path, name: str, *, consolidated: bool) -> None:
    """Write a store of which zarr-python refuses an array."""
    root = zarr.create_group(folder, zarr_format=3)
    root.create_group("g")
    for path in ("a", "g/refused"):
        root.create_array(path, data=NUMBERS, chunks=(3, 4))
    place = folder / "g" / "refused" / "zarr.json"
    document = json.loads(place.read_text()) | REFUSED[name][0]
    place.write_text(json.dumps(document))
    if consolidated:
        nodes = {p: json.loads((folder / p / "zarr.json").read_text()) for p in ("a", "g")}
        nodes["g/refused"] = document
        top = json.loads((folder / "zarr.json").read_text())
        copies = {"kind": "inline", "must_understand": False, "metadata": nodes}
        (folder / "zarr.json").write_text(json.dumps(top | {"consolidated_metadata": copies}))


@pytest.mark.parametrize("consolidated", [False, True])
@pytest.mark.parametrize("remote", [False, True])
@pytest.mark.parametrize("name", REFUSED)
def test_the_others_are_read(
    tmp_path: Path, name: str, *, remote: bool, consolidated: bool
) -> None:
    url = str(tmp_path / "a.zarr")
    write(tmp_path / "a.zarr", name, consolidated=consolidated)
    if remote:
        url = f"memory://{uuid.uuid4().hex}/a.zarr"
        fsspec.filesystem("memory").put(str(tmp_path / "a.zarr"), url, recursive=True)
    _, error, text = REFUSED[name]
    with open_store(url) as store:
        for tolerant in (False, True):
            root, group = store.root, store.root.group("g")
            assert [c.kind for c in root.children(tolerant=tolerant).values()] == ["array", "group"]
            assert [*group.children(tolerant=tolerant)] == ["refused"]
        np.testing.assert_array_equal(store.root.array("a").read(), NUMBERS)
        with pytest.raises(error, match=text) as refused:
            store.root.array("g/refused")
    assert "g/refused" in str(refused.value)
    report = fs.verify(url)
    assert report.ok
    assert [note.node for note in report.notes] == ["g/refused"]
    facts = describe_store(url, {})
    assert [item["path"] for item in facts["unreadable"]] == ["g/refused"]
    target = tmp_path / "a.h5"
    with pytest.raises(LossyError, match="g/refused"):
        fs.transcode(url, target)
    fs.transcode(url, target, allow=["array"])
    with open_store(target) as store:
        np.testing.assert_array_equal(store.root.array("a").read(), NUMBERS)
        assert store.root.group("g").children() == {}


def test_a_listing_that_fails_names_the_node(tmp_path: Path) -> None:
    write(tmp_path / "a.zarr", "dtype", consolidated=False)
    (tmp_path / "a.zarr" / "g" / "refused" / "zarr.json").write_text("{")
    with ZarrStore(str(tmp_path / "a.zarr")) as store:
        with pytest.raises(MetadataError, match="g/refused"):
            store.root.group("g").children()
        children = store.root.group("g").children(tolerant=True)
    assert children["refused"].kind == "unreadable"


def test_an_array_of_format_2_that_is_refused(tmp_path: Path) -> None:
    root = zarr.create_group(tmp_path / "a.zarr", zarr_format=2)
    for path in ("a", "refused"):
        root.create_array(path, data=NUMBERS, chunks=(3, 4))
    place = tmp_path / "a.zarr" / "refused" / ".zarray"
    place.write_text(json.dumps(json.loads(place.read_text()) | {"compressor": {"id": "squeeze"}}))
    with ZarrStore(str(tmp_path / "a.zarr")) as store:
        assert [c.kind for c in store.root.children().values()] == ["array", "array"]
        np.testing.assert_array_equal(store.root.array("a").read(), NUMBERS)


class NeedsAPackage(Crc32cCodec):
    """A codec whose package is missing."""

    @classmethod
    def from_dict(cls, data: Any) -> Any:
        raise ImportError("needs_a_package needs the package squeezers")


def test_a_codec_whose_package_is_missing(tmp_path: Path) -> None:
    zarr.registry.register_codec("needs_a_package", NeedsAPackage)
    write(tmp_path / "a.zarr", "package", consolidated=False)
    with ZarrStore(str(tmp_path / "a.zarr")) as store:
        with pytest.raises(CodecError, match="squeezers"):
            store.root.array("g/refused")
        assert [*store.root.group("g").children()] == ["refused"]


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("codec", [LZ4, BZ2, LZMA])
def test_codecs_that_zarr_alone_knows(tmp_path: Path, codec: type[Any]) -> None:
    root = zarr.create_group(tmp_path / "a.zarr", zarr_format=3)
    root.create_array("a", data=NUMBERS, chunks=(2, 2), compressors=codec())
    with open_store(tmp_path / "a.zarr") as store:
        array = store.root.array("a")
        np.testing.assert_array_equal(array.read(), NUMBERS)
        np.testing.assert_array_equal(ChunkReader(array).read(), NUMBERS)
    assert fs.verify(tmp_path / "a.zarr", deep=True).ok
    for target in ("b.h5", "b.zarr"):
        fs.transcode(tmp_path / "a.zarr", tmp_path / target)
        with open_store(tmp_path / target) as store:
            np.testing.assert_array_equal(ChunkReader(store.root.array("a")).read(), NUMBERS)
