"""Draft of what a virtual store says of one source: metadata, small arrays, places of chunks."""

from __future__ import annotations

import contextlib
import itertools
import math
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple, cast

import numpy as np

from fmristore.nifti import is_nifti_name
from fmristore.references.located import Located, in_hdf5, in_zarr
from fmristore.references.nifti import nifti_array, write_head
from fmristore.transcoding.plan import Loss, portable_attributes
from fmristore.transcoding.tree import LINKS, Tree, walk
from fmristore_stores.codecs import pipeline as codecs
from fmristore_stores.errors import (
    CodecError,
    MetadataError,
    NotFoundError,
    UnknownFormatError,
)
from fmristore_stores.grid import chunk_region, grid_shape
from fmristore_stores.io.location import name_of, normalise
from fmristore_stores.opening import Handle, locate
from fmristore_stores.protocol import AnyArray, Array, Buffer
from fmristore_stores.reference.document import Chunks, TargetFacts
from fmristore_stores.reference.metadata import DIMENSIONS, array_document, text_chunk
from fmristore_stores.reference.targets import METADATA, facts_of
from fmristore_stores.spec import ArraySpec, Attributes, ChunkLayout, is_string
from fmristore_stores.zarr.store import ZarrStore

__all__ = ["Draft", "Drafted", "draft_of"]

_INLINE_STORED = 32 * 1024
"""Arrays that take up to this many bytes in the file become part of the reference file."""
_INLINE_HEAD = 64 * 1024 * 1024
"""The same for what a NIfTI file says besides its data: an extension may be as long."""
_INLINE_DECODED = 1024 * 1024
"""Likewise those whose chunks cannot be referred to, by the bytes of their data."""
_SUBCHUNK = 4 * 1024 * 1024
"""An array that lies in one run is referred to in parts of at most about this many bytes."""
_SMALLEST_SUBCHUNK = 64 * 1024


def draft_of(source: str, options: Mapping[str, Any]) -> Drafted:
    """Describe an HDF5 or NIfTI file, or a Zarr store.

    Parameters
    ----------
    source : str
        Path or URL.
    options : mapping
        fsspec's storage options.

    Returns
    -------
    Drafted
        What it holds, where it is, and by what it is recognised.

    Raises
    ------
    UnknownFormatError
        If there is no HDF5 file, uncompressed NIfTI file or Zarr store at `source`.
    """
    url = normalise(source)
    if is_nifti_name(name_of(url)):
        facts = facts_of(url, options)
        return Drafted(_nifti_draft(url, options), url, facts)
    locator = locate(source, storage_options=options)
    if locator.kind == "reference":
        msg = "a reference file: give virtualize what it refers to"
        raise UnknownFormatError(msg, url=locator.url)
    known_by = f"/{METADATA}" if locator.kind == "zarr" else ""
    with contextlib.closing(Handle(locator, fresh=True)) as handle:
        store = handle.store
        facts = _facts(locator.url, known_by, options)
        find = in_zarr(cast("ZarrStore", store)) if known_by else in_hdf5
        draft = Draft(walk(store.root), find)
        draft.fill()
    return Drafted(draft, locator.url, facts, known_by)


def _facts(url: str, known_by: str, options: Mapping[str, Any]) -> TargetFacts:
    try:
        return facts_of(url + known_by, options)
    except NotFoundError as error:
        if not known_by:
            raise
        msg = "a Zarr store of format 2, which is not virtualized; transcode it, to format 3"
        raise UnknownFormatError(msg, url=url) from error


def _nifti_draft(url: str, options: Mapping[str, Any]) -> Draft:
    """Draft of the reference to a NIfTI file."""
    spec, stored, rows = nifti_array(url, options)
    with tempfile.TemporaryDirectory(prefix="fmristore-") as folder:
        path, attributes = write_head(url, options, Path(folder))
        with contextlib.closing(Handle(locate(path), fresh=True)) as handle:
            draft = Draft(walk(handle.store.root), in_hdf5, inline=_INLINE_HEAD)
            draft.fill()
    if draft.losses or draft.tables:
        raise MetadataError("its header is too large to become part of a reference file", url=url)
    spec, rows = _in_subchunks(spec, rows)
    draft.small["0/.zarray"] = array_document(spec, stored=stored)
    draft.small["0/.zattrs"] = attributes | {DIMENSIONS: list(spec.dims)}
    draft.tables["0"] = Chunks(grid_shape(spec.shape, spec.layout.chunks), rows[:, :3])
    return draft


