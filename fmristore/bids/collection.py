"""Many stores as one thing: a table, selections by entity, one function over all of them."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from fmristore.bids.group import write_group
from fmristore.bids.index import Entry, build_index, read_index
from fmristore.bids.member import Member
from fmristore.formats.base import StoredObject
from fmristore.interop.pandas import columns_frame
from fmristore.many.mapping import do_tasks
from fmristore.many.report import RunsReport
from fmristore.many.task import Task
from fmristore.planning.memory import too_little
from fmristore.planning.progress import Progress
from fmristore.planning.text import parse_size
from fmristore.sources.bids_names import long_name, parse_name
from fmristore_stores.errors import InvalidInputError, NotFoundError, SelectionError
from fmristore_stores.io.location import is_local, normalise
from fmristore_stores.protocol import AnyArray
from fmristore_stores.shown import shown_url

if TYPE_CHECKING:
    import pandas as pd

    from fmristore.formats.image.image import NeuroVec

__all__ = ["Collection", "GroupArray"]

_FACTS = ("suffix", "format", "extension", "path")


class Collection:
    """The stores below a folder, by the entities of their BIDS names.

    The folder is opened by its index, a file in ``.fmristore`` that lists the stores and what they
    hold: one request. A local folder is looked through each time, which opens nothing, and stores
    that are new or have changed are read again. Elsewhere the index is taken as it is, and a store
    that is not what it says is an error when it is opened; see `refresh`.

    Parameters
    ----------
    url : str or path
        Folder or URL.
    storage_options : mapping, optional
        Passed to fsspec.
    check : bool, optional
        Look whether the index is right; by default only for local folders.

    Raises
    ------
    NotFoundError
        If there is no such folder.
    MetadataError
        If the index of a folder that is not local is damaged.

    Examples
    --------
    >>> import fmristore as fs
    >>> runs = fs.Collection("ds001-zarr").sel(task="rest", suffix="bold")    # doctest: +SKIP
    >>> runs.table                                                            # doctest: +SKIP
    """

    def __init__(
        self,
        url: str | os.PathLike[str],
        *,
        storage_options: Mapping[str, Any] | None = None,
        check: bool | None = None,
    ) -> None:
        self.url = normalise(url)
        self._options = storage_options
        known = None
        if not (is_local(self.url) if check is None else check):
            known = read_index(self.url, storage_options)
        if known is None:
            known = build_index(self.url, storage_options)
        self._entries = known
        self._members = self._make(known)

    def _make(self, entries: Sequence[Entry]) -> tuple[Member, ...]:
        root = self.url.rstrip("/")
        return tuple(
            Member(
                f"{root}/{entry.path}",
                entry,
                parse_name(entry.path.rpartition("/")[2]),
                self._options,
            )
            for entry in entries
            if entry.format is not None
        )

    def refresh(self) -> Collection:
        """The whole collection once more, after looking which stores are new, gone or changed.

        Costs one request for each folder and store where they are not local; the index is written
        if it was not right.
        """
        return Collection(self.url, storage_options=self._options, check=True)

    def _with(self, members: Sequence[Member]) -> Collection:
        part = object.__new__(Collection)
        part.url, part._options, part._entries = self.url, self._options, self._entries
        part._members = tuple(members)
        return part

    # What there is --------------------------------------------------------------------------

    @property
    def members(self) -> tuple[Member, ...]:
        """The stores, sorted by their paths; nothing is opened."""
        return self._members

    @property
    def unreadable(self) -> dict[str, str]:
        """Files that are called like stores and are none that can be opened, and why, by path."""
        return {e.path: e.error or "" for e in self._entries if e.format is None}

    def __len__(self) -> int:
        return len(self._members)

    def __iter__(self) -> Iterator[Member]:
        return iter(self._members)

    def __getitem__(self, index: int | str) -> Member:
        if isinstance(index, str):
            for member in self._members:
                if member.path == index:
                    return member
            raise NotFoundError(f"no member has the path {index!r:.200}", url=self.url)
        try:
            return self._members[index]
        except IndexError:
            raise SelectionError(f"there are {len(self)} members", url=self.url) from None

    @property
    def entities(self) -> dict[str, list[str]]:
        """Values of each entity that occurs, sorted, by its long name."""
        found: dict[str, set[str]] = {}
        for member in self._members:
            for name, value in member.entities.items():
                found.setdefault(name, set()).add(value)
        return {name: sorted(values) for name, values in found.items()}

    @property
    def table(self) -> pd.DataFrame:
        """One row for each member: its entities, what it holds, and its path.

        Returns
        -------
        pandas.DataFrame

        Raises
        ------
        DependencyError
            If pandas is not installed.
        """
        columns: dict[str, list[Any]] = {
            name: [member.entities.get(name) for member in self._members] for name in self.entities
        }
        columns["suffix"] = [member.fact("suffix") for member in self._members]
        for name in ("format", "shape", "dtype", "tr", "path"):
            columns[name] = [getattr(member.entry, name) for member in self._members]
        return columns_frame(columns)

    def sel(self, **entities: Any) -> Collection:
        """Members with some values of entities.

        Parameters
        ----------
        **entities
            By long or short name, or ``suffix``, ``format``, ``extension``, ``path``: a value, a
            list of values, or None for members without it. A number stands for any text of that
            number: 1 for ``1`` and ``01``.

        Raises
        ------
        InvalidInputError
            If no member of the collection has such an entity.

        Examples
        --------
        >>> runs.sel(subject=["01", "02"], task="rest", desc=None)            # doctest: +SKIP
        """
        known = {*self.entities, *_FACTS}
        for name in entities:
            if long_name(name) not in known:
                raise InvalidInputError(
                    f"no member has an entity {name!r:.80}; there are {', '.join(sorted(known))}",
                    url=self.url,
                )
        return self._with(
            [
                member
                for member in self._members
                if all(_fits(member.fact(name), value) for name, value in entities.items())
            ]
        )

    def __repr__(self) -> str:
        counts = [
            f"{len(values)} {name}{'' if len(values) == 1 else 's'}"
            for name, values in self.entities.items()
            if name in ("subject", "session", "task")
        ]
        text = ", ".join([f"{len(self)} members", *counts])
        return f"Collection({shown_url(self.url)!r}, {text})"

    # What is done with all of them ----------------------------------------------------------

    def map(
        self,
        function: Callable[..., Any],
        *,
        executor: Any = None,
        jobs: int = 1,
        progress: Progress | None = None,
        **options: Any,
    ) -> RunsReport:
        """Call a function with each member, opened where it is called; see `fmristore.map_runs`.

        Parameters
        ----------
        function : callable
            Takes the stored object; what it returns comes back, so let that be small.
        executor, jobs, progress
            As of `fmristore.map_runs`.
        **options
            Passed to every call.

        Returns
        -------
        RunsReport
            By the paths of the members.
        """
        tasks = [
            Task(name=member.path, function=_call, args=(function, member), options=options)
            for member in self._members
        ]
        return do_tasks(tasks, executor=executor, jobs=jobs, progress=progress)

    def series(self, parcels: Any = None) -> dict[str, AnyArray]:
        """Series of parcels of each member, by its path: runs keep their own lengths.

        Parameters
        ----------
        parcels : int, str or sequence of them, optional
            As of `ParcellatedScanSummary.series`; all by default.

        Returns
        -------
        dict of str to ndarray, (T, K)

        Raises
        ------
        InvalidInputError
            If a member is no summary by parcels.
        """
        found = {}
        for member in self._members:
            with member.open() as stored:
                found[member.path] = np.asarray(_summary(stored, member).series(parcels))
        return found

    def stack(self, *, max_memory: int | str = 1 << 30) -> GroupArray:
        """Series of parcels of all members as one array, run x time x parcel.

        Parameters
        ----------
        max_memory : int or str
            Bytes that the array may take.

        Returns
        -------
        GroupArray

        Raises
        ------
        InvalidInputError
            If runs differ in length or parcels: nothing is padded or cut. `sel` takes those of one
            length, `series` leaves each its own.
        MemoryLimitError
            If they do not fit.
        """
        if not self._members:
            raise InvalidInputError("the collection is empty", url=self.url)
        _check_equal(self._members)
        shape = (len(self), *(self._members[0].shape or ()))
        need = math.prod(shape) * 8
        if need > (limit := parse_size(max_memory)):
            raise too_little(f"the array of shape {shape} takes {need} bytes", limit, need)
        names: list[str] | None = None
        values: list[AnyArray] = []
        for member in self._members:
            with member.open() as stored:
                here = list(_summary(stored, member).names)
                if names is not None and here != names:
                    raise InvalidInputError("has other parcels than the first run", url=member.url)
                names = here
                values.append(stored.to_numpy())
        return GroupArray(np.stack(values), self._members, tuple(names or ()))

    def across(
        self,
        url: str | os.PathLike[str],
        *,
        statistic: Any = "mean",
        codec: str | None = None,
        overwrite: bool = False,
        storage_options: Mapping[str, Any] | None = None,
        max_memory: int | str = 1 << 30,
        progress: Progress | None = None,
    ) -> NeuroVec:
        """Write one volume of each member into one store, so that a voxel of all is one read.

        The fourth axis of the store is the member, as where statistical packages merge maps; along
        it the values lie side by side, and all values of a voxel are in one chunk (of up to some
        thousand members). Volumes are read one after the other and transposed on the way.

        Parameters
        ----------
        url : str or path
            New store: ``.h5`` or ``.zarr``.
        statistic : {"mean", "std", "min", "max"}, callable or None
            What a run becomes a volume by; a callable gets the stored object, and returns
            (X, Y, Z). A member of three axes is taken as it is, unless this is a callable. None
            keeps time: all volumes of each run, one run after the other, whatever their lengths.
        codec : str, optional
            As of `fmristore.convert`.
        overwrite : bool
            Replace what is there, once the new store is complete.
        storage_options : mapping, optional
            Passed to fsspec, for `url`.
        max_memory : int or str
            Bytes that this may take; what has to be transposed and does not fit passes through a
            temporary file.
        progress : callable, optional
            Called with the bytes done and in all.

        Returns
        -------
        NeuroVec
            (X, Y, Z, N), opened; ``metadata["members"]`` has the paths and entities in order, and
            of each member its ``first`` volume along the fourth axis, its ``volumes``, ``tr`` and
            ``start`` in seconds (of its own time, NIfTI's toffset), None for those without time.

        Raises
        ------
        InvalidInputError
            If members lie on different grids, are no images, or there are none.
        AlreadyExistsError
            If there is something at `url` and `overwrite` is false.
        """
        return write_group(
            self._members,
            url,
            statistic=statistic,
            codec=codec,
            overwrite=overwrite,
            storage_options=storage_options,
            max_memory=max_memory,
            progress=progress,
        )


@dataclass(frozen=True, slots=True)
class GroupArray:
    """Series of many runs of one length.

    Parameters
    ----------
    values : ndarray, (run, time, parcel)
        One row for each member.
    members : tuple of Member
        The runs, in order of the first axis.
    parcels : tuple of str
        Names along the last axis.
    """

    values: AnyArray
    members: tuple[Member, ...]
    parcels: tuple[str, ...]

    @property
    def runs(self) -> tuple[str, ...]:
        """Paths of the runs."""
        return tuple(member.path for member in self.members)

    @property
    def subjects(self) -> tuple[str | None, ...]:
        """Subject of each run."""
        return tuple(member.entities.get("subject") for member in self.members)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> AnyArray:  # noqa: FBT001
        return np.array(self.values, dtype=dtype, copy=copy)


def _fits(found: str | None, wanted: Any) -> bool:
    if isinstance(wanted, list | tuple | set | frozenset):
        return any(_fits(found, one) for one in wanted)
    if isinstance(wanted, int) and not isinstance(wanted, bool):
        return found is not None and found.isdecimal() and int(found) == wanted
    return bool(found == wanted)


def _call(function: Callable[..., Any], member: Member, **options: Any) -> Any:
    """Call a function with a member that is open as long as that takes."""
    with member.open() as stored:
        return function(stored, **options)


def _summary(stored: StoredObject, member: Member) -> Any:
    if stored.format_name != "parcellatedscansummary":
        raise InvalidInputError(
            f"a {type(stored).__name__}: expected one series for each parcel, as parcellate makes "
            "them; choose them with sel(format='parcellatedscansummary')",
            url=member.url,
        )
    return stored


def _check_equal(members: Sequence[Member]) -> None:
    lengths: dict[Any, list[str]] = {}
    for member in members:
        lengths.setdefault(member.shape, []).append(member.path)
    if len(lengths) > 1:
        kinds = "; ".join(
            f"{shape}: {len(paths)}, such as {paths[0]}" for shape, paths in lengths.items()
        )
        raise InvalidInputError(f"the runs differ in shape, and are not padded or cut: {kinds}")
