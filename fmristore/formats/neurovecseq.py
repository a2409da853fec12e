"""Several stored runs in one space, read as one long run or run by run."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Self

import numpy as np

from fmristore.formats.base import StoredObject
from fmristore.formats.create import image_options
from fmristore.formats.describing import describe_scan, describe_space, type_text
from fmristore.formats.neurovec import NeuroVec
from fmristore.formats.nodes import format_attributes
from fmristore.formats.opening import opened_all
from fmristore.formats.profiles import Profile, find_profile
from fmristore.formats.registry import register
from fmristore.formats.sequence_parts import check_runs, run_names, write_sequence
from fmristore.formats.sequence_reading import ReadableSequence
from fmristore.formats.sequence_source import SequenceSource
from fmristore.formats.stored import StoredArray
from fmristore.imagesource import ImageSource, image_source
from fmristore.layout import Access, Order
from fmristore.progress import Progress
from fmristore.scaling import Scaling
from fmristore.space import NeuroSpace
from fmristore.text import parse_size
from fmristore_stores.errors import InvalidInputError
from fmristore_stores.opening import Handle, locate
from fmristore_stores.protocol import AnyArray
from fmristore_stores.publish import create_store

__all__ = ["NeuroVecSeq"]

_SHOWN = 6
"""Runs that are named when a sequence is printed."""
_LONG_NAME = 40


@register("neurovecseq")
class NeuroVecSeq(ReadableSequence):
    """Several stored runs on one grid, indexed ``[x, y, z, t]`` as if they were one.

    Axis t counts through all runs in their order; a selection reads only the runs that it
    touches. ``seq["name"]`` is a single run.

    Parameters
    ----------
    handle : Handle
        Store that holds the runs.
    parts : SequenceParts, optional
        Where in the store they are; found in the root group by default.

    Raises
    ------
    MetadataError
        If a node or attribute that the format asks for is missing or wrong.

    Examples
    --------
    >>> import fmristore as fs
    >>> seq = fs.open("sub-01_task-rest.h5")                                  # doctest: +SKIP
    >>> seq.runs, seq.lengths                                                 # doctest: +SKIP
    >>> seq[32, 40, 20]                                                       # doctest: +SKIP
    >>> seq["run-2"][32, 40, 20]                                              # doctest: +SKIP
    """

    holds = "several runs on one grid, read as one long run or run by run"
    use_when = "runs of a session or task are analysed together"

    # What it says of itself ----------------------------------------------------------------

    part_names = ReadableSequence.runs

    def part(self, name: str) -> NeuroVec:
        """Docstring inherited."""
        return self.run(name)

    @property
    def primary_arrays(self) -> tuple[StoredArray, ...]:
        """Docstring inherited."""
        return tuple(array for image in self.images for array in image.primary_arrays)

    def describe(self) -> dict[str, Any]:
        """Docstring inherited."""
        runs = [
            describe_scan(name, image.space, image.dtype) | {"digest": image.digest}
            for name, image in zip(self.runs, self.images, strict=True)
        ]
        return self._described(
            {
                "shape": list(self.shape),
                "dtype": type_text(self.dtype),
                "space": describe_space(self.space),
                "runs": runs,
            }
        )

    # Going elsewhere ------------------------------------------------------------------------

    def as_source(self, *, max_memory: int | str = 1 << 28, nifti: bool = False) -> ImageSource:
        """Docstring inherited."""
        del max_memory
        return SequenceSource(self.images, self.space, nifti=nifti)

    def stored_scaling(self, voxels: AnyArray) -> Scaling | None:
        """Docstring inherited."""
        del voxels
        return self.as_source().scaling

    # Creating -------------------------------------------------------------------------------

    @classmethod
    def create(  # noqa: PLR0913
        cls,
        url: str | os.PathLike[str],
        runs: Mapping[str, Any] | Sequence[Any],
        *,
        space: NeuroSpace | AnyArray | None = None,
        tr: float | Sequence[float | None] | None = None,
        access: Access = "time",
        codec: str | None = None,
        order: Order | None = None,
        profile: Profile | None = None,
        overwrite: bool = False,
        storage_options: Mapping[str, Any] | None = None,
        max_memory: int | str = 1 << 30,
        progress: Progress | None = None,
    ) -> Self:
        """Store runs as one sequence and open it.

        Parameters
        ----------
        url : str or path
            New store: ``.h5`` for HDF5, ``.zarr`` for Zarr.
        runs : mapping of str to run, or sequence of runs
            By name, in their order; a run is the path or URL of a NIfTI file or a store, a
            stored image (`NeuroVec`), a nibabel image, or an array (X, Y, Z, T). Without names
            they are called ``run-1``, ``run-2`` ...
        space : NeuroSpace or (4, 4) affine, optional
            For runs that are arrays: where their voxels are.
        tr : float or sequence of float, optional
            For runs that are arrays: repetition time in seconds, one for all runs or one for
            each.
        access : {"time", "volume", "balanced", "both"}
            What is read most; ``"both"`` stores every run twice, for time and for volumes.
        codec : str, optional
            Preset; ``"portable"`` for HDF5 and ``"dual"`` for Zarr by default.
        order : {"auto", "canonical"}, optional
            Order inside chunks; ``"canonical"`` by default for the preset ``"portable"``.
        profile : {"r"}, optional
            Write an HDF5 file as the R package does; see ``docs/reference/r.md``.
        overwrite : bool
            Replace what is there, once the new store is complete.
        storage_options : mapping, optional
            Passed to fsspec.
        max_memory : int or str
            Bytes that writing may take.
        progress : callable, optional
            Called with the bytes done and in all.

        Returns
        -------
        NeuroVecSeq
            The new sequence, opened.

        Raises
        ------
        AlreadyExistsError
            If there is something at `url` and `overwrite` is false.
        InvalidInputError
            If there are no runs, a name is empty or occurs twice, or a run is no run, in colour,
            or on another grid than the others; nothing is written then.
        """
        max_memory = parse_size(max_memory)
        with opened_all(_listed(runs), storage_options) as found:
            checked = check_runs(_sources(found, space, tr, storage_options))
            options = image_options(
                url, access=access, codec=codec, order=order, profile=profile, max_memory=max_memory
            )
            rlayout = None if profile is None else find_profile(profile, "neurovecseq", url)
            with create_store(url, overwrite=overwrite, storage_options=storage_options) as store:
                if rlayout is not None:
                    rlayout.write_sequence(store, checked, options, progress=progress)
                else:
                    attributes = write_sequence(
                        store.root, checked, options, store.capabilities, progress=progress
                    )
                    store.root.write_attributes(format_attributes(cls.format_name) | attributes)
        handle = Handle(locate(url, storage_options=storage_options))
        if rlayout is not None:
            opened: Self = rlayout.open_r(handle)
            return opened
        return cls(handle)

    def _content(self) -> tuple[tuple[Any, ...], dict[str, Any]]:
        runs = dict(zip(self.runs, self.images, strict=True))
        return (runs,), {"access": self.images[0].access or "time"}

    def _facts(self) -> dict[str, str]:
        names = [_shortened(name) for name in self.runs[:_SHOWN]]
        lengths = [str(length) for length in self.lengths[:_SHOWN]]
        more = ["..."] if len(self.runs) > _SHOWN else []
        facts = {
            "shape": " x ".join(map(str, self.shape)),
            "runs": f"{len(self.runs)} runs: {', '.join(names + more)}",
            "lengths": f"{' + '.join(lengths + more)} volumes",
            "dtype": str(self.dtype),
            "voxels": " x ".join(f"{s:.3g}" for s in self.spacing) + " mm",
        }
        if self.tr is not None:
            facts["TR"] = f"TR {self.tr:.4g} s"
        return facts


def _listed(runs: Any) -> Mapping[str, Any] | list[Any]:
    if isinstance(runs, str | os.PathLike) or not isinstance(runs, Mapping | Sequence):
        raise InvalidInputError(
            f"runs must be a mapping of names to runs or a list of runs, not {type(runs).__name__}"
        )
    return runs if isinstance(runs, Mapping) else list(runs)


def _sources(
    runs: Any, space: Any, tr: Any, storage_options: Mapping[str, Any] | None
) -> Iterator[tuple[str, ImageSource]]:
    """Runs as sources, with their names."""
    named = (
        runs if isinstance(runs, Mapping) else dict(zip(run_names(len(runs)), runs, strict=True))
    )
    trs = tr if isinstance(tr, Sequence) else [tr] * len(named)
    if len(trs) != len(named):
        raise InvalidInputError(f"{len(trs)} repetition times for {len(named)} runs")
    for (name, data), seconds in zip(named.items(), trs, strict=True):
        of_array: dict[str, Any] = {}
        if not isinstance(data, str | os.PathLike | StoredObject) and not hasattr(data, "dataobj"):
            of_array = {"space": space, "tr": seconds}
            if isinstance(space, NeuroSpace) and len(np.shape(data)) == 4:
                of_array = {"space": space.with_time(np.shape(data)[3], tr=seconds)}
        yield name, image_source(data, storage_options=storage_options, **of_array)


def _shortened(name: str) -> str:
    return name if len(name) <= _LONG_NAME else f"{name[:_LONG_NAME]}..."
