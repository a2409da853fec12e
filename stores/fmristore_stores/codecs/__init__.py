"""Codecs: encoding and decoding, and what each is called in HDF5 and in Zarr."""
