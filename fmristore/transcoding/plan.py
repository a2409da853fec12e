"""Plan of a transcode, made before anything is written."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

from fmristore.formats.r.common import R_DATA
from fmristore.planning.layout import AXES, Access, canonical_axes
from fmristore.planning.pictures import report_html
from fmristore.planning.text import counted
from fmristore.transcoding.arrays import ArrayStep, TargetKind, plan_array
from fmristore.transcoding.attributes import TypedNodes, read_typed_nodes
from fmristore.transcoding.fill_values import for_target, scalars_of_netcdf
from fmristore.transcoding.replicas import arrange, named_replicas
from fmristore.transcoding.tree import LINKS, Tree, walk
from fmristore_stores.errors import InvalidInputError, LossyError
from fmristore_stores.grid import grid_shape
from fmristore_stores.io.location import Kind
from fmristore_stores.limits import MOST_ATTRIBUTES
from fmristore_stores.protocol import Array, Capability, Store, TypedAttribute
from fmristore_stores.secrets import masked_url
from fmristore_stores.shown import shown, shown_url
from fmristore_stores.spec import ArraySpec, Attributes, check_attributes

__all__ = ["LOSSES", "Loss", "TranscodePlan", "plan_transcode", "portable_attributes"]

LOSSES: Mapping[str, str] = {
    "external-link": "links to other files are left out",
    "array": "arrays of a type or layout that cannot be read, or of too many chunks, are left out",
    "attributes": "attributes that cannot be read, or are too many, are left out, each alone",
    "attribute-type": "enumerations of attributes become their numbers, empty ones null",
    "name": "nodes whose names are not possible in every store are left out",
    "reference": "references of attributes to other nodes become the paths of these, as JSON",
    "non-finite-attribute": "NaN and infinity in attributes become the texts NaN, Infinity",
    "depth": "groups nested more than 64 deep are left out with what they hold",
    "link": "links that lead nowhere or in a circle, or whose name is taken, are left out",
}
"""Losses that may happen, by the names under which a caller allows them."""


_MOST_CHUNKS = 1 << 24
"""Of an array; those that are missing too are looked for."""
_MOST_STEPS = 1000
"""Names followed on the way to the target of a link."""


@dataclass(frozen=True, slots=True)
class Loss:
    """Something that does not arrive as it was."""

    kind: str
    path: str
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class TranscodePlan:
    """Plan of a `transcode`; printable.

    Parameters
    ----------
    source, target : str
        URLs.
    kind : {"hdf5", "zarr"}
        Of the target.
    groups : tuple of (path, attributes)
        Parents first; the root's attributes are written last of all.
    arrays : tuple of ArrayStep
        In the order of writing.
    links : tuple of (path, target)
        Links to be made, or recorded where the store has none.
    losses : tuple of Loss
        What is left out or substituted, all of it allowed by the caller.
    max_memory : int
        Bytes that executing may take.
    typed : mapping of str to mapping
        Attributes that are written with the types that they have, by path and name.
    """

    source: str
    target: str
    kind: Kind
    groups: tuple[tuple[str, Attributes], ...]
    arrays: tuple[ArrayStep, ...]
    links: tuple[tuple[str, str], ...]
    losses: tuple[Loss, ...]
    max_memory: int
    typed: Mapping[str, Mapping[str, TypedAttribute]] = field(default_factory=dict)

    @property
    def nbytes(self) -> int:
        """Decoded size of all arrays."""
        return sum(step.target.nbytes for step in self.arrays)

    def __repr__(self) -> str:
        arrays = counted(len(self.arrays), "array")
        size = f"{arrays}, {self.nbytes} bytes, losses: {len(self.losses)}"
        return (
            f"<{type(self).__name__}: {shown_url(self.source)} -> {shown_url(self.target)}: {size}>"
        )

    def _repr_html_(self) -> str:
        return report_html(type(self).__name__, str(self))

    def __str__(self) -> str:
        lines = [
            shown_url(self.source),
            f"  -> {shown_url(self.target)} ({self.kind}), {self.nbytes / 2**20:.1f} MiB of "
            f"values, max_memory {self.max_memory / 2**20:.0f} MiB",
        ]
        for step in self.arrays:
            target = step.target
            shape = " x ".join(map(str, target.shape)) or "scalar"
            origin = f" from /{step.origin}" if step.origin != step.path else ""
            lines.append(f"  {step.method:8} /{step.path}{origin}  {shape} {target.dtype}")
            if math.prod(target.shape) > 1 and step.path == _largest(self.arrays):
                lines.append(f"           from {_layout_text(step.source)}")
                lines.append(f"           to   {_layout_text(target)}")
            if step.reason:
                lines.append(f"           {step.reason}")
        lines.extend(f"  link     /{path} -> /{target}" for path, target in self.links)
        lines.extend(f"  LOST     {loss.kind} /{loss.path}: {loss.reason}" for loss in self.losses)
        return "\n".join(map(shown, lines))

    def to_json(self) -> dict[str, Any]:
        """The plan as plain JSON values."""
        return {
            "source": masked_url(self.source),
            "target": masked_url(self.target),
            "kind": self.kind,
            "bytes": self.nbytes,
            "max_memory": self.max_memory,
            "groups": [path for path, _ in self.groups],
            "arrays": [
                {
                    "path": step.path,
                    "origin": step.origin,
                    "method": step.method,
                    "reason": step.reason,
                    "shape": list(step.target.shape),
                    "dtype": str(step.target.dtype),
                    "chunks": list(step.target.layout.chunks),
                    "shards": None
                    if not step.target.layout.shards
                    else list(step.target.layout.shards),
                    "codecs": [str(codec) for codec in step.target.codecs],
                }
                for step in self.arrays
            ],
            "links": [{"path": path, "target": target} for path, target in self.links],
            "losses": [
                {"kind": loss.kind, "path": loss.path, "reason": loss.reason}
                for loss in self.losses
            ],
        }


def _largest(steps: tuple[ArrayStep, ...]) -> str:
    return max(steps, key=lambda step: step.target.nbytes).path


def _layout_text(spec: ArraySpec) -> str:
    memory = spec.memory
    chunk = " x ".join(
        f"{d or '?'}{c}" for d, c in zip(memory.dims, memory.layout.chunks, strict=True)
    )
    shard = " in shards" if spec.layout.shards else ""
    return f"chunks {chunk}{shard}, {' + '.join(map(str, spec.codecs)) or 'not compressed'}"


def _check_losses(allow: Collection[str]) -> None:
    unknown = set(allow) - set(LOSSES)
    if unknown:
        raise InvalidInputError(
            f"unknown losses {sorted(unknown)}; there are {', '.join(sorted(LOSSES))}"
        )


def _of_arrays(
    tree: Tree, store: Store, kind: TargetKind, losses: list[Loss], typed: TypedNodes
) -> dict[str, dict[str, Any]]:
    """Attributes of each array as the new kind of store has them."""
    before = "hdf5" if Capability.HARD_LINKS in store.capabilities else "zarr"
    if before == "hdf5" and kind.kind == "zarr":
        root = dict(tree.groups[""])
        tree.groups.update({p: scalars_of_netcdf(a, root) for p, a in tree.groups.items()})
    else:
        root = {}
    return {
        path: _portable(
            for_target(
                scalars_of_netcdf(
                    typed.values[path]
                    if path in typed.values
                    else _array_attributes(array, losses),
                    root,
                ),
                array.spec.dtype,
                before,
                kind.kind,
            ),
            path,
            kind,
            losses,
            typed.kept.get(path, {}),
        )
        for path, array in tree.arrays.items()
    }


def plan_transcode(
    store: Store,
    target: str,
    kind: TargetKind,
    *,
    access: Access | None = None,
    codec: str | None = None,
    allow: Collection[str] = (),
    max_memory: int = 1 << 30,
) -> TranscodePlan:
    """Decide how to bring everything in a store into a new one.

    Parameters
    ----------
    store : Store
        Opened for reading.
    target : str
        Where the new store shall be.
    kind : TargetKind
        What the new store can do.
    access : {"time", "volume", "balanced", "both"}, optional
        Rechunk images for this; chunks are kept otherwise. ``"both"`` adds a second copy to
        a run, any other drops it; a copy that has the layout wanted already is kept as it is.
    codec : str, optional
        Preset to encode with, or ``"keep"`` for the present codecs, and no others. By default they
        are kept where common readers of the new kind of store know them.
    allow : collection of str
        Losses that are accepted, by name; see `LOSSES`.
    max_memory : int
        Bytes that executing may take.

    Raises
    ------
    LossyError
        If something cannot be carried over and is not allowed to be lost.
    InvalidInputError
        If `allow` has a name that is not known, or something else than a run is to have two
        copies.
    """
    _check_losses(allow)
    tree = walk(store.root)
    typed = read_typed_nodes(tree, store, kind)
    losses = [Loss(item.kind, item.path, item.reason) for item in (*tree.unreadable, *typed.lost)]
    _leave_out_endless(tree, losses)
    of_arrays = _of_arrays(tree, store, kind, losses, typed)
    tree, wishes = arrange(tree, of_arrays, access)
    losses = [loss for loss in losses if loss.path not in {*of_arrays} - {*tree.arrays}]
    groups = tuple(
        (path, _portable(attributes, path, kind, losses, typed.kept.get(path, {})))
        for path, attributes in tree.groups.items()
    )
    _list_references(
        {**dict(groups), **{p: a for p, a in of_arrays.items() if p in tree.arrays}}, store, losses
    )
    steps = [
        plan_array(
            path,
            array,
            wishes[path].attributes,
            kind,
            access=wishes[path].access,
            recorded=wishes[path].recorded,
            codec=codec,
        )
        for path, array in tree.arrays.items()
    ]
    links = _plan_links(tree, kind, losses)
    refused = [loss for loss in losses if loss.kind not in allow]
    if refused:
        raise LossyError(_refusal(refused), url=store.url)
    return TranscodePlan(
        source=store.url,
        target=target,
        kind=kind.kind,
        groups=groups,
        arrays=tuple(sorted(steps, key=lambda step: (len(step.target.shape), step.path))),
        links=_links_for_r(links, steps, kind),
        losses=tuple(losses),
        typed=_unchanged(typed.kept, {**dict(groups), **{s.path: s.attributes for s in steps}}),
        max_memory=max_memory,
    )


def _leave_out_endless(tree: Tree, losses: list[Loss]) -> None:
    """Drop arrays that claim so many chunks that going through them would not end."""
    for path, array in list(tree.arrays.items()):
        count = math.prod(grid_shape(array.spec.shape, array.spec.layout.chunks))
        if count > _MOST_CHUNKS:
            reason = f"it claims {count} chunks, where {_MOST_CHUNKS} are gone through"
            losses.append(Loss("array", path, reason))
            del tree.arrays[path]


def _plan_links(tree: Tree, kind: TargetKind, losses: list[Loss]) -> tuple[tuple[str, str], ...]:
    """Links that can be made; where the store has none of its own, all that can be recorded."""
    made = []
    for path, target in tree.links.items():
        found, reason = target, ""
        if path in tree.groups or path in tree.arrays:
            reason = "there is a node of that name"
        elif Capability.HARD_LINKS in kind.capabilities:
            found = _follow(target, tree.links)
            if found not in tree.groups and found not in tree.arrays:
                reason = f"it leads to /{target}, where there is nothing"
            elif found in tree.groups and f"{path}/".startswith(f"{found}/" if found else ""):
                reason = f"it leads to /{found}, which holds it"
        if reason:
            losses.append(Loss("link", path, reason))
        else:
            made.append((path, found))
    return tuple(made)


def _follow(target: str, links: Mapping[str, str]) -> str:
    """Follow the links on the way of a path, unless they go in a circle."""
    pending = target.split("/")[::-1] if target else []
    done: list[str] = []
    for _ in range(_MOST_STEPS):
        if not pending:
            break
        done.append(pending.pop())
        onward = links.get("/".join(done))
        if onward is not None:
            pending.extend(onward.split("/")[::-1] if onward else [])
            done = []
    return "/".join([*done, *pending[::-1]])


def _refusal(losses: list[Loss]) -> str:
    first = "; ".join(shown(f"/{loss.path}: {loss.reason}") for loss in losses[:3])
    more = f" and {len(losses) - 3} more" if len(losses) > 3 else ""
    names = sorted({loss.kind for loss in losses})
    return f"not everything can be carried over: {first}{more}. To accept this, allow {names}"


def _links_for_r(
    links: tuple[tuple[str, str], ...], steps: list[ArrayStep], kind: TargetKind
) -> tuple[tuple[str, str], ...]:
    """The links without that under which R looks for an image whose axes it would mix up.

    R finds axes by position, and these have now become those of time access; see `rlinks`. If the
    image has a copy whose axes R understands, the link leads there instead.
    """
    turned = {
        step.path
        for step in steps
        if Capability.CHUNK_ORDER not in kind.capabilities
        and {"z", "y", "x"} <= set(step.target.dims) <= set(AXES)
        and canonical_axes(step.target.dims) != tuple(range(len(step.target.dims)))
    }
    copies = [p for s in steps if s.path == "0" for p in named_replicas(s.attributes, "0")]
    plain = [path for path in copies if path not in turned]
    found = []
    for path, target in links:
        if path != R_DATA or target not in turned:
            found.append((path, target))
        elif target == "0" and plain:
            found.append((path, plain[0]))
    return tuple(found)


def _array_attributes(array: Array, losses: list[Loss]) -> Attributes:
    from fmristore_stores.errors import MetadataError

    try:
        return dict(array.read_attributes())
    except MetadataError as error:
        losses.append(Loss("attributes", array.path, error.message))
        return {}


def _unchanged(
    kept: Mapping[str, Mapping[str, TypedAttribute]], planned: Mapping[str, Attributes]
) -> dict[str, dict[str, TypedAttribute]]:
    """Typed attributes but for those that get another value in the new store."""
    found = {}
    for path, attributes in kept.items():
        now = planned.get(path)
        if now is not None:
            found[path] = {
                name: one
                for name, one in attributes.items()
                if one.reason or (name in now and now[name] == _finite(one.value))
            }
    return found


def _portable(
    attributes: Attributes,
    path: str,
    kind: TargetKind,
    losses: list[Loss],
    kept: Collection[str] = (),
) -> Attributes:
    """Attributes that the new store holds: those of `portable_attributes`, if it has the room."""
    found = portable_attributes(attributes, path, losses, kept)
    if kind.kind != "hdf5" or len(found) <= MOST_ATTRIBUTES:
        return found
    reason = f"there are {len(found)}, and a node of an HDF5 file has at most {MOST_ATTRIBUTES}"
    losses.append(Loss("attributes", path, reason))
    return dict(islice(found.items(), MOST_ATTRIBUTES))


def portable_attributes(
    attributes: Attributes, path: str, losses: list[Loss], kept: Collection[str] = ()
) -> Attributes:
    """Attributes that every store holds; NaN and infinity, which JSON lacks, become text.

    Parameters
    ----------
    attributes : mapping
        As they were read.
    path : str
        Of the node, for `losses`.
    losses : list of Loss
        What is not carried over as it was is added.
    kept : collection of str
        Names of attributes that arrive with their own types all the same.
    """
    attributes = {name: value for name, value in attributes.items() if name != LINKS}
    portable: Attributes = {}
    for name, value in attributes.items():
        finite = _finite(value)
        if finite != value and name not in kept:
            losses.append(
                Loss("non-finite-attribute", path, f"attribute {name!r} is or holds {value}")
            )
        try:
            portable |= check_attributes({name: finite})
        except InvalidInputError as error:
            losses.append(Loss("attributes", path, error.message))
    return portable


def _list_references(nodes: Mapping[str, Attributes], store: Store, losses: list[Loss]) -> None:
    """List attributes of an HDF5 file that refer to other nodes."""
    if Capability.HARD_LINKS not in store.capabilities:
        return
    for path, attributes in nodes.items():
        losses.extend(
            Loss("reference", path, f"attribute {name!r} refers to other nodes")
            for name, value in attributes.items()
            if _refers(value)
        )


def _refers(value: Any) -> bool:
    """Return whether an attribute is, or holds, references to nodes."""
    if isinstance(value, list):
        return any(map(_refers, value))
    return isinstance(value, dict) and value.keys() == {"_REFERENCE"}


def _finite(value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        return "NaN" if math.isnan(value) else ("Infinity" if value > 0 else "-Infinity")
    if isinstance(value, list):
        return [_finite(item) for item in value]
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    return value
