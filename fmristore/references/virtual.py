"""Virtual Zarr stores: a small file by which Zarr clients read an HDF5 or NIfTI file in place."""

from __future__ import annotations

import contextlib
import itertools
import math
import os
import tempfile
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

import numpy as np

from fmristore.nifti import is_nifti_name
from fmristore.planning.pictures import facts_html
from fmristore.planning.text import size_text
from fmristore.references.nifti import nifti_array, write_head
from fmristore.transcoding.plan import LOSSES, Loss, portable_attributes
from fmristore.transcoding.tree import LINKS, Tree, walk
from fmristore_stores.codecs import pipeline as codecs
from fmristore_stores.errors import (
    ChangedError,
    CodecError,
    InvalidInputError,
    LossyError,
    MetadataError,
    UnknownFormatError,
)
from fmristore_stores.grid import chunk_region, grid_shape
from fmristore_stores.hdf5.store import HDF5Array
from fmristore_stores.io.location import is_local, name_of, normalise
from fmristore_stores.opening import Handle, locate
from fmristore_stores.protocol import AnyArray, ByteRange
from fmristore_stores.publishing.publish import publish_file
from fmristore_stores.reference.document import TargetFacts
from fmristore_stores.reference.metadata import DIMENSIONS, array_document, text_chunk
from fmristore_stores.reference.targets import facts_of
from fmristore_stores.reference.writing import compose
from fmristore_stores.shown import shown
from fmristore_stores.spec import ArraySpec, Attributes, ChunkLayout, is_string

__all__ = ["SUFFIX", "VirtualReport", "virtualize"]

SUFFIX = ".refs.json"
"""Put behind the name of the HDF5 file."""

_INLINE_STORED = 32 * 1024
"""Arrays that take up to this many bytes in the file become part of the reference file."""
_INLINE_HEAD = 64 * 1024 * 1024
"""The same for what a NIfTI file says besides its data: an extension may be as long."""
_INLINE_DECODED = 1024 * 1024
"""Likewise those whose chunks cannot be referred to, by the bytes of their data."""
_PIECE = 4 * 1024 * 1024
"""An array that lies in one run is referred to in parts of at most about this many bytes."""
_SMALLEST_PIECE = 64 * 1024

