"""A clip's frame and IMU times. Pure functions of (clip, numbers), nothing else.

One rule holds for both: sampling times are centred on the clip and clamped to it. In a clip as
long as the window nothing is clamped; in a shorter one (a short segment) the first and last
frame and IMU sample are held. So a clip's data depend on (video, start_s, stop_s) alone.
"""

import numpy as np
from numpy.typing import NDArray

from egoctl.pipeline.records import Clip, Segment

CLAMP_MARGIN_S = 1e-6
"""A clip's end is exclusive; clamped times stay this far inside."""


def resolved_stride_s(num_frames: int, native_stride_s: float, window_s: float) -> float:
    """The teacher's own stride, or a smaller one where num_frames of it overrun the window."""
    return min(native_stride_s, window_s / num_frames)


def frame_times(clip: Clip, num_frames: int, stride_s: float) -> NDArray[np.float64]:
    """(num_frames,) presentation times in seconds, stride_s apart around the clip's middle."""
    return _clamped(clip, _centred(clip.mid_s, num_frames, stride_s))


def uniform_times(clip: Clip, num_frames: int) -> NDArray[np.float64]:
    """(num_frames,) times at the middles of num_frames equal bins of the clip.

    This is the paper's uniform sampling (EgoDistill, sec. 3.2); one frame is the centre frame.
    """
    return _centred(clip.mid_s, num_frames, (clip.stop_s - clip.start_s) / num_frames)


def num_imu_samples(window_s: float, rate_hz: float) -> int:
    """Samples of a window: 64/30 s at 198 Hz are the paper's 422."""
    return int(window_s * rate_hz + 1e-3)


def imu_times(clip: Clip, num_samples: int, rate_hz: float) -> NDArray[np.float64]:
    """(num_samples,) times in seconds at rate_hz around the clip's middle."""
    return _clamped(clip, _centred(clip.mid_s, num_samples, 1 / rate_hz))


def clip_spans(
    start_s: float, stop_s: float, *, window_s: float, stride_s: float | None
) -> list[tuple[float, float]]:
    """The (start_s, stop_s) of every clip of a segment, in order.

    Windows of window_s start every stride_s and stay inside the segment; without a stride
    there is one, in the middle. A segment shorter than the window is one clip by itself.
    """
    spare_s = stop_s - start_s - window_s
    # Half a microsecond: times are written with six digits, so 2.133333 holds a 64/30 s window.
    if spare_s < -5e-7:
        return [(start_s, stop_s)]
    if stride_s is None:
        first_s = start_s + max(spare_s, 0.0) / 2
        return [(first_s, first_s + window_s)]
    count = int(max(spare_s, 0.0) / stride_s + 1e-6) + 1
    starts = [start_s + index * stride_s for index in range(count)]
    return [(start, start + window_s) for start in starts]


def clips_of(segment: Segment, *, window_s: float, stride_s: float | None) -> list[Clip]:
    """The segment's clips in time order; clip_id contains segment and span (milliseconds)."""
    spans = clip_spans(segment.start_s, segment.stop_s, window_s=window_s, stride_s=stride_s)
    return [
        Clip(
            clip_id=f"{segment.segment_id}@{start:.3f}-{stop:.3f}",
            segment_id=segment.segment_id,
            video_id=segment.video_id,
            start_s=round(start, 6),
            stop_s=round(stop, 6),
        )
        for start, stop in spans
    ]


def _centred(mid_s: float, count: int, step_s: float) -> NDArray[np.float64]:
    return mid_s + (np.arange(count, dtype=np.float64) - (count - 1) / 2) * step_s


def _clamped(clip: Clip, times_s: NDArray[np.float64]) -> NDArray[np.float64]:
    last_s = max(clip.start_s, clip.stop_s - CLAMP_MARGIN_S)
    return np.clip(times_s, clip.start_s, last_s)
