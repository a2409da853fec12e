"""C-Blosc2 where it is installed, which decodes frames of Blosc 1 in three quarters of the time.

The wheels of the package blosc2 carry the C library for other programs; it is called without
importing the package, which takes long and brings threads of its own. A call leaves Python's lock.

References
----------
The library in the wheels: https://github.com/Blosc/c-blosc2/blob/main/COMPILING_WITH_WHEELS.rst
Its functions: https://www.blosc.org/c-blosc2/reference/context.html
"""

from __future__ import annotations

import ctypes
import functools
import struct
import threading
import weakref
from importlib.util import find_spec
from pathlib import Path

import numpy as np

from fmristore_stores.errors import CorruptDataError, MemoryLimitError
from fmristore_stores.protocol import AnyArray, Buffer

__all__ = ["HEADER", "available", "decodes", "decompress", "integers"]

_NAMES = ("libblosc2.so", "libblosc2.dylib", "blosc2.dll", "libblosc2.dll")
_FOLDERS = ("lib", "bin", "")
"""Folders of the package that may have it."""
_VERSION = 2
"""Of the format of Blosc 1."""
_COMPRESSORS = (1, 4)
"""Numbers of lz4 and zstd in that format."""
_PLAIN, _WHOLE_BLOCKS = 0x02, 0x10
"""Flags of frames that are only copied, and of those whose blocks are one stream each."""
_BOTH_SHUFFLES, _DELTA = 0x05, 0x08
"""Flags that mean something else in the format of Blosc 2."""
_DECODED = frozenset(
    flags
    for flags in range(256)
    if flags >> 5 in _COMPRESSORS
    and flags & (_PLAIN | _WHOLE_BLOCKS | _DELTA) == _WHOLE_BLOCKS
    and flags & _BOTH_SHUFFLES != _BOTH_SHUFFLES
)
"""Flags of frames that are decoded here."""
HEADER = struct.Struct("<BBBBiii")
"""Numbers that a frame begins with, see `fmristore_stores.codecs.blosc.blosc_header`."""
_INTEGER = struct.Struct("<i").unpack_from
_START = ctypes.c_char * 0
"""Begin of memory, which takes a third of the time of numpy's ``ctypes``."""


class _Settings(ctypes.Structure):
    """Settings of a decoder, as the library gives them: at least as long as in any version."""

    _fields_ = (("room", ctypes.c_uint64 * 16),)


@functools.cache
def available() -> bool:
    """Return whether the library is installed."""
    return _library() is not None


def decodes(data: Buffer, header: tuple[int, ...]) -> bool:
    """Return whether a frame is decoded here.

    It is not where the library would take a damaged one for one of Blosc 2: there the length of a
    stream may be 0, which stands for zeros, or negative.

    Parameters
    ----------
    data : bytes-like
        The frame.
    header : tuple of int
        What its header says.
    """
    version, _, flags, _, size, blocksize, total = header
    if version != _VERSION or flags not in _DECODED or not 0 < blocksize <= size:
        return False
    count = -(-size // blocksize)
    if not available() or HEADER.size + 4 * count > total:
        return False
    last = total - 4
    for start in integers(count).unpack_from(data, HEADER.size):
        if not HEADER.size <= start <= last:
            return False
        (length,) = _INTEGER(data, start)
        if not 0 < length <= last - start:
            return False
    return True


@functools.lru_cache
def integers(count: int) -> struct.Struct:
    """Layout of so many integers of a frame."""
    return struct.Struct(f"<{count}i")


def decompress(data: Buffer, room: AnyArray) -> None:
    """Decode a frame.

    Parameters
    ----------
    data : bytes-like
        As `decodes` says that it is decoded, as long as its header says.
    room : ndarray of uint8
        As long as what the frame decodes to.

    Raises
    ------
    CorruptDataError
        If the frame is damaged.
    MemoryLimitError
        If there is no memory to decode in.
    """
    try:
        decoder = _threads.decoder
    except AttributeError:
        decoder = _threads.decoder = _Decoder()
    if isinstance(data, bytes):
        frame: bytes | int = data
        nbytes = len(data)
    else:
        memory = np.frombuffer(data, np.uint8)
        frame, nbytes = memory.ctypes.data, memory.nbytes
    size = room.nbytes
    into = _START.from_buffer(room.data)
    found = decoder.function(decoder.context, frame, nbytes, into, size)
    if found != size:
        raise CorruptDataError(
            f"blosc cannot decode a chunk: its bytes are damaged (error {found} of C-Blosc2)"
        )


class _Decoder:
    """A decoder of the library, which one thread may use at a time, and the function for it."""

    def __init__(self) -> None:
        library = _library()
        assert library is not None
        settings = library.blosc2_get_blosc2_dparams_defaults()
        self.context = library.blosc2_create_dctx(settings)
        self.function = library.blosc2_decompress_ctx
        if not self.context:
            raise MemoryLimitError("C-Blosc2 has no memory to decode in")
        freed = weakref.finalize(self, library.blosc2_free_ctx, self.context)
        freed.atexit = False


_threads = threading.local()


@functools.cache
def _library() -> ctypes.CDLL | None:
    """The C library; None if it is not installed, or lacks what is needed."""
    try:
        package = find_spec("blosc2")
        if package is None or package.origin is None:
            return None
        folder = Path(package.origin).parent
        places = (folder / part / name for part in _FOLDERS for name in _NAMES)
        path = next(filter(Path.exists, places), None)
        if path is None:
            return None
        library = ctypes.CDLL(str(path))
        library.blosc2_get_blosc2_dparams_defaults.restype = _Settings
        library.blosc2_create_dctx.argtypes = [_Settings]
        library.blosc2_create_dctx.restype = ctypes.c_void_p
        library.blosc2_free_ctx.argtypes = [ctypes.c_void_p]
        library.blosc2_free_ctx.restype = None
        pointer, length = ctypes.c_void_p, ctypes.c_int32
        library.blosc2_decompress_ctx.argtypes = [pointer, pointer, length, pointer, length]
        library.blosc2_init()
    except (OSError, AttributeError, ValueError):
        return None
    return library
