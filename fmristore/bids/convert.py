"""Whole datasets of BIDS as stores."""

from __future__ import annotations

import contextlib
import fnmatch
import json
import os
import re
import shutil
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from fmristore.api import convert
from fmristore.bids.dataset import (
    Dataset,
    read_sidecars,
    read_table,
    scan_dataset,
    sidecars_of,
    tables_of,
)
from fmristore.bids.index import JOURNAL, build_index
from fmristore.many.mapping import do_tasks
from fmristore.many.report import RunsReport
from fmristore.many.task import Task
from fmristore.planning.layout import Access
from fmristore.planning.progress import Progress
from fmristore.sources.bids_names import parse_name
from fmristore.sources.images import NiftiSource
from fmristore_stores._version import __version__
from fmristore_stores.errors import (
    AlreadyExistsError,
    InvalidInputError,
    MemoryLimitError,
    NotFoundError,
)
from fmristore_stores.io.local_files import lies_in, open_ordinary
from fmristore_stores.io.location import exists, filesystem, is_local, normalise
from fmristore_stores.io.sources import storage_error
from fmristore_stores.io.whole import read_whole
from fmristore_stores.publishing.publish import publish_file, publish_folder

__all__ = ["SUFFIXES", "Rest", "convert_bids", "convert_file", "copy_files"]

SUFFIXES = (
    *("bold", "cbv", "sbref", "boldref", "asl", "mask", "dseg", "probseg", "statmap"),
    *("mean", "std", "tsnr"),
)
"""Suffixes of the images that become stores."""

Rest = Literal["skip", "copy", "link"]
"""Treatment of files that are neither converted nor small text of BIDS."""

_IMAGES = (".nii", ".nii.gz")
_TEXTS = (".json", ".tsv", ".bval", ".bvec")
_ABOUT = ("README", "CHANGES", "LICENSE", "CITATION.cff", ".bidsignore")
_KEPT_APART = ("sourcedata", "code", "stimuli", "log", "logs")
_MOST_TEXT = 64 << 20
_BLOCK = 4 << 20
"""Bytes that are copied or compared at a time."""
_IMAGE_NAME = re.compile(r"sub-[A-Za-z0-9_+\-]+\.nii(?:\.gz)?", re.ASCII)
_RENAMED = ("_scans.tsv", ".json")
"""Files in which names of images occur: those of converted ones become those of their stores."""


