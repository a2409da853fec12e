"""Layout of a masked run in a store: reading and writing it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from fmristore.formats.base import StoredArray
from fmristore.formats.fill import Fill, check_fill, fill_attribute, read_fill
from fmristore.formats.new_arrays import NewArray, write_bytes
from fmristore.formats.nodes import (
    format_attributes,
    read_scaling,
    scaling_attributes,
    space_attributes,
    with_holds,
    write_grid,
    write_metadata,
)
from fmristore.formats.registry import NativeLayout
from fmristore.formats.series_blocks import VoxelReader, write_blocks
from fmristore.formats.voxel_nodes import VoxelNodes, voxel_nodes, write_voxels
from fmristore.model.scaling import Scaling
from fmristore.model.space import NeuroSpace
from fmristore.planning.layout import adapt_spec, choose_codecs, plan_matrix
from fmristore.planning.progress import Progress
from fmristore.planning.text import parse_size
from fmristore_stores.errors import MetadataError
from fmristore_stores.opening import Handle
from fmristore_stores.protocol import Capability, Group, Store
from fmristore_stores.spec import ArraySpec

__all__ = ["MaskedContent", "MaskedLayout", "read_masked_content", "write_maskedneurovec"]


@dataclass(frozen=True, slots=True, kw_only=True)
class MaskedContent:
    """Contents of a stored masked run, as its class takes them.

    Parameters
    ----------
    space : NeuroSpace
        Its grid and times.
    nodes : VoxelNodes
        Which voxels it has.
    data : str
        Path of the array, axes ``voxel`` and ``t``.
    scaling : Scaling, optional
        To apply to stored values.
    assay : str
        Name of what `data` holds, in frames of the R package; empty elsewhere.
    assays : mapping of str to str
        Paths of the arrays of all assays of a frame by name.
    metadata : mapping, optional
        What else is known, where the store has no group of metadata.
    """

    space: NeuroSpace
    nodes: VoxelNodes
    data: str = "0"
    scaling: Scaling | None = None
    assay: str = ""
    assays: Mapping[str, str] = field(default_factory=dict)
    metadata: Mapping[str, Any] | None = None


class MaskedLayout(NativeLayout):
    """A masked run as fmristore stores it: a matrix of voxels and times."""

    def read(self, handle: Handle) -> MaskedContent:
        """Docstring inherited."""
        return read_masked_content(handle)

    def write(
        self, store: Store, content: Any, options: Any, *, progress: Progress | None = None
    ) -> None:
        """Docstring inherited."""
        write_maskedneurovec(
            store.root,
            content,
            capabilities=store.capabilities,
            codec=options.codec,
            fill=options.fill,
            max_memory=options.max_memory,
            progress=progress,
        )


def read_masked_content(handle: Handle) -> MaskedContent:
    """Find the contents of a masked run that is the root group of a store.

    Raises
    ------
    MetadataError
        If a node or attribute that the format asks for is missing or wrong.
    """
    url = handle.locator.url
    data = StoredArray(handle, "0")
    spec = data.reader.spec
    if set(spec.dims) != {"voxel", "t"} or spec.dtype.kind not in "iufc" or 0 in spec.shape:
        raise MetadataError(
            f"axes are named {spec.dims}, of lengths {spec.shape} and type {spec.dtype}: "
            "expected numbers with axes voxel and t",
            url=url,
            node="0",
        )
    length = dict(zip(spec.dims, spec.shape, strict=True))
    attributes = data.attributes
    scaling = read_scaling(handle, attributes, length["t"])
    dtype = spec.dtype if scaling is None else scaling.dtype(spec.dtype)
    fill = read_fill(attributes, dtype, url=url)
    nodes = voxel_nodes(handle, length["voxel"], fill=fill, time_points=length["t"])
    return MaskedContent(space=nodes.space, nodes=nodes, scaling=scaling)


def write_maskedneurovec(
    group: Group,
    run: VoxelReader,
    *,
    capabilities: Capability,
    codec: str = "dual",
    fill: Fill = 0,
    max_memory: int | str = 1 << 30,
    progress: Progress | None = None,
) -> None:
    """Write a masked run below a group.

    Parameters
    ----------
    group : Group
        New and empty.
    run : VoxelReader
        Voxels to store, in order of their index with x varying fastest; read once.
    capabilities : Capability
        Of the store.
    codec : str
        Preset.
    fill : int or float
        What voxels outside the mask are read as.
    max_memory : int or str
        Bytes that writing may take.
    progress : callable, optional
        Called with the bytes of stored values done and in all.

    Raises
    ------
    InvalidInputError
        If `fill` is no number of the type of the run.
    MemoryLimitError
        If not even one write unit fits the limit.
    """
    max_memory = parse_size(max_memory)
    space, scaling = run.space, run.scaling
    outside = check_fill(fill, run.scaled_dtype)
    shape = (len(run.voxels), run.times)
    layout = plan_matrix(shape, run.dtype, codec=codec)
    spec = ArraySpec(shape=shape, dtype=run.dtype, dims=("voxel", "t"), layout=layout)
    spec = adapt_spec(replace(spec, codecs=choose_codecs(codec, spec)), capabilities)
    write_grid(group, space, scaling)
    write_voxels(group, run.voxels, codec)
    attributes = scaling_attributes(scaling) | {"fill": fill_attribute(outside)}
    array = NewArray(group, "0", spec, attributes)
    write_blocks(
        array,
        run.slabs(max_memory),
        rows=slice(0, shape[1], 1),
        voxel_axis=0,
        max_memory=max_memory,
        progress=progress,
    )
    array.finish()
    if run.header:
        write_bytes(group, "nifti", "nifti_byte", run.header)
    write_metadata(group, run.metadata)
    attributes = format_attributes("maskedneurovec") | space_attributes(space)
    group.write_attributes(with_holds(group, attributes))
