"""Format classes: what a store holds, and how it is read by voxel, region, volume and name.

Called, as ``fmristore.formats()``, this package lists them: see
`fmristore.formats.catalogue`. What it exports is what formats of other packages are made of.
"""

from __future__ import annotations

import importlib
import sys
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fmristore.formats.base import StoredArray, StoredObject
    from fmristore.formats.catalogue import FormatList
    from fmristore.formats.fill import Fill
    from fmristore.formats.grid import GridView
    from fmristore.formats.image.layout import ImageContent
    from fmristore.formats.matrix import ArrayMatrix, Matrix, MemoryMatrix
    from fmristore.formats.new_arrays import write_encoded, write_plain
    from fmristore.formats.nodes import format_attributes, read_grid, space_attributes
    from fmristore.formats.options import MatrixOptions, Target, store_as
    from fmristore.formats.registry import (
        Layout,
        NativeLayout,
        StoreView,
        register,
        register_layout,
    )
    from fmristore.formats.voxel_nodes import mask_shape
    from fmristore.formats.voxelwise import VoxelView
    from fmristore.model.voxels import VoxelSet
    from fmristore.planning.options import takes
    from fmristore.planning.progress import Progress

__all__ = [
    "ArrayMatrix",
    "Fill",
    "GridView",
    "ImageContent",
    "Layout",
    "Matrix",
    "MatrixOptions",
    "MemoryMatrix",
    "NativeLayout",
    "Progress",
    "StoreView",
    "StoredArray",
    "StoredObject",
    "Target",
    "VoxelSet",
    "VoxelView",
    "format_attributes",
    "mask_shape",
    "read_grid",
    "register",
    "register_layout",
    "space_attributes",
    "store_as",
    "takes",
    "write_encoded",
    "write_plain",
]

_HOME = {
    "ArrayMatrix": "fmristore.formats.matrix",
    "Fill": "fmristore.formats.fill",
    "GridView": "fmristore.formats.grid",
    "ImageContent": "fmristore.formats.image.layout",
    "Layout": "fmristore.formats.registry",
    "Matrix": "fmristore.formats.matrix",
    "MatrixOptions": "fmristore.formats.options",
    "MemoryMatrix": "fmristore.formats.matrix",
    "NativeLayout": "fmristore.formats.registry",
    "Progress": "fmristore.planning.progress",
    "StoreView": "fmristore.formats.registry",
    "StoredArray": "fmristore.formats.base",
    "StoredObject": "fmristore.formats.base",
    "Target": "fmristore.formats.options",
    "VoxelSet": "fmristore.model.voxels",
    "VoxelView": "fmristore.formats.voxelwise",
    "format_attributes": "fmristore.formats.nodes",
    "mask_shape": "fmristore.formats.voxel_nodes",
    "read_grid": "fmristore.formats.nodes",
    "register": "fmristore.formats.registry",
    "register_layout": "fmristore.formats.registry",
    "space_attributes": "fmristore.formats.nodes",
    "store_as": "fmristore.formats.options",
    "takes": "fmristore.planning.options",
    "write_encoded": "fmristore.formats.new_arrays",
    "write_plain": "fmristore.formats.new_arrays",
}


def __getattr__(name: str) -> Any:
    """Import on first use."""
    if name not in _HOME:
        raise AttributeError(f"module 'fmristore.formats' has no attribute {name!r}")
    value = getattr(importlib.import_module(_HOME[name]), name)
    globals()[name] = value
    return value


class _Callable(ModuleType):
    """A package that is also a function: both are ``fmristore.formats``."""

    def __call__(self) -> FormatList:
        from fmristore.formats.catalogue import formats

        return formats()


sys.modules[__name__].__class__ = _Callable
