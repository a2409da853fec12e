"""Frames of the R package's development version ("FDS v1"): several assays in the same voxels.

The arrays ``arrays/aNNNNNN`` are plain. What they are stands in ``manifest/semantic_rds`` and
``manifest/storage_rds``, objects that R has serialised. The fields are those of the schema
``org.fmridataset.fds/v1``: https://github.com/bbuchsbaum/fmridataset, ``inst/schema``.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fmristore.formats.base import StoredArray
from fmristore.formats.masked.layout import MaskedContent
from fmristore.formats.r.arrays import RArray
from fmristore.formats.r.common import attribute_text
from fmristore.formats.r.serialised import RValue, Serialised, parse_serialised, plain_value
from fmristore.formats.registry import Layout, StoreView
from fmristore.formats.voxel_nodes import MOST_VOXELS, VoxelNodes
from fmristore.model.space import NeuroSpace
from fmristore_stores.errors import (
    CorruptDataError,
    InvalidInputError,
    LayoutNotSupportedError,
    MetadataError,
    UnknownFormatError,
    UnsupportedVersionError,
)
from fmristore_stores.limits import LIMITS
from fmristore_stores.opening import Handle
from fmristore_stores.shown import shown

__all__ = ["FrameLayout", "read_frame"]

_SCHEMA = "org.fmridataset.fds/v1"
_SEMANTIC, _STORAGE = "manifest/semantic_rds", "manifest/storage_rds"
_STORED = {
    **{name: name for name in ("uint8", "int8", "uint16", "int16", "uint32", "int32")},
    **{name: name for name in ("uint64", "int64", "float32", "float64")},
    "float16": "float32",
    "bfloat16": "float32",
    "logical": "uint8",
}
"""Type of the array for each type that a manifest may name."""
_LENGTHS = {"mm": 1.0, "um": 1e-3, "micron": 1e-3, "m": 1e3, "cm": 10.0}
_MOST_CELLS = 1 << 19
"""Values of a table of voxels, or of a block of observations, that are kept as metadata."""
_MOST_ASSAYS = 4096


class FrameLayout(Layout):
    """``fmri_frame`` of volumes: observations x voxels, for one assay or several."""

    name = "fds"
    stores = frozenset({"hdf5"})

    def detect(self, view: StoreView) -> bool:
        """Docstring inherited."""
        return any(name.startswith("fds_") for name in view.attributes)

    def read(self, handle: Handle) -> MaskedContent:
        """Docstring inherited."""
        return read_frame(handle)


def read_frame(handle: Handle) -> MaskedContent:
    """Find the contents of a frame: its active assay, where the others are, and what is known.

    Raises
    ------
    UnknownFormatError, UnsupportedVersionError
        If it is of another schema or version.
    CorruptDataError
        If writing it did not come to its end, or the manifest is not the one that was written.
    LayoutNotSupportedError
        If its features are not voxels of a volume.
    MetadataError
        If a field or an array is missing or wrong.
    MemoryLimitError
        If the manifest is too large.
    """
    attributes = handle.store.root.read_attributes()
    _check_kind(attributes, handle.locator.url)
    semantic = _manifest(handle, _SEMANTIC)
    storage = _manifest(handle, _STORAGE)
    frame = _Frame(handle, semantic, storage)
    frame.check_digest(attributes)
    return frame.content()


def _check_kind(attributes: Mapping[str, Any], url: str) -> None:
    """Refuse frames of other versions, other objects and frames that are not whole."""
    schema = attribute_text(attributes.get("fds_schema_id"))
    version = attributes.get("fds_schema_version")
    number = version[0] if isinstance(version, list) and len(version) == 1 else version
    kind = attribute_text(attributes.get("fds_object_type"))
    state = attribute_text(attributes.get("fds_commit_state"))
    if schema != _SCHEMA or number != 1 or isinstance(number, bool):
        cure = "; R's migrate_frame_h5() makes one of it" if "provisional" in str(number) else ""
        raise UnsupportedVersionError(
            f"a frame of R (FDS) of the schema {shown(schema or 'without a name', 80)}, "
            f"version {shown(number, 80)}: {_SCHEMA}, version 1, is read here{cure}",
            url=url,
        )
    if kind != "fmri_frame":
        raise UnknownFormatError(
            f"an object {shown(kind or 'without a type', 80)} of the format FDS of the R package: "
            "fmri_frame is read here",
            url=url,
        )
    if state != "complete":
        raise CorruptDataError(
            f"a frame of R (FDS) whose state is {shown(state or 'not said', 80)}, not complete: "
            "its writer did not come to its end; write it with R again",
            url=url,
        )


def _manifest(handle: Handle, path: str) -> Serialised:
    """One of the objects that R has serialised as an array of bytes."""
    url = handle.locator.url
    array = StoredArray(handle, path)
    spec = array.reader.spec
    if len(spec.shape) != 1 or spec.dtype.kind not in "iu":
        raise MetadataError(
            f"has the shape {spec.shape} and type {spec.dtype}: expected bytes", url=url, node=path
        )
    stored = array.read_small(LIMITS.consolidated)
    if stored.size and (np.min(stored) < 0 or np.max(stored) > 255):
        raise CorruptDataError("holds other integers than bytes", url=url, node=path)
    return parse_serialised(stored.astype(np.uint8).tobytes(), url=url, node=path)


class _Frame:
    """Manifests of a frame.

    Parameters
    ----------
    handle : Handle
        The file.
    semantic, storage : Serialised
        What the arrays mean, and where they lie.
    """

    def __init__(self, handle: Handle, semantic: Serialised, storage: Serialised) -> None:
        self._handle = handle
        self._semantic, self._storage = semantic, storage
        self._lost: list[str] = []

    # Fields ---------------------------------------------------------------------------------

    def _wrong(self, text: str, node: str = _SEMANTIC) -> MetadataError:
        return MetadataError(text, url=self._handle.locator.url, node=node)

    def _get(self, *path: str) -> RValue | None:
        """A field of the manifest; None if it is NULL, an error if there is none."""
        found: RValue | None = self._semantic.value
        for place, name in enumerate(path):
            members = {} if found is None else found.members()
            if name not in members:
                where = "$".join(path[: place + 1])
                raise self._wrong(f"lacks the field {shown(where)} of a frame")
            found = members[name]
        return found

    def _texts(self, *path: str) -> list[str]:
        found = self._get(*path)
        if found is None or found.kind != "text" or not found.data or not all(found.data):
            raise self._wrong(f"has no texts in {shown('$'.join(path))}")
        return list(found.data)

    def _whole(self, *path: str) -> NDArray[np.int64]:
        """Integers of a field."""
        found = self._get(*path)
        where = shown("$".join(path))
        if found is None or found.kind not in ("integer", "double"):
            raise self._wrong(f"has no integers in {where}")
        values = found.data.astype(np.float64)
        if not (np.isfinite(values) & (values == np.floor(values)) & (abs(values) < 2**31)).all():
            raise self._wrong(f"has other values than integers in {where}")
        whole: NDArray[np.int64] = values.astype(np.int64)
        return whole

    def check_digest(self, attributes: Mapping[str, Any]) -> None:
        """Compare the digest that the file has of its manifest."""
        recorded = attribute_text(attributes.get("fds_semantic_digest"))
        storage = {} if self._storage.value is None else self._storage.value.members()
        again = plain_value(storage.get("semantic_digest"), self._lost.append)
        digests = self._semantic.digests
        if not recorded or again != recorded or (digests and recorded not in digests):
            raise CorruptDataError(
                "is not the manifest that was written: its digest is another than "
                "fds_semantic_digest or the one of storage_rds",
                url=self._handle.locator.url,
                node=_SEMANTIC,
            )

    # Contents -------------------------------------------------------------------------------

    def content(self) -> MaskedContent:
        """Contents as the class takes them."""
        assays = self._get("assays")
        names = [] if assays is None or not assays.is_list else assays.texts("names")
        (active, *more) = self._texts("active_assay")
        distinct = len(set(names)) == len(names) and all(names)
        if not names or not distinct or more or active not in names or len(names) > _MOST_ASSAYS:
            raise self._wrong(
                f"names the active assay {shown(active, 80)} of {shown(', '.join(names[:10]), 200)}"
            )
        voxels, space = self._voxels(active)
        shape = self._whole("shape").tolist()
        ids = self._texts("axes", "observation", "ids")
        if shape != [len(ids), len(voxels)] or 0 in shape:
            raise self._wrong(
                f"has the shape {shape} with {len(ids)} observations and {len(voxels)} voxels"
            )
        paths = {name: self._array(f"assays/{name}", shape) for name in names}
        observations = self._observations(ids)
        tr = _repetition_time(observations)
        timed = replace(
            space,
            time_points=len(ids),
            tr=tr,
            time_unit="unknown" if tr is None else "s",
        )
        return MaskedContent(
            space=timed,
            nodes=VoxelNodes(space=timed, count=len(voxels), indices=voxels),
            data=paths[active],
            assay=active,
            assays=paths,
            metadata=self._metadata(observations, voxels),
        )

    def _voxels(self, active: str) -> tuple[NDArray[np.int32], NeuroSpace]:
        """Indices (V, 3) of the features, and their grid."""
        space = self._get("axes", "feature", "space")
        if space is None or not space.inherits("volume_space"):
            classes = [] if space is None else space.texts("class")
            raise LayoutNotSupportedError(
                f"a frame whose features are those of {shown(classes[0] if classes else 'nothing')}"
                ", not voxels of a volume (volume_space): its arrays, (features, observations), "
                f"are plain, and h5py reads them: {shown(self._path(f'assays/{active}'))} is the "
                f"assay {shown(active, 80)}; or map it to a volume in R",
                url=self._handle.locator.url,
                node=_SEMANTIC,
            )
        dim = self._whole("axes", "feature", "space", "dim").tolist()
        if len(dim) != 3 or min(dim) < 1 or math.prod(dim) > MOST_VOXELS:
            raise self._wrong(f"has a grid of shape {dim}")
        support = self._whole("axes", "feature", "space", "support")
        if not len(support):
            raise self._wrong("has no voxels: its support is empty")
        outside = (support < 1) | (support > math.prod(dim))
        if outside.any():
            raise self._wrong(
                f"has the voxel {int(support[outside][0])} in its support, outside of the grid of "
                f"shape {dim} (1 to {math.prod(dim)})"
            )
        found, counts = np.unique(support, return_counts=True)
        if len(found) != len(support):
            raise self._wrong(f"has the voxel {int(found[counts > 1][0])} in its support twice")
        if self._texts("axes", "feature", "ids") != [f"voxel-{n}" for n in support.tolist()]:
            raise self._wrong("has other ids of features than its support says")
        voxels = np.stack(np.unravel_index(support - 1, dim, order="F"), axis=1).astype(np.int32)
        return voxels, self._space((dim[0], dim[1], dim[2]))

    def _space(self, shape: tuple[int, int, int]) -> NeuroSpace:
        path = ("axes", "feature", "space")
        affine, template, unit = (
            plain_value(self._get(*path, name), self._lost.append)
            for name in ("affine", "template", "units")
        )
        factor = _LENGTHS.get(unit) if isinstance(unit, str) else None
        try:
            matrix = np.array(affine, np.float64)
            if matrix.shape == (4, 4):
                matrix[:3] *= factor or 1.0
            return NeuroSpace(
                spatial_shape=shape,
                affine=matrix,
                space_name=template if isinstance(template, str) and template else None,
                space_unit="unknown" if factor is None else "mm",
            )
        except (TypeError, ValueError) as error:
            text = error.message if isinstance(error, InvalidInputError) else str(error)
            raise self._wrong(f"the space of the voxels is damaged: {text}") from error

    def _path(self, key: str) -> str:
        """Path of an array in the file."""
        found = self._storage.value
        for name in ("arrays", key, "dataset"):
            found = None if found is None else found.members().get(name)
        path = None if found is None else plain_value(found, self._lost.append)
        if not isinstance(path, str) or not path.strip("/"):
            raise self._wrong(f"does not say where the array {shown(key, 80)} lies", _STORAGE)
        return path.strip("/")

    def _array(self, key: str, shape: list[int]) -> str:
        """Path of an array, which is compared with what the manifest says of it."""
        node = self._path(key)
        spec = StoredArray(self._handle, node).reader.spec
        said = self._whole("arrays", key, "shape").tolist()
        axes = self._texts("arrays", key, "axes")
        if said != shape or list(spec.shape) != shape[::-1] or axes[0] != "observation":
            raise self._wrong(
                f"has the shape {spec.shape} where the manifest says {said} along {axes} for "
                f"{shown(key, 80)}, and the frame has {shape} (the file holds it transposed)",
                node,
            )
        (dtype,) = self._texts("arrays", key, "dtype")[:1]
        if spec.dtype.name not in _STORED.get(dtype, "").split():
            raise self._wrong(f"is {spec.dtype} where the manifest says {shown(dtype, 80)}", node)
        return node

    # Metadata -------------------------------------------------------------------------------

    def _observations(self, ids: list[str]) -> dict[str, Any]:
        """The table of observations, with the id of each."""
        table = self._plain("axes", "observation", "data")
        column = self._texts("axes", "observation", "id_column")[0]
        if not isinstance(table, dict) or table.get(column) != ids:
            raise self._wrong("has a table of observations that is not that of their ids")
        if any(
            not isinstance(values, list) or len(values) != len(ids) for values in table.values()
        ):
            raise self._wrong("has a table of observations with columns of other lengths")
        return table

    def _plain(self, *path: str) -> Any:
        return plain_value(self._get(*path), self._lost.append, "/".join(path))

    def _features(self, voxels: NDArray[np.int32]) -> Any:
        """Columns of the table of voxels that do not follow from their indices."""
        found = self._get("axes", "feature", "data")
        if found is None or not found.inherits("data.frame"):
            raise self._wrong("has no table of features")
        ids = self._texts("axes", "feature", "ids")
        columns = found.members()
        named = columns.pop(self._texts("axes", "feature", "id_column")[0], None)
        if named is None or named.kind != "text" or named.data != ids:
            raise self._wrong("has a table of features that is not that of their ids")
        support = self._whole("axes", "feature", "space", "support")
        derived = dict(zip("ijk", voxels.T + 1, strict=True)) | {".linear_index": support}
        kept = {
            name: column
            for name, column in columns.items()
            if column is None
            or column.kind not in ("integer", "double")
            or name not in derived
            or not np.array_equal(column.data, derived[name])
        }
        if len(kept) * len(ids) > _MOST_CELLS:
            self._lost.append(f"axes/feature/data ({len(kept)} columns of {len(ids)} voxels)")
            return {}
        names = RValue("text", list(kept))
        attributes = found.attributes | {"names": names}
        table = RValue("list", list(kept.values()), attributes)
        return plain_value(table, self._lost.append, "axes/feature/data")

    def _metadata(self, observations: dict[str, Any], voxels: NDArray[np.int32]) -> dict[str, Any]:
        """All that is known besides values and voxels; empty fields are left out."""
        found = {
            "observations": observations,
            "observation_blocks": self._blocks(len(next(iter(observations.values())))),
            "features": self._features(voxels),
            "assays": {
                name: _some(one, ("dtype", "role", "units", "metadata"))
                for name, one in self._plain("assays").items()
            },
            "active_assay": self._plain("active_assay"),
            **{
                f"{axis}_metadata": self._plain("axes", axis, "metadata")
                for axis in ("observation", "feature")
            },
            "space_metadata": self._plain("axes", "feature", "space", "metadata"),
            "space_units": self._plain("axes", "feature", "space", "units"),
            **{
                name: self._plain(name)
                for name in ("metadata", "provenance", "entities", "relations", "tables")
            },
            "extensions": self._plain("extensions"),
        }
        found["not_read"] = self._lost + self._unread()
        if str(found["space_units"]) in _LENGTHS:
            del found["space_units"]
        return {name: value for name, value in found.items() if value not in (None, {}, [])}

    def _blocks(self, count: int) -> dict[str, Any]:
        """Blocks of values for each observation, such as motion, as tables by component."""
        blocks = self._plain("axes", "observation", "blocks")
        return {
            name: self._block(block, count)
            for name, block in (blocks.items() if isinstance(blocks, dict) else ())
        }

    def _block(self, block: Any, count: int) -> dict[str, Any]:
        """One block: its table, what its components are, and what it is for."""
        about = _some(block, ("array", "components", "role", "units", "metadata"))
        key, components = str(about.pop("array", None)), about.get("components")
        said = self._whole("arrays", key, "shape").tolist()
        given = _some(components, (".component_id",)).get(".component_id")
        listed = given if isinstance(given, list) else []
        names = [name for name in listed if isinstance(name, str)]
        if said != [count, len(names)]:
            raise self._wrong(f"has a block {shown(key, 80)} that does not fit the observations")
        if math.prod(said) > _MOST_CELLS:
            self._lost.append(f"{key} ({said[0]} x {said[1]} values)")
            return about
        node = self._array(key, said)
        values = RArray(self._handle, node).read_small(_MOST_CELLS).astype(np.float64)
        table = {
            name: [one if math.isfinite(one) else None for one in row]
            for name, row in zip(names, values.tolist(), strict=True)
        }
        return {"values": table, **about}

    def _unread(self) -> list[str]:
        """Arrays that are neither assays nor blocks of observations."""
        arrays = self._get("arrays")
        names = [] if arrays is None else arrays.texts("names")
        return [
            f"{name} ({self._path(name)})"
            for name in names
            if not name.startswith(("assays/", "axis/observation/"))
        ]


def _some(value: Any, names: tuple[str, ...]) -> dict[str, Any]:
    """Fields of a mapping that are there and not empty."""
    known = value if isinstance(value, dict) else {}
    return {name: known[name] for name in names if known.get(name) not in (None, {}, [])}


def _repetition_time(observations: Mapping[str, Any]) -> float | None:
    """Repetition time of a single run, as R's ``read_bids_bold`` has it for each volume."""
    trs, times = observations.get("TR"), observations.get("run_time")
    if not (isinstance(trs, list) and isinstance(times, list)) or not trs:
        return None
    tr = trs[0]
    if isinstance(tr, bool) or not isinstance(tr, int | float) or not tr > 0:
        return None
    if any(one != tr for one in trs):
        return None
    expected = tr * np.arange(len(times))
    numbers = np.array([np.nan if t is None else t for t in times], object)
    if not all(isinstance(t, int | float) for t in numbers.tolist()):
        return None
    return float(tr) if np.allclose(numbers.astype(np.float64), expected) else None
