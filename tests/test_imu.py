"""What counts as head motion: files read, signals kept, and every way a window is refused."""

# W samples of the window's grid (422), N samples of one sensor

import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from egoctl.pipeline.errors import EgoctlError, ImuError
from egoctl.pipeline.imu import (
    RATE_HZ,
    ImuResampler,
    imu_window,
    read_imu,
    summarize_imu,
)
from egoctl.pipeline.imu_telemetry import check_telemetry_package, gopro_track, normalized_track
from egoctl.pipeline.records import Clip, FloatArray, ImuTrack, ImuWindow
from egoctl.pipeline.sampling import imu_times

WINDOW_S = 64 / 30
_DATA = Path(
    os.environ.get("EGOCTL_TEST_DATA", Path(__file__).resolve().parents[2] / "shared" / "data")
)
MAX_MP4 = _DATA / "gopro" / "max-heromode.mp4"
KARMA_MP4 = _DATA / "gopro" / "karma.mp4"


def grid(
    start_s: float, stop_s: float | None = None
) -> tuple[NDArray[np.float64], tuple[float, float]]:
    stop_s = start_s + WINDOW_S if stop_s is None else stop_s
    clip = Clip(clip_id="c", segment_id="s", video_id="v", start_s=start_s, stop_s=stop_s)
    return imu_times(clip, 422, RATE_HZ), (start_s, stop_s)


def cut(track: ImuTrack, start_s: float, stop_s: float | None = None) -> ImuWindow:
    times_s, span_s = grid(start_s, stop_s)
    return imu_window(track, times_s, span_s=span_s)


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


def refusal(track: ImuTrack, start_s: float) -> ImuError:
    with pytest.raises(ImuError) as caught:
        cut(track, start_s)
    return caught.value


# --- windows -----------------------------------------------------------------------------------


def test_a_window_is_linear_interpolation_of_each_axis_on_its_own_clock() -> None:
    accel_time_s, gyro_time_s = np.arange(1000) / 100, 0.003 + np.arange(2100) / 210
    track = make_track(
        accel_time_s=accel_time_s,
        accel_N3=worn(accel_time_s, 2),
        gyro_time_s=gyro_time_s,
        gyro_M3=worn(gyro_time_s, 3) - [9.8, 0, 0],
    )
    times_s, _ = grid(4.0)

    window = cut(track, 4.0)

    expected_W6 = np.empty((422, 6))
    for axis in range(3):
        expected_W6[:, axis] = np.interp(times_s, accel_time_s, track.accel_N3[:, axis])
        expected_W6[:, 3 + axis] = np.interp(times_s, gyro_time_s, track.gyro_M3[:, axis])
    np.testing.assert_allclose(window.samples_W6 + window.mean_6, expected_W6, atol=1e-5)
    np.testing.assert_allclose(window.mean_6, expected_W6.mean(axis=0), atol=1e-5)
    np.testing.assert_allclose(window.samples_W6.mean(axis=0), np.zeros(6), atol=1e-6)
    assert window.samples_W6.shape == (422, 6)
    assert window.samples_W6.dtype == window.mean_6.dtype == np.float32
    assert window.coverage == 1.0


def test_a_slow_sine_comes_back_as_the_sine() -> None:
    time_s = np.arange(2000) / 200
    gyro_M3 = np.stack([np.sin(2 * np.pi * 2 * time_s + phase) for phase in (0, 1, 2)], axis=1)
    times_s, _ = grid(3.0)

    window = cut(make_track(gyro_M3=gyro_M3), 3.0)

    measured_W = window.samples_W6[:, 3] + window.mean_6[3]
    np.testing.assert_allclose(measured_W, np.sin(2 * np.pi * 2 * times_s), atol=6e-4)


def tone_amplitude(tone_hz: float, source_hz: float) -> float:
    """The amplitude that a gyroscope tone of amplitude 1 has in the window."""
    time_s = np.arange(int(10 * source_hz)) / source_hz
    gyro_M3 = np.random.default_rng(0).normal(0, 1e-3, (len(time_s), 3))
    gyro_M3[:, 0] += np.sin(2 * np.pi * tone_hz * time_s)
    times_s, _ = grid(4.0)
    window = cut(make_track(gyro_time_s=time_s, gyro_M3=gyro_M3), 4.0)
    # Least squares for a sine and a cosine of that frequency: the phase is free.
    angle_W = 2 * np.pi * tone_hz * times_s
    basis = np.stack([np.sin(angle_W), np.cos(angle_W)], axis=1)
    fitted = np.linalg.lstsq(basis, window.samples_W6[:, 3].astype(np.float64), rcond=None)[0]
    return float(np.hypot(*fitted))


