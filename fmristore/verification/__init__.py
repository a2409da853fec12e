"""Checking what is stored: every chunk in its place, readable, and as it was written."""

from __future__ import annotations

from fmristore.verification.execute import verify
from fmristore.verification.report import Problem, VerifyReport

__all__ = ["Problem", "VerifyReport", "verify"]
