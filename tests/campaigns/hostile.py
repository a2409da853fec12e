"""Crafted files that try to do harm: each is opened, read, verified and copied in a child.

Right is one of our errors, or the values of the file itself, within the limits; never what lies
outside of it, and no code of its own.
"""

from __future__ import annotations

import base64
import gzip
import http.server
import json
import os
import pickle
import re
import shutil
import struct
import threading
import warnings
import zlib
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import h5py
import nibabel as untyped_nibabel
import numpy as np

import fmristore as fs
from tests.campaigns.children import Limits, in_child
from tests.campaigns.operations import AFFINE, FORMATS, GRID, MASK, RUN, SHAPE, values_in
from tests.campaigns.outcomes import Outcome, Result
from tests.campaigns.workshop import Options, outcome_of, room

nibabel: Any = untyped_nibabel

__all__ = ["run"]

_LIMITS = Limits(seconds=30, growth=200 << 20)
_BOMB = 1 << 29
"""Bytes that some of them become when they are decompressed."""
_SECRET = 31337
"""In every value of what lies outside."""

_CASES: dict[str, Callable[[Path], Path]] = {}


def _case(make: Callable[[Path], Path]) -> Callable[[Path], Path]:
    """Put a case into the table, under the name of its function."""
    _CASES[make.__name__.strip("_").replace("_", " ")] = make
    return make


# What they are made of ---------------------------------------------------------------------------


def _h5(folder: Path, name: str = "neurovec", **options: Any) -> Path:
    path = folder / "x.h5"
    FORMATS[name].make(path, RUN, **options).close()
    return path


def _zarr(folder: Path, name: str = "neurovec") -> Path:
    path = folder / "x.zarr"
    FORMATS[name].make(path, RUN).close()
    return path


def _outside(folder: Path) -> Path:
    """Data that no hostile file may reach."""
    (folder / "outside").mkdir(exist_ok=True)
    path = folder / "outside" / "secret.bin"
    path.write_bytes(np.full(1 << 16, _SECRET, "<i2").tobytes())
    return path


def _image_array(path: Path) -> Path:
    """Folder of the array with the image in a Zarr store."""
    return path / "0"


def _edit(document: Path, **fields: Any) -> None:
    """Replace fields of a document, and forget the copy of it in the root."""
    document.write_text(json.dumps(json.loads(document.read_text()) | fields))
    root = document.parents[1] / "zarr.json"
    if root.exists() and root != document:
        found = json.loads(root.read_text())
        found.pop("consolidated_metadata", None)
        root.write_text(json.dumps(found))


def _replace_dataset(path: Path, make: Callable[[h5py.File, str], Any], name: str = "0") -> Path:
    """Put another dataset in the place of one, with its attributes and the names of its axes."""
    with h5py.File(path, "r+") as file:
        old = file[name]
        labels = [dim.label for dim in old.dims]
        kept = {
            key: value
            for key, value in old.attrs.items()
            if key not in ("DIMENSION_LIST", "DIMENSION_LABELS")
        }
        file.move(name, "former")
        made = make(file, name)
        if made is not None:
            for key, value in kept.items():
                made.attrs[key] = value
            for axis, label in enumerate(labels):
                made.dims[axis].label = label
        del file["former"]
    return path


