"""The command line: what it prints, where, and with which exit code."""

from __future__ import annotations

import gzip
import json
import os
import signal
import subprocess
import sys
import time
import warnings
from pathlib import Path
from typing import Any, get_args

import nibabel as untyped_nibabel
import numpy as np
import pytest
import typer
from typer.testing import CliRunner, Result

import fmristore as fs
from fmristore.cli import app
from fmristore.cli.parsing import (
    Access,
    Codec,
    TranscodeCodec,
    parse_options,
    parse_selection_text,
    parse_size,
)
from fmristore.planning import layout
from fmristore.planning.text import size_text
from fmristore.transcoding.plan import LOSSES
from fmristore_stores.codecs.pipeline import PRESETS
from fmristore_stores.opening import open_store

nibabel: Any = untyped_nibabel

CAPTURE: Any = {"capture_output": True, "text": True}
COMMANDS = (
    *("convert", "parcellate", "formats", "info", "transcode", "export", "plan", "verify"),
    "demo",
)


def run(*args: str | Path) -> Result:
    return CliRunner().invoke(app, [str(arg) for arg in args])


def done(*args: str | Path) -> str:
    """Standard output of a command that must succeed in silence."""
    result = run(*args)
    assert result.exit_code == 0, result.output
    assert result.stderr == ""
    return result.stdout


def failed(*args: str | Path, code: int = 1) -> str:
    """The one line on stderr of a command that must fail."""
    result = run(*args)
    assert result.exit_code == code, result.output
    assert result.stdout == ""
    assert result.stderr.startswith("error: ")
    assert result.stderr.count("\n") == 1
    return result.stderr


@pytest.fixture
def nifti(tmp_path: Path) -> Path:
    values = np.random.default_rng(2).integers(0, 500, (6, 7, 8, 12)).astype(np.int16)
    image = nibabel.Nifti1Image(values, np.diag([2.0, 2.0, 3.0, 1.0]))
    image.header.set_zooms((2, 2, 3, 1.5))
    image.header.set_xyzt_units("mm", "sec")
    path = tmp_path / "run.nii.gz"
    nibabel.save(image, path)
    return path


@pytest.fixture
def stored(nifti: Path) -> Path:
    fs.convert(nifti, nifti.parent / "run.h5").close()
    return nifti.parent / "run.h5"


# Help ----------------------------------------------------------------------------------------


def test_help() -> None:
    text = done("--help")
    assert all(command in text for command in COMMANDS)
    for command in COMMANDS:
        text = done(command, "--help")
        assert f"Example: fmristore {command} " in text
    result = run()
    assert result.exit_code == 2
    assert "transcode" in result.stdout


def test_version() -> None:
    assert done("--version") == f"fmristore {fs.__version__}\n"


def test_help_is_quick() -> None:
    """Nothing heavy is imported for it."""
    code = (
        "import sys\n"
        "from fmristore.cli import app\n"
        "try: app(['--help'])\n"
        "except SystemExit: pass\n"
        "print([m for m in ('numpy', 'h5py', 'zarr', 'nibabel', 'fsspec') if m in sys.modules])\n"
    )
    result = subprocess.run([sys.executable, "-c", code], check=False, **CAPTURE)
    assert result.stdout.endswith("[]\n"), result


def test_names_are_those_of_the_library() -> None:
    assert list(Access) == list(get_args(layout.Access))
    assert list(Codec) == list(PRESETS)
    assert list(TranscodeCodec) == [*PRESETS, "keep"]
    text = " ".join(done("transcode", "--help").replace("│", " ").split())
    assert ", ".join(sorted(LOSSES)) in text


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion(shell: str) -> None:
    environment = {"_FMRISTORE_COMPLETE": f"source_{shell}"}
    result = CliRunner().invoke(app, [], env=environment, prog_name="fmristore")
    assert result.exit_code == 0
    assert "fmristore" in result.stdout


# Commands ------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["new.h5", "new.ome.zarr"])
def test_convert(nifti: Path, tmp_path: Path, name: str) -> None:
    url = tmp_path / name
    text = done("convert", nifti, url, "--access", "volume", "--codec", "fast")
    assert "6 x 7 x 8 x 12" in text
    assert "7.9 KiB of data in" in text
    with fs.open(url) as image:
        assert image.access == "volume"
        assert image.spec.codecs[0].get("cname") == "lz4"


