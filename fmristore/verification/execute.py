"""Walking a store and checking everything in it."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from typing import Any

from fmristore.formats.dense import DenseImage
from fmristore.formats.registry import FORMAT, find_format, formats
from fmristore.progress import Progress
from fmristore.transcoding.tree import Tree, walk
from fmristore.verification.arrays import DAMAGE, UNABLE, ArrayCheck
from fmristore.verification.images import FixedHandle, check_image
from fmristore.verification.report import Findings, VerifyReport
from fmristore_stores.errors import NotFoundError, UnknownFormatError, UnsupportedVersionError
from fmristore_stores.opening import locate, open_store
from fmristore_stores.protocol import Store

__all__ = ["verify"]

_IMAGE_NODES = ("0", "affine", "nifti", "t")


def verify(
    url: str | os.PathLike[str],
    *,
    deep: bool = False,
    storage_options: Mapping[str, Any] | None = None,
    max_memory: int = 1 << 28,
    progress: Progress | None = None,
) -> VerifyReport:
    """Check that a store is whole; any HDF5 file or Zarr store, also one of other software.

    Parameters
    ----------
    url : str or path
        HDF5 file or Zarr store, local or on any filesystem that fsspec knows.
    deep : bool
        Decode every chunk, and compare the recorded digest of an image with its numbers.
    storage_options : mapping, optional
        Passed to fsspec.
    max_memory : int
        Bytes that chunks may take while they are decoded.
    progress : callable, optional
        Called with the bytes of numbers checked and in all.

    Returns
    -------
    VerifyReport
        Damage is reported here, not raised.

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
    Without `deep`, reads metadata, chunk tables, indexes of shards and sizes of objects, and the
    small arrays of an image: header, affine and times. Kinds of problems:

    - ``group``, ``array``: a node that cannot be read
    - ``chunk-index``: a chunk table, or index of a shard, that is damaged or points elsewhere
    - ``missing-chunk``: a chunk of an image that is not there
    - ``corrupt-chunk``: a chunk that has a wrong size, or cannot be read or decoded
    - ``digest``: numbers that are not those that were written
    - ``header``: a NIfTI header that is damaged, or contradicts the image
    - ``times``: times of volumes that contradict the repetition time
    - the ``kind`` of an error of `fmristore.errors` that was met otherwise

    Notes tell what is no damage: chunks of other arrays that were never written, links that lead
    nowhere or to other files, what could not be checked and why.

    Numbers without a digest can be decoded or not; whether they are the ones that were written,
    nobody can tell.

    Examples
    --------
    >>> import fmristore as fs
    >>> report = fs.verify("sub-01_task-rest_bold.h5", deep=True)              # doctest: +SKIP
    >>> report.ok                                                              # doctest: +SKIP
    True
    """
    started = time.perf_counter()
    findings = Findings()
    with open_store(url, storage_options=storage_options) as store:
        tree = walk(store.root, tolerant=True)
        _report_tree(tree, findings)
        cls = _image_class(tree, store.url, findings)
        image = None
        if cls is not None:
            _add_image_nodes(tree, store, findings)
            handle = FixedHandle(locate(url, storage_options=storage_options), store)
            image = check_image(cls, handle, tree.arrays, findings)
        done = _Done(sum(array.spec.nbytes for array in tree.arrays.values()), progress)
        for path, array in tree.arrays.items():
            numbers = cls is not None and path == "0"
            check = ArrayCheck(array, findings, required=numbers, max_memory=max_memory)
            findings.arrays += 1
            whole = check.locate(None if deep else done.add)
            if deep and not (numbers and whole and check.fits and _digested(image, check, done)):
                check.decode(done.add)
    name = tree.groups.get("", {}).get(FORMAT)
    return findings.report(
        url=store.url,
        name=None if name is None else str(name),
        deep=deep,
        seconds=time.perf_counter() - started,
    )


class _Done:
    """Counts bytes for a progress callback."""

    def __init__(self, total: int, progress: Progress | None) -> None:
        self._total = total
        self._progress = progress
        self._done = 0

    def add(self, count: int) -> None:
        """Count bytes and tell."""
        self._done = min(self._total, self._done + count)
        if self._progress is not None:
            self._progress(self._done, self._total)


def _digested(image: DenseImage | None, check: ArrayCheck, done: _Done) -> bool:
    """Whether the numbers could be read and compared with a recorded digest."""
    if image is None or image.digest is None:
        return False
    return check.compare(image.digest, done.add)


def _report_tree(tree: Tree, findings: Findings) -> None:
    """Tell what could not be read, and which links lead nowhere."""
    for item in tree.unreadable:
        tell = findings.problem if item.damaged else findings.note
        tell(item.kind, item.path, item.reason)
    for path, target in tree.links.items():
        known = target in tree.arrays or target in tree.groups
        if not known and not any(f"{target}/".startswith(f"{link}/") for link in tree.links):
            findings.note("link", path, f"it leads to /{target}, where nothing is")


def _image_class(tree: Tree, url: str, findings: Findings) -> type[DenseImage] | None:
    """Class of the image that the store says it holds; None if it says something else."""
    attributes = tree.groups.get("", {})
    if FORMAT not in attributes:
        return None
    try:
        cls = find_format(attributes, url=url)
    except (UnknownFormatError, UnsupportedVersionError) as error:
        if attributes[FORMAT] in tuple(formats()) and isinstance(error, UnknownFormatError):
            findings.error(error, "")
        else:
            findings.note("not-checked", "", f"only the chunks were checked: {error.message}")
        return None
    return cls if issubclass(cls, DenseImage) else None


def _add_image_nodes(tree: Tree, store: Store, findings: Findings) -> None:
    """Find the nodes of an image whose group cannot be listed because one of them is damaged."""
    if all(item.path or item.kind != "group" for item in tree.unreadable):
        return
    for name in _IMAGE_NODES:
        try:
            tree.arrays.setdefault(name, store.root.array(name))
        except NotFoundError:
            continue
        except (*DAMAGE, *UNABLE) as error:
            findings.error(error, name)
