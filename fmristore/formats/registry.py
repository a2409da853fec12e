"""Classes and layouts of each format: one registration, for every store."""

from __future__ import annotations

import importlib
import os
import reprlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from functools import cached_property
from types import MappingProxyType
from typing import Any, ClassVar, Protocol, TypeVar

from fmristore.planning.progress import Progress
from fmristore_stores.causes import naming
from fmristore_stores.errors import (
    DependencyError,
    InvalidInputError,
    UnknownFormatError,
    UnsupportedVersionError,
)
from fmristore_stores.io.location import HDF5_SUFFIXES, ZARR_SUFFIXES, kind_of_name, normalise
from fmristore_stores.opening import Handle
from fmristore_stores.protocol import Child, Group, Store

__all__ = [
    "FORMAT",
    "LAYOUT_PLUGINS",
    "PLUGINS",
    "VERSION",
    "WRITER",
    "Layout",
    "NativeLayout",
    "StoreView",
    "StoredFormat",
    "find_format",
    "format_class",
    "formats",
    "layouts_of",
    "load_layout_plugins",
    "register",
    "register_layout",
    "select_layout",
]

FORMAT = "fmristore_format"

"""Root attribute that names the format."""

VERSION = "fmristore_format_version"

"""Root attribute with the version of the format, as ``major.minor``."""

WRITER = "fmristore_writer"

"""Root attribute with the software that wrote the store."""

PLUGINS = "fmristore.formats"

"""Entry points of packages with formats: the name of the format, and a module to import."""

_BUILTIN = {
    "labeledvolumeset": "fmristore.formats.maps.maps",
    "latentneurovec": "fmristore.formats.latent.latent",
    "maskedneurovec": "fmristore.formats.masked.run",
    "neurovec": "fmristore.formats.image.image",
    "neurovecseq": "fmristore.formats.sequence.sequence",
    "neurovol": "fmristore.formats.image.image",
    "parcellatedmultiscan": "fmristore.formats.parcellated.multiscan",
    "parcellatedscan": "fmristore.formats.parcellated.scan",
    "parcellatedscansummary": "fmristore.formats.parcellated.summary",
}

"""Module that registers each format of the package, imported when the format is met."""


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
        if name in _BUILTIN and cls.__module__ != _BUILTIN[name]:
            raise InvalidInputError(f"format {name!r} is registered already, by fmristore itself")
        known = _registered.get(name)
        if known is not None and known.__qualname__ != cls.__qualname__:
            raise InvalidInputError(f"format {name!r} is registered already, for {known.__name__}")
        _registered[name] = cls
        cls.format_name = name
        return cls

    return add


def formats() -> Mapping[str, Any]:
    """Registered format names and their classes, read-only."""
    for name in _BUILTIN:
        _load(name)
    return MappingProxyType(_registered)


def format_class(name: str) -> Any:
    """Class of a format, imported if it is one of the package or of an installed plug-in.

    Raises
    ------
    UnknownFormatError
        If there is no such format.
    """
    cls = _load(name)
    if cls is None:
        known = ", ".join(sorted({*_BUILTIN, *_registered}))
        raise UnknownFormatError(
            f"format {reprlib.repr(name)} is not known here; there are {known}"
        )
    return cls


