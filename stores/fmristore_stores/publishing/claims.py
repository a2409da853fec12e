"""Claims: small objects that say who writes a store, where no system keeps a lock.

A claim lies beside the store and is made on the condition that there is none. It says who writes
and since when, and is touched every few minutes. The claim of a writer that is gone is taken over
by claiming to be the successor of just that one, which only one writer can.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import threading
import time
from dataclasses import dataclass, replace
from typing import Any, Protocol

from fmristore_stores.errors import (
    AlreadyExistsError,
    ChangedError,
    FmristoreError,
    NotFoundError,
)
from fmristore_stores.io import objects
from fmristore_stores.io.conditional_put import create_object, write_error
from fmristore_stores.io.local_files import open_ordinary
from fmristore_stores.io.owners import Mark
from fmristore_stores.io.sources import storage_error

__all__ = [
    "CLAIM",
    "Claim",
    "Claims",
    "FileClaims",
    "RemoteClaims",
    "Turn",
    "claim_path",
    "find_claim",
]

CLAIM = ".fmristore-writing"
"""Ending of the object by which the writer of a store keeps others out, beside the store."""

_AGE = 3600.0
"""Seconds after which the claim of another machine that nobody touches can be taken over."""
_BEAT = 300.0
"""Seconds between two touches of a claim."""
_MOST_BYTES = 1 << 16
_TRIES = 5
"""Attempts to make a claim that somebody else gave up, or made, at the same moment."""


@dataclass(frozen=True, slots=True)
class Claim:
    """Writer of a store, as stored in a claim or lock file.

    Parameters
    ----------
    mark : Mark, optional
        The writer; None where the content is not understood.
    host : str
        Name of its machine, for people.
    doing : str
        ``"create"``, ``"change"`` or ``"replace"``.
    place : str
        Where a complete new store lies that is about to be copied over the old one.
    touched : float
        When the writer was last heard of, in seconds since 1970.
    abandoned : bool
        Whether the writer gave up without tidying.
    unknown : str
        Stands for the content, where it is not understood.
    """

    mark: Mark | None
    host: str = ""
    doing: str = ""
    place: str = ""
    touched: float = 0.0
    abandoned: bool = False
    unknown: str = ""

    @property
    def id(self) -> str:
        """Tells it from other claims to the same store."""
        return self.unknown if self.mark is None else self.mark.id

    def encode(self) -> bytes:
        """Content of the claim."""
        since = self.mark.since if self.mark is not None else 0
        return json.dumps(
            {
                "mark": str(self.mark),
                "host": self.host,
                "pid": self.mark.pid if self.mark is not None else 0,
                "since": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(since)),
                "touched": self.touched,
                "doing": self.doing,
                "place": self.place,
                "abandoned": self.abandoned,
            }
        ).encode()

    @classmethod
    def decode(cls, data: bytes, touched: float = 0.0) -> Claim:
        """Understand the content of a claim; `touched` is what is known of it otherwise."""
        try:
            found = json.loads(data)
            mark = Mark.parse(found["mark"])
            return cls(
                mark,
                str(found["host"]),
                str(found["doing"]),
                str(found["place"]),
                float(found["touched"]),
                bool(found["abandoned"]),
            )
        except (ValueError, KeyError, TypeError, RecursionError):
            digest = hashlib.blake2b(data, digest_size=4).hexdigest()
            return cls(None, touched=touched, unknown=digest)

    @property
    def gone(self) -> bool:
        """True if its writer is certainly not at it any more."""
        if self.abandoned:
            return True
        if self.mark is None:
            return bool(self.touched) and time.time() - self.touched > _AGE
        return self.mark.gone(self.touched, age=_AGE)

    def __str__(self) -> str:
        if self.mark is None:
            return "another writer"
        since = time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(self.mark.since))
        return f"process {self.mark.pid} on {self.host or 'another machine'}, since {since}"


class Turn:
    """The right to change one store, until the block of `take_turn` ends.

    Attributes
    ----------
    inherited : bool
        Whether it was taken over from a writer that is gone.
    unfinished : str
        Where a complete new store lies that such a writer was copying over the old one; empty if
        there is none.
    """

    inherited = False
    unfinished = ""

    def check(self) -> None:
        """Check that nobody took the turn over, as happens to one that slept for too long.

        Raises
        ------
        ChangedError
            If somebody did.
        """

    def announce(self, place: str) -> None:
        """Say, for the next writer if this one is killed, where a complete new store lies.

        From then on it is about to be copied over the old one; empty when it has been.

        Raises
        ------
        ChangedError
            If another writer took the turn over.
        StorageError
            If the service fails.
        """

    def abandon(self) -> None:
        """Leave the claim to the next writer, who tidies up what could not be removed now."""


def claim_path(path: str) -> str:
    """Object of the claim to the store at a path within its filesystem."""
    path = path.rstrip("/")
    return f"{path}{CLAIM}" if "/" in path.strip("/") else f"{path}/{CLAIM}"


class _Store(Protocol):
    """Small objects, of which one can be made on the condition that there is none."""

    def create(self, path: str, data: bytes) -> bool:
        """Make one; False if there is one."""

    def read(self, path: str) -> bytes | None:
        """Content of one; None if there is none."""

    def touched(self, path: str) -> float:
        """Time of writing, in seconds since 1970; 0 if that is not known."""

    def write(self, path: str, data: bytes) -> None:
        """Replace one."""

    def remove(self, path: str) -> None:
        """Remove one, if it is there."""


class Claims(Turn):
    """An object beside the store, and those by which it was taken over.

    The turn is that of the last one in the chain: of the claim at `path`, or of the one at `path`
    with the id of its predecessor behind it, and so on.
    """

    def __init__(
        self, objects: _Store, path: str, url: str, claim: Claim, *, overrule: str
    ) -> None:
        self._objects = objects
        self.path = path
        self._url = url
        self.claim = claim
        self._overrule = overrule
        self._chain: list[str] = []
        self._rewriting = threading.Lock()
        self._stop = threading.Event()
        self._beat: threading.Thread | None = None
        self._left = False

    def attempt(self) -> Claim | None:
        """Make the claim; the other owner if there is one."""
        for _ in range(_TRIES):
            names, other = self.last()
            if other is None:
                if self._make(names, self.claim):
                    return None
            elif not (other.gone or other.doing == self._overrule):
                return other
            else:
                own = replace(self.claim, place=self.claim.place or other.place)
                if self._make([*names, f"{self.path}.{other.id}"], own):
                    self.inherited, self.unfinished = True, other.place
                    return None
        return other or Claim(None)

    def last(self) -> tuple[list[str], Claim | None]:
        """All claims to the store, and what the last one says; None if there is none."""
        names, found = [self.path], self._read(self.path)
        while found is not None:
            following = f"{self.path}.{found.id}"
            after = self._read(following)
            if after is None:
                break
            names.append(following)
            found = after
        return names, found

    def _make(self, names: list[str], claim: Claim) -> bool:
        if not self._objects.create(names[-1], claim.encode()):
            return False
        if self._read(names[-1]) != claim:
            return False  # a service that knows no conditions: another came at the same time
        self.claim, self._chain = claim, names
        self._beat = threading.Thread(target=self._touch, daemon=True, name="fmristore-turn")
        self._beat.start()
        return True

    def _read(self, path: str) -> Claim | None:
        data = self._objects.read(path)
        if data is None:
            return None
        found = Claim.decode(data)
        return found if found.mark else replace(found, touched=self._objects.touched(path))

    def _touch(self) -> None:
        while not self._stop.wait(_BEAT):
            with contextlib.suppress(FmristoreError):
                self._rewrite()

    def _rewrite(self, **changes: Any) -> None:
        with self._rewriting:
            self.check()
            self.claim = replace(self.claim, touched=time.time(), **changes)
            self._objects.write(self._chain[-1], self.claim.encode())

    def announce(self, place: str) -> None:
        """Docstring inherited."""
        self._rewrite(place=place)

    def check(self) -> None:
        """Docstring inherited."""
        own = self._read(self._chain[-1])
        after = self._objects.read(f"{self.path}.{self.claim.id}")
        if own is None or own.mark != self.claim.mark or after is not None:
            msg = "another writer took this store over meanwhile; open it again, and try again"
            raise ChangedError(msg, url=self._url)

    def abandon(self) -> None:
        """Docstring inherited."""
        self._left = True

    def release(self) -> None:
        """Let the next writer in."""
        self._stop.set()
        if self._beat is not None and self._beat is not threading.current_thread():
            self._beat.join()
        if not self._chain:
            return
        with contextlib.suppress(FmristoreError):
            if self._left:
                self._rewrite(abandoned=True)
                return
            self.check()
            for name in self._chain:
                self._objects.remove(name)


def find_claim(fs: Any, path: str, url: str) -> Claim | None:
    """Process that writes, or wrote until it ended, the store at a path; None if there is none.

    Raises
    ------
    StorageError
        If the service fails.
    """
    claims = Claims(RemoteClaims(fs, url), claim_path(path), url, Claim(None), overrule="")
    return claims.last()[1]


class RemoteClaims:
    """Objects of a filesystem of fsspec."""

    def __init__(self, fs: Any, url: str) -> None:
        self._fs = fs
        self._url = url

    def create(self, path: str, data: bytes) -> bool:
        """Make one; False if there is one."""
        try:
            create_object(self._fs, path, data, self._url)
        except AlreadyExistsError:
            return False
        return True

    def read(self, path: str) -> bytes | None:
        """Content of one; None if there is none."""
        try:
            self._fs.invalidate_cache()
            data: bytes = self._fs.cat_file(path)
        except Exception as error:
            translated = storage_error(error, self._url)
            if isinstance(translated, NotFoundError):
                return None
            raise translated from error
        return data

    def touched(self, path: str) -> float:
        """Time of writing, in seconds since 1970; 0 if that is not known."""
        try:
            return float(self._fs.modified(path).timestamp())
        except Exception:  # noqa: BLE001 - many filesystems cannot say
            return 0.0

    def write(self, path: str, data: bytes) -> None:
        """Replace one."""
        try:
            self._fs.pipe_file(path, data)
        except Exception as error:
            raise write_error(error, self._url) from error

    def remove(self, path: str) -> None:
        """Remove one, if it is there."""
        try:
            objects.remove(self._fs, path)
        except Exception as error:
            translated = storage_error(error, self._url)
            if not isinstance(translated, NotFoundError):
                raise translated from error


class FileClaims:
    """Files of a file system that knows no locks."""

    def __init__(self, url: str) -> None:
        self._url = url

    def create(self, path: str, data: bytes) -> bool:
        """Make one; False if there is one."""
        # What it is to hold comes with the name: a reader must not see an empty one.
        staged = f"{path}.{os.urandom(4).hex()}"
        try:
            try:
                self.write(staged, data)
                os.link(staged, path)
            finally:
                self.remove(staged)
        except FileExistsError:
            return False
        except OSError:
            return self._create_in_two(path, data)
        return True

    def _create_in_two(self, path: str, data: bytes) -> bool:
        """Without hard links: an empty one is of an unknown writer, who is at it."""
        try:
            with open(path, "xb") as file:  # noqa: PTH123
                file.write(data)
        except FileExistsError:
            return False
        except OSError as error:
            raise storage_error(error, self._url) from error
        return True

    def read(self, path: str) -> bytes | None:
        """Content of one; None if there is none."""
        try:
            with open(open_ordinary(path), "rb") as file:  # noqa: PTH123
                return file.read(_MOST_BYTES)
        except FileNotFoundError:
            return None
        except OSError as error:
            raise storage_error(error, self._url) from error

    def touched(self, path: str) -> float:
        """Time of writing, in seconds since 1970; 0 if that is not known."""
        try:
            return os.stat(path).st_mtime  # noqa: PTH116
        except OSError:
            return 0.0

    def write(self, path: str, data: bytes) -> None:
        """Replace one."""
        staged = f"{path}.{os.urandom(4).hex()}"
        try:
            with open(staged, "xb") as file:  # noqa: PTH123
                file.write(data)
            os.replace(staged, path)  # noqa: PTH105
        except OSError as error:
            raise storage_error(error, self._url) from error

    def remove(self, path: str) -> None:
        """Remove one, if it is there."""
        try:
            os.unlink(path)  # noqa: PTH108
        except FileNotFoundError:
            return
        except OSError as error:
            raise storage_error(error, self._url) from error
