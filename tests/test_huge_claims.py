"""Files that claim far more than they hold: nothing is taken for the claim, in any format."""

from __future__ import annotations

import json
import shutil
import sys
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import h5py
import nibabel as untyped_nibabel
import numpy as np
import pytest

import fmristore as fs
from tests.campaigns import hostile
from tests.campaigns.children import Limits, in_children, warm
from tests.campaigns.operations import AFFINE, FORMATS, RUN, SHAPE, values_in
from tests.stores.hdf5.checksums import renew

nibabel: Any = untyped_nibabel
pytestmark = [
    pytest.mark.skipif(sys.platform != "linux", reason="watches children by /proc"),
    pytest.mark.once,
]

_LIMITS = Limits(seconds=280, growth=64 << 20)
"""Every claim is of more than 512 MiB."""


def _contiguous(folder: Path) -> Path:
    """A data space of terabytes, of which nothing is stored."""

    def claim(file: h5py.File, name: str) -> Any:
        return file.create_dataset(name, (2000,) * 4, "i2")

    return hostile._replace_dataset(hostile._h5(folder), claim)


def _text_of_gigabytes(folder: Path) -> Path:
    """A text of any length that claims 1.9 GB."""
    text, path = "a text of its own length", folder / "x.h5"
    with h5py.File(path, "w") as file:
        file.attrs["a"] = text
    content = bytearray(path.read_bytes())
    heap = content.index(b"GCOL").to_bytes(8, "little")
    place = content.index(len(text).to_bytes(4, "little") + heap)
    content[place : place + 4] = (1_900_000_000).to_bytes(4, "little")
    path.write_bytes(content)
    return path


def _text_of_an_array(folder: Path) -> Path:
    path = _text_of_gigabytes(folder)
    with h5py.File(folder / "y.h5", "w") as file:
        file["texts"] = ["one", "a text of its own length"]
    content = bytearray((folder / "y.h5").read_bytes())
    heap = content.index(b"GCOL").to_bytes(8, "little")
    place = content.index((24).to_bytes(4, "little") + heap)
    content[place : place + 4] = (1_900_000_000).to_bytes(4, "little")
    path.write_bytes(content)
    return path


def _text_outside_the_header(folder: Path) -> Path:
    """With a checksum that is right, so that the library would take the memory."""
    path, text = folder / "x.h5", "a text of its own length"
    with h5py.File(path, "w", libver="latest") as file:
        for number in range(20):
            file.attrs[f"a{number}"] = text
    content = bytearray(path.read_bytes())
    heap = content.index(b"GCOL").to_bytes(8, "little")
    block = content.index(b"FHDB")
    place = content.index(len(text).to_bytes(4, "little") + heap, block)
    content[place : place + 4] = (1_900_000_000).to_bytes(4, "little")
    renew(content, block, block + 1024, block + 18)
    path.write_bytes(content)
    return path


