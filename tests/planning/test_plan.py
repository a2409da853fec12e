"""What a plan says is what a cold read does: chunks, requests and bytes, in every store."""

from __future__ import annotations

import math
import uuid
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import fsspec
import h5py
import numpy as np
import pytest

import fmristore as fs
from fmristore_stores.errors import ClosedError
from fmristore_stores.io import sources
from fmristore_stores.protocol import Buffer, ByteRange
from fmristore_stores.testing.wrappers import CountingStore
from tests.images import LAYOUTS, make_values, store

SHAPE = (24, 20, 18, 60)
"""Large enough for many chunks in every layout."""

INDICES: dict[str, Any] = {
    "voxel": (10, 11, 12),
    "one number": (10, 11, 12, 30),
    "region": (slice(4, 12), slice(5, 9), slice(6, 14)),
    "volume": (Ellipsis, 30),
    "ten volumes": (Ellipsis, slice(20, 30)),
    "strided": (slice(None, None, 5), slice(2, None, 7), slice(None, None, -4), slice(3, 50, 9)),
    "plane": (slice(None), 3),
    "whole run": Ellipsis,
    "nothing": (slice(3, 3),),
}

PLACES = ("h5", "zarr", "sharded", "memory h5", "memory zarr")


@dataclass
class Fetched:
    """Byte ranges that were fetched from files or objects."""

    ranges: list[ByteRange] = field(default_factory=list)


@pytest.fixture
def fetched(monkeypatch: pytest.MonkeyPatch) -> Fetched:
    """Everything that any source fetches from here on, shard indices too."""
    log = Fetched()
    for kind in (sources.LocalSource, sources.FsspecSource):
        plainly = kind.fetch

        def fetch(
            self: Any, ranges: list[ByteRange], into: Any = (), *, plainly: Any = plainly
        ) -> list[Buffer]:
            log.ranges.extend(ranges)
            found: list[Buffer] = plainly(self, ranges, into)
            return found

        monkeypatch.setattr(kind, "fetch", fetch)
    return log


@pytest.fixture(scope="module")
def urls(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[tuple[str, str], str]]:
    """A run in small chunks, by place and access pattern."""
    folder = tmp_path_factory.mktemp("plans")
    bucket = f"memory://plans-{uuid.uuid4().hex}"
    values = make_values(SHAPE)
    patch = pytest.MonkeyPatch()
    patch.setattr("fmristore.planning.layout._CHUNK_BYTES", dict.fromkeys(LAYOUTS, 16 * 1024))
    patch.setattr("fmristore.planning.layout._PORTABLE_BYTES", 16 * 1024)
    found: dict[tuple[str, str], str] = {}
    for access in LAYOUTS:
        for place in PLACES:
            sharded = place in ("sharded", "memory zarr")
            size = 128 * 1024 if sharded else 1
            patch.setattr("fmristore.planning.chunking._SHARD_BYTES", (size, size))
            base = bucket if place.startswith("memory") else str(folder)
            url = f"{base}/{access}-{place.split()[0]}.{'h5' if 'h5' in place else 'zarr'}"
            store(url, values, access=access).close()
            found[place, access] = url
    patch.undo()
    yield found
    fsspec.filesystem("memory").rm(bucket.removeprefix("memory:/"), recursive=True)


@pytest.mark.parametrize("access", LAYOUTS)
@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("index", INDICES.values(), ids=INDICES)
def test_a_cold_read_does_what_the_plan_says(
    urls: dict[tuple[str, str], str],
    opened: list[CountingStore],
    fetched: Fetched,
    place: str,
    access: str,
    index: Any,
) -> None:
    with fs.open(urls[place, access]) as image:
        (counting,) = opened
        assert (image.spec.layout.shards is not None) == (place in ("sharded", "memory zarr"))
        counting.reset()
        fetched.ranges.clear()
        plan = image.plan[index]
        asked = counting.counts["0"]
        assert (asked.ranges, asked.reads, asked.bytes_fetched) == (0, 0, 0)
        looked_up = sum(r.length for r in fetched.ranges)
        if place == "memory h5":
            # The index of an HDF5 file lies among the chunks; it is read by blocks, each once.
            assert len(set(fetched.ranges)) == len(fetched.ranges)
        else:
            assert looked_up <= 20 * plan.chunks_in_all + 1000

        fetched.ranges.clear()
        found = image[index]
        counts = counting.counts["0"]
        assert counts.reads == 0
        assert counts.chunks_fetched == plan.chunks
        assert counts.ranges == plan.requests
        assert counts.bytes_fetched == plan.fetched_bytes
        requests, nbytes = len(fetched.ranges), sum(r.length for r in fetched.ranges)
        if place == "memory h5":  # what opening read of the file is not fetched again
            assert (requests, nbytes) <= (plan.requests, plan.fetched_bytes)
        else:
            assert (requests, nbytes) == (plan.requests, plan.fetched_bytes)
        assert plan.encoded_bytes is not None
        assert plan.fetched_bytes is not None
        assert plan.encoded_bytes <= plan.fetched_bytes
        assert plan.shape == np.shape(found)
        assert plan.dtype == found.dtype
        assert plan.returned_bytes == np.size(found) * 2
        assert plan.decoded_bytes == plan.chunks * math.prod(image.spec.layout.chunks) * 2
        assert plan.chunks <= plan.chunks_in_all
        if plan.returned_bytes:
            assert plan.amplification == plan.decoded_bytes / plan.returned_bytes


