"""The digest of the data: the same however they are stored and however they arrive."""

from __future__ import annotations

import hashlib
import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import fmristore as fs
from fmristore.model.digest import PREFIX, ImageDigest, slabs
from fmristore_stores.protocol import AnyArray
from fmristore_stores.spec import ArraySpec, ChunkLayout
from tests.images import LAYOUTS, SHAPE, STORES, files_below, make_values, store


def by_the_book(values: AnyArray) -> str:
    """Digest of (X, Y, Z[, T]) numbers as the format's specification words it."""
    if values.dtype.names:
        values = values.view(np.uint8).reshape(*values.shape, len(values.dtype.names))
        values = np.moveaxis(values, -1, 3)  # x y z c [t]
    little = values.astype(values.dtype.newbyteorder("<"))
    planes = [
        hashlib.sha256(np.ascontiguousarray(little[:, :, z].T).tobytes()).digest()
        for z in range(values.shape[2])
    ]
    return PREFIX + hashlib.sha256(b"".join(planes)).hexdigest()


CODECS = ("portable", "dual", "none")
ALL = list(itertools.product(STORES, LAYOUTS, CODECS))
SOME = [
    (kind, access, CODECS[(i + j) % len(CODECS)])
    for i, kind in enumerate(STORES)
    for j, access in enumerate(LAYOUTS)
]
"""Each layout and each codec in both kinds of store, but not all of them together."""


@pytest.mark.parametrize("shape", [SHAPE, SHAPE[:3]])
@pytest.mark.parametrize("dtype", ["i2", ">f4", "c16", "rgb"])
def test_one_digest_whatever_the_store(tmp_path: Path, shape: Any, dtype: str) -> None:
    values = make_values(shape, [(n, "u1") for n in "RGB"] if dtype == "rgb" else dtype)
    wanted = by_the_book(values)
    for kind, access, codec in ALL if dtype == "i2" else SOME:
        url = tmp_path / f"{access}-{codec}.{kind}"
        with store(url, values, access=access, codec=codec) as image:
            assert image.digest == wanted
            assert image.compute_digest() == wanted
            assert image.compute_digest(max_memory=200) == wanted


def test_any_change_changes_it() -> None:
    values = make_values()
    digests = {by_the_book(values)}
    for axis in range(4):
        digests.add(by_the_book(np.flip(values, axis)))
    changed = values.copy()
    changed[3, 2, 1, 4] += 1
    digests.add(by_the_book(changed))
    assert len(digests) == 6


@given(data=st.data())
def test_however_the_numbers_arrive(data: st.DataObject) -> None:
    values = make_values((3, 4, 5, 6))
    stored = values.transpose(3, 2, 1, 0)
    digest = ImageDigest(5)
    if data.draw(st.booleans(), label="volume by volume"):
        t = 0
        while t < 6:
            step = data.draw(st.integers(1, 6))
            z = 0
            while z < 5:
                thick = data.draw(st.integers(1, 5))
                digest.update(z, stored[t : t + step, z : z + thick])
                z += thick
            t += step
    else:
        for z in data.draw(st.permutations(range(5))):
            digest.update(z, stored[:, z : z + 1])
    assert digest.hexdigest() == by_the_book(values)


@pytest.mark.parametrize("side", [8, 64])
@pytest.mark.parametrize("colors", [(), (3,)])
def test_planes_are_hashed_wherever_they_lie(side: int, colors: tuple[int, ...]) -> None:
    """In one piece, which is hashed as it is, or not."""
    values = np.arange(2 * 3 * side**2 * (3 if colors else 1), dtype="<u2")
    values = values.reshape(2, *colors, 3, side, side)
    expected = [hashlib.sha256(values[..., z, :, :].tobytes()).digest() for z in range(3)]
    for laid_out in (values, np.asfortranarray(values), np.repeat(values, 2, axis=-1)[..., ::2]):
        digest = ImageDigest(3)
        digest.update(0, laid_out[..., :2, :, :])
        digest.update(2, laid_out[..., 2:, :, :])
        assert digest.planes() == expected


@given(
    shape=st.tuples(*[st.integers(1, 9)] * 4),
    chunks=st.tuples(*[st.integers(1, 9)] * 4),
    dims=st.permutations("tzyx"),
    limit=st.integers(1, 5000),
)
def test_slabs_visit_everything_once_and_in_order_of_time(
    shape: tuple[int, ...], chunks: tuple[int, ...], dims: list[str], limit: int
) -> None:
    layout = ChunkLayout(chunks=tuple(map(min, shape, chunks)))
    spec = ArraySpec(shape=shape, dtype=np.dtype("i2"), dims=tuple(dims), layout=layout)
    time, plane = dims.index("t"), dims.index("z")
    seen = np.zeros(shape, int)
    done = dict.fromkeys(range(shape[plane]), 0)
    smallest = spec.nbytes // shape[plane] // shape[time]
    for region in slabs(spec, limit):
        seen[region] += 1
        assert seen[region].size * 2 <= max(limit, smallest)
        for z in range(region[plane].start, region[plane].stop):
            assert region[time].start == done[z]
            done[z] = region[time].stop
    assert (seen == 1).all()


@pytest.mark.parametrize("kind", STORES)
def test_it_notices_damage(tmp_path: Path, kind: str) -> None:
    url = tmp_path / f"a.{kind}"
    with store(url, make_values(), codec="none") as image:
        recorded = image.digest
    files = (p for p in files_below(url) if p.suffix != ".json")
    path = max(files, key=lambda p: p.stat().st_size)
    content = bytearray(path.read_bytes())
    content[bytes(content).index(make_values()[3, 2, 1].tobytes())] ^= 1
    path.write_bytes(content)
    with fs.open(url) as image:
        assert image.digest == recorded
        assert image.compute_digest() != recorded