def _lists(nbytes: int) -> str:
    """JSON of empty lists, each of which takes twenty times as much memory as letters."""
    return "[" + "[]," * (nbytes // 3) + "[]]"


def _attribute_of_lists(folder: Path) -> Path:
    path = folder / "x.zarr"
    FORMATS["neurovec"].make(path, RUN).close()
    document = json.loads((path / "zarr.json").read_text())
    document["attributes"]["lists"] = "here"
    text = json.dumps(document).replace('"here"', _lists(6 << 20))
    (path / "zarr.json").write_text(text)
    return path


def _text_of_lists(folder: Path) -> Path:
    path = folder / "x.h5"
    FORMATS["neurovec"].make(path, RUN).close()
    with h5py.File(path, "r+") as file:
        file.attrs["lists"] = _lists(6 << 20)
        file.attrs["_json"] = ["lists"]
    return path


def _references_of_lists(folder: Path) -> Path:
    path = folder / "x.json"
    lists = _lists(6 << 20)
    path.write_text(f'{{"version": 1, "refs": {{".zgroup": {{"zarr_format": 2}}, "x": {lists}}}}}')
    return path


def _sidecar_of_lists(folder: Path) -> Path:
    path = folder / "sub-01_task-rest_bold.nii.gz"
    nibabel.save(nibabel.Nifti1Image(RUN, AFFINE), path)
    (folder / "sub-01_task-rest_bold.json").write_text(f'{{"x": {_lists(6 << 20)}}}')
    return path


def _texts(folder: Path, shape: tuple[int, ...], length: int, **options: Any) -> Path:
    """Names of maps as texts of a fixed length, of which nothing is stored."""
    path = folder / "x.h5"
    FORMATS["labeledvolumeset"].make(path, RUN).close()
    with h5py.File(path, "r+") as file:
        del file["label"]
        file.create_dataset("label", shape, f"S{length}", **options)
    return path


def _text_of_a_fill_value(folder: Path) -> Path:
    """Two hundred texts that are not there, and so all the long one that is the fill value."""
    path = folder / "x.zarr"
    FORMATS["labeledvolumeset"].make(path, RUN).close()
    document = json.loads((path / "label" / "zarr.json").read_text())
    document["fill_value"] = "x" * 1_500_000
    document["shape"] = document["chunk_grid"]["configuration"]["chunk_shape"] = [400]
    (path / "label" / "zarr.json").write_text(json.dumps(document))
    shutil.rmtree(path / "label" / "c")
    return path


CLAIMS: dict[str, Callable[[Path], Path]] = {
    "hdf5: chunks": hostile._CASES["hdf5 chunk that promises gigabytes"],
    "hdf5: a chunk as it is decoded": hostile._CASES["hdf5 deflate bomb"],
    "hdf5: data space, in chunks": hostile._CASES["hdf5 huge shape"],
    "hdf5: data space, in one piece": _contiguous,
    "hdf5: an affine": hostile._CASES["hdf5 huge affine"],
    "hdf5: text of an attribute": _text_of_gigabytes,
    "hdf5: text of an attribute outside the header": _text_outside_the_header,
    "hdf5: text of an array": _text_of_an_array,
    "hdf5: a text of fixed length": partial(_texts, shape=(4,), length=1_900_000_000),
    "hdf5: a chunk of such texts": partial(
        _texts, shape=(1000,), length=1_000_000, chunks=(1000,), compression="gzip"
    ),
    "hdf5: JSON in an attribute": _text_of_lists,
    "zarr: JSON of an attribute": _attribute_of_lists,
    "zarr: fill value of texts": _text_of_a_fill_value,
    "references: JSON": _references_of_lists,
    "zarr: chunks": hostile._CASES["zarr with chunks of gigabytes"],
    "zarr: a chunk as it is decoded": hostile._CASES["zarr chunk bomb"],
    "zarr: a frame of blosc": hostile._CASES["blosc that lies about its size"],
    "zarr: shape": hostile._CASES["zarr with shape of 2**62"],
    "zarr: chunks in number": hostile._CASES["zarr with a million chunks"],
    "zarr: texts of a chunk": hostile._CASES["text chunk that claims 2**31 texts"],
    "zarr: one text of a chunk": hostile._CASES["text chunk with a long text"],
    "zarr: index of a shard": hostile._CASES["shard index out of bounds"],
    "zarr: a document": hostile._CASES["huge root document"],
    "nifti: dimensions": hostile._CASES["nifti huge dimensions"],
    "nifti: extensions": hostile._CASES["nifti extension bomb"],
    "gzip: what follows the image": hostile._CASES["gzip bomb behind a small header"],
    "sidecar: JSON": _sidecar_of_lists,
}


def _tried(make: Callable[[Path], Path], folder: Path) -> list[str]:
    """Names of the errors that reading, checking and converting a file meet."""
    path = make(folder)
    met: list[str] = []
    for work in (_read, _verify, _convert):
        try:
            work(path)
        except fs.errors.FmristoreError as error:
            met.append(type(error).__name__)
    return met


def _read(path: Path) -> None:
    if path.name.startswith("sub-"):
        with warnings.catch_warnings(record=True) as noted:
            warnings.simplefilter("always")
            fs.convert(path, path.with_name("y.h5")).close()
        if any("values where" in str(one.message) for one in noted):
            raise fs.errors.MemoryLimitError("reported")
    elif path.suffix not in {".nii", ".gz"}:
        with fs.open(path) as found:
            repr(found)
            values_in(found)
    else:
        fs.parcellate(np.ones(SHAPE), path, path.with_name("y.h5"), space=AFFINE)


def _verify(path: Path) -> None:
    if path.suffix not in {".nii", ".gz"} and not fs.verify(path, deep=True):
        raise fs.errors.CorruptDataError("reported")


def _convert(path: Path) -> None:
    if not path.name.startswith("sub-"):  # it was read by converting it
        fs.convert(path, path.with_name("z.zarr"))


def test_no_memory_is_taken_for_what_a_file_claims(tmp_path: Path) -> None:
    warm()
    tasks = []
    for number, make in enumerate(CLAIMS.values()):
        (tmp_path / str(number)).mkdir()
        tasks.append(partial(_tried, make, tmp_path / str(number)))
    ended = dict(zip(CLAIMS, in_children(tasks, _LIMITS), strict=True))
    assert {name: one.value for name, one in ended.items() if one.how != "returned"} == {}
    unnoticed = [name for name, one in ended.items() if not one.value]
    assert unnoticed == []


def test_what_is_watched_is_the_growth_of_the_process() -> None:
    def grow() -> int:
        return int(np.ones(128 << 17).sum()) + RUN.ndim

    assert [one.how for one in in_children([grow], _LIMITS)] == ["memory"]
