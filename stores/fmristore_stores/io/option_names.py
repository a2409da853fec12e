"""Names of storage options: clients that swallow those that they do not know are asked first.

The clients of fsspec for files, memory, archives, the web, Google and Azure take any option and
drop what they do not know, so that a slip of the pen (``anonn``) would do nothing in silence.
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
_ELSEWHERE = ("s3", "gs", "abfs", "http", "zip", "tar", "simplecache", "sftp", "github")
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
    if scheme in _ANY:
        known = _known_anywhere
    elif scheme in _STRICT:
        known = functools.partial(_known_to, scheme)
    else:
        return
    for name in options:
        if name in _OF_ALL or (isinstance(options[name], Mapping) and _is_protocol(name)):
            continue
        if name not in known():
            raise _unknown(name, scheme, known(), url)


def check_local_options(options: Options | None, url: str) -> None:
    """Refuse options beside a local path that no storage knows; others are for other URLs.

    Raises
    ------
    InvalidInputError
        If there is one.
    """
    if options and not options.keys() <= (_SERVICES | _OF_ALL):
        check_option_names("file", options, url)


def _unknown(name: Any, scheme: str, known: Collection[str], url: str) -> InvalidInputError:
    where = "no storage knows" if scheme in _ANY else f"{scheme}:// does not know"
    near = difflib.get_close_matches(str(name), sorted(known), n=1)
    hint = f"did you mean {near[0]!r}?" if near else "leave it out"
    if name == "anon" and scheme in ("gs", "gcs"):
        hint = "Google's client has token='anon'"
    elif not near and scheme not in _ANY and name in _known_anywhere():
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


def _known_anywhere() -> frozenset[str]:
    """Names that the client of any storage has as parameters, also of those that others add."""
    import fsspec

    loaded = (_parameters(client) for client in list(fsspec.registry.values()))
    return _of_services().union(*loaded)


@functools.cache
def _of_services() -> frozenset[str]:
    return _SERVICES.union(_OF_REQUESTS, *map(_known_to, _ELSEWHERE))


@functools.cache
def _parameters(client: type) -> frozenset[str]:
    made = [vars(base)["__init__"] for base in client.__mro__ if "__init__" in vars(base)]
    found: set[str] = set()
    for init in made:
        if inspect.isfunction(init):
            found |= {p.name for p in inspect.signature(init).parameters.values()}
    return frozenset(found - {"self", "args", "kwargs", "storage_options"})
