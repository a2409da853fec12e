"""Carrying out a transcode plan: write, read back, compare, publish."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import itertools
import math
import os
import threading
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, Unpack, cast, overload

import numpy as np

from fmristore.formats.registry import FORMAT
from fmristore.lists import Places, of_many
from fmristore.planning.blocks import cut_into_blocks
from fmristore.planning.layout import Access
from fmristore.planning.options import ManyOptions, WriteOptions, takes
from fmristore.planning.progress import Progress
from fmristore.planning.rechunk import read_in_blocks
from fmristore.planning.streams import streaming
from fmristore.planning.text import parse_size
from fmristore.transcoding.arrays import HDF5, ZARR, ArrayStep
from fmristore.transcoding.plan import TranscodePlan, plan_transcode
from fmristore.transcoding.report import TranscodeReport
from fmristore.transcoding.tree import LINKS
from fmristore.transcoding.whole import is_own_data, whole_arrays
from fmristore_stores.causes import naming
from fmristore_stores.chunks.cache import ChunkCache
from fmristore_stores.chunks.encoded import Room, checksum, fetch_encoded
from fmristore_stores.chunks.reader import ChunkReader
from fmristore_stores.chunks.threads import for_each, worker_count
from fmristore_stores.chunks.writer import unit_chunks, write
from fmristore_stores.codecs import pipeline as codecs
from fmristore_stores.errors import CorruptDataError, InvalidInputError
from fmristore_stores.grid import ChunkKey, Region, grid_shape
from fmristore_stores.io.location import Kind, kind_of_name, normalise
from fmristore_stores.opening import locate, open_store
from fmristore_stores.protocol import (
    AnyArray,
    Array,
    Buffer,
    Capability,
    ChunkRefs,
    Group,
    RawWrite,
    Store,
    TypedAttribute,
)
from fmristore_stores.publishing.publish import create_store
from fmristore_stores.spec import ArraySpec, Attributes, CodecSpec

if TYPE_CHECKING:
    from fmristore.many import RunsReport

__all__ = ["Written", "execute", "make_plan", "transcode"]

_BATCH_BYTES = 8 * 1024 * 1024
"""Decoded size of the write units that a thread takes at once."""

_PIECE_BYTES = 1024 * 1024
"""Bytes of values that a thread copies at once to hash them."""

Missing = Literal["fill", "error"]
Whole = Callable[[], Collection[str] | None]
Digests = dict[tuple[int, ...], bytes]
"""Digest of each write unit of an array, by its place in the grid."""


class _TranscodeOptions(WriteOptions, total=False):
    """Options of `transcode`."""

    kind: Kind | None
    access: Access | None
    codec: str | None
    allow: Collection[str]


class _TranscodeMany(_TranscodeOptions, ManyOptions, total=False):
    """Options of `transcode` for many stores."""


@overload
def transcode(source: Places, url: Places, **options: Unpack[_TranscodeMany]) -> RunsReport: ...
@overload
def transcode(
    source: str | os.PathLike[str],
    url: str | os.PathLike[str],
    **options: Unpack[_TranscodeOptions],
) -> TranscodeReport: ...
@of_many("source", "url")
@takes(WriteOptions)
def transcode(
    source: Any,
    url: Any,
    *,
    kind: Kind | None = None,
    access: Access | None = None,
    codec: str | None = None,
    allow: Collection[str] = (),
    **options: Unpack[WriteOptions],
) -> Any:
    """Bring everything in a store into a new one of either kind.

    Encoded chunks are copied as they are wherever grid, order, type and codecs agree; otherwise
    they are decoded and encoded again. Before the new store becomes visible it is read back and
    its digests are compared with those of what was read from the source.

    Parameters
    ----------
    source : str or path, or a list or mapping of them
        An existing store, or many.
    url : str or path, or a list or mapping of them
        The new store; for many one each, made as `fmristore.map_runs` does it.
    kind : {"hdf5", "zarr"}, optional
        Of the new store; by the ending of its name otherwise.
    access : {"time", "volume", "balanced", "both"}, optional
        Rechunk images for this; chunks are kept otherwise. ``"both"`` adds a second copy to
        a run, any other drops it; a copy that has the layout wanted already is kept as it is.
    codec : str, optional
        Preset to encode with, or ``"keep"`` for the present codecs, and no others.
    allow : collection of str
        Losses that are accepted, by name; see `fmristore.transcoding.plan.LOSSES`.
    progress : callable, optional
        Called with the bytes of values done and in all, writing and checking.
    **options
        `WriteOptions`.

    Returns
    -------
    TranscodeReport
        What was kept, converted and dropped, and the digests.
    RunsReport
        For many stores: what became of each, and their reports by name. One that fails stops no
        other one, and raises nothing; `RunsReport.check` does.

    Raises
    ------
    LossyError
        If something cannot be carried over and is not allowed to be lost.
    AlreadyExistsError
        If there is something at `url` and `overwrite` is false.
    CorruptDataError
        If the source is damaged, or the new store does not read as the source does.
    """
    limit = parse_size(options.get("max_memory", 1 << 30))
    storage_options = options.get("storage_options")
    started = time.perf_counter()
    with open_store(source, storage_options=storage_options) as store:
        plan = make_plan(
            store,
            url,
            kind=kind,
            access=access,
            codec=codec,
            allow=allow,
            max_memory=limit,
        )
        locator = locate(source, storage_options=storage_options)
        digests = execute(
            store,
            plan,
            whole=functools.cache(lambda: whole_arrays(locator, store)),
            overwrite=options.get("overwrite", False),
            storage_options=storage_options,
            progress=options.get("progress"),
        )
    return TranscodeReport(plan=plan, digests=digests, seconds=time.perf_counter() - started)


def make_plan(
    store: Store, target: str | os.PathLike[str], *, kind: Kind | None = None, **options: Any
) -> TranscodePlan:
    """Plan the transcode of an opened store; options as of `plan_transcode`.

    Raises
    ------
    InvalidInputError
        If neither `kind` nor the name of the target tells what it shall be.
    """
    url = normalise(target)
    chosen = kind or kind_of_name(url)
    if chosen is None:
        raise InvalidInputError("the name of a new store must end in .h5 or .zarr", url=url)
    return plan_transcode(store, url, HDF5 if chosen == "hdf5" else ZARR, **options)


def execute(
    store: Store,
    plan: TranscodePlan,
    *,
    whole: Whole = tuple,
    overwrite: bool = False,
    storage_options: Mapping[str, Any] | None = None,
    progress: Progress | None = None,
) -> dict[str, str]:
    """Carry out a plan for an opened source.

    Parameters
    ----------
    store : Store
        The source.
    plan : TranscodePlan
        Made for it.
    whole : callable, optional
        Gives the arrays of the source of which a missing chunk is damage, besides those with a
        digest. None for those that have the name under which formats keep their data. Called where
        that has to be known, from any thread.
    overwrite, storage_options, progress
        As of `transcode`.

    Returns
    -------
    dict of str to str
        Digest of each array.

    Raises
    ------
    CorruptDataError
        If the new store does not read as the source does; nothing is published then.
    """
    means = _Means(plan.max_memory, _Done(2 * plan.nbytes, progress), Room())
    written: dict[str, Written] = {}

    def check(new: Store) -> None:
        for step in plan.arrays:
            array = new.root.array(step.path)
            encoded, digests = written[step.path]
            with naming(plan.target, step.path):
                found = _digest_stored(array, step, means, encoded=encoded)
            if found != digests:
                raise CorruptDataError(
                    "what was written does not read as the source does; nothing was published",
                    url=plan.target,
                    node=step.path,
                )

    with create_store(
        plan.target,
        kind=plan.kind,
        overwrite=overwrite,
        storage_options=storage_options,
        check=check,
        variable_text=FORMAT not in dict(plan.groups).get("", {}),
    ) as new:
        # A store takes the first name that an array gets for its own, and the others for links to
        # it: so groups that hold nothing but links come after the arrays.
        parents = {parent for step in plan.arrays for parent in _parents(step.path)}
        made: dict[str, Group] = {"": new.root}
        groups = [(p, _others(words, plan.typed.get(p, {}))) for p, words in plan.groups]
        _make_groups(made, [group for group in groups if group[0] in parents])
        for step in plan.arrays:
            folder, _, name = step.path.rpartition("/")
            typed = plan.typed.get(step.path, {})
            array = made[folder].create_array(name, step.target, _others(step.attributes, typed))
            _write_typed(array, typed)
            missing = functools.partial(_missing, step, whole)
            source = store.root.array(step.origin)
            with naming(plan.source, step.origin):
                written[step.path] = _copy(source, array, step, means, missing)
        _make_groups(made, [group for group in groups if group[0] not in parents])
        _make_links(new, made, groups, plan.links)
        for path, group in made.items():
            _write_typed(group, plan.typed.get(path, {}))
    return {path: _combine(digests) for path, (_, digests) in written.items()}


class Written(NamedTuple):
    """Facts of an array that was copied."""

    encoded: bool
    """True if the digests are of encoded chunks, not of values."""
    digests: Digests


class _Done:
    """Counts bytes for a progress callback, from any thread."""

    def __init__(self, total: int, progress: Progress | None) -> None:
        self._total = total
        self._progress = progress
        self._done = 0
        self._lock = threading.Lock()

    def add(self, count: int) -> None:
        """Count bytes and report."""
        if self._progress is not None:
            with self._lock:
                self._done = min(self._total, self._done + count)
                self._progress(self._done, self._total)


class _Means(NamedTuple):
    """Memory and progress of a transcode, for all its arrays, written and read again."""

    max_memory: int
    done: _Done
    room: Room


# The tree ------------------------------------------------------------------------------------


def _parents(path: str) -> list[str]:
    """Paths of the groups that a node lies in, the root's left out."""
    segments = path.split("/")
    return ["/".join(segments[:depth]) for depth in range(1, len(segments))]


