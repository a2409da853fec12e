"""Format classes: what a store holds, and how it is read by voxel, region, volume and name."""
