"""Sizes of memory, given as a number or as people write them, in every call that takes one."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import fmristore as fs
from fmristore.planning.text import counted, parse_size
from fmristore_stores.errors import InvalidInputError, MemoryLimitError

MASK = np.ones((4, 4, 3), bool)


@pytest.mark.parametrize(
    ("value", "size"),
    [("1GiB", 1 << 30), ("64 mb", 64_000_000), ("1e9", 10**9), (1e9, 10**9), (np.int64(7), 7)],
)
def test_sizes(value: Any, size: int) -> None:
    found = parse_size(value)
    assert (found, type(found)) == (size, int)


@pytest.mark.parametrize("value", ["", "0", "GiB", "-5", None, "1 PB", float("nan"), float("inf")])
def test_no_sizes(value: Any) -> None:
    with pytest.raises(InvalidInputError, match="is not a size; expected"):
        parse_size(value)


def test_counts_have_the_noun_in_singular_or_plural() -> None:
    assert [counted(n, "run") for n in (0, 1, 2)] == ["0 runs", "1 run", "2 runs"]


def run(path: Path) -> Path:
    values = np.random.default_rng(0).integers(1, 900, (4, 4, 3, 6)).astype("i2")
    fs.NeuroVec.create(values, path, space=np.eye(4), tr=2.0).close()
    return path


CALLS: dict[str, Callable[[Path, Path, str], Any]] = {
    "convert": lambda bold, out, size: fs.convert(bold, out, max_memory=size),
    "transcode": lambda bold, out, size: fs.transcode(bold, out, max_memory=size),
    "verify": lambda bold, _, size: fs.verify(bold, deep=True, max_memory=size),
    "parcellate": lambda bold, out, size: fs.parcellate(
        bold, MASK.astype("i2"), out, max_memory=size
    ),
    "to_nifti": lambda bold, out, size: fs.open(bold).to_nifti(
        out.with_suffix(".nii"), max_memory=size
    ),
    "save": lambda bold, out, size: fs.open(bold).save(out, max_memory=size),
    "digest": lambda bold, _, size: fs.open(bold).compute_digest(max_memory=size),
    "masked": lambda bold, out, size: fs.MaskedNeuroVec.create(
        bold, out, mask=MASK, max_memory=size
    ),
    "dense": lambda bold, out, size: fs.NeuroVec.create(bold, out, max_memory=size),
}


@pytest.mark.parametrize("name", list(CALLS))
def test_every_call_takes_them(tmp_path: Path, name: str) -> None:
    bold = run(tmp_path / "bold.h5")
    CALLS[name](bold, tmp_path / "out.h5", "256MiB")
    with pytest.raises(InvalidInputError, match="'much' is not a size"):
        CALLS[name](bold, tmp_path / "other.h5", "much")
    assert not (tmp_path / "other.h5").exists()


def test_a_median_that_would_read_the_run_again_and_again_is_refused_first(tmp_path: Path) -> None:
    values = np.random.default_rng(0).integers(1, 900, (16, 16, 8, 40)).astype("i2")
    fs.NeuroVec.create(values, tmp_path / "bold.h5", space=np.eye(4), tr=2.0).close()
    labels = np.ones((16, 16, 8), "i2")

    def parcellate(size: Any) -> Any:
        return fs.parcellate(
            tmp_path / "bold.h5", labels, tmp_path / "out.h5", statistic="median", max_memory=size
        )

    with pytest.raises(MemoryLimitError, match="raise max_memory from") as caught:
        parcellate("100kB")
    assert not (tmp_path / "out.h5").exists()
    least = int(str(caught.value).split("at least ")[1].split()[0])
    with pytest.raises(MemoryLimitError):
        parcellate(least - 1)
    found = parcellate(least)[:, 0]
    np.testing.assert_array_equal(found, np.median(values.reshape(-1, 40), axis=0))
