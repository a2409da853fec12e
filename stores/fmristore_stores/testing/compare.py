"""Comparison to the last bit: of values (NaN payloads included), attributes and specs."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import numpy as np

from fmristore_stores.protocol import AnyArray
from fmristore_stores.spec import ArraySpec, is_string

__all__ = ["assert_same_spec", "assert_same_values", "bits", "fill_bits", "plain"]


def bits(values: AnyArray) -> tuple[Any, ...]:
    """Dtype, shape and exact content of an array, as something that ``==`` can compare."""
    if is_string(values.dtype):
        return "text", values.shape, tuple(values.reshape(-1).tolist())
    return values.dtype.str, values.shape, values.tobytes()


def fill_bits(spec: ArraySpec) -> tuple[Any, ...]:
    """Exact content of the fill value of a spec."""
    return bits(np.full((), spec.fill, spec.dtype))


def plain(attributes: Mapping[str, Any]) -> str:
    """Attributes as text that tells ``1``, ``1.0`` and ``True`` apart."""
    return json.dumps(attributes, sort_keys=True, allow_nan=False)


def assert_same_values(actual: AnyArray, expected: AnyArray) -> None:
    """Fail unless both arrays have the same dtype, shape and bits."""
    assert isinstance(actual, np.ndarray)
    assert actual.dtype == expected.dtype
    assert actual.shape == expected.shape
    if bits(actual) != bits(expected):
        np.testing.assert_array_equal(actual, expected)
        msg = f"values are equal but their bits differ: {actual!r} {expected!r}"
        raise AssertionError(msg)


def assert_same_spec(actual: ArraySpec, expected: ArraySpec) -> None:
    """Fail unless both specs are equal, the bits of their fill values included."""
    assert actual == expected
    assert fill_bits(actual) == fill_bits(expected)