def test_a_tone_above_the_grid_is_removed_before_it_can_alias() -> None:
    assert tone_amplitude(150, source_hz=369) < 0.1  # 20 dB
    assert tone_amplitude(20, source_hz=369) == pytest.approx(1, abs=0.01)


def test_a_source_near_the_grids_rate_is_not_filtered() -> None:
    # 95 Hz would lose most of itself in the filter; at 200 Hz interpolation alone may dim it.
    time_s = np.arange(2000) / 200
    tone_N = np.sin(2 * np.pi * 95 * time_s)
    gyro_M3 = np.stack([tone_N, 2 * tone_N, 3 * tone_N], axis=1)
    times_s, _ = grid(4.0)

    window = cut(make_track(gyro_M3=gyro_M3), 4.0)

    np.testing.assert_allclose(
        window.samples_W6[:, 3] + window.mean_6[3], np.interp(times_s, time_s, tone_N), atol=1e-6
    )


def test_filtering_keeps_every_sample_in_its_place_in_time() -> None:
    time_s = np.arange(4000) / 400
    bump_N = np.exp(-(((time_s - 5.0) / 0.05) ** 2))
    gyro_M3 = np.stack([bump_N, -bump_N, 2 * bump_N], axis=1)
    times_s, _ = grid(4.0)

    window = cut(make_track(gyro_time_s=time_s, gyro_M3=gyro_M3), 4.0)

    np.testing.assert_allclose(
        window.samples_W6[:, 3] + window.mean_6[3],
        np.exp(-(((times_s - 5.0) / 0.05) ** 2)),
        atol=0.003,
    )


def test_a_bad_value_does_not_spread_through_the_filter() -> None:
    time_s = np.arange(4000) / 400
    gyro_M3 = worn(time_s, 1) - [9.8, 0, 0]
    gyro_M3[2000] = np.nan  # at 5.0 s
    resampler = ImuResampler(make_track(gyro_time_s=time_s, gyro_M3=gyro_M3))

    for start_s, is_refused in ((2.8, False), (4.0, True), (5.05, False)):
        times_s, span_s = grid(start_s)
        if is_refused:
            with pytest.raises(ImuError, match=r"1 of \d+ gyroscope samples .* first at 5.000 s"):
                resampler.window(times_s, span_s=span_s)
        else:
            window = resampler.window(times_s, span_s=span_s)
            assert np.isfinite(window.samples_W6).all()


def test_a_short_clip_holds_its_first_and_last_sample() -> None:
    window = cut(make_track(), 5.0, 5.5)

    # 0.5 s are 99 grid steps in the middle of 422 samples: 161 held on either side.
    assert np.all(window.samples_W6[:161] == window.samples_W6[0])
    assert np.all(window.samples_W6[-161:] == window.samples_W6[-1])
    assert len(np.unique(window.samples_W6[161:-161, 0])) == 100
    assert window.coverage == 1.0


def test_one_resampler_gives_the_same_windows_as_fresh_ones() -> None:
    track = make_track()
    resampler = ImuResampler(track)

    for start_s in (0.1, 3.3, 7.5):
        times_s, span_s = grid(start_s)
        again = resampler.window(times_s, span_s=span_s)
        np.testing.assert_array_equal(again.samples_W6, cut(track, start_s).samples_W6)


def test_times_that_go_backwards_are_the_callers_mistake() -> None:
    with pytest.raises(ValueError, match="never go backwards"):
        imu_window(make_track(), np.array([1.0, 0.5]), span_s=(0, 1))
    with pytest.raises(ValueError, match="at least one"):
        imu_window(make_track(), np.array([]), span_s=(0, 1))


# --- coverage ----------------------------------------------------------------------------------


