"""Which class reads which format: one registration per format, for every store."""

from __future__ import annotations

import reprlib
from collections.abc import Callable, Mapping
from importlib.metadata import entry_points
from types import MappingProxyType
from typing import Any, Protocol, TypeVar

from fmristore_stores.errors import (
    DependencyError,
    InvalidInputError,
    UnknownFormatError,
    UnsupportedVersionError,
)
from fmristore_stores.opening import Handle

__all__ = [
    "FORMAT",
    "PLUGINS",
    "VERSION",
    "WRITER",
    "StoredFormat",
    "find_format",
    "formats",
    "register",
]

FORMAT = "fmristore_format"
"""Root attribute that names the format."""
VERSION = "fmristore_format_version"
"""Root attribute with the version of the format, as ``major.minor``."""
WRITER = "fmristore_writer"
"""Root attribute with the software that wrote the store."""
PLUGINS = "fmristore.formats"
"""Entry points of packages with formats: the name of the format, and a module to import."""


class StoredFormat(Protocol):
    """A class that can be registered: made from a handle to a store of its format."""

    format_name: str
    format_version: tuple[int, int]

    def __init__(self, handle: Handle) -> None: ...


Class = TypeVar("Class", bound=type[Any])

_registered: dict[str, Any] = {}


def register(name: str) -> Callable[[Class], Class]:
    """Class decorator: this class reads stores whose format has that name.

    Raises
    ------
    InvalidInputError
        If another class has the name.
    """

    def add(cls: Class) -> Class:
        if not cls.__module__.startswith(f"{__package__}."):
            _load_builtin()  # so that their names are taken
        known = _registered.get(name)
        if known is not None and known.__qualname__ != cls.__qualname__:
            raise InvalidInputError(f"format {name!r} is registered already, for {known.__name__}")
        _registered[name] = cls
        cls.format_name = name
        return cls

    return add


def formats() -> Mapping[str, Any]:
    """Registered format names and their classes, read-only."""
    _load_builtin()
    return MappingProxyType(_registered)


def find_format(attributes: Mapping[str, Any], *, url: str, insist: str | None = None) -> Any:
    """Class for a store with these root attributes.

    Parameters
    ----------
    attributes : mapping
        Attributes of the root group.
    url : str
        For messages.
    insist : str, optional
        Name of the format that it must be.

    Raises
    ------
    UnknownFormatError
        If the store does not say what it holds, no class reads it, or it is not what was asked.
    UnsupportedVersionError
        If it was written by a newer major version.
    """
    name = attributes.get(FORMAT)
    if name is None:
        raise UnknownFormatError(
            f"the store is readable but holds no format of fmristore (no attribute {FORMAT})",
            url=url,
        )
    if insist is not None and name != insist:
        raise UnknownFormatError(
            f"expected format {insist!r} and found {reprlib.repr(name)}", url=url
        )
    known = _registered
    if isinstance(name, str) and name not in known:
        _load_builtin()
        if name not in known:
            _load_plugin(name)
    if not isinstance(name, str) or name not in known:
        raise UnknownFormatError(
            f"format {reprlib.repr(name)} is not known here; there are {', '.join(sorted(known))}",
            url=url,
        )
    cls = known[name]
    version = str(attributes.get(VERSION, ""))
    major = version.partition(".")[0]
    if not (major.isdecimal() and len(major) < 10):
        raise UnknownFormatError(
            f"{VERSION} is {reprlib.repr(version)}, expected major.minor", url=url
        )
    if int(major) > cls.format_version[0]:
        raise UnsupportedVersionError(
            f"format {name} {version} is newer than {'.'.join(map(str, cls.format_version))}, "
            "which this fmristore knows; update fmristore",
            url=url,
        )
    return cls


def _load_plugin(name: str) -> None:
    """Import the installed package that says it registers a format, if there is one."""
    for entry in entry_points(group=PLUGINS, name=name):
        try:
            entry.load()
        except ImportError as error:
            raise DependencyError(
                f"format {name!r} is that of {entry.value}, which cannot be imported: {error}"
            ) from error


def _load_builtin() -> None:
    from fmristore.formats import (  # noqa: F401 - importing registers them
        labeledvolumeset,
        latentneurovec,
        maskedneurovec,
        neurovec,
        neurovecseq,
        neurovol,
        parcellatedmultiscan,
        parcellatedscan,
        parcellatedsummary,
    )
