"""Virtual Zarr stores: by them Zarr clients read files and stores in place, one or many."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeAlias, overload

from fmristore.planning.pictures import facts_html
from fmristore.planning.text import counted, size_text
from fmristore.references.draft import Drafted, draft_of
from fmristore.transcoding.plan import LOSSES, Loss
from fmristore_stores.errors import ChangedError, InvalidInputError, LossyError
from fmristore_stores.io.location import is_local, name_of, normalise
from fmristore_stores.publishing.publish import publish_file
from fmristore_stores.reference.document import Chunks, Target, compose
from fmristore_stores.reference.targets import facts_of
from fmristore_stores.secrets import masked_url
from fmristore_stores.shown import shown_url
from fmristore_stores.spec import check_name

__all__ = ["SUFFIX", "VirtualReport", "virtualize"]

SUFFIX = ".refs.json"
"""Put behind the name of the file or store."""

Place: TypeAlias = str | os.PathLike[str]
Sources: TypeAlias = Place | Iterable[Place] | Mapping[str, Place]


@dataclass(frozen=True, slots=True, kw_only=True)
class VirtualReport:
    """Report on what `virtualize` made.

    Parameters
    ----------
    source : str
        URL of the file that is referred to; those of many, separated by ``", "``.
    target : str
        URL of the reference file or repository.
    referred : tuple of str
        Paths of arrays whose chunks are read from the file.
    inlined : tuple of str
        Paths of arrays that are part of what was made.
    chunks : int
        References to chunks.
    nbytes : int
        Size of the reference file; 0 for a repository.
    losses : tuple of Loss
        What is left out, all of it allowed by the caller.
    groups : tuple of str
        Names of the groups where many sources were given.
    version : str
        Snapshot of the repository that this is.
    """

    source: str
    target: str
    referred: tuple[str, ...]
    inlined: tuple[str, ...]
    chunks: int
    nbytes: int
    losses: tuple[Loss, ...]
    groups: tuple[str, ...] = ()
    version: str = ""

    def __repr__(self) -> str:
        size = f"{counted(self.chunks, 'chunk')} of {counted(len(self.referred), 'array')}"
        source = f"{len(self.groups)} files" if self.groups else self.source
        return f"<{type(self).__name__}: {shown_url(source)} -> {shown_url(self.target)}: {size}>"

    def _repr_html_(self) -> str:
        facts = {
            "source": masked_url(self.source),
            "target": masked_url(self.target),
            "chunks": self.chunks,
            "arrays": f"{len(self.referred)} referred to, {len(self.inlined)} in the file",
            "size": size_text(self.nbytes),
            "left out": ", ".join(f"{loss.kind} /{loss.path}" for loss in self.losses) or "nothing",
        }
        return facts_html(type(self).__name__, facts)

    def to_json(self) -> dict[str, Any]:
        """The report as plain JSON values."""
        return {
            "source": masked_url(self.source),
            "target": masked_url(self.target),
            "referred": list(self.referred),
            "inlined": list(self.inlined),
            "chunks": self.chunks,
            "bytes": self.nbytes,
            "losses": [
                {"kind": loss.kind, "path": loss.path, "reason": loss.reason}
                for loss in self.losses
            ],
            "groups": list(self.groups),
            "version": self.version,
        }


@overload
def virtualize(
    source: Sources,
    url: None = None,
    *,
    to: Literal["virtualizarr"],
    allow: Collection[str] = (),
    storage_options: Mapping[str, Any] | None = None,
) -> Any: ...
@overload
def virtualize(
    source: Sources,
    url: Place | None = None,
    *,
    to: Literal["kerchunk", "icechunk"] = "kerchunk",
    relative: bool = False,
    allow: Collection[str] = (),
    overwrite: bool = False,
    message: str = "",
    tag: str | None = None,
    storage_options: Mapping[str, Any] | None = None,
) -> VirtualReport: ...
def virtualize(  # noqa: PLR0913
    source: Sources,
    url: Place | None = None,
    *,
    to: Literal["kerchunk", "icechunk", "virtualizarr"] = "kerchunk",
    relative: bool = False,
    allow: Collection[str] = (),
    overwrite: bool = False,
    message: str = "",
    tag: str | None = None,
    storage_options: Mapping[str, Any] | None = None,
) -> Any:
    """Make a virtual Zarr store, by which Zarr clients read files and stores where they are.

    Parameters
    ----------
    source : str or path, or several, or a mapping from names to them
        HDF5 file of any software, uncompressed NIfTI file (``.nii``), or Zarr store, in shards or
        not, local or on any filesystem that fsspec knows. A NIfTI file then opens as the image that
        `convert` would make of it, with its affine, scaling and header. Of several each one becomes
        a group, with the name that the mapping gives it, or that of its file without its suffixes
        (``sub-01_task-rest_bold``).
    url : str or path, optional
        The new file or repository; beside a single source as ``<name>.refs.json`` by default.
    to : {"kerchunk", "icechunk", "virtualizarr"}
        A reference file (JSON), a version of an Icechunk repository, or nothing stored but a
        ``ManifestStore`` of VirtualiZarr. The latter two need Python 3.12 and
        ``fmristore[icechunk]``.
    relative : bool
        Refer to the sources by their place relative to `url`, so that all can be moved together.
        fmristore finds them; other readers need ``template_overrides={"u": URL}`` of fsspec.
    allow : collection of str
        Losses that are accepted, by name; see `fmristore.transcoding.plan.LOSSES`.
    overwrite : bool
        Replace what is at `url`. An Icechunk repository gets a new version in any case, with what
        the last one has besides; there this allows to replace groups of the same names.
    message, tag : str, optional
        Of the version of an Icechunk repository: what it is, and a name to open it by.
    storage_options : mapping, optional
        Passed to fsspec, for all URLs. Nothing of them is stored.

    Returns
    -------
    VirtualReport
        Or a ``virtualizarr.manifests.ManifestStore``.

    Raises
    ------
    UnknownFormatError
        If there is no HDF5 file, uncompressed NIfTI file or Zarr store at `source`.
    InvalidInputError
        If names of groups are not different, or something cannot be combined.
    LayoutNotSupportedError
        If it is a NIfTI file in colour.
    LossyError
        If something cannot be referred to and is not allowed to be left out.
    AlreadyExistsError
        If there is something at `url` and `overwrite` is false, or a version of that tag.
    ReadOnlyError
        If nothing can be written at `url`: name another place.
    ChangedError
        If a file changes meanwhile.
    DependencyError
        If icechunk or virtualizarr is needed and not installed.

    Notes
    -----
    Reads metadata, chunk tables and small arrays, not the data of large ones. `fmristore.open`
    opens a reference file with one request, and refuses it when the file was changed or replaced;
    ``group=`` names one of several. Icechunk compares versions of files, too. A Zarr store is
    recognised by its root's metadata, which change with everything that fmristore changes in it.

    Examples
    --------
    >>> import fmristore as fs
    >>> fs.virtualize("s3://lab/run.h5")                                      # doctest: +SKIP
    >>> bold = fs.open("s3://lab/run.h5.refs.json")                           # doctest: +SKIP
    >>> fs.virtualize(["sub-01_bold.h5", "sub-02_bold.h5"], "all.refs.json")  # doctest: +SKIP
    >>> bold = fs.open("all.refs.json", group="sub-01_bold")                  # doctest: +SKIP
    >>> import xarray as xr
    >>> xr.open_dataset("s3://lab/run.h5.refs.json", engine="kerchunk")       # doctest: +SKIP
    """
    _check(to, allow, url, relative=relative, versioned=bool(message or tag))
    options = dict(storage_options or {})
    content = _Content(options)
    for name, item in _named(source).items():
        content.add(name, item)
    content.refuse_losses(allow)
    if to == "virtualizarr":
        from fmristore.references.versions import manifest_store

        return manifest_store(content.drafts, options)
    target = _target(url, content)
    if to == "icechunk":
        from fmristore.references.versions import Version, write_version

        version = Version(message=message, tag=tag, overwrite=overwrite)
        made = write_version(target, content.drafts, options, version, content.check_unchanged)
        return content.report(target, version=made)
    targets = [
        Target(_relative(place, target) if relative else _absolute(place), facts, known_by)
        for _, place, facts, known_by in content.drafts.values()
    ]
    content.consolidate()
    with publish_file(target, overwrite=overwrite, storage_options=storage_options) as path:
        with Path(path).open("wb") as file:
            file.writelines(compose(content.small, content.tables, targets))
            size = file.tell()
        content.check_unchanged()
    return content.report(target, nbytes=size)


def _check(to: str, allow: Collection[str], url: Any, *, relative: bool, versioned: bool) -> None:
    unknown = set(allow) - set(LOSSES)
    if unknown:
        msg = f"unknown losses {sorted(unknown)}; there are {', '.join(sorted(LOSSES))}"
        raise InvalidInputError(msg)
    if to not in ("kerchunk", "icechunk", "virtualizarr"):
        msg = f"to={to!r:.40}: expected 'kerchunk', 'icechunk' or 'virtualizarr'"
        raise InvalidInputError(msg)
    if to != "icechunk" and versioned:
        raise InvalidInputError("message= and tag= are of versions: to='icechunk'")
    if to != "kerchunk" and relative:
        raise InvalidInputError("relative= is of reference files: to='kerchunk'")
    if to == "virtualizarr" and url is not None:
        raise InvalidInputError("to='virtualizarr' stores nothing: leave url away")


def _named(source: Sources) -> dict[str, str]:
    """Sources by the names of their groups; that of a single one is empty."""
    if isinstance(source, str | os.PathLike):
        return {"": os.fspath(source)}
    if isinstance(source, Mapping):
        found = {str(name): os.fspath(item) for name, item in source.items()}
    else:
        found = {}
        for given in source:
            item = os.fspath(given)
            name = _stem(item)
            if name in found:
                msg = (
                    f"{item} and {found[name]} would both be {name!r}: give a mapping from names "
                    "to sources"
                )
                raise InvalidInputError(msg)
            found[name] = item
    if not found:
        raise InvalidInputError("there is no source")
    for name in found:
        parts = name.split("/")
        for part in parts:
            check_name(part)
        if any("/".join(parts[:i]) in found for i in range(1, len(parts))):
            raise InvalidInputError(f"the group {name!r} would lie in that of another source")
    return found


def _stem(source: str) -> str:
    name = name_of(normalise(source)).rpartition("/")[2]
    return name.rpartition(".")[0] or name


class _Content:
    """Content of a virtual store: drafts of all sources.

    Parameters
    ----------
    options : mapping
        fsspec's storage options.
    """

    def __init__(self, options: Mapping[str, Any]) -> None:
        self._options = options
        self.drafts: dict[str, Drafted] = {}
        self.small: dict[str, Any] = {}
        self.tables: dict[str, Chunks] = {}
        self.losses: list[Loss] = []
        self._inlined: list[str] = []

    def add(self, name: str, source: str) -> None:
        """Describe one more source, as the group of that name."""
        drafted = draft_of(source, self._options)
        draft, number = drafted.draft, len(self.drafts)
        self.drafts[name] = drafted
        parents = name.split("/")[:-1] if name else []
        for parent in ("", *("/".join(parents[: i + 1]) for i in range(len(parents)))):
            self.small.setdefault(_below(parent, ".zgroup"), {"zarr_format": 2})
        self.small |= {_below(name, key): value for key, value in draft.small.items()}
        self.tables |= {
            _below(name, path): found._replace(target=number)
            for path, found in draft.tables.items()
        }
        self.losses += [
            Loss(loss.kind, _below(name, loss.path), loss.reason) for loss in draft.losses
        ]
        self._inlined += [_below(name, path) for path in draft.tree.arrays if path in draft.inlined]

    def consolidate(self) -> None:
        """Repeat the metadata of many sources in one key.

        zarr-python 3.1 does not list what a group of a reference filesystem holds.
        """
        if "" not in self.drafts:
            names = (".zgroup", ".zattrs", ".zarray")
            found = {k: v for k, v in self.small.items() if k.rpartition("/")[2] in names}
            self.small[".zmetadata"] = {"zarr_consolidated_format": 1, "metadata": found}

    def refuse_losses(self, allow: Collection[str]) -> None:
        """Raise `LossyError` if something is lost that may not be."""
        refused = [loss for loss in self.losses if loss.kind not in allow]
        if refused:
            urls = [drafted.url for drafted in self.drafts.values()]
            raise LossyError(_refusal(refused), url=urls[0] if len(urls) == 1 else None)

    def check_unchanged(self) -> None:
        """Raise `ChangedError` if a source was changed since it was described."""
        for _, url, before, known_by in self.drafts.values():
            if facts_of(url + known_by, self._options) != before:
                raise ChangedError("it was changed meanwhile; try again", url=url)

    def report(self, target: str, *, nbytes: int = 0, version: str = "") -> VirtualReport:
        """Report on what was made."""
        return VirtualReport(
            source=", ".join(drafted.url for drafted in self.drafts.values()),
            target=target,
            referred=tuple(self.tables),
            inlined=tuple(self._inlined),
            chunks=sum(len(found.rows) for found in self.tables.values()),
            nbytes=nbytes,
            losses=tuple(self.losses),
            groups=tuple(name for name in self.drafts if name),
            version=version,
        )


def _target(url: Place | None, content: _Content) -> str:
    if url is not None:
        return normalise(url)
    ((name, drafted), *more) = content.drafts.items()
    if name or more:
        raise InvalidInputError("several sources have no place of their own: url= is needed")
    return f"{drafted.url.partition('?')[0]}{SUFFIX}"


def _below(name: str, path: str) -> str:
    return "/".join(part for part in (name, path) if part)


def _refusal(refused: list[Loss]) -> str:
    first = "; ".join(f"/{loss.path}: {loss.reason}" for loss in refused[:3])
    more = f" and {len(refused) - 3} more" if len(refused) > 3 else ""
    names = sorted({loss.kind for loss in refused})
    return f"not everything can be referred to: {first}{more}. To accept this, allow {names}"


def _absolute(url: str) -> str:
    return f"file://{url}" if is_local(url) else url


def _relative(url: str, target: str) -> str:
    """Place of a file or store as seen from the folder of the reference file."""
    if is_local(url) and is_local(target):
        return Path(os.path.relpath(url, Path(target).parent)).as_posix()
    folder = target.rpartition("/")[0]
    if is_local(url) or is_local(target) or not url.startswith(f"{folder}/"):
        msg = f"{url} does not lie below the folder of {target}: relative=True is not possible"
        raise InvalidInputError(msg)
    return url[len(folder) + 1 :]