def without(
    time_s: FloatArray, value_N3: FloatArray, from_s: float, to_s: float
) -> tuple[FloatArray, FloatArray]:
    keep_N = (time_s < from_s) | (time_s >= to_s)
    return time_s[keep_N], value_N3[keep_N]


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
        imu_window(make_track(), times_s, span_s=(start_s, start_s + WINDOW_S))
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


# --- summary -----------------------------------------------------------------------------------


def test_the_summary_of_a_sound_track_is_plain_numbers_and_no_problem() -> None:
    gyro_time_s = 0.5 + np.arange(3600) / 400

    summary = summarize_imu(
        make_track(gyro_time_s=gyro_time_s, gyro_M3=worn(gyro_time_s, 1) - [9.8, 0, 0])
    )

    assert summary.accel_rate_hz == pytest.approx(200)
    assert summary.gyro_rate_hz == pytest.approx(400)
    assert (summary.start_s, summary.stop_s) == pytest.approx((0.5, 0.5 + 3599 / 400))
    assert summary.longest_gap_s == pytest.approx(0.005)
    assert summary.accel_norm_mean == pytest.approx(9.8, abs=0.1)
    assert summary.num_non_monotonic == 0
    assert summary.duplicated_axes == ()
    assert summary.problems == ()


def test_the_summary_tells_lost_samples_from_a_slow_sensor() -> None:
    whole = make_track()
    time_s, accel_N3 = without(whole.accel_time_s, whole.accel_N3, 4.0, 6.0)

    summary = summarize_imu(make_track(accel_time_s=time_s, accel_N3=accel_N3))

    assert summary.accel_rate_hz == pytest.approx(200)
    assert summary.accel_mean_rate_hz == pytest.approx(1599 / 9.995)
    assert summary.longest_gap_s == pytest.approx(2.005)


def test_the_summary_lists_every_problem_of_a_bad_track() -> None:
    whole = make_track()
    time_s, accel_N3 = whole.accel_time_s.copy(), whole.accel_N3 / 9.8
    time_s[[500, 700]] = 0.0
    accel_N3[3] = np.nan
    gyro_M3 = whole.gyro_M3.copy()
    gyro_M3[:, 1] = gyro_M3[:, 0]

    summary = summarize_imu(make_track(accel_time_s=time_s, accel_N3=accel_N3, gyro_M3=gyro_M3))

    assert [problem.code for problem in summary.problems] == [
        "imu_implausible_units",
        "imu_not_monotonic",
        "imu_nan",
        "imu_duplicate_axes",
    ]
    assert summary.num_non_monotonic == 2
    assert summary.duplicated_axes == ("gyroscope x = y",)


# --- CSV ---------------------------------------------------------------------------------------

HEADER = "time_s,accel_x,accel_y,accel_z,gyro_x,gyro_y,gyro_z\n"


@pytest.fixture
def csv_of(tmp_path: Path) -> Callable[[str | bytes], Path]:
    def write(content: str | bytes) -> Path:
        path = tmp_path / "imu.csv"
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        return path

    return write


def test_a_csv_gives_its_numbers(csv_of: Callable[[str], Path]) -> None:
    track = read_imu(csv_of(HEADER + "0.0,9.8,0,1,0.1,0.2,0.3\n0.005,9.7,-1e-1,1,0.4,0.5,0.6\n"))

    np.testing.assert_array_equal(track.accel_time_s, [0, 0.005])
    np.testing.assert_array_equal(track.gyro_time_s, [0, 0.005])
    np.testing.assert_array_equal(track.accel_N3, [[9.8, 0, 1], [9.7, -0.1, 1]])
    np.testing.assert_array_equal(track.gyro_M3, [[0.1, 0.2, 0.3], [0.4, 0.5, 0.6]])


def test_bom_crlf_column_order_extra_columns_and_blank_lines_do_not_matter(
    csv_of: Callable[[bytes], Path],
) -> None:
    track = read_imu(
        csv_of(
            b"\xef\xbb\xbfgyro_z,gyro_y,note,gyro_x,accel_z,accel_y,accel_x,time_s\r\n"
            b"6,5,start,4,3,2,1,0.5\r\n\r\n"
        )
    )

    np.testing.assert_array_equal(track.accel_time_s, [0.5])
    np.testing.assert_array_equal(track.accel_N3, [[1, 2, 3]])
    np.testing.assert_array_equal(track.gyro_M3, [[4, 5, 6]])


