"""Windows of head motion: each axis on the grid, nothing aliased; and what a track is like."""

# W samples of the window's grid (422), N samples of one sensor

import numpy as np
import pytest

from egoctl.pipeline.errors import ImuError
from egoctl.pipeline.imu.recording import ImuResampler, summarize_imu
from egoctl.tests.worlds.imu_tracks import cut, grid, make_track, without, worn

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
