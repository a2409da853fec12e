"""What the BIDS sidecar beside a file says, and what a user says, is known of the stored image."""

from __future__ import annotations

import gzip
import json
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import fsspec
import nibabel
import numpy as np
import pytest
from typer.testing import CliRunner

import fmristore as fs
from fmristore.cli.app import app
from fmristore.model.space import HeaderWarning

LIBRARY: Any = nibabel
SHAPE = (6, 5, 4)
MASK = np.random.default_rng(2).random(SHAPE) > 0.4
LABELS = np.where(MASK, 1 + np.arange(120).reshape(SHAPE) % 3, 0)
FACTS = {"RepetitionTime": 2.0, "TaskName": "rest", "SliceTiming": [0, 0.5, 1.0, 1.5]}


def write_run(folder: Path, *, tr: float = 2.0, sidecar: Any = None, name: str = "bold") -> Path:
    """Write a run, and a sidecar of bytes or facts beside it."""
    library: Any = nibabel
    values = np.random.default_rng(3).integers(1, 900, (*SHAPE, 6)).astype("i2")
    image = library.Nifti1Image(values, np.diag([2.0, 2, 2, 1]))
    image.header.set_xyzt_units("mm", "sec")
    image.header["pixdim"][4] = tr
    library.save(image, folder / f"{name}.nii.gz")
    if sidecar is not None:
        data = sidecar if isinstance(sidecar, bytes) else json.dumps(sidecar).encode()
        (folder / f"{name}.json").write_bytes(data)
    return folder / f"{name}.nii.gz"


def dense(run: Any, url: Path, **known: Any) -> Any:
    return fs.convert(run, url, **known)


def masked(run: Any, url: Path, **known: Any) -> Any:
    return fs.MaskedNeuroVec.create(run, url, mask=MASK, **known)


def latent(run: Any, url: Path, **known: Any) -> Any:
    return fs.LatentNeuroVec.from_pca(run, url, 2, mask=MASK, **known)


def parcels(run: Any, url: Path, **known: Any) -> Any:
    return fs.ParcellatedScan.create(run, url, parcellation=LABELS, **known)


def summary(run: Any, url: Path, **known: Any) -> Any:
    return fs.parcellate(run, LABELS, url, **known)


def one_run(run: Any, url: Path, **known: Any) -> Any:
    if "metadata" in known:
        known["metadata"] = {"one": known["metadata"]}
    return fs.NeuroVecSeq.create({"one": run}, url, **known)["one"]


Create = Callable[..., Any]
EVERY: tuple[Create, ...] = (dense, masked, latent, parcels, summary, one_run)


@pytest.mark.parametrize("ending", ["h5", "zarr"])
@pytest.mark.parametrize("create", EVERY)
def test_every_format_keeps_the_sidecar(tmp_path: Path, create: Create, ending: str) -> None:
    run = write_run(tmp_path, sidecar=FACTS)
    with create(run, tmp_path / f"a.{ending}") as stored:
        assert dict(stored.metadata) == FACTS
        assert stored.tr == 2.0
        if create is not one_run:
            with stored.save(tmp_path / "again.zarr") as again:
                assert dict(again.metadata) == FACTS


@pytest.mark.parametrize("create", EVERY)
def test_the_user_comes_before_sidecar_and_header(tmp_path: Path, create: Create) -> None:
    run = write_run(tmp_path, tr=3.0, sidecar=FACTS)
    known = {"tr": 1.5, "space_name": "MNI152Lin", "metadata": {"TaskName": "faces", "Run": 2}}
    with create(run, tmp_path / "a.h5", **known) as stored:
        assert stored.tr == 1.5
        assert stored.space.space_name == "MNI152Lin"
        assert dict(stored.metadata) == {**FACTS, "TaskName": "faces", "Run": 2}
        if create not in (summary,):
            header = stored.to_nibabel().header
            assert int(header["sform_code"]) == 4
            assert float(header["pixdim"][4]) == 1.5


