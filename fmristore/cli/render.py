"""Facts of `fmristore.cli.describe` in lines for people."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from fmristore.formats.base import access_text
from fmristore.planning.text import size_text
from fmristore_stores.shown import shown, shown_url

__all__ = ["store_text"]

_MOST_LINES = 20
"""Runs or scans that get a line each."""
_LONG = 60

Rows = list[tuple[str, str]]


def store_text(document: Mapping[str, Any]) -> str:
    """Facts of `describe_store` in lines."""
    kind = {"hdf5": "HDF5", "zarr": "Zarr", "reference": "references to HDF5"}[
        document["container"]
    ]
    files, stored = document["files"], document["stored_bytes"]
    size = "" if files is None else f", {files} file{'s' * (files != 1)}, {size_text(stored)}"
    rows = [("container", f"{kind}{size}")]
    if document["format"] is not None:
        version, writer = document["format_version"], document["writer"]
        name = " ".join(_shown(text) for text in (document["format"], version) if text)
        rows.append(("format", f"{name}, written by {_shown(writer)}"))
    if document["note"]:
        rows.append(("note", _shown(document["note"], 500)))
    content = document["content"]
    if content is not None:
        rows.extend(_content_rows(content))
    lines = [shown_url(document["url"]), *(f"  {name:<11}  {text}" for name, text in rows)]
    if content is None:
        lines.extend(_tree_lines(document))
    lines.extend(
        f"  unreadable   /{_shown(i['path'])}: {_shown(i['reason'], 500)}"
        for i in document["unreadable"]
    )
    return "\n".join(lines)


def _content_rows(content: Mapping[str, Any]) -> Rows:
    """Rows of a format's own description, in its order; where and how it lies comes last."""
    last = [key for key in ("layout", "sizes", "digest") if key in content]
    rows: Rows = []
    for key in (*(key for key in content if key not in last), *last):
        rows.extend(_WORDS.get(key, _other)(key, content))
    return rows


def _other(key: str, content: Mapping[str, Any]) -> Rows:
    """A fact that has no wording of its own."""
    value = content[key]
    if value is None:
        return []
    text = value if isinstance(value, str) else json.dumps(value)
    if isinstance(value, float):
        text = _short(value)
    return [(_shown(key).replace("_", " "), _shown(text))]


def _nothing(_: str, __: Mapping[str, Any]) -> Rows:
    return []


def _shape(_: str, content: Mapping[str, Any]) -> Rows:
    return [("shape", _times(content["shape"]))]


def _dtype(_: str, content: Mapping[str, Any]) -> Rows:
    text, slope = content["dtype"], content.get("slope")
    if slope is not None:
        factors = "each volume's own slope"
        if not isinstance(slope, list):
            factors = f"{_short(slope)}, plus {_short(content['intercept'])}"
        text += f" (stored as {content['stored_dtype']}, times {factors})"
    return [("dtype", text)]


def _space(_: str, content: Mapping[str, Any]) -> Rows:
    space = content["space"]
    grid = space["grid"]
    rows = [] if content.get("shape", [])[:3] == grid else [("grid", _times(grid))]
    rows += [
        ("spacing", f"{_times(f'{s:.4g}' for s in space['spacing_mm'])} mm"),
        ("orientation", space["orientation"]),
    ]
    if space["tr_s"] is not None:
        rows.append(("TR", f"{space['tr_s']:.6g} s"))
    elif space["time_points"] is not None and not _parts(content):
        rows.append(("TR", "unknown"))
    for number, row in enumerate(space["affine"][:3]):
        values = "  ".join(f"{value:>10.4f}" for value in row)
        rows.append(("affine" if number == 0 else "", values))
    return [*rows, ("space", _shown(space["name"]))] if space["name"] else rows


def _parts(content: Mapping[str, Any]) -> Sequence[Mapping[str, Any]]:
    found: Sequence[Mapping[str, Any]] = content.get("runs") or content.get("scans") or ()
    return found


def _listed(key: str, content: Mapping[str, Any]) -> Rows:
    """A line for each run or scan."""
    parts = content[key]
    rows = [(key if n == 0 else "", _part_text(p)) for n, p in enumerate(parts[:_MOST_LINES])]
    if len(parts) > _MOST_LINES:
        rows.append(("", f"... {len(parts)} in all"))
    return rows or [(key, "none")]


def _part_text(part: Mapping[str, Any]) -> str:
    facts = [f"{part['time_points']} volumes", part["dtype"]]
    if part["tr_s"] is not None:
        facts.append(f"TR {part['tr_s']:.6g} s")
    if part.get("kind"):
        facts.append(part["kind"])
    return f"{_shown(part['name'])}: {', '.join(facts)}"


def _parcels(_: str, content: Mapping[str, Any]) -> Rows:
    parcels = content["parcels"]
    first = [f"{one['id']} {_shown(one['name'])}" for one in parcels["first"]]
    return [("parcels", _counted(parcels["count"], first))]


def _labels(_: str, content: Mapping[str, Any]) -> Rows:
    labels = content["labels"]
    return [("labels", _counted(labels["count"], [_shown(one) for one in labels["first"]]))]


