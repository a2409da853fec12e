"""The benchmarks run, agree and report; nothing here looks at times."""

from __future__ import annotations

import contextlib
import gc
import http.client
import http.server
import io
import json
import sys
import threading
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import fmristore as fs
from benchmarks import apart, measure_sampling, measure_start, rechunk
from benchmarks.__main__ import main
from benchmarks.cells import OURS, Cell, Group, Result, run_group
from benchmarks.data import find_runs
from benchmarks.document import documented
from benchmarks.engines import DEFLATE, HDF5, NIFTI, ZARR, available
from benchmarks.measure_codecs import Run
from benchmarks.measure_presets import PRESETS, preset_rows
from benchmarks.remote_proxy import remote_proxy
from benchmarks.report import Report, read_json, short_table, write_json
from benchmarks.timing import Budget, Contender, Measured, Timing, ratio

pytestmark = pytest.mark.once


@pytest.fixture(scope="module", autouse=True)
def _nothing_to_collect() -> None:
    """Benchmarks look for cycles before each repetition; what other tests left takes long."""
    gc.collect()
    gc.freeze()


TINY = ["--shape", "12,10,8,20", "--repetitions", "1"]


def test_every_kind_of_cell_is_measured(tmp_path: Path) -> None:
    cells = ["hdf5-portable/volume", "zarr-dual/balanced"]
    chosen = [w for cell in (*cells, "verbatim", "recode/hdf5", "sample") for w in ("--cell", cell)]
    main([*TINY, *chosen, "--out", str(tmp_path), "--workdir", str(tmp_path / "work")])
    found = json.loads((tmp_path / "results.json").read_text())
    names = [result["name"] for result in found["results"]]
    assert len(names) == len(set(names))
    assert sum(name.startswith("read/") for name in names) == 2 * 7
    for result in found["results"]:
        assert len(result["engines"][OURS]["seconds"]) == 1
    text = (tmp_path / "results.md").read_text()
    assert "## read · generated · zarr-dual" in text
    header, *samples = (tmp_path / "samples.csv").read_text().splitlines()
    assert header == "cell,engine,repetition,seconds,cpu_seconds"
    assert {line.split(",")[0] for line in samples} == set(names)
    for label, reason in found["missing"].items():
        assert f"Not measured: {label} ({reason})" in text


def test_results_are_read_back_as_they_were(tmp_path: Path) -> None:
    results = [
        Result(
            name="read/run/hdf5-dual/time/voxel",
            engines={
                OURS: Timing(seconds=[0.25], cpu=[0.375], again=[0.125]),
                "h5py": Timing(seconds=[0.5]),
            },
            limit=Timing(seconds=[0.25], cpu=[0.25], peak_bytes=[3]),
            note="",
        ),
        Result(name="extract/run/means", engines={OURS: Timing([1.0])}, limit=None, note="n"),
    ]
    given = Report(
        results=results,
        sizes={"run": {"nii": 3}},
        machine={"processor": "p", "cores": 2, "memory_gb": 4, "system": "s", "python": "3"},
        versions={"numpy": "2"},
        missing={},
        settings={"quick": True},
    )
    write_json(given, tmp_path / "results.json")
    assert read_json(tmp_path / "results.json") == given
    table = short_table(given).split("\n")
    assert table[2:] == ["| read hdf5-dual | 1 | 2.00 | 2.00 | 0 | 1.00 | 0 of 1 | 1.50 | 1 of 1 |"]
    page = "a\n<!-- measured: begin -->\nold\n<!-- measured: end -->\nb"
    assert documented(page, given).startswith(f"a\n<!-- measured: begin -->\n{table[0]}\n")
    assert documented(documented(page, given), given) == documented(page, given)


def test_the_table_in_the_documentation_is_that_of_the_results() -> None:
    root = Path(__file__).resolve().parents[1]
    page = (root / "docs/reference/performance.md").read_text(encoding="utf-8")
    report = read_json(root / "benchmarks/results/results.json")
    assert documented(page, report) == page
    assert "best peer / fmristore: median" in page


