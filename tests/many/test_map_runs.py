"""One function over many runs: workers, failures, restarts."""

from __future__ import annotations

import json
import os
import pickle
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

import fmristore as fs
from fmristore.cli import app
from fmristore.many import Outcome
from fmristore.planning import layout
from fmristore_stores.errors import (
    DependencyError,
    InvalidInputError,
    MetadataError,
    NotFoundError,
    RunsError,
)
from tests.conftest import S3Server
from tests.images import make_values, snapshot, write_nifti
from tests.many import calls


def make_runs(folder: Path, count: int = 3) -> list[tuple[str, str]]:
    folder.mkdir(exist_ok=True)
    for number in range(count):
        write_nifti(folder / f"run-{number}.nii.gz", make_values((3, 4, 2, 5), seed=number))
    return [
        (str(folder / f"run-{number}.nii.gz"), str(folder / f"run-{number}.h5"))
        for number in range(count)
    ]


class Inline:
    """The least executor that there can be: only ``submit``, and futures of its own."""

    class Answer:
        def __init__(self, value: Any) -> None:
            self.value = value

        def result(self) -> Any:
            return self.value

        def cancel(self) -> None:
            pass

    def submit(self, function: Any, *args: Any) -> Answer:
        return self.Answer(function(*args))


class TestOutcomes:
    def test_failures_are_kept_and_others_go_on(self) -> None:
        seen: list[tuple[int, int]] = []
        report = fs.map_runs(calls.twice, {str(n): n for n in range(6)}, progress=_put(seen))
        assert report.results == {"0": 0, "1": 2, "2": 4, "5": 10}
        assert not report.ok
        assert [one.name for one in report.failed] == ["3", "4"]
        assert report["3"].error == "InvalidInputError: three.h5: three is refused"
        assert report["3"].traceback == ""
        assert report["4"].error == "ZeroDivisionError: an accident"
        assert "in twice" in report["4"].traceback
        assert seen == [(n, 6) for n in range(1, 7)]
        assert str(report).splitlines() == [
            "6 runs: 4 done, 0 unchanged, 2 failed",
            "failed 3: InvalidInputError: three.h5: three is refused",
            "failed 4: ZeroDivisionError: an accident",
        ]
        with pytest.raises(RunsError, match="three is refused"):
            report.check()
        with pytest.raises(NotFoundError):
            report["7"]
        assert json.dumps(report.to_json())

    def test_a_report_of_one_run(self) -> None:
        report = fs.map_runs(calls.twice, {"0": {"number": 0}})
        assert str(report) == "1 run: 1 done, 0 unchanged, 0 failed"

    @pytest.mark.parametrize("kind", ["threads", "inline"])
    def test_any_executor(self, kind: str) -> None:
        runs = {str(n): {"number": n} for n in range(4)}
        if kind == "inline":
            report = fs.map_runs(calls.twice, runs, executor=Inline())
        else:
            with ThreadPoolExecutor(2) as pool:
                report = fs.map_runs(calls.twice, runs, executor=pool)
        assert [one.name for one in report] == list(runs)
        assert report.results == {"0": 0, "1": 2, "2": 4}

    def test_what_is_no_executor_and_no_number_of_jobs(self) -> None:
        with pytest.raises(InvalidInputError, match="a int is no executor"):
            fs.map_runs(calls.twice, {"a": 1}, executor=5)
        with pytest.raises(InvalidInputError, match="0 jobs"):
            fs.map_runs(calls.twice, {"a": 1}, jobs=0)

    def test_names_and_arguments_are_checked_before_anything_is_done(self, tmp_path: Path) -> None:
        (one, _), (two, _) = make_runs(tmp_path, 2)
        same = str(tmp_path / "same.h5")
        with pytest.raises(InvalidInputError, match="two runs have the name"):
            fs.map_runs(fs.convert, [(one, same), (two, same)])
        with pytest.raises(InvalidInputError, match="two runs have the output"):
            fs.map_runs(fs.convert, {"a": (one, same), "b": (two, same)})
        with pytest.raises(InvalidInputError, match="no_such"):
            fs.map_runs(fs.convert, [(one, same)], no_such=1)
        assert not Path(same).exists()


