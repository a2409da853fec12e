"""What a store is, holds and takes: facts for ``fmristore info``."""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from fmristore.formats.dense import DenseImage
from fmristore.formats.registry import FORMAT, VERSION, WRITER, find_format
from fmristore.text import size_text
from fmristore.transcoding.tree import Tree, walk
from fmristore_stores.errors import UnknownFormatError, UnsupportedVersionError
from fmristore_stores.location import filesystem, is_local
from fmristore_stores.opening import Handle, Locator, locate
from fmristore_stores.sources import storage_error
from fmristore_stores.spec import ArraySpec

__all__ = ["describe_image", "describe_store", "store_text"]

_MOST_CHUNKS = 1 << 20
"""Chunks that are counted one by one."""


def describe_store(url: str, storage_options: Mapping[str, Any]) -> dict[str, Any]:
    """Facts about a store and what it holds, as plain JSON values.

    Raises
    ------
    NotFoundError
        If there is nothing at `url`.
    FormatError
        If it is no store, or an image in it is damaged.
    """
    handle = Handle(locate(url, storage_options=storage_options), fresh=True)
    try:
        tree = walk(handle.store.root, tolerant=True)
        attributes = tree.groups.get("", {})
        files, stored = _files(handle.locator)
        document: dict[str, Any] = {
            "url": handle.locator.url,
            "container": handle.locator.kind,
            "format": attributes.get(FORMAT),
            "format_version": attributes.get(VERSION),
            "writer": attributes.get(WRITER),
            "files": files,
            "stored_bytes": stored,
            "note": None,
            "image": None,
            "arrays": [_array_facts(path, a.spec) for path, a in tree.arrays.items()],
            "groups": list(tree.groups),
            "links": [{"path": path, "target": target} for path, target in tree.links.items()],
            "unreadable": _unreadable(tree),
        }
        if FORMAT in attributes:
            try:
                cls = find_format(attributes, url=handle.locator.url)
            except (UnknownFormatError, UnsupportedVersionError) as error:
                document["note"] = error.message
            else:
                if issubclass(cls, DenseImage):
                    document["image"] = describe_image(cls(handle))
        return document
    finally:
        handle.close()


def describe_image(image: DenseImage) -> dict[str, Any]:
    """Facts about an image, as plain JSON values."""
    space = image.space
    return {
        "shape": list(image.shape),
        "dtype": _type_text(image.dtype),
        "stored_dtype": _type_text(image.stored_dtype),
        "slope": _number(image.slope),
        "intercept": _number(image.inter),
        "space": {
            "affine": space.affine.tolist(),
            "spacing_mm": list(space.spacing),
            "origin_mm": list(space.origin),
            "orientation": space.orientation,
            "tr_s": space.tr,
            "name": space.space_name,
            "unit": space.space_unit,
            "time_unit": space.time_unit,
        },
        "layout": _layout(image),
        "digest": image.digest,
    }


