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

__all__ = ["Journal"]

_EVERY_SECONDS = 10.0
"""Time between two writes of a journal that is no local file, which take one request each."""
_MOST_BYTES = 256 << 20
_START = b'{"run"'


class Journal:
    """One line of JSON for each run that was begun or done; the last one of a run holds.

    A local file grows line by line, and a line that a kill cut short is left out; elsewhere the
    journal is written as a whole from time to time and at the end. One process writes it.

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
        self.entries: dict[str, dict[str, Any]] = {}
        self._written = time.monotonic()
        self._dirty = False
        self._whole: int | None = None
        """Bytes before a line that was cut short; None if there is none."""
        self._read()

    def _read(self) -> None:
        try:
            data = read_whole(self.url, self._options, limit=_MOST_BYTES)
        except NotFoundError:
            return
        except MemoryLimitError as error:
            text = f"a journal of more than {_MOST_BYTES} bytes"
            raise MetadataError(text, url=self.url) from error
        *lines, last = data.split(b"\n")
        if last and (last.startswith(_START) or _START.startswith(last)):  # cut short by a kill
            self._whole = len(data) - len(last)
        elif last:
            lines.append(last)
        for number, line in enumerate(lines):
            if not line.strip():
                continue
            try:
                entry = json.loads(line)
                self.entries[str(entry["run"])] = dict(entry["record"])
            except (ValueError, KeyError, TypeError, RecursionError) as error:
                raise MetadataError(
                    f"line {number + 1} is none of a journal of runs: {error!r:.80}", url=self.url
                ) from error

    def note(self, records: Mapping[str, Mapping[str, Any]]) -> None:
        """Keep records of runs.

        Raises
        ------
        StorageError
            If they cannot be written.
        """
        if not records:
            return
        self.entries |= {name: dict(record) for name, record in records.items()}
        if not is_local(self.url):
            self._dirty = True
            if time.monotonic() - self._written >= _EVERY_SECONDS:
                self._write()
            return
        lines = "".join(_line(name, record) for name, record in records.items())
        try:
            Path(self.url).parent.mkdir(parents=True, exist_ok=True)
            if self._whole is not None:
                os.truncate(self.url, self._whole)
                self._whole = None
            with open(self.url, "a", encoding="utf-8") as file:  # noqa: PTH123
                file.write(lines)
        except OSError as error:
            raise storage_error(error, self.url) from error

    def _write(self) -> None:
        with publish_file(self.url, overwrite=True, storage_options=self._options) as path:
            lines = (_line(name, record) for name, record in self.entries.items())
            Path(path).write_text("".join(lines), encoding="utf-8")
        self._dirty, self._written = False, time.monotonic()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        if self._dirty:
            self._write()


def _line(name: str, record: Mapping[str, Any]) -> str:
    return json.dumps({"run": name, "record": record}) + "\n"