class _Payload:
    """Makes a file when it is unpickled."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> Any:
        return Path.touch, (self.marker,)


def _reference(folder: Path, **changed: Any) -> Path:
    path = _h5(folder)
    fs.virtualize(path, folder / "x.json")
    document = json.loads((folder / "x.json").read_text())
    document["refs"].update(changed)
    (folder / "x.json").write_text(json.dumps(document))
    return folder / "x.json"


def _chunk_of_reference(folder: Path, value: Any) -> Path:
    """A reference file whose chunks of the image are something else."""
    path = _reference(folder)
    document = json.loads(path.read_text())
    for key in document["refs"]:
        if re.fullmatch(r"0/[\d.]+", key):
            document["refs"][key] = value
    path.write_text(json.dumps(document))
    return path


# Links -------------------------------------------------------------------------------------------


@_case
def _hdf5_external_link(folder: Path) -> Path:
    with h5py.File(folder / "other.h5", "w") as file:
        file["0"] = np.full(SHAPE[::-1], _SECRET, "i2")

    def link(file: h5py.File, name: str) -> None:
        file[name] = h5py.ExternalLink(str(folder / "other.h5"), "/0")

    return _replace_dataset(_h5(folder), link)


@_case
def _hdf5_external_storage(folder: Path) -> Path:
    secret = _outside(folder)

    def store(file: h5py.File, name: str) -> Any:
        old = file["former"]
        places = [(str(secret), 0, h5py.h5f.UNLIMITED)]
        return file.create_dataset(name, old.shape, old.dtype, external=places)

    return _replace_dataset(_h5(folder), store)


@_case
def _hdf5_virtual_dataset(folder: Path) -> Path:
    with h5py.File(folder / "other.h5", "w") as file:
        file["0"] = np.full((SHAPE[3], *SHAPE[2::-1]), _SECRET, "i2")

    def view(file: h5py.File, name: str) -> Any:
        shape = file["former"].shape
        layout = h5py.VirtualLayout(shape, "i2")
        layout[:] = h5py.VirtualSource(str(folder / "other.h5"), "0", shape)
        return file.create_virtual_dataset(name, layout)

    return _replace_dataset(_h5(folder), view)


@_case
def _hdf5_cycle_of_groups(folder: Path) -> Path:
    path = _h5(folder)
    with h5py.File(path, "r+") as file:
        file["a/b"] = h5py.SoftLink("/a")
        file["a/c"] = file["/"]
    return path


@_case
def _hdf5_doubling_links(folder: Path) -> Path:
    path = _h5(folder)
    with h5py.File(path, "r+") as file:
        group = file.create_group("g0")
        for number in range(1, 40):
            further = file.create_group(f"g{number}")
            group["l"] = group["r"] = further
            group = further
    return path


@_case
def _hdf5_deep_groups(folder: Path) -> Path:
    path = _h5(folder)
    with h5py.File(path, "r+") as file:
        group: Any = file
        for _ in range(400):
            group = group.create_group("g")
    return path


@_case
def _zarr_chunk_is_a_link(folder: Path) -> Path:
    path, secret = _zarr(folder), _outside(folder)
    for chunk in [p for p in (path / "0" / "c").rglob("*") if p.is_file()]:
        chunk.unlink()
        chunk.symlink_to(secret)
    return path


@_case
def _zarr_document_is_a_link(folder: Path) -> Path:
    path = _zarr(folder)
    shutil.move(path / "0" / "zarr.json", folder / "document")
    (path / "0" / "zarr.json").symlink_to(folder / "document")
    return path


@_case
def _zarr_group_is_a_link_to_itself(folder: Path) -> Path:
    path = _zarr(folder)
    (path / "again").symlink_to(path)
    return path


# Names that lead elsewhere -----------------------------------------------------------------------


@_case
def _zarr_name_with_dots(folder: Path) -> Path:
    path = _zarr(folder)
    _outside(folder)
    root = json.loads((path / "zarr.json").read_text())
    nodes = root["consolidated_metadata"]["metadata"]
    nodes["../outside"] = nodes["0/../../outside"] = nodes["0"]
    (path / "zarr.json").write_text(json.dumps(root))
    return path


@_case
def _scan_name_with_dots(folder: Path) -> Path:
    path = _zarr(folder, "parcellatedmultiscan")
    text = (path / "zarr.json").read_text().replace('"rest"', '"../../outside"')
    (path / "zarr.json").write_text(text)
    return path


@_case
def _reference_to_a_file_above(folder: Path) -> Path:
    _outside(folder)
    (folder / "in").mkdir()
    return _chunk_of_reference(folder / "in", ["../outside/secret.bin", 0, 200])


@_case
def _reference_to_an_absolute_path(folder: Path) -> Path:
    secret = _outside(folder)
    (folder / "in").mkdir()
    return _chunk_of_reference(folder / "in", [f"file://{secret}", 0, 200])


@_case
def _reference_through_a_chain(folder: Path) -> Path:
    secret = _outside(folder)
    (folder / "in").mkdir()
    return _chunk_of_reference(folder / "in", [f"simplecache::file://{secret}", 0, 200])


@_case
def _reference_past_the_end(folder: Path) -> Path:
    return _chunk_of_reference(folder, ["x.h5", 2**62, 2**40])


@_case
def _reference_before_the_start(folder: Path) -> Path:
    return _chunk_of_reference(folder, ["x.h5", -100, 200])


@_case
def _reference_to_itself(folder: Path) -> Path:
    return _chunk_of_reference(folder, ["x.json", 0, 100])


@_case
def _reference_generator_bomb(folder: Path) -> Path:
    path = _reference(folder)
    document = json.loads(path.read_text())
    ranges = {"i": {"stop": 10**6}, "j": {"stop": 10**6}}
    document["gen"] = [{"key": "0/c/{{i}}", "url": "x.h5", "dimensions": ranges}]
    path.write_text(json.dumps(document))
    return path


@_case
def _reference_template_code(folder: Path) -> Path:
    path = _reference(folder)
    document = json.loads(path.read_text())
    code = "{{ ''.__class__.__mro__[1].__subclasses__() }}"
    document["templates"] = {"u": code}
    path.write_text(json.dumps(document))
    return path


@_case
def _reference_to_a_pipe(folder: Path) -> Path:
    os.mkfifo(folder / "pipe")
    return _chunk_of_reference(folder, ["pipe", 0, 100])


@_case
def _reference_redirected(folder: Path) -> Path:
    """Served by a server that sends every reader of the target to another one."""
    path = _chunk_of_reference(folder, ["target.bin", 0, 200])
    inner = _serve(lambda asked: (200, {}, _outside(folder).read_bytes()))
    document = path.read_bytes()

    def answer(asked: str) -> tuple[int, dict[str, str], bytes]:
        if asked.endswith(".json"):
            return 200, {}, document
        return 302, {"Location": f"http://localhost:{inner}/secret"}, b""

    return Path(f"http://127.0.0.1:{_serve(answer)}/x.json")


def _serve(answer: Callable[[str], tuple[int, dict[str, str], bytes]]) -> int:
    """Start a web server for as long as this process lives, and return its port."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            status, headers, body = answer(self.path)
            asked = re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers.get("Range", ""))
            if asked and status == 200:
                first, last = int(asked[1]), min(int(asked[2]), len(body) - 1)
                headers = {"Content-Range": f"bytes {first}-{last}/{len(body)}"}
                status, body = 206, body[first : last + 1]
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(body)

        def do_HEAD(self) -> None:
            self.do_GET()

        def log_message(self, *arguments: Any) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return int(server.server_address[1])


