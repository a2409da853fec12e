"""A chunk that is missing is damage in every operation, also in the layouts of R.

That it is so in the layouts of the package is a part of `fmristore.testing.FormatTests`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import fmristore as fs
from fmristore.transcoding import whole
from fmristore_stores.errors import CorruptDataError, FmristoreError, StorageError
from fmristore_stores.hdf5.store import HDF5Store
from tests.every_format import R_WRITERS, RUN, SPACE


@pytest.fixture(params=R_WRITERS, ids=lambda name: name.replace(" ", "-"))
def damaged(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A store whose last primary array has lost what was written to it."""
    path = tmp_path / "a.h5"
    with R_WRITERS[request.param](path) as stored:
        lost = stored.primary_arrays[-1].path
    _lose(path, lost)
    return path


def _lose(path: Path, lost: str, *, digest: bool = True) -> None:
    """Put an array that holds nothing in the place of another, with its digest or without."""
    with HDF5Store(str(path), mode="r+") as store:
        folder, _, node = lost.rpartition("/")
        group = store.root.group(folder) if folder else store.root
        spec, attributes = group.array(node).spec, group.array(node).read_attributes()
        group.remove(node)
        kept = {name: value for name, value in attributes.items() if digest or name != "digest"}
        group.create_array(node, spec, kept)


def _read(path: Path, _: Path) -> None:
    with fs.open(path) as stored:
        values = stored[...] if hasattr(stored, "shape") else None
        for name in stored.part_names or ():
            _read_part(stored.part(name))
        if values is None and hasattr(stored, "to_numpy"):
            stored.to_numpy()


def _read_part(part: Any) -> None:
    np.asarray(part.to_numpy() if hasattr(part, "to_numpy") else part[...])


def _series(path: Path, _: Path) -> None:
    with fs.open(path) as stored:
        parts = list(stored.values()) if isinstance(stored, fs.ParcellatedMultiScan) else [stored]
        for part in parts:
            if isinstance(part, fs.NeuroVol | fs.LabeledVolumeSet):  # they have none
                part.read() if isinstance(part, fs.NeuroVol) else part[...]
            elif isinstance(part, fs.ParcellatedScanSummary):
                part.series()
            else:
                part.series(mask=np.ones(RUN.shape[:3], bool))


def _export(path: Path, out: Path) -> None:
    with fs.open(path) as stored:
        if not hasattr(stored, "to_nifti"):
            stored.save(out / "saved.h5").close()
            return
        try:
            stored.to_nifti(out / "a.nii")
        finally:
            assert not (out / "a.nii").exists()


def _save(path: Path, out: Path) -> None:
    with fs.open(path) as stored:
        stored.save(out / "saved.zarr").close()


def _convert(path: Path, out: Path) -> None:
    fs.convert(path, out / "converted.h5")


def _to_hdf5(path: Path, out: Path) -> None:
    fs.transcode(path, out / "b.h5")


def _to_zarr(path: Path, out: Path) -> None:
    fs.transcode(path, out / "b.zarr")


OPERATIONS = [_read, _series, _export, _save, _convert, _to_hdf5, _to_zarr]


def test_a_missing_chunk_is_an_error_everywhere(damaged: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    for operation in OPERATIONS:
        with pytest.raises(CorruptDataError) as caught:
            operation(damaged, out)
        assert caught.value.url == str(damaged), operation.__name__
        assert list(out.iterdir()) == [], operation.__name__
    assert not fs.verify(damaged)


def test_a_reference_file_does_not_hide_what_is_missing(tmp_path: Path) -> None:
    """What is read through it is an error as well."""
    path = tmp_path / "a.h5"
    fs.NeuroVec.create(RUN, path, space=SPACE).close()
    _lose(path, "0")
    try:
        fs.virtualize(path, tmp_path / "a.json")
    except FmristoreError:
        return
    with fs.open(tmp_path / "a.json") as run, pytest.raises(CorruptDataError):
        run[...]


def test_what_must_be_whole_is_known_or_nothing_is_transcoded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An error that passes, or chunks that are missing would be taken for fill values."""
    with next(iter(R_WRITERS.values()))(tmp_path / "a.h5") as stored:
        lost = [array.path for array in stored.primary_arrays]
    for path in lost:
        _lose(tmp_path / "a.h5", path, digest=False)

    def fail(*_: Any) -> None:
        raise StorageError("the service failed")

    monkeypatch.setattr(whole, "open_handle", fail)
    with pytest.raises(StorageError, match="the service failed"):
        fs.transcode(tmp_path / "a.h5", tmp_path / "b.zarr")
    assert [one.name for one in tmp_path.iterdir()] == ["a.h5"]
