"""From a URL to a filesystem and a path, and from a name or its first bytes to a kind of store."""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal
from urllib.parse import unquote

from fmristore_stores.errors import (
    AccessDeniedError,
    DependencyError,
    InvalidInputError,
    NotFoundError,
    UnknownFormatError,
)
from fmristore_stores.io import objects
from fmristore_stores.io.clients import s3_class, tar_class, web_class, zip_class
from fmristore_stores.io.local_files import open_ordinary
from fmristore_stores.io.option_names import (
    check_local_options,
    check_option_names,
    options_for,
)
from fmristore_stores.io.sources import VERSIONS, denials, local_token, storage_error, when_written

__all__ = [
    "HDF5_SUFFIXES",
    "ZARR_SUFFIXES",
    "Kind",
    "content_token",
    "count_files",
    "detect_kind",
    "exists",
    "filesystem",
    "identify",
    "is_hdf5",
    "is_local",
    "kind_of_name",
    "name_of",
    "normalise",
    "token_of",
]

Kind = Literal["hdf5", "zarr", "reference"]
"""Container of a store; ``"reference"`` is a file that lists where chunks lie in other files."""

HDF5_SUFFIXES = (".h5", ".hdf5", ".hdf", ".he5", ".nc")
ZARR_SUFFIXES = (".zarr",)

_HDF5_SIGNATURE = b"\x89HDF\r\n\x1a\n"
_USER_BLOCKS = (0, 512, 1024, 2048, 4096)
"""Places where an HDF5 file may begin: behind a user block of 512 bytes, or 2**n times that."""
_ZARR_MARKERS = ("zarr.json", ".zgroup", ".zarray", ".zmetadata")
_IMAGE = re.compile(
    r"\.(?:nii|img|hdr|mgz|mgh|mnc|head|brik|gii|par|rec)(?:\.(?:gz|bz2|zst))?$", re.IGNORECASE
)
_ENCODED = re.compile(r"(?:[\w.~/!$&'()*+,;=:@-]|%[0-9A-Fa-f]{2})*", re.ASCII)
_SCHEME = re.compile(r"^[A-Za-z][A-Za-z0-9+.-]+(?:::|://)")
_PLAIN = re.compile(r"(?s)(?!.*/\.?/)/" if os.name == "posix" else r"(?!)")
"""An absolute path that `pathlib` has nothing to change of, unless it ends with a slash."""
_NO_CREDENTIALS = re.compile(r"(?i)credential|connection_string|account_name")
"""In the errors of clients that do not begin without an account."""
_EXTRAS = {
    "s3": "s3",
    "s3a": "s3",
    "gs": "gcs",
    "gcs": "gcs",
    "az": "azure",
    "abfs": "azure",
    "abfss": "azure",
    "http": "http",
    "https": "http",
}

_OWN_CREDENTIALS = frozenset(
    {
        "key",
        "secret",
        "token",
        "anon",
        "connection_string",
        "account_key",
        "sas_token",
        "credential",
    }
)
"""Options by which a client needs nothing of its surroundings."""
_anew: dict[Any, tuple[int, Any]] = {}
"""Clients that were made again, by those that fsspec keeps, and after how many refusals."""
_WEB_SCHEMES = ("http://", "https://")

Options = Mapping[str, Any]

_S3 = {
    # s3fs asks for the size of an object before it reads it otherwise.
    "max_concurrency": 1,
    "config_kwargs": {
        "max_pool_connections": 64,
        # Some servers send the checksum of the whole object with a part of it.
        "response_checksum_validation": "when_required",
    },
}
_WEB = {"client_kwargs": {"headers": {"Accept-Encoding": "identity"}}}
"""A server that compresses on the way serves no ranges."""
_DEFAULTS: Mapping[str, Options] = {"s3": _S3, "s3a": _S3, "http": _WEB, "https": _WEB}
_CLIENTS = {
    "fsspec.implementations.http.HTTPFileSystem": web_class,
    "s3fs.core.S3FileSystem": s3_class,
    "fsspec.implementations.zip.ZipFileSystem": zip_class,
    "fsspec.implementations.tar.TarFileSystem": tar_class,
}


