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
    from fmristore.api import convert, open  # noqa: A004
    from fmristore.formats.chooser import formats
    from fmristore.formats.labeledvolumeset import LabeledVolumeSet
    from fmristore.formats.latentneurovec import LatentNeuroVec
    from fmristore.formats.maskedneurovec import MaskedNeuroVec
    from fmristore.formats.neurovec import NeuroVec
    from fmristore.formats.neurovecseq import NeuroVecSeq
    from fmristore.formats.neurovol import NeuroVol
    from fmristore.formats.parcellatedmultiscan import ParcellatedMultiScan
    from fmristore.formats.parcellatedscan import ParcellatedScan
    from fmristore.formats.parcellatedsummary import ParcellatedScanSummary
    from fmristore.layout import plan_layout
    from fmristore.parcellating import parcellate
    from fmristore.parcellation import Parcellation
    from fmristore.space import NeuroSpace
    from fmristore.transcoding import transcode
    from fmristore.verification import verify
    from fmristore.virtual import virtualize

__all__ = [
    "LabeledVolumeSet",
    "LatentNeuroVec",
    "MaskedNeuroVec",
    "NeuroSpace",
    "NeuroVec",
    "NeuroVecSeq",
    "NeuroVol",
    "ParcellatedMultiScan",
    "ParcellatedScan",
    "ParcellatedScanSummary",
    "Parcellation",
    "__version__",
    "convert",
    "errors",
    "formats",
    "open",
    "parcellate",
    "plan_layout",
    "transcode",
    "verify",
    "virtualize",
]

_HOME = {
    "LabeledVolumeSet": "fmristore.formats.labeledvolumeset",
    "LatentNeuroVec": "fmristore.formats.latentneurovec",
    "MaskedNeuroVec": "fmristore.formats.maskedneurovec",
    "NeuroSpace": "fmristore.space",
    "NeuroVec": "fmristore.formats.neurovec",
    "NeuroVecSeq": "fmristore.formats.neurovecseq",
    "NeuroVol": "fmristore.formats.neurovol",
    "ParcellatedMultiScan": "fmristore.formats.parcellatedmultiscan",
    "ParcellatedScan": "fmristore.formats.parcellatedscan",
    "ParcellatedScanSummary": "fmristore.formats.parcellatedsummary",
    "Parcellation": "fmristore.parcellation",
    "convert": "fmristore.api",
    "open": "fmristore.api",
    "parcellate": "fmristore.parcellating",
    "plan_layout": "fmristore.layout",
    "transcode": "fmristore.transcoding",
    "verify": "fmristore.verification",
    "virtualize": "fmristore.virtual",
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
