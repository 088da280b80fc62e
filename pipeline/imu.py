"""Reads head motion and cuts it into windows the student can trust.

A recording has two sensors with two clocks, gaps, and now and then wrong units. All is judged per
window where it can be, so a bad stretch costs the clips that touch it and no others. Each refusal
is an ImuError with a short code for tables and a sentence for people:

    imu_missing            no file, or no accelerometer and gyroscope in it
    imu_unreadable         a file that cannot be read; the reason names the line
    imu_implausible_units  the whole track is in g or in deg/s
    imu_not_monotonic      a clock steps back or stands still where the window looks
    imu_nan                values of the window are not numbers
    imu_low_coverage       too little of the window was measured by both sensors
    imu_duplicate_axes     two axes of one sensor are identical all through the window
"""

# N samples of one sensor, W samples of the window's grid

import math
from dataclasses import dataclass, replace
from itertools import combinations, pairwise
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy.signal import butter, sosfiltfilt

from egoctl.pipeline.cache import MediaFile
from egoctl.pipeline.errors import ImuError
from egoctl.pipeline.imu_aria import is_vrs, read_vrs_track
from egoctl.pipeline.imu_ego4d import is_ego4d_csv, read_ego4d_track
from egoctl.pipeline.imu_epic import gyro_name, is_epic_pair, read_epic_pair
from egoctl.pipeline.imu_telemetry import read_csv_track, read_video_track, unreadable
from egoctl.pipeline.records import FloatArray, ImuTrack, ImuWindow

RATE_HZ = 198.0
"""The student's grid: 422 samples in 64/30 s (EgoDistill, arXiv:2301.02217)."""
MIN_COVERAGE = 0.90

_FILTER_ABOVE_HZ = 1.2 * RATE_HZ
_CUTOFF_HZ = 0.45 * RATE_HZ
"""Below the grid's Nyquist frequency (0.5), with room to fall off."""
_FILTER_ORDER = 8
_SHORTEST_FILTERED = 32
"""Samples; sosfiltfilt mirrors 27 of them at either end."""


