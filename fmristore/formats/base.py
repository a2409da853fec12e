"""What all stored objects share: they hold a store, say what they are, and can be closed."""

from __future__ import annotations

import copy
import html
import inspect
import os
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from typing import Any, ClassVar, Self

from fmristore.formats.describing import describe_numbers
from fmristore.formats.stored import StoredArray
from fmristore_stores.errors import ClosedError, InvalidInputError, SelectionError
from fmristore_stores.location import count_files
from fmristore_stores.opening import Handle, Opened
from fmristore_stores.stats import Stats, stats_of

__all__ = ["BorrowedHandle", "StoredObject"]


class BorrowedHandle(Handle):
    """A hold on the store of another handle, for a part of an object: closing it closes no store.

    Copies and pickles become holds of their own.

    Parameters
    ----------
    owner : Handle
        When it is closed, the borrowed one is too.
    """

    def __init__(self, owner: Handle) -> None:
        self.locator = owner.locator
        self._owner = owner
        self._given_back = False

    @property
    def opened(self) -> Opened:
        """The opened store of this process.

        Raises
        ------
        ClosedError
            After `close`, of this handle or of its owner.
        """
        if self._given_back:
            raise ClosedError("this object was closed; ask for it again", url=self.locator.url)
        return self._owner.opened

    @property
    def closed(self) -> bool:
        """Whether `close` was called, of this handle or of its owner."""
        return self._given_back or self._owner.closed

    def close(self) -> None:
        """Give the store back; harmless when repeated."""
        self._given_back = True

    def __reduce__(self) -> tuple[type[Handle], Any]:
        if self.closed:
            raise ClosedError("a closed object cannot be pickled", url=self.locator.url)
        return Handle, (self.locator,)


