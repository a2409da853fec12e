"""Named maps on one grid, in the voxels of a mask.

The class is whole here, with what adds, renames and removes maps, which makes the module long.
"""

from __future__ import annotations

import contextlib
import operator
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar, Self, Unpack, cast

import numpy as np
from numpy.typing import DTypeLike

from fmristore.formats.base import first_few
from fmristore.formats.fill import Fill, check_fill
from fmristore.formats.grid import write_source
from fmristore.formats.maps.inputs import (
    check_labels,
    finite_mask,
    map_source,
    map_stack,
    values_of,
)
from fmristore.formats.maps.layout import (
    LabeledContent,
    MapsLayout,
    read_headers,
    read_texts,
    rewrite_maps,
)
from fmristore.formats.maps.r import RMapsLayout
from fmristore.formats.matrix import Matrix
from fmristore.formats.options import Target, store_as
from fmristore.formats.registry import FORMAT, Layout, register
from fmristore.formats.voxelwise import MaskedObject
from fmristore.model.space import NeuroSpace
from fmristore.model.voxels import VoxelSet
from fmristore.planning.indexing import parse_selection
from fmristore.planning.options import StoreOptions, WriteOptions, takes
from fmristore.planning.text import counted, parse_size
from fmristore.sources.door import in_order, open_each_path, open_if_path, space_for
from fmristore.sources.facts import metadata_of
from fmristore.sources.images import ArraySource, ImageSource
from fmristore.sources.labelled import positional
from fmristore.sources.masks import mask_array
from fmristore_stores.errors import (
    ChangedError,
    FormatError,
    InvalidInputError,
    MetadataError,
    NotFoundError,
    SelectionError,
)
from fmristore_stores.io.location import content_token
from fmristore_stores.opening import Handle, locate
from fmristore_stores.protocol import AnyArray
from fmristore_stores.publishing.claims import Turn
from fmristore_stores.publishing.prefix import complete_replacement
from fmristore_stores.publishing.turns import take_turn

if TYPE_CHECKING:
    import nibabel

__all__ = [
    "LabeledMap",
    "LabeledVolumeSet",
]


class LabeledMap:
    """One map of a `LabeledVolumeSet`, indexed ``[x, y, z]``; it is closed with the set.

    Parameters
    ----------
    maps : LabeledVolumeSet
        The set.
    number : int
        Of the map in it.
    """

    def __init__(self, maps: LabeledVolumeSet, number: int) -> None:
        self._maps = maps
        self._number = number

    @property
    def label(self) -> str:
        """Its label."""
        return self._maps.labels[self._number]

    @property
    def space(self) -> NeuroSpace:
        """Grid in the world."""
        return self._maps.space

    @property
    def shape(self) -> tuple[int, ...]:
        """Lengths of the axes, (X, Y, Z)."""
        return self._maps.shape[:3]

    @property
    def dtype(self) -> np.dtype[Any]:
        """Type of the data."""
        return self._maps.dtype

    @property
    def ndim(self) -> int:
        """Number of axes."""
        return 3

    def __len__(self) -> int:
        return self.shape[0]

    def to_numpy(self, *, dtype: DTypeLike | None = None) -> AnyArray:
        """All of the map in memory, (X, Y, Z)."""
        return self._maps.volume(self._number, dtype=dtype)

    def __array__(
        self,
        dtype: DTypeLike | None = None,
        copy: bool | None = None,  # noqa: FBT001 - numpy's protocol
    ) -> AnyArray:
        if copy is False:
            raise InvalidInputError("a stored map cannot become an array without a copy")
        return self.to_numpy(dtype=dtype)

    def __getitem__(self, index: Any) -> Any:
        """Read a part of the map.

        Raises
        ------
        SelectionError
            If the index does not fit the map.
        """
        selection = parse_selection(index, self.shape)
        return selection.apply(self._maps.read((*selection.region, self._number)))

    def to_nifti(self, url: str | os.PathLike[str], **options: Any) -> None:
        """Write the map as NIfTI.

        Parameters
        ----------
        url : str or path
            ``.nii``, ``.nii.gz``, or ``.hdr``/``.img`` for a pair.
        **options
            As of `LabeledVolumeSet.to_nifti`.

        Raises
        ------
        AlreadyExistsError
            If there is something at `url` and ``overwrite`` is not given.
        """
        self._maps.to_nifti(url, label=self._number, **options)

    def __repr__(self) -> str:
        return f"LabeledMap({self.label!r} of {self._maps!r})"


