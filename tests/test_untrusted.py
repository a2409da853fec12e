"""Input of unknown origin: what is no file is not opened, and text does not steer the terminal."""

from __future__ import annotations

import json
import os
import socket
from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import pytest
from typer.testing import CliRunner

import fmristore as fs
from fmristore.cli import app
from fmristore.sources.door import load_volume
from fmristore.sources.labels import read_table
from fmristore_stores.errors import FmristoreError, MetadataError, UnknownFormatError
from fmristore_stores.io.local_files import open_ordinary
from fmristore_stores.opening import open_store
from fmristore_stores.shown import shown, shown_lines

_NASTY = "a\x1b]0;owned\x07\r\nverified\x9b31m\u202ecod\u2066"
_STEERING = ("\x1b", "\x07", "\r", "\x9b", "\u202e", "\u2066")


def _is_tame(text: str) -> bool:
    return not any(sign in text for sign in _STEERING)


def _pipe(path: Path) -> str:
    os.mkfifo(path)
    return str(path)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="there are no named pipes")
def test_named_pipes_are_refused_everywhere(tmp_path: Path) -> None:
    """None of these ever waits for somebody who writes into the pipe."""
    pipe = _pipe(tmp_path / "pipe.h5")
    image = _pipe(tmp_path / "pipe.nii.gz")
    header = _pipe(tmp_path / "pair.hdr")
    _pipe(tmp_path / "pair.img")
    table = _pipe(tmp_path / "pipe.tsv")
    refs = _pipe(tmp_path / "pipe.refs.json")
    target = str(tmp_path / "new.h5")
    for attempt in (
        lambda: fs.open(pipe),
        lambda: fs.open(pipe, kind="hdf5"),
        lambda: open_store(pipe, "r+", kind="hdf5"),
        lambda: fs.open(refs),
        lambda: fs.verify(pipe),
        lambda: fs.transcode(pipe, target),
        lambda: fs.convert(pipe, target),
        lambda: fs.convert(image, target),
        lambda: fs.convert(header, target),
        lambda: read_table(table, np.array([1], np.int32)),
        lambda: load_volume(image, "mask"),
    ):
        with pytest.raises(UnknownFormatError, match="named pipe"):
            attempt()
    assert not Path(target).exists()


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="there are no named pipes")
def test_a_reference_file_that_points_at_a_pipe(tmp_path: Path) -> None:
    """The targets of references are looked at like everything else."""
    _pipe(tmp_path / "bytes.bin")
    array = {
        "zarr_format": 2,
        "shape": [2],
        "chunks": [2],
        "dtype": "<i2",
        "compressor": None,
        "fill_value": 0,
        "filters": None,
        "order": "C",
    }
    document = {
        "version": 1,
        "refs": {
            ".zgroup": json.dumps({"zarr_format": 2}),
            "0/.zarray": json.dumps(array),
            "0/0": ["bytes.bin", 0, 4],
        },
    }
    path = tmp_path / "a.refs.json"
    path.write_text(json.dumps(document))
    with open_store(path) as store, pytest.raises(FmristoreError):
        store.root.array("0").read()


def test_sockets_devices_and_folders(tmp_path: Path) -> None:
    """Each is refused with what it is."""
    if hasattr(socket, "AF_UNIX"):
        place = tmp_path / "s"
        with socket.socket(socket.AF_UNIX) as server:
            server.bind(str(place))
            with pytest.raises(UnknownFormatError, match="a socket"):
                open_ordinary(str(place))
    if os.path.exists("/dev/zero"):  # noqa: PTH110
        with pytest.raises(UnknownFormatError, match="a device"):
            fs.open("/dev/zero")
        (tmp_path / "link.h5").symlink_to("/dev/zero")
        with pytest.raises(UnknownFormatError, match="a device"):
            fs.open(tmp_path / "link.h5")
    with pytest.raises(OSError, match="directory"):
        open_ordinary(str(tmp_path))


def test_shown() -> None:
    """Everything without a shape is escaped; letters of all scripts stay."""
    assert _is_tame(shown(_NASTY))
    assert "\n" not in shown(_NASTY)
    assert shown("Gyrus frontalis, 脳, Ключ") == "Gyrus frontalis, 脳, Ключ"
    assert shown("x" * 99, 10) == "x" * 7 + "..."
    assert shown_lines("a\nb\x1b") == "a\nb\\x1b"
    error = str(MetadataError(f"bad {_NASTY}", url=_NASTY, node=_NASTY))
    assert _is_tame(error)
    assert len(error.splitlines()) == 2


def test_names_and_text_of_files_do_not_reach_the_terminal_raw(tmp_path: Path) -> None:
    """A file whose every text is made to steer the terminal."""
    path = tmp_path / "nasty.h5"
    with h5py.File(path, "w") as file:
        file.attrs["fmristore_format"] = _NASTY
        file.attrs["fmristore_format_version"] = _NASTY
        file.attrs["fmristore_writer"] = _NASTY
        file[_NASTY] = np.arange(3)
        file[_NASTY].dims[0].label = _NASTY
        file.create_dataset("odd" + _NASTY, (2,), h5py.vlen_dtype("i4"))
        file["link" + _NASTY] = h5py.SoftLink("/no" + _NASTY)
        file["out" + _NASTY] = h5py.ExternalLink("x" + _NASTY, "/y")
    target = str(tmp_path / "new.zarr")
    for arguments in (
        ["info", str(path)],
        ["verify", str(path)],
        ["transcode", str(path), target],
        ["transcode", str(path), target, "--dry-run"],
        ["transcode", str(path), target, "--allow", "array", "--allow", "external-link"],
        ["plan", str(path), "[0]"],
        ["export", str(path), str(tmp_path / "new.nii")],
        ["info", str(tmp_path / _NASTY)],
        ["--debug", "verify", str(tmp_path / _NASTY)],
    ):
        result = CliRunner().invoke(app, arguments, color=False)
        assert result.output, arguments
        assert _is_tame(result.output), arguments
        assert not any(line.startswith("verified") for line in result.output.splitlines())


def test_objects_and_reports_show_text_tamed(tmp_path: Path) -> None:
    """What a notebook or a log shows of stores with nasty names."""
    volume_space = fs.NeuroSpace(spatial_shape=(2, 2, 2), affine=np.eye(4), space_name=_NASTY)
    space = replace(volume_space, time_points=3)
    runs = {"run" + _NASTY: np.zeros((2, 2, 2, 3), "i2")}
    path = tmp_path / "runs.h5"
    with fs.NeuroVecSeq.create(runs, path, space=space) as made:
        shows = [repr(made), made._repr_html_(), repr(made.space)]
    shows.append(str(fs.verify(path)))
    shows.append(str(fs.transcode(path, tmp_path / "runs.zarr")))
    data = np.zeros((2, 2, 2), "i2")
    with fs.NeuroVol.create(data, tmp_path / "v.h5", space=volume_space) as volume:
        shows += [repr(volume), volume.plan[0].explain()]
    for text in shows:
        assert _is_tame(text), text
