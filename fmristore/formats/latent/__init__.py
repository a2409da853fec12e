"""Basis x loadings."""
