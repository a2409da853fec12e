"""Layout of a sequence of runs in a store: reading and writing it."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from fmristore.formats.base import StoredArray
from fmristore.formats.image.layout import ImageContent, ImageOptions, image_spec, write_run
from fmristore.formats.image.replicas import replica_paths
from fmristore.formats.names import encode_name
from fmristore.formats.nodes import (
    format_attributes,
    has_child,
    read_grid,
    read_scaling,
    space_attributes,
    with_holds,
    write_label,
)
from fmristore.formats.registry import NativeLayout
from fmristore.model.space import NeuroSpace
from fmristore.planning.progress import Progress
from fmristore.sources.images import ImageSource
from fmristore_stores.edit import edit_store
from fmristore_stores.errors import (
    AlreadyExistsError,
    ChangedError,
    FmristoreError,
    FormatError,
    InvalidInputError,
    MetadataError,
    NotFoundError,
)
from fmristore_stores.opening import Handle, Locator, locate
from fmristore_stores.protocol import AnyArray, Capability, Group, Store
from fmristore_stores.spec import check_name

__all__ = [
    "SequenceContent",
    "SequenceLayout",
    "add_to_sequence",
    "check_runs",
    "read_sequence_content",
    "require_grid",
    "run_names",
    "shifted",
    "write_sequence",
]

Runs = Mapping[str, ImageSource]
"""Runs by name, in their order."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SequenceContent:
    """Contents of a stored sequence of runs, as its class takes them.

    Parameters
    ----------
    names : tuple of str
        Of the runs, in their order.
    images : tuple of ImageContent
        One for each run; all have the same grid.
    """

    names: tuple[str, ...]
    images: tuple[ImageContent, ...]


class SequenceLayout(NativeLayout):
    """Runs as fmristore stores them: a group for each, below ``runs``."""

    def read(self, handle: Handle) -> SequenceContent:
        """Docstring inherited."""
        return read_sequence_content(handle)

    def write(
        self, store: Store, content: Any, options: Any, *, progress: Progress | None = None
    ) -> None:
        """Docstring inherited."""
        attributes = write_sequence(
            store.root, content, options, store.capabilities, progress=progress
        )
        store.root.write_attributes(format_attributes(self.format_name) | attributes)


# Reading -------------------------------------------------------------------------------------


def read_sequence_content(handle: Handle, known: SequenceContent | None = None) -> SequenceContent:
    """Find the runs of a sequence that is the root group of a store.

    Parameters
    ----------
    handle : Handle
        The store.
    known : SequenceContent, optional
        First runs of the same sequence, which were read before the others were added.

    Raises
    ------
    MetadataError
        If a node or attribute that the format asks for is missing or wrong.
    """
    root = handle.store.root
    attributes = dict(handle.opened.attributes)
    nodes = _listed(handle, attributes, "runs", str)
    lengths = _listed(handle, attributes, "lengths", int)
    if len(nodes) != len(lengths) or len(set(nodes)) != len(nodes):
        raise _damaged(handle, "attributes runs and lengths do not list the same runs once each")
    names, images = ([], []) if known is None else ([*known.names], [*known.images])
    if nodes[: len(names)] != [*map(encode_name, names)]:
        return read_sequence_content(handle)
    for node, length in list(zip(nodes, lengths, strict=True))[len(names) :]:
        try:
            group = root.group("runs").group(check_name(node))
        except (NotFoundError, InvalidInputError) as error:
            raise _damaged(handle, f"run {node!r} is listed, but: {error.message}") from error
        of_run = group.read_attributes()
        name = of_run.get("name", node)
        if not isinstance(name, str):
            raise _damaged(handle, f"name is {name!r:.80}, expected text", node=group.path)
        names.append(name)
        affine = images[0].space.affine if images else None
        images.append(_read_run(handle, group, attributes | of_run, length, affine))
        if images[-1].space.spatial_shape != images[0].space.spatial_shape:
            raise _damaged(handle, "volumes differ in shape from those of other runs", group.path)
    if len(set(names)) != len(names):
        raise _damaged(handle, "two runs have the same name")
    return SequenceContent(names=tuple(names), images=tuple(images))


