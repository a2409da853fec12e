"""Formats and layouts as another package would add them."""