# Code --------------------------------------------------------------------------------------------


@_case
def _zarr_pickle_codec(folder: Path) -> Path:
    path = _zarr(folder)
    codecs = [{"name": "numcodecs.pickle", "configuration": {"protocol": 5}}]
    _edit(_image_array(path) / "zarr.json", codecs=codecs)
    for chunk in [p for p in (path / "0" / "c").rglob("*") if p.is_file()]:
        chunk.write_bytes(pickle.dumps(_Payload(folder / "escaped")))
    return path


@_case
def _zarr_2_pickle_objects(folder: Path) -> Path:
    path = folder / "x.zarr"
    path.mkdir()
    array = {"zarr_format": 2, "shape": [2], "chunks": [2], "dtype": "|O", "fill_value": None}
    array |= {"order": "C", "compressor": None, "filters": [{"id": "pickle", "protocol": 5}]}
    (path / "labels").mkdir()
    (path / ".zgroup").write_text('{"zarr_format": 2}')
    (path / "labels" / ".zarray").write_text(json.dumps(array))
    (path / "labels" / "0").write_bytes(pickle.dumps(_Payload(folder / "escaped")))
    return path


@_case
def _reference_with_a_pickle(folder: Path) -> Path:
    content = base64.b64encode(pickle.dumps(_Payload(folder / "escaped"))).decode()
    return _chunk_of_reference(folder, f"base64:{content}")


# Bombs -------------------------------------------------------------------------------------------


def _text_chunk(folder: Path, count: int) -> Path:
    path = _zarr(folder, "labeledvolumeset")
    chunk = next(p for p in (path / "labels" / "c").rglob("*") if p.is_file())
    chunk.write_bytes(struct.pack("<I", count) + chunk.read_bytes()[4:] + bytes(12))
    return path


