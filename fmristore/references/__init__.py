"""Reference files, which let Zarr readers open HDF5 in place."""