def convert_bids(  # noqa: PLR0913
    source: str | os.PathLike[str],
    url: str | os.PathLike[str],
    *,
    to: Literal["ome.zarr", "h5"] = "ome.zarr",
    derivatives: bool = False,
    suffixes: Collection[str] = SUFFIXES,
    confounds: Sequence[str] = ("*",),
    rest: Rest = "skip",
    resume: bool = False,
    overwrite: bool = False,
    access: Access | None = None,
    codec: str | None = None,
    max_memory: int | str = 1 << 30,
    storage_options: Mapping[str, Any] | None = None,
    executor: Any = None,
    jobs: int = 1,
    progress: Progress | None = None,
) -> RunsReport:
    """Turn the images of a BIDS dataset into stores with BIDS names; the source is only read.

    Runs, masks, segmentations and statistical maps, raw or of fMRIPrep, become stores of their
    name with another extension. Metadata of a store has all that its sidecars say, with
    inheritance, and the tables ``events`` and ``confounds`` of a run; sidecars and tables are also
    copied as files, to the same places.

    Parameters
    ----------
    source : str or path
        Folder of the dataset.
    url : str or path
        Folder or URL of the new one; not inside `source`.
    to : {"ome.zarr", "h5"}
        Kind of the stores; ``_bold.ome.zarr`` is a name that BIDS knows.
    derivatives : bool
        Convert the datasets in the folder ``derivatives``, too.
    suffixes : collection of str
        Of the images that become stores.
    confounds : sequence of str
        Names of the columns of confounds that a store keeps, or patterns such as ``"trans_*"``.
    rest : {"skip", "copy", "link"}
        What becomes of all other files; links are symbolic, and both places must be local.
    resume : bool
        Go on with a conversion that was begun: skip what is done and whose files are the same.
    overwrite : bool
        Replace stores that are there.
    access, codec
        As of `fmristore.convert`.
    max_memory : int or str
        Bytes that each conversion may take; several at a time take that much each.
    storage_options : mapping, optional
        Passed to fsspec, for `url`.
    executor, jobs
        As of `fmristore.map_runs`.
    progress : callable, optional
        Called with the number of runs done and in all.

    Returns
    -------
    RunsReport
        What became of each image, by its path in the new dataset. One that failed stopped no
        other one.

    Raises
    ------
    NotFoundError
        If there is no dataset, or no image in it.
    AlreadyExistsError
        If a conversion to there was begun before, and neither `resume` nor `overwrite` is true.
    InvalidInputError
        If the new dataset would lie inside of the source, or an option is unknown.

    Examples
    --------
    >>> import fmristore as fs
    >>> report = fs.convert_bids("ds001", "ds001-zarr", jobs=4)               # doctest: +SKIP
    """
    root, target = Path(normalise(source)), normalise(url)
    _check(root, target, to, rest)
    datasets = scan_dataset(root, derivatives=derivatives)
    journal = _join(target, JOURNAL)
    if exists(journal, storage_options) and not resume:
        if not overwrite:
            raise AlreadyExistsError(
                "a conversion to there was begun: pass resume=True to go on with it, or "
                "overwrite=True to begin again",
                url=target,
            )
        with publish_file(journal, overwrite=True, storage_options=storage_options) as path:
            Path(path).touch()
    options = {
        "access": access,
        "codec": codec,
        "overwrite": overwrite,
        "max_memory": max_memory,
        "storage_options": storage_options,
    }
    images = [one for dataset in datasets for one in _images(dataset, to, frozenset(suffixes))]
    if not images:
        raise NotFoundError(
            f"no image of BIDS that ends in one of {', '.join(sorted(suffixes))}", url=str(root)
        )
    renamed = {Path(image.path).name: Path(image.place).name for image in images}
    done = frozenset(image.path for image in images)
    beside = _Beside(target, done, renamed, rest, overwrite or resume, storage_options)
    converting = [image.task(target, tuple(confounds), options) for image in images]
    report = do_tasks(
        [*converting, *(task for dataset in datasets for task in beside.tasks(dataset))],
        executor=executor,
        jobs=jobs,
        journal=journal,
        storage_options=storage_options,
        progress=progress,
    )
    build_index(target, storage_options)
    names = {task.name for task in converting}
    shown = (one for one in report if one.name in names or one.state == "failed")
    return RunsReport(tuple(shown))


def _check(root: Path, target: str, to: str, rest: str) -> None:
    if not is_local(str(root)):
        raise InvalidInputError("a dataset is converted from a local folder", url=str(root))
    if to not in ("ome.zarr", "h5"):
        raise InvalidInputError(f"to={to!r:.40}: expected 'ome.zarr' or 'h5'")
    if rest not in ("skip", "copy", "link"):
        raise InvalidInputError(f"rest={rest!r:.40}: expected 'skip', 'copy' or 'link'")
    if is_local(target):
        if lies_in(target, os.path.realpath(root)):
            raise InvalidInputError(
                "lies in the dataset that is converted, which stays as it is: choose another place",
                url=target,
            )
    elif rest == "link":
        raise InvalidInputError("links are possible in a local folder only", url=target)


@dataclass(frozen=True, slots=True)
class _Image:
    """One image to convert."""

    path: str
    """Path of the file."""
    place: str
    """Path of its store in the new dataset."""
    sidecars: tuple[str, ...]
    tables: Mapping[str, str]

    def task(self, target: str, confounds: tuple[str, ...], options: Mapping[str, Any]) -> Task:
        """Its conversion."""
        output = _join(target, self.place)
        chosen = {"confounds": confounds} if "confounds" in self.tables else {}
        files = {"sidecars": self.sidecars, "tables": self.tables}
        given = {name: value for name, value in options.items() if value is not None}
        return Task(
            name=self.place,
            function=convert_file,
            args=(self.path, output),
            options=given | files | chosen,
            inputs=(self.path, *self.sidecars, *self.tables.values()),
            output=output,
        )


