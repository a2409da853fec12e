"""What a transcode will do, decided before anything is written."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

from fmristore.layout import (
    AXES,
    Access,
    adapt_spec,
    canonical_axes,
    plan_layout,
    shard_shape,
    split_chunks,
)
from fmristore.transcoding.tree import LINKS, Tree, walk
from fmristore_stores import codecs
from fmristore_stores.errors import CodecError, InvalidInputError, LossyError
from fmristore_stores.location import Kind
from fmristore_stores.protocol import Array, Capability, Store
from fmristore_stores.spec import ArraySpec, Attributes, CodecSpec, check_attributes, is_string

__all__ = ["LOSSES", "ArrayStep", "Loss", "TargetKind", "TranscodePlan", "plan_transcode"]

Method = Literal["verbatim", "recode", "values"]

LOSSES: Mapping[str, str] = {
    "external-link": "links to other files are left out",
    "array": "arrays of a type or layout that cannot be read are left out",
    "attributes": "attributes that cannot be read are left out",
    "name": "nodes whose names are not possible in every store are left out",
    "non-finite-attribute": "NaN and infinity in attributes become the texts NaN, Infinity",
    "link": "links are left out because a target's name is not possible",
}
"""What may be lost, by the name under which a caller allows it."""

_SMALL = 64 * 1024
"""An array of up to this many bytes is one chunk, not compressed if it was not."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TargetKind:
    """What the planner must know of the destination.

    Parameters
    ----------
    kind : {"hdf5", "zarr"}
        For messages.
    capabilities : Capability
        Of a new store of that kind.
    codec : str
        Preset used where a codec cannot be kept.
    keepable : callable
        Whether a pipeline can be stored there so that common readers decode it.
    """

    kind: Kind
    capabilities: Capability
    codec: str
    core: frozenset[str]

    def keeps(self, pipeline: tuple[CodecSpec, ...]) -> bool:
        """Whether common readers of this kind of store decode the pipeline."""
        return all(step.name in self.core for step in pipeline)