def test_empty_cells_let_the_two_sensors_keep_their_own_clocks(
    csv_of: Callable[[str], Path],
) -> None:
    track = read_imu(csv_of(HEADER + "0.1,1,2,3,,,\n0.2,,,,4,5,6\n0.3,,,,7,8,9\n"))

    np.testing.assert_array_equal(track.accel_time_s, [0.1])
    np.testing.assert_array_equal(track.gyro_time_s, [0.2, 0.3])
    np.testing.assert_array_equal(track.gyro_M3, [[4, 5, 6], [7, 8, 9]])


def test_one_empty_cell_of_three_is_nan(csv_of: Callable[[str], Path]) -> None:
    track = read_imu(csv_of(HEADER + "0.1,1,,3,4,5,6\n"))

    np.testing.assert_array_equal(track.accel_N3, [[1, np.nan, 3]])


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("time_s,accel_x,accel_y,accel_z\n0,1,2,3\n", "line 1: no column gyro_x, gyro_y, gyro_z"),
        ("", "line 1: no column time_s"),
        (HEADER + "0,1,2,3,4,5,6\n1,1,2,3,4,fast,6\n", "line 3: gyro_y is not a number: 'fast'"),
        (HEADER + "0,1,2,3,4,5,6\n\n,1,2,3,4,5,6\n", "line 4: time_s must be a time .* got ''"),
        ("\ufeff" + HEADER + "soon,1,2,3,4,5,6\n", "line 2: time_s is not a number: 'soon'"),
        (HEADER + "nan,1,2,3,4,5,6\n", "line 2: time_s must be a time .* got 'nan'"),
        (HEADER + "0,1,2,3,4,5,6,7\n", "line 2: 8 cells under 7 columns"),
        (b"\xff\xfe\x00\x01", "line 1: no column time_s"),
    ],
)
def test_a_csv_that_cannot_be_read_names_file_line_and_reason(
    csv_of: Callable[[str | bytes], Path], content: str | bytes, message: str
) -> None:
    with pytest.raises(ImuError, match=rf"imu\.csv: {message}") as caught:
        read_imu(csv_of(content))
    assert caught.value.code == "imu_unreadable"


def test_a_csv_without_any_gyroscope_row_has_no_imu(csv_of: Callable[[str], Path]) -> None:
    with pytest.raises(ImuError, match="no row has gyroscope values") as caught:
        read_imu(csv_of(HEADER + "0,1,2,3,,,\n"))
    assert caught.value.code == "imu_missing"


@pytest.mark.parametrize("name", ["gone.csv", "gone.mp4"])
def test_a_file_that_is_not_there_is_missing(tmp_path: Path, name: str) -> None:
    with pytest.raises(ImuError, match=f"{name}: no such file. Correct imu_path") as caught:
        read_imu(tmp_path / name)
    assert caught.value.code == "imu_missing"


# --- telemetry ---------------------------------------------------------------------------------


class FakeParser:
    """What gopro_track asks of a telemetry_parser.Parser."""

    def __init__(self, blocks: list[dict[str, Any]], rows: list[dict[str, Any]]) -> None:
        self._blocks, self._rows = blocks, rows

    def telemetry(self) -> list[dict[str, Any]]:
        return self._blocks

    def normalized_imu(self) -> list[dict[str, Any]]:
        return self._rows


def payload(num_samples: int, **tags: Any) -> dict[str, Any]:
    return {"Data": [{"x": 100 + i, "y": 0, "z": -50} for i in range(num_samples)], **tags}


def test_gopro_sensors_of_different_rates_each_get_their_own_clock() -> None:
    blocks = [
        {
            "Accelerometer": payload(10, TimestampUs=7_000_000 + k * 1_000_000, Scale=10),
            "Gyroscope": payload(20, TimestampUs=7_000_000 + k * 1_000_000, Scale=100),
            "Exposure": {"TimestampUs": 6_500_000 + k * 1_000_000},
        }
        for k in range(3)
    ]

    track = gopro_track(FakeParser(blocks, []), "hero")

    np.testing.assert_allclose(track.accel_time_s, 0.5 + np.arange(30) / 10, atol=1e-9)
    np.testing.assert_allclose(track.gyro_time_s, 0.5 + np.arange(60) / 20, atol=1e-9)
    np.testing.assert_array_equal(track.accel_N3[:2], [[10, 0, -5], [10.1, 0, -5]])
    np.testing.assert_array_equal(track.gyro_M3[0], [1, 0, -0.5])


