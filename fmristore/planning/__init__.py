"""Arithmetic on shapes and bytes: chunk layouts, blocks, indexing, read plans, rechunking."""