ZARR = TargetKind(
    kind="zarr",
    capabilities=Capability.WRITE
    | Capability.RAW_WRITE
    | Capability.SHARDS
    | Capability.CHUNK_ORDER,
    codec="dual",
    core=codecs.ZARR_CORE,
)
HDF5 = TargetKind(
    kind="hdf5",
    capabilities=Capability.WRITE | Capability.RAW_WRITE | Capability.HARD_LINKS,
    codec="portable",
    core=codecs.HDF5_CORE,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class ArrayStep:
    """How one array gets to the other store.

    Parameters
    ----------
    path : str
        In both stores.
    source, target : ArraySpec
        Specs there and here.
    axes : tuple of int
        Axes of the source in the order of the target's.
    attributes : dict
        To be written.
    method : {"verbatim", "recode", "values"}
        Copy encoded chunks; decode and encode; or read and write through the libraries.
    reason : str
        Why it is not verbatim.
    """

    path: str
    source: ArraySpec
    target: ArraySpec
    axes: tuple[int, ...]
    attributes: Attributes
    method: Method
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Loss:
    """Something that does not arrive as it was."""

    kind: str
    path: str
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class TranscodePlan:
    """What `transcode` will do; printable.

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
    """

    source: str
    target: str
    kind: Kind
    groups: tuple[tuple[str, Attributes], ...]
    arrays: tuple[ArrayStep, ...]
    links: tuple[tuple[str, str], ...]
    losses: tuple[Loss, ...]
    max_memory: int

    @property
    def nbytes(self) -> int:
        """Decoded size of all arrays."""
        return sum(step.target.nbytes for step in self.arrays)

    def __str__(self) -> str:
        lines = [
            f"{self.source}",
            f"  -> {self.target} ({self.kind}), {self.nbytes / 2**20:.1f} MiB of numbers, "
            f"max_memory {self.max_memory / 2**20:.0f} MiB",
        ]
        for step in self.arrays:
            target = step.target
            shape = " x ".join(map(str, target.shape)) or "scalar"
            lines.append(f"  {step.method:8} /{step.path}  {shape} {target.dtype}")
            if math.prod(target.shape) > 1 and step.path == _largest(self.arrays):
                lines.append(f"           from {_layout_text(step.source)}")
                lines.append(f"           to   {_layout_text(target)}")
            if step.reason:
                lines.append(f"           {step.reason}")
        lines.extend(f"  link     /{path} -> /{target}" for path, target in self.links)
        lines.extend(f"  LOST     {loss.kind} /{loss.path}: {loss.reason}" for loss in self.losses)
        return "\n".join(lines)

    def to_json(self) -> dict[str, Any]:
        """The plan as plain JSON values."""
        return {
            "source": self.source,
            "target": self.target,
            "kind": self.kind,
            "bytes": self.nbytes,
            "max_memory": self.max_memory,
            "groups": [path for path, _ in self.groups],
            "arrays": [
                {
                    "path": step.path,
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
    access : {"time", "volume", "balanced"}, optional
        Lay images out anew for this; chunks are kept otherwise.
    codec : str, optional
        Preset to encode with, or ``"keep"`` to insist on the present codecs. By default they are
        kept where common readers of the new kind of store know them.
    allow : collection of str
        Losses that are accepted, by name; see `LOSSES`.
    max_memory : int
        Bytes that executing may take.

    Raises
    ------
    LossyError
        If something cannot be carried over and is not allowed to be lost.
    InvalidInputError
        If `allow` has a name that is not known.
    """
    unknown = set(allow) - set(LOSSES)
    if unknown:
        raise InvalidInputError(
            f"unknown losses {sorted(unknown)}; there are {', '.join(sorted(LOSSES))}"
        )
    tree = walk(store.root)
    losses = [Loss(item.kind, item.path, item.reason) for item in tree.unreadable]
    groups = tuple(
        (path, _portable_attributes(attributes, path, losses))
        for path, attributes in tree.groups.items()
    )
    image = _is_image(tree)
    steps = []
    for path, array in tree.arrays.items():
        attributes = _portable_attributes(_array_attributes(array, losses), path, losses)
        relayout = access if image and path == "0" else None
        if relayout is not None and "access" in attributes:
            attributes["access"] = relayout
        steps.append(_plan_array(path, array, attributes, kind, access=relayout, codec=codec))
    refused = [loss for loss in losses if loss.kind not in allow]
    if refused:
        raise LossyError(_refusal(refused), url=store.url)
    return TranscodePlan(
        source=store.url,
        target=target,
        kind=kind.kind,
        groups=groups,
        arrays=tuple(sorted(steps, key=lambda step: (len(step.target.shape), step.path))),
        links=tuple(tree.links.items()),
        losses=tuple(losses),
        max_memory=max_memory,
    )


def _refusal(losses: list[Loss]) -> str:
    first = "; ".join(f"/{loss.path}: {loss.reason}" for loss in losses[:3])
    more = f" and {len(losses) - 3} more" if len(losses) > 3 else ""
    names = sorted({loss.kind for loss in losses})
    return f"not everything can be carried over: {first}{more}. To accept this, allow {names}"


def _is_image(tree: Tree) -> bool:
    array = tree.arrays.get("0")
    return array is not None and {"z", "y", "x"} <= set(array.spec.dims) <= set(AXES)


def _array_attributes(array: Array, losses: list[Loss]) -> Attributes:
    from fmristore_stores.errors import MetadataError

    try:
        return dict(array.read_attributes())
    except MetadataError as error:
        losses.append(Loss("attributes", array.path, error.message))
        return {}


def _portable_attributes(attributes: Attributes, path: str, losses: list[Loss]) -> Attributes:
    """Attributes that every store holds; NaN and infinity, which JSON lacks, become text."""
    attributes = {name: value for name, value in attributes.items() if name != LINKS}
    portable: Attributes = {}
    for name, value in attributes.items():
        finite = _finite(value)
        if finite != value:
            losses.append(
                Loss("non-finite-attribute", path, f"attribute {name!r} is or holds {value}")
            )
        try:
            portable |= check_attributes({name: finite})
        except InvalidInputError as error:
            losses.append(Loss("attributes", path, error.message))
    return portable


def _finite(value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        return "NaN" if math.isnan(value) else ("Infinity" if value > 0 else "-Infinity")
    if isinstance(value, list):
        return [_finite(item) for item in value]
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    return value


def _plan_array(
    path: str,
    array: Array,
    attributes: Attributes,
    kind: TargetKind,
    *,
    access: Access | None,
    codec: str | None,
) -> ArrayStep:
    source = array.spec
    if is_string(source.dtype):
        whole = replace(
            source, codecs=(), layout=split_chunks(source.shape, 1, source.shape, limit=1 << 62)
        )
        return ArrayStep(
            path=path,
            source=source,
            target=whole,
            axes=tuple(range(len(source.shape))),
            attributes=attributes,
            method="values",
            reason="text lies outside the chunks",
        )
    pipeline, reason = _pipeline(source, kind, codec)
    axes, shaped = _arrange(source, kind)
    if access is not None and "t" in source.dims:
        order: Literal["auto", "canonical"] = "auto"
        if pipeline == codecs.preset("portable", source.dtype):
            order = "canonical"
        canonical = canonical_axes(source.dims)
        shaped = source.permuted(canonical)
        layout = plan_layout(
            shaped.shape, source.dtype, dims=shaped.dims, access=access, order=order
        )
        shaped = adapt_spec(replace(shaped, layout=layout), kind.capabilities)
        axes = tuple(source.dims.index(d) for d in shaped.dims)
        reason = reason or "laid out anew"
    target = replace(shaped, codecs=pipeline)
    method, why = _method(array, target, reason)
    return ArrayStep(
        path=path,
        source=source,
        target=target,
        axes=axes,
        attributes=attributes,
        method=method,
        reason=why,
    )


def _pipeline(
    source: ArraySpec, kind: TargetKind, codec: str | None
) -> tuple[tuple[CodecSpec, ...], str]:
    """Codecs for the target, and why they are not the present ones."""
    if source.nbytes <= _SMALL and not source.codecs:
        return (), ""
    if codec == "keep" or (codec is None and kind.keeps(source.codecs)):
        if not codecs.supported(source.codecs):
            raise CodecError(
                f"codecs {' + '.join(map(str, source.codecs))} cannot be kept: not known here"
            )
        return source.codecs, ""
    chosen = codecs.preset(codec or kind.codec, source.dtype)
    if chosen == source.codecs:
        return chosen, ""
    present = " + ".join(step.name for step in source.codecs) or "no compression"
    asked = "asked for" if codec else f"readers of {kind.kind} may not know {present}"
    return chosen, f"{present} becomes {' + '.join(step.name for step in chosen)}: {asked}"


def _arrange(source: ArraySpec, kind: TargetKind) -> tuple[tuple[int, ...], ArraySpec]:
    """Axes and layout for the target such that the bytes inside chunks stay as they are.

    The axes of an image are found by their names, so they may be permuted; those of any other
    array may not.
    """
    axes = tuple(range(len(source.shape)))
    spec = source
    memory = source.memory
    image = {"z", "y", "x"} <= set(source.dims) <= set(AXES)
    if image and Capability.CHUNK_ORDER in kind.capabilities:
        axes = canonical_axes(source.dims)
        dims = [source.dims[a] for a in axes]
        spec = source.permuted(axes, order=tuple(dims.index(d) for d in memory.dims))
    elif image:
        axes, spec = source.layout.axes, memory
    elif Capability.CHUNK_ORDER not in kind.capabilities:
        spec = source.permuted(axes)
    return axes, _sharded(_bounded(spec), kind)


def _bounded(spec: ArraySpec) -> ArraySpec:
    """Chunks that the target accepts: no longer than the array, and not enormous."""
    layout = split_chunks(spec.shape, spec.dtype.itemsize, spec.layout.chunks)
    return replace(spec, layout=replace(layout, order=spec.layout.order))


def _sharded(spec: ArraySpec, kind: TargetKind) -> ArraySpec:
    shards = None
    if Capability.SHARDS in kind.capabilities and spec.shape:
        shards = shard_shape(spec.shape, spec.layout.chunks, spec.dtype.itemsize)
    return replace(spec, layout=replace(spec.layout, shards=shards))


def _method(array: Array, target: ArraySpec, reason: str) -> tuple[Method, str]:
    """Whether encoded chunks can be copied, and if not why."""
    here, there = array.spec.memory, target.memory
    if reason:
        return "recode", reason
    if Capability.CHUNK_REFS not in array.capabilities:
        return "recode", "the source's chunks cannot be located"
    if here.layout.chunks != there.layout.chunks or here.dims != there.dims:
        return "recode", "chunks differ in shape or order"
    if here.shape != there.shape or not here.shape:
        return "recode", ""
    return "verbatim", ""