class TestProcesses:
    def test_a_process_that_dies_takes_no_other_run_with_it(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("FMRISTORE_WORKERS", "3")
        report = fs.map_runs(calls.die, {str(n): n for n in range(3)}, jobs=2)
        assert report.results == {"0": "3 threads", "2": "3 threads"}
        assert "its process was killed" in str(report["1"].error)


class TestStores:
    def test_many_runs_are_converted_and_verified(self, tmp_path: Path) -> None:
        runs = make_runs(tmp_path)
        Path(runs[1][0]).write_bytes(b"no image")
        report = fs.map_runs(fs.convert, runs, access="time")
        assert [one.name for one in report.failed] == [runs[1][1]]
        assert report.results == {url: url for _, url in (runs[0], runs[2])}
        checked = fs.map_runs(fs.verify, list(report.results), deep=True)
        assert all(found.ok for found in checked.results.values())

    def test_what_comes_back_is_small(self, tmp_path: Path) -> None:
        source = write_nifti(tmp_path / "large.nii.gz", make_values((20, 20, 10, 30)))
        outcomes: list[Outcome] = []
        report = fs.map_runs(fs.convert, [(source, tmp_path / "large.h5")], executor=Inline())
        outcomes += report
        again = tmp_path / "large.ome.zarr"
        outcomes += fs.map_runs(fs.transcode, [(tmp_path / "large.h5", again)])
        outcomes += fs.map_runs(fs.verify, [again])
        assert [one.state for one in outcomes] == ["done"] * 3
        assert max(len(pickle.dumps(one)) for one in outcomes) < 10_000  # the run has 240 kB


class TestRestart:
    def test_what_is_done_and_unchanged_is_not_done_again(self, tmp_path: Path) -> None:
        runs = make_runs(tmp_path)
        journal = tmp_path / "journal.jsonl"
        bad = Path(runs[1][0])
        whole = bad.read_bytes()
        bad.write_bytes(b"no image")
        first = fs.map_runs(fs.convert, runs, journal=journal)
        assert [one.state for one in first] == ["done", "failed", "done"]
        bad.write_bytes(whole)
        before = Path(runs[0][1]).stat()
        second = fs.map_runs(fs.convert, runs, journal=journal)
        assert [one.state for one in second] == ["unchanged", "done", "unchanged"]
        now = Path(runs[0][1]).stat()  # reading changes st_atime
        assert (now.st_ino, now.st_mtime_ns) == (before.st_ino, before.st_mtime_ns)
        assert second.results[runs[0][1]] == runs[0][1]

    def test_a_source_that_changed_is_converted_again(self, tmp_path: Path) -> None:
        runs = make_runs(tmp_path, 1)
        journal = tmp_path / "journal.jsonl"
        fs.map_runs(fs.convert, runs, journal=journal)
        values = make_values((3, 4, 2, 5), seed=9)
        write_nifti(Path(runs[0][0]), values)
        assert [one.state for one in fs.map_runs(fs.convert, runs, journal=journal)] == ["done"]
        with fs.open(runs[0][1]) as stored:
            assert np.array_equal(stored[...], values)

    def test_a_copied_source_is_the_same_by_its_digest(self, tmp_path: Path) -> None:
        runs = make_runs(tmp_path, 1)
        journal = tmp_path / "journal.jsonl"
        fs.map_runs(fs.convert, runs, journal=journal)
        os.utime(runs[0][0], ns=(1, 1))
        for _ in range(2):  # the second one knows the new time
            report = fs.map_runs(fs.convert, runs, journal=journal)
            assert [one.state for one in report] == ["unchanged"]
        content = bytearray(Path(runs[0][0]).read_bytes())
        content[4] ^= 1  # the time in the header of gzip
        Path(runs[0][0]).write_bytes(content)
        assert [one.state for one in fs.map_runs(fs.convert, runs, journal=journal)] == ["done"]

    def test_other_options_and_a_missing_store_mean_again(self, tmp_path: Path) -> None:
        runs = make_runs(tmp_path, 1)
        journal = tmp_path / "journal.jsonl"
        fs.map_runs(fs.convert, runs, journal=journal)

        def state(**options: Any) -> str:
            report = fs.map_runs(fs.convert, runs, journal=journal, **options)
            return report.outcomes[0].state

        assert state(max_memory="1GiB") == "unchanged"
        assert state(codec="none") == "done"
        assert state(codec="none") == "unchanged"
        Path(runs[0][1]).unlink()
        assert state(codec="none") == "done"

    def test_arrays_among_the_options_are_compared_in_full(self, tmp_path: Path) -> None:
        [(source, _)] = make_runs(tmp_path, 1)
        run, journal = (source, str(tmp_path / "new.h5")), tmp_path / "journal.jsonl"
        labels = np.ones((3, 4, 2), "i2")

        def state(weights: Any) -> str:
            pair = {"source": run[0], "url": run[1], "labels": labels, "weights": weights}
            return fs.map_runs(fs.parcellate, [pair], journal=journal).outcomes[0].state

        weights = np.ones((3, 4, 2))
        with np.printoptions(threshold=2, edgeitems=1):
            assert [state(weights), state(weights)] == ["done", "unchanged"]
            weights[1, 2, 1] = 2
            assert state(weights) == "done"

    def test_sources_that_were_moved_are_the_same(self, tmp_path: Path) -> None:
        runs = make_runs(tmp_path / "old", 1)
        journal, url = tmp_path / "journal.jsonl", str(tmp_path / "new.h5")
        fs.map_runs(fs.convert, {"run": (runs[0][0], url)}, journal=journal).check()
        moved = Path(runs[0][0]).rename(tmp_path / "moved.nii.gz")
        report = fs.map_runs(fs.convert, {"run": (moved, url)}, journal=journal)
        assert report["run"].state == "unchanged"

    def test_a_function_that_cannot_overwrite(self, tmp_path: Path) -> None:
        [(source, url)] = make_runs(tmp_path, 1)

        def copy(source: str, url: str) -> None:
            Path(url).write_bytes(Path(source).read_bytes())

        for journal in ("one.jsonl", "one.jsonl"):
            Path(source).write_bytes(Path(source).read_bytes() + b"more")
            assert fs.map_runs(copy, [(source, url)], journal=tmp_path / journal).ok

    def test_stores_of_others_are_not_replaced(self, tmp_path: Path) -> None:
        runs = make_runs(tmp_path, 1)
        Path(runs[0][1]).write_bytes(b"precious")
        journal = tmp_path / "journal.jsonl"
        for _ in range(2):
            report = fs.map_runs(fs.convert, runs, journal=journal)
            assert "AlreadyExistsError" in str(report.failed[0].error)
            assert Path(runs[0][1]).read_bytes() == b"precious"

    def test_a_store_that_changed_with_its_source_is_not_replaced(self, tmp_path: Path) -> None:
        runs = make_runs(tmp_path, 1)
        journal = tmp_path / "journal.jsonl"
        fs.map_runs(fs.convert, runs, journal=journal)
        write_nifti(Path(runs[0][0]), make_values((3, 4, 2, 5), seed=9))
        Path(runs[0][1]).write_bytes(b"precious")
        report = fs.map_runs(fs.convert, runs, journal=journal)
        assert "ChangedError" in str(report.failed[0].error)
        assert Path(runs[0][1]).read_bytes() == b"precious"
        assert fs.map_runs(fs.convert, runs, journal=journal, overwrite=True).failed

    def test_a_kill_before_the_record_leaves_a_store_that_is_made_again(
        self, tmp_path: Path
    ) -> None:
        runs = make_runs(tmp_path, 1)
        journal = tmp_path / "journal.jsonl"
        fs.map_runs(fs.convert, runs, journal=journal)
        begun, done = journal.read_bytes().splitlines(keepends=True)
        journal.write_bytes(begun + done[: len(done) // 2])
        assert [one.state for one in fs.map_runs(fs.convert, runs, journal=journal)] == ["done"]
        report = fs.map_runs(fs.convert, runs, journal=journal)
        assert [one.state for one in report] == ["unchanged"]

    def test_a_source_that_changes_while_it_is_read_is_no_success(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        runs = make_runs(tmp_path, 1)
        plainly = fs.convert

        def convert(source: str, url: str, overwrite: bool = False) -> Any:
            made = plainly(source, url, overwrite=overwrite)
            Path(source).write_bytes(b"more")
            return made

        report = fs.map_runs(convert, runs, journal=tmp_path / "journal.jsonl")
        assert "changed while it was read" in str(report.failed[0].error)

    @pytest.mark.parametrize("text", ["no journal\n\n", '{"run": 1}\n{}\n', "[" * 3000 + "\n\n"])
    def test_what_is_no_journal_is_said_and_left_alone(self, tmp_path: Path, text: str) -> None:
        runs = make_runs(tmp_path, 1)
        other = tmp_path / "other.txt"
        other.write_text(text)
        before = snapshot(tmp_path)
        with pytest.raises(MetadataError, match="line 1 is none of a journal"):
            fs.map_runs(fs.convert, runs, journal=other)
        assert snapshot(tmp_path) == before

    def test_on_object_storage(self, tmp_path: Path, s3: S3Server) -> None:
        runs = [(one, s3.url(Path(url).name)) for one, url in make_runs(tmp_path, 2)]
        for state in ("done", "unchanged"):
            report = fs.map_runs(
                fs.convert, runs, journal=s3.url("journal.jsonl"), storage_options=s3.options
            )
            assert [one.state for one in report] == [state] * 2


def test_a_dask_cluster_of_two_processes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    distributed = pytest.importorskip("distributed")
    import dask

    runs = make_runs(tmp_path, 4)
    Path(runs[2][0]).write_bytes(b"no image")
    journal = tmp_path / "journal.jsonl"
    patient = {f"distributed.comm.timeouts.{name}": "600s" for name in ("connect", "tcp")}
    with (
        dask.config.set(patient),
        distributed.LocalCluster(
            n_workers=2,
            threads_per_worker=1,
            processes=True,
            dashboard_address=None,
            local_directory=str(tmp_path / "dask"),
        ) as cluster,
        distributed.Client(cluster) as client,
    ):
        seen: list[tuple[int, int]] = []
        sources, urls = ([pair[place] for pair in runs] for place in (0, 1))
        report = fs.convert(sources, urls, executor=client, journal=journal, progress=_put(seen))
        pids = set(client.run(os.getpid).values())
        again = fs.convert(sources, urls, executor=client, journal=journal)
        others = _other_calls(tmp_path, list(report.results), client)
        means = fs.Collection(tmp_path).map(calls.mean_of, executor=client, offset=1.0)
        monkeypatch.setattr(layout, "shard_shape", lambda _, chunks, __: (5, *chunks[1:]))
        shape = (6, 5, 4, 18)
        with fs.reserve(
            tmp_path / "one.zarr", shape=shape, dtype="i2", space=np.eye(4), access="volume"
        ) as new:
            filled = new.fill(calls.ramp, executor=client)
            with new.publish(executor=client) as run:
                whole = calls.ramp(tuple(slice(0, n, 1) for n in shape))
                np.testing.assert_array_equal(run[...], whole)
                assert run.digest == run.compute_digest()
    assert len(pids | {os.getpid()}) == 3
    assert [one.state for one in report] == ["done", "done", "failed", "done"]
    assert [one.state for one in again] == ["unchanged", "unchanged", "failed", "unchanged"]
    assert seen == [(number, 4) for number in range(1, 5)]
    for name, other in others.items():
        assert [one.state for one in other] == ["done"] * 3 + ["failed"], name
    assert all(checked.ok for checked in others["verify"].results.values())
    assert len(filled) == 4
    assert max(len(pickle.dumps(one)) for one in (*report, *means, *filled)) < 4000
    for number in (0, 1, 3):
        values = make_values((3, 4, 2, 5), seed=number)
        assert means.results[f"run-{number}.h5"] == values.mean() + 1


def _other_calls(folder: Path, stores: list[str], client: Any) -> dict[str, fs.RunsReport]:
    """The other three calls over stores, the last of which is none; and the command."""
    labels = write_nifti(folder / "atlas.nii", make_values((3, 4, 2), "u1") % 3)
    (folder / "more").mkdir()
    given = [*stores, str(folder / "run-2.nii.gz")]
    moved = [folder / f"more/{Path(url).stem}.ome.zarr" for url in given]
    series = [folder / f"more/{Path(url).stem}-parcels.h5" for url in given]
    found = {
        "transcode": fs.transcode(given, moved, executor=client),
        "verify": fs.verify(given, executor=client, deep=True),
        "parcellate": fs.parcellate(given, labels, series, executor=client),
    }
    done = CliRunner().invoke(
        app, ["many", "verify", *stores, "--scheduler", client.scheduler.address, "--json"]
    )
    assert done.exit_code == 0, done.output
    assert [one["state"] for one in json.loads(done.output)["runs"]] == ["done"] * len(stores)
    return found


def test_a_scheduler_that_is_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    from fmristore.many.executors import connect

    monkeypatch.setitem(sys.modules, "distributed", None)
    with pytest.raises(DependencyError, match="fmristore\\[dask\\]"), connect("tcp://127.0.0.1:1"):
        pass
    with connect(None) as client:
        assert client is None


def _put(seen: list[tuple[int, int]]) -> Any:
    return lambda *numbers: seen.append(numbers)
