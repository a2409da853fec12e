"""The page as one file, with the values in it at a resolution that it states."""

from __future__ import annotations

import base64
import hashlib
import json
import math
import zlib
from typing import Any

import numpy as np

from fmristore.formats.base import StoredObject
from fmristore.viewer.content import SCRIPTS, STYLE, about, page_file, standardised
from fmristore.viewer.layers import (
    ComponentLayer,
    GridLayer,
    Layer,
    Start,
    SummaryLayer,
    open_layer,
)
from fmristore_stores.protocol import AnyArray

__all__ = ["make_document"]

_MOST_LAYERS = 16
_POLICY = (
    "default-src 'none'; script-src {scripts}; style-src {style}; img-src data:; "
    "base-uri 'none'; form-action 'none'"
)


def make_document(stored: StoredObject, max_bytes: int, start: Start | None = None) -> bytes:
    """Write the page with the values of an object in it.

    Parameters
    ----------
    stored : StoredObject
        Must be open.
    max_bytes : int
        Bytes of values before they are compressed. Every 2nd, 3rd, ... voxel is taken along each
        axis, and then every 2nd volume, until they fit.
    start : Start, optional
        What is shown first; other layers are left out.

    Returns
    -------
    bytes
        HTML that needs nothing else.
    """
    facts = about(stored)
    names = facts["layers"]
    chosen = range(len(names))[:_MOST_LAYERS] if start is None else [start.layer]
    facts |= {
        "layers": [names[number] for number in chosen],
        "left_out": len(names) - len(chosen),
        "start": {"layer": 0, "step": 0 if start is None else start.step},
        "remote": None,
    }
    share = max_bytes // max(1, len(chosen))
    with np.errstate(all="ignore"):  # as `Content`
        layers = [_embedded(open_layer(stored, number), share) for number in chosen]
    style, *scripts = (page_file(name).decode() for name in (STYLE, *SCRIPTS))
    data = json.dumps({"about": facts, "layers": layers}).replace("<", "\\u003c")
    head = (
        f'<meta http-equiv="Content-Security-Policy" content="{_policy(style, scripts)}">\n'
        f"<style>{style}</style>"
    )
    body = "".join(
        [
            f'<script type="application/json" id="data">{data}</script>',
            *(f"\n<script>{script}</script>" for script in scripts),
        ]
    )
    page = page_file("page.html").decode()
    for mark, text in (("head", head), ("scripts", body)):
        before, _, rest = page.partition(f"<!-- {mark} -->")
        _, _, after = rest.partition(f"<!-- end of {mark} -->")
        page = before + text + after
    return page.encode()


def _policy(style: str, scripts: list[str]) -> str:
    return _POLICY.format(scripts=" ".join(map(_hash, scripts)), style=_hash(style))


def _hash(text: str) -> str:
    digest = hashlib.sha256(text.encode()).digest()
    return f"'sha256-{base64.b64encode(digest).decode()}'"


def _embedded(layer: Layer, max_bytes: int) -> dict[str, Any]:
    """Facts of a layer with its values, thinned out so that they fit."""
    values, step, every = _values(layer, max_bytes)
    found = layer.describe() | {"step": step, "every": every}
    found["values"] = _packed(values)
    scaling = getattr(layer.stored, "scaling", None)
    if isinstance(layer, GridLayer) and scaling is not None and values.dtype.kind in "iu":
        found["values"] |= {"slope": float(scaling.slope), "inter": float(scaling.inter)}
    if found["carpet"]:
        found["carpet"] = _packed(standardised(layer.carpet()))
    if layer.parcellation is not None:
        grid = tuple(slice(None, None, step) for _ in range(3))
        parcels = layer.parcellation
        labels = parcels.labels[grid]
        places = np.where(labels, np.searchsorted(parcels.ids, labels) + 1, 0)
        found["labels"] = _packed(places.astype("<i4"))
    if isinstance(layer, ComponentLayer):
        found["basis"] = _packed(np.asarray(layer.stored.basis, "<f4").T)
    return found


def _values(layer: Layer, max_bytes: int) -> tuple[AnyArray, int, int]:
    """Values (X, Y, Z, T), or (K, T) of parcels, with the steps in space and time."""
    if isinstance(layer, SummaryLayer):
        count, length = layer.stored.shape[1], layer.length
        every = max(1, math.ceil(4 * count * length / max_bytes))
        return layer.stored.series(times=slice(None, None, every)).T.astype("<f4"), 1, every
    raw = isinstance(layer, GridLayer) and _is_compact(layer)
    width = layer.stored.stored_dtype.itemsize if raw else 4
    step, every = _steps(layer, max_bytes // width)
    if isinstance(layer, ComponentLayer):
        planes = [
            np.stack([layer.plane(2, z, k)[::step, ::step] for z in range(0, layer.shape[2], step)])
            for k in range(0, layer.length, every)
        ]
        return np.stack(planes).transpose(2, 3, 1, 0).astype("<f4"), step, every
    assert isinstance(layer, GridLayer)
    grid = (slice(None, None, step),) * 3
    index = grid if layer.stored.ndim == 3 else (*grid, slice(None, None, every))
    values = layer.read(index, raw=raw)
    values = values[..., None] if values.ndim == 3 else values
    return values if raw else values.astype("<f4"), step, every


def _is_compact(layer: GridLayer) -> bool:
    """True if stored values are short integers with one scaling, which the page can apply."""
    scaling = layer.stored.scaling
    short = layer.stored.stored_dtype.kind in "iu" and layer.stored.stored_dtype.itemsize <= 2
    plain = scaling is None or (not scaling.per_volume and layer.stored.dense_array is not None)
    return short and plain


def _steps(layer: Layer, most: int) -> tuple[int, int]:
    """Steps in space and along the volumes with which `most` values suffice."""
    step = every = 1
    while True:
        grid = math.prod(math.ceil(n / step) for n in layer.shape)
        if grid * math.ceil(layer.length / every) <= max(1, most):
            return step, every
        if grid > 1 and (step <= every or layer.kind != "time"):
            step += 1
        else:
            every += 1


def _packed(values: AnyArray) -> dict[str, Any]:
    """An array as text: its bytes by significance, compressed, in base64."""
    plain = np.ascontiguousarray(values, values.dtype.newbyteorder("<"))
    parts = plain.reshape(-1).view("u1").reshape(-1, plain.dtype.itemsize).T
    return {
        "shape": list(plain.shape),
        "type": plain.dtype.str.lstrip("<|"),
        "bytes": base64.b64encode(zlib.compress(parts.tobytes(), 6)).decode(),
    }