def test_convert_json(nifti: Path, tmp_path: Path) -> None:
    url = tmp_path / "new.h5"
    document = json.loads(done("convert", nifti, url, "--json", "--max-memory", "64MB"))
    assert document["target"] == str(url)
    content = document["content"]
    assert content["class"] == "NeuroVec"
    assert content["shape"] == [6, 7, 8, 12]
    assert content["digest"].startswith("sha256-planes:")
    assert content["sizes"]["raw_bytes"] == 6 * 7 * 8 * 12 * 2


def test_convert_refuses_to_replace(nifti: Path, stored: Path) -> None:
    before = stored.read_bytes()
    line = failed("convert", nifti, stored)
    assert line == f"error: {stored}: exists already; pass --overwrite to replace it\n"
    assert stored.read_bytes() == before
    done("convert", nifti, stored, "--overwrite", "--access", "volume")
    assert stored.read_bytes() != before


def test_warnings_are_one_line(nifti: Path, tmp_path: Path) -> None:
    data = bytearray(gzip.decompress(nifti.read_bytes()))
    data[76 + 16 : 76 + 20] = np.float32(1500).tobytes()  # pixdim[4]
    data[123] = 0  # units
    source = tmp_path / "doubtful.nii"
    source.write_bytes(data)
    result = run("convert", source, tmp_path / "new.h5")
    assert result.exit_code == 0
    assert result.stderr.startswith(f"warning: {source}")
    assert result.stderr.count("\n") == 1
    result = run("convert", source, tmp_path / "new.h5", "--json", "--overwrite")
    json.loads(result.stdout)
    assert json.loads(result.stderr)["warning"]["message"].startswith(str(source))


def test_info(stored: Path) -> None:
    text = done("info", stored)
    for part in (
        "HDF5, 1 file",
        "neurovec 1.2, written by fmristore",
        "6 x 7 x 8 x 12",
        "2 x 2 x 3 mm",
        "RAS",
        "1.5 s",
        "1 of ",
        "shuffle(elementsize=2) + deflate(level=",
        "sha256-planes:",
    ):
        assert part in text
    document = json.loads(done("info", stored, "--json"))
    assert document["container"] == "hdf5"
    assert document["stored_bytes"] == stored.stat().st_size
    assert document["content"]["space"]["affine"][2][2] == 3.0
    assert document["content"]["sizes"]["ratio"] > 1


def test_info_of_a_zarr_store(nifti: Path, tmp_path: Path) -> None:
    url = tmp_path / "run.ome.zarr"
    fs.convert(nifti, url)
    files = [path for path in url.rglob("*") if path.is_file()]
    document = json.loads(done("info", url, "--json"))
    assert document["files"] == len(files)
    assert document["stored_bytes"] == sum(path.stat().st_size for path in files)
    assert f"Zarr, {len(files)} files" in done("info", url)


def test_info_of_a_volume_with_scaling(tmp_path: Path) -> None:
    space = fs.NeuroSpace(spatial_shape=(3, 4, 5), affine=np.eye(4), space_name="MNI")
    values = np.zeros((3, 4, 5), np.int16)
    fs.NeuroVol.create(values, tmp_path / "v.h5", space=space, slope=0.5, inter=1).close()
    text = done("info", tmp_path / "v.h5")
    assert "float32 (stored as int16, times 0.5, plus 1)" in text
    assert "MNI" in text
    assert "TR" not in text
    assert "for time" not in text
    assert "for time" not in repr(fs.open(tmp_path / "v.h5"))


def test_info_of_another_store(tmp_path: Path) -> None:
    import h5py

    url = tmp_path / "other.h5"
    with h5py.File(url, "w") as file:
        file.create_dataset("data/ok", data=np.arange(6), chunks=(3,), compression=4)
        file.create_dataset("line\x1b[31m\nbreak", data=1)
    text = done("info", url)
    assert "/data/ok" in text
    assert "deflate(level=4)" in text
    assert "\x1b" not in text
    assert r"/line\x1b[31m\nbreak" in text
    document = json.loads(done("info", url, "--json"))
    assert document["format"] is None
    assert document["note"] is None
    assert document["content"] is None
    assert {"path": "data/ok", "shape": [6]}.items() <= document["arrays"][0].items()


