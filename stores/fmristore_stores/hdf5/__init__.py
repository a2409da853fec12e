"""The HDF5 store, on h5py."""
