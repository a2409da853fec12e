"""Series, labels and metadata as data frames, and series as files of tables."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from numpy.testing import assert_allclose, assert_array_equal

import fmristore as fs
from fmristore.formats import grid, nodes
from fmristore.formats.parcellated import layout
from fmristore.interop.pandas import write_table
from fmristore_stores.errors import (
    AlreadyExistsError,
    InvalidInputError,
    SelectionError,
    StorageError,
)
from tests.cli.test_cli import done, failed
from tests.every_format import LABELS, NAMES, RUN, SPACE, write
from tests.images import STORES, call_after_rename, run_python

EVENTS = pd.DataFrame(
    {"onset": [0.0, 12.5], "duration": [2, 2], "trial_type": ["face", None], "rt": [np.nan, 0.4]}
)


@pytest.fixture
def summary(tmp_path: Path) -> Any:
    return write("parcellatedscansummary", tmp_path / "rest.h5")


class TestFrames:
    def test_the_table_of_parcels(self, summary: Path) -> None:
        with fs.open(summary) as stored:
            frame = stored.table.to_dataframe()
        assert frame.index.name == "index"
        assert dict(frame["name"]) == NAMES

    @pytest.mark.parametrize("kind", STORES)
    def test_several_scans(self, tmp_path: Path, kind: str) -> None:
        with fs.open(write("parcellatedmultiscan", tmp_path / f"a.{kind}")) as multi:
            frame = multi.to_dataframe()
            assert frame.index.names == ["scan", "time"]
            assert frame.loc[("task", 4.0), "Insula"] == np.float32(multi["task"][2, "Insula"])
            assert len(multi.to_dataframe(["task"])) == 8

    @pytest.mark.parametrize("kind", STORES)
    def test_metadata(self, tmp_path: Path, kind: str) -> None:
        url = tmp_path / f"a.{kind}"
        confounds = pd.DataFrame(
            np.random.default_rng(0).normal(size=(300, 60)),
            columns=[f"a_comp_{i}" for i in range(60)],
        )
        metadata = {"events": EVENTS, "confounds": confounds, "subject": "01"}
        fs.parcellate(RUN, LABELS, url, space=SPACE, metadata=metadata).close()
        with fs.open(url) as stored:
            assert stored.metadata["subject"] == "01"
            assert stored.metadata["events"]["trial_type"] == ["face", None]
            found = stored.metadata_frame("events")
            pd.testing.assert_frame_equal(found, EVENTS, check_dtype=False)
            assert_array_equal(stored.metadata_frame("confounds"), confounds)
            with pytest.raises(SelectionError, match=r"no metadata 'eents'.*'events'"):
                stored.metadata_frame("eents")
            with pytest.raises(InvalidInputError, match="'subject' are no table"):
                stored.metadata_frame("subject")

    @pytest.mark.parametrize("kind", STORES)
    def test_tables_of_a_run(self, tmp_path: Path, kind: str) -> None:
        url = tmp_path / f"a.{kind}"
        fs.NeuroVec.create(RUN, url, space=SPACE, metadata={"events": EVENTS}).close()
        with fs.open(url) as run:
            found = run.metadata_frame("events")
            pd.testing.assert_frame_equal(found, EVENTS, check_dtype=False)
            with pytest.raises(SelectionError, match=r"no metadata 'confounds'.*'events'"):
                run.metadata_frame("confounds")

    def test_tables_of_runs_of_a_sequence(self, tmp_path: Path) -> None:
        runs = {"rest": tmp_path / "rest.h5", "task": tmp_path / "task.h5"}
        for url in runs.values():
            fs.NeuroVec.create(RUN, url, space=SPACE).close()
        known = {"task": {"events": EVENTS}}
        fs.NeuroVecSeq.create(runs, tmp_path / "runs.h5", metadata=known).close()
        with fs.open(tmp_path / "runs.h5") as stored:
            found = stored.run("task").metadata_frame("events")
            pd.testing.assert_frame_equal(found, EVENTS, check_dtype=False)

    @pytest.mark.parametrize("kind", STORES)
    def test_opening_does_not_read_tables(
        self, tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        metadata = {"events": EVENTS}
        urls = [tmp_path / f"run.{kind}", tmp_path / f"parcels.{kind}"]
        fs.NeuroVec.create(RUN, urls[0], space=SPACE, metadata=metadata).close()
        fs.parcellate(RUN, LABELS, urls[1], space=SPACE, metadata=metadata).close()
        read: list[str] = []

        def note(handle: Any, folder: str = "") -> Any:
            read.append(folder)
            return nodes.read_metadata(handle, folder)

        for module in (grid, layout):
            monkeypatch.setattr(module, "read_metadata", note)
        for url in urls:
            with fs.open(url) as stored:
                assert stored.shape
                assert stored[0].size
                assert not read
                assert list(stored.metadata) == ["events"]
                assert len(read) == 1
            read.clear()

    def test_rows_and_parcels_by_name(self, summary: Path) -> None:
        with fs.open(summary) as stored:
            values = np.asarray(stored)
            assert_array_equal(stored[5:10, ["Insula", "Left V1"]], values[5:10, [2, 0]])
            assert_array_equal(stored[:, "Insula"], values[:, 2])


class TestFiles:
    def test_tsv(self, summary: Path, tmp_path: Path) -> None:
        target = tmp_path / "sub-01_task-rest_timeseries.tsv"
        with fs.open(summary) as stored:
            stored.to_table(target)
            with pytest.raises(AlreadyExistsError):
                stored.to_table(target)
            stored.to_table(target, overwrite=True)
            values = np.asarray(stored)
        frame = pd.read_csv(target, sep="\t", na_values="n/a")
        assert list(frame.columns) == list(NAMES.values())
        assert_allclose(frame, values, rtol=1e-6)
        sidecar = json.loads(target.with_suffix(".json").read_text())
        assert sidecar["RepetitionTime"] == 1.5
        assert sidecar["Statistic"] == "mean"
        assert sidecar["Insula"] == {"ParcelIndex": 3}

    def test_table_and_sidecar_are_of_one_writer(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Another one comes while the table of the first is there, and its sidecar not yet."""
        target, errors = tmp_path / "a.tsv", []

        def write(value: int) -> None:
            frame = pd.DataFrame({"x": [value]})
            write_table(frame, target, sidecar={"x": value}, overwrite=True)

        def other() -> None:
            try:
                write(3)
            except StorageError as error:
                errors.append(error)

        call_after_rename(monkeypatch, other)
        write(2)
        assert "is writing this store" in str(errors[0])
        assert pd.read_csv(target, sep="\t")["x"].tolist() == [2]
        assert json.loads((tmp_path / "a.json").read_text()) == {"x": 2}
        assert sorted(one.name for one in tmp_path.iterdir()) == ["a.json", "a.tsv"]

    def test_both_files_or_none(self, summary: Path, tmp_path: Path) -> None:
        (tmp_path / "a.json").write_text("of somebody else")
        with fs.open(summary) as stored, pytest.raises(AlreadyExistsError):
            stored.to_table(tmp_path / "a.tsv")
        assert not (tmp_path / "a.tsv").exists()
        assert (tmp_path / "a.json").read_text() == "of somebody else"

    def test_missing_values(self, tmp_path: Path) -> None:
        values = np.array([[1.0, np.nan, 3.0]] * RUN.shape[3])
        with fs.ParcellatedScanSummary.create(
            values, tmp_path / "a.h5", parcellation=LABELS, space=SPACE, statistic=None
        ) as stored:
            stored.to_table(tmp_path / "a.tsv")
        assert (tmp_path / "a.tsv").read_text().splitlines()[1] == "1.0\tn/a\t3.0"

    def test_csv_and_parquet(self, summary: Path, tmp_path: Path) -> None:
        with fs.open(summary) as stored:
            frame = stored.to_dataframe()
            stored.to_table(tmp_path / "a.csv")
            found = pd.read_csv(tmp_path / "a.csv", index_col="time", dtype=np.float32)
            assert_allclose(found, frame, rtol=1e-6)
            assert_allclose(found.index.astype(float), frame.index)
            pytest.importorskip("pyarrow")
            stored.to_table(tmp_path / "a.parquet")
            pd.testing.assert_frame_equal(pd.read_parquet(tmp_path / "a.parquet"), frame)

    def test_several_scans(self, tmp_path: Path) -> None:
        with fs.open(write("parcellatedmultiscan", tmp_path / "a.zarr")) as multi:
            multi.to_table(tmp_path / "a.tsv")
        frame = pd.read_csv(tmp_path / "a.tsv", sep="\t")
        assert list(frame.columns) == ["scan", "time", *NAMES.values()]
        assert list(frame["scan"].unique()) == ["rest", "task"]

    def test_voxels_are_summarised(self, tmp_path: Path) -> None:
        with fs.open(write("parcellatedscan", tmp_path / "a.h5")) as scan:
            scan.to_table(tmp_path / "a.tsv")
            found = pd.read_csv(tmp_path / "a.tsv", sep="\t")
            assert_allclose(found, scan.summary(), rtol=1e-12)

    def test_other_names(self, summary: Path, tmp_path: Path) -> None:
        with fs.open(summary) as stored, pytest.raises(InvalidInputError, match=r"\.tsv, \.csv"):
            stored.to_table(tmp_path / "a.xlsx")
        assert not (tmp_path / "a.xlsx").exists()

    def test_names_twice(self, tmp_path: Path) -> None:
        with (
            fs.parcellate(
                RUN, LABELS, tmp_path / "a.h5", space=SPACE, names={1: "a", 2: "a", 3: "b"}
            ) as stored,
            pytest.raises(InvalidInputError, match="two columns of one name"),
        ):
            stored.to_table(tmp_path / "a.parquet")


