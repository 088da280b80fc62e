"""Shorthand for tests of the second decoder, and the reason why they cannot run here."""

import warnings
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from egoctl.pipeline.video.clip_plan import ClipRequest, DecodedClip, DecodeStats, FailedClip
from egoctl.pipeline.video.pyav_clips import FrameView
from egoctl.pipeline.video.torchcodec_clips import decode_clips_torchcodec, why_unavailable
from egoctl.tests.worlds.decoded_clips import WHOLE

with warnings.catch_warnings():
    # What torchcodec warns of while it is imported says nothing about our code.
    warnings.simplefilter("ignore")
    WHY_NOT = why_unavailable("cpu")
    WHY_NOT_CUDA = why_unavailable("cuda")
needs_torchcodec = pytest.mark.skipif(WHY_NOT is not None, reason=str(WHY_NOT))
needs_cuda = pytest.mark.skipif(WHY_NOT_CUDA is not None, reason=str(WHY_NOT_CUDA))


def decode(
    path: Path, requests: Sequence[ClipRequest], *views: FrameView
) -> tuple[dict[int, DecodedClip | FailedClip], DecodeStats]:
    stats = DecodeStats()
    results = list(decode_clips_torchcodec(path, requests, views or [WHOLE], stats, device="cpu"))
    assert len(results) == len(requests)
    return {result.index: result for result in results}, stats


def gaps(ours: DecodedClip, theirs: DecodedClip, view: int) -> NDArray[np.int64]:
    steps: NDArray[np.int64] = np.abs(ours.frames[view].astype(np.int64) - theirs.frames[view])
    return steps
