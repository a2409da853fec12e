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
from tests.stores.hdf5.hdf5_helpers import run_python

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
            except (KeyboardInterrupt, FmristoreError, SystemError):
                pass  # h5py makes the last of an interrupt in a truncation
        strike = -1
        with fs.open(path) as found:
            values = np.asarray(found)
        assert fs.verify(path, deep=True).ok
        assert (values == NEW).all() if done else (values == OLD).all() or (values == NEW).all()
        fs.NeuroVec.create(OLD, path, space=np.eye(4), overwrite=True).close()


def test_an_interrupt_does_not_crash_the_interpreter_when_it_ends(tmp_path: Path) -> None:
    """An error that the file kept with its frames held what HDF5 frees at the very end."""
    code = """
        import sys
        import numpy as np
        import fmristore as fs
        from fmristore_stores.hdf5.output import OutputFile

        def interrupted(self, *arguments):
            calls.append(arguments)
            if len(calls) == 1:
                raise KeyboardInterrupt
            return plain(self, *arguments)

        calls, plain, OutputFile.seek = [], OutputFile.seek, interrupted
        try:
            fs.NeuroVec.create(np.zeros((3, 2, 2, 4), "f4"), sys.argv[1], space=np.eye(4))
        except KeyboardInterrupt:
            print("interrupted")
    """
    ended = run_python(code, str(tmp_path / "a.h5"))
    assert (ended.returncode, ended.stdout) == (0, "interrupted\n"), ended.stderr
