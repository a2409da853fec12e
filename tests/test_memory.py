"""Converting and exporting stay within their memory limit, however large the image is."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.images import PEAK, STORES, from_proc, run_python

pytestmark = pytest.mark.once

LIMIT = 48 << 20
MARGIN = 48 << 20
"""For chunks being decoded and encoded on each worker, and for what malloc keeps in between."""

SHAPE = (96, 96, 52, 108)
"""As int16 twice the limit, and above limit and margin."""

CODE = (
    PEAK
    + """
import json, sys
from pathlib import Path
import numpy as np
import fmristore as fs
from fmristore.nifti import make_header

folder, kind, access, limit, *shape = sys.argv[1:]
folder, limit = Path(folder), int(limit)


def write(path, shape):
    space = fs.NeuroSpace(spatial_shape=shape[:3], affine=np.eye(4), time_points=shape[3])
    volume = np.random.default_rng(0).integers(0, 2000, shape[2::-1]).astype("<i2")
    with open(path, "wb") as file:
        file.write(make_header(space, "i2"))
        for t in range(shape[3]):
            file.write((volume + t).tobytes())


def work(name):
    source, url, back = (folder / f"{name}{end}" for end in (".nii", f".{kind}", "-back.nii"))
    fs.convert(source, url, access=access, codec="fast", max_memory=limit)
    peaks = [peak()]
    with fs.open(url) as image:
        assert image.compute_digest(max_memory=limit) == image.digest
        peaks.append(peak())
        image.to_nifti(back, max_memory=limit)
        peaks.append(peak())
    return peaks


write(folder / "small.nii", (16, 16, 10, 8))
work("small")
write(folder / "large.nii", tuple(map(int, shape)))
before = peak()
print(json.dumps([after - before for after in work("large")]))
"""
)


@from_proc
@pytest.mark.parametrize("access", ["time", "volume"])
@pytest.mark.parametrize("kind", STORES)
def test_peak(tmp_path: Path, kind: str, access: str) -> None:
    done = run_python(CODE, tmp_path, kind, access, LIMIT, *SHAPE)
    assert done.returncode == 0, done.stderr
    peaks = dict(zip(("convert", "digest", "export"), json.loads(done.stdout), strict=True))
    for what, taken in peaks.items():
        assert taken <= LIMIT + MARGIN, f"{what} took {taken >> 20} MiB"
    source, back = (tmp_path / name for name in ("large.nii", "large-back.nii"))
    assert source.stat().st_size > LIMIT + MARGIN
    with source.open("rb") as left, back.open("rb") as right:
        while piece := left.read(1 << 24):
            assert piece == right.read(1 << 24)
        assert not right.read(1)


GROWTH = """
def grow(name):
    source, url, moved = (folder / f"{name}{end}" for end in (".nii", f".{kind}", f"-moved.{kind}"))
    fs.convert(source, url, codec="fast", max_memory=limit)
    peaks = [peak()]
    fs.transcode(url, moved, access="volume", max_memory=limit)
    peaks.append(peak())
    with fs.open(moved) as image:
        image[1, 2, 3, :4], image[..., 5], image[2:9, 2:9, 2:9, :4]
        peaks.append(peak())
    return peaks


write(folder / "small.nii", (16, 16, 10, 8))
grow("small")
write(folder / "large.nii", tuple(map(int, shape)))
print(json.dumps(grow("large")))
"""


@from_proc
@pytest.mark.parametrize("kind", STORES)
def test_the_peak_does_not_grow_with_the_run(tmp_path: Path, kind: str) -> None:
    """Peaks of a run that is 66 MiB larger differ by no more than the margin."""
    peaks = []
    for times in (60, 132):  # the smaller one is above the limit too
        folder = tmp_path / str(times)
        folder.mkdir()
        code = CODE[: CODE.index("def work(")] + GROWTH
        done = run_python(code, folder, kind, "time", LIMIT, *SHAPE[:3], times)
        assert done.returncode == 0, done.stderr
        peaks.append(json.loads(done.stdout))
    for what, small, large in zip(("convert", "transcode", "read"), *peaks, strict=True):
        assert large - small <= MARGIN, f"{what}: {small >> 20} MiB became {large >> 20} MiB"
