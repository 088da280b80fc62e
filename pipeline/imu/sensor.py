"""One sensor of a recording on its own clock: what it measured, and what it cannot vouch for.

recording.py explains what each refusal's code means.
"""

# N samples of one sensor, W samples of the window's grid

import math
from dataclasses import dataclass, replace
from itertools import combinations, pairwise

import numpy as np
from numpy.typing import NDArray
from scipy.signal import butter, sosfiltfilt

from egoctl.pipeline.errors import ImuError
from egoctl.pipeline.records import FloatArray, ImuTrack

RATE_HZ = 198.0
"""The student's grid: 422 samples in 64/30 s (EgoDistill, arXiv:2301.02217)."""
MIN_COVERAGE = 0.90

_FILTER_ABOVE_HZ = 1.2 * RATE_HZ
_CUTOFF_HZ = 0.45 * RATE_HZ
"""Below the grid's Nyquist frequency (0.5), with room to fall off."""
_FILTER_ORDER = 8
_SHORTEST_FILTERED = 32
"""Samples; sosfiltfilt mirrors 27 of them at either end."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Sensor:
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
        """Spacings / duration; NaN where there is none."""
        if len(self.time_s) < 2 or self.time_s[-1] <= self.time_s[0]:
            return math.nan
        return float((len(self.time_s) - 1) / (self.time_s[-1] - self.time_s[0]))

    def around(self, first_s: float, last_s: float) -> "Sensor":
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
        """Why its times cannot be trusted near [first_s, last_s]."""
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
        """Which of its samples are no numbers."""
        is_bad_N = ~is_measured(self.value_N3)
        if not is_bad_N.any():
            return None
        return ImuError(
            "imu_nan",
            f"{self.source}: {np.count_nonzero(is_bad_N)} of {len(is_bad_N)} {self.name} samples "
            f"here are not finite numbers, the first at {self.time_s[np.argmax(is_bad_N)]:.3f} s.",
        )

    def equal_axes(self) -> tuple[str, ...]:
        """Such as 'gyroscope x = y': identical in every sample."""
        if len(self.time_s) < 2:  # one sample proves nothing
            return ()
        return tuple(
            f"{self.name} {'xyz'[a]} = {'xyz'[b]}"
            for a, b in combinations(range(3), 2)
            if np.array_equal(self.value_N3[:, a], self.value_N3[:, b])
        )

    def axes_problem(self) -> ImuError | None:
        """Which of its axes are copies of each other."""
        if not (equal := self.equal_axes()):
            return None
        return ImuError(
            "imu_duplicate_axes",
            f"{self.source}: {', '.join(equal)} in every sample from {self.time_s[0]:.2f} to "
            f"{self.time_s[-1]:.2f} s. Two axes never agree so; export that sensor again.",
        )


def sensors_of(track: ImuTrack) -> tuple[Sensor, Sensor]:
    """Accelerometer and gyroscope."""

    def sensor(name: str, time_s: FloatArray, value_N3: FloatArray) -> Sensor:
        spacing_s = np.diff(time_s)
        forward_s = spacing_s[spacing_s > 0]
        return Sensor(
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


def low_passed(sensor: Sensor) -> Sensor:
    """The sensor with what the grid cannot carry removed; slow sensors pass as they are.

    Forwards and backwards through a Butterworth filter, so nothing moves in time. Stretches
    between gaps and bad values are filtered alone; those too short to filter stay as they are.
    """
    rate_hz = 1 / sensor.period_s
    if not rate_hz > _FILTER_ABOVE_HZ:
        return sensor
    sos = butter(_FILTER_ORDER, _CUTOFF_HZ, fs=rate_hz, output="sos")
    is_good_N = is_measured(sensor.value_N3)
    spacing_s = np.diff(sensor.time_s)
    is_joined = is_good_N[1:] & is_good_N[:-1] & (spacing_s > 0) & (spacing_s <= sensor.max_gap_s)
    edges = [0, *(np.flatnonzero(~is_joined) + 1), len(is_good_N)]
    passed_N3 = sensor.value_N3.copy()
    for start, stop in pairwise(edges):
        if stop - start > _SHORTEST_FILTERED:
            passed_N3[start:stop] = sosfiltfilt(sos, sensor.value_N3[start:stop], axis=0)
    return replace(sensor, value_N3=passed_N3)


def unit_problem(track: ImuTrack) -> ImuError | None:
    """Why the track cannot be in m/s^2 and rad/s, as far as a worn camera goes."""
    accel_N3 = track.accel_N3[is_measured(track.accel_N3)]
    gyro_M3 = track.gyro_M3[is_measured(track.gyro_M3)]
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


def is_measured(value_N3: FloatArray) -> NDArray[np.bool_]:
    """(N,) which samples are numbers."""
    return np.asarray(np.isfinite(value_N3).all(axis=1))


def checked_coverage(
    near: list[Sensor], times_s: NDArray[np.float64], span_s: tuple[float, float]
) -> float:
    """The share of the grid that both sensors measured.

    Raises:
        ImuError: imu_low_coverage.
    """
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


def _what_is_missing(sensor: Sensor, times_s: NDArray[np.float64]) -> str:
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
