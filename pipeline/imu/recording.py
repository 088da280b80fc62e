"""Reads head motion and cuts it into windows the student can trust.

A recording has two sensors with two clocks, gaps, and now and then wrong units. All is judged per
window where it can be, so a bad stretch costs the clips that touch it and no others. Each refusal
is an ImuError with a short code for tables and a sentence for people:

    imu_missing            no file, or no accelerometer and gyroscope in it
    imu_unreadable         a file that cannot be read; the reason names the line
    imu_implausible_units  the whole track is in g or in deg/s
    imu_not_monotonic      a clock steps back or does not advance within the window
    imu_nan                values of the window are not numbers
    imu_low_coverage       too little of the window was measured by both sensors
    imu_duplicate_axes     two axes of one sensor are identical all through the window
"""

# N samples of one sensor, W samples of the window's grid

import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from egoctl.pipeline.errors import ImuError
from egoctl.pipeline.files.cache import MediaFile
from egoctl.pipeline.imu.aria import is_vrs, read_vrs_track
from egoctl.pipeline.imu.ego4d import is_ego4d_csv, read_ego4d_track
from egoctl.pipeline.imu.epic import gyro_name, is_epic_pair, read_epic_pair
from egoctl.pipeline.imu.sensor import (
    checked_coverage,
    is_measured,
    low_passed,
    sensors_of,
    unit_problem,
)
from egoctl.pipeline.imu.telemetry import read_csv_track, read_video_track, unreadable
from egoctl.pipeline.records import ImuTrack, ImuWindow


def read_imu(path: Path) -> ImuTrack:
    """The whole track of a `.csv` or `.vrs` file, or of the telemetry inside a video file.

    NAME-accl.csv is one half of an EPIC-KITCHENS recording; NAME-gyro.csv is looked for beside it.
    Any other CSV is Ego4D's or our own plain format, by its header.

    Raises:
        ImuError: imu_missing or imu_unreadable.
        EgoctlError: if a video's telemetry needs a package that is not installed.
    """
    try:
        is_file = path.is_file()
    except OSError as error:
        raise unreadable(path, str(error.strerror)) from error
    if not is_file:
        raise ImuError("imu_missing", f"{path}: no such file. Correct imu_path in the manifest.")
    if is_epic_pair(path):
        return read_epic_pair(path, path.with_name(gyro_name(path.name)))
    if is_vrs(path):
        return read_vrs_track(path)
    if path.suffix.lower() != ".csv":
        return read_video_track(path)
    return read_ego4d_track(path) if is_ego4d_csv(path) else read_csv_track(path)


def imu_files(media: MediaFile) -> tuple[MediaFile, ...]:
    """The files that hold the recording an imu_path names: one, or EPIC-KITCHENS' two."""
    if is_epic_pair(Path(media.name)):
        return media, MediaFile(url=gyro_name(media.url))
    return (media,)


def read_media_imu(media: MediaFile) -> ImuTrack:
    """read_imu of a manifest's file, which may lie in a bucket: then all of it is fetched first.

    Raises:
        FileNotFoundError: if a bucket has no such file.
        StoreError: if it cannot be fetched.
        ImuError: as read_imu.
    """
    paths = [one.local() for one in imu_files(media)]
    return read_imu(paths[0]) if len(paths) == 1 else read_epic_pair(paths[0], paths[1])


@dataclass(frozen=True, kw_only=True, slots=True)
class ImuSummary:
    """One row of the health table. A sensor without samples makes its numbers NaN."""

    accel_rate_hz: float
    """1 / median spacing: the sensor's own rate, blind to gaps."""
    gyro_rate_hz: float
    accel_mean_rate_hz: float
    """Spacings / duration: falls below the rate above where samples are lost."""
    gyro_mean_rate_hz: float
    start_s: float
    """Both sensors measure from here ..."""
    stop_s: float
    """... to here, seconds from the video's first frame."""
    longest_gap_s: float
    """The longest time between two neighbouring samples of either sensor."""
    num_non_monotonic: int
    """Samples of both sensors that are not later than the one before."""
    duplicated_axes: tuple[str, ...]
    """Such as 'gyroscope x = y': identical from the first sample to the last."""
    accel_norm_mean: float
    """m/s^2; about 9.8 for a camera that is worn."""
    problems: tuple[ImuError, ...]
    """What will refuse some clips of this track, or all."""


def summarize_imu(track: ImuTrack) -> ImuSummary:
    """What the whole track looks like, for the health table of a manifest."""
    accel, gyro = sensors = sensors_of(track)
    problems = [unit_problem(track)]
    for sensor in sensors:
        problems += [sensor.clock_problem(-math.inf, math.inf), sensor.value_problem()]
        problems.append(sensor.axes_problem())
    norm_N = np.linalg.norm(track.accel_N3[is_measured(track.accel_N3)], axis=1)
    return ImuSummary(
        accel_rate_hz=1 / accel.period_s,
        gyro_rate_hz=1 / gyro.period_s,
        accel_mean_rate_hz=accel.mean_rate_hz(),
        gyro_mean_rate_hz=gyro.mean_rate_hz(),
        start_s=max((float(s.time_s[0]) for s in sensors if len(s.time_s)), default=math.nan),
        stop_s=min((float(s.time_s[-1]) for s in sensors if len(s.time_s)), default=math.nan),
        longest_gap_s=max(
            (float(np.diff(s.time_s).max()) for s in sensors if len(s.time_s) > 1),
            default=math.nan,
        ),
        num_non_monotonic=len(accel.back_steps) + len(gyro.back_steps),
        duplicated_axes=accel.equal_axes() + gyro.equal_axes(),
        accel_norm_mean=float(norm_N.mean()) if len(norm_N) else math.nan,
        problems=tuple(problem for problem in problems if problem is not None),
    )


class ImuResampler:
    """A track made ready for many windows: looked through once, low-passed once."""

    def __init__(self, track: ImuTrack) -> None:
        self._unit_problem = unit_problem(track)
        self._sensors = [low_passed(sensor) for sensor in sensors_of(track)]

    def window(self, times_s: NDArray[np.float64], *, span_s: tuple[float, float]) -> ImuWindow:
        """The track on the grid times_s (W,), linear between samples.

        Up to a tenth of the grid may be unmeasured: lines are drawn across gaps, and the first
        and last sample are held. span_s is the clip's (start, stop), for messages.

        Raises:
            ImuError: any code of this module but imu_missing and imu_unreadable.
            ValueError: if times_s is empty or goes backwards.
        """
        if len(times_s) == 0 or np.any(times_s[1:] < times_s[:-1]):
            raise ValueError("times_s must hold at least one time and never go backwards")
        if self._unit_problem is not None:
            raise self._unit_problem
        near = []
        for sensor in self._sensors:
            if (problem := sensor.clock_problem(times_s[0], times_s[-1])) is not None:
                raise problem
            near.append(sensor.around(times_s[0], times_s[-1]))
            if (problem := near[-1].value_problem()) is not None:
                raise problem
        coverage = checked_coverage(near, times_s, span_s)
        for sensor in near:
            if (problem := sensor.axes_problem()) is not None:
                raise problem
        measured_W6 = np.stack(
            [np.interp(times_s, s.time_s, axis_N) for s in near for axis_N in s.value_N3.T], axis=1
        )
        mean_6 = measured_W6.mean(axis=0)
        return ImuWindow(
            samples_W6=(measured_W6 - mean_6).astype(np.float32),
            mean_6=mean_6.astype(np.float32),
            coverage=coverage,
        )