def _make_groups(made: dict[str, Group], groups: Iterable[tuple[str, Attributes]]) -> None:
    """Make groups below those that were made before, by path: none is looked for from the root."""
    for path, attributes in groups:
        if path:
            folder, _, name = path.rpartition("/")
            made[path] = made[folder].create_group(name, attributes)


def _others(attributes: Attributes, typed: Collection[str]) -> Attributes:
    """Attributes but for those that are written with their types."""
    return {name: value for name, value in attributes.items() if name not in typed}


def _write_typed(node: Any, attributes: Mapping[str, TypedAttribute]) -> None:
    """Attributes that a JSON value does not say all of; the plan has some only where that works."""
    if attributes:
        node.write_typed(attributes)


def _make_links(
    new: Store,
    made: dict[str, Group],
    groups: Iterable[tuple[str, Attributes]],
    links: Iterable[tuple[str, str]],
) -> None:
    """Make the links, or record them; then the root's attributes, the last thing written."""
    recorded: dict[str, list[dict[str, str]]] = {}
    for path, target in links:
        folder, _, name = path.rpartition("/")
        if Capability.HARD_LINKS in new.capabilities:
            made[folder].link(name, target)
        else:
            recorded.setdefault(folder, []).append({"name": name, "source": ".", "path": target})
    for path, attributes in groups:
        kept = {LINKS: recorded[path]} if path in recorded else {}
        if path and kept:
            made[path].write_attributes(attributes | kept)
        elif not path:
            new.root.write_attributes(attributes | kept)


