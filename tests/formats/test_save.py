"""Every format is rewritten: in the other kind of store, encoded otherwise, as R does."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import fmristore as fs
from fmristore_stores.errors import AlreadyExistsError, InvalidInputError

AFFINE = np.array([[2.0, 0.1, 0, -20], [0, 2.5, 0.2, -30], [0.1, 0, 3.0, 5], [0, 0, 0, 1]])
SHAPE = (6, 7, 5, 12)
RNG = np.random.default_rng(8)
STORED = RNG.integers(-300, 300, SHAPE).astype(np.int16)
MASK = RNG.random(SHAPE[:3]) < 0.5
LABELS = np.where(MASK, RNG.integers(1, 5, SHAPE[:3]), 0)
SPACE = fs.NeuroSpace(spatial_shape=SHAPE[:3], affine=AFFINE, time_points=SHAPE[3], tr=1.5)
GRID = SPACE.without_time()


def volume(url: Path) -> Any:
    return fs.NeuroVol.create(STORED[..., 0], url, space=GRID)


def run(url: Path) -> Any:
    return fs.NeuroVec.create(STORED, url, space=SPACE, slope=0.5, inter=2.0, access="volume")


def masked(url: Path) -> Any:
    return fs.MaskedNeuroVec.create(STORED, url, mask=MASK, space=SPACE, fill=-7)


def sequence(url: Path) -> Any:
    return fs.NeuroVecSeq.create(
        {"a": STORED[..., :5], "b": STORED[..., 5:]}, url, space=GRID, tr=(1.5, 2.0)
    )


def maps(url: Path) -> Any:
    named = {"Faces > Houses": STORED[..., 0], "été": STORED[..., 1]}
    return fs.LabeledVolumeSet.create(named, url, mask=MASK, space=GRID)


def latent(url: Path) -> Any:
    rows = int(MASK.sum())
    return fs.LatentNeuroVec.create(
        {"a": RNG.normal(size=(7, 3)), "b": RNG.normal(size=(7, 3))},
        RNG.normal(size=(rows, 3)),
        url,
        mask=MASK,
        space=GRID,
        tr={"a": 1.5, "b": 1.5},
        offset=RNG.normal(size=rows),
        reconstruction_error=0.25,
        voxel_error=np.arange(rows, dtype=np.float32),
    )


def sparse_latent(url: Path) -> Any:
    import scipy.sparse

    loadings = scipy.sparse.random(int(MASK.sum()), 4, 0.2, "csr", rng=RNG)
    return fs.LatentNeuroVec.create(
        RNG.normal(size=(9, 4)), loadings, url, mask=MASK, space=GRID, tr=1.5
    )


def scan(url: Path) -> Any:
    return fs.ParcellatedScan.create(
        STORED,
        url,
        parcellation=LABELS,
        names={1: "un", 2: "deux", 3: "trois", 4: "vier"},
        space=SPACE,
        name="rest",
        metadata={"subject": "01"},
    )


def summary(url: Path) -> Any:
    return fs.ParcellatedScanSummary.create(
        STORED, url, parcellation=LABELS, space=SPACE, statistic="median", name="rest"
    )


def several(url: Path) -> Any:
    multi = fs.ParcellatedMultiScan.create(
        {"b": STORED}, url, parcellation=LABELS, space=GRID, tr=1.5, metadata={"b": {"x": 1}}
    )
    multi.add_scan("a", STORED[..., :5], statistic="max", tr=2.0)
    return multi


MAKERS: list[Callable[..., Any]] = [
    latent,
    maps,
    masked,
    run,
    scan,
    sequence,
    several,
    sparse_latent,
    summary,
    volume,
]


def facts(stored: Any) -> dict[str, Any]:
    """What must be the same again."""
    found: dict[str, Any] = {"affine": stored.affine.tolist(), "space": stored.space}
    if isinstance(stored, fs.ParcellatedMultiScan):
        return found | {name: facts(scan) for name, scan in stored.items()}
    found["numbers"] = np.asarray(stored).tolist()
    found["dtype"] = str(stored.dtype)
    for name in (
        *("tr", "fill", "name", "names", "labels", "lengths", "runs", "statistic", "scan_names"),
        *("slope", "inter", "stored_dtype", "reconstruction_error", "access"),
    ):
        value = getattr(stored, name, None)
        found[name] = value() if callable(value) else value
    for name in ("mask", "voxels", "ids", "voxel_error"):
        value = getattr(stored, name, None)
        found[name] = None if value is None else np.asarray(value).tolist()
    found["metadata"] = dict(getattr(stored, "metadata", {}))
    return found


@pytest.fixture(params=MAKERS, ids=lambda make: make.__name__)
def make(request: pytest.FixtureRequest) -> Callable[..., Any]:
    maker: Callable[..., Any] = request.param
    return maker


@pytest.mark.parametrize(("kind", "other"), [("h5", "ome.zarr"), ("ome.zarr", "h5")])
def test_the_same_again(tmp_path: Path, make: Callable[..., Any], kind: str, other: str) -> None:
    with make(tmp_path / f"first.{kind}") as first:
        before = facts(first)
        with first.save(tmp_path / f"second.{other}", codec="fast", max_memory=1 << 24) as second:
            assert type(second) is type(first)
            assert facts(second) == before
        with pytest.raises(AlreadyExistsError):
            first.save(tmp_path / f"second.{other}")
    fs.convert(tmp_path / f"second.{other}", tmp_path / f"third.{kind}", max_memory=1 << 24)
    with fs.open(tmp_path / f"third.{kind}") as third:
        assert type(third) is type(first)
        assert facts(third) == before
    assert fs.verify(tmp_path / f"third.{kind}", deep=True).ok


@pytest.mark.parametrize(("kind", "other"), [("h5", "ome.zarr"), ("ome.zarr", "h5")])
def test_transcoded_there_and_back(
    tmp_path: Path, make: Callable[..., Any], kind: str, other: str
) -> None:
    with make(tmp_path / f"first.{kind}") as first:
        before = facts(first)
    fs.transcode(tmp_path / f"first.{kind}", tmp_path / f"second.{other}")
    fs.transcode(tmp_path / f"second.{other}", tmp_path / f"third.{kind}")
    for name in (f"second.{other}", f"third.{kind}"):
        with fs.open(tmp_path / name) as stored:
            assert type(stored) is type(first)
            assert facts(stored) == before
        assert fs.verify(tmp_path / name, deep=True).ok


@pytest.mark.parametrize("make", [make for make in MAKERS if make is not masked])
def test_as_r_does_and_back(tmp_path: Path, make: Callable[..., Any]) -> None:
    with make(tmp_path / "own.zarr") as own:
        before = facts(own)
    fs.convert(tmp_path / "own.zarr", tmp_path / "r.h5", profile="r")
    fs.convert(tmp_path / "r.h5", tmp_path / "back.h5")
    with fs.open(tmp_path / "r.h5") as theirs, fs.open(tmp_path / "back.h5") as back:
        assert type(theirs) is type(back) is type(own)
        assert facts(theirs).keys() == before.keys()
        assert "fmristore_format" not in theirs.root_attributes
        assert back.root_attributes["fmristore_format"] == own.format_name


def test_options_that_a_format_does_not_have(tmp_path: Path) -> None:
    with masked(tmp_path / "a.h5") as stored:
        save: Any = stored.save
        for options, said in (
            ({"access": "volume"}, "no option access"),
            ({"profile": "r"}, "unknown profile 'r' of maskedneurovec"),
            ({"acces": "volume"}, "no option 'acces'; did you mean 'access'"),
        ):
            with pytest.raises(InvalidInputError, match=said):
                save(tmp_path / "b.h5", **options)
        assert not (tmp_path / "b.h5").exists()


def test_layout_of_an_image(tmp_path: Path) -> None:
    with run(tmp_path / "a.h5") as first, first.save(tmp_path / "b.h5", access="time") as second:
        assert (first.access, second.access) == ("volume", "time")


def test_options_that_are_none_are_not_given(tmp_path: Path) -> None:
    with (
        masked(tmp_path / "a.h5") as stored,
        stored.save(tmp_path / "b.zarr", access=None, order=None, codec=None) as again,
    ):
        np.testing.assert_array_equal(np.asarray(again), np.asarray(stored))
