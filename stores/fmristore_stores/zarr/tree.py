"""The tree of groups and arrays of a Zarr store, as zarr-python keeps it.

The tree is whole here, with its nodes, which makes the module long.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal, Self, TypeAlias, TypeGuard, cast

from fmristore_stores.errors import (
    AccessDeniedError,
    AlreadyExistsError,
    ChangedError,
    ClosedError,
    CodecError,
    FormatError,
    InvalidInputError,
    LayoutNotSupportedError,
    MemoryLimitError,
    MetadataError,
    NotFoundError,
    ReadOnlyError,
    StorageError,
    UnknownFormatError,
)
from fmristore_stores.io.lifetime import Lifetime, Version, changed
from fmristore_stores.io.sources import ByteSource, Folder
from fmristore_stores.ledger import Ledger
from fmristore_stores.limits import check_metadata, check_values
from fmristore_stores.protocol import ByteRange, Capability, Child
from fmristore_stores.spec import (
    ArraySpec,
    Attributes,
    check_attributes,
    check_name,
)
from fmristore_stores.zarr.attributes import checked_copy
from fmristore_stores.zarr.consolidated import (
    RootCopy,
    bare,
    contradictions,
    copied_names,
)
from fmristore_stores.zarr.documents import (
    Document,
    array_document,
    consolidated_document,
    encode,
    group_document,
    parse_node,
)
from fmristore_stores.zarr.errors import quiet, zarr_errors, zarr_python
from fmristore_stores.zarr.files import Files
from fmristore_stores.zarr.metadata import Placement, creation, describe
from fmristore_stores.zarr.refused import is_name, kind_of, kinds, parsed, reason
from fmristore_stores.zarr.shards import ChunkLocator

if TYPE_CHECKING:
    import zarr
    from zarr.abc.store import Store as ZarrByteStore

__all__ = ["ArrayNode", "GroupNode", "Tree"]

Node: TypeAlias = "GroupNode | ArrayNode"
_ZarrNode: TypeAlias = "zarr.Group | zarr.Array[Any]"

_READ = Capability.CHUNK_REFS | Capability.SHARDS | Capability.CHUNK_ORDER
_WRITING = Capability.WRITE | Capability.RAW_WRITE | Capability.GROWTH
_METADATA_KEYS = ("zarr.json", ".zarray", ".zgroup")
_WRITER = "fmristore_writer"
_UNKNOWN = 2**62
"""Number of objects of a folder that shall not be listed to find a few of them."""


@dataclass(slots=True)
class GroupNode:
    """An open group, shared by all handles to it."""

    attributes: Attributes
    zarr: zarr.Group | None = None
    """As zarr-python has it; None as long as it was not needed for anything."""
    document: Document | None = None
    """Its metadata, if it was made here."""


@dataclass(slots=True)
class ArrayNode:
    """An open array, shared by all handles to it."""

    attributes: Attributes
    spec: ArraySpec
    locator: ChunkLocator | None
    """Finds the encoded chunks; None where only zarr-python can read them."""
    zarr: zarr.Array[Any] | None = None
    """As zarr-python has it; None as long as it was not needed for anything."""
    document: Document | None = None
    """Its metadata, if it was made here."""


class Tree:
    """All nodes of one store.

    Parameters
    ----------
    files : Files
        Objects of the store.
    source : ByteSource
        Fetches encoded chunks.
    url : str
        Name for messages.
    writable : bool
        Whether anything may change.
    use_consolidated : bool
        Whether metadata are taken from the root where it has those of all nodes.
    folder : Folder, optional
        The local folder that is read.
    version : Version, optional
        Whether a remote store is still the one that was opened.
    """

    def __init__(
        self,
        files: Files,
        source: ByteSource,
        *,
        url: str,
        writable: bool,
        use_consolidated: bool,
        folder: Folder | None = None,
        version: Version | None = None,
    ) -> None:
        self.files = files
        self.source = source
        self.url = url
        self._folder = folder
        self._version = version
        self._released = False
        self.lifetime = Lifetime(url, self)
        self.ledger = Ledger()
        self._writable = writable
        self._use_consolidated = use_consolidated
        self._nodes: dict[str, Node] = {}
        self._root: zarr.Group | None = None
        self._rooted = False  # whether there is a root yet
        self._plain = False  # whether the root was understood without zarr-python
        self._made = False  # whether all of it is made here
        # Whether the stored root may hold metadata of all nodes that are about to be wrong.
        self._consolidated = False
        self._copy: RootCopy | None = None  # these, as they were before the first change

    @property
    def capabilities(self) -> Capability:
        """Facts about arrays of this store."""
        return _READ | _WRITING if self._writable else _READ

    @property
    def finished(self) -> bool:
        """True if fmristore made this store and nobody writes it: then no chunk is missing."""
        return not self._writable and _WRITER in self.read_attributes("")

    def live(self, *, write: bool = False) -> Self:
        """Return the tree, if it can be used.

        Raises
        ------
        ClosedError
            If the store is closed.
        ReadOnlyError
            If it is open for reading only and `write` is asked for.
        """
        if self._released:
            raise ClosedError("the store is closed", url=self.url)
        if write and not self._writable:
            raise ReadOnlyError("the store is open for reading only", url=self.url)
        return self

    def check(self) -> None:
        """See whether the store is still the one that was opened, as far as that can be known.

        Raises
        ------
        ChangedError
            If it is not.
        """
        if self._folder is not None:
            if not self._released and not self._folder.is_in_place():
                raise changed(self.url)
        elif self._version is not None:
            self._version.check()

    @cached_property
    def _store(self) -> ZarrByteStore:
        return self.files.zarr_store(read_only=not self._writable)

    # The root and the whole --------------------------------------------------------------------

    def open(self) -> None:
        """Open the root of an existing store."""
        self._rooted = True
        self._consolidated = self._writable
        node = self._understood("")
        if isinstance(node, GroupNode):
            self._nodes[""], self._plain = node, True
            return
        try:
            self._root = self._open_root()
        except NotFoundError:
            self._root = self._open_format_2()

    def _open_root(self) -> zarr.Group:
        try:
            return self._open_group("", consolidated=self._use_consolidated)
        except (MetadataError, CodecError):
            if not self._use_consolidated:
                raise
            return self._open_group("", consolidated=False)

    def _open_format_2(self) -> zarr.Group:
        try:
            root = self._open_group("", consolidated=self._use_consolidated, zarr_format=2)
        except NotFoundError:
            # A server may refuse to show the folder itself.
            with contextlib.suppress(AccessDeniedError):
                if not self.files.exists(""):
                    raise NotFoundError("there is no such store", url=self.url) from None
            msg = "this is not a Zarr group: there is no zarr.json"
            with contextlib.suppress(AccessDeniedError):
                if self.files.exists(".zarray"):
                    msg = "this is a Zarr array of format 2; a store has a group at its root"
            raise UnknownFormatError(msg, url=self.url) from None
        if self._writable:
            msg = "Zarr format 2 is read, not written; transcode the store to format 3"
            raise ReadOnlyError(msg, url=self.url)
        return root

    def create(self) -> None:
        """Make the root of a new store."""
        if self._has_metadata(""):
            raise AlreadyExistsError("there is a Zarr store already", url=self.url)
        self._rooted = self._made = True
        document = group_document({})
        self._put("", document)
        self._nodes[""] = GroupNode({}, document=document)

    def consolidate(self) -> None:
        """Write the metadata of all nodes into the root's.

        Those of a store that is changed stay where they are if they are too long together.
        """
        self.files.refresh()
        try:
            self._put("", consolidated_document(self._all_documents()))
        except MemoryLimitError:
            if self._made:
                raise
            return
        self._consolidated, self._copy = True, None
        self.files.release_root()

    def _all_documents(self) -> dict[str, Document]:
        """Metadata of all nodes, by path; those of nodes that did not change as the root has them.

        So what is read does not grow with the store.
        """
        known = {path: node.document for path, node in self._nodes.items() if node.document}
        if self._made and len(known) == len(self._nodes):
            return known
        copy = self._root_copy()
        changed = copy.take_changed(self.files)
        if changed is not None:
            made = {path: known[path] for path in changed & known.keys()}
            return copy.documents | made | self._parsed_documents(sorted(changed - made.keys()))
        paths, groups = [""], [""]
        while groups:
            group = groups.pop()
            for name, child in self.children(group).items():
                paths.append(f"{group}/{name}" if group else name)
                if child.kind == "group":
                    groups.append(paths[-1])
        return self._parsed_documents(paths)

    def _parsed_documents(self, paths: Sequence[str]) -> dict[str, Document]:
        """Metadata documents of those nodes that are there, by path."""
        documents = zip(paths, map(parsed, self._documents(paths)), strict=True)
        return {path: found for path, found in documents if found and "node_type" in found}

    def _root_copy(self) -> RootCopy:
        """The root's copy of the metadata of all nodes, read before it is dropped."""
        if self._copy is None:
            stamp = self.files.stamp()
            self._copy = RootCopy(self._documents([""])[0], stamp)
        return self._copy

    def _put(self, path: str, document: Document) -> None:
        """Write the metadata of a node, if they can be read again."""
        self.files.put(_key(path), [self._encoded(path, document)])

    def _encoded(self, path: str, document: Document) -> bytes:
        """Metadata of a node, or some of them, as bytes that can be read again."""
        data = encode(document)
        check_metadata(len(data), _key(path), self.url)
        check_values(data, self.url)
        return data

    def contradictions(self, nodes: Iterable[str]) -> list[tuple[str, str]]:
        """Nodes of which the root's copy of their metadata is not what they have themselves."""
        with self.lifetime.reading():
            return contradictions(self._documents, nodes)

    def _documents(self, paths: Sequence[str], name: str = "zarr.json") -> list[bytes | None]:
        """Metadata documents of nodes as they are stored, None where there is none."""
        keys = [_key(path, name) for path in paths]
        sizes = self.files.sizes(keys, "", _UNKNOWN)
        for key, size in zip(keys, sizes, strict=True):
            check_metadata(size or 0, key, self.url)
        there = [
            ByteRange(self.files.path(key), 0, size)
            for key, size in zip(keys, sizes, strict=True)
            if size is not None
        ]
        found = iter(self.source.fetch(there))
        documents = [None if size is None else bytes(next(found)) for size in sizes]
        for document in filter(None, documents):
            check_values(document, self.url)
        return documents

    def close(self) -> None:
        """Release everything; harmless when repeated. Reads that are under way end first."""
        self.lifetime.close()

    def release(self) -> None:
        """Release everything, unless that was done."""
        if not self._released:
            self._released = True
            self._nodes.clear()
            if "_store" in self.__dict__:
                self._store.close()
            self.source.close()
            if self._folder is not None:
                self._folder.close()

    def _open_group(
        self, path: str, *, consolidated: bool, zarr_format: Literal[2, 3] = 3
    ) -> zarr.Group:
        with zarr_python(self.url, path) as library:
            try:
                found: zarr.Group = library.open_group(
                    self._store,
                    path=path or None,
                    mode="r+" if self._writable else "r",
                    zarr_format=zarr_format,
                    use_consolidated=None if consolidated else False,
                )
            except library.errors.ContainsArrayError as error:
                msg = "this is a Zarr array; a store has a group at its root"
                raise UnknownFormatError(msg, url=self.url) from error
            return found

    def _open_array(self, path: str) -> zarr.Array[Any]:
        """An array of a store that has no root yet."""
        every_chunk = {"array.write_empty_chunks": True}
        with zarr_python(self.url, path) as library, library.config.set(every_chunk):
            found: zarr.Array[Any] = library.open_array(
                self._store, path=path, mode="r+", zarr_format=3
            )
            return found

    def _begin_change(self, path: str, *, below: bool = False) -> None:
        """Get ready to make, change or remove a node, or all `below` it as well."""
        if not self._made:
            self._root_copy().forget(path, below=below)
        self._drop_consolidated()

    def _drop_consolidated(self) -> None:
        if not self._consolidated:
            return
        document = self._node("").document if self._made else self._root_copy().to_drop
        if document is not None:
            self._put("", document)
        self._consolidated = False

    # Nodes -------------------------------------------------------------------------------------

    def group(self, path: str) -> GroupNode:
        """The group at `path`.

        Raises
        ------
        NotFoundError
            If there is no group.
        MetadataError
            If its metadata are damaged.
        """
        node = self._node(path)
        if not isinstance(node, GroupNode):
            raise NotFoundError("there is no such group", url=self.url, node=path)
        return node

    def array(self, path: str) -> ArrayNode:
        """The array at `path`.

        Raises
        ------
        NotFoundError
            If there is no array.
        MetadataError
            If its metadata are damaged or it is of a kind that cannot be used.
        CodecError
            If zarr-python does not know one of its codecs.
        """
        node = self._node(path)
        if not isinstance(node, ArrayNode):
            raise NotFoundError("there is no such array", url=self.url, node=path)
        return node

    def zarr_group(self, path: str) -> zarr.Group:
        """The group at `path` as zarr-python has it; raises as `group` does."""
        node = self.group(path)
        if node.zarr is None:
            found = self._load(path)
            if not _is_group(found):
                raise self._changed(path)
            node.zarr = found
        return node.zarr

    def zarr_array(self, path: str) -> zarr.Array[Any]:
        """The array at `path` as zarr-python has it; raises as `array` does.

        Raises
        ------
        ChangedError
            If it is no longer the array that was opened.
        """
        node = self.array(path)
        if node.zarr is None:
            found = self._parsed(path, self._load(path))
            if not isinstance(found, ArrayNode) or not _is_or_grew(found.spec, node.spec):
                raise self._changed(path)
            node.zarr = found.zarr
        return cast("zarr.Array[Any]", node.zarr)

    def _changed(self, path: str) -> ChangedError:
        msg = "the metadata of this node were changed since it was opened; open the store again"
        return ChangedError(msg, url=self.url, node=path)

    def _node(self, path: str) -> Node:
        found = self._nodes.get(path)
        if found is None:
            with self.lifetime.reading():
                found = self._understood(path) if self._plain else None
                found = found or self._opened(path)
            self._nodes[path] = found
        return found

    def _opened(self, path: str) -> Node:
        """A node as zarr-python opens it, or in our words why that cannot be."""
        try:
            return self._parsed(path, self._load(path))
        except MetadataError as error:
            (document,) = self._documents([path])
            ours = reason(parsed(document))
            if ours is None:
                raise
            ours.url, ours.node = self.url, path
            raise ours from error

    def _understood(self, path: str) -> Node | None:
        """A node, if zarr-python is not needed to understand it."""
        if not all(is_name(name) for name in path.split("/") if path):
            return None
        data = self.files.document(_key(path))
        found = None if data is None else parse_node(data)
        if found is None:
            return None
        if found.described is None:
            return GroupNode(found.attributes)
        spec, placement = found.described
        return ArrayNode(found.attributes, spec, self._locator(path, spec, placement))

    def _parsed(self, path: str, node: _ZarrNode) -> Node:
        """A node as zarr-python understands it."""
        with zarr_errors(self.url, path):
            attributes = checked_copy(node.attrs.asdict(), self.url, path)
        if _is_group(node):
            return GroupNode(attributes, node)
        array = cast("zarr.Array[Any]", node)
        with zarr_errors(self.url, path), quiet():
            document = array.metadata.to_dict()
            spec, placement = describe(document, array.dtype, array.fill_value)
        return ArrayNode(attributes, spec, self._locator(path, spec, placement), array)

    def _locator(
        self, path: str, spec: ArraySpec, placement: Placement | None
    ) -> ChunkLocator | None:
        if placement is None:
            return None
        keep = not self._writable
        return ChunkLocator(
            self.files, self.source, path, spec=spec, placement=placement, keep=keep
        )

    def _load(self, path: str) -> _ZarrNode:
        if not all(is_name(name) for name in path.split("/") if path):
            raise self._missing(path)
        if not self._rooted:
            return self._open_array(path)
        if self._root is None:
            self._root = self._open_root()
        root = self._root
        if not path:
            return root
        consolidated = root.metadata.consolidated_metadata is not None
        node = self._get(root, path)
        if node is None and consolidated:
            node = self._get(self._open_group("", consolidated=False), path)
        if node is None:
            if self._has_metadata(path):
                msg = "the metadata of this node are incomplete"
                raise MetadataError(msg, url=self.url, node=path)
            raise self._missing(path)
        if _is_group(node) and not consolidated and node.metadata.consolidated_metadata is not None:
            return self._open_group(path, consolidated=False)
        return node

    def _get(self, root: zarr.Group, path: str) -> _ZarrNode | None:
        # An array takes the setting over when it is opened; it takes effect when written to.
        every_chunk = {"array.write_empty_chunks": True}
        with zarr_python(self.url, path) as library, library.config.set(every_chunk):
            try:
                return root[path]
            except KeyError:
                return None

    def _has_metadata(self, path: str) -> bool:
        names = [_key(path, name) for name in _METADATA_KEYS]
        return any(size is not None for size in self.files.sizes(names, path, _UNKNOWN))

    def _missing(self, path: str) -> NotFoundError:
        return NotFoundError("there is no such node", url=self.url, node=path)

    def has(self, path: str) -> bool:
        """Return whether there is a node, without reading its metadata where the root has none."""
        if not all(map(is_name, path.split("/"))):
            return False
        if path in self._nodes or self._made:
            return path in self._nodes
        if self._plain and self._use_consolidated:
            return self.files.document(_key(path)) is not None
        root = None if self._root is None else self._root.metadata
        if root is not None and root.consolidated_metadata is not None:
            return path in root.consolidated_metadata.flattened_metadata
        with self.lifetime.reading():
            if root is not None and root.zarr_format == 2:
                return self._has_metadata(path)
            return self.files.sizes([_key(path)], path, _UNKNOWN) != [None]

    def children(self, path: str, *, tolerant: bool = False) -> dict[str, Child]:
        """Direct children of a group, sorted by name."""
        with self.lifetime.reading():  # a folder that was replaced meanwhile may be empty by now
            if self._folder is not None or self._made or self._copied():
                self.group(path)
                return self._children_one_by_one(path, tolerant=tolerant)
            try:
                return self._children(path)
            except (FormatError, CodecError):
                return self._children_one_by_one(path, tolerant=tolerant)

    def _children_one_by_one(self, path: str, *, tolerant: bool) -> dict[str, Child]:
        """Direct children of a group of which zarr-python opens some and refuses others."""
        found: dict[str, Child] = {}
        if self.files.can_list:
            names = [name for name in self.files.names(path) if name not in _METADATA_KEYS]
        else:
            (top,) = self._documents([""])
            names = copied_names(top, path)
        paths = [f"{path}/{name}" if path else name for name in names]
        known = self._root_copy().kinds(paths) if self._copied() else {}
        rest = [below for below in paths if below not in known]
        known |= zip(rest, kinds(rest, self._documents), strict=True)
        for name, below in zip(names, paths, strict=True):
            kind = known[below]
            if kind is not None:
                found[name] = Child(kind)
                continue
            try:
                node = self._load(below)
            except NotFoundError:
                continue  # a file, or a folder of chunks
            except (FormatError, CodecError):
                if not tolerant:
                    raise
                found[name] = Child("unreadable")
            else:
                found[name] = Child("group" if _is_group(node) else "array")
        return found

    def _copied(self) -> bool:
        """True if this store is being changed, and had the metadata of all nodes in its root."""
        return self._writable and not self._made and self._root_copy().complete

    def _children(self, path: str) -> dict[str, Child]:
        group = self.zarr_group(path)
        known = group.metadata.consolidated_metadata is not None
        if not known:
            self.files.refresh()
        with zarr_errors(self.url, path), quiet():
            members = dict(group.members(max_depth=0))
        if not members and not known and not self.files.can_list:
            msg = "this server lists nothing: consolidate the store's metadata, or name its nodes"
            raise StorageError(msg, url=self.url, node=path)
        return {
            name: Child("group" if _is_group(members[name]) else "array")
            for name in sorted(members)
        }

    def read_attributes(self, path: str) -> Attributes:
        """Attributes of a node, a copy."""
        return checked_copy(self._node(path).attributes, self.url, path)

    def write_attributes(self, path: str, attributes: Mapping[str, Any]) -> None:
        """Replace all attributes of a node."""
        checked = check_attributes(attributes)
        node = self._node(path)
        stored = node.document or bare(parsed(self._documents([path])[0]))
        if kind_of(stored) != ("group" if isinstance(node, GroupNode) else "array"):
            raise self._changed(path)
        document = stored | {"attributes": checked}
        data = self._encoded(path, document)
        self._begin_change(path)
        self.files.put(_key(path), [data])
        node.document, node.attributes = document, checked
        self.ledger.node(path, checked)

    # Making and removing -----------------------------------------------------------------------

    def new_group(self, parent: str, name: str, attributes: Mapping[str, Any]) -> str:
        """Make a group and return its path."""
        path = self._new_path(parent, name)
        checked = check_attributes(attributes)
        self._begin_change(path)
        self._place(path, GroupNode(checked, document=group_document(checked)))
        self.ledger.node(path, checked)
        return path

    def new_array(
        self, parent: str, name: str, spec: ArraySpec, attributes: Mapping[str, Any]
    ) -> str:
        """Make an array and return its path."""
        path = self._new_path(parent, name)
        checked = check_attributes(attributes)
        arguments = creation(spec)
        document = array_document(spec, checked)
        self._begin_change(path)
        if document is not None:
            described = describe(document, spec.dtype, spec.fill)
            locator = self._locator(path, *described)
            self._place(path, ArrayNode(checked, described.spec, locator, document=document))
        else:
            self._encoded(path, {"attributes": checked})
            with zarr_python(self.url, path, LayoutNotSupportedError) as library:
                node = library.create_array(self._store, name=path, attributes=checked, **arguments)
                found = self._parsed(path, node)
                found.document = node.metadata.to_dict()
            self._nodes[path] = found
        self.ledger.array(path, spec)
        self.ledger.node(path, checked)
        return path

    def _place(self, path: str, node: Node) -> None:
        """Store a node that was not there."""
        if not self.files.fresh and self.files.sizes([_key(path)], path, _UNKNOWN) != [None]:
            raise AlreadyExistsError("there is a node of that name", url=self.url, node=path)
        assert node.document is not None
        self._put(path, node.document)
        self._nodes[path] = node

    @contextlib.contextmanager
    def longer(self, path: str, length: int) -> Iterator[ArrayNode]:
        """An array with more along its first axis: the shape is stored when the block ends."""
        node = self.array(path)
        found = self._parsed_array(path, length)
        yield found
        self.files.flush()  # what was written before the shape that makes it seen
        self._begin_change(path)
        (document,) = self._documents([path])
        words = json.loads(document or b"{}")
        if words.get("shape") != list(node.spec.shape):
            raise self._changed(path)
        words["shape"] = list(found.spec.shape)
        self._put(path, words)
        found.document = words
        self._nodes[path] = found

    def _parsed_array(self, path: str, length: int) -> ArrayNode:
        """An array as it is when its first axis has another length; nothing changes."""
        node = self.array(path)
        old, unit = node.spec.shape[0], node.spec.layout.units[0]
        if length < old or old % unit:
            text = f"{length} along an axis of {old}, stored by {unit}: only whole units are added"
            raise InvalidInputError(text, url=self.url, node=path)
        document = self.zarr_array(path).metadata.to_dict()
        _, placement = describe(document, node.spec.dtype, node.spec.fill)
        spec = replace(node.spec, shape=(length, *node.spec.shape[1:]))
        return ArrayNode(node.attributes, spec, self._locator(path, spec, placement))

    def _new_path(self, parent: str, name: str) -> str:
        check_name(name)
        self.group(parent)
        path = f"{parent}/{name}" if parent else name
        if path in self._nodes:
            raise AlreadyExistsError("there is a node of that name", url=self.url, node=path)
        return path

    def remove(self, parent: str, name: str) -> None:
        """Delete a node with everything below it."""
        path = f"{parent}/{name}" if parent else name
        if not is_name(name) or not self._is_removable(path):
            raise self._missing(path)
        self._begin_change(path, below=True)
        self.files.remove_tree(path)
        for known in [p for p in self._nodes if p == path or p.startswith(f"{path}/")]:
            del self._nodes[known]
        self.ledger.removed(path)

    def _is_removable(self, path: str) -> bool:
        try:
            return self._has_metadata(path)
        except MetadataError:
            return True  # a link that leads out of the store: the link itself can go


def _is_group(node: object) -> TypeGuard[zarr.Group]:
    """Return whether what zarr-python opened is a group."""
    import zarr

    return isinstance(node, zarr.Group)


def _key(path: str, name: str = "zarr.json") -> str:
    """Key of a document of the node at `path`."""
    return f"{path}/{name}" if path else name


def _is_or_grew(now: ArraySpec, opened: ArraySpec) -> bool:
    """True if an array is the one that was opened, which may have grown along its first axis."""
    if now == opened:
        return True
    grown = now.shape[:1] > opened.shape[:1] and now.shape[1:] == opened.shape[1:]
    return grown and replace(now, shape=opened.shape) == opened
