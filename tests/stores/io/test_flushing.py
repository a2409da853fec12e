"""Writing pieces of memory to a file with few calls, none of them long."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fmristore_stores.io import flushing


@pytest.mark.parametrize("most", [1, 7, 64, 1 << 20])
@pytest.mark.parametrize("vectored", [True, False])
def test_pieces_of_any_length_are_written_in_calls_of_a_bounded_length(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, most: int, *, vectored: bool
) -> None:
    lengths = [0, 1, 6, 7, 8, 0, 300, 64, *[2] * 150]
    random = np.random.default_rng(0)
    parts = [random.bytes(length) for length in lengths]
    calls: list[int] = []

    def write(descriptor: int, data: Any) -> int:
        calls.append(memoryview(data).nbytes)
        return real_write(descriptor, data[: max(1, len(data) // 2)])

    def writev(descriptor: int, views: Any) -> int:
        calls.append(sum(view.nbytes for view in views))
        return real_writev(descriptor, [views[0][: max(1, len(views[0]) // 2)]])

    real_write, real_writev = os.write, os.writev
    monkeypatch.setattr(os, "write", write)
    monkeypatch.setattr(os, "writev", writev)
    monkeypatch.setattr(flushing, "MOST_WRITTEN", most)
    monkeypatch.setattr(flushing, "_HAS_WRITEV", vectored)
    path = tmp_path / "file"
    with path.open("xb", buffering=0) as file:
        flushing.write_parts(file.fileno(), parts, str(path))
    assert path.read_bytes() == b"".join(parts)
    assert max(calls) <= most