class StoredObject(ABC):
    """An object that is read from an opened store.

    It pickles, copies and survives forks, because it holds a `Handle` and no open file.

    Parameters
    ----------
    handle : Handle
        The store.
    """

    format_name: ClassVar[str]
    format_version: ClassVar[tuple[int, int]] = (1, 0)
    holds: ClassVar[str] = ""
    """What the format holds, in one line: see `fmristore.formats.chooser`."""
    use_when: ClassVar[str] = ""
    """When it is the right choice, going on from "use it when"."""

    def __init__(self, handle: Handle) -> None:
        self._handle = handle

    @property
    def url(self) -> str:
        """Path or URL of the store."""
        return self._handle.locator.url

    @property
    def root_attributes(self) -> dict[str, Any]:
        """Attributes of the store's root group."""
        return self._handle.store.root.read_attributes()

    @property
    def closed(self) -> bool:
        """Whether `close` was called."""
        return self._handle.closed

    def close(self) -> None:
        """Release the store; the object cannot be read from then on."""
        self._handle.close()

    @property
    def stored_bytes(self) -> int | None:
        """Bytes of all files or objects of the store, which parts of it share.

        None where they cannot be listed, as over HTTP for Zarr. Of a reference file, its own.

        Raises
        ------
        StorageError
            If the server says no.
        """
        locator = self._handle.locator
        return count_files(locator.url, locator.kind, locator.options)[1]

    @property
    def stats(self) -> Stats:
        """What reading this store has cost in this process: requests, bytes and chunks.

        Counts go on for all objects that read the same URL; ``stats.reset()`` starts them again,
        and ``with obj.stats.watch() as read:`` counts what happens inside the block. The logger
        ``fmristore`` tells of every fetch at level ``DEBUG``.

        Examples
        --------
        >>> with bold.stats.watch() as read:                                  # doctest: +SKIP
        ...     bold[32, 40, 20]
        >>> read.requests, read.bytes_fetched                                 # doctest: +SKIP
        (1, 104857)
        """
        return stats_of(self.url)

    # What a format says of itself: `fmristore info`, `export` and `verify` know no more ----------

    @property
    def primary_arrays(self) -> tuple[StoredArray, ...]:
        """Arrays that hold the numbers, the main one first; every chunk of them must be there."""
        return ()

    @property
    def part_names(self) -> tuple[str, ...]:
        """Names of its runs, scans or maps, if it has such."""
        return ()

    def part(self, name: str) -> Any:
        """One of its runs, scans or maps, which is closed with it.

        Raises
        ------
        SelectionError
            If there is none of that name.
        """
        raise SelectionError(
            f"there is no part {name!r}: a {type(self).__name__} is read as a whole", url=self.url
        )

    def describe(self) -> dict[str, Any]:
        """Tell what it is and what it takes, as plain JSON values.

        Returns
        -------
        dict
            ``class``, facts of the format by name, and of its `primary_arrays` ``layout`` and
            ``sizes``. Formats call the same fact by the same name, such as ``shape``, ``space``,
            ``parcels``: see `fmristore.formats.describing`.

        Raises
        ------
        FormatError
            If something that it tells of is damaged.

        Notes
        -----
        Reads attributes, small arrays and where chunks lie, no numbers.
        """
        return self._described(self._facts())

    def _described(
        self, facts: Mapping[str, Any], arrays: Iterable[StoredArray] | None = None
    ) -> dict[str, Any]:
        """Put facts of a format together with those that all have."""
        numbers = describe_numbers(self.primary_arrays if arrays is None else arrays)
        return {"class": type(self).__name__, **facts, **numbers}

    def check(self) -> None:  # noqa: B027 - most have nothing to do
        """Read the small arrays that opening leaves alone, and see whether they fit each other.

        Raises
        ------
        FormatError
            If they do not, or one is damaged.
        """

    # Going elsewhere ------------------------------------------------------------------------------

    def save(self, url: str | os.PathLike[str], **options: Any) -> Self:
        """Store the same anew: in the other kind of store, encoded otherwise, or as R does.

        Parameters
        ----------
        url : str or path
            New store: ``.h5`` for HDF5, ``.zarr`` for Zarr.
        **options
            As of `create`: ``codec``, ``profile``, ``overwrite``, ``storage_options``,
            ``max_memory``, ``progress``; for images also ``access`` and ``order``. None means
            that it is not given.

        Returns
        -------
        object of this class
            The new store, opened.

        Raises
        ------
        AlreadyExistsError
            If there is something at `url` and ``overwrite`` is false.
        InvalidInputError
            If this format has no such option, or cannot be stored so.

        Notes
        -----
        Numbers are decoded and encoded; `fmristore.transcode` copies encoded chunks where it can,
        and keeps every node of a store.
        """
        create: Any = getattr(type(self), "create", None)
        known = inspect.signature(create).parameters if create is not None else {}
        needless = {"max_memory", "progress"}  # for what is never large
        given = {name: value for name, value in options.items() if value is not None}
        unknown = sorted(set(given) - set(known) - needless)
        if unknown:
            raise InvalidInputError(
                f"a {type(self).__name__} has no option {', '.join(unknown)}", url=self.url
            )
        for name in needless - set(known):
            given.pop(name, None)
        content, facts = self._content()
        again: Self = create(url, *content, **{**facts, **given})
        return again

    def _content(self) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """What `create` must be given, after the URL, to store the same again."""
        raise InvalidInputError(f"a {type(self).__name__} cannot be stored anew", url=self.url)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def __copy__(self) -> Self:
        """Hold the store by a handle of its own: closing one of them leaves the other open."""
        return copy.deepcopy(self)

    def __getstate__(self) -> dict[str, Any]:
        """Leave out what was read since: equal objects pickle to equal bytes."""
        return {name: value for name, value in self.__dict__.items() if name.startswith("_")}

    @abstractmethod
    def _facts(self) -> dict[str, str]:
        """What people want to see of the object, by name."""

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.url!r}, {', '.join(self._facts().values())})"

    def _repr_html_(self) -> str:
        rows = "".join(
            f"<tr><th style='text-align:left'>{html.escape(name)}</th>"
            f"<td>{html.escape(text)}</td></tr>"
            for name, text in {"url": self.url, **self._facts()}.items()
        )
        return f"<b>{type(self).__name__}</b><table>{rows}</table>"
