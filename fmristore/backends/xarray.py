"""The engine ``"fmristore"`` of xarray: ``xarray.open_dataset(url, engine="fmristore")``."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, ClassVar

import xarray as xr
from xarray.backends import BackendEntrypoint

from fmristore.api import open  # noqa: A004
from fmristore_stores.errors import InvalidInputError

__all__ = ["FmristoreBackend"]


class FmristoreBackend(BackendEntrypoint):
    """Opens stores of every format; it never offers itself for a file, so that it is named."""

    description = "fMRI in HDF5 files and Zarr stores, with coordinates in mm and seconds"
    supports_groups = True
    open_dataset_parameters: ClassVar[tuple[str, ...] | None] = (
        "filename_or_obj",
        "drop_variables",
        "group",
        "storage_options",
    )

    def open_dataset(
        self,
        filename_or_obj: Any,
        *,
        drop_variables: str | Iterable[str] | None = None,
        group: str | None = None,
        storage_options: Mapping[str, Any] | None = None,
    ) -> xr.Dataset:
        """Lazy dataset of a store.

        Parameters
        ----------
        filename_or_obj : str or path
            As of `fmristore.open`.
        drop_variables : str or iterable of str, optional
            Left out.
        group : str, optional
            Name of one run, scan or map of several.
        storage_options : mapping, optional
            Passed to fsspec.

        Returns
        -------
        xarray.Dataset
            ``data``, with coordinates: see docs/reference/other-libraries.md. Closing it gives the
            store back.

        Raises
        ------
        InvalidInputError
            If the store holds several scans of different lengths, and no `group` is given.
        """
        with open(filename_or_obj, storage_options=storage_options) as found:
            part = found if group is None else found.part(group.strip("/"))
            made = part.to_xarray()
        if not isinstance(made, xr.Dataset):
            raise InvalidInputError(
                "holds several scans: use open_datatree, or group= and one of "
                f"{', '.join(found.part_names[:6])}",
                url=found.url,
            )
        dropped = [drop_variables] if isinstance(drop_variables, str) else drop_variables or ()
        left = made.drop_vars(dropped)
        left.set_close(made.close)  # a dataset that was made of another one closes nothing
        return left

    def open_groups_as_dict(
        self,
        filename_or_obj: Any,
        *,
        drop_variables: str | Iterable[str] | None = None,
        storage_options: Mapping[str, Any] | None = None,
    ) -> dict[str, xr.Dataset]:
        """One lazy dataset for each run or scan of a store, by its name; see `open_dataset`."""
        with open(filename_or_obj, storage_options=storage_options) as found:
            names = found.part_names
            single = not names or not hasattr(found.part(names[0]), "to_xarray")
        options: dict[str, Any] = {
            "drop_variables": drop_variables,
            "storage_options": storage_options,
        }
        if single:
            return {"/": self.open_dataset(filename_or_obj, **options)}
        groups = {f"/{n}": self.open_dataset(filename_or_obj, group=n, **options) for n in names}
        return {"/": xr.Dataset(), **groups}

    def open_datatree(
        self,
        filename_or_obj: Any,
        *,
        drop_variables: str | Iterable[str] | None = None,
        storage_options: Mapping[str, Any] | None = None,
    ) -> xr.DataTree:
        """Lazy tree with one node for each run or scan of a store; see `open_dataset`."""
        groups = self.open_groups_as_dict(
            filename_or_obj, drop_variables=drop_variables, storage_options=storage_options
        )
        return xr.DataTree.from_dict(groups)
