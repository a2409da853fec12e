"""Lists of runs given to the calls of one run: which calls mean many, and what is refused."""

from __future__ import annotations

import inspect
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import fmristore as fs
from fmristore_stores.errors import InvalidInputError
from tests.images import make_values, snapshot, write_nifti

SHAPE = (3, 4, 2, 5)


@pytest.fixture
def sources(tmp_path: Path) -> list[Path]:
    """Three images, the second of which is none."""
    found = [
        write_nifti(tmp_path / f"run-{number}.nii", make_values(SHAPE, seed=number))
        for number in range(3)
    ]
    found[1].write_bytes(b"no image")
    return found


def states(report: fs.RunsReport) -> list[str]:
    return [one.state for one in report]


def test_as_many_urls_as_sources_are_a_store_for_each(tmp_path: Path, sources: list[Path]) -> None:
    urls = [tmp_path / f"new/{number}.h5" for number in range(3)]
    journal = tmp_path / "journal.jsonl"
    with ThreadPoolExecutor(2) as pool:
        given: Any = {"executor": pool, "journal": journal, "access": "volume"}
        report = fs.convert(sources, urls, **given)
        assert states(report) == ["done", "failed", "done"]
        assert [one.name for one in report.failed] == [str(urls[1])]
        write_nifti(sources[1], make_values(SHAPE, seed=1))
        assert states(fs.convert(sources, urls, **given)) == ["unchanged", "done", "unchanged"]
    for number, url in enumerate(urls):
        with fs.open(url) as run:
            assert isinstance(run, fs.NeuroVec)
            np.testing.assert_array_equal(run[...], make_values(SHAPE, seed=number))


def test_other_calls_of_many_stores(tmp_path: Path, sources: list[Path]) -> None:
    seen: list[tuple[int, int]] = []
    labels = write_nifti(tmp_path / "atlas.nii", make_values(SHAPE[:3], "u1") % 3)
    names = ("a", "bad", "b")
    runs = dict(zip(names, sources, strict=True))
    series = {name: tmp_path / f"{name}-parcels.h5" for name in names}
    made = fs.parcellate(runs, labels, series, statistic="std", progress=lambda *n: seen.append(n))
    assert [one.name for one in made] == list(names)
    assert states(made) == ["done", "failed", "done"]
    assert seen == [(1, 3), (2, 3), (3, 3)]
    again = tuple(tmp_path / f"{name}.zarr" for name in names)
    moved = fs.transcode(list(series.values()), again)
    assert states(moved) == ["done", "failed", "done"]
    checked = fs.verify([*series.values(), *again], deep=True)
    assert states(checked) == ["done", "failed", "done"] * 2
    assert all(one.ok for one in checked.results.values())
    with fs.open(again[0]) as first:
        assert isinstance(first, fs.ParcellatedScanSummary)
        with fs.parcellate(sources[0], labels, tmp_path / "one.h5", statistic="std") as one:
            np.testing.assert_array_equal(first.to_numpy(), one.to_numpy())


def test_damage_is_found_again(tmp_path: Path, sources: list[Path]) -> None:
    urls = [tmp_path / "a.h5", tmp_path / "b.h5"]
    fs.convert([sources[0], sources[2]], urls, codec="none")
    content = bytearray(urls[0].read_bytes())
    place = content.find(make_values(SHAPE, seed=0)[0, 0, 0].tobytes())
    content[place] ^= 1
    urls[0].write_bytes(content)
    for expected in (["done", "done"], ["done", "unchanged"]):
        report = fs.verify(urls, deep=True, journal=tmp_path / "journal.jsonl")
        assert states(report) == expected
        assert not report.results[str(urls[0])].ok


def test_what_is_secret_may_be_all_that_sets_runs_apart() -> None:
    urls = [f"https://host/get?key={name}" for name in ("sub-01.nii", "sub-02.nii")]
    report = fs.map_runs(len, urls)
    assert states(report) == ["done", "done"]
    assert len({one.name for one in report}) == 2
    assert "sub-0" not in "".join(one.name for one in report)


def test_sources_of_one_url_are_a_sequence_and_a_list_of_them_many(
    tmp_path: Path, sources: list[Path]
) -> None:
    good = [sources[0], sources[2]]
    turned: Any = (tmp_path / "x.h5", good)
    with fs.convert(good, tmp_path / "one.h5") as one, fs.convert(*turned) as x:
        assert isinstance(one, fs.NeuroVecSeq)
        assert isinstance(x, fs.NeuroVecSeq)
        np.testing.assert_array_equal(one[...], x[...])
    report = fs.convert([good, sources[0]], [tmp_path / "seq.h5", tmp_path / "run.h5"]).check()
    assert len(report) == 2
    with fs.open(tmp_path / "seq.h5") as runs, fs.open(tmp_path / "run.h5") as run:
        assert isinstance(runs, fs.NeuroVecSeq)
        assert isinstance(run, fs.NeuroVec)


@pytest.mark.parametrize(
    ("source", "url", "options", "message"),
    [
        (["a.nii"], "b.h5", {"jobs": 2}, r"jobs: only for many runs, where source and url are"),
        ("a.nii", ["b.h5"], {"journal": "j"}, r"journal: only for many runs"),
        (["a.nii"], ["b.h5", "c.h5"], {}, r"1 of source and 2 of url: one is needed"),
        ({"a": "a.nii"}, ["b.h5"], {}, r"give lists, or mappings"),
        ({"a": "a.nii"}, {"b": "b.h5"}, {}, r"the names must be the same"),
        (["a.nii"], ["b.h5"], {"overwite": True}, r"unexpected keyword argument 'overwite'"),
        (["a.nii", "c.nii"], ["b.h5", "b.h5"], {}, r"two runs have the name"),
    ],
)
def test_what_does_not_fit_is_refused_before_anything_is_done(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    source: Any,
    url: Any,
    options: dict[str, Any],
    message: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    write_nifti(tmp_path / "a.nii", make_values(SHAPE))
    before = snapshot(tmp_path)
    with pytest.raises(InvalidInputError, match=message):
        fs.convert(source, url, **options)
    assert snapshot(tmp_path) == before


def test_one_store_has_no_workers_but_the_defaults_are_taken(tmp_path: Path) -> None:
    source = write_nifti(tmp_path / "a.nii", make_values(SHAPE))
    call: Any = fs.convert
    call(source, tmp_path / "a.h5", jobs=1, executor=None, journal=None).close()
    call = fs.verify
    assert call(tmp_path / "a.h5", jobs=1).ok
    with pytest.raises(
        InvalidInputError, match="executor: only for many runs, where url is a list"
    ):
        call(tmp_path / "a.h5", executor=object())


@pytest.mark.parametrize("call", [fs.convert, fs.parcellate, fs.transcode, fs.verify])
def test_options_of_many_are_shown_and_described(call: Any) -> None:
    assert {"executor", "jobs", "journal"} <= set(inspect.signature(call).parameters)
    described = inspect.getdoc(call) or ""
    before, _, after = described.partition("Returns\n-------\n")
    assert "\njournal : str or path, optional\n" in before
    assert "\nRunsReport\n" in after