# Data ----------------------------------------------------------------------------------------


def _copy(
    source: Array,
    target: Array,
    step: ArrayStep,
    means: _Means,
    missing: Callable[[], Missing],
) -> Written:
    if step.method == "values":
        values = source.read()
        target.write(None, values)
        return Written(encoded=False, digests={(): _hash_text(values)})
    if step.method == "verbatim" and Capability.RAW_WRITE in target.capabilities:
        refs, raw = cast("ChunkRefs", source), cast("RawWrite", target)
        digests = _copy_encoded(refs, raw, step, means, missing)
        return Written(encoded=True, digests=digests)
    digests = _copy_values(source, target, step, means, missing())
    return Written(encoded=False, digests=digests)


def _copy_encoded(
    source: ChunkRefs,
    target: RawWrite,
    step: ArrayStep,
    means: _Means,
    missing: Callable[[], Missing],
) -> Digests:
    """Hand the encoded chunks of each write unit over as they are."""
    digests: Digests = {}
    # A whole file takes one chunk at a time: one thread writes to it while others read.
    several = Capability.SHARDS in target.capabilities
    turn = contextlib.nullcontext() if several else threading.Lock()
    pipeline, nbytes = step.target.codecs, step.target.chunk_nbytes

    def work(batch: list[ChunkKey]) -> None:
        units = list(_encoded(source, step, batch, means.room))
        for unit, keys, chunks in units:
            for key, chunk in zip(keys, chunks, strict=True):
                if chunk is not None:
                    _check_encoded(pipeline, chunk, nbytes, key)
                elif key is not None and missing() == "error":
                    raise CorruptDataError(f"chunk {key} is missing", node=step.path)
            digests[unit] = _hash_chunks(chunks)
        with turn:
            for unit, _, chunks in units:
                target.write_encoded(unit, chunks)
        means.done.add(len(batch) * _unit_nbytes(step.target))

    memory = means.max_memory
    for_each(work, _batches(step.target, memory), workers=_workers(step.target, memory))
    return digests


