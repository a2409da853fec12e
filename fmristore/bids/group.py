"""One volume of each member in one store, with the members fastest."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from fmristore.bids.member import Member
from fmristore.formats.base import StoredObject
from fmristore.formats.registry import format_class
from fmristore.model.space import NeuroSpace
from fmristore.nifti.derived import fit_header
from fmristore.planning.streams import streaming
from fmristore.planning.text import parse_size
from fmristore.sources.images import Block, ImageSource
from fmristore_stores.errors import InvalidInputError

if TYPE_CHECKING:
    from fmristore.formats.image.image import NeuroVec

__all__ = ["GroupSource", "write_group"]

_STATISTICS = ("mean", "std", "min", "max")


class GroupSource(ImageSource):
    """Volumes of the members of a collection, one after the other, as an image with four axes.

    Parameters
    ----------
    members : sequence of Member
        Images on one grid.
    statistic : str or callable
        What a run becomes a volume by; None keeps all of its volumes.
    max_memory : int
        Bytes that reducing a run may take.

    Raises
    ------
    InvalidInputError
        If there are none, or the first one is no image.
    """

    def __init__(self, members: Sequence[Member], statistic: Any, max_memory: int) -> None:
        if not members:
            raise InvalidInputError("the collection is empty")
        if not callable(statistic) and statistic not in (None, *_STATISTICS):
            names = ", ".join(_STATISTICS)
            raise InvalidInputError(
                f"unknown statistic {statistic!r:.40}; there are {names}, and None for all volumes"
            )
        self._members = tuple(members)
        self._statistic = statistic
        self._max_memory = max_memory
        with members[0].open() as first:
            self._grid = _grid_of(first, members[0])
        lengths = [self._length(member) for member in members]
        self.space = self._grid.with_time(sum(lengths), tr=None)
        self.dtype = self._common_dtype()
        self.header = fit_header(b"", self.space, self.dtype)
        columns: dict[str, list[Any]] = {"path": [one.path for one in members]}
        for name in dict.fromkeys(name for one in members for name in one.entities):
            columns[name] = [one.entities.get(name) for one in members]
        columns["first"] = [sum(lengths[:number]) for number in range(len(lengths))]
        columns["volumes"] = lengths
        columns["tr"] = [one.entry.tr for one in members]
        self._starts: list[float | None] = [None] * len(members)
        columns["start"] = self._starts
        named = "volumes" if statistic is None else getattr(statistic, "__name__", str(statistic))
        self.metadata = {"members": columns, "statistic": named}

    def _length(self, member: Member) -> int:
        """Volumes that a member gives."""
        shape = member.shape or ()
        return shape[3] if self._statistic is None and len(shape) == 4 else 1

    def _common_dtype(self) -> np.dtype[Any]:
        """Type that holds the volumes: that of maps and masks, and floats of what is computed."""
        kinds = [np.dtype(one.entry.dtype) for one in self._members]
        common = np.result_type(*kinds)
        runs = any(len(m.shape or ()) == 4 for m in self._members)
        computed = callable(self._statistic) or (runs and self._statistic is not None)
        if computed and common.kind != "c":
            common = np.result_type(common, np.float32) if common.kind == "f" else np.dtype("f4")
        if common.kind == "b":
            common = np.dtype("u1")
        if common == np.float16:
            common = np.dtype("f4")
        return common.newbyteorder("<")

    def blocks(self, max_bytes: int) -> Iterator[Block]:
        """Volumes, or planes of them, a member after the other, of which one is open at a time."""
        first = 0
        for number, member in enumerate(self._members):
            with member.open() as stored:
                grid = _grid_of(stored, member)
                if not grid.same_grid(self._grid):
                    raise InvalidInputError(
                        f"lies on another grid than {self._members[0].path}", url=member.url
                    )
                if grid.time_points is not None:
                    self._starts[number] = grid.time_offset
                all_volumes = self._statistic is None and grid.time_points is not None
                parts = self._run(stored, max_bytes) if all_volumes else None
                for t0, z0, values in parts or self._planes(stored, member, max_bytes):
                    yield Block(first + t0, z0, values)
            first += self._length(member)

    def _run(self, stored: Any, max_bytes: int) -> Iterator[Block]:
        """All volumes of a member, scaled."""
        source: ImageSource = stored.as_source(max_memory=self._max_memory)
        with streaming(source.blocks(max_bytes)) as blocks:
            for t0, z0, part in blocks:
                values = part
                if source.scaling is not None:
                    times = slice(t0, t0 + len(part))
                    values = source.scaling.apply(part, times=times, axis=0)
                yield Block(t0, z0, values.astype(self.dtype, copy=False))

    def _planes(self, stored: Any, member: Member, max_bytes: int) -> Iterator[Block]:
        """The one volume of a member."""
        x, y, z = self.space.spatial_shape
        thick = max(1, min(z, max_bytes // max(1, x * y * self.dtype.itemsize)))
        volume = self._volume(stored, member)
        for z0 in range(0, z, thick):
            part = np.asarray(volume[:, :, z0 : z0 + thick])
            yield Block(0, z0, part.astype(self.dtype, copy=False).transpose(2, 1, 0)[None])

    def _volume(self, stored: Any, member: Member) -> Any:
        """Volume of a member, in memory, or stored and read plane by plane."""
        if callable(self._statistic):
            volume = np.asarray(self._statistic(stored))
        elif stored.space.time_points is None:
            return stored
        else:
            reduce: Any = getattr(stored, self._statistic)
            volume = np.asarray(reduce(axis=3, max_memory=self._max_memory))
        if volume.shape != self.space.spatial_shape:
            raise InvalidInputError(
                f"its volume has the shape {volume.shape}, expected {self.space.spatial_shape}",
                url=member.url,
            )
        return volume


def _grid_of(stored: StoredObject, member: Member) -> NeuroSpace:
    space = getattr(stored, "space", None)
    if not isinstance(space, NeuroSpace) or not hasattr(stored, "as_source"):
        raise InvalidInputError(
            f"a {type(stored).__name__}, which is no image; choose members with sel(suffix=...)",
            url=member.url,
        )
    return space


def write_group(
    members: Sequence[Member],
    url: str | os.PathLike[str],
    *,
    statistic: Any = "mean",
    max_memory: int | str = 1 << 30,
    **options: Any,
) -> NeuroVec:
    """Write a volume of each member; see `Collection.across`."""
    limit = parse_size(max_memory)
    source = GroupSource(members, statistic, limit // 4)
    given = {name: value for name, value in options.items() if value is not None}
    create: Any = format_class("neurovec").create
    made: NeuroVec = create(source, url, access="time", max_memory=limit, **given)
    return made
