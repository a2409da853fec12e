"""nilearn's maskers and first-level model on runs of any size: a run is never loaded.

Names, parameters, results and reports are nilearn's, and so are all computations but reducing the
voxels of labels and spheres on the grid of the run: other blocks of volumes are extracted by
nilearn's own maskers, series cleaned by `nilearn.signal.clean`, and models fitted to some voxels at
a time.
`correlation_maps` and `reduced_run` do for all voxels what nilearn's examples do with series in
memory. Importing this package calls `fmristore.register`.
"""

from __future__ import annotations

from fmristore_stores.errors import DependencyError

try:
    import nilearn  # noqa: F401
except ImportError as error:
    raise DependencyError('this needs nilearn: pip install "fmristore[nilearn]"') from error

from fmristore.backends.nibabel import register
from fmristore.nilearn.glm import FirstLevelModel
from fmristore.nilearn.maps import correlation_maps, reduced_run
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
    "correlation_maps",
    "reduced_run",
]

register()
