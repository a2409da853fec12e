"""BIDS datasets: whole ones as stores, and as one collection."""

from __future__ import annotations

from fmristore.bids.collection import Collection, GroupArray
from fmristore.bids.convert import convert_bids
from fmristore.bids.member import Member

__all__ = ["Collection", "GroupArray", "Member", "convert_bids"]
