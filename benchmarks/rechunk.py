"""Rechunking a Zarr store, by fmristore and by dask: see `benchmarks.apart`."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.apart import run_apart
from benchmarks.timing import Measured
from fmristore.planning.layout import Pattern

__all__ = ["Job", "dask", "fmristore", "peers", "run"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """One rechunking of a Zarr store."""

    label: str
    source: Path
    target: Path
    access: Pattern
    max_memory: int


def peers() -> tuple[str, ...]:
    """Peers that can rechunk here."""
    return ("dask",) if importlib.util.find_spec("dask") else ()


def run(job: Job) -> Measured:
    """Do a job in another process."""
    given = asdict(job)
    return run_apart(__name__, given.pop("label"), **given)


def fmristore(source: str, target: str, access: Pattern, max_memory: int) -> Callable[[], Any]:
    """Transcode with another access pattern."""
    import fmristore as fs

    with fs.open(source) as image:  # imports what it needs
        image.read((0, 0, 0, 0))
    return partial(fs.transcode, source, target, access=access, max_memory=max_memory)


def dask(source: str, target: str, access: Pattern, max_memory: int) -> Callable[[], Any]:
    """Rechunk to the same chunks, shards and codecs."""
    import dask.array as da
    import zarr
    from dask import config
    from zarr.codecs import BloscCodec, TransposeCodec

    from benchmarks.write_cells import sync
    from fmristore.planning.layout import choose_codecs, plan_layout
    from fmristore_stores.spec import ArraySpec

    old: Any = zarr.open_array(Path(source) / "0", mode="r")
    names = old.metadata.dimension_names
    layout = plan_layout(old.shape, old.dtype, access=access)
    spec = ArraySpec(shape=old.shape, dtype=old.dtype, dims=names, layout=layout)
    (blosc,) = choose_codecs("dual", spec)  # depends on what varies fastest inside the chunks
    arrays: Any = da
    order = layout.order or tuple(range(old.ndim))

    def work() -> None:
        zarr.open_group(target, mode="w")
        new: Any = zarr.create_array(
            store=Path(target) / "0",
            shape=old.shape,
            dtype=old.dtype,
            chunks=layout.chunks,
            shards=layout.shards,
            filters=[TransposeCodec(order=order)],
            compressors=[BloscCodec(**dict(blosc.options))],
            dimension_names=names,
        )
        loaded: Any = arrays.from_array(old, chunks=old.shards or old.chunks)
        with config.set({"array.chunk-size": max_memory // 4}):
            arrays.store(loaded.rechunk(layout.units), new, lock=False)
        sync(Path(target))

    return work