def _encoded(
    array: ChunkRefs, step: ArrayStep, units: Sequence[ChunkKey], room: Room
) -> Iterator[tuple[ChunkKey, list[ChunkKey | None], list[Buffer | None]]]:
    """Write units of the target with their chunks, and those encoded as they lie in `array`."""
    spec, target = array.spec, step.target
    to_array = [target.dims.index(d) if d else a for a, d in enumerate(spec.dims)]
    wanted = [unit_chunks(unit, target) for unit in units]
    present = [key for keys in wanted for key in keys if key is not None]
    if to_array != sorted(to_array):
        present = [tuple([key[i] for i in to_array]) for key in present]
    fetched = iter(fetch_encoded(array, present, room))

    def chunk_of(key: ChunkKey | None) -> Buffer | None:
        found = None if key is None else next(fetched)
        if found is None:
            return None
        ref, data = found
        if ref.skip:
            decoded = codecs.decode(spec.codecs, data, spec.chunk_nbytes, skip=ref.skip)
            data = codecs.encode(spec.codecs, np.frombuffer(decoded, np.uint8))
        return data

    for unit, keys in zip(units, wanted, strict=True):
        yield unit, keys, [chunk_of(key) for key in keys]


def _check_encoded(
    pipeline: tuple[CodecSpec, ...], chunk: Buffer, nbytes: int, key: ChunkKey | None
) -> None:
    """Look for damage that shows without decoding; the error names the chunk."""
    try:
        codecs.check_encoded(pipeline, chunk, nbytes)
    except CorruptDataError as error:
        raise CorruptDataError(f"chunk {key}: {error.message}") from error


def _missing(step: ArrayStep, whole: Whole) -> Missing:
    """Meaning of a missing chunk of the source: damage, where all of them were written once."""
    if "digest" in step.attributes:
        return "error"
    paths = whole()
    of_format = is_own_data(step.origin) if paths is None else step.origin in paths
    return "error" if of_format else "fill"