_CASES["text chunk that claims 2**29 texts"] = partial(_text_chunk, count=2**29)
_CASES["text chunk that claims 2**31 texts"] = partial(_text_chunk, count=2**31 - 1)


@_case
def _text_chunk_with_a_long_text(folder: Path) -> Path:
    path = _zarr(folder, "labeledvolumeset")
    chunk = next(p for p in (path / "labels" / "c").rglob("*") if p.is_file())
    chunk.write_bytes(struct.pack("<II", 2, 2**31 - 1) + b"abc")
    return path


@_case
def _hdf5_deflate_bomb(folder: Path) -> Path:
    def bomb(file: h5py.File, name: str) -> Any:
        shape = file["former"].shape
        made = file.create_dataset(name, shape, "i2", chunks=shape, compression="gzip")
        made.id.write_direct_chunk((0,) * len(shape), zlib.compress(bytes(_BOMB), 1))
        return made

    return _replace_dataset(_h5(folder), bomb)


@_case
def _hdf5_chunk_that_promises_gigabytes(folder: Path) -> Path:
    def promise(file: h5py.File, name: str) -> Any:
        shape = tuple(2000 if n > 3 else n for n in file["former"].shape)
        made = file.create_dataset(name, shape, "i2", chunks=(1, 1, 2000, 2000), compression="gzip")
        made.id.write_direct_chunk((0,) * len(shape), zlib.compress(bytes(1000)))
        return made

    return _replace_dataset(_h5(folder), promise)


@_case
def _zarr_chunk_bomb(folder: Path) -> Path:
    path = _zarr(folder)
    codecs = [
        {"name": "bytes", "configuration": {"endian": "little"}},
        {"name": "gzip", "configuration": {"level": 1}},
    ]
    _edit(_image_array(path) / "zarr.json", codecs=codecs)
    content = gzip.compress(bytes(_BOMB), 1)
    for chunk in [p for p in (path / "0" / "c").rglob("*") if p.is_file()]:
        chunk.write_bytes(content)
    return path


@_case
def _blosc_that_lies_about_its_size(folder: Path) -> Path:
    path = _zarr(folder)
    for chunk in [p for p in (path / "0" / "c").rglob("*") if p.is_file()]:
        content = bytearray(chunk.read_bytes())
        content[4:8] = struct.pack("<I", 2**31 - 1)
        chunk.write_bytes(content)
    return path


@_case
def _gzip_bomb_behind_a_small_header(folder: Path) -> Path:
    image = nibabel.Nifti1Image(RUN, AFFINE).to_bytes()
    path = folder / "x.nii.gz"
    path.write_bytes(gzip.compress(image, 1) + gzip.compress(bytes(_BOMB), 1))
    return path


@_case
def _nifti_extension_bomb(folder: Path) -> Path:
    content = bytearray(nibabel.Nifti1Image(RUN, AFFINE).to_bytes())
    struct.pack_into("<f", content, 108, 2.0**30)
    content[348:352] = b"\1\0\0\0"
    struct.pack_into("<ii", content, 352, 2**30, 4)
    path = folder / "x.nii"
    path.write_bytes(content)
    return path


@_case
def _nifti_huge_dimensions(folder: Path) -> Path:
    content = bytearray(nibabel.Nifti1Image(RUN, AFFINE).to_bytes())
    struct.pack_into("<5h", content, 40, 4, 32767, 32767, 32767, 32767)
    path = folder / "x.nii"
    path.write_bytes(content)
    return path


@_case
def _huge_root_document(folder: Path) -> Path:
    path = _zarr(folder)
    document = path / "zarr.json"
    text = document.read_text().rstrip().removesuffix("}")
    with document.open("w") as file:  # in pieces, for the memory of this process is watched
        file.write(f'{text}, "x": "')
        file.writelines("y" * (1 << 20) for _ in range(100))
        file.write('"}')
    return path


@_case
def _long_label_table(folder: Path) -> Path:
    path = folder / "x.tsv"
    with path.open("w") as file:
        file.write("index\tname\n")
        file.writelines(f"{i}\tregion {i}\n" for i in range(2_000_000))
    return path


# Shapes ------------------------------------------------------------------------------------------


