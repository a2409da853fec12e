"""HDF5 files as stores, through h5py.

The modules ``hdf5*.py`` are the only ones that talk to h5py. Files may come from anywhere: links,
external storage and views that lead out of the file are never followed.

Store and groups are whole here, which makes the module long.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Iterable, Mapping
from typing import Any, Self

from h5py import h5d, h5g, h5l, h5o, h5p

from fmristore_stores.errors import (
    AlreadyExistsError,
    FmristoreError,
    InvalidInputError,
    NotFoundError,
)
from fmristore_stores.hdf5.arrays import HDF5Array
from fmristore_stores.hdf5.attributes import (
    AttributesOnDemand,
    has_variable_text,
    read_attributes,
    write_attributes,
)
from fmristore_stores.hdf5.dimensions import (
    drop_hidden,
    encode_label,
    is_dimension,
    is_hidden,
    name_axes,
    remove_child,
)
from fmristore_stores.hdf5.files import Mode, Session, near_names, open_file
from fmristore_stores.hdf5.links import (
    Entry,
    contains,
    decode_name,
    encode_name,
    entries,
    facts,
    first_places,
    join,
    link_target,
    locate,
    open_child,
    resolve,
)
from fmristore_stores.hdf5.messages import plain_dataset
from fmristore_stores.hdf5.typed import read_typed, write_typed
from fmristore_stores.hdf5.types import create_dataset
from fmristore_stores.io.sources import ByteSource
from fmristore_stores.ledger import Ledger
from fmristore_stores.protocol import Capability, Child, TypedAttribute
from fmristore_stores.spec import ArraySpec, Attributes, check_attributes, check_name

__all__ = ["HDF5Array", "HDF5Group", "HDF5Store"]

_CAN_READ = Capability.HARD_LINKS | Capability.TYPED_ATTRIBUTES
_CAN_LOCATE = _CAN_READ | Capability.CHUNK_REFS
_CAN_WRITE = _CAN_READ | Capability.WRITE | Capability.RAW_WRITE


class HDF5Store:
    """An HDF5 file.

    Parameters
    ----------
    path : str
        Local path; for a file that is read through `file`, its name for `source`.
    mode : {"r", "r+", "w"}
        Reading, changing, or making a new file; ``"w"`` never replaces one.
    url : str, optional
        Its name in messages; `path` if not given.
    source : ByteSource, optional
        Where the bytes of chunks come from; the local file if neither this nor `file` is given.
        Closed with the store.
    variable_text : bool, optional
        Write attributes of variable-length text, as R's package does. By default those of new files
        are of fixed length, and a file that is changed keeps its kind.
    file : file object, optional
        Opened by the caller for reading bytes, seekable: HDF5 reads metadata through it. Closed
        with the store, at the latest when the interpreter ends.

    Raises
    ------
    NotFoundError
        If there is no such file.
    AlreadyExistsError
        If a file is to be made and there is one.
    UnknownFormatError
        If it is not an HDF5 file.
    CorruptDataError
        If it is truncated or damaged.
    AccessDeniedError, StorageError
        If it may not or cannot be opened, or is in use elsewhere.
    ReadOnlyError
        If a file given as `file` is to be changed.

    Notes
    -----
    A file that is read is locked where the file system has locks, and opened without one where
    locking fails; a file that is changed is always locked. ``HDF5_USE_FILE_LOCKING`` in the
    environment overrides both. h5py lets one thread at a time into HDF5.

    Examples
    --------
    >>> import os, tempfile
    >>> import numpy as np
    >>> from fmristore_stores.spec import ArraySpec, ChunkLayout
    >>> path = os.path.join(tempfile.mkdtemp(), "new.h5")
    >>> with HDF5Store(path, mode="w") as store:
    ...     spec = ArraySpec(shape=(4,), dtype=np.dtype("i2"), layout=ChunkLayout(chunks=(2,)))
    ...     array = store.root.create_array("0", spec, {"units": "V"})
    ...     array.write((slice(1, 3),), [7, 8])
    >>> with HDF5Store(path, mode="r") as store:
    ...     store.root.array("0").read().tolist()
    [0, 7, 8, 0]
    """

    def __init__(
        self,
        path: str,
        *,
        mode: Mode,
        url: str | None = None,
        source: ByteSource | None = None,
        file: Any = None,
        variable_text: bool | None = None,
    ) -> None:
        name = path if url is None else url
        if file is None:
            path = os.path.abspath(path)  # noqa: PTH100 - a string is wanted
        try:
            h5, file = open_file(path, mode, name, file)
        except BaseException:
            for opened in (source, file):
                if opened is not None:
                    opened.close()
            raise
        self._session = Session(
            name, path, h5, writable=mode != "r", new=mode == "w", source=source, file=file
        )
        self._root: HDF5Group | None = None
        if variable_text is None and mode == "r+":
            with self._session.reading(""):
                variable_text = has_variable_text(h5g.open(self._session.h5.id, b"/"))
        self._session.variable_text = bool(variable_text)

    @property
    def url(self) -> str:
        """Path or URL."""
        return self._session.url

    @property
    def capabilities(self) -> Capability:
        """Links, types of attributes; encoded chunks can be written, or located while reading."""
        if self._session.writable:
            return _CAN_WRITE
        return _CAN_READ if self._session.source is None else _CAN_LOCATE

    @property
    def root(self) -> HDF5Group:
        """The group at the top of the tree.

        Raises
        ------
        ClosedError
            If the store is closed.
        """
        self._session.check_open()
        if self._root is None:
            with self._session.reading(""):
                root = h5g.open(self._session.h5.id, b"/")
                self._root = HDF5Group(self._session, "", root)
        return self._root

    @property
    def closed(self) -> bool:
        """True if `close` was called."""
        return self._session.lifetime.closed

    @property
    def token(self) -> str:
        """Identity of the local file that was opened for reading; empty for any other."""
        return self._session.token

    @property
    def ledger(self) -> Ledger:
        """List of everything written since it was opened."""
        return self._session.ledger

    def contradictions(self, nodes: Iterable[str]) -> list[tuple[str, str]]:  # noqa: ARG002
        """None: a file keeps all metadata once."""
        return []

    def close(self) -> None:
        """Flush and release everything; harmless when repeated.

        No more reads begin; those that are under way end first.

        Raises
        ------
        StorageError
            If what was written did not reach the disk.
        """
        self._session.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


class HDF5Group:
    """A group of an HDF5 file.

    Parameters
    ----------
    session : Session
        The file.
    path : str
        Where the group is.
    node : h5py.h5g.GroupID
        The open group.
    """

    def __init__(self, session: Session, path: str, node: Any) -> None:
        self._session = session
        self._path = path
        self._node = node

    @property
    def path(self) -> str:
        """Absolute path in the store, without a leading slash; empty for the root."""
        return self._path

    def read_attributes(self) -> Attributes:
        """All attributes, as plain JSON values.

        Raises
        ------
        ClosedError
            If the store is closed.
        MetadataError
            If an attribute has no JSON counterpart.
        """
        self._session.check_open()
        with self._session.reading(self._path):
            header = self._session.header_of(self._node)
            return read_attributes(self._node, is_array=False, header=header)

    def view_attributes(self) -> Mapping[str, Any]:
        """All attributes, not to be changed; of a local file each is decoded when asked for.

        Raises
        ------
        ClosedError
            If the store is closed.
        MetadataError
            If an attribute has no JSON counterpart, here or when it is asked for.
        """
        session, path = self._session, self._path
        session.check_open()
        with session.reading(path):
            header = session.header_of(self._node)
            if header is None or not header.has_all:
                return read_attributes(self._node, is_array=False, header=header)
            return AttributesOnDemand(self._node, header, session.reading_later(path))

    def write_attributes(self, attributes: Mapping[str, Any]) -> None:
        """Replace all attributes by these.

        Raises
        ------
        ClosedError, ReadOnlyError
            If the store is closed or open for reading only.
        InvalidInputError
            If a name or value cannot be stored; nothing changes then.
        StorageError
            If the disk failed.
        """
        self._session.check_writable()
        with self._session.writing(self._path):
            write_attributes(
                self._node,
                attributes,
                is_array=False,
                ignore=frozenset(),
                variable_text=self._session.variable_text,
            )
        self._session.ledger.node(self._path, attributes)

    def readable_attributes(self) -> Attributes:
        """All attributes that have a JSON value."""
        self._session.check_open()
        with self._session.reading(self._path):
            header = self._session.header_of(self._node)
            return read_attributes(self._node, is_array=False, readable=True, header=header)

    def read_typed(self) -> dict[str, TypedAttribute]:
        """Attributes of which a JSON value does not say all, by name."""
        self._session.check_open()
        with self._session.reading(self._path):
            header = self._session.header_of(self._node)
            return read_typed(self._node, is_array=False, header=header)

    def write_typed(self, attributes: Mapping[str, TypedAttribute]) -> None:
        """Write attributes that another node gave, besides those that there are.

        Raises
        ------
        ClosedError, ReadOnlyError
            If the store is closed or open for reading only.
        StorageError
            If the disk failed.
        """
        self._session.check_writable()
        with self._session.writing(self._path):
            write_typed(self._node, attributes)
        self._session.ledger.typed(self._path, attributes)

    def children(self, *, tolerant: bool = False) -> dict[str, Child]:  # noqa: ARG002
        """Names and kinds of the direct children, sorted by name.

        Of an object with several names, the first one created is its own and the others are
        links; the target of a link out of the file reads ``external:<file>:<path>``.

        Raises
        ------
        ClosedError
            If the store is closed.
        CorruptDataError
            If the group is damaged.

        Notes
        -----
        The first time that a child has several names, the names of the whole file are walked.
        """
        self._session.check_open()
        found: dict[str, Child] = {}
        with self._session.reading(self._path):
            for entry in entries(self._node):
                child = self._child(entry)
                if child is not None:
                    found[decode_name(entry.name)] = child
        return dict(sorted(found.items()))

    def has(self, name: str) -> bool:
        """Return whether there is a direct child of that name, or a link.

        Raises
        ------
        ClosedError
            If the store is closed.
        CorruptDataError
            If the group is damaged.
        """
        self._session.check_open()
        try:
            raw = encode_name(name)
        except NotFoundError:
            return False
        with self._session.reading(self._path):
            return self._is_taken(raw)

    def group(self, path: str) -> HDF5Group:
        """Open a group below this one.

        Parameters
        ----------
        path : str
            Names joined by single slashes; soft links are followed.

        Raises
        ------
        ClosedError
            If the store is closed.
        NotFoundError
            If there is no group at `path`.
        LayoutNotSupportedError
            If `path` leads out of the file.
        """
        self._session.check_open()
        with self._session.reading(join(self._path, path)):
            node, where = resolve(self._session, self._node, self._path, path)
            if isinstance(node, h5g.GroupID):
                return HDF5Group(self._session, where, node)
        msg = "there is no such group; an array has that name"
        raise NotFoundError(msg, url=self._session.url, node=where)

    def array(self, path: str) -> HDF5Array:
        """Open an array below this one.

        Parameters
        ----------
        path : str
            Names joined by single slashes; soft links are followed.

        Raises
        ------
        ClosedError
            If the store is closed.
        NotFoundError
            If there is no array at `path`.
        LayoutNotSupportedError
            If its elements are neither numbers nor text, or `path` leads out of the file.
        """
        self._session.check_open()
        with self._session.reading(join(self._path, path)):
            group, name, where = locate(self._session, self._node, self._path, path)
            header = self._session.header_of(group, name)
            plain = None if header is None else plain_dataset(header)
            if plain is not None:
                opener = functools.partial(open_child, group, name)
                return HDF5Array(self._session, where, opener, plain=plain)
            node = open_child(group, name)
            if isinstance(node, h5d.DatasetID) and not is_dimension(node, header):
                return HDF5Array(self._session, where, lambda: node)
        kind = "group" if isinstance(node, h5g.GroupID) else "dimension or type"
        msg = f"there is no such array; a {kind} has that name"
        raise NotFoundError(msg, url=self._session.url, node=where)

    def create_group(self, name: str, attributes: Mapping[str, Any] | None = None) -> HDF5Group:
        """Make a direct child group.

        Raises
        ------
        ClosedError, ReadOnlyError
            If the store is closed or open for reading only.
        InvalidInputError
            If the name or an attribute cannot be stored.
        AlreadyExistsError
            If there is a child of that name.
        StorageError
            If the disk failed.
        """
        checked = check_attributes(attributes or {})
        with self._session.writing(join(self._path, name)):
            raw = self._make_room(name)
            plan = h5p.create(h5p.GROUP_CREATE)
            plan.set_link_creation_order(h5p.CRT_ORDER_TRACKED | h5p.CRT_ORDER_INDEXED)
            plan.set_obj_track_times(False)
            group = HDF5Group(
                self._session, join(self._path, name), h5g.create(self._node, raw, None, plan)
            )
        self._set_attributes(name, group, checked)
        self._session.ledger.node(group.path, checked)
        return group

    def create_array(
        self, name: str, spec: ArraySpec, attributes: Mapping[str, Any] | None = None
    ) -> HDF5Array:
        """Make a direct child array of exactly this spec; all of it reads as the fill value.

        An array of one chunk without codecs, or without axes, is stored without chunks. Named
        axes get labels and dimension scales, see `fmristore_stores.hdf5.dimensions`.

        Raises
        ------
        ClosedError, ReadOnlyError
            If the store is closed or open for reading only.
        InvalidInputError
            If the name, an axis name or an attribute cannot be stored.
        AlreadyExistsError
            If there is a child of that name.
        LayoutNotSupportedError
            If the spec has shards or an order of its own, chunks longer than the axes or of
            4 GiB, or codecs for a single number.
        CodecError
            If a codec has no HDF5 filter.
        StorageError
            If the disk failed.
        """
        checked = check_attributes(attributes or {})
        for dim in spec.dims:
            encode_label(dim)
        path = join(self._path, name)
        with self._session.writing(path):
            raw = self._make_room(name)
            self._session.room.provide(spec)
            node = create_dataset(self._node, raw, spec)
            self._session.unmasked.add(facts(node).address)
            variable = self._session.variable_text
            name_axes(self._node, name, node, spec.dims, variable_text=variable)
            array = HDF5Array(self._session, path, lambda: node, spec.codecs)
        self._session.ledger.array(path, spec)
        self._session.ledger.node(path, checked)
        self._set_attributes(name, array, checked)
        return array

    def remove(self, name: str) -> None:
        """Delete a direct child with everything below it; other names of it stay.

        Raises
        ------
        ClosedError, ReadOnlyError
            If the store is closed or open for reading only.
        NotFoundError
            If there is no child of that name.
        StorageError
            If the disk failed.
        """
        self._session.check_writable()
        with self._session.writing(join(self._path, name)):
            raw = encode_name(name)
            if not self._is_taken(raw):
                msg = f"there is no such node; {near_names(list(self.children()))}"
                raise NotFoundError(msg, url=self._session.url, node=join(self._path, name))
            self._session.places = None
            if self._node.links.get_info(raw).type == h5l.TYPE_HARD:
                remove_child(self._node, raw)
            else:
                self._node.unlink(raw)
        self._session.ledger.removed(join(self._path, name))

    def link(self, name: str, target: str) -> None:
        """Make `name` a second name of the node at absolute path `target`: a hard link.

        Raises
        ------
        ClosedError, ReadOnlyError
            If the store is closed or open for reading only.
        InvalidInputError
            If the name cannot be stored, or the group would contain itself.
        AlreadyExistsError
            If there is a child of that name.
        NotFoundError
            If there is nothing at `target`.
        StorageError
            If the disk failed.
        """
        self._session.check_writable()
        path = join(self._path, name)
        with self._session.writing(path):
            root = h5g.open(self._session.h5.id, b"/")
            node, _ = resolve(self._session, root, "", target)
            if isinstance(node, h5g.GroupID) and contains(node, facts(self._node).address):
                msg = f"a link to {target!r} from inside it would make a cycle"
                raise InvalidInputError(msg, url=self._session.url, node=path)
            raw = self._make_room(name)
            h5o.link(node, self._node, raw)

    def _set_attributes(
        self, name: str, node: HDF5Group | HDF5Array, attributes: Attributes
    ) -> None:
        """Write the attributes of a new child, which is not left behind without them."""
        try:
            if attributes:
                node.write_attributes(attributes)
        except FmristoreError:
            self.remove(name)
            raise

    def _child(self, entry: Entry) -> Child | None:
        """Link as a user sees it; None for what has no meaning outside HDF5."""
        if entry.link != h5l.TYPE_HARD:
            return Child("link", link_target(self._node, entry, self._path))
        found = facts(self._node, entry.name)
        if found.names > 1:
            here = facts(self._node).address
            place = first_places(self._session).get(found.address)
            if place is not None and (place.group, place.name) != (here, entry.name):
                return Child("link", place.path)
        if found.is_dataset:
            header = self._session.header_of(self._node, entry.name)
            return None if is_hidden(self._node, entry.name, header) else Child("array")
        return Child("group") if found.is_group else None

    def _is_taken(self, raw: bytes) -> bool:
        """Return whether a user sees a child of that name."""
        if raw in (b"", b".") or b"/" in raw or b"\x00" in raw:
            return False
        if not self._node.links.exists(raw):
            return False
        hard = self._node.links.get_info(raw).type == h5l.TYPE_HARD
        return not (hard and is_hidden(self._node, raw))

    def _make_room(self, name: str) -> bytes:
        """Check the name of a new child, and remove a hidden dimension of that name."""
        self._session.check_writable()
        raw = check_name(name).encode()
        if self._is_taken(raw):
            raise AlreadyExistsError(
                "there is a node of that name", url=self._session.url, node=join(self._path, name)
            )
        self._session.places = None
        if self._node.links.exists(raw):
            drop_hidden(self._node, raw)
        return raw