def normalise(url: str | os.PathLike[str]) -> str:
    """Bring a path or URL into its one form: an absolute path for local files, else the URL.

    ``~`` is expanded and ``file://`` or ``local://`` removed; a single letter before a colon is a
    Windows drive, not a scheme. Protocols are spelled in lower case. A trailing slash is dropped.

    Raises
    ------
    InvalidInputError
        If `url` is empty or not text.
    """
    try:
        text: str | bytes = os.fspath(url)
    except TypeError:
        text = b""
    if not isinstance(text, str) or not text or "\x00" in text:
        raise InvalidInputError(f"{url!r} is not a path or URL")
    if found := _SCHEME.match(text):
        text = found[0].lower() + text[found.end() :]
        if found[0].lower() not in ("file://", "local://"):
            _check_fragment(text)
            return text.rstrip("/") if not text.endswith("://") else text
        text = _without_scheme(text, windows=os.name == "nt")
        if "\x00" in text:
            raise InvalidInputError(f"{url!r} is not a path or URL")
    if _PLAIN.match(text) and not text.endswith(("/", "/.")):
        return text
    if text[0] not in "~./" and _PLAIN.match(f"/{text}") and not text.endswith(("/", "/.")):
        return os.path.join(os.getcwd(), text)  # noqa: PTH109, PTH118 - hot path, as below
    path = Path(text)
    try:
        return str(path.expanduser().absolute())
    except RuntimeError as error:
        if path.exists():  # a name that begins with a tilde, and no home
            return str(path.absolute())
        raise InvalidInputError(
            f"{url!r}: {error} Write ./{text} for a name that begins with ~"
        ) from error


def _check_fragment(url: str) -> None:
    """Refuse a fragment, which clients do not send: the server would give another file."""
    if url.startswith(_WEB_SCHEMES) and "#" in url:
        raise InvalidInputError(
            "a # in the URL of a web server begins a fragment, which it is not sent: write %23 "
            "where it is part of a name, and leave out what is none",
            url=url,
        )


def _without_scheme(url: str, *, windows: bool) -> str:
    """Path of a URL of a file; on Windows there is a slash before the letter of a drive.

    Names are literal, but for those that are percent-encoded throughout, as ``Path.as_uri`` does,
    where there is no file of such a name.
    """
    path = url.partition("://")[2]
    if path.startswith("localhost/"):
        path = path.removeprefix("localhost")
    if "%" in path and _ENCODED.fullmatch(path) and not os.path.lexists(path):
        with contextlib.suppress(UnicodeDecodeError):
            path = unquote(path, errors="strict")
    return path[1:] if windows and re.match(r"/[A-Za-z]:", path) else path


def is_local(url: str) -> bool:
    """Return whether a normalised URL is a path on this machine."""
    return not _SCHEME.match(url)


def filesystem(url: str, options: Options | None = None) -> tuple[Any, str]:
    """Fsspec filesystem of a URL, and the path within it.

    Raises
    ------
    DependencyError
        If the protocol needs a package that is not installed.
    InvalidInputError
        If nobody knows the protocol, or its client not the options.
    AccessDeniedError
        If the protocol does not begin without an account, and none was given.
    """
    import fsspec

    schemes = _schemes(url)
    if options:
        options = options_for(schemes, options)
        check_option_names(schemes[0], options, url)
    try:
        given = _with_defaults(url, options or {})
        fs, path = fsspec.core.url_to_fs(url, **given)
        checked = _checked(fs)
        if not (_OWN_CREDENTIALS & given.keys() or url.startswith(_WEB_SCHEMES)):
            checked = _renewed(checked)
    except ImportError as error:
        scheme = _schemes(url)[-1]
        extra = _EXTRAS.get(scheme)
        hint = f'pip install "fmristore[{extra}]"' if extra else str(error)
        raise DependencyError(f"{scheme}:// needs another package: {hint}", url=url) from error
    except (ValueError, TypeError) as error:
        if _NO_CREDENTIALS.search(str(error)):
            raise AccessDeniedError(f"credentials are missing: {error}", url=url) from error
        raise InvalidInputError(f"unknown protocol or options: {error}", url=url) from error
    except Exception as error:  # a client that connects at once raises whatever its network does
        raise storage_error(error, url) from error
    return checked, path


def _renewed(fs: Any) -> Any:
    """The filesystem, made again since a service last refused: credentials may have been set."""
    if not denials:
        return fs
    count, made = _anew.get(fs, (0, fs))
    if count != len(denials):
        made = type(fs)(*fs.storage_args, **fs.storage_options, skip_instance_cache=True)
        _anew[fs] = len(denials), made
    return made


def _schemes(url: str) -> list[str]:
    """Protocols of a URL, outermost first: ``simplecache::s3://b/k`` has two."""
    return [part.partition("://")[0].lower() for part in url.split("::")]


