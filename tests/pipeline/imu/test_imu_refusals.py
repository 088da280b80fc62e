"""Every way a window of head motion is refused: too little coverage, or values that cannot be."""

# W samples of the window's grid (422), N samples of one sensor

import numpy as np
import pytest

from egoctl.pipeline.errors import ImuError
from egoctl.pipeline.imu.recording import ImuResampler
from egoctl.pipeline.imu.sensor import RATE_HZ
from egoctl.pipeline.records import ImuTrack
from egoctl.tests.worlds.imu_tracks import WINDOW_S, cut, grid, make_track, without


def refusal(track: ImuTrack, start_s: float) -> ImuError:
    with pytest.raises(ImuError) as caught:
        cut(track, start_s)
    return caught.value


# --- coverage ----------------------------------------------------------------------------------


def test_a_gap_under_a_tenth_is_bridged_with_a_line_and_counted() -> None:
    whole = make_track()
    time_s, accel_N3 = without(whole.accel_time_s, whole.accel_N3, 5.0, 5.2)
    track = make_track(accel_time_s=time_s, accel_N3=accel_N3)
    times_s, _ = grid(4.0)

    window = cut(track, 4.0)

    in_gap_W = (times_s >= 4.995) & (times_s < 5.2)  # from the last sample before to the next
    assert window.coverage == pytest.approx(1 - in_gap_W.mean())
    inside = window.samples_W6[in_gap_W][:, 0]
    np.testing.assert_allclose(np.diff(inside, n=2), 0, atol=1e-6)
    assert cut(track, 6.0).coverage == 1.0


def test_three_periods_or_20_ms_without_a_sample_are_no_gap() -> None:
    whole = make_track()
    # Samples 5 ms apart; dropping three leaves 20 ms between neighbours, dropping four 25 ms.
    small = without(whole.gyro_time_s, whole.gyro_M3, 4.9999, 5.0149)
    large = without(whole.gyro_time_s, whole.gyro_M3, 4.9999, 5.0199)

    assert cut(make_track(gyro_time_s=small[0], gyro_M3=small[1]), 4.0).coverage == 1.0
    assert cut(make_track(gyro_time_s=large[0], gyro_M3=large[1]), 4.0).coverage < 1.0


def test_a_sensor_that_ends_early_is_refused_with_its_share_and_its_end() -> None:
    whole = make_track()
    track = make_track(gyro_time_s=whole.gyro_time_s[:1001], gyro_M3=whole.gyro_M3[:1001])

    error = refusal(track, 3.7)

    assert error.code == "imu_low_coverage"
    # 257 of the 422 grid times, from 3.7036 s on, are before 5.000 s: 60.9 %, rounded down.
    assert error.reason == (
        "ride.csv: the gyroscope covers 60 % of 3.70-5.83 s, needed 90 %: it ends at 5.00 s."
    )
    assert cut(track, 2.8).coverage == 1.0


def test_a_sensor_that_starts_late_or_pauses_says_so() -> None:
    whole = make_track()
    late = make_track(accel_time_s=whole.accel_time_s[200:], accel_N3=whole.accel_N3[200:])
    time_s, gyro_M3 = without(whole.gyro_time_s, whole.gyro_M3, 4.5, 5.0)
    paused = make_track(gyro_time_s=time_s, gyro_M3=gyro_M3)

    assert refusal(late, 0.0).reason.endswith("needed 90 %: it starts at 1.00 s.")
    assert "the accelerometer covers 53 % of 0.00-2.13 s" in refusal(late, 0.0).reason
    assert "the gyroscope covers 76 %" in refusal(paused, 4.0).reason
    assert refusal(paused, 4.0).reason.endswith("it has a gap of 0.50 s at 4.50 s.")


def test_both_sensors_must_cover_the_same_part() -> None:
    whole = make_track()
    accel = without(whole.accel_time_s, whole.accel_N3, 4.5, 4.65)
    gyro = without(whole.gyro_time_s, whole.gyro_M3, 5.5, 5.65)
    track = make_track(
        accel_time_s=accel[0], accel_N3=accel[1], gyro_time_s=gyro[0], gyro_M3=gyro[1]
    )

    error = refusal(track, 4.0)

    assert error.code == "imu_low_coverage"
    assert "accelerometer and gyroscope together cover 85 %" in error.reason


