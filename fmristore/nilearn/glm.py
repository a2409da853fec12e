"""nilearn's first-level model, fitted to blocks of voxels of runs that are never loaded."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from typing import Any

import nibabel
import numpy as np
from nilearn import maskers
from nilearn.glm import first_level
from sklearn.utils.validation import check_is_fitted

from fmristore.nilearn.maskers import NiftiMasker, clean_series
from fmristore.nilearn.parameters import MODEL_MEMORY, streaming_class
from fmristore.nilearn.regression import Problem, fit, noise_order
from fmristore.nilearn.runs import Run, find_each_run
from fmristore.nilearn.series import VoxelSeries, voxel_series
from fmristore.planning.text import parse_size
from fmristore_stores.errors import InvalidInputError
from fmristore_stores.protocol import AnyArray

__all__ = ["FirstLevelModel"]

_SPATIAL = ("smoothing_fwhm", "target_affine", "target_shape")


class _StreamedModel:
    """The part of a first-level model that reads and fits; all else is nilearn's."""

    __init__: Any
    """Made by `streaming_class`, with the signature of nilearn's model."""
    max_memory: int | str
    storage_options: Mapping[str, Any] | None
    get_params: Any
    mask_img: Any
    masker_: Any
    minimize_memory: bool
    noise_model: str
    random_state: Any
    reports: bool
    signal_scaling: Any
    standardize_: Any
    t_r: float | None
    design_matrices_: list[Any]

    def fit(
        self,
        run_imgs: Any,
        events: Any = None,
        confounds: Any = None,
        sample_masks: Any = None,
        design_matrices: Any = None,
        bins: int = 100,
    ) -> Any:
        """Fit the model; parameters as nilearn's, for runs of any kind."""
        self._refuse()
        runs = find_each_run(run_imgs, self.storage_options)
        limit = parse_size(self.max_memory)
        tables = {
            "events": events,
            "confounds": confounds,
            "sample_masks": sample_masks,
            "design_matrices": design_matrices,
        }
        self._prepare(runs, tables, bins)
        self.masker_ = self._find_masker(runs, limit)
        self.masker_.standardize = self.standardize_
        self.n_elements_ = self.masker_.n_elements_
        kept = [None] * len(runs) if sample_masks is None else _indices(sample_masks)
        self.labels_, self.results_ = [], []
        for run, design, sample_mask in zip(runs, self.design_matrices_, kept, strict=True):
            with voxel_series(self.masker_, run, limit) as series:
                read = _Prepared(series, self.masker_, self.signal_scaling, sample_mask)
                problem = Problem(design.to_numpy(), series.shape[1], read, limit // 2)
                if self.signal_scaling == (0, 1):
                    read.find_mean(problem)
                labels, results = fit(
                    problem, self.noise_model, bins=bins, random_state=self.random_state
                )
            self.labels_.append(labels)
            self.results_.append(results)
        return self

    def _refuse(self) -> None:
        """Raise for parameters that need all series at once."""
        noise_order(self.noise_model)
        if not self.minimize_memory:
            raise InvalidInputError(
                "minimize_memory=False keeps the series, predictions and residuals of all voxels: "
                "leave it, or give the image (to_nibabel()) to nilearn's FirstLevelModel"
            )
        if self.signal_scaling == 1 and self.signal_scaling is not True:
            raise InvalidInputError(
                "signal_scaling=1: nilearn has no result for it; use 0 (each voxel), (0, 1) (all "
                "voxels and volumes) or False"
            )

    def _prepare(self, runs: list[Run], tables: Mapping[str, Any], bins: int) -> None:
        """Let nilearn check parameters and make designs, on stand-ins of a few voxels.

        What it needs for contrasts and reports is learned too; its estimates are replaced.
        """
        model: Any = copy.copy(self)
        model.memory = None
        model.verbose = 0
        fit_nilearns: Any = first_level.FirstLevelModel.fit
        model.mask_img = _stand_in_masker()
        fit_nilearns(model, list(_stand_ins(runs)), **tables, bins=bins)
        parameters = self.get_params()
        learned = {name: value for name, value in vars(model).items() if name not in parameters}
        vars(self).update(learned)

    def _find_masker(self, runs: list[Run], limit: int) -> Any:
        """Masker of the voxels that are fitted: that which was given, or one for a mask."""
        given = self.mask_img
        if isinstance(given, maskers.NiftiMasker):
            check_is_fitted(given)
            return given
        options = {name: getattr(self, name) for name in (*_SPATIAL, "t_r", "reports")}
        options |= {"standardize": self.standardize_, "mask_strategy": "epi"}
        library: Any = nibabel
        means = None
        if given is False:
            space = runs[0].space
            everywhere = np.ones(space.spatial_shape, np.uint8)
            given = library.Nifti1Image(everywhere, space.affine)
        elif given is None:
            means = [run.mean(limit) for run in runs]
        several = maskers.MultiNiftiMasker(mask_img=given, **options)
        mask = several.fit(means).mask_img_
        masker = NiftiMasker(mask_img=mask, **options, max_memory=self.max_memory)
        return masker.fit()


class _Prepared:
    """Series of voxels as they are fitted: cleaned by the masker, then scaled."""

    def __init__(
        self, series: VoxelSeries, masker: Any, signal_scaling: Any, sample_mask: Any
    ) -> None:
        self._series = series
        self._masker = masker
        self._scaling = signal_scaling
        self._kept = sample_mask
        self._mean: float | None = None

    def __call__(self, voxels: Any) -> AnyArray:
        found = self._series.read(voxels)
        if found.shape[1] == 1:  # numpy adds up one column in another order than each of several
            return self._prepared(np.repeat(found, 2, axis=1))[:, :1]
        return self._prepared(found)

    def _prepared(self, found: AnyArray) -> AnyArray:
        found = clean_series(self._masker, found, confounds=None, sample_mask=self._kept)
        if self._mean is not None:
            return 100 * (found / max(self._mean, 1) - 1)
        if self._scaling is False or self._scaling == (0, 1):
            return found
        scaled: AnyArray = first_level.mean_scaling(found, 0)[0]
        return scaled

    def find_mean(self, problem: Problem) -> None:
        """Find the mean of all voxels and volumes, which is scaled by from then on."""
        totals = [(values.sum(dtype=np.float64), values.size) for _, values in problem.blocks()]
        self._mean = sum(total for total, _ in totals) / sum(size for _, size in totals)


def _indices(sample_masks: Any) -> list[Any]:
    """Volumes that are kept in each run, as positions."""
    every = [sample_masks] if isinstance(sample_masks, np.ndarray) else sample_masks
    masks = [np.asarray(mask) for mask in every]
    return [np.flatnonzero(m) if m.dtype == bool else m.astype(np.int32) for m in masks]


def _stand_ins(runs: list[Run]) -> Iterator[Any]:
    """Images of three voxels, as long as the runs."""
    library: Any = nibabel
    rng = np.random.default_rng(0)
    for run in runs:
        length = run.space.time_points
        if length is None:
            raise InvalidInputError("a model needs a run of volumes, not a single volume")
        values = 100 + rng.normal(size=(3, 1, 1, length))
        yield library.Nifti1Image(values, np.eye(4))


def _stand_in_masker() -> Any:
    library: Any = nibabel
    mask = np.array([1, 1, 0], np.uint8).reshape(3, 1, 1)
    masker = maskers.NiftiMasker(library.Nifti1Image(mask, np.eye(4)), standardize=None)
    return masker.fit()


@streaming_class(
    """Bytes that reading, keeping the series of the masked voxels, and fitting a block of voxels
        may take, besides the estimates that the model keeps. Series that do not fit lie in a
        temporary file (in ``TMPDIR``), twice for a moment.""",
    """
    Raises
    ------
    NotFoundError
        If there is nothing at a path.
    InvalidInputError
        If runs lie on different grids, a store holds no run, or ``minimize_memory=False`` or
        ``signal_scaling=1`` is asked for.
    MemoryLimitError
        If a stored chunk does not fit in `max_memory`.

    Notes
    -----
    ``fit`` takes a stored object, a path or URL of a store or NIfTI file, an image of nibabel, or a
    list of them, one for each run; every run of a stored sequence is a run. All computations are
    nilearn's (`nilearn.glm.OLSModel`, `ARModel`), for some voxels at a time; noise of all orders
    (``"ar2"``, ...) is estimated as nilearn estimates it. Contrasts and reports are nilearn's own
    methods. ``memory``, ``n_jobs`` and ``verbose`` have no effect on fitting.
    """,
    MODEL_MEMORY,
)
class FirstLevelModel(_StreamedModel, first_level.FirstLevelModel):
    """nilearn's `FirstLevelModel`, fitted to blocks of voxels: the same maps, a bounded memory."""