def _with_defaults(url: str, options: Options) -> Options:
    *outer, scheme = _schemes(url)
    defaults = _DEFAULTS.get(scheme)
    if defaults is None:
        return options
    own = options.get(scheme, {})
    if outer:
        return {**options, scheme: _merged(defaults, own)}
    beside = {name: value for name, value in options.items() if name != scheme}
    return _merged(_merged(defaults, own), beside)


def _merged(defaults: Options, given: Options) -> dict[str, Any]:
    """Options that were given, and the defaults for the rest, also inside of mappings."""
    merged = dict(defaults)
    for name, value in given.items():
        default = merged.get(name)
        both = isinstance(value, Mapping) and isinstance(default, Mapping)
        merged[name] = _merged(default, value) if both else value  # type: ignore[arg-type]
    return merged


def _checked(fs: Any) -> Any:
    """The same filesystem with a client that checks what a server sends, where there is one."""
    name = f"{type(fs).__module__}.{type(fs).__qualname__}"
    find = _CLIENTS.get(name)
    if find is None:
        return fs
    return find()(*fs.storage_args, **fs.storage_options)


def name_of(url: str) -> str:
    """URL without the query that may follow the path on a web server."""
    return url.partition("?")[0] if url.lower().startswith(_WEB_SCHEMES) else url


def kind_of_name(url: str) -> Kind | None:
    """Kind of store that the name of a new file or directory asks for, None if it does not."""
    name = name_of(url).lower().rstrip("/")
    if name.endswith(HDF5_SUFFIXES):
        return "hdf5"
    if name.endswith(ZARR_SUFFIXES):
        return "zarr"
    return None


def exists(url: str, options: Options | None = None) -> bool:
    """Return whether anything at all lies at a normalised URL."""
    if is_local(url):
        check_local_options(options, url)
        return os.path.lexists(url)
    remote = _Remote(url, options)
    return remote.facts(remote.path) is not None


def count_files(
    url: str, kind: Kind, options: Options | None = None
) -> tuple[int | None, int | None]:
    """Count the files or objects of a store, and their bytes.

    Parameters
    ----------
    url : str
        Normalised URL.
    kind : {"hdf5", "zarr", "reference"}
        A Zarr store is a folder, any other one a file.
    options : mapping, optional
        Passed to fsspec.

    Returns
    -------
    (int, int) or (None, None)
        None where they cannot be listed.

    Raises
    ------
    StorageError
        If the server says no.
    """
    if is_local(url):
        try:
            files = _below(url) if kind == "zarr" else [Path(url)]
            sizes = [path.lstat().st_size for path in files]
        except OSError as error:
            raise storage_error(error, url) from error
        return len(sizes), sum(sizes)
    fs, path = filesystem(url, options)
    try:
        found = objects.find(fs, path) if kind == "zarr" else {path: fs.info(path)}
    except NotImplementedError:
        return None, None
    except Exception as error:
        raise storage_error(error, url) from error
    sizes = [facts.get("size") or 0 for facts in found.values()]
    return (len(sizes), sum(sizes)) if sizes else (None, None)


def _below(folder: str) -> list[Path]:
    return [Path(parent, name) for parent, _, names in os.walk(folder) for name in names]


def identify(
    url: str, options: Options | None = None, *, kind: Kind | None = None
) -> tuple[Kind, str]:
    """Kind of an existing store and its content token, found together to save requests.

    Raises
    ------
    NotFoundError
        If there is nothing.
    UnknownFormatError
        If it is neither HDF5 nor Zarr, and `kind` is not given.
    """
    if is_local(url):
        check_local_options(options, url)
        kind = kind or _known(_detect_local(url), url)
        return kind, _local_token(url, kind)
    remote = _Remote(url, options)
    kind = kind or _known(remote.kind(), url)
    return kind, remote.token(kind)


def detect_kind(url: str, options: Options | None = None) -> Kind:
    """Kind of an existing store, by its signature, never by its name alone.

    Costs one small read for a file, or a look for ``zarr.json`` in a directory or prefix.

    Raises
    ------
    NotFoundError
        If there is nothing.
    UnknownFormatError
        If it is neither HDF5 nor Zarr.
    """
    if is_local(url):
        check_local_options(options, url)
        return _known(_detect_local(url), url)
    return _known(_Remote(url, options).kind(), url)


def is_hdf5(head: bytes) -> bool:
    """True if the first bytes of a file are those of an HDF5 file; 4 KiB and more are enough."""
    return any(head[start : start + 8] == _HDF5_SIGNATURE for start in _USER_BLOCKS)