def test_info_of_a_reference_file(stored: Path, tmp_path: Path) -> None:
    fs.virtualize(stored, tmp_path / "run.refs.json")
    out = done("info", tmp_path / "run.refs.json")
    assert "container    references to HDF5" in out
    assert "6 x 7 x 8 x 12" in out


def test_info_of_a_newer_format(stored: Path) -> None:
    with open_store(stored, "r+") as store:
        attributes = store.root.read_attributes()
        store.root.write_attributes(attributes | {"fmristore_format_version": "9.0"})
    text = done("info", stored)
    assert "newer" in text
    assert "/nifti" in text


def test_transcode(stored: Path, tmp_path: Path) -> None:
    url = tmp_path / "moved.ome.zarr"
    plan = done("transcode", stored, url, "--dry-run")
    assert "verbatim" in plan
    document = json.loads(done("transcode", stored, url, "--dry-run", "--json"))
    assert {array["path"] for array in document["arrays"]} == {
        *("0", "nifti", "t", "x", "y", "z"),
        *(f"space/{name}" for name in ("dim", "origin", "spacing", "trans")),
    }
    assert not url.exists()
    assert "digests equal" in done("transcode", stored, url, "--codec", "fast")
    report = json.loads(
        done("transcode", stored, url, "--overwrite", "--access", "volume", "--json")
    )
    assert report["converted"].keys() == {"0"}
    assert "exists already" in failed("transcode", stored, url)


def test_transcode_with_losses(tmp_path: Path) -> None:
    import h5py

    with h5py.File(tmp_path / "x.h5", "w") as file:
        file["a"] = [1, 2]
        file["elsewhere"] = h5py.ExternalLink("other.h5", "/x")
    moved = tmp_path / "x.zarr"
    assert "allow ['external-link']" in failed("transcode", tmp_path / "x.h5", moved)
    assert not moved.exists()
    assert "unknown losses" in failed("transcode", tmp_path / "x.h5", moved, "--allow", "all")
    done("transcode", tmp_path / "x.h5", moved, "--allow", "external-link")


def test_export(nifti: Path, stored: Path, tmp_path: Path) -> None:
    back = tmp_path / "back.nii.gz"
    done("export", stored, back)
    assert gzip.decompress(back.read_bytes()) == gzip.decompress(nifti.read_bytes())
    assert "--overwrite" in failed("export", stored, back)
    done("export", stored, back, "--overwrite")


def test_plan(stored: Path) -> None:
    text = done("plan", stored, "[..., 10]")
    assert "[..., 10]" in text
    assert "result         6 x 7 x 8 " in text
    document = json.loads(done("plan", stored, "1, 2, 3", "--json"))
    assert document["shape"] == [12]
    assert document["chunks"] >= 1
    assert json.loads(done("plan", stored, "-1", "--json"))["shape"] == [7, 8, 12]
    assert "out of bounds" in failed("plan", stored, "6")
    assert "too many indices" in failed("plan", stored, "1,2,3,4,5")


def test_verify(stored: Path) -> None:
    assert ": ok (neurovec" in done("verify", stored)
    assert json.loads(done("verify", stored, "--deep", "--json"))["ok"] is True
    with open_store(stored, "r+") as store:
        array = store.root.array("0")
        array.write_attributes(array.read_attributes() | {"digest": "sha256-planes:0"})
    assert run("verify", stored).exit_code == 0
    result = run("verify", stored, "--deep")
    assert result.exit_code == 1
    assert "1 problem" in result.stdout
    result = run("verify", stored, "--deep", "--json")
    assert result.exit_code == 1
    assert result.stderr == ""
    assert json.loads(result.stdout)["problems"][0]["kind"] == "digest"


def test_storage_options(nifti: Path, s3: Any) -> None:
    options = [f"--storage-option={key}={json.dumps(value)}" for key, value in s3.options.items()]
    url = s3.url("run.ome.zarr")
    done("convert", nifti, url, *options)
    document = json.loads(done("info", url, "--json", *options))
    assert document["files"] > 4
    assert document["stored_bytes"] > 1000
    done("verify", url, "--deep", *options)
    done("plan", url, "3", *options)


