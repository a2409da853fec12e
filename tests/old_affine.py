"""Stores as format 1.1 wrote them: their affine is an array, not an attribute."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from fmristore.formats.new_arrays import write_plain
from fmristore_stores.edit import edit_store
from fmristore_stores.protocol import AnyArray

__all__ = ["with_affine_array"]


def with_affine_array(url: Path | str, affine: AnyArray | None = None) -> None:
    """Turn a store into one of version 1.1, by default with the affine that it has."""
    with edit_store(url) as store:
        attributes = store.root.read_attributes()
        found = np.array(attributes.pop("affine")).reshape(4, 4)
        values = found if affine is None else affine
        names = ("affine_row", "affine_column") if values.ndim == 2 else ()
        write_plain(store.root, "affine", names, values, {"units": "mm"})
        store.root.write_attributes(attributes | {"fmristore_format_version": "1.1"})
