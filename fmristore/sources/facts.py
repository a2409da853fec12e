"""Facts about an image besides its data: its BIDS sidecar, and those that a user gives."""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping
from copy import copy
from dataclasses import replace
from typing import Any, TypeVar

from fmristore.model.space import IMPLAUSIBLE_TR_S, HeaderWarning, name_of_space
from fmristore.sources.bids import MOST_BYTES, parse_sidecar, sidecar_urls
from fmristore_stores.errors import (
    AccessDeniedError,
    FmristoreError,
    InvalidInputError,
    MetadataError,
    NotFoundError,
)
from fmristore_stores.shown import shown_url
from fmristore_stores.spec import check_attributes

__all__ = ["metadata_of", "plain_tables", "sidecar_url", "with_facts", "with_sidecar"]

Source = TypeVar("Source")

_SAME_TR = 1e-4
"""By which share the TR of a header, stored as float32, may differ from that of a sidecar."""
_NEAR_S = 1.001e-3
"""By how much a time in a sidecar may differ: they are often rounded to milliseconds."""


def metadata_of(source: Any) -> Mapping[str, Any]:
    """Metadata of an image source, or of a stored object."""
    found = getattr(source, "metadata", None)
    return found if isinstance(found, Mapping) else {}


def with_facts(
    source: Source,
    *,
    tr: float | None = None,
    space_name: str | int | None = None,
    metadata: Mapping[str, Any] | None = None,
) -> Source:
    """Let a source say what a user knows better: its header says the same then.

    Parameters
    ----------
    source : ImageSource
        Returned as it is if there is nothing to say.
    tr : float, optional
        Repetition time in seconds.
    space_name : str or int, optional
        Name of the space, such as ``"MNI152NLin2009cAsym"``, or NIfTI's code of it; the codes of
        sform and qform follow.
    metadata : mapping, optional
        What else is known, data frames among it; comes before what the source knows of the same
        name.

    Raises
    ------
    InvalidInputError
        If the header cannot hold the repetition time, or JSON not the metadata.
    """
    changed: Any = copy(source)
    if metadata:
        changed.metadata = {**metadata_of(source), **check_attributes(plain_tables(metadata))}
    if tr is not None:
        _set_tr(changed, tr)
    name = name_of_space(space_name)
    if name is not None and name != changed.space.space_name:
        _set_space_name(changed, name)
    return changed if vars(changed) != vars(source) else source


def plain_tables(metadata: Mapping[str, Any]) -> dict[str, Any]:
    """Metadata whose data frames are mappings from a column's name to its values.

    Missing values are None, as JSON has them.
    """
    return {
        name: _plain_frame(value) if _is_frame(value) else value for name, value in metadata.items()
    }


def _is_frame(value: Any) -> bool:
    return all(hasattr(value, name) for name in ("columns", "index", "to_dict"))


def _plain_frame(frame: Any) -> dict[str, list[Any]]:
    if not frame.columns.is_unique:
        raise InvalidInputError("a data frame among the metadata has two columns of one name")
    missing = frame.isna()
    return {
        str(name): [
            None if absent else value
            for value, absent in zip(frame[name].tolist(), missing[name].tolist(), strict=True)
        ]
        for name in frame.columns
    }


def _set_tr(source: Any, tr: float) -> None:
    from fmristore.nifti import header_with_tr

    space = replace(source.space, tr=tr, time_unit="s")
    if source.space.tr == space.tr and source.space.time_unit == "s":
        return
    source.space = space
    if source.header:
        source.header = header_with_tr(source.header, space.tr or tr)


def _set_space_name(source: Any, name: str) -> None:
    from fmristore.nifti import header_in_space

    source.space = replace(source.space, space_name=name)
    if source.header:
        source.header = header_in_space(source.header, name)


# The sidecar ----------------------------------------------------------------------------------


def sidecar_url(url: str) -> str | None:
    """URL of the JSON file that BIDS puts beside an image; None if the name is not that of one."""
    from fmristore.nifti.files import split_name

    name = split_name(url)
    return None if name is None else f"{name.stem}.json{name.tail}"


def with_sidecar(
    source: Source,
    url: str,
    storage_options: Mapping[str, Any] | None = None,
    *,
    tr: float | None = None,
    sidecar: Mapping[str, Any] | None = None,
) -> Source:
    """Let an image that lies in a file know what the sidecar beside it says, if there is one.

    In a BIDS dataset files further up hold for it too: see `sidecar_urls`. The repetition time
    comes before that of the header, and `tr` before both. The first of evenly spaced times of
    volumes is that of the first volume. All else becomes metadata.

    Parameters
    ----------
    source : ImageSource
        Of the file.
    url : str
        Of the file.
    storage_options : mapping, optional
        Passed to fsspec.
    tr : float, optional
        Repetition time in seconds that the user says.
    sidecar : mapping, optional
        Used instead of the one beside it: all that it inherits in a dataset.

    Warns
    -----
    HeaderWarning
        If header and sidecar disagree, or the sidecar is damaged.
    """
    beside = sidecar_url(url)
    found: dict[str, Any] = {}
    origin = beside
    if sidecar is not None and beside is not None:
        found = _kept(sidecar, beside)
    elif beside is not None:
        for one in sidecar_urls(beside, storage_options):
            said = _read(one, storage_options) or {}
            found |= _kept(said, one)
            origin = one if said.keys() & {"RepetitionTime", "VolumeTiming"} else origin
    if origin is None or not found:
        return source
    changed: Any = copy(source)
    changed.metadata = found
    if changed.space.time_points is not None and changed.space.time_unit in ("s", "unknown"):
        _apply_times(changed, found, tr, url, origin)
    known: Source = changed
    return known