def _reshaped(folder: Path, shape: list[Any], chunk: list[Any] | None = None) -> Path:
    path = _zarr(folder)
    fields: dict[str, Any] = {"shape": shape}
    if chunk is not None:
        fields["chunk_grid"] = {"name": "regular", "configuration": {"chunk_shape": chunk}}
    _edit(_image_array(path) / "zarr.json", **fields)
    return path


_SHAPES: dict[str, tuple[list[Any], list[Any] | None]] = {
    "negative shape": ([-1] * 4, None),
    "shape of 2**62": ([2**62] * 4, None),
    "chunks of nothing": ([12, 4, 5, 6], [0] * 4),
    "chunks of gigabytes": ([12, 4, 5, 6], [10**4] * 4),
    "a million chunks": ([2000] * 4, [1] * 4),
    "empty": ([0, 4, 5, 6], None),
    "no axes": ([], []),
    "forty axes": ([1] * 40, [1] * 40),
    "texts for values": (["12", "4", "5", "6"], None),
}
_CASES |= {
    f"zarr with {name}": partial(_reshaped, shape=shape, chunk=chunk)
    for name, (shape, chunk) in _SHAPES.items()
}


@_case
def _hdf5_huge_shape(folder: Path) -> Path:
    def huge(file: h5py.File, name: str) -> Any:
        return file.create_dataset(name, (2000,) * 4, "i2", chunks=(8,) * 4)

    return _replace_dataset(_h5(folder), huge)


@_case
def _hdf5_huge_affine(folder: Path) -> Path:
    """An array, as of format 1.1."""
    path = _h5(folder)
    with h5py.File(path, "r+") as file:
        del file.attrs["affine"]
        file.create_dataset("affine", (2**20, 2**20), "f8", chunks=(4, 4))
    return path


# Documents ---------------------------------------------------------------------------------------

_DOCUMENTS = {
    "deep": b"[" * 200_000,
    "deep attributes": b'{"zarr_format":3,"node_type":"group","attributes":'
    + b'{"a":' * 20_000 + b"1" + b"}" * 20_001,
    "not a number": b'{"zarr_format":3,"node_type":"group","attributes":{"a":NaN,"b":-Infinity}}',
    "5000 digits": b'{"zarr_format":3,"node_type":"group","attributes":{"a":' + b"9" * 5000 + b"}}",
    "a lone surrogate": b'{"zarr_format":3,"node_type":"group","attributes":{"a":"\\ud800"}}',
    "a thousand keys": json.dumps(
        {"zarr_format": 3, "node_type": "group", "attributes": {str(i): i for i in range(10**5)}}
    ).encode(),
}  # fmt: skip


def _with_document(folder: Path, content: bytes) -> Path:
    path = _zarr(folder)
    (path / "zarr.json").write_bytes(content)
    return path


_CASES |= {
    f"zarr document: {name}": partial(_with_document, content=content)
    for name, content in _DOCUMENTS.items()
}


@_case
def _shards_in_shards(folder: Path) -> Path:
    path = _zarr(folder)
    codecs: list[dict[str, Any]] = [{"name": "bytes", "configuration": {"endian": "little"}}]
    for _ in range(300):
        inner = {"chunk_shape": [1] * 4, "codecs": codecs, "index_codecs": [{"name": "bytes"}]}
        codecs = [{"name": "sharding_indexed", "configuration": inner}]
    _edit(_image_array(path) / "zarr.json", codecs=codecs)
    return path


@_case
def _shard_index_out_of_bounds(folder: Path) -> Path:
    path = _zarr(folder)
    inner = {
        "chunk_shape": [12, 4, 5, 6],
        "codecs": [{"name": "bytes", "configuration": {"endian": "little"}}],
        "index_codecs": [{"name": "bytes", "configuration": {"endian": "little"}}],
    }
    codecs = [{"name": "sharding_indexed", "configuration": inner}]
    _edit(_image_array(path) / "zarr.json", codecs=codecs)
    for chunk in [p for p in (path / "0" / "c").rglob("*") if p.is_file()]:
        chunk.write_bytes(bytes(2880) + struct.pack("<QQ", 2**62, 2**40))
    return path


