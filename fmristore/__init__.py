"""fMRI in HDF5 and Zarr: read the voxel, region or volume you need without touching the rest.

Examples
--------
>>> import fmristore as fs
>>> fs.convert("sub-01_task-rest_bold.nii.gz", "sub-01_task-rest_bold.h5")     # doctest: +SKIP
>>> bold = fs.open("sub-01_task-rest_bold.h5")                                 # doctest: +SKIP
>>> bold[32, 40, 20]                                                           # doctest: +SKIP
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from fmristore_stores import errors
from fmristore_stores._version import __version__

if TYPE_CHECKING:
    from fmristore.api import convert, open, parcellate  # noqa: A004
    from fmristore.backends.nibabel import register
    from fmristore.bids import Collection, convert_bids
    from fmristore.formats.any_format import AnyFormat
    from fmristore.formats.catalogue import formats
    from fmristore.formats.image.growing import append
    from fmristore.formats.image.image import NeuroVec, NeuroVol
    from fmristore.formats.latent.latent import LatentNeuroVec
    from fmristore.formats.maps.maps import LabeledVolumeSet
    from fmristore.formats.masked.run import MaskedNeuroVec
    from fmristore.formats.parcellated.multiscan import ParcellatedMultiScan
    from fmristore.formats.parcellated.scan import ParcellatedScan
    from fmristore.formats.parcellated.summary import ParcellatedScanSummary
    from fmristore.formats.sequence.sequence import NeuroVecSeq
    from fmristore.many import Reserved, RunsReport, map_runs, reserve
    from fmristore.model.space import NeuroSpace
    from fmristore.planning.layout import plan_layout
    from fmristore.planning.options import LayoutOptions, StoreOptions, WriteOptions
    from fmristore.references.versions import open_icechunk
    from fmristore.references.virtual import virtualize
    from fmristore.sources.parcellation import Parcellation
    from fmristore.transcoding import transcode
    from fmristore.verification import verify
    from fmristore.viewer import view

__all__ = [
    "AnyFormat",
    "Collection",
    "LabeledVolumeSet",
    "LatentNeuroVec",
    "LayoutOptions",
    "MaskedNeuroVec",
    "NeuroSpace",
    "NeuroVec",
    "NeuroVecSeq",
    "NeuroVol",
    "ParcellatedMultiScan",
    "ParcellatedScan",
    "ParcellatedScanSummary",
    "Parcellation",
    "Reserved",
    "RunsReport",
    "StoreOptions",
    "WriteOptions",
    "__version__",
    "append",
    "convert",
    "convert_bids",
    "errors",
    "formats",
    "map_runs",
    "open",
    "open_icechunk",
    "parcellate",
    "plan_layout",
    "register",
    "reserve",
    "transcode",
    "verify",
    "view",
    "virtualize",
]

_HOME = {
    "AnyFormat": "fmristore.formats.any_format",
    "Collection": "fmristore.bids",
    "LabeledVolumeSet": "fmristore.formats.maps.maps",
    "LatentNeuroVec": "fmristore.formats.latent.latent",
    "LayoutOptions": "fmristore.planning.options",
    "MaskedNeuroVec": "fmristore.formats.masked.run",
    "NeuroSpace": "fmristore.model.space",
    "NeuroVec": "fmristore.formats.image.image",
    "NeuroVecSeq": "fmristore.formats.sequence.sequence",
    "NeuroVol": "fmristore.formats.image.image",
    "ParcellatedMultiScan": "fmristore.formats.parcellated.multiscan",
    "ParcellatedScan": "fmristore.formats.parcellated.scan",
    "ParcellatedScanSummary": "fmristore.formats.parcellated.summary",
    "Parcellation": "fmristore.sources.parcellation",
    "Reserved": "fmristore.many",
    "RunsReport": "fmristore.many",
    "StoreOptions": "fmristore.planning.options",
    "WriteOptions": "fmristore.planning.options",
    "append": "fmristore.formats.image.growing",
    "convert": "fmristore.api",
    "convert_bids": "fmristore.bids",
    "map_runs": "fmristore.many",
    "open": "fmristore.api",
    "open_icechunk": "fmristore.references.versions",
    "parcellate": "fmristore.api",
    "plan_layout": "fmristore.planning.layout",
    "register": "fmristore.backends.nibabel",
    "reserve": "fmristore.many",
    "transcode": "fmristore.transcoding",
    "verify": "fmristore.verification",
    "view": "fmristore.viewer",
    "virtualize": "fmristore.references.virtual",
}


def __getattr__(name: str) -> Any:
    """Import on first use, so that ``import fmristore`` costs next to nothing."""
    if name == "formats":  # a package that can be called
        return importlib.import_module("fmristore.formats")
    if name not in _HOME:
        raise AttributeError(f"module 'fmristore' has no attribute {name!r}")
    value = getattr(importlib.import_module(_HOME[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
