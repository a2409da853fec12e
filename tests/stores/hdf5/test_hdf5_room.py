"""Metadata of a new HDF5 file lie together at its beginning, where one request finds them."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from fmristore_stores.codecs.pipeline import encode
from fmristore_stores.hdf5.store import HDF5Store
from fmristore_stores.spec import ArraySpec, ChunkLayout


class Watched(io.FileIO):
    """A file that notes how far it was read."""

    furthest = 0

    def readinto(self, buffer: Any) -> int | None:
        self.furthest = max(self.furthest, self.tell() + len(buffer))
        return super().readinto(buffer)


def table(path: Path, name: str) -> tuple[list[int], int]:
    """Where the chunks of an array lie, and how far a reader must look to know that."""
    with Watched(path) as watched, h5py.File(watched, "r") as file:
        array = file[name].id
        places = [
            array.get_chunk_info(number).byte_offset for number in range(array.get_num_chunks())
        ]
        return places, watched.furthest


@pytest.mark.parametrize("raw", [False, True])
@pytest.mark.parametrize("chunks", [40, 2000])
def test_the_table_of_chunks_lies_before_the_chunks(
    tmp_path: Path, chunks: int, *, raw: bool
) -> None:
    spec = ArraySpec(
        shape=(chunks, 1000), dtype=np.dtype("i4"), layout=ChunkLayout(chunks=(1, 1000))
    )
    row = np.arange(1000, dtype="i4").reshape(1, 1000)
    with HDF5Store(str(tmp_path / "a.h5"), mode="w") as store:
        arrays = [store.root.create_array(name, spec, {"unit": "V"}) for name in ("a", "b")]
        for number in range(chunks):
            for array in arrays:
                if raw:
                    array.write_encoded((number, 0), [encode(spec.codecs, row + number)])
                else:
                    array.write((slice(number, number + 1), slice(0, 1000)), row + number)
    for name in ("a", "b"):
        places, furthest = table(tmp_path / "a.h5", name)
        assert len(places) == chunks
        assert furthest <= min(places)
    with HDF5Store(str(tmp_path / "a.h5"), mode="r") as store:
        array = store.root.array("b")
        assert (array.read()[:, 1] == np.arange(chunks) + 1).all()
    size = (tmp_path / "a.h5").stat().st_size
    assert size < 2 * chunks * (row.nbytes + 200) + 130_000


def test_room_that_nothing_is_written_behind_is_given_back(tmp_path: Path) -> None:
    spec = ArraySpec(shape=(4,), dtype=np.dtype("i4"), layout=ChunkLayout(chunks=(4,)))
    with HDF5Store(str(tmp_path / "a.h5"), mode="w") as store:
        store.root.create_array("a", spec)
    with HDF5Store(str(tmp_path / "a.h5"), mode="r") as store:
        assert list(store.root.children()) == ["a"]
