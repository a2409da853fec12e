"""Writing reference files: see `reference_document` for what they look like."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from typing import Any

import numpy as np

from fmristore_stores.errors import InvalidInputError
from fmristore_stores.protocol import AnyArray
from fmristore_stores.reference.document import (
    BASE64,
    OWN,
    OWN_VERSION,
    TEMPLATE,
    TargetFacts,
    digest_of,
)
from fmristore_stores.reference.index import pack_rows

__all__ = ["compose"]


def compose(
    small: Mapping[str, Any],
    chunks: Mapping[str, tuple[tuple[int, ...], AnyArray]],
    *,
    target: str,
    facts: TargetFacts,
) -> Iterator[bytes]:
    """Text of a reference file, in parts.

    Parameters
    ----------
    small : mapping of str to object
        Keys of the Zarr store: metadata as JSON values, and chunks as bytes.
    chunks : mapping of str to (tuple of int, ndarray of int64, shape (chunks, 3))
        For each array its grid, and number, offset and length of each chunk in the target.
    target : str
        URL of the file that all chunks lie in, or its path relative to the reference file.
    facts : TargetFacts
        By which it is recognised.

    Raises
    ------
    InvalidInputError
        If the URL has two opening braces, which readers take for a program.
    """
    if "{{" in target:
        raise InvalidInputError("a URL with {{ cannot be referred to", url=target)
    rest = b"".join(_lines(chunks)) + b"}}\n"
    index = {
        path: {"count": len(rows), "rows": pack_rows(rows)} for path, (_, rows) in chunks.items()
    }
    head = {
        "version": 1,
        OWN: {
            "version": OWN_VERSION,
            "target": asdict(facts),
            "index": index,
            "rest": digest_of(rest),
        },
        "templates": {TEMPLATE: target},
        "refs": {key: _as_content(value) for key, value in small.items()},
    }
    yield json.dumps(head, ensure_ascii=False, allow_nan=False).encode()[:-2]
    yield b"\n"
    yield rest


def _lines(chunks: Mapping[str, tuple[tuple[int, ...], AnyArray]]) -> Iterator[bytes]:
    for path, (grid, rows) in chunks.items():
        keys = np.array(np.unravel_index(rows[:, 0], grid or (1,))).T.tolist()
        name = json.dumps(path, ensure_ascii=False)[1:-1]
        lines = [
            f',"{name}/{".".join(map(str, key)) if grid else 0}":'
            f'["{{{{{TEMPLATE}}}}}",{offset},{length}]\n'
            for key, (_, offset, length) in zip(keys, rows.tolist(), strict=True)
        ]
        yield "".join(lines).encode()


def _as_content(value: Any) -> str:
    if isinstance(value, bytes):
        return BASE64 + base64.b64encode(value).decode()
    return json.dumps(value, ensure_ascii=False, allow_nan=False)