@pytest.mark.parametrize(
    ("start_s", "what"), [(20.0, "it ends at 9.99 s"), (-5.0, "it starts at 0.00 s")]
)
def test_a_window_off_the_track_has_no_coverage(start_s: float, what: str) -> None:
    times_s = start_s + np.arange(422) / RATE_HZ
    with pytest.raises(ImuError, match=f"covers 0 %.*{what}") as caught:
        ImuResampler(make_track()).window(times_s, span_s=(start_s, start_s + WINDOW_S))
    assert caught.value.code == "imu_low_coverage"


def test_an_empty_sensor_covers_nothing() -> None:
    error = refusal(make_track(gyro_time_s=np.empty(0), gyro_M3=np.empty((0, 3))), 1.0)

    assert error.code == "imu_low_coverage"
    assert error.reason.endswith("it holds no sample there.")


def test_held_points_of_a_short_clip_count_like_the_point_they_hold() -> None:
    whole = make_track()
    # The clip 5.0-5.5 starts in a gap of 30 ms: so do the 161 held points before it.
    time_s, gyro_M3 = without(whole.gyro_time_s, whole.gyro_M3, 4.99, 5.01)
    track = make_track(gyro_time_s=time_s, gyro_M3=gyro_M3)

    with pytest.raises(ImuError, match="gyroscope covers 61 % of 5.00-5.50 s"):
        cut(track, 5.0, 5.5)


# --- other refusals ----------------------------------------------------------------------------


def test_values_that_are_not_numbers_refuse_only_the_windows_they_touch() -> None:
    accel_N3 = make_track().accel_N3.copy()
    accel_N3[1000, 1] = np.inf  # at 5.0 s
    track = make_track(accel_N3=accel_N3)

    assert refusal(track, 4.0).code == "imu_nan"
    assert "accelerometer samples" in refusal(track, 4.0).reason
    assert cut(track, 2.0).coverage == cut(track, 6.0).coverage == 1.0


@pytest.mark.parametrize("step_to_s", [4.9, 4.995])
def test_a_clock_that_steps_back_or_repeats_refuses_the_windows_it_touches(
    step_to_s: float,
) -> None:
    time_s = make_track().gyro_time_s.copy()
    time_s[1000:] += step_to_s - 5.0  # sample 999 is at 4.995 s

    track = make_track(gyro_time_s=time_s)

    error = refusal(track, 4.0)
    assert error.code == "imu_not_monotonic"
    assert f"gyroscope's time goes from 4.995000 s to {step_to_s:.6f} s" in error.reason
    assert cut(track, 2.0).coverage == cut(track, 5.5).coverage == 1.0


def test_a_recording_that_starts_over_refuses_everything_recorded_twice() -> None:
    time_s = make_track().accel_time_s.copy()
    time_s[1600:] -= 8.0  # 8.0 s becomes 0.0 s: 0-2 s exists twice
    track = make_track(accel_time_s=time_s)

    # Between the step's two times no search can tell which pass is meant.
    assert [refusal(track, start_s).code for start_s in (0.0, 2.5, 5.5)] == [
        "imu_not_monotonic"
    ] * 3


def test_a_time_that_is_nan_refuses_every_window() -> None:
    time_s = make_track().accel_time_s.copy()
    time_s[1900] = np.nan

    assert refusal(make_track(accel_time_s=time_s), 1.0).code == "imu_not_monotonic"


def test_two_identical_axes_are_refused_where_they_are_identical() -> None:
    gyro_M3 = make_track().gyro_M3.copy()
    gyro_M3[1000:, 2] = gyro_M3[1000:, 0]  # from 5 s on
    track = make_track(gyro_M3=gyro_M3)

    error = refusal(track, 6.0)

    assert error.code == "imu_duplicate_axes"
    assert "gyroscope x = z in every sample from 6.00 to 8.13 s" in error.reason
    assert cut(track, 4.0).coverage == 1.0


def test_acceleration_in_g_is_refused_by_name() -> None:
    error = refusal(make_track(accel_N3=make_track().accel_N3 / 9.8), 1.0)

    assert error.code == "imu_implausible_units"
    assert "it looks like g. Convert the file to m/s^2" in error.reason


def test_acceleration_without_gravity_is_refused() -> None:
    error = refusal(make_track(accel_N3=make_track().accel_N3 - [9.8, 0, 0] + 1.5), 1.0)

    assert error.code == "imu_implausible_units"
    assert "gravity alone is 9.8" in error.reason


def test_rotation_in_degrees_is_refused_by_name() -> None:
    error = refusal(make_track(gyro_M3=np.degrees(make_track().gyro_M3)), 1.0)

    assert error.code == "imu_implausible_units"
    assert "it looks like deg/s. Convert the file to rad/s" in error.reason