def _images(dataset: Dataset, to: str, suffixes: frozenset[str]) -> Iterator[_Image]:
    for folder, names in dataset.files.items():
        if folder.partition("/")[0] in _KEPT_APART:
            continue
        for name in names:
            found = parse_name(name)
            if found is None or found.extension not in _IMAGES or found.suffix not in suffixes:
                continue
            place = "/".join(
                part for part in (dataset.folder, folder, f"{found.stem}.{to}") if part
            )
            yield _Image(
                str(dataset.root / folder / name),
                place,
                tuple(sidecars_of(dataset, folder, found)),
                tables_of(dataset, folder, found) if found.suffix in ("bold", "cbv", "asl") else {},
            )


def convert_file(
    source: str,
    url: str,
    *,
    sidecars: Sequence[str] = (),
    tables: Mapping[str, str] | None = None,
    confounds: Sequence[str] = ("*",),
    **options: Any,
) -> Any:
    """Convert an image with what a dataset says of it.

    Parameters
    ----------
    source : str
        NIfTI image.
    url : str
        New store.
    sidecars : sequence of str
        Paths, from the most general to its own.
    tables : mapping of str to str
        Paths of tables, which become metadata by these names.
    confounds : sequence of str
        Columns, or patterns for them, of the table ``confounds`` that are kept.
    **options
        As of `fmristore.convert`.

    Returns
    -------
    NeuroVol or NeuroVec
        Opened.

    Raises
    ------
    MetadataError
        If a sidecar or table is damaged.
    """
    kept: dict[str, Any] = {}
    for name, path in (tables or {}).items():
        table = read_table(path)
        if name == "confounds":
            chosen = [c for c in table if any(fnmatch.fnmatchcase(c, p) for p in confounds)]
            table = {column: table[column] for column in chosen}
        if table:
            kept[name] = table
    image = NiftiSource(source).described(sidecar=read_sidecars(sidecars))
    return convert(image, url, metadata=kept or None, **options)


# Files beside the stores ----------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Beside:
    """Bringing along what is not converted, folder by folder."""

    target: str
    converted: frozenset[str]
    renamed: Mapping[str, str]
    rest: Rest
    replace: bool
    storage_options: Mapping[str, Any] | None = field(repr=False)

    def tasks(self, dataset: Dataset) -> Iterator[Task]:
        """One for each folder of a dataset."""
        for folder, names in dataset.files.items():
            apart = folder.partition("/")[0] in _KEPT_APART
            place = "/".join(part for part in (dataset.folder, folder) if part)
            plan: list[tuple[str, str, str]] = []
            for name in names:
                path = str(dataset.root / folder / name)
                small = name.endswith(_TEXTS) or (not folder and name.startswith(_ABOUT))
                how = "text" if small and not apart else self.rest
                if path not in self.converted and how != "skip":
                    plan.append((path, _join(self.target, f"{place}/{name}".lstrip("/")), how))
            if plan:
                subject = folder.partition("/")[0]
                known = {
                    old: new
                    for old, new in self.renamed.items()
                    if not subject or old.startswith(f"{subject}_")
                }
                yield Task(
                    name=f"files of {place or 'the dataset'}",
                    function=copy_files,
                    args=(plan, known),
                    options={"replace": self.replace, "storage_options": self.storage_options},
                    inputs=tuple(path for path, _, how in plan if how != "link"),
                )


def copy_files(
    plan: Sequence[tuple[str, str, str]],
    renamed: Mapping[str, str],
    *,
    replace: bool = False,
    storage_options: Mapping[str, Any] | None = None,
) -> None:
    """Bring files of a dataset along; what is there already and equal stays.

    Parameters
    ----------
    plan : sequence of (str, str, str)
        Path, URL of the copy, and how: ``"text"``, ``"copy"`` or ``"link"``.
    renamed : mapping of str to str
        Names of images that are stores now, which texts are to call so.
    replace : bool
        Whether other files of these names may be replaced.
    storage_options : mapping, optional
        Passed to fsspec, for the copies.

    Raises
    ------
    AlreadyExistsError
        If another file is there that may not be replaced.
    StorageError
        If a file cannot be read or written.
    """
    for path, url, how in plan:
        if how == "link":
            _link(path, url)
        elif how == "text" and (content := _read(path)) is not None:
            if url.endswith(_RENAMED):
                content = _with_names(content, renamed)
            if Path(path).name == "dataset_description.json":
                content = _description(content)
            _put(url, content, storage_options, replace=replace)
        elif Path(path).is_dir():
            _copy_folder(path, url, replace=replace)
        elif not _is_equal(path, url, storage_options):
            with publish_file(url, overwrite=replace, storage_options=storage_options) as staged:
                _copy(path, staged)


