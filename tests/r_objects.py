"""R objects as R's ``serialize`` writes them (XDR, version 3), for tests."""

from __future__ import annotations

import hashlib
import struct
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from fmristore.formats.r.serialised import RValue

HEADER = b"X\n" + struct.pack(">iiii", 3, 0x40202, 0x30500, 5) + b"UTF-8"
_KINDS = {"logical": 10, "integer": 13, "double": 14, "text": 16, "list": 19}
_TYPES = {"logical": ">i4", "integer": ">i4", "double": ">f8"}


def r_value(value: Any, **attributes: Any) -> RValue | None:
    """A value of R's: lists with names of mappings, vectors of numbers, texts and lists of them."""
    if value is None or isinstance(value, RValue):
        return value
    known = {name: r_value(one) for name, one in attributes.items()}
    if isinstance(value, dict):
        names = {"names": r_value(list(value))} if value else {}
        return RValue("list", [r_value(one) for one in value.values()], names | known)
    if isinstance(value, str) or (isinstance(value, list) and isinstance(value[0], str)):
        return RValue("text", [value] if isinstance(value, str) else value, known)
    array = np.asarray(value)
    kind = {"b": "logical", "i": "integer", "f": "double"}[array.dtype.kind]
    if array.ndim == 2:
        known["dim"] = r_value(list(array.shape))
    return RValue(kind, array.flatten(order="F"), known)


def data_frame(columns: dict[str, Any]) -> RValue:
    """A data frame."""
    count = len(next(iter(columns.values())))
    found = r_value(columns)
    assert found is not None
    rows = {"class": r_value("data.frame"), "row.names": r_value([-(2**31), -count])}
    return RValue("list", found.data, found.attributes | rows)


def serialise(value: RValue | None) -> bytes:
    """All of a stream."""
    return HEADER + _item(value, [])


def _item(value: RValue | None, symbols: list[str]) -> bytes:
    if value is None:
        return _integers(254)
    attributes = {name: one for name, one in value.attributes.items() if one is not None}
    flags = _KINDS[value.kind] | 0x200 * bool(attributes) | 0x100 * ("class" in attributes)
    parts = [_integers(flags, len(value.data))]
    if value.kind == "list":
        parts += [_item(one, symbols) for one in value.data]
    elif value.kind == "text":
        parts += [_characters(one) for one in value.data]
    else:
        parts.append(np.asarray(value.data).astype(_TYPES[value.kind]).tobytes())
    for name, one in attributes.items():
        parts += [_integers(0x402), _symbol(name, symbols), _item(one, symbols)]
    return b"".join(parts) + (_integers(254) if attributes else b"")


def _symbol(name: str, symbols: list[str]) -> bytes:
    if name in symbols:
        return _integers((symbols.index(name) + 1) << 8 | 255)
    symbols.append(name)
    return _integers(1) + _characters(name)


def _characters(text: str | None) -> bytes:
    if text is None:
        return _integers(9, -1)
    raw = text.encode()
    return _integers(0x40009 if text.isascii() else 0x8009, len(raw)) + raw


def _integers(*values: int) -> bytes:
    return struct.pack(f">{len(values)}i", *values)


def write_manifests(path: Path, semantic: RValue, storage: dict[str, Any]) -> None:
    """Put manifests into the file of a frame, with the digest that R would make."""
    stream = serialise(semantic)
    digest = hashlib.sha256(stream[len(HEADER) :]).hexdigest()
    again = r_value(storage | {"semantic_digest": digest})
    with h5py.File(path, "a") as file:
        for name, data in (("semantic_rds", stream), ("storage_rds", serialise(again))):
            file.pop(f"manifest/{name}", None)
            file[f"manifest/{name}"] = np.frombuffer(data, "u1").astype("i4")
        file.attrs["fds_semantic_digest"] = digest


def write_frame(path: Path, arrays: dict[str, Any], **changes: Any) -> Path:
    """Write a frame of assays (observations x voxels), as R does.

    Parameters
    ----------
    path : Path
        New file.
    arrays : dict of str to ndarray
        Values by name of the assay; other arrays have a slash in their name.
    **changes
        Fields of the manifest; ``space`` and ``observations`` are those of the axes.
    """
    first = next(iter(arrays.values()))
    count, voxels = first.shape
    space: dict[str, Any] = {
        "dim": [3, 4, 5],
        "affine": np.diag([2.0, 3.0, 4.0, 1.0]),
        "support": list(range(1, voxels + 1)),
        "template": "somewhere",
        "units": "mm",
        "metadata": {},
        "schema_version": 1,
    } | changes.pop("space", {})
    kind = space.pop("class", ["volume_space", "feature_space"])
    ids = [f"o{n}" for n in range(count)]
    table = {".obs_id": ids} | changes.pop("observations", {})
    features = [f"voxel-{n}" for n in np.asarray(space["support"]).tolist()]
    about, places = {}, {}
    for number, (name, values) in enumerate(arrays.items(), 1):
        key = name if "/" in name else f"assays/{name}"
        said = {"key": key, "shape": list(values.shape), "dtype": str(values.dtype)}
        second = "feature" if "/" not in name else "component"
        about[key] = said | {"axes": ["observation", second]}
        places[key] = said | {"dataset": f"/arrays/a{number:06d}"}
    assays = [name for name in arrays if "/" not in name]
    manifest = {
        "schema": {"id": "org.fmridataset.fds/v1", "version": 1, "object_types": "fmri_frame"},
        "object_type": "fmri_frame",
        "shape": [count, voxels],
        "axes": {
            "observation": {
                "ids": ids,
                "id_column": ".obs_id",
                "data": data_frame(table),
                "blocks": changes.pop("blocks", {}),
                "metadata": {},
            },
            "feature": {
                "ids": features,
                "id_column": ".feature_id",
                "data": data_frame({".feature_id": features} | changes.pop("features", {})),
                "blocks": {},
                "metadata": {},
                "space": r_value(space, **{"class": kind}),
            },
        },
        "arrays": about,
        "assays": {
            n: {
                "name": n,
                "dtype": str(arrays[n].dtype),
                "role": None,
                "units": None,
                "metadata": {},
            }
            for n in assays
        },
        **{n: {} for n in ("entities", "relations", "tables")},
        "active_assay": assays[0],
        **{n: {} for n in ("metadata", "provenance", "extensions")},
    }
    with h5py.File(path, "w") as file:
        file.attrs["fds_schema_id"] = np.array(["org.fmridataset.fds/v1"], object)
        file.attrs["fds_schema_version"] = np.array([1], "i4")
        file.attrs["fds_object_type"], file.attrs["fds_commit_state"] = "fmri_frame", "complete"
        for name, values in arrays.items():
            key = name if "/" in name else f"assays/{name}"
            file.create_dataset(places[key]["dataset"], data=values.T, chunks=True)
    semantic = r_value(manifest | changes)
    assert semantic is not None
    write_manifests(path, semantic, {"arrays": places})
    return path
