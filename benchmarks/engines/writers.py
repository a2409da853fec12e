"""Writing an array with the peers, in the same chunks and with the same codecs as fmristore."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from fmristore_stores.protocol import AnyArray

__all__ = ["WRITERS"]


def _with_h5py(path: Path, example: Path, stored: AnyArray) -> None:
    import h5py
    import hdf5plugin

    blosc: Any = hdf5plugin.Blosc

    with h5py.File(example) as like:
        model: Any = like["0"]
        plan = model.id.get_create_plist()
        filters = [plan.get_filter(i) for i in range(plan.get_nfilters())]
        options: dict[str, Any] = {"chunks": model.chunks}
        dims = [dim.label for dim in model.dims]
    for number, _, values, _ in filters:
        match number:
            case h5py.h5z.FILTER_SHUFFLE:
                options["shuffle"] = True
            case h5py.h5z.FILTER_DEFLATE:
                options |= {"compression": "gzip", "compression_opts": values[0]}
            case _:
                assert number == blosc.filter_id
                names = ("blosclz", "lz4", "lz4hc", "snappy", "zlib", "zstd")
                options |= dict(blosc(names[values[6]], values[4], values[5]))
    with h5py.File(path, "w") as file:
        data: Any = file.create_dataset("0", data=stored, **options)
        for axis, dim in enumerate(dims):
            data.dims[axis].label = dim


def _with_zarr(pipeline: str) -> Callable[[Path, Path, AnyArray], None]:
    def write(path: Path, example: Path, stored: AnyArray) -> None:
        import zarr

        from benchmarks.engines.with_zarr import PIPELINES

        model: Any = zarr.open_array(example / "0", mode="r")
        zarr.open_group(path, mode="w")
        with zarr.config.set({"codec_pipeline.path": PIPELINES[pipeline]}):
            array: Any = zarr.create_array(
                store=path / "0",
                shape=model.shape,
                dtype=model.dtype,
                chunks=model.chunks,
                shards=model.shards,
                filters=model.filters,
                compressors=model.compressors,
                dimension_names=model.metadata.dimension_names,
            )
            array[...] = stored

    return write


def _with_tensorstore(path: Path, example: Path, stored: AnyArray) -> None:
    import tensorstore as ts

    metadata = json.loads((example / "0" / "zarr.json").read_text())
    kept = ("shape", "data_type", "chunk_grid", "chunk_key_encoding", "codecs", "fill_value")
    (path / "0").mkdir(parents=True)
    (path / "zarr.json").write_text('{"zarr_format": 3, "node_type": "group", "attributes": {}}')
    array: Any = ts.open(
        {
            "driver": "zarr3",
            "kvstore": {"driver": "file", "path": f"{path / '0'}/"},
            "metadata": {k: metadata[k] for k in (*kept, "dimension_names")},
        },
        create=True,
    ).result()
    array.write(stored).result()


WRITERS: dict[str, Callable[[Path, Path, AnyArray], None]] = {
    "h5py": _with_h5py,
    "zarr-python": _with_zarr("zarr-python"),
    "zarrs": _with_zarr("zarrs"),
    "tensorstore": _with_tensorstore,
}
"""Functions of a new path, a store of fmristore to follow, and the array with its stored axes."""