def _counted(count: int, first: Sequence[str]) -> str:
    more = ["..."] if count > len(first) else []
    return f"{count}: {', '.join([*first, *more])}"


def _mask(_: str, content: Mapping[str, Any]) -> Rows:
    stored, whole = content["mask"]["voxels"], content["mask"]["of"]
    return [("mask", f"{stored} of {whole} voxels ({stored / max(1, whole):.1%})")]


def _ratio(_: str, content: Mapping[str, Any]) -> Rows:
    ratio = content["compression_ratio"]
    return [("compression", f"{ratio:.1f} times smaller than the whole image as float32")]


def _layout(_: str, content: Mapping[str, Any]) -> Rows:
    layout, sizes = content["layout"], content["sizes"]
    rows: Rows = []
    if content.get("access"):
        rows.append(("layout", f"for {access_text(_shown(content['access']))}"))
    if sizes["arrays"] > 1 and not (sizes["arrays"] == 2 and "copy" in content):
        rows.append(("array", f"/{_shown(layout['array'])}, the first of {sizes['arrays']}"))
    rows.extend(_chunks(layout))
    if "copy" in content:
        copy, more = content["copy"], sizes["copies_encoded_bytes"]
        first = None if more is None else sizes["encoded_bytes"] - more
        cost = f", {size_text(more)} ({more / first:.0%} on top)" if more and first else ""
        rows.append(("second copy", f"/{_shown(copy['array'])}{cost}"))
        rows.extend(_chunks(copy))
    return rows


def _chunks(layout: Mapping[str, Any]) -> Rows:
    axes = layout["axes"]
    rows = [("chunks", f"{layout['chunk_count']} of {_lengths(axes, layout['chunks'])}")]
    if layout["shards"]:
        rows.append(("shards", f"of {_lengths(axes, layout['shards'])}"))
    if any(axes):
        order = " ".join(_shown(axis) for axis in layout["order"])
        rows.append(("in chunks", f"{order}, the last one fastest"))
    return [*rows, ("codecs", " + ".join(map(_shown, layout["codecs"])) or "none")]


def _lengths(axes: Sequence[str], lengths: Sequence[int]) -> str:
    if not any(axes):
        return _times(lengths) or "one value"
    return " ".join(f"{_shown(axis)}{n}" for axis, n in zip(axes, lengths, strict=True))


def _sizes(_: str, content: Mapping[str, Any]) -> Rows:
    sizes = content["sizes"]
    rows = []
    if sizes["chunks_missing"]:
        rows.append(("missing", f"{sizes['chunks_missing']} chunks: data are damaged"))
    text = f"{size_text(sizes['raw_bytes'])} of data"
    if sizes["encoded_bytes"]:
        text += f" in {size_text(sizes['encoded_bytes'])}, ratio {sizes['ratio']:.2f}"
    return [*rows, ("size", text)]


def _digest(_: str, content: Mapping[str, Any]) -> Rows:
    return [("digest", _shown(content["digest"] or "none recorded", 100))]


_WORDS: Mapping[str, Callable[[str, Mapping[str, Any]], Rows]] = {
    "access": _nothing,
    "class": _nothing,
    "copy": _nothing,
    "compression_ratio": _ratio,
    "digest": _digest,
    "dtype": _dtype,
    "intercept": _nothing,
    "labels": _labels,
    "layout": _layout,
    "mask": _mask,
    "parcels": _parcels,
    "runs": _listed,
    "scans": _listed,
    "shape": _shape,
    "sizes": _sizes,
    "slope": _nothing,
    "space": _space,
    "stored_dtype": _nothing,
}
"""Facts that many formats have, and their wording; any other is reported as it is."""


def _tree_lines(document: Mapping[str, Any]) -> list[str]:
    """Table of the arrays, groups and links of a store."""
    table = [("array", "shape", "dtype", "chunks", "codecs")]
    for array in document["arrays"]:
        axes = [_shown(d) or "?" for d in array["axes"]]
        named = any(array["axes"])
        shape = _times(f"{d}{n}" if named else n for d, n in zip(axes, array["shape"], strict=True))
        codecs = " + ".join(map(_shown, array["codecs"]))
        path, chunks = f"/{_shown(array['path'], 200)}", _times(array["chunks"])
        table.append((path, shape or "scalar", array["dtype"], chunks, codecs))
    widths = [max(len(row[column]) for row in table) for column in range(5)]
    lines = [
        "  " + "  ".join(f"{cell:<{w}}" for cell, w in zip(row, widths, strict=True)).rstrip()
        for row in table
    ]
    lines.extend(
        f"  /{_shown(link['path'], 200)} -> /{_shown(link['target'], 200)}"
        for link in document["links"]
    )
    return lines


def _short(value: Any) -> str:
    return f"{value:.6g}" if isinstance(value, int | float) else str(value)


def _times(values: Iterable[Any]) -> str:
    return " x ".join(map(str, values))


def _shown(text: Any, most: int = _LONG) -> str:
    """Text from a file, short enough for its line."""
    return shown(text, most)