def _read(url: str, storage_options: Mapping[str, Any] | None) -> dict[str, Any] | None:
    from fmristore.nifti.files import open_decoded

    try:
        with open_decoded(url, storage_options) as (file, _):
            return parse_sidecar(file.read(MOST_BYTES + 1), url)
    except (NotFoundError, AccessDeniedError):  # S3 denies access to what is not there
        return None
    except MetadataError as error:
        _warn(url, f"{error.message}; it is left out")
    except FmristoreError as error:
        _warn(url, f"cannot be read and is left out: {error.message}")
    return None


def _kept(found: Mapping[str, Any], url: str) -> dict[str, Any]:
    """Part of a sidecar that can be stored as attributes."""
    kept: dict[str, Any] = {}
    for name, value in found.items():
        try:
            kept |= check_attributes({name: value})
        except InvalidInputError as error:
            _warn(url, f"{name!r:.80} cannot be kept: {error.message}")
    return kept


def _apply_times(
    source: Any, found: Mapping[str, Any], tr: float | None, url: str, beside: str
) -> None:
    """Take the repetition time, and the time of the first volume, from a sidecar.

    BIDS's VolumeTiming stands in the place of RepetitionTime where that says too little, as for
    sparse sampling.
    """
    seconds = found.get("RepetitionTime") if tr is None else tr
    times = _volume_times(found.get("VolumeTiming"), beside)
    even = times is not None and _evenly(times, source.space.time_points, seconds)
    if times is not None and not even and tr is None:
        _warn(
            beside,
            "the VolumeTiming is not that of evenly spaced volumes, one for each, at the "
            "repetition time; the times of the stored run are evenly spaced, and the others are in "
            "metadata['VolumeTiming']",
        )
    if tr is not None and even:
        _set_tr(source, tr)
    elif tr is None and seconds is not None:
        _apply_tr(source, seconds, url, beside, f"RepetitionTime is {seconds!r:.80}")
    elif times is not None and even:
        step = (times[-1] - times[0]) / (len(times) - 1)
        own = source.space.tr
        if own is not None and abs(step - own) * (len(times) - 1) <= _NEAR_S:
            step = own  # which is less rounded
        _apply_tr(source, step, url, beside, f"VolumeTiming has a volume every {step:g}")
    known = source.space.tr
    if times is not None and known and _evenly(times, source.space.time_points, known):
        _apply_start(source, times[0], url)


def _volume_times(times: Any, beside: str) -> list[float] | None:
    """Times of the volumes in seconds by a sidecar, of two or more."""
    if not isinstance(times, list) or len(times) < 2:
        return None
    if not all(isinstance(one, int | float) and math.isfinite(one) for one in times):
        _warn(beside, "VolumeTiming holds something else than times in seconds, and is not used")
        return None
    return [float(one) for one in times]


def _evenly(times: list[float], count: int, tr: Any) -> bool:
    """True if there is a time for each volume, on a line but for rounding, at the TR if known."""
    step = (times[-1] - times[0]) / (len(times) - 1)
    even = all(abs(time - times[0] - i * step) <= _NEAR_S for i, time in enumerate(times))
    rounded = _NEAR_S / (len(times) - 1)
    same = not isinstance(tr, int | float) or math.isclose(step, tr, rel_tol=1e-3, abs_tol=rounded)
    return len(times) == count and even and step > 0 and same


def _apply_start(source: Any, start: float, url: str) -> None:
    """Let a source say when its first volume was taken."""
    from fmristore.nifti import header_with_start

    own = source.space.time_offset
    if math.isclose(own, start, rel_tol=_SAME_TR, abs_tol=_NEAR_S):
        return
    if own:
        _warn(
            url,
            f"the header has the first volume at {own:g} s, the VolumeTiming of the sidecar at "
            f"{start:g} s, which is used",
        )
    source.space = replace(source.space, time_offset=start)
    if source.header:
        source.header = header_with_start(source.header, start)


def _apply_tr(source: Any, value: Any, url: str, beside: str, said: str) -> None:
    """Take the repetition time from a sidecar, which said it so."""
    right = isinstance(value, int | float) and not isinstance(value, bool)
    if not right or not math.isfinite(value) or value <= 0:
        _warn(beside, f"{said}, no time in seconds, and is not used; correct it, or give tr=")
        return
    own = source.space.tr
    if value > IMPLAUSIBLE_TR_S and (own is None or own <= IMPLAUSIBLE_TR_S):
        _warn(beside, f"{said} s, most likely milliseconds, and is not used")
        return
    if own is not None and math.isclose(own, value, rel_tol=_SAME_TR):
        return
    if own is not None:
        _warn(url, f"the header's TR is {own:g} s, that of the sidecar {value:g} s, which is used")
    _set_tr(source, float(value))


def _warn(url: str, text: str) -> None:
    warnings.warn(f"{shown_url(url)}: {text}", HeaderWarning, stacklevel=4)
