"""The least that reading and writing have to do, with everything else prepared beforehand."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple, TypeVar, cast

import deflate
import numpy as np
from numcodecs.blosc import decompress

from benchmarks.engines import Engine
from benchmarks.selections import Selection, stored_index
from fmristore_stores.chunks.threads import worker_count
from fmristore_stores.codecs import blosc2
from fmristore_stores.codecs.pipeline import encode
from fmristore_stores.errors import CodecError
from fmristore_stores.grid import Region, chunk_region, grid_shape, overlaps
from fmristore_stores.opening import open_store
from fmristore_stores.protocol import AnyArray, ByteRange, ChunkRefs
from fmristore_stores.spec import ArraySpec

__all__ = ["Limit", "encode_all"]

Item = TypeVar("Item")


class _Job(NamedTuple):
    """A chunk, where it lies, and what of it goes where."""

    descriptor: int
    range: ByteRange
    source: tuple[AnyArray | slice, ...]
    target: tuple[AnyArray | slice, ...]


class Limit(Engine):
    """One ``pread`` for each chunk, the codec's C function on all cores, and one copy.

    The C functions are libdeflate's and C-Blosc2's, or numcodecs' Blosc where that is missing.

    Which bytes are wanted, and where they go, is found out beforehand.
    """

    label = "limit"

    def __init__(self, path: Path) -> None:
        self._store = open_store(path)
        self._array = cast("ChunkRefs", self._store.root.array("0"))
        self._spec = self._array.spec
        self._files: dict[str, int] = {}
        self._pool = ThreadPoolExecutor(worker_count())

    def read(self, selection: Selection) -> AnyArray:
        """Find the bytes, and do the least."""
        return self.prepare(selection)()

    def prepare(self, selection: Selection) -> Callable[[], AnyArray]:
        """Find out which bytes are wanted and where they go."""
        dims, spec = self._spec.dims, self._spec
        if selection.points is None:
            index, axes = stored_index(selection, dims)
            region = tuple(_slice(part, n) for part, n in zip(index, spec.shape, strict=True))
            jobs = [
                self._job(part.key, part.source, part.target)
                for part in overlaps(region, spec.layout.chunks)
            ]
            shape = tuple(s.stop - s.start for s in region)
            dropped = tuple(slice(None) if isinstance(part, slice) else 0 for part in index)
            return lambda: self._run(jobs, shape)[dropped].transpose(axes)
        order = [dims.index(d) for d in "xyzt"]
        jobs = self._point_jobs(selection.points, order)
        shape = (len(selection.points), spec.shape[order[3]])
        return lambda: self._run(jobs, shape, order)

    def _point_jobs(self, points: AnyArray, order: Sequence[int]) -> list[_Job]:
        chunks = np.array(self._spec.layout.chunks)[order]
        keys, rows = np.unique(points // chunks[:3], axis=0, return_inverse=True)
        time = (slice(0, self._spec.shape[order[3]], 1),)
        jobs = []
        for number, at in enumerate(keys.tolist()):
            mine = np.flatnonzero(rows.reshape(-1) == number)
            inside = tuple((points[mine] % chunks[:3]).T)
            for part in overlaps(time, (int(chunks[3]),)):
                key = [0] * 4
                for axis, position in zip(order, (*at, *part.key), strict=True):
                    key[axis] = position
                jobs.append(self._job(tuple(key), (*inside, *part.source), (mine, *part.target)))
        return jobs

    def _job(
        self,
        key: tuple[int, ...],
        source: tuple[AnyArray | slice, ...],
        target: tuple[AnyArray | slice, ...],
    ) -> _Job:
        (ref,) = self._array.refs([key])
        assert ref is not None
        path = ref.range.source
        if path not in self._files:
            self._files[path] = os.open(path, os.O_RDONLY)
        return _Job(self._files[path], ref.range, source, target)

    def _run(
        self, jobs: Sequence[_Job], shape: tuple[int, ...], axes: Sequence[int] = ()
    ) -> AnyArray:
        spec = self._spec
        names = tuple(step.name for step in spec.codecs)
        inner = tuple(spec.layout.chunks[a] for a in spec.layout.axes)
        back = np.argsort(spec.layout.axes)
        result = np.empty(shape, spec.dtype)

        def work(job: _Job) -> None:
            data = os.pread(job.descriptor, job.range.length, job.range.offset)
            chunk = _decode(names, data, spec).reshape(inner).transpose(back)
            result[job.target] = (chunk.transpose(axes) if axes else chunk)[job.source]

        _spread(self._pool, work, jobs)
        return result

    def close(self) -> None:
        """Close the files."""
        for descriptor in self._files.values():
            os.close(descriptor)
        self._pool.shutdown()
        self._store.close()


def _slice(part: int | slice, length: int) -> slice:
    if isinstance(part, int):
        return slice(part, part + 1, 1)
    return slice(*part.indices(length))


def _decode(names: tuple[str, ...], data: bytes, spec: ArraySpec) -> AnyArray:
    match names:
        case ("blosc",):
            out = np.empty(spec.chunk_nbytes, np.uint8)
            if blosc2.available():
                blosc2.decompress(data, out)
            else:
                decompress(data, out)
        case ("deflate",):
            out = np.frombuffer(deflate.zlib_decompress(data, spec.chunk_nbytes), np.uint8)
        case ("shuffle", "deflate"):
            out = np.empty(spec.chunk_nbytes, np.uint8)
            plain = deflate.zlib_decompress(data, spec.chunk_nbytes)
            planes = np.frombuffer(plain, np.uint8).reshape(spec.dtype.itemsize, -1)
            for byte, plane in enumerate(planes):  # numcodecs.Shuffle would hold Python's lock
                out.reshape(-1, len(planes))[:, byte] = plane
        case _:
            raise CodecError(f"no limit is known for {names}")
    return out.view(spec.dtype)


def _spread(
    pool: ThreadPoolExecutor, work: Callable[[Item], object], items: Sequence[Item]
) -> None:
    """Threads take items from one iterator, which costs no hand-over."""
    count = min(worker_count(), len(items))
    pending = iter(items)

    def share() -> None:
        for item in pending:
            work(item)

    if count <= 1:
        share()
        return
    for future in [pool.submit(share) for _ in range(count)]:
        future.result()


def encode_all(spec: ArraySpec, stored: AnyArray) -> Callable[[], None]:
    """Encode every chunk on all cores, and keep nothing.

    Parameters
    ----------
    spec : ArraySpec
        How the array is stored.
    stored : ndarray
        The whole array, axes as in the spec.
    """
    axes = spec.layout.axes
    inner = tuple(spec.layout.chunks[a] for a in axes)
    keys = np.ndindex(grid_shape(spec.shape, spec.layout.chunks))
    regions: list[Region] = [chunk_region(key, spec.shape, spec.layout.chunks) for key in keys]

    def work(region: Region) -> None:
        part = stored[region].transpose(axes)
        if part.shape == inner:
            encode(spec.codecs, np.ascontiguousarray(part))
        else:
            padded = np.zeros(inner, spec.dtype)
            padded[tuple(slice(0, n) for n in part.shape)] = part
            encode(spec.codecs, padded)

    def run() -> None:
        with ThreadPoolExecutor(worker_count()) as pool:
            _spread(pool, work, regions)

    return run
