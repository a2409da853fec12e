"""Series of voxels by parcel, and of parcels."""