def test_presets_are_measured_in_the_layouts_that_are_written() -> None:
    values = np.random.default_rng(0).integers(0, 50, (24, 6, 10, 12)).astype("<i2")
    rows = preset_rows(Run("made up", values, values.nbytes // 2), "time", 1 << 20, 2)
    assert [row[:3] for row in rows] == [["made up", "time", p] for p in PRESETS]
    for row in rows:
        ratio, against, *speeds = (float(cell) for cell in row[3:])
        assert ratio > 1.5
        assert against == pytest.approx(ratio / 2, abs=0.01)
        assert min(speeds) > 0


def test_rechunking_reports_its_memory(tmp_path: Path) -> None:
    (run,) = find_runs(tmp_path, shape=(12, 10, 8, 20))
    source, target = tmp_path / "a.ome.zarr", tmp_path / "b.ome.zarr"
    fs.convert(run.nii, source)
    job = rechunk.Job(
        label=OURS, source=source, target=target, access="volume", max_memory=52 * 1024 * 1024
    )
    found = rechunk.run(job)
    assert found.seconds > 0
    assert found.peak_bytes > 0
    with fs.open(target) as image:
        assert image.access == "volume"


def run_here(module: str, function: str, **arguments: Any) -> Measured:
    """What `run_apart` does, in this process: `test_growth` starts others."""
    given = json.dumps(arguments, default=str)
    with contextlib.redirect_stdout(io.StringIO()) as printed, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        apart.main([module, function, given])
    return Measured(**json.loads(printed.getvalue().splitlines()[-1]))


def test_extraction_agrees_and_reports_its_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("benchmarks.extraction.run_apart", run_here)
    main([*TINY, "--cell", "extract/", "--out", str(tmp_path), "--workdir", str(tmp_path / "work")])
    found = json.loads((tmp_path / "results.json").read_text())["results"]
    assert [result["name"] for result in found] == [
        f"extract/generated/{what}" for what in ("series", "means")
    ]
    for result in found:
        assert set(result["engines"]) == {OURS, "nilearn"}
        assert all(len(timing["peak_bytes"]) == 1 for timing in result["engines"].values())


def test_many_runs_are_done_by_threads_and_processes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("benchmarks.many_cells.RUNS", 3)
    cells = ["--cell", "many/generated/parcels/threads", "--cell", "parcels/processes"]
    main([*TINY, *cells, "--out", str(tmp_path), "--workdir", str(tmp_path / "work")])
    found = json.loads((tmp_path / "results.json").read_text())["results"]
    assert [set(result["engines"]) for result in found] == [{OURS, "one by one"}] * 2


def test_new_processes_print_the_values_of_one_voxel(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    programs = [p for p in measure_start.PROGRAMS if p[1] and p[0] != "tensorstore"]
    monkeypatch.setattr(measure_start, "PROGRAMS", programs)
    monkeypatch.setattr(measure_start, "SHAPE", (33, 34, 24, 6))
    (tmp_path / "again").mkdir()
    rows = measure_start.start_rows(tmp_path, 1)
    assert {engine for engine, *_ in rows} == {OURS, "h5py", "zarr-python", "nibabel"}
    assert all(0 < least <= median for _, _, median, least in rows)
    monkeypatch.setattr(measure_start, "PROGRAMS", [("wrong", "run.nii", "print(1, 2, 3)")])
    with pytest.raises(AssertionError, match="wrong values"):
        measure_start.start_rows(tmp_path / "again", 1)


def test_the_proxy_answers_again_from_memory_until_something_is_written(
    served: tuple[int, list[str]],
) -> None:
    upstream, asked = served

    def ask(method: str, path: str, part: str = "") -> tuple[int, bytes]:
        connection = http.client.HTTPConnection("127.0.0.1", proxy.port, timeout=60)
        with contextlib.closing(connection):
            connection.request(method, path, headers={"Range": part} if part else {})
            answer = connection.getresponse()
            return answer.status, answer.read()

    with remote_proxy(upstream, 0.0) as proxy:
        first = ask("GET", "/a", "bytes=0-3")
        assert first == (200, b"1 /a bytes=0-3")
        assert ask("GET", "/a", "bytes=0-3") == first
        assert ask("GET", "/a") == (200, b"2 /a None")
        assert ask("GET", "/b", "bytes=0-3") == (200, b"3 /b bytes=0-3")
        ask("PUT", "/a")
        assert ask("GET", "/a", "bytes=0-3") == (200, b"5 /a bytes=0-3")
        counted = proxy.take()
    assert counted.requests == 6
    assert asked == ["GET /a", "GET /a", "GET /b", "PUT /a", "GET /a"]


@pytest.fixture(name="served")
def _served() -> Iterator[tuple[int, list[str]]]:
    """Port of a server that says how often it was asked, and what it was asked."""
    asked: list[str] = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def answer(self) -> None:
            asked.append(f"{self.command} {self.path}")
            body = f"{len(asked)} {self.path} {self.headers['Range']}".encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        do_GET = do_PUT = answer  # noqa: N815

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    with server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server.server_port, asked
        server.shutdown()


def test_windows_a_second_of_every_way_to_read_them(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for kind in measure_sampling.RUNS:
        monkeypatch.setitem(measure_sampling.RUNS, kind, 2)
    tiny = ["--shape", "12,10,8,20", "--workdir", str(tmp_path), "--turns", "1", "--seconds", "0"]
    measure_sampling.main([*tiny, "--workers", "0"])
    tables = [table.splitlines() for table in capsys.readouterr().out.strip().split("\n\n")]
    assert {table[0].split("|")[1].split(",")[0].strip() for table in tables} == {
        "volumes",
        "patches",
        "parcels",
    }
    for head, _, *rows in tables:
        labels = {row.split("|")[1].strip() for row in rows}
        assert labels >= {OURS, "fmristore, one by one", "limit", "memory map"}
        assert ("file a volume" in labels) == ("parcels" not in head)
        rates = [float(row.split("|")[3]) for row in rows]
        assert min(rates) > 0


def test_windows_a_second_of_two_processes(tmp_path: Path) -> None:
    (run,) = find_runs(tmp_path, shape=(12, 10, 8, 20))
    job = measure_sampling.jobs(run, "volumes")[1]
    team = measure_sampling.Team(job, 2)
    try:
        team.ask("prepare", 0)
        team.ask("check")
        team.turn(1, 0.0, dropped=False)
    finally:
        team.close()
    assert len(team.rates) == 1
    assert not any(process.is_alive() for process in team.processes)


def test_growth(tmp_path: Path) -> None:
    growing = ["--quick", "--cell", "growth/"]
    main([*TINY, *growing, "--out", str(tmp_path), "--workdir", str(tmp_path / "work")])
    found = json.loads((tmp_path / "results.json").read_text())["results"]
    assert len(found) == 2 * 5
    assert "volumes x 2/convert" in (tmp_path / "results.md").read_text()


def test_sizes_are_listed_beside_those_of_nifti(tmp_path: Path) -> None:
    main([*TINY, "--quick", "--cell", "sizes", "--out", str(tmp_path)])
    found = json.loads((tmp_path / "results.json").read_text())["sizes"]["generated"]
    assert set(found) >= {"nii", "nii.gz", "hdf5/portable/time", "zarr/dual/time"}
    assert "## sizes · generated" in (tmp_path / "results.md").read_text()


def test_cells_are_listed_without_measuring(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    main([*TINY, "--list", "--cell", "7x7x7", "--out", str(tmp_path / "none")])
    listed = capsys.readouterr().out.split("\n")
    assert "read/generated/hdf5-portable/time/7x7x7" in listed
    assert not (tmp_path / "none").exists()


def test_an_engine_that_answers_wrongly_stops_the_run() -> None:
    def check(number: int, result: int) -> None:
        assert result == 1

    right = Contender(name="a", prepare=lambda _: lambda: 1, check=check)
    wrong = Contender(name="b", prepare=lambda _: lambda: 2, check=check)
    group = Group(
        name="g",
        cells=(Cell(name="c", engines={OURS: "a", "peer": "b"}),),
        make=lambda _: [right, wrong],
        budget=Budget(least=1, most=1, seconds=0),
    )
    with pytest.raises(AssertionError):
        run_group(group)


def test_work_elsewhere_measures_itself() -> None:
    job = Contender(
        name="a", prepare=lambda _: lambda: Measured(2.5, 10), check=lambda *_: None, again=True
    )
    group = Group(
        name="g",
        cells=(Cell(name="c", engines={OURS: "a"}),),
        make=lambda _: [job],
        budget=Budget(least=2, most=2, seconds=0),
    )
    (result,) = run_group(group)
    assert result.ours.seconds == [2.5, 2.5]
    assert result.ours.peak_bytes == [10, 10]
    assert len(result.ours.again) == 2


def test_ratios_are_formed_within_repetitions() -> None:
    found = ratio(Timing(seconds=[2.0, 30.0, 4.0]), Timing(seconds=[1.0, 10.0, 1.0]))
    assert found.median == 3.0
    assert found.low == 2.5
    assert found.high == 3.5


def test_engines_that_are_not_installed_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tensorstore", None)
    found, missing = available()
    assert "tensorstore" not in found
    assert "tensorstore" in missing["tensorstore"]
    assert set(found) | set(missing) == {*HDF5, *DEFLATE, *ZARR, *NIFTI}