def read_imu(path: Path) -> ImuTrack:
    """The whole track of a `.csv` or `.vrs` file, or of the telemetry inside a video file.

    NAME-accl.csv is one half of an EPIC-KITCHENS recording; NAME-gyro.csv is looked for beside it.
    Any other CSV is Ego4D's or our own plain format: its header tells.

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
    """What a look at the whole track tells, for the health table of a manifest."""
    accel, gyro = sensors = _sensors(track)
    problems = [_unit_problem(track)]
    for sensor in sensors:
        problems += [sensor.clock_problem(-math.inf, math.inf), sensor.value_problem()]
        problems.append(sensor.axes_problem())
    norm_N = np.linalg.norm(track.accel_N3[_is_measured(track.accel_N3)], axis=1)
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


def imu_window(
    track: ImuTrack, times_s: NDArray[np.float64], *, span_s: tuple[float, float]
) -> ImuWindow:
    """One window of a track; for many windows of it make one ImuResampler and keep it.

    Raises:
        ImuError: as ImuResampler.window.
    """
    return ImuResampler(track).window(times_s, span_s=span_s)


class ImuResampler:
    """A track made ready for many windows: looked through once, low-passed once."""

    def __init__(self, track: ImuTrack) -> None:
        self._unit_problem = _unit_problem(track)
        self._sensors = [_low_passed(sensor) for sensor in _sensors(track)]

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
        coverage = _checked_coverage(near, times_s, span_s)
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


@dataclass(frozen=True, kw_only=True, slots=True)
class _Sensor:
    """One of the two sensors on its own clock: a whole recording, or the part near a window."""

    source: str
    name: str
    time_s: FloatArray
    value_N3: FloatArray
    period_s: float
    """Median spacing of the whole recording."""
    back_steps: NDArray[np.intp]
    """Every i of the whole recording where sample i + 1 is not later than sample i."""

    @property
    def max_gap_s(self) -> float:
        """Two neighbours further apart do not measure what lies between them."""
        return max(3 * self.period_s, 0.020)

    def mean_rate_hz(self) -> float:
        if len(self.time_s) < 2 or self.time_s[-1] <= self.time_s[0]:
            return math.nan
        return float((len(self.time_s) - 1) / (self.time_s[-1] - self.time_s[0]))

    def around(self, first_s: float, last_s: float) -> "_Sensor":
        """The samples of [first_s, last_s] and one neighbour on either side."""
        # A clock that steps back elsewhere leaves this search right: only between the two times
        # of a step can a comparison go either way, and clock_problem refuses windows there.
        low = int(np.searchsorted(self.time_s, first_s, side="right")) - 1
        high = int(np.searchsorted(self.time_s, last_s, side="left")) + 1
        near = slice(max(low, 0), high)
        return replace(self, time_s=self.time_s[near], value_N3=self.value_N3[near])

    def supports(self, times_s: NDArray[np.float64]) -> NDArray[np.bool_]:
        """(W,) whether the two samples around each time are close enough to vouch for it."""
        if len(self.time_s) == 0:
            return np.zeros(len(times_s), dtype=np.bool_)
        right = np.searchsorted(self.time_s, times_s, side="right")
        last = len(self.time_s) - 1
        gap_s = self.time_s[np.minimum(right, last)] - self.time_s[np.maximum(right - 1, 0)]
        is_inside = (right > 0) & (times_s <= self.time_s[-1])
        return np.asarray(is_inside & (gap_s <= self.max_gap_s))

    def clock_problem(self, first_s: float, last_s: float) -> ImuError | None:
        if len(self.back_steps) == 0:
            return None
        before_s, after_s = self.time_s[self.back_steps], self.time_s[self.back_steps + 1]
        # Asked this way round a time that is NaN touches every window.
        is_clear = (after_s > last_s + self.period_s) | (before_s < first_s - self.period_s)
        if np.all(is_clear):
            return None
        first = int(np.argmin(is_clear))
        return ImuError(
            "imu_not_monotonic",
            f"{self.source}: the {self.name}'s time goes from {before_s[first]:.6f} s to "
            f"{after_s[first]:.6f} s, one of {np.count_nonzero(~is_clear)} such steps here. "
            "Times must increase; repair the recording.",
        )

    def value_problem(self) -> ImuError | None:
        is_bad_N = ~_is_measured(self.value_N3)
        if not is_bad_N.any():
            return None
        return ImuError(
            "imu_nan",
            f"{self.source}: {np.count_nonzero(is_bad_N)} of {len(is_bad_N)} {self.name} samples "
            f"here are not finite numbers, the first at {self.time_s[np.argmax(is_bad_N)]:.3f} s.",
        )

    def equal_axes(self) -> tuple[str, ...]:
        if len(self.time_s) < 2:  # one sample proves nothing
            return ()
        return tuple(
            f"{self.name} {'xyz'[a]} = {'xyz'[b]}"
            for a, b in combinations(range(3), 2)
            if np.array_equal(self.value_N3[:, a], self.value_N3[:, b])
        )

    def axes_problem(self) -> ImuError | None:
        if not (equal := self.equal_axes()):
            return None
        return ImuError(
            "imu_duplicate_axes",
            f"{self.source}: {', '.join(equal)} in every sample from {self.time_s[0]:.2f} to "
            f"{self.time_s[-1]:.2f} s. Two axes never agree so; export that sensor again.",
        )


def _sensors(track: ImuTrack) -> tuple[_Sensor, _Sensor]:
    def sensor(name: str, time_s: FloatArray, value_N3: FloatArray) -> _Sensor:
        spacing_s = np.diff(time_s)
        forward_s = spacing_s[spacing_s > 0]
        return _Sensor(
            source=track.source,
            name=name,
            time_s=time_s,
            value_N3=value_N3,
            period_s=float(np.median(forward_s)) if len(forward_s) else math.nan,
            back_steps=np.flatnonzero(~(spacing_s > 0)),
        )

    return (
        sensor("accelerometer", track.accel_time_s, track.accel_N3),
        sensor("gyroscope", track.gyro_time_s, track.gyro_M3),
    )


def _low_passed(sensor: _Sensor) -> _Sensor:
    """The sensor with what the grid cannot carry removed; slow sensors pass as they are.

    Forwards and backwards through a Butterworth filter, so nothing moves in time. Stretches
    between gaps and bad values are filtered alone; those too short to filter stay as they are.
    """
    rate_hz = 1 / sensor.period_s
    if not rate_hz > _FILTER_ABOVE_HZ:
        return sensor
    sos = butter(_FILTER_ORDER, _CUTOFF_HZ, fs=rate_hz, output="sos")
    is_good_N = _is_measured(sensor.value_N3)
    spacing_s = np.diff(sensor.time_s)
    is_joined = is_good_N[1:] & is_good_N[:-1] & (spacing_s > 0) & (spacing_s <= sensor.max_gap_s)
    edges = [0, *(np.flatnonzero(~is_joined) + 1), len(is_good_N)]
    passed_N3 = sensor.value_N3.copy()
    for start, stop in pairwise(edges):
        if stop - start > _SHORTEST_FILTERED:
            passed_N3[start:stop] = sosfiltfilt(sos, sensor.value_N3[start:stop], axis=0)
    return replace(sensor, value_N3=passed_N3)


def _unit_problem(track: ImuTrack) -> ImuError | None:
    """Why the track cannot be in m/s^2 and rad/s, as far as a worn camera goes."""
    accel_N3 = track.accel_N3[_is_measured(track.accel_N3)]
    gyro_M3 = track.gyro_M3[_is_measured(track.gyro_M3)]
    if len(accel_N3):
        norm = float(np.median(np.linalg.norm(accel_N3, axis=1)))
        if not 5 <= norm <= 20:
            hint = "it looks like g" if 0.5 <= norm <= 2 else "gravity alone is 9.8"
            return ImuError(
                "imu_implausible_units",
                f"{track.source}: median |acceleration| is {norm:.3g} m/s^2, expected 5 to 20; "
                f"{hint}. Convert the file to m/s^2.",
            )
    if len(gyro_M3):
        fast = float(np.percentile(np.abs(gyro_M3), 99))
        if fast > 40:
            return ImuError(
                "imu_implausible_units",
                f"{track.source}: the 99th percentile of |rotation| is {fast:.3g} rad/s, expected "
                "at most 40; it looks like deg/s. Convert the file to rad/s.",
            )
    return None


def _is_measured(value_N3: FloatArray) -> NDArray[np.bool_]:
    return np.asarray(np.isfinite(value_N3).all(axis=1))


def _checked_coverage(
    near: list[_Sensor], times_s: NDArray[np.float64], span_s: tuple[float, float]
) -> float:
    """The share of the grid that both sensors measured, if that is enough."""
    supported = [sensor.supports(times_s) for sensor in near]
    coverage = float(np.mean(supported[0] & supported[1]))
    if coverage >= MIN_COVERAGE:
        return coverage
    shares = [float(np.mean(one)) for one in supported]
    worst = near[int(np.argmin(shares))]
    who = f"the {worst.name} covers"
    if min(shares) >= MIN_COVERAGE:
        who = "accelerometer and gyroscope together cover"
    else:
        coverage = min(shares)
    # Rounded down, or 89.6 % would read "covers 90 %, needed 90 %".
    raise ImuError(
        "imu_low_coverage",
        f"{worst.source}: {who} {int(100 * coverage)} % of {span_s[0]:.2f}-{span_s[1]:.2f} s, "
        f"needed {100 * MIN_COVERAGE:.0f} %: {_what_is_missing(worst, times_s)}.",
    )


def _what_is_missing(sensor: _Sensor, times_s: NDArray[np.float64]) -> str:
    """The largest hole of the sensor in the window; the sensor is cut to the window."""
    if len(sensor.time_s) == 0:
        return "it holds no sample there"
    holes_s = {
        f"it starts at {sensor.time_s[0]:.2f} s": sensor.time_s[0] - times_s[0],
        f"it ends at {sensor.time_s[-1]:.2f} s": times_s[-1] - sensor.time_s[-1],
    }
    if len(sensor.time_s) > 1:
        gaps_s = np.diff(sensor.time_s)
        at = int(np.argmax(gaps_s))
        gap = f"it has a gap of {gaps_s[at]:.2f} s at {sensor.time_s[at]:.2f} s"
        holes_s[gap] = min(gaps_s[at], times_s[-1] - times_s[0])
    return max(holes_s, key=lambda text: holes_s[text])