@pytest.mark.parametrize("create", EVERY)
def test_any_source_takes_what_the_user_says(tmp_path: Path, create: Create) -> None:
    run = write_run(tmp_path)
    known = {"tr": 1.5, "space_name": "MNI152Lin", "metadata": {"TaskName": "faces"}}
    sources: list[Any] = [
        nibabel.load(run),
        LIBRARY.Nifti1Image(np.ones((*SHAPE, 6), "f4"), np.eye(4)),
    ]
    sources.append(fs.convert(run, tmp_path / "store.h5"))
    for number, source in enumerate(sources):
        with create(source, tmp_path / f"{number}.zarr", **known) as stored:
            assert (stored.tr, stored.space.space_name) == (1.5, "MNI152Lin")
            assert dict(stored.metadata) == {"TaskName": "faces"}
    sources[-1].close()


@pytest.mark.parametrize("header", [3.0, 0.0])
def test_a_sidecar_wins_over_the_header(tmp_path: Path, header: float) -> None:
    run = write_run(tmp_path, tr=header, sidecar=FACTS)
    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("always")
        stored = fs.convert(run, tmp_path / "a.h5")
    told = [str(one.message) for one in found if issubclass(one.category, HeaderWarning)]
    assert len(told) == (1 if header else 0)
    assert not header or "header's TR is 3 s, that of the sidecar 2 s, which is used" in told[0]
    assert stored.tr == 2.0
    assert float(stored.to_nibabel().header["pixdim"][4]) == 2.0
    stored.close()
    assert fs.verify(tmp_path / "a.h5").ok


def test_a_sidecar_that_agrees_leaves_the_file_as_it_is(tmp_path: Path) -> None:
    run = write_run(tmp_path, tr=0.72, sidecar=FACTS | {"RepetitionTime": 0.7200001})
    with fs.convert(run, tmp_path / "a.h5") as stored:
        assert stored.tr == 0.72
        stored.to_nifti(tmp_path / "b.nii")
    assert (tmp_path / "b.nii").read_bytes() == gzip.decompress(run.read_bytes())


@pytest.mark.parametrize(
    ("sidecar", "text"),
    [
        (b"{", "no JSON"),
        (b"\xff\xfe", "no JSON"),
        (b"[" * 5000, "no JSON"),
        (b"[1]", "no JSON object but a list"),
        ({"RepetitionTime": "2"}, "RepetitionTime is '2', no time"),
        ({"RepetitionTime": -1}, "no time in seconds"),
        ({"RepetitionTime": True}, "no time in seconds"),
        ({"RepetitionTime": 2000}, "most likely milliseconds"),
        (b'{"Bad": NaN, "RepetitionTime": 2.5}', "'Bad' cannot be kept"),
    ],
)
def test_a_broken_sidecar_is_reported(tmp_path: Path, sidecar: Any, text: str) -> None:
    run = write_run(tmp_path, tr=2.5, sidecar=sidecar)
    with pytest.warns(HeaderWarning, match=rf"bold\.json: .*{text}"):
        stored = fs.convert(run, tmp_path / "a.h5")
    assert stored.tr == 2.5
    assert "Bad" not in stored.metadata
    stored.close()


def test_times_of_volumes_stand_for_a_repetition_time(tmp_path: Path) -> None:
    run = write_run(tmp_path, tr=2.0, sidecar={"VolumeTiming": [0, 1.5, 3, 4.5, 6, 7.5]})
    with pytest.warns(HeaderWarning, match=r"TR is 2 s, that of the sidecar 1\.5 s"):
        stored = fs.convert(run, tmp_path / "a.h5")
    assert stored.tr == 1.5
    stored.close()


@pytest.mark.parametrize(
    "sidecar",
    [
        {"VolumeTiming": [0, 2, 4, 16, 18, 20]},
        {"VolumeTiming": [0, 2]},
        {"VolumeTiming": [0, 3, 6, 9, 12, 15], "RepetitionTime": 2.0},
    ],
)
def test_times_that_are_not_even_are_reported(tmp_path: Path, sidecar: Any) -> None:
    run = write_run(tmp_path, tr=2.0, sidecar=sidecar)
    with pytest.warns(HeaderWarning, match="not that of evenly spaced volumes"):
        stored = fs.convert(run, tmp_path / "a.h5")
    assert stored.metadata["VolumeTiming"] == sidecar["VolumeTiming"]
    stored.close()