# Errors --------------------------------------------------------------------------------------


def test_errors_are_one_line(tmp_path: Path, stored: Path) -> None:
    assert "there is no such file" in failed("info", tmp_path / "none.h5")
    assert "no such file" in failed("convert", tmp_path / "none.nii", tmp_path / "new.h5")
    (tmp_path / "text.h5").write_text("no store")
    assert "neither an HDF5 file nor a Zarr store" in failed("verify", tmp_path / "text.h5")
    assert "name of a new store" in failed("transcode", stored, tmp_path / "new.tar")
    assert list(tmp_path.glob("new*")) == []


def test_damage_is_named_with_its_file(stored: Path, tmp_path: Path) -> None:
    with open_store(stored) as store:
        array: Any = store.root.array("0")
        where = array.refs([(0,) * 4])[0].range
    with stored.open("r+b") as file:
        file.seek(where.offset)
        file.write(b"\xff" * where.length)
    for line in (
        failed("export", stored, tmp_path / "new.nii"),
        failed("transcode", stored, tmp_path / "new.zarr", "--codec", "fast"),
    ):
        assert line.startswith(f"error: {stored}[/0]: chunk (0, 0, 0, 0) cannot be read")
    assert list(tmp_path.glob("*new*")) == []


@pytest.mark.parametrize(
    ("args", "told"),
    [
        (["convert", "a"], "Invalid value for 'OUT'"),
        (["nothing"], "No such command 'nothing'"),
        (["info", "a", "--wrong"], "--wrong"),
        (["convert", "a", "b", "--access", "space"], "--access"),
        (["convert", "a", "b", "--max-memory", "5 apples"], "'5 apples' is not a size"),
        (["verify", "a", "--storage-option", "anon"], "'anon' is not of the form key=value"),
        (["plan", "a", "[1.5]"], "'1.5' in '[1.5]' is neither"),
        (["plan", "a", "__import__('os')"], "is neither"),
    ],
)
def test_wrong_usage(args: list[str], told: str) -> None:
    line = failed(*args, code=2)
    assert told in line
    assert "--help" in line


@pytest.mark.parametrize("at", [0, 1, 2])
def test_debug(tmp_path: Path, at: int) -> None:
    args: list[str | Path] = ["info", tmp_path / "none.h5"]
    args.insert(at, "--debug")
    result = run(*args)
    assert result.exit_code == 1
    assert "Traceback" in result.stderr
    assert result.stderr.splitlines()[-1].startswith("error: ")


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (KeyError("x"), "error: KeyError: 'x'; this is a bug; run with --debug\n"),
        (MemoryError("8 GiB"), "error: not enough memory (8 GiB); lower --max-memory\n"),
    ],
)
def test_unexpected_errors(
    stored: Path, monkeypatch: pytest.MonkeyPatch, error: Exception, told: str
) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise error

    monkeypatch.setattr("fmristore.verification.verify", fail)
    assert failed("verify", stored) == told


