"""Walking a store and checking everything in it."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, TypedDict, Unpack, overload

from fmristore.formats.nodes import missing_of
from fmristore.formats.registry import WRITER
from fmristore.lists import Places, of_many
from fmristore.model.digest import is_digest
from fmristore.planning.options import ManyOptions
from fmristore.planning.progress import Progress
from fmristore.planning.text import parse_size
from fmristore.transcoding.tree import Tree, walk
from fmristore.verification.arrays import DAMAGE, ArrayCheck
from fmristore.verification.content import Content, open_content
from fmristore.verification.report import Findings, VerifyReport
from fmristore_stores.errors import FmristoreError
from fmristore_stores.opening import locate, open_store
from fmristore_stores.protocol import Array, Store
from fmristore_stores.publishing.leftovers import find_leftovers

if TYPE_CHECKING:
    from fmristore.many import RunsReport

__all__ = ["verify"]


class _VerifyOptions(TypedDict, total=False):
    """Options of `verify`."""

    deep: bool
    storage_options: Mapping[str, Any] | None
    max_memory: int | str
    progress: Progress | None


class _VerifyMany(_VerifyOptions, ManyOptions, total=False):
    """Options of `verify` for many stores."""


@overload
def verify(url: Places, **options: Unpack[_VerifyMany]) -> RunsReport: ...
@overload
def verify(url: str | os.PathLike[str], **options: Unpack[_VerifyOptions]) -> VerifyReport: ...
@of_many("url")
def verify(
    url: Any,
    *,
    deep: bool = False,
    storage_options: Mapping[str, Any] | None = None,
    max_memory: int | str = 1 << 28,
    progress: Progress | None = None,
) -> Any:
    """Check that a store is whole; any HDF5 file or Zarr store, also one of other software.

    Parameters
    ----------
    url : str or path, or a list or mapping of them
        HDF5 file or Zarr store, local or on any filesystem that fsspec knows. Many are checked as
        `fmristore.map_runs` does it.
    deep : bool
        Decode every chunk, and compare the values of every array with its digest, if it has one.
    storage_options : mapping, optional
        Passed to fsspec.
    max_memory : int or str
        Bytes that chunks may take while they are decoded.
    progress : callable, optional
        Called with the bytes of values checked and in all.

    Returns
    -------
    VerifyReport
        Damage is reported here, not raised. It is true if there is none.
    RunsReport
        For many stores: their reports by name in `RunsReport.results`; those that could not be
        opened have failed.

    Raises
    ------
    NotFoundError
        If there is nothing at `url`.
    UnknownFormatError
        If it is neither HDF5 nor Zarr.
    CorruptDataError, MetadataError
        If it is so damaged that it cannot be opened at all.

    Notes
    -----
    Without `deep`, reads metadata, chunk tables, indexes of shards and sizes of objects, and what
    is small: headers, affines, times, masks, voxels, labels and parcels. Files of the R package
    are checked as those of fmristore are. Kinds of problems:

    - ``group``, ``array``: a node that cannot be read; ``array`` also if it does not even say
      what it is
    - ``not-found``: a node of the format that is missing, or was written and is missing
    - ``consolidated``: a Zarr node of which the root's copy of all metadata says something else
    - ``chunk-index``: a chunk table, or index of a shard, that is damaged or points elsewhere
    - ``missing-chunk``: a chunk of the data of a format that is not there; where an array
      has very many chunks, all of them in one line
    - ``corrupt-chunk``: a chunk that has a wrong size, or cannot be read or decoded
    - ``unreadable``: data of a format that cannot be read here, whether or not they are sound: they
      lie in another file, or in an encoding that is not known or not installed
    - ``memory-limit``: what takes more memory than there is, or than an honest file needs; see
      `fmristore_stores.limits`
    - ``digest``: values that are not those that were written, or a digest of another array
    - ``header``: a NIfTI header that is damaged, or contradicts the image
    - ``times``: times of volumes that contradict the repetition time
    - the ``kind`` of an error of `fmristore.errors` that was met otherwise: ``metadata`` where
      nodes or attributes do not fit the format or each other

    Notes tell what is no damage: chunks of other arrays that were never written, links that lead
    nowhere or to other files, what killed writers left beside the store, what could not be
    checked and why.

    What has no digest, because other software wrote it, or fmristore in version 1.0 of the format,
    can be decoded or not; whether it is what was written, nobody can tell.

    Examples
    --------
    >>> import fmristore as fs
    >>> report = fs.verify("sub-01_task-rest_bold.h5", deep=True)              # doctest: +SKIP
    >>> report.ok                                                              # doctest: +SKIP
    True
    """
    max_memory = parse_size(max_memory)
    started = time.perf_counter()
    findings = Findings()
    with open_store(url, storage_options=storage_options) as store:
        tree = walk(store.root, tolerant=True)
        _report_tree(tree, findings)
        _check_metadata(store, tree, findings)
        _report_leftovers(store.url, storage_options, findings)
        locator = locate(url, storage_options=storage_options)
        content = open_content(locator, store, tree, findings)
        _check_arrays(tree, content, findings, deep=deep, max_memory=max_memory, progress=progress)
    return findings.report(
        url=store.url,
        name=content.format,
        deep=deep,
        seconds=time.perf_counter() - started,
    )


def _check_arrays(
    tree: Tree,
    content: Content,
    findings: Findings,
    *,
    deep: bool,
    max_memory: int,
    progress: Progress | None,
) -> None:
    """Check the chunks of all arrays; those of the data must be there, and equal their digest."""
    checked = {
        path: array
        for path, array in tree.arrays.items()
        if not path.startswith(content.unfinished)
    }
    done = _Done(sum(array.spec.nbytes for array in checked.values()), progress)
    for path, array in checked.items():
        required = path in content.data
        check = ArrayCheck(array, findings, required=required, max_memory=max_memory)
        findings.arrays += 1
        whole = check.locate(None if deep else done.add)
        if required and not whole and findings.count("unreadable", path):
            continue
        digest = _digest(array, findings, required=required)
        compare = deep and whole and check.fits and digest is not None
        if deep and not (compare and check.compare(str(digest), done.add)):
            check.decode(done.add)


def _digest(array: Array, findings: Findings, *, required: bool) -> str | None:
    """Recorded digest of an array; None if there is none, or it is not one of this project's.

    Other software may call anything so: only of the data of a format it must be one.
    """
    digest = array.read_attributes().get("digest")
    if digest is None and required:
        findings.note("no-digest", array.path, "no digest was recorded")
    return str(digest) if (required and digest is not None) or is_digest(digest) else None


class _Done:
    """Counts bytes for a progress callback."""

    def __init__(self, total: int, progress: Progress | None) -> None:
        self._total = total
        self._progress = progress
        self._done = 0

    def add(self, count: int) -> None:
        """Count bytes and report."""
        self._done = min(self._total, self._done + count)
        if self._progress is not None:
            self._progress(self._done, self._total)


def _check_metadata(store: Store, tree: Tree, findings: Findings) -> None:
    """Report where a store keeps metadata twice, and not alike."""
    unreadable = {item.path for item in tree.unreadable}
    try:
        found = store.contradictions([*tree.groups, *tree.arrays, *unreadable])
    except DAMAGE as error:
        findings.error(error, "")
        return
    for node, text in found:
        if node not in unreadable:
            findings.problem("consolidated", node, text)


def _report_leftovers(
    url: str, storage_options: Mapping[str, Any] | None, findings: Findings
) -> None:
    """Report what writers that were killed left beside the store or in it."""
    with contextlib.suppress(FmristoreError):
        for text in find_leftovers(url, storage_options):
            findings.note("leftover", "", f"{text}; the next writer of this store removes it")


def _report_tree(tree: Tree, findings: Findings) -> None:
    """Report what could not be read, and which links lead nowhere.

    An array of a kind that cannot be used is sound if other software made the store. In one of ours
    there is none: its metadata were changed.
    """
    ours = tree.groups.get("", {}).get(WRITER) is not None
    for item in tree.unreadable:
        damaged = item.damaged or (ours and item.kind == "array")
        report = findings.problem if damaged else findings.note
        report(item.kind, item.path, item.reason)
    if ours:
        _report_removed(tree, findings)
    for path, target in tree.links.items():
        known = target in tree.arrays or target in tree.groups
        if not known and not any(f"{target}/".startswith(f"{link}/") for link in tree.links):
            findings.note("link", path, f"it leads to /{target}, where nothing is")


def _report_removed(tree: Tree, findings: Findings) -> None:
    """Report nodes that a group was written with and has no longer."""
    names: dict[str, set[str]] = {}
    for node in (*tree.groups, *tree.arrays, *(item.path for item in tree.unreadable)):
        folder, _, name = node.rpartition("/")
        names.setdefault(folder, set()).add(name)
    for path, attributes in tree.groups.items():
        for name in missing_of(names.get(path, ()), attributes):
            findings.problem("not-found", f"{path}/{name}".strip("/"), "was written and is missing")