def find_format(
    attributes: Mapping[str, Any], *, url: str, expected_format: str | None = None
) -> Any:
    """Class for a store with these root attributes.

    Parameters
    ----------
    attributes : mapping
        Attributes of the root group.
    url : str
        For messages.
    expected_format : str, optional
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
    if expected_format is not None and name != expected_format:
        raise UnknownFormatError(
            f"expected format {expected_format!r} and found {reprlib.repr(name)}", url=url
        )
    cls = _registered.get(name) if isinstance(name, str) else None
    if cls is None:
        with naming(url):
            cls = format_class(name)
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


def _load(name: Any) -> Any:
    """Class of a format; what registers it is imported first, None if nothing does."""
    if not isinstance(name, str):
        return None
    if name not in _registered:
        if name in _BUILTIN:
            importlib.import_module(_BUILTIN[name])
        else:
            _load_plugin(name)
    return _registered.get(name)


def _load_plugin(name: str) -> None:
    """Import the installed package that says it registers a format, if there is one."""
    _load_entries(
        lambda package: f"format {name!r} is that of {package}, which", PLUGINS, name=name
    )


def _load_entries(what: Callable[[str], str], group: str, name: str | None = None) -> None:
    """Import what installed packages name in their entry points; `what` says what is missing."""
    from importlib.metadata import entry_points

    entries = entry_points(group=group)
    for entry in entries if name is None else entries.select(name=name):
        try:
            entry.load()
        except ImportError as error:
            raise DependencyError(f"{what(entry.value)} cannot be imported: {error}") from error


LAYOUT_PLUGINS = "fmristore.layouts"

"""Entry points of packages with layouts: any name, and a module to import."""


class StoreView:
    """The outside of a store: its root's attributes and the names in it, each read once.

    Parameters
    ----------
    handle : Handle
        The store.

    Attributes
    ----------
    attributes : mapping
        Attributes of the root group.
    """

    def __init__(self, handle: Handle) -> None:
        self.handle = handle
        self.attributes = handle.opened.attributes

    @cached_property
    def root(self) -> Group:
        """Root group."""
        return self.handle.store.root

    @cached_property
    def children(self) -> Mapping[str, Child]:
        """Nodes below the root group."""
        return self.root.children(tolerant=True)

    def names(self, group: str) -> frozenset[str]:
        """Names of the nodes below a child of the root; none if it is no group."""
        child = self.children.get(group)
        is_group = child is not None and child.kind == "group"
        return frozenset(self.root.group(group).children()) if is_group else frozenset()


class Layout(ABC):
    """One arrangement of a format in a store."""

    name: ClassVar[str]
    """Name that ``profile=`` takes."""
    stores: ClassVar[frozenset[str]] = frozenset({"hdf5", "zarr"})
    """Kinds of store that it can be written in."""
    variable_text: ClassVar[bool] = False
    """True if its readers want attributes of variable-length text, in HDF5 files."""

    @abstractmethod
    def detect(self, view: StoreView) -> bool:
        """Return whether a store has this layout; reads attributes and names, no data."""

    @abstractmethod
    def read(self, handle: Handle) -> Any:
        """Find the contents of the format in such a store, as its class takes them.

        Raises
        ------
        MetadataError
            If a node or attribute is missing or wrong.
        """

    def write(
        self, store: Store, content: Any, options: Any, *, progress: Progress | None = None
    ) -> None:
        """Write content into a new store.

        Parameters
        ----------
        store : Store
            Empty and writable.
        content, options : object
            As the format's own layout takes them.
        progress : callable, optional
            Called with the bytes done and in all.

        Raises
        ------
        InvalidInputError
            If the content cannot be arranged so, or the layout is read-only.
        """
        del content, options, progress
        raise InvalidInputError(f"the layout {self.name!r} is only read", url=store.url)


class NativeLayout(Layout):
    """Base of fmristore's own layouts: the root attribute says which format it is.

    Parameters
    ----------
    format_name : str
        The format.
    """

    name = "native"

    def __init__(self, format_name: str) -> None:
        self.format_name = format_name

    def detect(self, view: StoreView) -> bool:
        """Docstring inherited."""
        return view.attributes.get(FORMAT) == self.format_name


_added: dict[str, list[Layout]] = {}


def register_layout(format_name: str, layout: Layout) -> None:
    """Give a format one more layout, of another package say.

    Parameters
    ----------
    format_name : str
        Such as ``"neurovec"``.
    layout : Layout
        Reads, and perhaps writes, what the class of the format takes.

    Raises
    ------
    InvalidInputError
        If the format has another layout of that name.
    """
    known = _added.setdefault(format_name, [])
    if any(other.name == layout.name and type(other) is not type(layout) for other in known):
        raise InvalidInputError(f"format {format_name!r} has a layout {layout.name!r} already")
    known[:] = [other for other in known if other.name != layout.name] + [layout]


def load_layout_plugins() -> None:
    """Import the installed packages that say they have layouts.

    Raises
    ------
    DependencyError
        If one cannot be imported.
    """
    _load_entries(lambda package: f"the layouts of {package}", LAYOUT_PLUGINS)


def layouts_of(cls: Any) -> tuple[Layout, ...]:
    """Layouts of a format class, its own first; classes that have none read a store alone."""
    own: tuple[Layout, ...] = getattr(cls, "layouts", ())
    return (*own, *_added.get(cls.format_name, ()))


def select_layout(cls: Any, profile: str | None, url: str | os.PathLike[str]) -> Layout:
    """Layout to write a new store in.

    Parameters
    ----------
    cls : type
        Format class.
    profile : str, optional
        Name of the layout; fmristore's own by default.
    url : str or path
        New store; its name says of which kind it will be.

    Raises
    ------
    InvalidInputError
        If there is no such layout, or not for that kind of store.
    """
    layouts = {layout.name: layout for layout in layouts_of(cls)}
    chosen = layouts.get(profile or "native")
    if chosen is None:
        load_layout_plugins()
        chosen = {layout.name: layout for layout in layouts_of(cls)}.get(profile or "native")
    target = normalise(url)
    if chosen is None:
        written = {name for name, one in layouts.items() if type(one).write is not Layout.write}
        known = ", ".join(sorted(written - {"native"})) or "none"
        raise InvalidInputError(
            f"unknown profile {profile!r} of {cls.format_name}; there is {known}", url=target
        )
    kind = kind_of_name(target)
    if kind is None:
        endings = " or ".join((*HDF5_SUFFIXES[:2], *ZARR_SUFFIXES))
        raise InvalidInputError(f"the name of a new store must end in {endings}", url=target)
    if kind not in chosen.stores:
        raise InvalidInputError(
            f"profile {profile!r} is for HDF5 files: the name must end in .h5", url=target
        )
    return chosen
