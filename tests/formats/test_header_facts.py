"""What a NIfTI header says survives in every format, and so do the times of the volumes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import nibabel
import numpy as np
import pytest

import fmristore as fs
from fmristore.model.space import HeaderWarning

MNI = np.array([[2.0, 0, 0, -90], [0, 2, 0, -126], [0, 0, 2, -72], [0, 0, 0, 1]])
SHAPE = (6, 5, 4)
MASK = np.random.default_rng(2).random(SHAPE) > 0.4
LABELS = np.where(MASK, 1 + np.arange(120).reshape(SHAPE) % 3, 0)
NAMES = {1: "a", 2: "b", 3: "c"}


def write_run(
    path: Path, *, volumes: int = 8, description: str = "smoothed", **fields: Any
) -> Path:
    """Write a NIfTI file whose header says all that a header can say of a run."""
    library: Any = nibabel
    values = np.random.default_rng(volumes).integers(1, 900, (*SHAPE, volumes)).astype("i2")
    header = library.Nifti1Header()
    header.set_data_shape(values.shape)
    header.set_sform(MNI, 4)
    header.set_qform(MNI, 1)
    header.set_intent("f test", (2, 17), name="faces")
    header.set_xyzt_units("mm", "msec")
    header["pixdim"][4], header["toffset"], header["slice_duration"] = 2000, 500, 40
    header["slice_end"], header["slice_code"] = 3, 1
    header.set_dim_info(0, 1, 2)
    header["descrip"], header["cal_min"], header["cal_max"] = description.encode(), -3, 300
    for name, value in fields.items():
        header[name] = value
    header.extensions.append(library.nifti1.Nifti1Extension("comment", b"a word"))
    image = library.Nifti1Image(values, None, header)
    library.save(image, path)
    return path


def masked(run: Path, url: Path) -> Any:
    return fs.MaskedNeuroVec.create(run, url, mask=MASK)


def sequence(run: Path, url: Path) -> Any:
    return fs.NeuroVecSeq.create({"one": run, "two": run}, url)


def maps(run: Path, url: Path) -> Any:
    return fs.LabeledVolumeSet.create(run, url, labels=[f"map {n}" for n in range(8)])


def latent(run: Path, url: Path) -> Any:
    return fs.LatentNeuroVec.from_pca(run, url, 3, mask=MASK)


def parcels(run: Path, url: Path) -> Any:
    return fs.ParcellatedScan.create(run, url, parcellation=LABELS, names=NAMES)


def dense(run: Path, url: Path) -> Any:
    return fs.convert(run, url)


FORMATS: tuple[Callable[[Path, Path], Any], ...] = (masked, sequence, maps, latent, parcels, dense)


def require_facts(found: Any) -> None:
    """Check that an image says what the header of `write_run` says."""
    header = found.header
    assert (int(header["sform_code"]), int(header["qform_code"])) == (4, 1)
    np.testing.assert_array_equal(header.get_sform(), MNI)
    np.testing.assert_array_equal(header.get_qform(), MNI)
    assert header.get_intent() == ("f test", (2.0, 17.0), "faces")
    assert bytes(header["descrip"].tobytes()).rstrip(b"\0") == b"smoothed"
    assert (float(header["cal_min"]), float(header["cal_max"])) == (-3, 300)
    assert header.get_dim_info() == (0, 1, 2)
    assert (int(header["slice_end"]), int(header["slice_code"])) == (3, 1)
    assert [extension.get_content() for extension in header.extensions] == [b"a word"]


@pytest.mark.parametrize("ending", ["h5", "zarr"])
@pytest.mark.parametrize("create", FORMATS)
def test_every_format_keeps_what_a_header_says(
    tmp_path: Path, create: Callable[[Path, Path], Any], ending: str
) -> None:
    run = write_run(tmp_path / "run.nii.gz")
    other = "zarr" if ending == "h5" else "h5"
    with create(run, tmp_path / f"a.{ending}") as stored:
        require_facts(stored.to_nibabel())
        stored.to_nifti(tmp_path / "a.nii.gz")
        require_facts(nibabel.load(tmp_path / "a.nii.gz"))
        stored.save(tmp_path / f"b.{other}").close()
        with stored.to_dense(tmp_path / f"dense.{ending}") as whole:
            require_facts(whole.to_nibabel())
    assert fs.verify(tmp_path / f"a.{ending}", deep=True).ok
    with fs.open(tmp_path / f"b.{other}") as again:
        require_facts(again.to_nibabel())
        assert again.space.time_offset == (0.0 if create is maps else 0.5)


@pytest.mark.parametrize("create", [masked, latent, parcels, dense])
def test_a_format_made_of_another_keeps_it_too(
    tmp_path: Path, create: Callable[[Path, Path], Any]
) -> None:
    run = write_run(tmp_path / "run.nii.gz")
    masked(run, tmp_path / "masked.h5").close()
    with create(tmp_path / "masked.h5", tmp_path / "a.zarr") as stored:
        require_facts(stored.to_nibabel())


@pytest.mark.parametrize("ending", ["h5", "zarr"])
def test_every_map_has_its_own_header(tmp_path: Path, ending: str) -> None:
    library: Any = nibabel

    def write_map(name: str, dof: float, **fields: Any) -> Path:
        image = library.Nifti1Image(np.full(SHAPE, dof, "f4"), MNI)
        image.header.set_sform(MNI, 4)
        image.header.set_intent("t test", (dof,), name=name)
        for field, value in fields.items():
            image.header[field] = value
        library.save(image, tmp_path / f"{name}.nii")
        return tmp_path / f"{name}.nii"

    def intents(stored: Any) -> dict[str, Any]:
        return {name: stored.to_nibabel(name).header.get_intent() for name in stored.labels}

    files = {name: write_map(name, dof, cal_max=9) for name, dof in {"a": 5.0, "b": 6.0}.items()}
    stored = fs.LabeledVolumeSet.create(files, tmp_path / f"maps.{ending}")
    expected: dict[str, Any] = {"a": ("t test", (5.0,), "a"), "b": ("t test", (6.0,), "b")}
    assert intents(stored) == expected
    together: Any = stored.to_nibabel().header
    assert together.get_intent()[0] == "none"
    assert float(together["cal_max"]) == 9
    assert int(together["sform_code"]) == 4
    stored.add("c", write_map("c", 7.0))
    stored.add("plain", np.zeros(SHAPE, "f4"))
    stored.remove("a")
    stored.rename("b", "second")
    expected = {"second": expected["b"], "c": ("t test", (7.0,), "c"), "plain": ("none", (), "")}
    assert intents(stored) == expected
    with stored.save(tmp_path / "again.h5") as again:
        assert intents(again) == expected
    stored.to_nifti(tmp_path / "c_out.nii", label="c")
    found: Any = nibabel.load(tmp_path / "c_out.nii")
    assert found.header.get_intent() == expected["c"]
    stored.close()


def test_runs_that_disagree_say_nothing_together(tmp_path: Path) -> None:
    one = write_run(tmp_path / "one.nii")
    two = write_run(tmp_path / "two.nii", volumes=5, description="raw", toffset=0)
    with fs.NeuroVecSeq.create([one, two], tmp_path / "a.h5") as stored:
        header: Any = stored.to_nibabel().header
        assert not header["descrip"].tobytes().strip(b"\0")
        assert header.get_intent() == ("f test", (2.0, 17.0), "faces")
        assert float(header["toffset"]) == 0
        second = stored["run-2"].to_nibabel().header
        assert bytes(second["descrip"].tobytes()).rstrip(b"\0") == b"raw"


def test_a_damaged_header_is_named(tmp_path: Path) -> None:
    masked(write_run(tmp_path / "run.nii"), tmp_path / "a.h5").close()
    with h5py.File(tmp_path / "a.h5", "r+") as file:
        file["nifti"][344:348] = 255
    with fs.open(tmp_path / "a.h5") as stored:
        stored[0, 0, 0]
        with pytest.raises(fs.errors.MetadataError, match=r"a\.h5.*header is damaged") as found:
            stored.to_nibabel()
        with pytest.raises(fs.errors.MetadataError, match="header is damaged"):
            stored.to_nifti(tmp_path / "b.nii")
        assert found.value.node == "nifti"


def test_a_mask_gives_loadings_its_codes_but_not_its_meaning(tmp_path: Path) -> None:
    library: Any = nibabel
    mask = library.Nifti1Image(MASK.astype("u1"), MNI)
    mask.header.set_sform(MNI, 4)
    mask.header["descrip"] = b"a mask"
    count = int(MASK.sum())
    rng = np.random.default_rng(1)
    basis, loadings = rng.random((7, 2)), rng.random((count, 2))
    library.save(mask, tmp_path / "mask.nii.gz")
    for number, given in enumerate((mask, tmp_path / "mask.nii.gz")):
        with fs.LatentNeuroVec.create(
            basis, loadings, tmp_path / f"{number}.h5", mask=given
        ) as stored:
            header = stored.to_nibabel().header
            assert int(header["sform_code"]) == 4
            assert not header["descrip"].tobytes().strip(b"\0")


@pytest.mark.parametrize("ending", ["h5", "zarr"])
def test_times_begin_with_the_first_volume(tmp_path: Path, ending: str) -> None:
    run = write_run(tmp_path / "run.nii.gz")
    times = 0.5 + 2.0 * np.arange(8)
    multi = fs.ParcellatedMultiScan.create(
        {"full": run}, tmp_path / f"multi.{ending}", parcellation=LABELS, names=NAMES
    )
    multi.add_scan("short", run, statistic="mean")
    summary = fs.parcellate(run, LABELS, tmp_path / f"sum.{ending}", names=NAMES)
    frames = [summary.to_dataframe(), multi["full"].to_dataframe(), multi["short"].to_dataframe()]
    for frame in frames:
        np.testing.assert_array_equal(frame.index, times)
    together = multi.concat().to_dataframe()
    np.testing.assert_array_equal(together.loc["short"].index, times)
    with summary.save(tmp_path / "again.h5") as again:
        np.testing.assert_array_equal(again.to_dataframe().index, times)
    for create, path in ((dense, "t"), (masked, "t"), (sequence, "runs/two/t")):
        with create(run, tmp_path / f"{create.__name__}.{ending}") as stored:
            np.testing.assert_array_equal(stored.space.times[:8], times)
            array = stored._handle.store.root.array(path)
            np.testing.assert_array_equal(array.read(), times)
    with latent(run, tmp_path / f"latent.{ending}") as factors:
        with factors.save(tmp_path / "other.h5") as again:
            np.testing.assert_array_equal(again.space.times, times)
        array = factors._handle.store.root.array("scans/scan_1/t")
        np.testing.assert_array_equal(array.read(), times)
    multi.close()
    summary.close()


def test_a_space_says_when_its_first_volume_was(tmp_path: Path) -> None:
    space = fs.NeuroSpace(spatial_shape=SHAPE, affine=MNI, time_points=4, tr=2.0, time_offset=-0.25)
    np.testing.assert_array_equal(space.times, [-0.25, 1.75, 3.75, 5.75])
    with fs.NeuroVec.create(np.zeros((*SHAPE, 4), "f4"), tmp_path / "a.h5", space=space) as stored:
        assert stored.space == space
        assert float(stored.to_nibabel().header["toffset"]) == -0.25
    with fs.NeuroVecSeq.create(
        [np.zeros((*SHAPE, 4), "f4")], tmp_path / "b.h5", space=space
    ) as runs:
        assert runs.space == space
    assert space.without_time().time_offset == 0
    for wrong in ({"time_offset": np.nan}, {"time_offset": 1.0, "time_points": None, "tr": None}):
        fields = {"time_points": 4, "tr": 2.0} | wrong
        with pytest.raises(fs.errors.InvalidInputError, match="time offset"):
            fs.NeuroSpace(spatial_shape=SHAPE, affine=MNI, **fields)


def test_a_toffset_that_is_no_time_is_reported(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run.nii", toffset=np.nan)
    with pytest.warns(HeaderWarning, match="toffset") as found:
        fs.convert(run, tmp_path / "a.h5").close()
    assert len(found) == 1


def test_verification_knows_when_the_first_volume_was(tmp_path: Path) -> None:
    dense(write_run(tmp_path / "run.nii"), tmp_path / "a.h5").close()
    with h5py.File(tmp_path / "a.h5", "r+") as file:
        file.attrs["time_offset"] = 1.5
    report = fs.verify(tmp_path / "a.h5")
    assert {problem.node for problem in report.problems} == {"nifti", "t"}
