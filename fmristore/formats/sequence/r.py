"""Sequences of runs of the R package: ``NeuroVecSeq``."""

from __future__ import annotations

import math
import re
from typing import Any

import numpy as np

from fmristore.formats.base import StoredArray
from fmristore.formats.image.layout import ImageContent, ImageOptions, image_spec
from fmristore.formats.image.r import RSource, read_r_affine, read_r_run, write_r_run
from fmristore.formats.new_arrays import write_plain
from fmristore.formats.r.common import RLayout, node_name, write_r_space
from fmristore.formats.registry import StoreView
from fmristore.formats.sequence.layout import Runs, SequenceContent, shifted
from fmristore.planning.progress import Progress
from fmristore_stores.errors import InvalidInputError, MetadataError, NotFoundError
from fmristore_stores.opening import Handle
from fmristore_stores.protocol import Store

__all__ = ["RSequenceLayout", "read_r_content", "write_sequence"]


class RSequenceLayout(RLayout):
    """``NeuroVecSeq``."""

    classes = frozenset({"H5NeuroVecSeq", "NeuroVecSeq"})

    def has_nodes(self, view: StoreView) -> bool:
        """Docstring inherited."""
        names = set(view.children)
        if "scans" not in names or {"cluster_map", "basis"} & names:
            return False
        return {"dim", "trans"} <= view.names("space")

    def read(self, handle: Handle) -> SequenceContent:
        """Docstring inherited."""
        return read_r_content(handle)

    def write(
        self, store: Store, content: Any, options: Any, *, progress: Progress | None = None
    ) -> None:
        """Docstring inherited."""
        write_sequence(store, content, options, progress=progress)


def read_r_content(handle: Handle) -> SequenceContent:
    """Find the runs of a sequence that the R package wrote, in natural order of their names.

    Raises
    ------
    MetadataError
        If a node is missing or wrong.
    """
    url = handle.locator.url
    try:
        scans = handle.store.root.group("scans")
    except NotFoundError as error:
        raise MetadataError(f"the runs are missing: {error.message}", url=url) from error
    names = [name for name, child in scans.children().items() if child.kind != "array"]
    names.sort(key=_natural)
    if not names:
        raise MetadataError("there are no runs", url=url, node="scans")
    affine = read_r_affine(handle)
    images: list[ImageContent] = []
    for name in names:
        path = f"scans/{name}/data"
        image = read_r_run(handle, path, affine, tr=_read_tr(handle, name))
        if image.space.time_points is None:
            raise MetadataError("has no axis of time", url=url, node=path)
        if images and image.space.spatial_shape != images[0].space.spatial_shape:
            raise MetadataError("has volumes of another shape than other runs", url=url, node=path)
        images.append(image)
    return SequenceContent(names=tuple(names), images=tuple(images))


def _natural(name: str) -> list[tuple[int, int, str]]:
    """Key that sorts names as people count them: R's ``scan_2`` before its ``scan_10``."""
    parts = re.split(r"([0-9]+)", name)
    return [(1, int(part), "") if part.isdecimal() else (0, 0, part) for part in parts]


def _read_tr(handle: Handle, name: str) -> float | None:
    """Repetition time in seconds, if the metadata of a run have one."""
    path = f"scans/{name}/metadata/TR"
    try:
        handle.store.root.array(path)
    except NotFoundError:
        return None
    value = StoredArray(handle, path).read_small(1)
    if value.dtype.kind not in "iuf" or value.size != 1:
        return None
    seconds = float(value.reshape(-1)[0])
    return seconds if math.isfinite(seconds) and seconds > 0 else None


def write_sequence(
    store: Store, runs: Runs, options: ImageOptions, *, progress: Progress | None = None
) -> None:
    """Write runs as the R package does, into an empty HDF5 file.

    Parameters
    ----------
    store : Store
        New and writable.
    runs : mapping of str to ImageSource
        By name, in their order.
    options : ImageOptions
        Canonical order, and a codec that HDF5 has without plug-ins.
    progress : callable, optional
        Called with the bytes of values done and in all.

    Raises
    ------
    InvalidInputError
        If R could not read the file, or would read the runs in another order.
    """
    if list(runs) != sorted(runs) or list(runs) != sorted(runs, key=_natural):
        raise InvalidInputError(
            f"R reads runs in order of their names, {', '.join(sorted(runs))}: choose names that "
            "sort in the order of the runs, such as run_01 ... run_10"
        )
    for name in runs:
        node_name(name, "a run")
    sources = {name: RSource(source) for name, source in runs.items()}
    nbytes = {name: image_spec(source, options).nbytes for name, source in sources.items()}
    scans = store.root.create_group("scans")
    done = 0
    for name, source in sources.items():
        scan = scans.create_group(name, {"n_time": [source.space.time_points]})
        if source.space.tr is not None:
            metadata = scan.create_group("metadata")
            write_plain(metadata, "TR", (), np.array(source.space.tr))
        report = shifted(progress, done, sum(nbytes.values()))
        write_r_run(scan, "data", source, options, progress=report)
        done += nbytes[name]
    first = next(iter(sources.values()))
    write_r_space(store.root.create_group("space"), first.space.without_time(), names=False)
    store.root.write_attributes({"rtype": ["NeuroVecSeq"], "n_scans": [len(sources)]})
