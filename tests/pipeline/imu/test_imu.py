"""Windows of head motion: each axis on the grid, nothing aliased; and what a track is like."""

# W samples of the window's grid (422), N samples of one sensor
# W samples of the window's grid (422), N samples of one sensor

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from egoctl.pipeline.errors import ImuError
from egoctl.pipeline.imu.recording import ImuResampler, read_imu, summarize_imu
from egoctl.pipeline.imu.sensor import RATE_HZ
from egoctl.pipeline.records import ImuTrack
from egoctl.tests.worlds.imu_tracks import WINDOW_S, cut, grid, make_track, without, worn

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
        ImuResampler(make_track()).window(np.array([1.0, 0.5]), span_s=(0, 1))
    with pytest.raises(ValueError, match="at least one"):
        ImuResampler(make_track()).window(np.array([]), span_s=(0, 1))


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


# === Head motion from a plain CSV: what is read, and files that are not there or cannot be read ===


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


# === Every way a window is refused: too little coverage, or values that cannot be ===


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
