"""BIDS datasets: whole ones as stores, and as one collection."""