@register("labeledvolumeset")
class LabeledVolumeSet(MaskedObject):
    """Named maps on one grid, indexed by label, or ``[x, y, z, map]`` as an array.

    ``labels`` are its labels, and ``"label" in maps`` says whether there is such a map.

    Parameters
    ----------
    handle : Handle
        The store.
    content : LabeledContent, optional
        Its contents in the store; the root group is the set by default.

    Examples
    --------
    >>> import fmristore as fs
    >>> maps = fs.open("maps.zarr")                                           # doctest: +SKIP
    >>> maps["Faces > Houses"]                                                # doctest: +SKIP
    >>> maps[32, 40, 20]                                                      # doctest: +SKIP
    """

    axes = ("x", "y", "z", "label")
    layouts: ClassVar[tuple[Layout, ...]] = (MapsLayout("labeledvolumeset"), RMapsLayout())

    def __init__(self, handle: Handle, content: LabeledContent | None = None) -> None:
        self._content: LabeledContent = self.layouts[0].read(handle) if content is None else content
        super().__init__(handle, self._content.nodes)

    @property
    def matrix(self) -> Matrix:
        """Stored values, (V, L)."""
        return self._content.maps

    @property
    def shape(self) -> tuple[int, ...]:
        """Lengths of the axes, (X, Y, Z, L) for L maps."""
        return (*self.space.spatial_shape, self._content.count)

    @cached_property
    def labels(self) -> tuple[str, ...]:
        """Labels of the maps in stored order; read when they are first needed.

        Raises
        ------
        MetadataError
            If they are damaged.
        """
        labels = read_texts(self._handle, self._content.labels, self._content.count)
        try:
            return check_labels(labels)
        except InvalidInputError as error:
            raise MetadataError(
                f"the labels are damaged: {error.message}",
                url=self._handle.locator.url,
                node=self._content.labels,
            ) from error

    @cached_property
    def source_headers(self) -> tuple[bytes, ...]:
        """NIfTI header of each map's source, in stored order; empty where there was none.

        Raises
        ------
        MetadataError
            If they are damaged.
        """
        return read_headers(self._handle, self._content.headers, self._content.count)

    @property
    def source_header(self) -> bytes:
        """NIfTI header that says what those of all maps say."""
        from fmristore.nifti import common_header

        return common_header(self.source_headers)

    def __contains__(self, label: object) -> bool:
        return label in self.labels

    # Reading --------------------------------------------------------------------------------

    def __getitem__(self, index: Any) -> Any:
        return self.volume(index) if isinstance(index, str) else self.read(index)

    def _last_names(self) -> Sequence[str]:
        return self.labels

    def _axis_entry(self, index: Any) -> Any:
        if isinstance(index, tuple) and index and isinstance(index[-1], str):
            return (*index[:-1], self._number(index[-1]))
        return index

    def volume(self, label: str | int, *, dtype: DTypeLike | None = None) -> AnyArray:
        """One map, (X, Y, Z).

        Parameters
        ----------
        label : str or int
            Its label or number; negative numbers count from the end.
        dtype : dtype, optional
            Type to return instead of `dtype`.

        Raises
        ------
        SelectionError
            If there is no such map.
        CorruptDataError
            If a chunk is damaged or missing.
        """
        return cast("AnyArray", self.read((..., self._number(label)), dtype=dtype))

    def voxel(self, x: int, y: int, z: int, *, dtype: DTypeLike | None = None) -> AnyArray:
        """Values of all maps in one voxel, (L,).

        Raises
        ------
        SelectionError
            If it lies outside the grid.
        """
        try:
            index = operator.index(x), operator.index(y), operator.index(z)
        except TypeError as error:
            raise SelectionError(f"voxel {(x, y, z)}: expected three integers") from error
        return cast("AnyArray", self.read(index, dtype=dtype))

    def _number(self, label: str | int) -> int:
        """Number of a map."""
        if isinstance(label, str):
            if label not in self.labels:
                known = ", ".join(repr(known[:80]) for known in self.labels[:5])
                more = ", ..." if self.shape[3] > 5 else ""
                raise SelectionError(
                    f"there is no map {label[:80]!r}; there are {known}{more}", url=self.url
                )
            return self.labels.index(label)
        (part,) = parse_selection(label, self.shape[3:]).region
        if not hasattr(label, "__index__"):
            raise SelectionError(f"{label!r} is not the label or number of a map")
        return int(part.start)

    holds = "named 3D maps on one grid, in the voxels of a mask"
    use_when = "maps are read by name: contrasts, subjects' maps, atlas probabilities"

    # What it says of itself ----------------------------------------------------------------

    @property
    def part_names(self) -> tuple[str, ...]:
        """Labels of the maps."""
        return self.labels

    def part(self, name: str) -> LabeledMap:
        """Docstring inherited."""
        return LabeledMap(self, self._number(name))

    def describe(self) -> dict[str, Any]:
        """Docstring inherited."""
        facts = {"shape": list(self.shape), "dtype": str(self.dtype)}
        return self._described(facts | self._mask_facts() | {"labels": first_few(self.labels)})

    def _storage_facts(self) -> dict[str, str]:
        few = first_few(self.labels)
        rest = ", ..." if few["count"] > len(few["first"]) else ""
        return {"labels": ", ".join(few["first"]) + rest, **super()._storage_facts()}

    def check(self) -> None:
        """Docstring inherited."""
        super().check()
        self.labels  # noqa: B018 - reading them checks them

    def with_fill(self, fill: Fill) -> LabeledVolumeSet:
        """The same stored maps, with another number outside the mask.

        Raises
        ------
        InvalidInputError
            If values of type `dtype` cannot be `fill`.
        """
        nodes = replace(self._nodes, fill=check_fill(fill, self.dtype))
        return LabeledVolumeSet(Handle(self._handle.locator), replace(self._content, nodes=nodes))

    # Export --------------------------------------------------------------------------------

    def as_source(self, *, max_memory: int | str = 1 << 28, nifti: bool = False) -> ImageSource:
        """All maps as the source of one image (X, Y, Z, L), map after map."""
        del max_memory, nifti
        space = replace(self.space, time_points=self.shape[3], time_unit="unknown")
        return ArraySource(self, space, template=self.source_header)

    def _map_source(self, label: str | int) -> ImageSource:
        header = self.source_headers[self._number(label)]
        return ArraySource(self.volume(label), self.space, template=header)

    def to_nibabel(self, label: str | int | None = None) -> nibabel.Nifti1Image:
        """One map as a nibabel image in memory, or all of them as a lazy one (X, Y, Z, L).

        Parameters
        ----------
        label : str or int, optional
            Label or number of a map.

        Returns
        -------
        nibabel.Nifti1Image or Nifti2Image

        Raises
        ------
        SelectionError
            If there is no such map.
        """
        if label is None:
            return super().to_nibabel()
        import nibabel

        from fmristore.nifti import parse_header

        header = parse_header(self._map_source(label).header).to_nibabel()
        second = isinstance(header, nibabel.Nifti2Header)
        cls: Any = nibabel.Nifti2Image if second else nibabel.Nifti1Image
        made: nibabel.Nifti1Image = cls(self.volume(label), np.array(self.affine), header)
        return made

    @takes(WriteOptions, max_memory=1 << 28)
    def to_nifti(
        self,
        url: str | os.PathLike[str],
        *,
        label: str | int | None = None,
        **options: Unpack[WriteOptions],
    ) -> None:
        """Write one map as NIfTI, or all of them as one image (X, Y, Z, L).

        Parameters
        ----------
        url : str or path
            ``.nii``, ``.nii.gz``, or ``.hdr``/``.img`` for a pair.
        label : str or int, optional
            Label or number of a map; all of them by default, in their order.
        **options
            `WriteOptions`.

        Raises
        ------
        SelectionError
            If there is no such map.
        AlreadyExistsError
            If there is something at `url` and `overwrite` is false.
        """
        source = self.as_source() if label is None else self._map_source(label)
        write_source(url, source, **options)

    # Creating and changing ------------------------------------------------------------------

    @classmethod
    @takes(StoreOptions)
    def create(  # noqa: PLR0913
        cls,
        source: Any,
        url: str | os.PathLike[str],
        *,
        labels: Any = None,
        mask: Any = None,
        space: NeuroSpace | AnyArray | None = None,
        space_name: str | int | None = None,
        metadata: Mapping[str, Any] | None = None,
        dtype: DTypeLike | None = None,
        fill: Fill = 0,
        **options: Unpack[StoreOptions],
    ) -> Self:
        """Store maps, and open them.

        Parameters
        ----------
        source : mapping of str to map, LabeledVolumeSet, sequence of maps, or image (X, Y, Z, L)
            A map is the path of a NIfTI file or a store, a nibabel image, a stored volume, or an
            array (X, Y, Z). An image is the path of a NIfTI file or a store, a nibabel image, a
            stored run, or an array.
        url : str or path
            New store: ``.h5`` for HDF5, ``.zarr`` for Zarr.
        labels : sequence of str, optional
            For a sequence of maps or an image: any text that is not blank, each once.
        mask : stored object, nibabel image, path, or array_like of shape (X, Y, Z), optional
            Voxels to store; all of the grid by default, or those of a `LabeledVolumeSet`.
            ``"finite"`` takes those that are neither NaN nor infinite in any map, for which all
            maps are read twice.
        space : NeuroSpace or (4, 4) affine, optional
            Grid of arrays; that of the maps that have one by default.
        space_name : str or int, optional
            Name of the space that all maps are in; comes before what they say.
        metadata : mapping, optional
            What else is known of the maps, as JSON holds it.
        dtype : dtype, optional
            Of the stored values; by default the smallest that holds those of all maps.
        fill : int or float
            What voxels outside the mask are read as.
        **options
            `StoreOptions`.

        Returns
        -------
        LabeledVolumeSet
            The new set, opened.

        Raises
        ------
        AlreadyExistsError
            If there is something at `url` and `overwrite` is false.
        InvalidInputError
            If labels are empty, repeated, or not one for each map; if maps and mask do not lie
            on one grid; if the mask is empty; or if `fill` or `dtype` do not fit the data.
            Nothing is written then.
        """
        source, url = in_order(source, url)
        target = Target.of(url, options)
        with open_each_path(source, target.storage_options) as given:
            if space is None and not (isinstance(mask, str) and mask == "finite"):
                space = space_for(given, mask, target.storage_options)
            stack = map_stack(given, labels=labels, space=space, dtype=dtype)
            stack.know(space_name, metadata_of(given) if metadata is None else metadata)
            own = given.mask if isinstance(given, MaskedObject) else None
            if isinstance(mask, str) and mask == "finite":
                mask = finite_mask(stack, own, target.max_memory)
            elif mask is None:
                mask = np.ones(stack.space.spatial_shape, np.bool_) if own is None else own
            inside = mask_array(mask, stack.space, storage_options=target.storage_options)
            voxels = VoxelSet.from_mask(inside, stack.space)
            made: Self = store_as(cls, target, (stack, voxels), target.matrix(fill))
        return made

    def add(
        self,
        label: str,
        data: Any,
        *,
        storage_options: Mapping[str, Any] | None = None,
        max_memory: int | str = 1 << 30,
    ) -> None:
        """Store one more map, behind the others.

        Parameters
        ----------
        label : str
            Of the new map.
        data : path, nibabel image, stored volume, or array_like of shape (X, Y, Z) or (V,)
            On the grid of the others, or values of the stored voxels in numpy's (C) order;
            of values that `dtype` holds.
        storage_options : mapping, optional
            For the URL of the map.
        max_memory : int or str
            Bytes that this may take.

        Raises
        ------
        InvalidInputError
            If there is such a label, or the map does not fit the others.
        ChangedError
            If another store, of other voxels, took its place since it was opened.
        ReadOnlyError
            If the store cannot be written.
        StorageError
            If writing fails, or others write to the store for longer than the seconds in
            ``FMRISTORE_WAIT`` (600).

        Notes
        -----
        The store is rewritten beside the old one, whose encoded chunks are copied, and takes
        its place when it is complete. Other objects that have the old one open must open it again.
        Several processes may add maps at once: they take turns, and each adds its map to those
        that are there when its turn comes.
        """
        max_memory = parse_size(max_memory)
        by_voxel = len(getattr(data, "shape", ())) == 1
        with self._changing(by_voxel=by_voxel) as turn:
            labels = check_labels((*self.labels, label))
            values, header = self._values(label, data, storage_options)
            rows = [*range(self.shape[3]), None]
            self._rewrite(labels, rows, values, header, turn=turn, max_memory=max_memory)

    def _values(
        self, label: str, data: Any, storage_options: Mapping[str, Any] | None
    ) -> tuple[AnyArray, bytes]:
        """Values of a map in the stored voxels, and its NIfTI header."""
        if len(getattr(data, "shape", ())) == 1:
            data = self._on_own_grid(np.asarray(positional(data, "values of the voxels")))
        with open_if_path(data, storage_options) as given:
            source = map_source(given, label=label, space=self.space)
            found = source.dtype if source.scaling is None else source.scaling.dtype(source.dtype)
            if not np.can_cast(found, self.dtype, "same_kind"):
                raise InvalidInputError(
                    f"a map of type {found} cannot be stored with the others, which are "
                    f"{self.dtype}"
                )
            return values_of(source, self.voxel_set, self.dtype), source.header

    def _on_own_grid(self, values: AnyArray) -> AnyArray:
        if values.shape != (self._nodes.count,):
            raise InvalidInputError(
                f"a map of shape {values.shape}: expected {self.shape[:3]}, or one number for "
                f"each of {self._nodes.count} stored voxels"
            )
        return self.unmask(values)

    def rename(self, old: str, new: str, *, max_memory: int | str = 1 << 30) -> None:
        """Give a map another label; as `add`.

        Raises
        ------
        SelectionError
            If there is no map `old`.
        InvalidInputError
            If there is a map `new`, or it is no label.
        """
        max_memory = parse_size(max_memory)
        with self._changing() as turn:
            labels = list(self.labels)
            labels[self._number(old)] = new
            rows = [*range(self.shape[3])]
            self._rewrite(check_labels(labels), rows, turn=turn, max_memory=max_memory)

    def remove(self, label: str, *, max_memory: int | str = 1 << 30) -> None:
        """Drop a map; as `add`.

        Raises
        ------
        SelectionError
            If there is no such map.
        InvalidInputError
            If it is the only one.
        """
        max_memory = parse_size(max_memory)
        with self._changing() as turn:
            number = self._number(label)
            rest = [row for row in range(self.shape[3]) if row != number]
            labels = check_labels([self.labels[row] for row in rest])
            self._rewrite(labels, [*rest], turn=turn, max_memory=max_memory)

    @contextlib.contextmanager
    def _changing(self, *, by_voxel: bool = False) -> Iterator[Turn]:
        """Wait for the turn to change the store, and become the object of what is there then.

        `by_voxel` says that the caller has data in the order of the stored voxels.
        """
        if not self._content.writable:
            raise InvalidInputError(
                "these maps lie in the layout of other software; "
                "store them again with LabeledVolumeSet.create(maps, url) to change them",
                url=self.url,
            )
        locator = self._handle.locator
        with take_turn(locator.url, locator.options) as turn:
            complete_replacement(locator.url, locator.options, turn)
            if content_token(locator.url, locator.kind, locator.options) != locator.token:
                self._become(self._same_voxels(by_voxel=by_voxel))
            yield turn

    def _same_voxels(self, *, by_voxel: bool) -> Handle:
        """Store as others left it, if it still has the same voxels."""
        mine: VoxelSet | None = None
        with contextlib.suppress(ChangedError, NotFoundError):
            mine = self.voxel_set  # a Zarr store that was replaced cannot be read any more
        locator = self._handle.locator
        handle = Handle(locate(locator.url, kind=locator.kind, storage_options=locator.options))
        try:
            other = LabeledVolumeSet(handle)
            same = (
                other.root_attributes.get(FORMAT) == self.format_name
                and other.space.spatial_shape == self.space.spatial_shape
                and other.space.same_grid(self.space)
                and (not by_voxel if mine is None else np.array_equal(mine.voxels, other.voxels))
            )
        except (FormatError, NotFoundError, ChangedError):
            same = False
        if not same:
            handle.close()
            msg = "another store is in its place since it was opened; open it again"
            raise ChangedError(msg, url=locator.url)
        return handle

    def _rewrite(
        self,
        labels: tuple[str, ...],
        rows: list[int | None],
        extra: AnyArray | None = None,
        header: bytes = b"",
        *,
        turn: Turn,
        max_memory: int,
    ) -> None:
        old = self.source_headers
        rewrite_maps(
            self._handle,
            labels,
            rows,
            extra,
            headers=[header if row is None else old[row] for row in rows],
            turn=turn,
            max_memory=max_memory,
        )
        locator = self._handle.locator
        self._become(
            Handle(locate(locator.url, kind=locator.kind, storage_options=locator.options))
        )

    def _become(self, handle: Handle) -> None:
        """Become the object of a changed store."""
        fill = self.fill
        content: LabeledContent = self.layouts[0].read(handle)
        self._handle.close()
        for name in [name for name in self.__dict__ if not name.startswith("_")]:
            del self.__dict__[name]
        self._handle = handle
        self._nodes = replace(content.nodes, fill=fill)
        self._content = replace(content, nodes=self._nodes)
        handle.rest()

    def _create_args(self) -> tuple[tuple[Any, ...], dict[str, Any]]:
        return (self,), {"fill": self.fill}

    def _facts(self) -> dict[str, str]:
        stored, whole = self._nodes.count, int(np.prod(self.shape[:3]))
        count = self._content.count
        return {
            "maps": counted(count, "map"),
            "shape": " x ".join(map(str, self.shape[:3])),
            "dtype": str(self.dtype),
            "stored": f"{stored} of {whole} voxels",
            "voxels": " x ".join(f"{s:.3g}" for s in self.spacing) + " mm",
        }