class Draft:
    """The content of a reference file in the making.

    Parameters
    ----------
    tree : Tree
        Of the HDF5 file or Zarr store.
    find : callable
        Places of the chunks of one of its arrays, None where they have none.
    inline : int
        Arrays that take up to this many bytes in the file become part of the reference file.
    """

    def __init__(
        self,
        tree: Tree,
        find: Callable[[Any], Located | None],
        *,
        inline: int = _INLINE_STORED,
    ) -> None:
        self.tree = tree
        self._find = find
        self._inline = inline
        self.losses = [Loss(item.kind, item.path, item.reason) for item in tree.unreadable]
        self.small: dict[str, Any] = {}
        self.tables: dict[str, Chunks] = {}
        self.inlined: set[str] = set()
        self._phony: dict[str, dict[tuple[int, int], str]] = {}

    def fill(self) -> None:
        """Describe all groups and arrays."""
        recorded: dict[str, list[dict[str, str]]] = {}
        for path, target in self.tree.links.items():
            folder, _, name = path.rpartition("/")
            recorded.setdefault(folder, []).append({"name": name, "source": ".", "path": target})
        for path, attributes in self.tree.groups.items():
            found = portable_attributes(attributes, path, self.losses)
            links = {LINKS: recorded[path]} if path in recorded else {}
            self.small[_key(path, ".zgroup")] = {"zarr_format": 2}
            self.small[_key(path, ".zattrs")] = found | links
        for path, array in self.tree.arrays.items():
            self._add(path, array)

    def _add(self, path: str, array: Array) -> None:
        try:
            chunks = dict(self._chunks(path, array))
        except CodecError as error:
            self.losses.append(Loss("array", path, error.message))
            for key in [k for k in self.small if k.startswith(f"{path}/")]:
                del self.small[key]
            return
        for number, data in chunks.items():
            self.small[_key(path, number)] = data
        self.small[_key(path, ".zattrs")] = self._attributes(path, array)
        if path not in self.tables:
            self.inlined.add(path)

    def _attributes(self, path: str, array: Array) -> Attributes:
        try:
            attributes = dict(array.read_attributes())
        except MetadataError as error:
            self.losses.append(Loss("attributes", path, error.message))
            attributes = {}
        found = portable_attributes(attributes, path, self.losses)
        return found | {DIMENSIONS: self._names(path, _in_order(array))}

    def _names(self, path: str, spec: ArraySpec) -> list[str]:
        """Names of all axes: xarray wants one for each, and one length for each in a group."""
        made = self._phony.setdefault(path.rpartition("/")[0], {})
        seen: dict[int, int] = {}
        names = []
        for dim, length in zip(spec.dims, spec.shape, strict=True):
            if not dim:
                seen[length] = seen.get(length, -1) + 1
                dim = made.setdefault((length, seen[length]), f"phony_dim_{len(made)}")  # noqa: PLW2901
            names.append(dim)
        return names

    # Data ----------------------------------------------------------------------------------------

    def _chunks(self, path: str, array: Array) -> Iterator[tuple[str, bytes]]:
        """Note the metadata and the table of an array; yields chunks that become part of the file.

        Raises
        ------
        CodecError
            If it is too large for that and cannot be referred to.
        """
        spec = _in_order(array)
        if not is_string(spec.dtype) and not spec.nbytes and codecs.supported(spec.codecs):
            self.small[_key(path, ".zarray")] = array_document(spec)
            return
        in_place = codecs.supported(spec.codecs) and _axes(array.spec) == array.spec.layout.axes
        located = self._find(array) if in_place else None
        if located is None:
            yield from self._whole(path, array)
            return
        stored, rows, places, fetch = located
        if not spec.codecs and not places:
            spec, rows = _in_subchunks(spec, rows)
        self.small[_key(path, ".zarray")] = array_document(spec, stored=stored)
        grid = grid_shape(spec.shape, spec.layout.chunks)
        odd = rows[:, 3] != 0
        if int(odd.sum()) * spec.chunk_nbytes > _INLINE_DECODED:
            raise CodecError(f"{int(odd.sum())} of its chunks lack filters that the others have")
        if int(rows[:, 2].sum()) <= self._inline:
            odd[:] = True
        for at in np.flatnonzero(odd):
            number, offset, length, mask = rows[at].tolist()
            data: Buffer = fetch(places[at] if places else "", offset, length)
            if mask:
                plain = codecs.decode(spec.codecs, data, spec.chunk_nbytes, skip=mask)
                data = codecs.encode(spec.codecs, np.frombuffer(plain, np.uint8))
            yield _name(number, grid), bytes(data)
        if not odd.all():
            kept = [places[at] for at in np.flatnonzero(~odd)] if places else []
            self.tables[path] = Chunks(grid, rows[~odd, :3], places=kept)

    def _whole(self, path: str, array: Array) -> Iterator[tuple[str, bytes]]:
        """All data as one chunk, not encoded."""
        spec = _in_order(array)
        if max(spec.nbytes, math.prod(spec.shape)) > _INLINE_DECODED:
            why = " + ".join(step.name for step in spec.codecs) or str(spec.dtype)
            if _axes(array.spec) != array.spec.layout.axes:
                why = "axes without names whose bytes lie in another order"
            msg = f"it is large, and its chunks cannot be referred to ({why})"
            raise CodecError(msg)
        text = is_string(spec.dtype)
        grid = grid_shape(spec.shape, spec.layout.chunks)
        if not text or math.prod(grid) * math.prod(spec.layout.chunks) > _INLINE_DECODED:
            whole = tuple(max(n, 1) for n in spec.shape)
            spec = replace(spec, layout=ChunkLayout(chunks=whole))
            grid = grid_shape(spec.shape, whole)
        spec = replace(spec, codecs=())
        self.small[_key(path, ".zarray")] = array_document(spec)
        values = array.read().transpose(_axes(array.spec))
        size = 0
        for key in itertools.product(*map(range, grid)):
            chunk = np.full(spec.layout.chunks, spec.fill, spec.dtype)
            region = chunk_region(key, spec.shape, spec.layout.chunks)
            chunk[tuple(slice(0, part.stop - part.start) for part in region)] = values[region]
            data = text_chunk(chunk) if text else chunk.tobytes()
            size += len(data)
            if size > 2 * _INLINE_DECODED:
                raise CodecError("its texts are too long to become part of the reference file")
            yield ".".join(map(str, key)) or "0", data


