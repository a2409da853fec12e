"""Bytes: where they lie, ranges of them, and writing objects that must not exist yet."""
