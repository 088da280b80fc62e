"""Shorthand for tests that decode drawn videos and read the frame numbers back."""

from collections.abc import Sequence
from pathlib import Path

import av
import numpy as np
from numpy.typing import NDArray

from egoctl.pipeline.video.clip_plan import ClipRequest, DecodedClip, DecodeStats, FailedClip
from egoctl.pipeline.video.pyav_clips import FrameView, decode_clips
from egoctl.tests.worlds.drawn_video import draw_video, even_times_ms, number_in

WHOLE = FrameView(short_side_px=None, crop_px=64)
VFR_MS = [0, 20, 40, 60, 300, 310, 320, 1000, 1033, 1066, 1100, 2500, 2533, 2566, 2600, 2633]


def clip(index: int, *times_s: float) -> ClipRequest:
    return ClipRequest(index=index, times_s=(np.array(times_s),))


def decode(
    path: Path, requests: Sequence[ClipRequest], *views: FrameView
) -> tuple[dict[int, DecodedClip | FailedClip], DecodeStats]:
    stats = DecodeStats()
    results = list(decode_clips(path, requests, views or [WHOLE], stats))
    assert len(results) == len(requests)
    return {result.index: result for result in results}, stats


def slow_pictures(
    path: Path, times_s: NDArray[np.float64], short_side_px: int, crop_px: int
) -> NDArray[np.uint8]:
    """The obvious way: decode everything, then pick the last frame up to each time."""
    with av.open(str(path)) as container:
        frames = [frame for frame in container.decode(video=0) if frame.pts is not None]
    shown_s = np.array([frame.time - frames[0].time for frame in frames])
    pictures = []
    for time_s in times_s:
        at = max(int((shown_s <= time_s + 1e-3).sum()) - 1, 0)
        frame = frames[at]
        scale = short_side_px / min(frame.width, frame.height)
        whole = frame.to_ndarray(
            format="rgb24", width=round(frame.width * scale), height=round(frame.height * scale)
        )
        top, left = (whole.shape[0] - crop_px) // 2, (whole.shape[1] - crop_px) // 2
        pictures.append(whole[top : top + crop_px, left : left + crop_px])
    return np.stack(pictures)


def numbers_of(result: DecodedClip | FailedClip, view: int = 0) -> list[int]:
    assert isinstance(result, DecodedClip), result
    return [number_in(picture) for picture in result.frames[view]]


def failure_of(result: DecodedClip | FailedClip) -> tuple[str, str]:
    assert isinstance(result, FailedClip)
    return result.code, result.reason


def draw_long_video(path: Path) -> Path:
    """20 s at 30 fps, a keyframe each second, three B-frames between references."""
    return draw_video(path, even_times_ms(600), gop=30, num_b_frames=3, movflags="faststart")
