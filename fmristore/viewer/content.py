"""Answers to the page, by name: facts as JSON, values as bytes with their cost."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from importlib.resources import files
from typing import Any, NamedTuple

import numpy as np

from fmristore.formats.base import StoredObject
from fmristore.planning.pictures import fact_text
from fmristore.planning.text import size_text
from fmristore.viewer.layers import MOST_VALUES, Layer, Start, layer_names, open_layer
from fmristore_stores.errors import InvalidInputError, SelectionError
from fmristore_stores.io.location import is_local
from fmristore_stores.protocol import AnyArray
from fmristore_stores.secrets import masked_url

__all__ = ["SCRIPTS", "STYLE", "Answer", "Content", "about", "page_file", "standardised"]

SCRIPTS = ("source.js", "draw.js", "page.js")
"""Scripts of the page, in the order in which they run."""
STYLE = "page.css"

Parameters = Mapping[str, int]

_OPEN_LAYERS = 8
_Z_LIMIT = 3.0


class Answer(NamedTuple):
    """Values for the page: JSON, or an array with what reading it took."""

    value: Any
    cost: Mapping[str, float] | None = None


def page_file(name: str) -> bytes:
    """A file of the page, from the package."""
    return files("fmristore.viewer").joinpath("page", name).read_bytes()


def about(stored: StoredObject) -> dict[str, Any]:
    """Facts about a stored object for the page, as plain JSON values; reads no data."""
    facts = stored.describe()
    layout, sizes = facts.get("layout"), facts.get("sizes")
    rows = [[name, fact_text(name, text)] for name, text in stored.facts.items()]
    if layout is not None:
        rows += [
            ["array", f"/{layout['array']}"],
            ["chunks", _lengths(layout["axes"], layout["chunks"])],
            ["codecs", ", ".join(layout["codecs"]) or "none"],
        ]
        if layout["shards"]:
            rows.append(["shards", _lengths(layout["axes"], layout["shards"])])
    if sizes is not None:
        rows.append(["values", size_text(sizes["raw_bytes"])])
        if sizes["encoded_bytes"] is not None:
            rows.append(["stored", f"{size_text(sizes['encoded_bytes'])}"])
    url = masked_url(stored.url)
    return {
        "url": url,
        "name": url.rstrip("/").rpartition("/")[2] or url,
        "class": type(stored).__name__,
        "remote": not is_local(stored.url),
        "facts": rows,
        "layers": layer_names(stored),
    }


def _lengths(axes: list[str], lengths: list[int]) -> str:
    return " x ".join(f"{axis} {n}" for axis, n in zip(axes, lengths, strict=True))


def standardised(values: AnyArray) -> AnyArray:
    """Rows as z-scores in steps of 3/127, int8; what does not vary is 0."""
    found = np.nan_to_num(values.astype("f8"), posinf=0.0, neginf=0.0)
    found -= found.mean(axis=1, keepdims=True)
    spread = found.std(axis=1, keepdims=True)
    found /= np.where(spread > 0, spread, 1)
    steps = np.rint(np.clip(found, -_Z_LIMIT, _Z_LIMIT) * (127 / _Z_LIMIT))
    return np.asarray(steps, "i1")


class Content:
    """Answers what the page asks; one read at a time.

    Parameters
    ----------
    stored : StoredObject
        Must stay open.
    start : Start, optional
        What is shown first.
    """

    def __init__(self, stored: StoredObject, start: Start | None = None) -> None:
        self._stored = stored
        self._start = start or Start()
        self._lock = threading.Lock()
        self._layers: dict[int, Layer] = {}
        self._calls: dict[str, tuple[tuple[str, ...], Callable[..., Any]]] = {
            "about": ((), self._about),
            "layer": (("layer",), self._layer_facts),
            "costs": (("layer", "x", "y", "z", "step"), self._costs),
            "plane": (("layer", "axis", "index", "step"), self._plane),
            "labels": (("layer", "axis", "index"), self._labels),
            "series": (("layer", "x", "y", "z"), self._series),
            "parcel": (("layer", "position"), self._parcel),
            "course": (("layer", "step"), self._course),
            "carpet": (("layer",), self._carpet),
        }

    @property
    def names(self) -> frozenset[str]:
        """Names that may be asked for."""
        return frozenset(self._calls)

    def answer(self, name: str, given: Parameters) -> Answer:
        """Answer one question.

        Parameters
        ----------
        name : str
            One of `names`.
        given : mapping
            Its parameters.

        Raises
        ------
        InvalidInputError
            If parameters are missing or unknown.
        SelectionError
            If one is out of range.
        """
        wanted, call = self._calls[name]
        if set(given) != set(wanted):
            raise InvalidInputError(
                f"{name}: expected the parameters {', '.join(wanted) or 'none'}"
            )
        # Values of any size may be stored; what overflows is infinite on the page, too.
        with self._lock, np.errstate(all="ignore"), self._stored.stats.watch() as read:
            started = time.perf_counter()
            value = call(*(given[key] for key in wanted))
            seconds = time.perf_counter() - started
        if not isinstance(value, np.ndarray):
            return Answer(value)
        cost = {
            "requests": read.requests,
            "fetched": read.bytes_fetched,
            "chunks": read.chunks,
            "decoded": read.bytes_decoded,
            "seconds": seconds,
        }
        return Answer(value, cost)

    def _layer(self, number: int) -> Layer:
        if number not in self._layers:
            while len(self._layers) >= _OPEN_LAYERS:
                self._layers.pop(next(iter(self._layers)))
            self._layers[number] = open_layer(self._stored, number)
        return self._layers[number]

    def _about(self) -> dict[str, Any]:
        return about(self._stored) | {"start": self._start._asdict()}

    def _layer_facts(self, number: int) -> dict[str, Any]:
        return self._layer(number).describe()

    def _voxel(self, layer: Layer, voxel: tuple[int, int, int]) -> tuple[int, int, int]:
        for position, length, axis in zip(voxel, layer.shape, "xyz", strict=True):
            _check(axis, position, length)
        return voxel

    def _costs(self, number: int, x: int, y: int, z: int, step: int) -> list[dict[str, Any]]:
        layer = self._layer(number)
        _check("step", step, layer.length)
        return layer.costs(self._voxel(layer, (x, y, z)), step)

    def _slice_of(self, number: int, axis: int, index: int) -> Layer:
        layer = self._layer(number)
        _check("axis", axis, 3)
        _check("index", index, layer.shape[axis])
        size = int(np.prod([n for a, n in enumerate(layer.shape) if a != axis], dtype=object))
        if size > MOST_VALUES:
            raise InvalidInputError(f"a slice of {size} values is more than the page can show")
        return layer

    def _plane(self, number: int, axis: int, index: int, step: int) -> AnyArray:
        layer = self._slice_of(number, axis, index)
        _check("step", step, layer.length)
        return layer.plane(axis, index, step).astype("<f4")

    def _labels(self, number: int, axis: int, index: int) -> AnyArray:
        return self._slice_of(number, axis, index).labels(axis, index).astype("<i4")

    def _series(self, number: int, x: int, y: int, z: int) -> AnyArray:
        layer = self._layer(number)
        if layer.length > MOST_VALUES:
            raise InvalidInputError(f"{layer.length} volumes are more than the page can show")
        return layer.series(self._voxel(layer, (x, y, z))).astype("<f8")

    def _parcel(self, number: int, position: int) -> AnyArray:
        layer = self._layer(number)
        _check("position", position, len(layer.parcellation or ()))
        return layer.parcel_series(position).astype("<f8")

    def _course(self, number: int, step: int) -> AnyArray:
        layer = self._layer(number)
        _check("step", step, layer.length)
        return layer.course(step).astype("<f8")

    def _carpet(self, number: int) -> AnyArray:
        return standardised(self._layer(number).carpet())


def _check(name: str, value: int, length: int) -> None:
    if not 0 <= value < length:
        raise SelectionError(f"{name} {value} is not one of 0 to {length - 1}")