def _read_run(
    handle: Handle,
    group: Group,
    attributes: Mapping[str, Any],
    length: int,
    affine: AnyArray | None,
) -> ImageContent:
    data = StoredArray(handle, f"{group.path}/0")
    spec = data.reader.spec
    found = dict(zip(spec.dims, spec.shape, strict=True))
    if set(found) != {"t", "z", "y", "x"} or found["t"] != length or spec.dtype.kind not in "biufc":
        raise _damaged(
            handle,
            f"axes {spec.dims} of shape {spec.shape} and type {spec.dtype}, expected numbers "
            f"along t, z, y, x, and {length} volumes",
            node=f"{group.path}/0",
        )
    shape = found["x"], found["y"], found["z"]
    space = read_grid(handle, shape, length, attributes=attributes, affine=affine)
    data_attributes = data.attributes
    return ImageContent(
        data=f"{group.path}/0",
        space=space,
        scaling=read_scaling(handle, data_attributes, length, group=group.path),
        header=f"{group.path}/nifti" if _has_header(handle, group) else "",
        trailer=f"{group.path}/nifti_trailer",
        copies=replica_paths(handle, data, data_attributes),
        attributes=data_attributes,
    )


def _has_header(handle: Handle, group: Group) -> bool:
    """Return whether a run has a NIfTI header, without listing what else it has."""
    try:
        group.array("nifti")
    except NotFoundError:
        has_child(handle, group.path, "nifti")  # an error if it was removed
        return False
    return True


def _listed(handle: Handle, attributes: Mapping[str, Any], name: str, kind: type) -> list[Any]:
    values = attributes.get(name)
    if isinstance(values, list) and values and all(type(value) is kind for value in values):
        return values
    raise _damaged(handle, f"attribute {name} must be a list of {kind.__name__}, one for each run")


def _damaged(handle: Handle, message: str, node: str = "") -> MetadataError:
    return MetadataError(message, url=handle.locator.url, node=node)


# Writing -------------------------------------------------------------------------------------


def check_runs(runs: Iterable[tuple[str, ImageSource]]) -> dict[str, ImageSource]:
    """Check that runs can be stored as one sequence.

    Returns
    -------
    dict
        The runs by name.

    Raises
    ------
    InvalidInputError
        If there are none, a name is empty or occurs twice, or a run is in colour, has no time
        axis, or lies on another grid than the first.
    """
    checked: dict[str, ImageSource] = {}
    for name, source in runs:
        encode_name(name)
        if name in checked:
            raise InvalidInputError(f"two runs are called {name!r}")
        if source.space.time_points is None or source.colors:
            what = "in colour" if source.colors else f"of shape {source.space.shape}"
            raise InvalidInputError(
                f"run {name!r} is {what}: expected values (X, Y, Z, T); single volumes "
                "become a run by nibabel.concat_images"
            )
        checked[name] = source
    if not checked:
        raise InvalidInputError("a sequence needs at least one run")
    first, *others = checked.items()
    for name, source in others:
        require_grid(name, source.space, first[0], first[1].space)
    return checked


def require_grid(name: str, space: NeuroSpace, first: str, grid: NeuroSpace) -> None:
    """Check that a run is on the grid of the first one.

    Raises
    ------
    InvalidInputError
        If it is on another.
    """
    if grid.spatial_shape != space.spatial_shape:
        raise InvalidInputError(
            f"run {name!r} has volumes of shape {space.spatial_shape}, run {first!r} of "
            f"{grid.spatial_shape}: all runs must be on one grid"
        )
    if not grid.same_grid(space):
        raise InvalidInputError(
            f"run {name!r} lies {grid.grid_distance(space):.3g} mm from run {first!r}: "
            "all runs must be on one grid; resample it (nilearn.image.resample_to_img)"
        )


