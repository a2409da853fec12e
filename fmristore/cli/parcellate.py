"""The command that turns a run and a label image into one series for each parcel."""

from __future__ import annotations

import math
import time
from enum import StrEnum
from typing import Annotated, Any

import typer

from fmristore.cli.console import echo, emit
from fmristore.cli.options import (
    CodecOption,
    Json,
    MaxMemory,
    MetadataOption,
    Overwrite,
    ProfileOption,
    SpaceNameOption,
    StorageOptions,
    TrOption,
    Trusted,
)
from fmristore.cli.parsing import parse_options, parse_size
from fmristore.cli.progress import progress_bar
from fmristore.planning.text import size_text

__all__ = ["Statistic", "parcellate"]


class Statistic(StrEnum):
    """Value of a parcel at each time."""

    mean = "mean"
    median = "median"
    sum = "sum"
    min = "min"
    max = "max"
    std = "std"


_Run = Annotated[
    str, typer.Argument(metavar="URL", help="Run: a NIfTI image, HDF5 file or Zarr store.")
]
_Labels = Annotated[
    str, typer.Argument(metavar="LABELS", help="NIfTI label image on the grid of the run.")
]
_Out = Annotated[
    str,
    typer.Argument(
        metavar="OUT",
        help="New store: .h5 for HDF5, .zarr for Zarr; with --scan, one of several scans.",
    ),
]
_Names = Annotated[
    str | None, typer.Option(help="Table of the labels: BIDS _dseg.tsv, CSV or FreeSurfer colours.")
]
_Mask = Annotated[str | None, typer.Option(help="NIfTI mask; labels of other voxels are dropped.")]
_Statistic = Annotated[Statistic, typer.Option(help="What the voxels of a parcel become.")]
_Scan = Annotated[str | None, typer.Option(help="Name of the scan.")]


def parcellate(  # noqa: PLR0913
    url: _Run,
    labels: _Labels,
    out: _Out,
    *,
    names: _Names = None,
    mask: _Mask = None,
    statistic: _Statistic = Statistic.mean,
    scan: _Scan = None,
    tr: TrOption = None,
    space_name: SpaceNameOption = None,
    metadata: MetadataOption = None,
    codec: CodecOption = None,
    profile: ProfileOption = None,
    max_memory: MaxMemory = "1GiB",
    overwrite: Overwrite = False,
    trusted: Trusted = None,
    storage_option: StorageOptions = None,
    json: Json = False,
) -> None:
    """Summarise a run by the parcels of a label image, in one pass."""
    options = parse_options(storage_option or ())
    limit = parse_size(max_memory)
    layout: Any = None if profile is None else profile.value
    from fmristore.api import parcellate as run
    from fmristore.cli.trust import check_trust

    for source in (url, labels, out) if mask is None else (url, labels, out, mask):
        check_trust(source, options, trusted=trusted)
    started = time.perf_counter()
    with (
        progress_bar("summarising", quiet=json, of=url) as progress,
        run(
            url,
            labels,
            out,
            names=names,
            mask=mask,
            statistic=statistic.value,
            scan=scan,
            tr=tr,
            space_name=space_name,
            metadata=parse_options(metadata) if metadata else None,
            codec=None if codec is None else codec.value,
            profile=layout,
            overwrite=overwrite,
            storage_options=options,
            max_memory=limit,
            progress=progress,
        ) as summary,
    ):
        seconds = time.perf_counter() - started
        facts = _facts(summary, url, labels) | {"seconds": seconds}
        text = repr(summary)
        size = size_text(math.prod(summary.shape) * summary.dtype.itemsize)
    if json:
        emit(facts)
    else:
        echo(f"{text}: {size} of data, {seconds:.1f} s")


def _facts(summary: Any, url: str, labels: str) -> dict[str, Any]:
    """Facts of a summary as JSON."""
    times, parcels = summary.shape
    return {
        "source": url,
        "labels": labels,
        "target": summary.url,
        "scan": summary.name,
        "statistic": summary.statistic,
        "time_points": times,
        "parcels": parcels,
        "parcels_without_voxels": int((summary.parcellation.sizes == 0).sum()),
        "dtype": str(summary.dtype),
        "repetition_time": summary.tr,
    }