class Drafted(NamedTuple):
    """A source that was described."""

    draft: Draft
    """Content."""
    url: str
    """Normalised path or URL."""
    facts: TargetFacts
    """Facts by which it is recognised; taken before it was read."""
    known_by: str = ""
    """End of the URL of the object of a store whose facts they are."""


def _axes(spec: ArraySpec) -> tuple[int, ...]:
    """Axes in the order of the bytes; as they are where names do not tell which is which."""
    return spec.layout.axes if all(spec.dims) else tuple(range(len(spec.shape)))


def _in_order(array: Array) -> ArraySpec:
    """Spec of an array with its axes as `_axes` puts them, and without shards."""
    spec = array.spec.permuted(_axes(array.spec))
    return replace(spec, layout=replace(spec.layout, shards=None))


def _key(path: str, name: str) -> str:
    return f"{path}/{name}" if path else name


def _name(number: int, grid: tuple[int, ...]) -> str:
    if not grid:
        return "0"
    return ".".join(str(int(i)) for i in np.unravel_index(number, grid))


def _in_subchunks(spec: ArraySpec, rows: AnyArray) -> tuple[ArraySpec, AnyArray]:
    """Cut chunks that are not encoded into smaller ones, so that a client need not fetch all.

    Subchunks are runs of consecutive bytes, and all of one length, as Zarr wants it.
    """
    chunks = spec.layout.chunks
    if spec.chunk_nbytes <= 2 * _SUBCHUNK or any(
        c > max(n, 1) for c, n in zip(chunks, spec.shape, strict=True)
    ):
        return spec, rows
    subchunk = [*chunks]
    size = spec.chunk_nbytes
    for axis, length in enumerate(chunks):
        if size <= _SUBCHUNK:
            break
        rest = size // length
        most = min(length, max(1, _SUBCHUNK // rest))
        subchunk[axis] = next(n for n in range(most, 0, -1) if length % n == 0)
        size = subchunk[axis] * rest
    if size < _SMALLEST_SUBCHUNK:
        return spec, rows
    cut = tuple(c // p for c, p in zip(chunks, subchunk, strict=True))
    inner = np.stack(np.unravel_index(np.arange(math.prod(cut)), cut), axis=1)
    outer_grid = grid_shape(spec.shape, chunks)
    grid = tuple(g * c for g, c in zip(outer_grid, cut, strict=True))
    if grid != grid_shape(spec.shape, tuple(subchunk)):
        return spec, rows
    made = []
    for number, offset, _, mask in rows.tolist():
        outer = np.array(np.unravel_index(number, outer_grid)) * cut
        numbers = np.ravel_multi_index(tuple((inner + outer).T), grid)
        offsets = offset + np.arange(len(inner)) * size
        table = np.stack([numbers, offsets, np.full(len(inner), size)], axis=1)
        made.append(np.column_stack([table, np.full(len(inner), mask)]))
    found = np.concatenate(made)
    layout = replace(spec.layout, chunks=tuple(subchunk))
    return replace(spec, layout=layout), found[np.argsort(found[:, 0], kind="stable")]
