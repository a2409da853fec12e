"""The store of references: chunks that lie in another file."""
