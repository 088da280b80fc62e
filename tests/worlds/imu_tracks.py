"""Head motion for tests of windows: ten seconds of plausible noise, and how a window is cut."""

# N samples of one sensor

import numpy as np
from numpy.typing import NDArray

from egoctl.pipeline.imu.recording import ImuResampler
from egoctl.pipeline.imu.sensor import RATE_HZ
from egoctl.pipeline.records import Clip, FloatArray, ImuTrack, ImuWindow
from egoctl.pipeline.sampling import imu_times

WINDOW_S = 64 / 30


def grid(
    start_s: float, stop_s: float | None = None
) -> tuple[NDArray[np.float64], tuple[float, float]]:
    """The 422 times of a clip's window, in seconds, and its span; without a stop, of WINDOW_S."""
    stop_s = start_s + WINDOW_S if stop_s is None else stop_s
    clip = Clip(clip_id="c", segment_id="s", video_id="v", start_s=start_s, stop_s=stop_s)
    return imu_times(clip, 422, RATE_HZ), (start_s, stop_s)


def cut(track: ImuTrack, start_s: float, stop_s: float | None = None) -> ImuWindow:
    """The window of a clip of the track."""
    times_s, span_s = grid(start_s, stop_s)
    return ImuResampler(track).window(times_s, span_s=span_s)


def worn(time_s: FloatArray, seed: int) -> FloatArray:
    """Noise around an upright accelerometer: (N, 3), m/s^2."""
    return np.random.default_rng(seed).normal([9.8, 0, 0], 0.5, (len(time_s), 3))


def make_track(**changes: FloatArray) -> ImuTrack:
    """Ten seconds at 200 Hz of plausible noise, with some arrays replaced."""
    time_s = np.arange(2000) / 200
    arrays = {
        "accel_time_s": time_s,
        "accel_N3": worn(time_s, 0),
        "gyro_time_s": time_s,
        "gyro_M3": worn(time_s, 1) - [9.8, 0, 0],
    } | changes
    return ImuTrack(**arrays, source="ride.csv")


def without(
    time_s: FloatArray, value_N3: FloatArray, from_s: float, to_s: float
) -> tuple[FloatArray, FloatArray]:
    """Times and values (N, 3) with those of from_s to to_s lost."""
    keep_N = (time_s < from_s) | (time_s >= to_s)
    return time_s[keep_N], value_N3[keep_N]