def _known(kind: Kind | None, url: str) -> Kind:
    if kind is None:
        text = "neither an HDF5 file nor a Zarr store: no HDF5 signature and no zarr.json"
        if _IMAGE.search(name_of(url)):
            text = (
                "an image file and no store: make a store of it with fmristore.convert, or on the "
                "command line with fmristore convert"
            )
        raise UnknownFormatError(text, url=url)
    return kind


def _detect_local(url: str) -> Kind | None:
    try:
        if os.path.isdir(url):  # noqa: PTH112 - hot path, as below
            marked = os.path.exists(f"{url}/zarr.json")  # noqa: PTH110
            marked = marked or any(Path(url, m).exists() for m in _ZARR_MARKERS)
            return "zarr" if marked else None
        descriptor = open_ordinary(url)
        try:
            offset = 0
            while head := os.read(descriptor, 8):
                if head == _HDF5_SIGNATURE:
                    return "hdf5"
                offset = max(512, 2 * offset)
                os.lseek(descriptor, offset, os.SEEK_SET)
        finally:
            os.close(descriptor)
    except OSError as error:
        raise storage_error(error, url) from error
    return None


class _Remote:
    """A URL on a filesystem of fsspec, and what is known about it; asked for once, and afresh."""

    def __init__(self, url: str, options: Options | None) -> None:
        self.url = url
        self.fs, self.path = filesystem(url, options)
        self._known: dict[str, Mapping[str, Any] | None] = {}

    def facts(self, path: str) -> Mapping[str, Any] | None:
        """Facts that the filesystem gives of a file, object or prefix; None if there is none."""
        if path not in self._known:
            self._known[path] = self._ask(path)
        return self._known[path]

    def _ask(self, path: str) -> Mapping[str, Any] | None:
        try:
            self.fs.invalidate_cache(path)
            facts: Mapping[str, Any] = self.fs.info(path)
        except Exception as error:
            translated = storage_error(error, self.url)
            if isinstance(translated, NotFoundError):
                return None
            raise translated from error
        return facts

    def kind(self) -> Kind | None:
        """Kind of the store; None for something else."""
        if kind_of_name(self.url) != "zarr":
            facts = self.facts(self.path)
            if facts is not None and facts["type"] == "file" and self._is_hdf5(facts["size"]):
                return "hdf5"
        markers = (objects.below(self.fs, self.path, marker) for marker in _ZARR_MARKERS)
        if any(self.facts(marker) is not None for marker in markers):
            return "zarr"
        if self.facts(self.path) is None:
            raise NotFoundError("there is no such file, object or prefix", url=self.url)
        return None

    def _is_hdf5(self, size: int | None) -> bool:
        end = _USER_BLOCKS[-1] + 8
        end = end if size is None else min(end, size)
        try:
            head = self.fs.cat_file(self.path, start=0, end=end) if end else b""
            if is_hdf5(head) or kind_of_name(self.url) != "hdf5" or size is None:
                return is_hdf5(head)
            offset = 2 * _USER_BLOCKS[-1]  # a larger user block, if the name says that it is HDF5
            while offset < size:
                if self.fs.cat_file(self.path, start=offset, end=offset + 8) == _HDF5_SIGNATURE:
                    return True
                offset *= 2
        except Exception as error:
            raise storage_error(error, self.url) from error
        return False

    def token(self, kind: Kind) -> str:
        """As `content_token`."""
        key = "zarr.json" if kind == "zarr" else ""
        facts = self.facts(objects.below(self.fs, self.path, key))
        if facts is None:
            return ""
        for name in VERSIONS:
            if facts.get(name):
                return token_of(kind, str(facts[name]), when_written(facts), facts.get("size"))
        return str(facts.get("size", ""))


def token_of(kind: Kind, version: str, written: str, size: int | None) -> str:
    """Token of a remote store, from what was found out of its file or of its root's metadata."""
    times = [written] if kind == "zarr" and written else []
    return "-".join([version, *times, str(size)])


def content_token(url: str, kind: Kind, options: Options | None = None) -> str:
    """Text that changes when the store at `url` is replaced.

    Locally the inode, size and modification time of the HDF5 file or of the Zarr root's metadata;
    remotely what the filesystem offers as a version of that object (etag, size, time). Of Zarr
    stores on S3 whose roots have the same metadata, only the time tells which is which.
    """
    return _local_token(url, kind) if is_local(url) else _Remote(url, options).token(kind)


def _local_token(url: str, kind: Kind) -> str:
    try:
        status = os.stat(f"{url}/zarr.json" if kind == "zarr" else url)  # noqa: PTH116 - hot path
    except OSError:
        return ""
    return local_token(status)
