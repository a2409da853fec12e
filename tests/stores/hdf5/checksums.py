"""Checksums of HDF5's metadata: Jenkins' lookup3, for files that are damaged and have right ones.

References
----------
https://burtleburtle.net/bob/c/lookup3.c, in the public domain
"""

from __future__ import annotations

import struct

__all__ = ["lookup3", "renew"]

_MASK = 0xFFFFFFFF
_MIX = ((0, 2, 4, 1), (1, 0, 6, 2), (2, 1, 8, 0), (0, 2, 16, 1), (1, 0, 19, 2), (2, 1, 4, 0))
"""Subtracted from, subtracted, rotation, added: places among three words."""
_LAST = ((2, 1, 14), (0, 2, 11), (1, 0, 25), (2, 1, 16), (0, 2, 4), (1, 0, 14), (2, 1, 24))


def _rotated(word: int, by: int) -> int:
    return (word << by | word >> 32 - by) & _MASK


def lookup3(data: bytes) -> int:
    """Checksum of some bytes."""
    words = [(0xDEADBEEF + len(data)) & _MASK] * 3
    if not data:
        return words[2]
    last = (len(data) - 1) // 12 * 12
    for start in range(0, last + 1, 12):
        block = data[start : start + 12].ljust(12, b"\0")
        words = [
            (w + more) & _MASK for w, more in zip(words, struct.unpack("<3I", block), strict=True)
        ]
        if start == last:
            break
        for target, other, by, third in _MIX:
            words[target] = (words[target] - words[other]) & _MASK ^ _rotated(words[other], by)
            words[other] = (words[other] + words[third]) & _MASK
    for target, other, by in _LAST:
        words[target] = ((words[target] ^ words[other]) - _rotated(words[other], by)) & _MASK
    return words[2]


def renew(content: bytearray, begin: int, end: int, at: int) -> None:
    """Put the right checksum of a block where it belongs.

    Parameters
    ----------
    content : bytearray
        Of the file.
    begin, end : int
        The block.
    at : int
        Where its checksum lies: behind it, or in it, where it counts as zeros.
    """
    content[at : at + 4] = bytes(4)
    content[at : at + 4] = lookup3(bytes(content[begin:end])).to_bytes(4, "little")
