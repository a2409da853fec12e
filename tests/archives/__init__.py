"""Stores that earlier versions of the formats wrote: every later version must read them."""
