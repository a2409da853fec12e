"""A write that fails closes the file that it reads at once, though its error is still held."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import fmristore as fs
from fmristore.planning.streams import streaming
from tests.every_format import LABELS, MASK, RUN, SPACE

FOLDER = Path("/proc/self/fd")


class FullError(Exception):
    """Stands for a write that fails."""


def _fail(*_: Any) -> None:
    raise FullError


def _open_files() -> list[str]:
    """Names of the files that this process has open."""
    found = []
    for entry in FOLDER.iterdir():
        try:
            found.append(entry.readlink().name)
        except OSError:  # the descriptor of this listing
            continue
    return found


WRITERS: dict[str, Callable[[Path, Path], Any]] = {
    "image": lambda nii, out: fs.convert(nii, out / "a.zarr", progress=_fail),
    "image for R": lambda nii, out: fs.convert(nii, out / "a.h5", profile="r", progress=_fail),
    "masked": lambda nii, out: fs.MaskedNeuroVec.create(
        nii, out / "a.h5", mask=MASK, progress=_fail
    ),
    "maps": lambda nii, out: fs.LabeledVolumeSet.create(
        nii, out / "a.h5", labels=list("abcdefghijklmnopqrst"), progress=_fail
    ),
    "sequence": lambda nii, out: fs.NeuroVecSeq.create({"a": nii}, out / "a.h5", progress=_fail),
    "summary": lambda nii, out: fs.parcellate(nii, LABELS, out / "a.h5", progress=_fail),
}


@pytest.mark.skipif(not FOLDER.exists(), reason="the system does not list open files")
@pytest.mark.parametrize("name", WRITERS)
def test_a_failed_write_closes_its_source(tmp_path: Path, name: str) -> None:
    source = tmp_path / "source.nii"
    with fs.NeuroVec.create(RUN, tmp_path / "run.zarr", space=SPACE) as run:
        run.to_nifti(source)
    with pytest.raises(FullError) as caught:
        WRITERS[name](source, tmp_path)
    assert caught.tb is not None
    assert source.name not in _open_files()


def test_a_generator_ends_with_its_loop() -> None:
    ended = []

    def numbers() -> Any:
        try:
            yield from range(9)
        finally:
            ended.append(True)

    def fail_in_the_middle() -> None:
        with streaming(numbers()) as found:
            for _ in found:
                _fail()

    with pytest.raises(FullError):
        fail_in_the_middle()
    assert ended
    with streaming(np.arange(3)) as found:
        assert list(found) == [0, 1, 2]