@pytest.mark.parametrize("tr", [2.1504, 0.7206, 1 / 3])
@pytest.mark.parametrize("known", [True, False])
def test_times_of_volumes_are_often_rounded(tmp_path: Path, tr: float, known: bool) -> None:
    times = [round(i * tr, 3) for i in range(6)]
    run = write_run(tmp_path, tr=tr if known else 0, sidecar={"VolumeTiming": times})
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        stored = fs.convert(run, tmp_path / "a.h5")
    assert stored.tr == pytest.approx(tr, rel=1e-6 if known else 5e-4)
    stored.close()


@pytest.mark.parametrize("known", [{}, {"RepetitionTime": 2.0}, {"tr": 2.0}])
def test_the_first_of_the_times_is_that_of_the_first_volume(tmp_path: Path, known: Any) -> None:
    given = {"tr": known["tr"]} if "tr" in known else {}
    sidecar = {"VolumeTiming": [5, 7, 9, 11, 13, 15], **({} if given else known)}
    run = write_run(tmp_path, tr=2.0, sidecar=sidecar)
    with fs.convert(run, tmp_path / "a.h5", **given) as stored:
        assert (stored.tr, stored.space.time_offset) == (2.0, 5.0)
        assert float(stored.to_nibabel().header["toffset"]) == 5.0
        stored.to_nifti(tmp_path / "back.nii")
    with fs.convert(tmp_path / "back.nii", tmp_path / "b.h5") as again:
        assert again.space.time_offset == 5.0


def test_times_of_volumes_in_milliseconds_are_not_used(tmp_path: Path) -> None:
    times = [5000 + 2000 * i for i in range(6)]
    run = write_run(tmp_path, tr=2.0, sidecar={"VolumeTiming": times})
    with pytest.warns(HeaderWarning, match="VolumeTiming has a volume every 2000 s, .*millisec"):
        stored = fs.convert(run, tmp_path / "a.h5")
    assert (stored.tr, stored.space.time_offset) == (2.0, 0.0)
    stored.close()


def test_a_sidecar_of_a_url(tmp_path: Path) -> None:
    run = write_run(tmp_path, sidecar=FACTS)
    memory: Any = fsspec.filesystem("memory")
    for name in ("bold.nii.gz", "bold.json"):
        memory.pipe(f"/sidecars/{name}", (run.parent / name).read_bytes())
    with fs.convert("memory://sidecars/bold.nii.gz", tmp_path / "a.h5") as stored:
        assert dict(stored.metadata) == FACTS
    memory.rm_file("/sidecars/bold.json")
    with fs.convert("memory://sidecars/bold.nii.gz", tmp_path / "b.h5") as stored:
        assert dict(stored.metadata) == {}
    memory.rm("/sidecars", recursive=True)


def test_a_sidecar_of_one_volume_says_no_tr(tmp_path: Path) -> None:
    library: Any = nibabel
    library.save(library.Nifti1Image(np.ones(SHAPE, "f4"), np.eye(4)), tmp_path / "T1w.nii")
    (tmp_path / "T1w.json").write_text(json.dumps({"RepetitionTime": 2.3, "FlipAngle": 9}))
    with fs.convert(tmp_path / "T1w.nii", tmp_path / "a.h5") as stored:
        assert stored.tr is None
        assert stored.metadata["FlipAngle"] == 9


def test_maps_keep_what_the_user_says(tmp_path: Path) -> None:
    known: Any = {"space_name": "MNI152Lin", "metadata": {"Contrast": "a > b"}}
    maps = {"z": LIBRARY.Nifti1Image(np.ones(SHAPE, "f4"), np.eye(4))}
    with fs.LabeledVolumeSet.create(maps, tmp_path / "a.h5", **known) as stored:
        assert stored.space.space_name == "MNI152Lin"
        assert int(stored.to_nibabel("z").header["sform_code"]) == 4
        with stored.save(tmp_path / "b.zarr") as again:
            assert dict(again.metadata) == known["metadata"]


