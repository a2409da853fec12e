"""Converting and exporting stay within their memory limit, however large the image is.

The limit is held against the bytes that Python and numpy have asked for, as tracemalloc counts
them: no allocator, and no other load on the machine, changes these. What the system counts
(resident pages) also has the buffers inside of C libraries in it, and what malloc keeps: this may
only not grow with the image.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from tests.images import STORES, run_python

LIMIT = 64 << 20
SHAPE = (96, 96, 52, 144)
"""As int16 more than twice the limit."""

MARGIN = 128 << 20
"""By which resident pages may grow while the image grows by twice of that.

Measured on a machine with two cores and five times as much other work: -2 to 40 MiB.
"""

WORKERS = {"FMRISTORE_WORKERS": "2", "MALLOC_ARENA_MAX": "2"}
"""Each worker has a chunk and each arena of malloc free pages: as many on every machine."""

CODE = """
import json, sys, tracemalloc
from pathlib import Path
import numpy as np
import fmristore as fs
from fmristore.nifti import make_header

folder, kind, access, limit, *shape = sys.argv[1:]
folder, limit = Path(folder), int(limit)


def traced():
    found = tracemalloc.get_traced_memory()[1]
    tracemalloc.reset_peak()
    return found


def resident():
    # Not ru_maxrss: a child inherits that of the process which started it.
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith("VmHWM"))


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
    peaks = [traced()]
    with fs.open(url) as image:
        assert image.compute_digest(max_memory=limit) == image.digest
        peaks.append(traced())
        image.to_nifti(back, max_memory=limit)
        peaks.append(traced())
    return peaks


write(folder / "small.nii", (16, 16, 10, 8))
work("small")
write(folder / "large.nii", tuple(map(int, shape)))
tracemalloc.start()
print(json.dumps(work("large")))
"""


@pytest.mark.parametrize("access", ["time", "volume"])
@pytest.mark.parametrize("kind", STORES)
def test_peak(tmp_path: Path, kind: str, access: str) -> None:
    done = run_python(CODE, tmp_path, kind, access, LIMIT, *SHAPE, timeout=280, **WORKERS)
    assert done.returncode == 0, done.stderr
    peaks = dict(zip(("convert", "digest", "export"), json.loads(done.stdout), strict=True))
    for what, taken in peaks.items():
        assert taken <= LIMIT, f"{what} took {taken >> 20} MiB"
    source, back = (tmp_path / name for name in ("large.nii", "large-back.nii"))
    assert source.stat().st_size > 2 * LIMIT
    with source.open("rb") as left, back.open("rb") as right:
        while piece := left.read(1 << 24):
            assert piece == right.read(1 << 24)
        assert not right.read(1)


GROWTH = """
def grow(name):
    source, url, moved = (folder / f"{name}{end}" for end in (".nii", f".{kind}", f"-moved.{kind}"))
    fs.convert(source, url, codec="fast", max_memory=limit)
    peaks = [resident()]
    fs.transcode(url, moved, access="volume", max_memory=limit)
    peaks.append(resident())
    with fs.open(moved) as image:
        image[1, 2, 3, :4], image[..., 5], image[2:9, 2:9, 2:9, :4]
        peaks.append(resident())
    return peaks


write(folder / "small.nii", (16, 16, 10, 8))
grow("small")
write(folder / "large.nii", tuple(map(int, shape)))
print(json.dumps(grow("large")))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads the peak from /proc")
@pytest.mark.parametrize("kind", STORES)
def test_the_peak_does_not_grow_with_the_run(tmp_path: Path, kind: str) -> None:
    """Peaks of a run that is 260 MiB larger differ by less than half of that."""
    peaks = []
    for times in (144, 432):
        folder = tmp_path / str(times)
        folder.mkdir()
        code = CODE[: CODE.index("def work(")] + GROWTH
        done = run_python(
            code, folder, kind, "time", LIMIT, *SHAPE[:3], times, timeout=280, **WORKERS
        )
        assert done.returncode == 0, done.stderr
        peaks.append(json.loads(done.stdout))
    for what, once, thrice in zip(("convert", "transcode", "read"), *peaks, strict=True):
        assert thrice - once <= MARGIN, f"{what}: {once >> 20} MiB became {thrice >> 20} MiB"
