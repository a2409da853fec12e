"""New stores: they appear whole or not at all, and writers take turns."""