class TestCommandLine:
    def test_export(self, summary: Path, tmp_path: Path) -> None:
        target = tmp_path / "rest_timeseries.tsv"
        assert "20 x 3" in done("export", summary, target)
        assert target.exists()
        assert target.with_suffix(".json").exists()

    def test_a_part(self, tmp_path: Path) -> None:
        url = write("parcellatedmultiscan", tmp_path / "a.h5")
        done("export", url, tmp_path / "a.csv", "--part", "task")
        assert len(pd.read_csv(tmp_path / "a.csv")) == 8
        done("export", url, tmp_path / "b.csv")
        assert len(pd.read_csv(tmp_path / "b.csv")) == 28

    def test_an_image_is_no_table(self, tmp_path: Path) -> None:
        url = write("neurovec", tmp_path / "a.h5")
        line = failed("export", url, tmp_path / "a.tsv")
        assert "cannot write a table of a NeuroVec; only Parcellated" in line


def test_without_pandas(summary: Path) -> None:
    code = (
        "import sys; sys.modules['pandas'] = None\n"
        "import fmristore as fs\n"
        "try: fs.open(sys.argv[1]).table.to_dataframe()\n"
        "except fs.errors.DependencyError as error: print(error)\n"
        "try: fs.open(sys.argv[1]).to_table('a.tsv')\n"
        "except fs.errors.DependencyError as error: print(error)\n"
    )
    ended = run_python(code, summary)
    assert ended.stdout.count("fmristore[tables]") == 2, ended.stderr