def _copy_values(
    source: Array, target: Array, step: ArrayStep, means: _Means, missing: Missing
) -> Digests:
    """Decode and encode again, in blocks of whole write units."""
    means.room.clear()  # the blocks take what memory there may be
    digests: Digests = {}
    reader = ChunkReader(
        source,
        cache=ChunkCache(means.max_memory // 8),
        missing=missing,
    )
    units = step.target.layout.units
    if not step.target.shape or 0 in step.target.shape:
        values = source.read().transpose(step.axes)
        target.write(None, values)
        return {(): _hash_values(values)}
    with streaming(read_in_blocks(reader, step.axes, units, means.max_memory)) as blocks:
        for block, values in blocks:
            write(target, block, values)
            digests |= _hash_units(block, values, units)
            means.done.add(values.nbytes)
            del values  # before the next block takes its memory
    return digests


def _hash_units(block: Region, values: AnyArray, units: tuple[int, ...]) -> Digests:
    """Digests of the write units that a block of values consists of."""
    digests: Digests = {}

    def work(region: Region) -> None:
        places = zip(block, region, units, strict=True)
        unit = tuple((b.start + r.start) // u for b, r, u in places)
        digests[unit] = _hash_values(values[region])

    for_each(work, list(cut_into_blocks(values.shape, units)))
    return digests


def _digest_stored(array: Array, step: ArrayStep, means: _Means, *, encoded: bool) -> Digests:
    """Compute from a finished store what copying computed from the source."""
    if step.method == "values":
        return {(): _hash_text(array.read())}
    if not step.target.shape or 0 in step.target.shape:
        return {(): _hash_values(array.read())}
    if not encoded:
        means.room.clear()
    digests: Digests = {}
    reader = ChunkReader(array, cache=ChunkCache(0))

    def work(batch: list[ChunkKey]) -> None:
        if encoded:
            for unit, _, chunks in _encoded(cast("ChunkRefs", array), step, batch, means.room):
                digests[unit] = _hash_chunks(chunks)
        else:
            for unit in batch:
                digests[unit] = _hash_values(reader.read(_unit_region(unit, step.target)))
        means.done.add(len(batch) * _unit_nbytes(step.target))

    memory = means.max_memory
    for_each(work, _batches(step.target, memory), workers=_workers(step.target, memory))
    return digests


def _batches(spec: ArraySpec, max_memory: int) -> Iterator[list[ChunkKey]]:
    """All write units, small ones several at a time."""
    units = iter(np.ndindex(*grid_shape(spec.shape, spec.layout.units)))
    count = max(1, min(_BATCH_BYTES, max_memory // 8) // max(1, _unit_nbytes(spec)))
    while batch := list(itertools.islice(units, count)):
        yield batch


def _unit_region(unit: ChunkKey, spec: ArraySpec) -> Region:
    return tuple(
        slice(k * u, min((k + 1) * u, n), 1)
        for k, u, n in zip(unit, spec.layout.units, spec.shape, strict=True)
    )


def _unit_nbytes(spec: ArraySpec) -> int:
    return math.prod(spec.layout.units) * spec.dtype.itemsize


def _workers(spec: ArraySpec, max_memory: int) -> int:
    """As many threads as may each hold the encoded chunks of a batch twice."""
    size = max(min(_BATCH_BYTES, max_memory // 8), _unit_nbytes(spec), 1)
    return max(1, min(worker_count(), max_memory // (2 * size)))


def _hash_chunks(chunks: list[Buffer | None]) -> bytes:
    """Checksums of encoded chunks, which need only show whether the copy is what was read."""
    return b"".join(map(checksum, chunks))


def _hash_values(values: AnyArray) -> bytes:
    digest = hashlib.sha256()
    for part in _pieces(values):
        digest.update(np.ascontiguousarray(part).reshape(-1).view(np.uint8).data)
    return digest.digest()


def _pieces(values: AnyArray) -> Iterator[AnyArray]:
    """Cut values, in their order, into pieces of which a copy takes little memory."""
    if values.flags.c_contiguous or values.nbytes <= _PIECE_BYTES:
        yield values
        return
    count = max(1, _PIECE_BYTES * len(values) // values.nbytes)
    for first in range(0, len(values), count):
        part = values[first : first + count]
        yield from _pieces(part if count > 1 else part[0])


def _hash_text(values: AnyArray) -> bytes:
    texts = "\0".join(map(str, values.reshape(-1).tolist()))
    return hashlib.sha256(f"{values.shape}{texts}".encode()).digest()


def _combine(digests: Digests) -> str:
    return "sha256:" + hashlib.sha256(b"".join(d for _, d in sorted(digests.items()))).hexdigest()
