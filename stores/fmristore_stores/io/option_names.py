"""Names of storage options: clients that swallow those that they do not know are asked first.

The clients of fsspec for files, memory, archives, the web, Google and Azure take any option and
drop what they do not know, so that a slip of the pen (``anonn``) would do nothing in silence.
Beside files and memory, options may be for other URLs of the call, of any protocol: only what is
nearly the name of a known option is a slip there, whichever clients are loaded by then.
Clients of other packages may hand any name on, and are left alone; that of S3 refuses by itself.
"""

from __future__ import annotations

import difflib
import functools
import inspect
from collections.abc import Collection, Mapping
from typing import Any

from fmristore_stores.errors import InvalidInputError

__all__ = ["check_local_options", "check_option_names", "options_for"]

Options = Mapping[str, Any]

_OF_ALL = frozenset(
    {"use_listings_cache", "listings_expiry_time", "max_paths", "skip_instance_cache"}
    | {"asynchronous", "loop", "batch_size", "protocol"}
)
"""Options of fsspec itself, for every protocol."""
_OF_REQUESTS = frozenset(
    {"params", "data", "json", "cookies", "headers", "skip_auto_headers", "auth", "ssl"}
    | {"allow_redirects", "max_redirects", "compress", "chunked", "expect100", "timeout"}
    | {"raise_for_status", "read_until_eof", "read_bufsize", "proxy", "proxy_auth", "middlewares"}
    | {"proxy_headers", "server_hostname", "trace_request_ctx", "auto_decompress", "verify_ssl"}
    | {"max_line_size", "max_field_size", "ssl_context", "fingerprint"}
)
"""Options of aiohttp for a request, which fsspec hands on: the reference of its ClientSession."""
_SERVICES = frozenset(
    {"anon", "key", "secret", "token", "endpoint_url", "client_kwargs", "config_kwargs", "profile"}
    | {"s3_additional_kwargs", "use_ssl", "requester_pays", "session", "username", "password"}
    | {"account_name", "account_key", "connection_string", "credential", "sas_token", "tenant_id"}
    | {"client_id", "client_secret", "account_host", "project", "access", "consistency", "auth"}
    | {"headers", "block_size", "cache_type", "cache_options", "version_aware", "max_concurrency"}
    | {"target_options", "target_protocol", "remote_options", "remote_protocol", "cache_storage"}
)
"""Common ones, whose packages may not be installed."""
_HOSTS = frozenset(
    {"host", "port", "user", "url", "timeout", "encoding", "acct", "tls", "tempdir", "auto_mkdir"}
    | {"base_url", "path", "encrypt", "share_access", "ssh_kwargs", "key_filename", "passphrase"}
    | {"kerberos", "kerb_ticket", "kerb_kwargs", "proxy_to", "data_proxy", "use_https"}
    | {"session_cert", "session_verify", "extra_conf", "replication", "instance", "client", "tok"}
    | {"repo", "org", "ref", "rev", "sha", "branch", "revision", "endpoint", "region"}
)
"""Those of FTP, SSH, SMB, WebDAV, HDFS and other servers, and of files."""
_SURE = _SERVICES | _OF_ALL | _HOSTS
"""Names that need no look at clients."""
_NEAR = 0.75
"""Nearness of a slip to what was meant: one letter of four."""
_ELSEWHERE = ("s3", "gs", "abfs", "http", "zip", "tar", "simplecache", "github", "reference")
_ANY = frozenset({"file", "local", "memory"})
"""Protocols without options of their own, beside which URLs of others may stand in one call."""
_STRICT = frozenset({"zip", "tar", "gs", "gcs", "az", "abfs", "abfss", "http", "https"})


def options_for(schemes: Collection[str], options: Options) -> dict[str, Any]:
    """Options of one URL: without those that are given by the name of another protocol.

    Parameters
    ----------
    schemes : collection of str
        Protocols of the URL.
    options : mapping
        ``{"s3": {"anon": True}}`` is for URLs of S3 alone, and may stand for all URLs of a call.
    """
    return {
        name: value
        for name, value in options.items()
        if name in schemes or not (isinstance(value, Mapping) and _is_protocol(name))
    }


def check_option_names(scheme: str, options: Options, url: str) -> None:
    """Refuse options that the client of a protocol would drop in silence.

    Parameters
    ----------
    scheme : str
        Outermost protocol, whose client gets the options.
    options : mapping
        As `options_for` leaves them.
    url : str
        For the message.

    Raises
    ------
    InvalidInputError
        If the client does not know one.
    """
    if scheme not in _ANY and scheme not in _STRICT:
        return
    for name in options:
        if name in _OF_ALL or (isinstance(options[name], Mapping) and _is_protocol(name)):
            continue
        if scheme in _ANY:
            wrong = name not in _SURE and _near_miss(str(name)) is not None
        else:
            wrong = name not in _known_to(scheme)
        if wrong:
            raise _unknown(name, scheme, url)


def check_local_options(options: Options | None, url: str) -> None:
    """Refuse slips in options beside a local path; others are for other URLs of the call.

    Raises
    ------
    InvalidInputError
        If there is one.
    """
    if options and not options.keys() <= _SURE:
        check_option_names("file", options, url)


def _unknown(name: Any, scheme: str, url: str) -> InvalidInputError:
    anywhere = scheme in _ANY
    where = "no storage knows" if anywhere else f"{scheme}:// does not know"
    known = _known_anywhere() if anywhere else _known_to(scheme)
    near = _nearest(str(name), known, _NEAR if anywhere else 0.6)
    hint = f"did you mean {near!r}?" if near else "leave it out"
    if name == "anon" and scheme in ("gs", "gcs"):
        hint = "Google's client has token='anon'"
    elif not near and not anywhere and name in _known_anywhere():
        hint = f'give it by its protocol if it is for other URLs: {{"s3": {{{str(name)!r}: ...}}}}'
    return InvalidInputError(f"storage_options hold {name!r:.80}, which {where}: {hint}", url=url)


def _is_protocol(name: Any) -> bool:
    import fsspec

    return name in fsspec.available_protocols()


@functools.cache
def _known_to(scheme: str) -> frozenset[str]:
    """Names that the client of a protocol has as parameters."""
    import fsspec

    try:
        client = fsspec.get_filesystem_class(scheme)
    except (ImportError, ValueError):
        return _SERVICES
    own = _parameters(client) | _OF_ALL
    return own | _OF_REQUESTS if scheme in ("http", "https") else own


@functools.cache
def _known_anywhere() -> frozenset[str]:
    """Names that the clients of common storages have as parameters, loaded or not."""
    return _SURE.union(_OF_REQUESTS, *map(_known_to, _ELSEWHERE))


@functools.lru_cache(maxsize=256)
def _near_miss(name: str) -> str | None:
    """Known name that an unknown one is nearly; None if it is known, or like none."""
    known = _known_anywhere()
    return None if name in known else _nearest(name, known, _NEAR)


def _nearest(name: str, known: Collection[str], cutoff: float) -> str | None:
    return next(iter(difflib.get_close_matches(name[:80], sorted(known), 1, cutoff)), None)


@functools.cache
def _parameters(client: type) -> frozenset[str]:
    made = [vars(base)["__init__"] for base in client.__mro__ if "__init__" in vars(base)]
    found: set[str] = set()
    for init in made:
        if inspect.isfunction(init):
            found |= {p.name for p in inspect.signature(init).parameters.values()}
    return frozenset(found - {"self", "args", "kwargs", "storage_options"})