def test_samples_lost_within_a_gopro_payload_leave_a_gap_not_slow_motion() -> None:
    blocks = [
        {
            "Accelerometer": payload(num, TimestampUs=k * 1_000_000),
            "Gyroscope": payload(num, TimestampUs=k * 1_000_000),
        }
        for k, num in enumerate([100, 100, 60, 100])
    ]

    track = gopro_track(FakeParser(blocks, []), "hero")

    expected = np.delete(np.arange(400), np.arange(260, 300)) / 100
    np.testing.assert_allclose(track.gyro_time_s, expected, atol=1e-9)


def test_a_first_frame_without_an_exposure_does_not_shift_the_track() -> None:
    # As a HERO5 writes it: milliseconds, and 29 exposures in the first payload, one frame late.
    exposure_ms = [5034, 6001, 7002, 8003]
    blocks = [
        {
            "Accelerometer": payload(100, **{"0x5449434b": 5000 + 1001 * k}),
            "Gyroscope": payload(100, **{"0x5449434b": 5000 + 1001 * k}),
            "Exposure": {"0x5449434b": exposure_ms[k]},
        }
        for k in range(4)
    ]

    track = gopro_track(FakeParser(blocks, []), "hero")

    assert track.accel_time_s[0] == pytest.approx(0, abs=1e-9)


def test_a_gopro_without_stamps_spreads_its_samples_over_the_track() -> None:
    blocks = [{"Accelerometer": payload(4), "Gyroscope": payload(8)}]
    rows = [{"timestamp_ms": 250.0 * i, "gyro": None, "accl": None} for i in range(8)]  # 2 s

    track = gopro_track(FakeParser(blocks, rows), "hero")

    np.testing.assert_allclose(track.accel_time_s, [0, 0.5, 1.0, 1.5])
    np.testing.assert_allclose(track.gyro_time_s, np.arange(8) / 4)


def test_a_gopro_that_recorded_only_gps_has_no_imu() -> None:
    with pytest.raises(ImuError, match="carries no motion track") as caught:
        gopro_track(FakeParser([{"GPS": {"Data": [1]}}], []), "hero")
    assert caught.value.code == "imu_missing"


def test_other_cameras_are_read_from_normalised_rows_in_radians() -> None:
    rows = [
        {"timestamp_ms": 0.0, "accl": (9.8, 0.0, 1.0), "gyro": (180.0, 0.0, -90.0)},
        {"timestamp_ms": 5.0, "accl": (9.7, 0.0, 1.0), "gyro": (0.0, 360.0, 0.0)},
    ]

    track = normalized_track(rows, "insta")

    np.testing.assert_array_equal(track.accel_time_s, [0, 0.005])
    np.testing.assert_array_equal(track.accel_N3, [[9.8, 0, 1], [9.7, 0, 1]])
    np.testing.assert_allclose(track.gyro_M3, [[np.pi, 0, -np.pi / 2], [0, 2 * np.pi, 0]])


def test_normalised_rows_that_pair_unequal_rates_are_refused() -> None:
    rows = [
        {"timestamp_ms": i, "accl": (9.8, 0, 0) if i < 50 else None, "gyro": (0, 0, 0)}
        for i in range(100)
    ]

    with pytest.raises(ImuError, match="50 accelerometer and 100 gyroscope .*as CSV") as caught:
        normalized_track(rows, "cam")
    assert caught.value.code == "imu_unreadable"


