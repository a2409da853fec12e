"""A Ctrl-C within the file that HDF5 writes to: the old store stays, or the new one is whole."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import fmristore as fs
from fmristore_stores.errors import FmristoreError
from fmristore_stores.hdf5.output import OutputFile

OLD, NEW = np.zeros((3, 2, 2, 4), "f4"), np.ones((3, 2, 2, 4), "f4")


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("method", ["write", "seek", "truncate", "readinto"])
@pytest.mark.parametrize("when", ["before", "after"])
def test_an_interrupt_is_never_half_a_store(
    method: str, when: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.h5"
    fs.NeuroVec.create(OLD, path, space=np.eye(4)).close()
    plain = getattr(OutputFile, method)
    calls = 0
    strike = -1

    def interrupted(self: OutputFile, *arguments: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == strike and when == "before":
            raise KeyboardInterrupt
        result = plain(self, *arguments)
        if calls == strike:
            raise KeyboardInterrupt
        return result

    monkeypatch.setattr(OutputFile, method, interrupted)
    fs.NeuroVec.create(OLD, path, space=np.eye(4), overwrite=True).close()
    count = calls
    for number in sorted({1, count // 2, count} - {0}):
        calls, strike = 0, number
        done = False
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                fs.NeuroVec.create(NEW, path, space=np.eye(4), overwrite=True).close()
                done = True
            except (KeyboardInterrupt, FmristoreError):
                pass
        strike = -1
        with fs.open(path) as found:
            values = np.asarray(found)
        assert fs.verify(path, deep=True).ok
        assert (values == NEW).all() if done else (values == OLD).all() or (values == NEW).all()
        fs.NeuroVec.create(OLD, path, space=np.eye(4), overwrite=True).close()


class Interrupting:
    """An argument at which a Ctrl-C comes."""

    def __index__(self) -> int:
        raise KeyboardInterrupt


def test_what_is_kept_of_an_interrupt_holds_no_frames(tmp_path: Path) -> None:
    """They hold what HDF5 opened the file with, which is then freed after Python: a crash."""
    output = OutputFile(str(tmp_path / "a.h5"), "a.h5", create=True)
    output.seek(0, Interrupting())  # type: ignore[arg-type]
    for _ in range(2):
        with pytest.raises(KeyboardInterrupt):
            output.raise_error()
        assert output.error is not None
        assert output.error.__traceback__ is None
        assert output.error.__context__ is None
    output.close()