def test_libraries_may_warn(stored: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    verify = fs.verify

    def warn(*args: Any, **options: Any) -> Any:
        warnings.warn("of no interest to users", DeprecationWarning, stacklevel=1)
        return verify(*args, **options)

    monkeypatch.setattr("fmristore.verification.verify", warn)
    done("verify", stored)


def test_as_a_program(stored: Path) -> None:
    command = [sys.executable, "-m", "fmristore"]
    result = subprocess.run([*command, "verify", stored], check=False, **CAPTURE)
    assert (result.returncode, result.stderr) == (0, "")
    assert ": ok" in result.stdout
    result = subprocess.run([*command, "info"], check=False, **CAPTURE)
    assert result.returncode == 2
    assert result.stdout == ""


def _with_usual_signals() -> None:
    """In a child: a shell lets what it runs in the background ignore Ctrl-C."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


def _run_interrupted(program: str, *arguments: str, timeout: float = 300) -> Any:
    """Run a program that sends itself a signal."""
    return subprocess.run(
        [sys.executable, "-c", program, *arguments],
        check=False,
        timeout=timeout,
        preexec_fn=_with_usual_signals,
        **CAPTURE,
    )


@pytest.mark.skipif(os.name == "nt", reason="signals of POSIX")
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_interruption_is_not_lost_in_a_finaliser(number: signal.Signals, code: int) -> None:
    """Python ignores what is raised there."""
    program = (
        "import signal, sys, time\n"
        "from fmristore import cli\n"
        "from fmristore.cli import ending\n"
        "ending._UNTIL_HANDLED = 300\n"
        "class Loud:\n"
        f"    def __del__(self): signal.raise_signal({number:d})\n"
        "def work():\n"
        "    Loud()\n"
        "    time.sleep(600)\n"
        "    sys.exit(1)\n"
        "cli.app.registered_callback.callback = work\n"
        "sys.argv = ['fmristore']\n"
        "cli.main()\n"
    )
    result = _run_interrupted(program)
    assert result.returncode == code, result
    assert "Exception ignored" not in result.stderr


@pytest.mark.skipif(os.name == "nt", reason="signals of POSIX")
@pytest.mark.parametrize(
    ("called", "work"),
    [
        ("", "import swallowing"),
        (
            "weakref_cb",
            "executor = concurrent.futures.ThreadPoolExecutor(1)\n"
            "    executor.submit(int)\n"
            "    del executor",
        ),
        ("_removeHandlerRef", "logging.StreamHandler()"),
        ("__call__", "thing = {1}\n    multiprocessing.util.Finalize(thing, int)\n    del thing"),
    ],
    ids=["import", "executor", "logging", "multiprocessing"],
)
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_interruption_is_not_lost_in_what_python_calls(
    tmp_path: Path, called: str, work: str, number: signal.Signals, code: int
) -> None:
    """When something is gone, and while it imports: what is raised there is ignored, too."""
    (tmp_path / "swallowing.py").write_text(
        "import signal\n"
        "try:\n"
        f"    signal.raise_signal({number:d})\n"
        "except BaseException:\n"
        "    pass  # as extensions do that are initialized\n"
    )
    program = (
        "import concurrent.futures, logging, multiprocessing.util, signal, sys, time\n"
        "import concurrent.futures.thread\n"
        "from fmristore import cli\n"
        "from fmristore.cli import ending\n"
        "ending._UNTIL_HANDLED = 300\n"
        "def profile(frame, event, _):\n"
        f"    if frame.f_code.co_name == {called!r}:\n"
        "        sys.setprofile(None)\n"
        f"        signal.raise_signal({number:d})\n"
        f"sys.path.append({str(tmp_path)!r})\n"
        "def work():\n"
        "    sys.setprofile(profile)\n"
        f"    {work}\n"
        "    time.sleep(600)\n"
        "    sys.exit(1)\n"
        "cli.app.registered_callback.callback = work\n"
        "sys.argv = ['fmristore']\n"
        "cli.main()\n"
    )
    result = _run_interrupted(program, timeout=60)
    assert result.returncode == code, result
    assert result.stderr == ("error: interrupted\n" if code == 130 else "")


@pytest.mark.skipif(os.name == "nt", reason="signals of POSIX")
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_interruption_is_not_lost_in_what_hdf5_calls(
    tmp_path: Path, number: signal.Signals, code: int
) -> None:
    """The library goes on when a method of the file that it writes raises something."""
    program = (
        "import signal, sys\n"
        "from fmristore import cli\n"
        "from fmristore.cli import ending\n"
        "from fmristore_stores.hdf5.output import OutputFile\n"
        "ending._UNTIL_HANDLED = ending._UNTIL_UNWOUND = 300\n"
        "def profile(frame, event, _):\n"
        "    if frame.f_code is OutputFile.seek.__code__:\n"
        "        sys.setprofile(None)\n"
        f"        signal.raise_signal({number:d})\n"
        "sys.setprofile(profile)\n"
        "cli.main()\n"
    )
    nibabel.Nifti1Image(np.zeros((8, 8, 4, 6), "i2"), np.eye(4)).to_filename(tmp_path / "a.nii")
    arguments = "convert", str(tmp_path / "a.nii"), str(tmp_path / "a.h5")
    result = _run_interrupted(program, *arguments)
    assert result.returncode == code, result
    # The file was finished if there was little left to write, and is whole then.
    assert {path.name for path in tmp_path.iterdir()} <= {"a.nii", "a.h5"}
    if (tmp_path / "a.h5").exists():
        assert fs.verify(tmp_path / "a.h5", deep=True).ok


@pytest.mark.skipif(os.name == "nt", reason="signals of POSIX")
@pytest.mark.parametrize("name", ["new.h5", "new.ome.zarr"])
@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)], ids=["Ctrl-C", "terminated"]
)
def test_interruption_leaves_nothing(
    tmp_path: Path, name: str, number: signal.Signals, code: int
) -> None:
    source = tmp_path / "run.nii"
    header = nibabel.Nifti1Header()
    header.set_data_dtype(np.int16)
    header.set_data_shape((64, 64, 40, 8000))
    header["vox_offset"], header["magic"] = 352, b"n+1"
    source.write_bytes(header.binaryblock + bytes(4))
    os.truncate(source, 352 + 64 * 64 * 40 * 8000 * 2)  # takes long to read, and no disk
    folder = tmp_path / "out"
    folder.mkdir()
    program = (
        "from fmristore import cli\n"
        "from fmristore.cli import ending\n"
        "ending._UNTIL_HANDLED = ending._UNTIL_UNWOUND = 300\n"
        "cli.main()\n"
    )
    command = [sys.executable, "-c", program, "convert", str(source), str(folder / name)]
    with subprocess.Popen(
        [*command, "--codec", "portable"],
        stderr=subprocess.PIPE,
        preexec_fn=_with_usual_signals,  # noqa: PLW1509 - nothing else runs here
    ) as process:
        while not any(folder.iterdir()) and process.poll() is None:
            time.sleep(0.005)
        process.send_signal(number)
        _, told = process.communicate(timeout=300)
    assert process.returncode == code
    assert list(folder.iterdir()) == []
    said = [line for line in told.splitlines() if not line.startswith(b"warning: ")]
    assert said == ([b"error: interrupted"] if code == 130 else [])


# Parsing -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("4096", 4096),
        ("512MB", 512_000_000),
        ("512 mb", 512_000_000),
        ("2GiB", 2 << 30),
        ("2gib", 2 << 30),
        ("1e9", 10**9),
        ("1.5k", 1500),
        ("1.5KiB", 1536),
        ("3T", 3 * 10**12),
        ("7B", 7),
    ],
)
def test_sizes(text: str, size: int) -> None:
    assert parse_size(text) == size


@pytest.mark.parametrize("text", ["", "MB", "-1", "0", "1e", "1ee9", "nan", "5 PB", "1e999", "1_0"])
def test_no_sizes(text: str) -> None:
    with pytest.raises(typer.BadParameter):
        parse_size(text)


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (0, "0 B"),
        (1023, "1023 B"),
        (1024, "1.0 KiB"),
        (1536 * 1024, "1.5 MiB"),
        (5 << 40, "5.0 TiB"),
        (3 << 50, "3072.0 TiB"),
    ],
)
def test_size_text(count: int, text: str) -> None:
    assert size_text(count) == text


@pytest.mark.parametrize(
    ("text", "index"),
    [
        ("[..., 10]", np.s_[..., 10]),
        ("...,10", np.s_[..., 10]),
        ("[32,40, 20]", np.s_[32, 40, 20]),
        (" [ -1 ] ", np.s_[-1]),
        ("3,", np.s_[3,]),
        ("[:, 1:2, ::-1, -5:]", np.s_[:, 1:2, ::-1, -5:]),
        ("1 : 10 : 2", np.s_[1:10:2]),
        ("...", np.s_[...]),
        (":", np.s_[:]),
    ],
)
def test_selections(text: str, index: Any) -> None:
    assert parse_selection_text(text) == index


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        ",",
        "1,,2",
        "a",
        "1.5",
        "1:2:3:4",
        "[1",
        "True",
        "None",
        "[[1]]",
        "9" * 5000,
        "\u0661",
    ],
)
def test_no_selections(text: str) -> None:
    with pytest.raises(typer.BadParameter):
        parse_selection_text(text)


def test_options() -> None:
    found = parse_options(["anon=true", "key=a=b", 'client_kwargs={"x": 1}', 'n="5"', "e="])
    assert found == {"anon": True, "key": "a=b", "client_kwargs": {"x": 1}, "n": "5", "e": ""}
    with pytest.raises(typer.BadParameter):
        parse_options(["=1"])