def test_a_missing_telemetry_parser_is_no_fault_of_the_recording_and_names_the_extra(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ride = tmp_path / "ride.mp4"
    ride.write_bytes(b"any")
    monkeypatch.setitem(sys.modules, "telemetry_parser", None)  # makes the import fail

    for ask in (read_imu, lambda path: check_telemetry_package([tmp_path / "ride.csv", path])):
        with pytest.raises(EgoctlError, match=r"ride.mp4.*pip install 'egoctl\[gopro\]'") as caught:
            ask(ride)
        assert not isinstance(caught.value, ImuError)
    check_telemetry_package([tmp_path / "ride.CSV"])  # needs no package


@pytest.mark.parametrize("name", ["ride.csv", "ride.mp4"])
def test_a_file_that_may_not_be_opened_is_unreadable(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    if name.endswith(".mp4"):
        pytest.importorskip("telemetry_parser")
    (tmp_path / name).write_text(HEADER)

    def refuse(path: Path, *args: Any, **kwargs: Any) -> None:
        raise PermissionError(13, "Permission denied", str(path))

    # Not by the file's mode: the tests may run as a user whom no mode holds back.
    monkeypatch.setattr(Path, "open", refuse)

    with pytest.raises(ImuError, match=f"{name}.*Permission denied") as caught:
        read_imu(tmp_path / name)
    assert caught.value.code == "imu_unreadable"


def test_a_file_that_carries_no_telemetry_is_missing_its_imu(tmp_path: Path) -> None:
    pytest.importorskip("telemetry_parser")
    (tmp_path / "ride.mp4").write_bytes(b"not a video at all")

    with pytest.raises(ImuError, match="the file carries no motion track") as caught:
        read_imu(tmp_path / "ride.mp4")
    assert caught.value.code == "imu_missing"


@pytest.fixture
def real() -> Callable[[Path], ImuTrack]:
    pytest.importorskip("telemetry_parser")

    def read(path: Path) -> ImuTrack:
        if not path.is_file():
            pytest.skip(f"{path} is not here; set EGOCTL_TEST_DATA")
        return read_imu(path)

    return read


def test_a_real_gopro_max_gives_full_windows(real: Callable[[Path], ImuTrack]) -> None:
    track = real(MAX_MP4)
    summary = summarize_imu(track)
    resampler = ImuResampler(track)

    assert summary.accel_rate_hz == pytest.approx(197.5, abs=0.1)
    assert summary.gyro_rate_hz == pytest.approx(197.5, abs=0.1)
    assert summary.accel_norm_mean == pytest.approx(9.8, abs=0.1)
    assert (summary.start_s, summary.stop_s) == pytest.approx((0, 10.54), abs=0.01)
    assert summary.problems == ()
    for start_s in np.arange(0, 10.5 - WINDOW_S, 0.5):
        times_s, span_s = grid(float(start_s))
        assert resampler.window(times_s, span_s=span_s).coverage == 1.0


def test_where_rates_agree_raw_blocks_equal_the_parsers_own_normalised_values(
    real: Callable[[Path], ImuTrack],
) -> None:
    track = real(MAX_MP4)
    import telemetry_parser

    rows = telemetry_parser.Parser(str(MAX_MP4)).normalized_imu()

    np.testing.assert_allclose(track.accel_N3, [row["accl"] for row in rows], atol=1e-9)
    np.testing.assert_allclose(track.gyro_M3, np.radians([row["gyro"] for row in rows]), atol=1e-9)


def test_a_real_hero5_keeps_accelerometer_and_gyroscope_on_one_time_line(
    real: Callable[[Path], ImuTrack],
) -> None:
    track = real(KARMA_MP4)
    summary = summarize_imu(track)

    # 2,397 and 4,795 samples in 362 frames at 29.97 Hz = 12.08 s. Often quoted as 184 and 369 Hz:
    # that counts the last payload, of 0.07 s, as a full second.
    assert (len(track.accel_time_s), len(track.gyro_time_s)) == (2397, 4795)
    assert summary.accel_rate_hz == pytest.approx(198.7, abs=0.2)
    assert summary.gyro_rate_hz == pytest.approx(397.5, abs=0.2)
    # Pairing by index would end the accelerometer's last payload halfway and stretch no other.
    assert track.accel_time_s[-1] == pytest.approx(track.gyro_time_s[-1], abs=0.005)
    assert np.diff(track.accel_time_s).max() < 0.006
    assert track.accel_time_s[-1] == pytest.approx(362 * 1001 / 30000, abs=0.02)
    assert summary.problems == ()
