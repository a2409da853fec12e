"""A value that changed is seen in every array of every format, in both containers."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import zarr

import fmristore as fs
from fmristore.model.digest import BLOCKS, TEXTS, ArrayDigest, digest_array, digest_values
from fmristore.transcoding.tree import walk
from fmristore_stores.chunks.reader import ChunkReader
from fmristore_stores.errors import CorruptDataError, InvalidInputError, MetadataError
from fmristore_stores.grid import chunk_region, grid_shape
from fmristore_stores.opening import open_store
from fmristore_stores.publishing.publish import create_store
from fmristore_stores.spec import ArraySpec, ChunkLayout
from tests.every_format import LABELS, R_WRITERS, RUN, SPACE, WRITERS


def _saved(url: Path) -> Any:
    with WRITERS["latentneurovec"](url.with_name("source.h5")) as source:
        return source.save(url)


def _transcoded(url: Path) -> Any:
    other = "zarr" if url.suffix == ".h5" else "h5"
    source = url.with_name(f"source.{other}")
    WRITERS["parcellatedmultiscan"](source).close()
    fs.transcode(source, url, codec="none")
    return fs.open(url)


def _appended(url: Path) -> Any:
    maps = WRITERS["labeledvolumeset"](url)
    maps.add("third", RUN[..., 2] / 4)
    return maps


CHANGED: dict[str, Callable[[Path], Any]] = {
    "saved": _saved,
    "transcoded": _transcoded,
    "appended": _appended,
}
MADE = {**WRITERS, **R_WRITERS, **CHANGED}
STORES = [
    *((name, suffix) for name in (*WRITERS, *CHANGED) for suffix in ("h5", "zarr")),
    *((name, "h5") for name in R_WRITERS),
]


@contextlib.contextmanager
def _other_value(path: Path, array: str) -> Iterator[None]:
    """One value of an array is another one, written by the library that the store is for."""
    with contextlib.ExitStack() as stack:
        if path.suffix == ".h5":
            node: Any = stack.enter_context(h5py.File(path, "r+"))[array]
            texts = h5py.check_string_dtype(node.dtype) is not None
        else:
            node = zarr.open_group(path, mode="r+", use_consolidated=False)[array]
            texts = node.dtype.kind in "TUO"
        values = np.asarray(node.asstr()[()] if texts and path.suffix == ".h5" else node[()])
        right = values.reshape(-1)[-1]
        node[()] = _with_last(values, f"{right}x" if texts else _flipped(right))
    yield
    with contextlib.ExitStack() as stack:
        if path.suffix == ".h5":
            node = stack.enter_context(h5py.File(path, "r+"))[array]
        else:
            node = zarr.open_group(path, mode="r+", use_consolidated=False)[array]
        node[()] = _with_last(values, right)


def _flipped(value: Any) -> Any:
    """The value with its lowest bit flipped."""
    raw = np.array([value]).view(np.uint8)
    raw[0] ^= 1
    return raw.view(np.asarray(value).dtype)[0]


def _with_last(values: Any, last: Any) -> Any:
    changed = values.astype(object) if values.dtype.kind in "TUO" else values.copy()
    changed[np.unravel_index(changed.size - 1, changed.shape) if changed.shape else ()] = last
    return changed


@pytest.mark.once
@pytest.mark.parametrize(("name", "suffix"), STORES, ids=lambda given: str(given).replace(" ", "-"))
def test_every_array_is_covered(tmp_path: Path, name: str, suffix: str) -> None:
    path = tmp_path / f"a.{suffix}"
    with MADE[name](path) as stored:
        primary = {array.path for array in stored.primary_arrays}
    with open_store(path) as store:
        arrays = [array for array in walk(store.root).arrays if not array.startswith("header/")]
    assert primary <= set(arrays)
    assert fs.verify(path, deep=True).ok
    for array in arrays:
        with _other_value(path, array):
            report = fs.verify(path, deep=True)
            assert (array, "digest") in {(item.node, item.kind) for item in report.problems}
    report = fs.verify(path, deep=True)
    assert report.ok
    assert not [note for note in report.notes if note.kind == "no-digest"]


@pytest.mark.parametrize("suffix", ["h5", "zarr"])
def test_a_digest_may_be_missing(tmp_path: Path, suffix: str) -> None:
    """As in the stores of earlier versions: they open, and it is said."""
    path = tmp_path / f"a.{suffix}"
    WRITERS["maskedneurovec"](path).close()
    with open_store(path, "r+") as store:
        array = store.root.array("0")
        words = array.read_attributes()
        array.write_attributes({name: words[name] for name in words if name != "digest"})
    with fs.open(path) as run:
        assert run.shape == RUN.shape
    report = fs.verify(path, deep=True)
    assert report.ok
    assert ("no-digest", "0") in {(note.kind, note.node) for note in report.notes}


def test_what_changed_does_not_get_a_new_digest(tmp_path: Path) -> None:
    """Adding a map copies the others; one that is damaged is not made right by that."""
    path = tmp_path / "a.h5"
    WRITERS["labeledvolumeset"](path).close()
    with _other_value(path, "0"):
        before = path.read_bytes()
        with fs.open(path) as maps, pytest.raises(CorruptDataError, match="digest"):
            maps.add("third", RUN[..., 2] / 4)
        assert path.read_bytes() == before


def test_a_scan_that_is_added_has_digests(tmp_path: Path) -> None:
    path = tmp_path / "a.zarr"
    with fs.ParcellatedMultiScan.create({}, path, parcellation=LABELS, space=SPACE) as scans:
        scans.add_scan("rest", RUN)
        with _other_value(path, "scans/rest/0"):
            assert not fs.verify(path, deep=True)


@pytest.mark.parametrize("suffix", ["h5", "zarr"])
def test_by_the_book(tmp_path: Path, suffix: str) -> None:
    """Blocks are hashed in order of the grid; the digest says how large they are."""
    values = np.arange(35, dtype="i2").reshape(5, 7)
    layout = ChunkLayout(chunks=(2, 3))
    spec = ArraySpec(shape=(5, 7), dtype=values.dtype, dims=("voxel", "t"), layout=layout)
    recorded = digest_values(values, spec)
    assert recorded.startswith(BLOCKS + "2x3:")
    shuffled = ArrayDigest(spec)
    for key in reversed(list(np.ndindex(*grid_shape((5, 7), (2, 3))))):
        shuffled.update(key, values[chunk_region(key, (5, 7), (2, 3))])
    assert shuffled.text() == recorded
    other = ArraySpec(
        shape=(5, 7), dtype=values.dtype, dims=("voxel", "t"), layout=ChunkLayout(chunks=(5, 2))
    )
    with create_store(tmp_path / f"a.{suffix}") as store:
        store.root.create_array("0", other).write(None, values)
    with open_store(tmp_path / f"a.{suffix}") as store:
        reader = ChunkReader(store.root.array("0"))
        for memory in (1 << 20, 24):
            assert digest_array(reader, recorded, max_memory=memory) == recorded
        for wrong in (f"{BLOCKS}2:{'0' * 64}", f"{BLOCKS}0x1:{'0' * 64}", f"{TEXTS}00", "md5:0"):
            with pytest.raises(MetadataError):
                digest_array(reader, wrong, max_memory=1 << 20)


def test_all_blocks_must_have_come() -> None:
    layout = ChunkLayout(chunks=(2,))
    digest = ArrayDigest(ArraySpec(shape=(5,), dtype=np.dtype("i2"), layout=layout))
    digest.update((0,), np.zeros(2, "i2"))
    with pytest.raises(InvalidInputError, match="2 of 3 blocks"):
        digest.text()


def test_too_many_blocks_are_refused(tmp_path: Path) -> None:
    """A digest is text of the file: it must not ask for endless work."""
    shape = (1 << 12, 1 << 11)
    layout = ChunkLayout(chunks=shape)
    spec = ArraySpec(shape=shape, dtype=np.dtype("u1"), layout=layout)
    assert math.prod(shape) > 1 << 22
    with create_store(tmp_path / "a.h5") as store:
        words = {"digest": f"{BLOCKS}1x1:{'0' * 64}"}
        store.root.create_array("0", spec, words).write(None, np.zeros(shape, "u1"))
    report = fs.verify(tmp_path / "a.h5", deep=True)
    assert [problem.kind for problem in report.problems] == ["digest"]