def _read(path: str) -> bytes | None:
    """A text; None for one that is too long to be changed, and is copied as it is."""
    try:
        return read_whole(path, limit=_MOST_TEXT)
    except MemoryLimitError:
        return None


def _copy(path: str, staged: str) -> None:
    try:
        with open(open_ordinary(path), "rb") as source, open(staged, "wb") as copy:  # noqa: PTH123
            shutil.copyfileobj(source, copy, _BLOCK)
    except OSError as error:
        raise storage_error(error, path) from error


def _copy_folder(path: str, url: str, *, replace: bool) -> None:
    """Copy a Zarr store, which is a folder and one thing of a dataset: whole, or not at all.

    Links stay links, and those that lead out of it are refused, as they are when it is read.
    """
    if not is_local(url):
        raise InvalidInputError("a folder is copied to a local one: transcode it", url=path)
    inside = os.path.realpath(path)
    for entry in Path(inside).rglob("*"):
        if entry.is_symlink() and not lies_in(str(entry), inside):
            raise InvalidInputError(
                f"{entry.relative_to(inside)} is a symbolic link that leads out of the store: "
                "put the file in its place (git annex unlock), or link the store",
                url=path,
            )
    with publish_folder(url, overwrite=replace) as staged:
        try:
            shutil.copytree(path, staged, symlinks=True, dirs_exist_ok=True, copy_function=_copy)
        except OSError as error:
            raise storage_error(error, path) from error


def _link(path: str, url: str) -> None:
    place = Path(url)
    try:
        if place.is_symlink() and str(place.readlink()) == path:
            return
        place.parent.mkdir(parents=True, exist_ok=True)
        place.symlink_to(path)
    except OSError as error:
        raise storage_error(error, url) from error


def _with_names(content: bytes, renamed: Mapping[str, str]) -> bytes:
    """The text of a file with the names of stores for those of the images that they were."""
    try:
        text = content.decode("utf-8")
    except UnicodeDecodeError:
        return content
    rename: Callable[[re.Match[str]], str] = lambda found: renamed.get(found[0], found[0])  # noqa: E731
    return _IMAGE_NAME.sub(rename, text).encode()


def _description(content: bytes) -> bytes:
    """The description of the dataset, with fmristore among what it was made by."""
    try:
        found = json.loads(content)
        made = [*found.get("GeneratedBy", []), {"Name": "fmristore", "Version": __version__}]
    except (ValueError, TypeError, AttributeError, RecursionError):
        return content
    found["GeneratedBy"] = made
    return (json.dumps(found, indent=2, ensure_ascii=False) + "\n").encode()


def _put(
    url: str, content: bytes, storage_options: Mapping[str, Any] | None, *, replace: bool
) -> None:
    with contextlib.suppress(NotFoundError, MemoryLimitError):
        if read_whole(url, storage_options, limit=len(content)) == content:
            return
    with publish_file(url, overwrite=replace, storage_options=storage_options) as staged:
        Path(staged).write_bytes(content)


def _is_equal(path: str, url: str, storage_options: Mapping[str, Any] | None) -> bool:
    """Return whether what lies at a URL has the content of a file; what has its length is read."""
    if not exists(url, storage_options):
        return False
    fs, place = filesystem(url, storage_options)
    try:
        if fs.size(place) != Path(path).stat().st_size:
            return False
        with open(open_ordinary(path), "rb") as file, fs.open(place, "rb") as copy:  # noqa: PTH123
            while block := file.read(_BLOCK):
                if copy.read(len(block)) != block:
                    return False
            return True
    except Exception as error:
        raise storage_error(error, url) from error


def _join(root: str, place: str) -> str:
    return f"{root.rstrip('/')}/{place}"
