"""Way of one array to the other store: its new spec, and whether its chunks can be copied."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

from fmristore.planning.chunking import shard_shape
from fmristore.planning.layout import (
    AXES,
    Pattern,
    adapt_spec,
    canonical_axes,
    choose_codecs,
    plan_layout,
    split_chunks,
)
from fmristore_stores.codecs import pipeline as codecs
from fmristore_stores.codecs.names import HDF5_CORE, OPTIONAL, ZARR_CORE
from fmristore_stores.errors import CodecError
from fmristore_stores.io.location import Kind
from fmristore_stores.protocol import Array, Capability
from fmristore_stores.spec import ArraySpec, Attributes, CodecSpec, is_string

__all__ = ["HDF5", "ZARR", "ArrayStep", "Method", "TargetKind", "plan_array"]

Method = Literal["verbatim", "recode", "values"]

_SMALL = 64 * 1024
"""An array of up to this many bytes that was not compressed stays so."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TargetKind:
    """Facts about the destination that the planner needs.

    Parameters
    ----------
    kind : {"hdf5", "zarr"}
        For messages.
    capabilities : Capability
        Of a new store of that kind.
    codec : str
        Preset used where a codec cannot be kept.
    core : frozenset of str
        Codecs that common readers of that kind decode.
    """

    kind: Kind
    capabilities: Capability
    codec: str
    core: frozenset[str]

    def keeps(self, pipeline: tuple[CodecSpec, ...]) -> bool:
        """True if common readers of this kind of store decode it, or it was once asked for."""
        return all(step.name in self.core | OPTIONAL for step in pipeline)


ZARR = TargetKind(
    kind="zarr",
    capabilities=Capability.WRITE
    | Capability.RAW_WRITE
    | Capability.SHARDS
    | Capability.CHUNK_ORDER,
    codec="dual",
    core=ZARR_CORE,
)
HDF5 = TargetKind(
    kind="hdf5",
    capabilities=Capability.WRITE
    | Capability.RAW_WRITE
    | Capability.HARD_LINKS
    | Capability.TYPED_ATTRIBUTES,
    codec="portable",
    core=HDF5_CORE,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class ArrayStep:
    """Way of one array to the other store.

    Parameters
    ----------
    path : str
        In the new store.
    origin : str
        Path in the source; another one only for a copy of an image's data.
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
    origin: str
    source: ArraySpec
    target: ArraySpec
    axes: tuple[int, ...]
    attributes: Attributes
    method: Method
    reason: str = ""


def plan_array(
    path: str,
    array: Array,
    attributes: Attributes,
    kind: TargetKind,
    *,
    access: Pattern | None,
    recorded: Pattern | None,
    codec: str | None,
) -> ArrayStep:
    """Plan one array; arguments as of `plan_transcode`.

    An image that has to be re-encoded in any case is rechunked for the access pattern that
    is `recorded` with it: its chunks were chosen for the codec that it loses.
    """
    source = array.spec
    if is_string(source.dtype):
        whole = replace(
            source, codecs=(), layout=split_chunks(source.shape, 1, source.shape, limit=1 << 62)
        )
        return ArrayStep(
            path=path,
            origin=array.path,
            source=source,
            target=whole,
            axes=tuple(range(len(source.shape))),
            attributes=attributes,
            method="values",
            reason="text lies outside the chunks",
        )
    axes, shaped = _arrange(source, kind)
    pipeline, reason = _pipeline(source, shaped, kind, codec)
    target = replace(shaped, codecs=pipeline)
    if access is None and reason and codec != "keep":
        access = recorded
    if access is not None and "t" in source.dims:
        axes, target, rechunked = _lay_out(source, kind, access, codec)
        reason = f"{reason}; {rechunked}" if reason else rechunked
    method, why = _method(array, target, axes, reason)
    return ArrayStep(
        path=path,
        origin=array.path,
        source=source,
        target=target,
        axes=axes,
        attributes=attributes,
        method=method,
        reason=why,
    )


def _lay_out(
    source: ArraySpec, kind: TargetKind, access: Pattern, codec: str | None
) -> tuple[tuple[int, ...], ArraySpec, str]:
    """Lay an image out again for an access pattern, with chunks that suit the new codec.

    The present codec, or the preset that it is of, is kept where `codec` or the readers of the
    target allow it.
    """
    name: str | None = codec
    if codec is None and not kind.keeps(source.codecs):
        name = kind.codec
    elif codec in (None, "keep"):
        name = codecs.preset_name(source.codecs, source.dtype)
    shaped = source.permuted(canonical_axes(source.dims))
    layout = plan_layout(
        shaped.shape,
        source.dtype,
        dims=shaped.dims,
        access=access,
        order="canonical" if name == "portable" else "auto",
        codec=name or kind.codec,
    )
    shaped = replace(shaped, layout=layout)
    keep = name is None and codecs.supported(source.codecs)
    pipeline = source.codecs if keep else choose_codecs(name or kind.codec, shaped)
    target = adapt_spec(replace(shaped, codecs=pipeline), kind.capabilities)
    axes = tuple(source.dims.index(d) for d in target.dims)
    return axes, target, f"rechunked for {access}"


def _pipeline(
    source: ArraySpec, shaped: ArraySpec, kind: TargetKind, codec: str | None
) -> tuple[tuple[CodecSpec, ...], str]:
    """Codecs for the target, and why they are not the present ones."""
    if not source.shape:
        return (), ""
    if codec == "keep" or (codec is None and kind.keeps(source.codecs)):
        if not codecs.supported(source.codecs):
            raise CodecError(
                f"codecs {' + '.join(map(str, source.codecs))} cannot be kept: not known here"
            )
        return source.codecs, ""
    if codec is not None and source.nbytes <= _SMALL and not source.codecs:
        return (), ""
    chosen = choose_codecs(codec or kind.codec, shaped)
    if codecs.equivalent(chosen, source.codecs):
        return source.codecs, ""
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


def _method(
    array: Array, target: ArraySpec, axes: Sequence[int], reason: str
) -> tuple[Method, str]:
    """Return whether encoded chunks can be copied, and if not why.

    The order of the bytes is compared by axes of the source: names may be missing.
    """
    here, there = array.spec.memory, target.memory
    same_order = array.spec.layout.axes == tuple(axes[a] for a in target.layout.axes)
    if reason:
        return "recode", reason
    if Capability.CHUNK_REFS not in array.capabilities:
        return "recode", "the source's chunks cannot be located"
    if here.layout.chunks != there.layout.chunks or not same_order:
        return "recode", "chunks differ in shape or order"
    if here.shape != there.shape or not here.shape or 0 in here.shape:
        return "recode", ""
    return "verbatim", ""
