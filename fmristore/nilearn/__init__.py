"""nilearn's maskers on runs of any size: blocks of volumes pass through, the run is never loaded.

Names, parameters, results and reports are nilearn's, and so are all computations: each block of
volumes is extracted by nilearn's own masker, and the series are cleaned by `nilearn.signal.clean`.
Importing this package calls `fmristore.register`.
"""

from __future__ import annotations

from fmristore_stores.errors import DependencyError

try:
    import nilearn  # noqa: F401
except ImportError as error:
    raise DependencyError('this needs nilearn: pip install "fmristore[nilearn]"') from error

from fmristore.backends.nibabel import register
from fmristore.nilearn.glm import FirstLevelModel
from fmristore.nilearn.maskers import (
    NiftiLabelsMasker,
    NiftiMapsMasker,
    NiftiMasker,
    NiftiSpheresMasker,
)

__all__ = [
    "FirstLevelModel",
    "NiftiLabelsMasker",
    "NiftiMapsMasker",
    "NiftiMasker",
    "NiftiSpheresMasker",
]

register()