def test_on_the_command_line(tmp_path: Path) -> None:
    run = write_run(tmp_path, sidecar=FACTS)
    told = ["--tr", "1.5", "--space-name", "MNI152Lin", "--metadata", "Run=2"]
    library: Any = nibabel
    labels = library.Nifti1Image(LABELS.astype("i2"), np.diag([2.0, 2, 2, 1]))
    library.save(labels, tmp_path / "atlas.nii")
    commands = (
        ["convert", str(run), str(tmp_path / "a.h5"), *told],
        ["parcellate", str(run), str(tmp_path / "atlas.nii"), str(tmp_path / "b.h5"), *told],
    )
    for command in commands:
        result = CliRunner().invoke(app, command)
        assert result.exit_code == 0, result.output
        with fs.open(command[-7]) as stored:
            assert (stored.tr, stored.space.space_name) == (1.5, "MNI152Lin")
            assert dict(stored.metadata) == {**FACTS, "Run": 2}


def test_files_further_up_in_a_dataset_hold_too(tmp_path: Path) -> None:
    func = tmp_path / "ds" / "sub-01" / "ses-2" / "func"
    func.mkdir(parents=True)
    run = write_run(func, name="sub-01_ses-2_task-rest_bold")
    said: dict[str, Any] = {
        "task-rest_bold.json": {"RepetitionTime": 2.5, "TaskName": "rest", "Manufacturer": "A"},
        "task-nback_bold.json": {"RepetitionTime": 3.5, "TaskName": "nback"},
        "task-rest_sbref.json": {"Other": 1},
        "bold.json": {"Manufacturer": "B", "Site": "C"},
        "sub-01/sub-01_task-rest_bold.json": {"Manufacturer": "D"},
        "sub-01/ses-2/func/sub-01_ses-2_task-rest_bold.json": {"EchoTime": 0.03},
    }
    for name, facts in said.items():
        (tmp_path / "ds" / name).write_text(json.dumps(facts))
    with fs.convert(run, tmp_path / "no dataset.h5") as stored:
        assert (stored.tr, stored.metadata) == (2.0, {"EchoTime": 0.03})
    (tmp_path / "ds" / "dataset_description.json").write_text("{}")
    with pytest.warns(HeaderWarning, match="sidecar 2.5 s"):
        fs.convert(run, tmp_path / "dataset.h5").close()
    with fs.open(tmp_path / "dataset.h5") as stored:
        expected = {"TaskName": "rest", "Manufacturer": "D", "Site": "C", "EchoTime": 0.03}
        assert (stored.tr, stored.metadata) == (2.5, expected | {"RepetitionTime": 2.5})


def test_files_further_up_on_object_storage(tmp_path: Path) -> None:
    memory = fsspec.filesystem("memory")
    run = write_run(tmp_path, name="sub-01_task-rest_bold")
    memory.put(str(run), "/inherited/sub-01/func/sub-01_task-rest_bold.nii.gz")
    memory.pipe("/inherited/dataset_description.json", b"{}")
    memory.pipe("/inherited/task-rest_bold.json", b'{"TaskName": "rest"}')
    url = "memory://inherited/sub-01/func/sub-01_task-rest_bold.nii.gz"
    with fs.convert(url, tmp_path / "a.h5") as stored:
        assert stored.metadata == {"TaskName": "rest"}
    memory.rm("/inherited", recursive=True)


@pytest.mark.parametrize(
    ("error", "raised"),
    [
        (PermissionError(13, "may not be listed"), False),
        (OSError(5, "input/output error"), True),
        (RuntimeError("of a client of a service"), True),
    ],
    ids=["denied", "failed", "foreign"],
)
def test_a_folder_that_cannot_be_listed(
    tmp_path: Path, error: Exception, raised: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What lies further up may hold for the image, and must not be left out for a passing error."""
    name = "sub-01_task-rest_bold.nii.gz"
    memory = fsspec.filesystem("memory")
    memory.put(str(write_run(tmp_path)), f"/unlisted/sub-01/func/{name}")
    memory.pipe("/unlisted/dataset_description.json", b"{}")

    def refuse(*_: Any, **__: Any) -> Any:
        raise error

    url = f"memory://unlisted/sub-01/func/{name}"
    try:
        monkeypatch.setattr(type(memory), "ls", refuse)
        if raised:
            with pytest.raises(fs.errors.StorageError):
                fs.convert(url, tmp_path / "a.h5")
            assert not (tmp_path / "a.h5").exists()
        else:
            fs.convert(url, tmp_path / "a.h5").close()
    finally:
        monkeypatch.undo()
        memory.rm("/unlisted", recursive=True)