Table = tuple[tuple[int, ...], AnyArray]
"""Shape of a grid of chunks; number, offset and length of each, int64, (chunks, 3)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class VirtualReport:
    """Report on what `virtualize` made.

    Parameters
    ----------
    source, target : str
        URLs of the HDF5 file and of the reference file.
    referred : tuple of str
        Paths of arrays whose chunks are read from the HDF5 file.
    inlined : tuple of str
        Paths of arrays that are part of the reference file.
    chunks : int
        References to chunks.
    nbytes : int
        Size of the reference file.
    losses : tuple of Loss
        What is left out, all of it allowed by the caller.
    """

    source: str
    target: str
    referred: tuple[str, ...]
    inlined: tuple[str, ...]
    chunks: int
    nbytes: int
    losses: tuple[Loss, ...]

    def __repr__(self) -> str:
        size = f"{self.chunks} chunks of {len(self.referred)} arrays"
        return f"<{type(self).__name__}: {shown(f'{self.source} -> {self.target}')}: {size}>"

    def _repr_html_(self) -> str:
        facts = {
            "source": self.source,
            "target": self.target,
            "chunks": self.chunks,
            "arrays": f"{len(self.referred)} referred to, {len(self.inlined)} in the file",
            "size": size_text(self.nbytes),
            "left out": ", ".join(f"{loss.kind} /{loss.path}" for loss in self.losses) or "nothing",
        }
        return facts_html(type(self).__name__, facts)

    def to_json(self) -> dict[str, Any]:
        """The report as plain JSON values."""
        return {
            "source": self.source,
            "target": self.target,
            "referred": list(self.referred),
            "inlined": list(self.inlined),
            "chunks": self.chunks,
            "bytes": self.nbytes,
            "losses": [
                {"kind": loss.kind, "path": loss.path, "reason": loss.reason}
                for loss in self.losses
            ],
        }


def virtualize(
    source: str | os.PathLike[str],
    url: str | os.PathLike[str] | None = None,
    *,
    relative: bool = False,
    allow: Collection[str] = (),
    overwrite: bool = False,
    storage_options: Mapping[str, Any] | None = None,
) -> VirtualReport:
    """Make a reference file, by which Zarr clients read an HDF5 or NIfTI file where it is.

    Parameters
    ----------
    source : str or path
        HDF5 file of any software, or uncompressed NIfTI file (``.nii``), local or on any
        filesystem that fsspec knows. A NIfTI file then opens as the image that `convert` would
        make of it, with its affine, scaling and header.
    url : str or path, optional
        The new file; beside the source as ``<name>.refs.json`` by default.
    relative : bool
        Refer to the source by its place relative to `url`, so that both can be moved together.
        fmristore finds it; other readers need ``template_overrides={"u": URL}`` of fsspec.
    allow : collection of str
        Losses that are accepted, by name; see `fmristore.transcoding.plan.LOSSES`.
    overwrite : bool
        Replace what is at `url`.
    storage_options : mapping, optional
        Passed to fsspec, for both URLs.

    Returns
    -------
    VirtualReport

    Raises
    ------
    UnknownFormatError
        If there is neither an HDF5 file nor an uncompressed NIfTI file at `source`.
    LayoutNotSupportedError
        If it is a NIfTI file in colour.
    LossyError
        If something cannot be referred to and is not allowed to be left out.
    AlreadyExistsError
        If there is something at `url` and `overwrite` is false.
    ReadOnlyError
        If nothing can be written at `url`: name another place.
    ChangedError
        If the file changes meanwhile.

    Notes
    -----
    Reads metadata, chunk tables and small arrays, not the data of large ones. `fmristore.open`
    opens the new file with one request, and refuses it when the HDF5 file was changed or replaced.

    Examples
    --------
    >>> import fmristore as fs
    >>> fs.virtualize("s3://lab/run.h5")                                      # doctest: +SKIP
    >>> bold = fs.open("s3://lab/run.h5.refs.json")                           # doctest: +SKIP
    >>> import xarray as xr
    >>> xr.open_dataset("s3://lab/run.h5.refs.json", engine="kerchunk")       # doctest: +SKIP
    """
    _check_names(allow)
    given, options = normalise(source), dict(storage_options or {})
    if is_nifti_name(name_of(given)):
        before = facts_of(given, options)
        draft = _nifti_draft(given, options)
    else:
        locator = locate(source, storage_options=storage_options)
        if locator.kind != "hdf5":
            msg = "neither an HDF5 nor a NIfTI file: only these are virtualized"
            raise UnknownFormatError(msg, url=locator.url)
        given, options = locator.url, dict(locator.options)
        with contextlib.closing(Handle(locator, fresh=True)) as handle:
            before = facts_of(given, options)
            draft = _Draft(walk(handle.store.root))
            draft.fill()
    refused = [loss for loss in draft.losses if loss.kind not in allow]
    if refused:
        raise LossyError(_refusal(refused), url=given)
    target = normalise(url) if url is not None else f"{given.partition('?')[0]}{SUFFIX}"
    place = _relative(given, target) if relative else _absolute(given)
    with publish_file(target, overwrite=overwrite, storage_options=storage_options) as path:
        parts = compose(draft.small, draft.tables, target=place, facts=before)
        with Path(path).open("wb") as file:
            file.writelines(parts)
            size = file.tell()
        _check_unchanged(given, options, before)
    return VirtualReport(
        source=given,
        target=target,
        referred=tuple(draft.tables),
        inlined=tuple(path for path in draft.tree.arrays if path in draft.inlined),
        chunks=sum(len(rows) for _, rows in draft.tables.values()),
        nbytes=size,
        losses=tuple(draft.losses),
    )


def _check_names(allow: Collection[str]) -> None:
    unknown = set(allow) - set(LOSSES)
    if unknown:
        msg = f"unknown losses {sorted(unknown)}; there are {', '.join(sorted(LOSSES))}"
        raise InvalidInputError(msg)


def _check_unchanged(url: str, options: Mapping[str, Any], before: TargetFacts) -> None:
    if facts_of(url, options) != before:
        raise ChangedError("the file was changed meanwhile; try again", url=url)


def _refusal(refused: list[Loss]) -> str:
    first = "; ".join(f"/{loss.path}: {loss.reason}" for loss in refused[:3])
    more = f" and {len(refused) - 3} more" if len(refused) > 3 else ""
    names = sorted({loss.kind for loss in refused})
    return f"not everything can be referred to: {first}{more}. To accept this, allow {names}"


def _absolute(url: str) -> str:
    return f"file://{url}" if is_local(url) else url


def _relative(url: str, target: str) -> str:
    """Place of the HDF5 file as seen from the folder of the reference file."""
    if is_local(url) and is_local(target):
        return Path(os.path.relpath(url, Path(target).parent)).as_posix()
    folder = target.rpartition("/")[0]
    if is_local(url) or is_local(target) or not url.startswith(f"{folder}/"):
        msg = f"{url} does not lie below the folder of {target}: relative=True is not possible"
        raise InvalidInputError(msg)
    return url[len(folder) + 1 :]


def _nifti_draft(url: str, options: Mapping[str, Any]) -> _Draft:
    """Draft of the reference to a NIfTI file."""
    spec, stored, rows = nifti_array(url, options)
    with tempfile.TemporaryDirectory(prefix="fmristore-") as folder:
        path, attributes = write_head(url, options, Path(folder))
        with contextlib.closing(Handle(locate(path), fresh=True)) as handle:
            draft = _Draft(walk(handle.store.root), inline=_INLINE_HEAD)
            draft.fill()
    if draft.losses or draft.tables:
        raise MetadataError("its header is too large to become part of a reference file", url=url)
    spec, rows = _in_pieces(spec, rows)
    draft.small["0/.zarray"] = array_document(spec, stored=stored)
    draft.small["0/.zattrs"] = attributes | {DIMENSIONS: list(spec.dims)}
    draft.tables["0"] = grid_shape(spec.shape, spec.layout.chunks), rows[:, :3]
    return draft


class _Draft:
    """The content of a reference file in the making.

    Parameters
    ----------
    tree : Tree
        Of the HDF5 file.
    inline : int
        Arrays that take up to this many bytes in the file become part of the reference file.
    """

    def __init__(self, tree: Tree, *, inline: int = _INLINE_STORED) -> None:
        self.tree = tree
        self._inline = inline
        self.losses = [Loss(item.kind, item.path, item.reason) for item in tree.unreadable]
        self.small: dict[str, Any] = {}
        self.tables: dict[str, Table] = {}
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
            self._add(path, cast("HDF5Array", array))

    def _add(self, path: str, array: HDF5Array) -> None:
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

    def _attributes(self, path: str, array: HDF5Array) -> Attributes:
        try:
            attributes = dict(array.read_attributes())
        except MetadataError as error:
            self.losses.append(Loss("attributes", path, error.message))
            attributes = {}
        found = portable_attributes(attributes, path, self.losses)
        return found | {DIMENSIONS: self._names(path, array.spec)}

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

    def _chunks(self, path: str, array: HDF5Array) -> Iterator[tuple[str, bytes]]:
        """Note the metadata and the table of an array; yields chunks that become part of the file.

        Raises
        ------
        CodecError
            If it is too large for that and cannot be referred to.
        """
        spec = array.spec
        if not is_string(spec.dtype) and not spec.nbytes and codecs.supported(spec.codecs):
            self.small[_key(path, ".zarray")] = array_document(spec)
            return
        located = array.located() if codecs.supported(spec.codecs) else None
        if located is None:
            yield from self._whole(path, array)
            return
        stored, index = located
        rows = index.rows
        if not spec.codecs:
            spec, rows = _in_pieces(spec, rows)
        self.small[_key(path, ".zarray")] = array_document(spec, stored=stored)
        grid = grid_shape(spec.shape, spec.layout.chunks)
        odd = rows[:, 3] != 0
        if int(odd.sum()) * spec.chunk_nbytes > _INLINE_DECODED:
            raise CodecError(f"{int(odd.sum())} of its chunks lack filters that the others have")
        if int(rows[:, 2].sum()) <= self._inline:
            odd[:] = True
        for number, offset, length, mask in rows[odd].tolist():
            (data,) = array.fetch_stored([ByteRange("", offset, length)])
            if mask:
                plain = codecs.decode(spec.codecs, data, spec.chunk_nbytes, skip=mask)
                data = codecs.encode(spec.codecs, np.frombuffer(plain, np.uint8))
            yield _name(number, grid), bytes(data)
        if not odd.all():
            self.tables[path] = grid, rows[~odd, :3]

    def _whole(self, path: str, array: HDF5Array) -> Iterator[tuple[str, bytes]]:
        """All data as one chunk, not encoded."""
        spec = array.spec
        if max(spec.nbytes, math.prod(spec.shape)) > _INLINE_DECODED:
            codec = " + ".join(step.name for step in spec.codecs)
            msg = f"it is large, and its chunks cannot be referred to ({codec or spec.dtype})"
            raise CodecError(msg)
        text = is_string(spec.dtype)
        grid = grid_shape(spec.shape, spec.layout.chunks)
        if not text or math.prod(grid) * math.prod(spec.layout.chunks) > _INLINE_DECODED:
            whole = tuple(max(n, 1) for n in spec.shape)
            spec = replace(spec, layout=ChunkLayout(chunks=whole))
            grid = grid_shape(spec.shape, whole)
        spec = replace(spec, codecs=())
        self.small[_key(path, ".zarray")] = array_document(spec)
        values = array.read()
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


def _key(path: str, name: str) -> str:
    return f"{path}/{name}" if path else name


def _name(number: int, grid: tuple[int, ...]) -> str:
    if not grid:
        return "0"
    return ".".join(str(int(i)) for i in np.unravel_index(number, grid))


def _in_pieces(spec: ArraySpec, rows: AnyArray) -> tuple[ArraySpec, AnyArray]:
    """Cut chunks that are not encoded into smaller ones, so that a client need not fetch all.

    Pieces are runs of consecutive bytes, and all of one length, as Zarr wants it.
    """
    chunks = spec.layout.chunks
    if spec.chunk_nbytes <= 2 * _PIECE or any(
        c > max(n, 1) for c, n in zip(chunks, spec.shape, strict=True)
    ):
        return spec, rows
    piece = [*chunks]
    size = spec.chunk_nbytes
    for axis, length in enumerate(chunks):
        if size <= _PIECE:
            break
        rest = size // length
        most = min(length, max(1, _PIECE // rest))
        piece[axis] = next(n for n in range(most, 0, -1) if length % n == 0)
        size = piece[axis] * rest
    if size < _SMALLEST_PIECE:
        return spec, rows
    cut = tuple(c // p for c, p in zip(chunks, piece, strict=True))
    inner = np.stack(np.unravel_index(np.arange(math.prod(cut)), cut), axis=1)
    outer_grid = grid_shape(spec.shape, chunks)
    grid = tuple(g * c for g, c in zip(outer_grid, cut, strict=True))
    if grid != grid_shape(spec.shape, tuple(piece)):
        return spec, rows
    made = []
    for number, offset, _, mask in rows.tolist():
        outer = np.array(np.unravel_index(number, outer_grid)) * cut
        numbers = np.ravel_multi_index(tuple((inner + outer).T), grid)
        offsets = offset + np.arange(len(inner)) * size
        table = np.stack([numbers, offsets, np.full(len(inner), size)], axis=1)
        made.append(np.column_stack([table, np.full(len(inner), mask)]))
    found = np.concatenate(made)
    layout = replace(spec.layout, chunks=tuple(piece))
    return replace(spec, layout=layout), found[np.argsort(found[:, 0], kind="stable")]
