"""Names that come from data (scans, labels) as names of nodes, and back."""

from __future__ import annotations

import hashlib
import re
from typing import Any
from urllib.parse import unquote_to_bytes

from fmristore_stores.errors import FmristoreError, InvalidInputError, MetadataError
from fmristore_stores.spec import MAX_NAME_BYTES, check_name

__all__ = ["decode_name", "encode_name"]

_ESCAPED = re.compile(r'[%/\\<>:"|?*\x00-\x1f\x7f]')
"""Characters that node names or Windows' file names must not hold, and the escape itself."""
_MALFORMED = re.compile(r"%(?![0-9A-F]{2})")
_CUT = "%~"
"""Begins the digest that ends a shortened name; no other encoded name holds it."""


def encode_name(text: Any) -> str:
    """Turn any text into the name of a node, one that every store and file system takes.

    Letters of any script, digits, spaces and most punctuation stay as they are; the rest becomes
    ``%`` and two hexadecimal digits per byte of UTF-8. Different texts get different names. A name
    that would take more than 255 bytes is cut, and a digest of the text put behind: it is still
    unique but cannot be decoded, so that formats keep the original in an attribute or array.

    Parameters
    ----------
    text : str
        Name of a scan, label, ...

    Returns
    -------
    str
        A name that `fmristore_stores.spec.check_name` accepts.

    Raises
    ------
    InvalidInputError
        If `text` is not text, is empty, or holds NUL or a lone surrogate.
    """
    if not isinstance(text, str) or not text:
        msg = f"a name must be text and not empty, not {text!r}"
        raise InvalidInputError(msg)
    if "\x00" in text or any("\ud800" <= c <= "\udfff" for c in text):
        msg = f"name {text[:80]!r}: NUL and lone surrogates cannot be stored"
        raise InvalidInputError(msg)
    name = _ESCAPED.sub(lambda match: f"%{ord(match[0]):02X}", text)
    if name[-1] in ". ":
        name = f"{name[:-1]}%{ord(name[-1]):02X}"
    if not _allowed(name):
        name = f"%{ord(name[0]):02X}{name[1:]}"
    if len(name.encode()) > MAX_NAME_BYTES:
        name = _shortened(name, text)
    return check_name(name)


def decode_name(name: str) -> str:
    """Turn the name of a node that `encode_name` made back into the text.

    Raises
    ------
    MetadataError
        If `encode_name` does not make such names, or had to cut this one.
    """
    if _CUT in name:
        msg = "this name was cut, as it was too long: read the original beside it"
        raise MetadataError(msg, node=name)
    try:
        if _MALFORMED.search(name):
            msg = "a percent sign is not followed by two hexadecimal digits"
            raise MetadataError(msg, node=name)
        return unquote_to_bytes(name).decode()
    except UnicodeError as error:
        msg = "the percent-encoded bytes are not UTF-8"
        raise MetadataError(msg, node=name) from error


def _allowed(name: str) -> bool:
    """Return whether a name is one for a node, apart from its length."""
    try:
        check_name(name[: MAX_NAME_BYTES // 4])
    except FmristoreError:
        return False
    return True


def _shortened(name: str, text: str) -> str:
    """As much of an encoded name as fits before a digest of the text."""
    tail = _CUT + hashlib.sha256(text.encode()).hexdigest()[:32]
    head = name.encode()[: MAX_NAME_BYTES - len(tail)].decode(errors="ignore")
    return re.sub(r"%[0-9A-F]?$", "", head) + tail
