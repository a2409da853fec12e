"""Named maps."""
