"""The Zarr store, on zarr-python."""
