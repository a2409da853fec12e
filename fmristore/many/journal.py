"""Journal of the runs that were begun and done, kept meanwhile, so that a restart goes on."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

from fmristore_stores.errors import MemoryLimitError, MetadataError, NotFoundError
from fmristore_stores.io.location import is_local, normalise
from fmristore_stores.io.sources import storage_error
from fmristore_stores.io.whole import read_whole
from fmristore_stores.publishing.publish import publish_file
from fmristore_stores.publishing.turns import take_turn

__all__ = ["Journal"]

_EVERY_SECONDS = 10.0
"""Time between two writes of a journal that is no local file, which take one request each."""
_MOST_BYTES = 256 << 20
_START = b'{"run"'


class Journal:
    """One line of JSON for each run that was begun or done; the last one of a run holds.

    A local file grows line by line, and a line that a kill cut short is left out; elsewhere the
    journal is written as a whole from time to time and at the end. Processes that keep one journal
    take turns, and each leaves what the others wrote.

    Parameters
    ----------
    url : str or path
        Need not exist.
    storage_options : mapping, optional
        Passed to fsspec.

    Raises
    ------
    MetadataError
        If what is there is no journal.
    """

    def __init__(
        self, url: str | os.PathLike[str], storage_options: Mapping[str, Any] | None = None
    ) -> None:
        self.url = normalise(url)
        self._options = storage_options
        self.entries = self._read()
        self._written = time.monotonic()
        self._unwritten: dict[str, dict[str, Any]] = {}

    def _read(self) -> dict[str, dict[str, Any]]:
        try:
            data = read_whole(self.url, self._options, limit=_MOST_BYTES)
        except NotFoundError:
            return {}
        except MemoryLimitError as error:
            text = f"a journal of more than {_MOST_BYTES} bytes"
            raise MetadataError(text, url=self.url) from error
        found: dict[str, dict[str, Any]] = {}
        for number, line in enumerate(data[: _whole_lines(data)].split(b"\n")):
            if not line.strip():
                continue
            try:
                entry = json.loads(line)
                found[str(entry["run"])] = dict(entry["record"])
            except (ValueError, KeyError, TypeError, RecursionError) as error:
                raise MetadataError(
                    f"line {number + 1} is none of a journal of runs: {error!r:.80}", url=self.url
                ) from error
        return found

    def note(self, records: Mapping[str, Mapping[str, Any]], *, new: bool = False) -> None:
        """Keep records of runs.

        Parameters
        ----------
        records : mapping of str to mapping
            By the names of the runs.
        new : bool
            Leave out runs of which there is a record, also one of another process.

        Raises
        ------
        StorageError
            If they cannot be written.
        """
        kept = {name: dict(record) for name, record in records.items()}
        if new:
            self.entries = self._read() | self._unwritten
            kept = {name: record for name, record in kept.items() if name not in self.entries}
        if not kept:
            return
        self.entries |= kept
        if is_local(self.url):
            self._append(kept)
            return
        self._unwritten |= kept
        if time.monotonic() - self._written >= _EVERY_SECONDS:
            self._write()

    def _append(self, records: Mapping[str, Mapping[str, Any]]) -> None:
        path = Path(self.url)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise storage_error(error, self.url) from error
        with take_turn(self.url):
            try:
                with path.open("a+b") as file:
                    end = file.seek(0, os.SEEK_END)
                    file.seek(max(0, end - 1))
                    if file.read(1) not in (b"\n", b""):  # cut short by a kill, or by a full disk
                        file.seek(0)
                        file.truncate(_whole_lines(file.read()))
                    file.write(_lines(records))
            except OSError as error:
                raise storage_error(error, self.url) from error

    def _write(self) -> None:
        with take_turn(self.url, self._options) as turn:
            self.entries = self._read() | self._unwritten
            with publish_file(
                self.url, overwrite=True, storage_options=self._options, turn=turn
            ) as path:
                Path(path).write_bytes(_lines(self.entries))
        self._unwritten.clear()
        self._written = time.monotonic()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        if self._unwritten:
            self._write()


def _whole_lines(data: bytes) -> int:
    """Bytes of a journal without a last line that was cut short."""
    last = data[data.rfind(b"\n") + 1 :]
    is_ours = last.startswith(_START) or _START.startswith(last)
    return len(data) - len(last) if is_ours else len(data)


def _lines(records: Mapping[str, Mapping[str, Any]]) -> bytes:
    lines = (json.dumps({"run": name, "record": one}) + "\n" for name, one in records.items())
    return "".join(lines).encode()