def write_sequence(
    group: Group,
    runs: Runs,
    options: ImageOptions,
    capabilities: Capability,
    *,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Write runs into an empty group, one after the other.

    Parameters
    ----------
    group : Group
        New and writable.
    runs : mapping of str to ImageSource
        As `check_runs` returns them.
    options : ImageOptions
        Layout, codec and memory limit of each run.
    capabilities : Capability
        Of the store.
    progress : callable, optional
        Called with the bytes of stored values done and in all.

    Returns
    -------
    dict
        Attributes that the group shall have besides those that name the format.
    """
    first = next(iter(runs.values())).space.without_time()
    folder = group.create_group("runs")
    nbytes = {name: image_spec(source, options).nbytes for name, source in runs.items()}
    done, nodes, lengths = 0, [], []
    for name, source in runs.items():
        nodes.append(encode_name(name))
        lengths.append(source.space.time_points)
        report = shifted(progress, done, sum(nbytes.values()))
        _write_group(folder, name, source, options, capabilities, progress=report)
        done += nbytes[name]
    common = {k: v for k, v in space_attributes(first).items() if k != "time_unit"}
    return common | {"runs": nodes, "lengths": lengths}


def _write_group(
    folder: Group,
    name: str,
    source: ImageSource,
    options: ImageOptions,
    capabilities: Capability,
    *,
    progress: Progress | None = None,
) -> None:
    """Write one run into a group of its own."""
    run = folder.create_group(encode_name(name))
    attributes = write_run(run, source, options, capabilities, name=name, progress=progress)
    attributes |= write_label(run, "run", name)
    of_space = space_attributes(source.space)
    of_time = {
        k: of_space[k] for k in ("repetition_time", "time_unit", "time_offset") if k in of_space
    }
    run.write_attributes(with_holds(run, attributes | of_time | {"name": name}))


def add_to_sequence(
    locator: Locator,
    grid: NeuroSpace,
    name: str,
    source: ImageSource,
    options: ImageOptions,
    *,
    progress: Progress | None = None,
) -> str:
    """Add a run to a stored sequence, behind those that it has when our turn comes.

    Parameters
    ----------
    locator : Locator
        The store as it was opened.
    grid : NeuroSpace
        Its grid, then.
    name, source, options, progress
        The new run, and how to store it.

    Returns
    -------
    str
        Token of a store that has the runs of the opened one, and the new run; empty if others
        changed the store before, or nothing tells.

    Raises
    ------
    AlreadyExistsError
        If there is a run of that name.
    ChangedError
        If a store on another grid, or of another format, took its place since it was opened.
    """
    node, token = encode_name(name), ""

    def note(store: Store) -> None:
        nonlocal token
        token = store.token

    editing = edit_store(
        locator.url, storage_options=locator.options, check=note, tidy=False
    )  # a killed writer left only folders that are no runs
    with editing as store:
        same = _check_same(locator, grid)
        attributes = store.root.read_attributes()
        nodes, lengths = attributes["runs"], attributes["lengths"]
        if node in nodes:
            raise AlreadyExistsError(f"there is a run {name!r} already", url=locator.url)
        folder = store.root.group("runs")
        for left_over in folder.children().keys() - set(nodes):  # of a writer that was killed
            folder.remove(left_over)
        try:
            _write_group(folder, name, source, options, store.capabilities, progress=progress)
        except BaseException:
            with contextlib.suppress(FmristoreError):
                if node in folder.children():
                    folder.remove(node)
            raise
        # The one step that makes the run visible.
        listed = {"runs": [*nodes, node], "lengths": [*lengths, source.space.time_points]}
        store.root.write_attributes(attributes | listed)
    return token if same else ""


def _check_same(locator: Locator, grid: NeuroSpace) -> bool:
    """True if the store is as it was when it was opened; it must at least be on the same grid."""
    now = locate(locator.url, kind=locator.kind, storage_options=locator.options)
    if now.token == locator.token:
        return True
    try:
        with contextlib.closing(Handle(now)) as handle:
            found = read_sequence_content(handle).images[0].space
        alike = found.spatial_shape == grid.spatial_shape and found.same_grid(grid)
    except (FormatError, NotFoundError):
        alike = False
    if not alike:
        msg = "another store is in its place since it was opened; open it again"
        raise ChangedError(msg, url=locator.url)
    return False


def shifted(progress: Progress | None, before: int, total: int) -> Progress | None:
    """Progress of one of several runs, as progress of all of them."""
    if progress is None:
        return None
    report = progress
    return lambda done, _: report(before + done, total)


def run_names(count: int) -> Sequence[str]:
    """Names of runs that have none: ``run-1``, ``run-2`` ..., with zeros so that they sort."""
    width = len(str(count))
    return [f"run-{number:0{width}d}" for number in range(1, count + 1)]