@pytest.mark.parametrize("place", PLACES)
def test_a_local_read_fetches_each_chunk_on_its_own_and_a_remote_one_merges(
    urls: dict[tuple[str, str], str], place: str
) -> None:
    with fs.open(urls[place, "time"]) as image:
        plan = image.plan[...]
    assert plan.chunks == plan.chunks_in_all > 20
    assert plan.encoded_bytes is not None
    assert plan.requests is not None
    assert plan.fetched_bytes is not None
    if place.startswith("memory"):
        assert plan.requests < plan.chunks
    else:
        assert plan.requests == plan.chunks
        assert plan.fetched_bytes == plan.encoded_bytes


def test_encoded_bytes_are_what_the_file_holds(urls: dict[tuple[str, str], str]) -> None:
    url = urls["h5", "time"]
    with fs.open(url) as image, h5py.File(url) as file:
        assert image.plan[...].encoded_bytes == file["0"].id.get_storage_size()
        plan = image.plan[10, 11, 12]
        sizes = [file["0"].id.get_chunk_info(i).size for i in range(file["0"].id.get_num_chunks())]
        assert plan.encoded_bytes in sizes
    url = urls["zarr", "time"]
    with fs.open(url) as image:
        files = [p for p in Path(url, "0", "c").rglob("*") if p.is_file()]
        assert image.plan[...].encoded_bytes == sum(p.stat().st_size for p in files)
        assert image.plan[...].chunks == len(files)


@pytest.mark.parametrize("access", LAYOUTS)
def test_each_layout_is_cheap_for_what_it_is_for(
    urls: dict[tuple[str, str], str], access: str
) -> None:
    with fs.open(urls["h5", access]) as image:
        voxel, volume = image.plan[10, 11, 12].chunks, image.plan[..., 30].chunks
    if access == "time":
        assert voxel == 1 < volume
    elif access == "volume":
        assert volume < voxel == SHAPE[3]
    else:
        assert 1 < voxel < SHAPE[3]
        assert volume > 1


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("access", LAYOUTS)
def test_scattered_voxels_fetch_every_chunk_once(
    urls: dict[tuple[str, str], str], opened: list[CountingStore], place: str, access: str
) -> None:
    rng = np.random.default_rng(0)
    voxels = np.column_stack([rng.integers(0, n, 50) for n in SHAPE[:3]])
    with fs.open(urls[place, access]) as image:
        chunks = image.spec.layout.chunks
        axes = {d: i for i, d in enumerate(image.spec.dims)}
        keys = {
            tuple(int(v) // chunks[axes[d]] for d, v in zip("xyz", voxel, strict=True))
            for voxel in voxels
        }
        opened[0].reset()
        image.series(np.concatenate([voxels, voxels]))
        counts = opened[0].counts["0"]
        in_time = -(-SHAPE[3] // chunks[axes["t"]])
        assert counts.chunks_fetched == len(keys) * in_time
        assert counts.reads == 0


def test_a_second_read_comes_from_the_cache(
    urls: dict[tuple[str, str], str], opened: list[CountingStore]
) -> None:
    with fs.open(urls["h5", "time"]) as image:
        image[..., 30]
        opened[0].reset()
        image[..., 31]
        assert opened[0].counts["0"].ranges == 0


def test_explain(urls: dict[tuple[str, str], str], capsys: pytest.CaptureFixture[str]) -> None:
    url = urls["memory h5", "time"]
    with fs.open(url) as image:
        plan = image.plan[3:9:2, ..., None, 5]
        text = plan.explain()
        assert capsys.readouterr().out.strip() == text.strip()
        lines = {line.split()[0]: line for line in text.splitlines()[1:]}
        assert f"{url} [3:9:2, ..., None, 5]" in text
        assert "3 x 20 x 18 x 1 int16" in lines["result"]
        assert f"{plan.chunks} of {plan.chunks_in_all}" in lines["chunks"]
        assert lines["requests"].split()[1] == str(plan.requests)
        assert "KiB" in lines["encoded"]
        assert "fetched" in lines
        assert f"{plan.amplification:.3g} bytes" in lines["amplification"]
        assert "one number" in image.plan[0, 0, 0, 0].explain()
        assert image.plan[0:0].explain()


def test_a_codec_that_only_a_library_reads(tmp_path: Path) -> None:
    url = tmp_path / "run.h5"
    store(url, make_values()).close()
    with h5py.File(url, "r+") as file:
        old = file["0"]
        values, labels = old[...], [d.label for d in old.dims]
        attributes = dict(old.attrs)
        for name in ("CLASS", "NAME", "DIMENSION_LIST", "DIMENSION_LABELS"):
            attributes.pop(name, None)
        del file["0"]
        new = file.create_dataset("0", data=values, chunks=old_chunks(values), compression="lzf")
        for dim, label in zip(new.dims, labels, strict=True):
            dim.label = label
        new.attrs.update(attributes)
    with fs.open(url) as image:
        plan = image.plan[3, 2, 1]
        assert plan.requests is plan.encoded_bytes is plan.fetched_bytes is None
        assert plan.chunks > 0
        assert "decided by the library" in plan.explain()
        assert "unknown" in plan.explain()
        np.testing.assert_array_equal(image[3, 2, 1], make_values()[3, 2, 1])


def old_chunks(values: Any) -> tuple[int, ...]:
    return tuple(max(1, n // 2) for n in values.shape)


def test_planning_after_close(urls: dict[tuple[str, str], str]) -> None:
    image = fs.open(urls["h5", "time"])
    image.close()
    with pytest.raises(ClosedError):
        image.plan[0, 0, 0]
