"""Values without a store: space, scaling, sets of voxels, digests."""