def _layout(image: DenseImage) -> dict[str, Any]:
    spec = image.spec
    layout = spec.layout
    count = math.prod(-(-n // c) for n, c in zip(spec.shape, layout.chunks, strict=True))
    cost = image.plan[...].cost if count <= _MOST_CHUNKS else None
    encoded = None if cost is None else cost.encoded_bytes
    return {
        "access": image.access,
        "axes": list(spec.dims),
        "chunks": list(layout.chunks),
        "shards": None if layout.shards is None else list(layout.shards),
        "order": [spec.dims[a] for a in layout.axes],
        "codecs": [str(codec) for codec in spec.codecs],
        "chunk_count": count,
        "chunks_missing": None if cost is None else cost.missing,
        "raw_bytes": spec.nbytes,
        "encoded_bytes": encoded,
        "ratio": spec.nbytes / encoded if encoded else None,
    }


def _array_facts(path: str, spec: ArraySpec) -> dict[str, Any]:
    return {
        "path": path,
        "shape": list(spec.shape),
        "dtype": "text" if spec.dtype.kind == "T" else str(spec.dtype),
        "axes": list(spec.dims),
        "chunks": list(spec.layout.chunks),
        "shards": None if spec.layout.shards is None else list(spec.layout.shards),
        "codecs": [str(codec) for codec in spec.codecs],
    }


def _unreadable(tree: Tree) -> list[dict[str, str]]:
    return [{"path": i.path, "kind": i.kind, "reason": i.reason} for i in tree.unreadable]


def _type_text(dtype: np.dtype[Any]) -> str:
    return "".join(dtype.names) if dtype.names else str(dtype)


def _number(value: Any) -> Any:
    return value.tolist() if isinstance(value, np.ndarray) else value


def _files(locator: Locator) -> tuple[int | None, int | None]:
    """Number of files or objects and their bytes; None where they cannot be listed."""
    url = locator.url
    if is_local(url):
        files = [Path(url)] if locator.kind == "hdf5" else _below(url)
        sizes = [path.lstat().st_size for path in files]
        return len(sizes), sum(sizes)
    fs, path = filesystem(url, locator.options)
    try:
        found = fs.find(path, detail=True) if locator.kind == "zarr" else {path: fs.info(path)}
    except NotImplementedError:
        return None, None
    except Exception as error:
        raise storage_error(error, url) from error
    sizes = [facts.get("size") or 0 for facts in found.values()]
    return (len(sizes), sum(sizes)) if sizes else (None, None)


def _below(folder: str) -> Iterable[Path]:
    return [Path(parent, name) for parent, _, names in os.walk(folder) for name in names]


# For people ----------------------------------------------------------------------------------


def store_text(document: Mapping[str, Any]) -> str:
    """Facts of `describe_store` in lines."""
    kind = {"hdf5": "HDF5", "zarr": "Zarr"}[document["container"]]
    files, stored = document["files"], document["stored_bytes"]
    size = "" if files is None else f", {files} file{'s' * (files != 1)}, {size_text(stored)}"
    rows = [("container", f"{kind}{size}")]
    if document["format"] is not None:
        version, writer = document["format_version"], document["writer"]
        rows.append(("format", f"{document['format']} {version}, written by {writer}"))
    if document["note"]:
        rows.append(("note", document["note"]))
    if document["image"] is not None:
        rows.extend(_image_rows(document["image"]))
    lines = [document["url"], *_aligned(rows)]
    if document["image"] is None:
        lines.extend(_tree_lines(document))
    lines.extend(f"  unreadable   /{i['path']}: {i['reason']}" for i in document["unreadable"])
    return "\n".join(lines)


def _aligned(rows: list[tuple[str, str]]) -> list[str]:
    return [f"  {name:<11}  {text}" for name, text in rows]


def _image_rows(image: Mapping[str, Any]) -> list[tuple[str, str]]:
    space, layout = image["space"], image["layout"]
    stored = image["stored_dtype"]
    dtype = image["dtype"]
    if image["slope"] is not None:
        factors = "each volume's own slope"
        if not isinstance(image["slope"], list):
            factors = f"{image['slope']:g}, plus {image['intercept']:g}"
        dtype = f"{dtype} (stored as {stored}, times {factors})"
    rows = [
        ("shape", _times(image["shape"])),
        ("dtype", dtype),
        ("spacing", f"{_times(f'{s:.4g}' for s in space['spacing_mm'])} mm"),
        ("orientation", space["orientation"]),
        ("TR", "unknown" if space["tr_s"] is None else f"{space['tr_s']:.6g} s"),
        *(
            ("affine" if number == 0 else "", "  ".join(f"{value:>10.4f}" for value in row))
            for number, row in enumerate(space["affine"][:3])
        ),
    ]
    if len(image["shape"]) == 3:
        rows = [row for row in rows if row[0] != "TR"]
    if space["name"]:
        rows.append(("space", space["name"]))
    return rows + _layout_rows(layout) + [("digest", image["digest"] or "none recorded")]


def _layout_rows(layout: Mapping[str, Any]) -> list[tuple[str, str]]:
    axes = layout["axes"]
    chunk = " ".join(f"{d}{n}" for d, n in zip(axes, layout["chunks"], strict=True))
    rows = [("layout", f"for {layout['access']}" if layout["access"] else "of another writer")]
    rows.append(("chunks", f"{layout['chunk_count']} of {chunk}"))
    if layout["chunks_missing"]:
        rows.append(("missing", f"{layout['chunks_missing']} chunks: the image is damaged"))
    if layout["shards"]:
        shard = " ".join(f"{d}{n}" for d, n in zip(axes, layout["shards"], strict=True))
        rows.append(("shards", f"of {shard}"))
    rows.append(("in chunks", f"{' '.join(layout['order'])}, the last one fastest"))
    rows.append(("codecs", " + ".join(layout["codecs"]) or "none"))
    size = f"{size_text(layout['raw_bytes'])} of numbers"
    if layout["encoded_bytes"]:
        size += f" in {size_text(layout['encoded_bytes'])}, ratio {layout['ratio']:.2f}"
    return [*rows, ("size", size)]


def _tree_lines(document: Mapping[str, Any]) -> list[str]:
    """Table of the arrays, groups and links of a store."""
    table = [("array", "shape", "dtype", "chunks", "codecs")]
    for array in document["arrays"]:
        axes = [d or "?" for d in array["axes"]]
        named = any(array["axes"])
        shape = _times(f"{d}{n}" if named else n for d, n in zip(axes, array["shape"], strict=True))
        codecs = " + ".join(array["codecs"])
        chunks = _times(array["chunks"])
        table.append((f"/{array['path']}", shape or "scalar", array["dtype"], chunks, codecs))
    widths = [max(len(row[column]) for row in table) for column in range(5)]
    lines = [
        "  " + "  ".join(f"{cell:<{w}}" for cell, w in zip(row, widths, strict=True)).rstrip()
        for row in table
    ]
    lines.extend(f"  /{link['path']} -> /{link['target']}" for link in document["links"])
    return lines


def _times(values: Iterable[Any]) -> str:
    return " x ".join(map(str, values))
