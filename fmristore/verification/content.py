"""Checking that what a store holds can be opened, and that its parts agree with each other."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

import numpy as np

from fmristore.api import open_handle
from fmristore.formats.base import StoredObject
from fmristore.formats.image.image import DenseImage
from fmristore.formats.names import encode_name
from fmristore.formats.registry import FORMAT, formats
from fmristore.model.coordinates import Coordinate, grid_coordinates, time_coordinate
from fmristore.model.space import NeuroSpace
from fmristore.nifti import NiftiHeader, parse_header
from fmristore.transcoding.tree import Tree
from fmristore.verification.arrays import DAMAGE, UNABLE
from fmristore.verification.report import Findings
from fmristore_stores.chunks.cache import ChunkCache
from fmristore_stores.chunks.reader import ChunkReader
from fmristore_stores.errors import (
    FmristoreError,
    InvalidInputError,
    MemoryLimitError,
    UnknownFormatError,
    UnsupportedVersionError,
)
from fmristore_stores.opening import FixedHandle, Locator
from fmristore_stores.protocol import Array, Store

__all__ = ["Content", "open_content"]

Result = TypeVar("Result")

_TOLERANCE = 1e-5
"""NIfTI-1 holds spacings and slopes as float32."""
_NAMED = 8
"""Arrays of a group that are named in a note."""


@dataclass(frozen=True, slots=True)
class Content:
    """Contents of a store, as far as verification is concerned.

    Parameters
    ----------
    format : str or None
        Name of its format; None for a store of other software.
    data : frozenset of str
        Paths of the arrays of which every chunk must be there.
    unfinished : tuple of str
        Groups of runs or scans that no list names, which are not checked, each with a slash
        behind it.
    """

    format: str | None
    data: frozenset[str] = frozenset()
    unfinished: tuple[str, ...] = ()


def open_content(locator: Locator, store: Store, tree: Tree, findings: Findings) -> Content:
    """Open what a store holds and see whether its parts fit each other."""
    name = tree.groups.get("", {}).get(FORMAT)
    recorded = None if name is None else str(name)
    own = frozenset(path for path in tree.arrays if path.rpartition("/")[2] == "0")
    try:
        stored = open_handle(FixedHandle(locator, store))
    except (UnknownFormatError, UnsupportedVersionError) as error:
        if name in tuple(formats()) and isinstance(error, UnknownFormatError):
            findings.error(error, "")
        elif name is not None:
            findings.note("not-checked", "", f"only the chunks were checked: {error.message}")
        return Content(recorded)
    except (*DAMAGE, *UNABLE) as error:
        _tell(error, findings)
        # Then this rule of the format has to do: all chunks of an array 0 were written.
        return Content(recorded, own if recorded else frozenset())
    recorded = stored.format_name
    if not isinstance(stored, StoredObject):
        return Content(recorded)
    _attempt(stored.check, findings)
    _check_parts(stored, tree, findings)
    paths = _attempt(lambda: [array.path for array in stored.primary_arrays], findings)
    if paths is None:
        return Content(recorded, own)
    known = {item.path: item for item in tree.unreadable}
    for path in {*paths} - {*tree.arrays}:
        item = known.get(path)
        if item is None:
            findings.problem("not-found", path, "the data are missing")
        elif not item.damaged and item.kind != "name":  # damage is a problem already
            findings.problem("unreadable", path, item.reason)
    return Content(recorded, frozenset(paths), _unfinished(stored, locator, tree, findings))


def _unfinished(
    stored: StoredObject, locator: Locator, tree: Tree, findings: Findings
) -> tuple[str, ...]:
    """Groups of runs or scans that are not in the list of them, which are noted."""
    folder = stored.parts_folder
    known = {f"{folder}/{encode_name(name)}" for name in stored.part_names} if folder else set()
    found = [
        path
        for path in tree.groups
        if folder and path.rpartition("/")[0] == folder and path not in known
    ]
    # HDF5 files are changed as copies, which take their place when they are whole.
    writer = "a writer may be at it, or have ended before it was whole; "
    removing = "adding a run" if folder == "runs" else "adding or removing a scan"
    for path in found:
        text = f"the list of {folder} lacks it, so it is not read; "
        text += f"{writer if locator.kind == 'zarr' else ''}{removing} removes it"
        arrays = sorted(name for name in tree.arrays if name.startswith(f"{path}/"))
        if arrays:
            more = f" and {len(arrays) - _NAMED} more" if len(arrays) > _NAMED else ""
            text += f"; not checked: {', '.join(arrays[:_NAMED])}{more}"
        findings.note("leftover", path, text)
    return tuple(f"{path}/" for path in found)


def _attempt(work: Callable[[], Result], findings: Findings) -> Result | None:
    """Result of reading something, or None; what is damaged is noted."""
    try:
        return work()
    except (*DAMAGE, *UNABLE) as error:
        _tell(error, findings)
        return None


def _tell(error: FmristoreError, findings: Findings) -> None:
    if isinstance(error, UNABLE) and not isinstance(error, MemoryLimitError):
        findings.problem("unreadable", error.node or "", error.message)
    else:
        findings.error(error, "")


def _check_parts(stored: StoredObject, tree: Tree, findings: Findings) -> None:
    """Check every run or scan, or the object itself if it has none."""
    names = _attempt(lambda: stored.part_names, findings)
    if names is None:
        return
    for name in names:
        part = _attempt(partial(stored.part, name), findings)
        if isinstance(part, StoredObject):
            _attempt(part.check, findings)
            _check_part(part, tree.arrays, findings)
    if not names:
        _check_part(stored, tree.arrays, findings)


def _check_part(part: StoredObject, arrays: Mapping[str, Array], findings: Findings) -> None:
    """Check header and coordinates of one image or scan."""
    paths = [array.path for array in part.primary_arrays]
    group = paths[0].rpartition("/")[0] if paths else ""
    if isinstance(part, DenseImage):
        _check_header(part, f"{group}/nifti".strip("/"), arrays, findings)
    space = getattr(part, "space", None)
    if not isinstance(space, NeuroSpace):
        return
    times = f"{group}/t".strip("/")
    if times in arrays:
        _check_times(space, arrays[times], findings)
    for name, expected in grid_coordinates(space).items():
        for folder in {group, "", "parcellation"}:
            array = arrays.get(f"{folder}/{name}".strip("/"))
            if array is not None and array.spec.dims == (name,):
                _check_coordinate(array, expected, findings)


def _check_header(
    image: DenseImage, node: str, arrays: Mapping[str, Array], findings: Findings
) -> None:
    try:
        header = parse_header(image.header_bytes)
    except (*DAMAGE, *UNABLE, InvalidInputError) as error:
        # The image's times or affine may be what is damaged. That a header is gone is found before.
        where = error.node or node
        if where != node or node in arrays:
            findings.problem("header", where, f"the header cannot be read: {error.message}")
    else:
        for text in _contradictions(image, header):
            findings.problem("header", node, text)


def _contradictions(image: DenseImage, header: NiftiHeader) -> list[str]:
    """Contradictions between the header and the image."""
    found = []
    if header.space.shape != image.shape:
        found.append(f"the header's shape is {header.space.shape}, the image's {image.shape}")
    elif not image.space.same_grid(header.space):
        distance = image.space.grid_distance(header.space)
        found.append(f"the header's affine differs from the image's, by up to {distance:.3g} mm")
    colors = len(image.stored_dtype.names or ())
    number = np.dtype("u1") if colors else image.spec.dtype
    if (header.dtype, header.colors) != (number, colors):
        theirs = f"{header.colors} colours" if header.colors else header.dtype
        found.append(f"the header's type is {theirs}, the image's {image.stored_dtype}")
    stated, kept = header.tr, image.space.tr
    if (stated is None) != (kept is None) or not np.isclose(
        stated or 0, kept or 0, rtol=_TOLERANCE
    ):
        found.append(f"the header's TR is {stated} s, the image's {kept} s")
    offsets = header.space.time_offset, image.space.time_offset
    if not np.isclose(*offsets, rtol=_TOLERANCE):
        found.append(f"the header's first volume is at {offsets[0]} s, the image's {offsets[1]} s")
    said = (1.0 if header.slope is None else header.slope, header.inter or 0.0)
    slope: Any = 1.0 if image.slope is None else image.slope
    inter: Any = 0.0 if image.inter is None else image.inter
    meant = (slope, inter)
    if np.ndim(slope) == 0 and not np.allclose(said, meant, rtol=_TOLERANCE):
        found.append(f"the header's slope and intercept are {said}, the image's {meant}")
    return found


def _check_times(space: NeuroSpace, array: Array, findings: Findings) -> None:
    """Compare the times of the volumes with the repetition time."""
    text = f"the times of the volumes are not those of {space.time_points} volumes, TR {space.tr} s"
    if space.time_offset:
        text += f", the first at {space.time_offset} s"
    _compare(array, time_coordinate(space), "times", text, findings)


def _check_coordinate(array: Array, expected: Coordinate, findings: Findings) -> None:
    """Compare the coordinates of an axis with the affine."""
    text = "the coordinates are not those that the affine gives"
    _compare(array, expected, "coordinates", text, findings)


def _compare(array: Array, expected: Coordinate, code: str, text: str, findings: Findings) -> None:
    """Note a problem where an array does not hold the values that are expected."""
    try:
        right = array.spec.shape == expected.values.shape and array.spec.dtype.kind in "iuf"
        reader = ChunkReader(array, cache=ChunkCache(0))
        if not right or not np.allclose(reader.read(), expected.values):
            findings.problem(code, array.path, text)
    except (*DAMAGE, *UNABLE) as error:
        findings.problem(code, array.path, error.message)
