"""A run in the voxels of a mask."""
