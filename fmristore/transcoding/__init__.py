"""Moving data between stores: plan, then execute."""

from __future__ import annotations

from fmristore.transcoding.arrays import ArrayStep
from fmristore.transcoding.execute import transcode
from fmristore.transcoding.plan import Loss, TranscodePlan, plan_transcode
from fmristore.transcoding.report import TranscodeReport

__all__ = [
    "ArrayStep",
    "Loss",
    "TranscodePlan",
    "TranscodeReport",
    "plan_transcode",
    "transcode",
]