@_case
def _hdf5_heap_that_never_ends(folder: Path) -> Path:
    """A global heap whose free space has no length, at which libhdf5 would turn for ever."""
    path = folder / "x.h5"
    with h5py.File(path, "w") as file:
        file.attrs["text"] = ["one", "two", "three"]
    content = bytearray(path.read_bytes())
    start = content.find(b"GCOL")
    end = start + struct.unpack_from("<Q", content, start + 8)[0]
    place = start + 16
    while place + 16 <= end:
        index, length = struct.unpack_from("<H6xQ", content, place)
        if index == 0:
            struct.pack_into("<Q", content, place + 8, 0)
            break
        place += 16 + (length + 7) // 8 * 8
    path.write_bytes(content)
    return path


# Things that are no files ------------------------------------------------------------------------


def _pipe(folder: Path, name: str) -> Path:
    os.mkfifo(folder / name)
    return folder / name


_CASES |= {f"pipe {name}": partial(_pipe, name=name) for name in ("x.nii", "x.h5", "x.json")}


@_case
def _device(folder: Path) -> Path:
    (folder / "x.nii").symlink_to("/dev/zero")
    return folder / "x.nii"


@_case
def _zarr_chunk_is_a_pipe(folder: Path) -> Path:
    path = _zarr(folder)
    for chunk in [p for p in (path / "0" / "c").rglob("*") if p.is_file()]:
        chunk.unlink()
        os.mkfifo(chunk)
    return path


@_case
def _escapes_in_names(folder: Path) -> Path:
    path = folder / "x.zarr"
    name = "\x1b]0;owned\x07\r\nok: all is well <script>"
    maps = {name: RUN[..., 0]}
    fs.LabeledVolumeSet.create(maps, path, mask=MASK, space=GRID).close()
    return path


# Trials ------------------------------------------------------------------------------------------


def run(options: Options) -> Iterator[Result]:
    """Every case, whatever the seed."""
    names = [options.only] if options.only else list(_CASES)[: options.trials]
    for name in names:
        with room() as folder:
            ended = in_child(partial(_trial, _CASES[name], folder), _LIMITS)
        outcome, detail = outcome_of(ended) or ended.value
        kind = name.split(" ", maxsplit=1)[0]
        yield Result(kind, name, outcome, detail)


def _trial(make: Callable[[Path], Path], folder: Path) -> tuple[Outcome, str]:
    path = make(folder)
    text = str(path).replace("http:/127", "http://127")
    outcomes: list[str] = []
    values: list[Any] = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for work in _works(text, folder):
            try:
                values.append(work())
            except fs.errors.FmristoreError as error:
                outcomes.append(f"{type(error).__name__}: {error}")
    if (folder / "escaped").exists():
        return Outcome.ESCAPED, "code of the file ran"
    if any(_holds_secret(found) for found in values):
        return Outcome.ESCAPED, "values of another file were read"
    if any("\x1b" in found for found in [*values, *outcomes] if isinstance(found, str)):
        return Outcome.ESCAPED, "escape sequences of the file are printed"
    return (Outcome.OUR_ERROR, "; ".join(outcomes)) if outcomes else (Outcome.RIGHT, "")


def _holds_secret(found: Any) -> bool:
    return isinstance(found, dict) and any((np.asarray(v) == _SECRET).any() for v in found.values())


def _works(url: str, folder: Path) -> Iterator[Callable[[], Any]]:
    """What a user may do to a file."""
    labels = np.ones(SHAPE[:3], np.int32)
    if url.endswith(".tsv"):
        yield lambda: fs.Parcellation.from_labels(labels, names=url, space=AFFINE)
        return
    if ".nii" in url:
        yield lambda: fs.convert(url, folder / "out.h5")
        yield lambda: fs.parcellate(RUN, url, folder / "out2.h5", space=AFFINE).close()
        return
    yield partial(_read, url)
    yield lambda: str(fs.verify(url, deep=True))
    yield lambda: str(fs.transcode(url, folder / "out.zarr"))
    yield partial(_read, str(folder / "out.zarr"))
    yield lambda: str(fs.virtualize(url, folder / "out.json"))
    yield lambda: fs.convert(url, folder / "out.h5")


def _read(url: str) -> Any:
    with fs.open(url) as found:
        text = f"{found!r} {found._repr_html_()}"
        json.dumps(found.describe())
        values = dict(values_in(found))
    return text if "\x1b" in text else values
