"""Ego4D's IMU files: what is put right, what is left out, and that all of it is said."""

# N samples of one sensor

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from egoctl.pipeline.errors import ImuError
from egoctl.pipeline.imu.ego4d import is_ego4d_csv
from egoctl.pipeline.imu.recording import ImuResampler, read_imu, summarize_imu
from egoctl.pipeline.imu.sensor import RATE_HZ
from egoctl.pipeline.records import Clip, ImuTrack, ImuWindow
from egoctl.pipeline.sampling import imu_times
from egoctl.tests.worlds.ego4d_world import IMU_HEADER, ImuRow, recorded, write_imu

GYRO, ACCEL = slice(3, 6), slice(6, 9)


def read(path: Path, rows: list[ImuRow], *, header: str = IMU_HEADER) -> ImuTrack:
    return read_imu(write_imu(path, rows, header=header))


def cut(track: ImuTrack, start_s: float) -> ImuWindow:
    clip = Clip(
        clip_id="c", segment_id="s", video_id="v", start_s=start_s, stop_s=start_s + 64 / 30
    )
    return ImuResampler(track).window(
        imu_times(clip, 422, RATE_HZ), span_s=(clip.start_s, clip.stop_s)
    )


def notes(track: ImuTrack) -> str:
    """What reading said of the file."""
    return track.source.partition("(Ego4D")[2].removesuffix(")").removeprefix("; ")


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "0b703793.csv"


def test_the_header_tells_the_two_kinds_of_csv_apart(file: Path, tmp_path: Path) -> None:
    plain = tmp_path / "plain.csv"
    plain.write_text("time_s,accel_x,accel_y,accel_z,gyro_x,gyro_y,gyro_z\n0,9,1,2,0,1,2\n")
    read(file, recorded(seconds=1))

    assert is_ego4d_csv(file)
    assert not is_ego4d_csv(plain)
    assert not is_ego4d_csv(tmp_path / "missing.csv")
    assert read_imu(plain).source == str(plain)


def test_a_sound_file_is_read_as_it_stands(file: Path) -> None:
    rows = recorded(seconds=2)

    track = read(file, rows)

    expected_N9 = np.array([[float(cell) for cell in row] for row in rows])
    np.testing.assert_allclose(track.accel_time_s, expected_N9[:, 2] / 1000)
    np.testing.assert_allclose(track.gyro_time_s, expected_N9[:, 2] / 1000)
    np.testing.assert_array_equal(track.gyro_M3, expected_N9[:, GYRO])
    np.testing.assert_array_equal(track.accel_N3, expected_N9[:, ACCEL])
    assert track.source == f"{file} (Ego4D)"


def test_time_is_the_canonical_videos_and_not_the_components(file: Path) -> None:
    rows = recorded(seconds=1)
    for row in rows:
        row[2] = f"{float(row[1]) + 60_000:.3f}"

    track = read(file, rows)

    assert (track.gyro_time_s[0], track.gyro_time_s[-1]) == (60.0, 60.995)


@pytest.mark.parametrize("cell", ["", "NULL", "nan", "-Infinity", "9e9"])
def test_a_row_without_a_canonical_time_is_left_out_and_counted(file: Path, cell: str) -> None:
    rows = recorded(seconds=1)
    rows[7][2] = rows[8][2] = cell

    track = read(file, rows)

    assert len(track.gyro_time_s) == len(track.accel_time_s) == 198
    assert notes(track) == "2 rows without a canonical time"


def test_empty_and_absurd_values_cost_the_one_sensor_that_has_them(file: Path) -> None:
    rows = recorded(seconds=1)
    rows[10][ACCEL.start] = "NULL"
    rows[20][ACCEL.start + 1] = "-1e30"
    rows[30][GYRO.start + 2] = "101"
    rows[40][GYRO.start] = "inf"

    track = read(file, rows)

    assert len(track.accel_time_s) == 198
    assert len(track.gyro_time_s) == 198
    assert 0.050 not in track.accel_time_s and 0.050 in track.gyro_time_s
    assert notes(track) == (
        "1 rows without accelerometer values, 1 rows with absurd accelerometer values, "
        "2 rows with absurd gyroscope values"
    )


def swap_two(rows: list[ImuRow]) -> list[ImuRow]:
    return [*rows[:500], rows[501], rows[500], *rows[502:]]


def put_the_end_first(rows: list[ImuRow]) -> list[ImuRow]:
    return rows[800:] + rows[:800]


@pytest.mark.parametrize("disorder", [swap_two, put_the_end_first])
def test_rows_out_of_order_are_sorted_and_none_is_lost(
    file: Path, disorder: Callable[[list[ImuRow]], list[ImuRow]]
) -> None:
    rows = recorded()

    track = read(file, disorder(rows))

    np.testing.assert_allclose(track.gyro_M3[:, 0], np.arange(1200) / 1000)
    assert notes(track) == "1 rows earlier than the row before: sorted"


def test_a_stray_row_is_left_out_and_the_rest_stays(file: Path) -> None:
    rows = recorded()
    rows[900][2] = "1002.000"  # its neighbours in the file are at 4.5 s

    track = read(file, rows)

    assert len(track.gyro_time_s) == 1199
    assert 0.9 not in track.gyro_M3[:, 0]
    assert cut(track, 0.1).coverage == cut(track, 3.5).coverage == 1.0
    assert notes(track) == (
        "1 rows earlier than the row before: sorted, "
        "1 rows of a time that another row has: left out"
    )


def test_where_two_components_claim_the_same_second_there_is_a_gap(file: Path) -> None:
    first, second = recorded(seconds=4), recorded(seconds=4, component=1)
    for row in second:
        row[2] = f"{float(row[1]) + 3002:.3f}"  # the first ends at 3.995

    track = read(file, first + second)

    assert cut(track, 0.5).coverage == cut(track, 4.5).coverage == 1.0
    with pytest.raises(
        ImuError, match=r"times? that another row has.*covers \d+ % of 2.50"
    ) as error:
        cut(track, 2.5)
    assert error.value.code == "imu_low_coverage"
    is_quiet_N = (track.gyro_time_s > 3.01) & (track.gyro_time_s < 3.99)
    assert not is_quiet_N.any()


def test_a_repeated_time_is_counted_and_the_clock_still_advances(file: Path) -> None:
    rows = recorded()
    rows[600][2] = rows[599][2]

    track = read(file, rows)

    assert summarize_imu(track).num_non_monotonic == 0
    assert notes(track) == "1 rows of a time that another row has: left out"


def test_a_component_without_imu_is_a_gap_for_the_clips_that_touch_it(file: Path) -> None:
    later = recorded(component=2)
    for row in later:
        row[2] = f"{float(row[1]) + 20_000:.3f}"

    track = read(file, recorded() + later)

    assert cut(track, 1.0).coverage == cut(track, 21.0).coverage == 1.0
    with pytest.raises(ImuError, match="it has a gap of 14.00 s at 6.00 s") as caught:
        cut(track, 10.0)
    assert caught.value.code == "imu_low_coverage"
    assert summarize_imu(track).longest_gap_s == pytest.approx(14.005)
    assert notes(track) == ""


def without_accelerometer(rows: list[ImuRow]) -> tuple[str, list[ImuRow]]:
    return IMU_HEADER.partition(",accl_x")[0], [row[:6] for row in rows]


def empty_accelerometer(rows: list[ImuRow]) -> tuple[str, list[ImuRow]]:
    return IMU_HEADER, [[*row[:6], "", "NULL", ""] for row in rows]


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (without_accelerometer, "no accelerometer: it has no column accl_x, accl_y, accl_z"),
        (empty_accelerometer, "no accelerometer: none of its 200 rows has usable values"),
    ],
)
def test_a_device_without_accelerometer_is_named(
    file: Path, change: Callable[[list[ImuRow]], tuple[str, list[ImuRow]]], reason: str
) -> None:
    header, rows = change(recorded(seconds=1))

    with pytest.raises(ImuError, match=reason) as caught:
        read(file, rows, header=header)

    assert caught.value.code == "imu_missing"


def test_a_file_that_was_cut_off_inside_a_row_keeps_its_whole_rows(file: Path) -> None:
    rows = recorded(seconds=1)

    track = read(file, [*rows[:-1], rows[-1][:5]])

    assert len(track.gyro_time_s) == len(track.accel_time_s) == 199
    assert notes(track) == "1 rows without accelerometer values, 1 rows without gyroscope values"


def test_a_file_with_a_word_for_a_number_is_unreadable(file: Path) -> None:
    rows = recorded(seconds=1)
    rows[3][4] = "fast"

    with pytest.raises(ImuError, match=r"0b703793.csv: .*fast") as caught:
        read(file, rows)

    assert caught.value.code == "imu_unreadable"


def test_an_axis_that_repeats_another_is_named(file: Path) -> None:
    rows = recorded()
    for row in rows:
        row[8] = row[7]

    track = read(file, rows)

    assert summarize_imu(track).duplicated_axes == ("accelerometer y = z",)
    with pytest.raises(ImuError, match="accelerometer y = z in every sample") as caught:
        cut(track, 1.0)
    assert caught.value.code == "imu_duplicate_axes"


def test_a_file_in_degrees_is_refused_as_such_and_not_thinned_out(file: Path) -> None:
    rows = recorded()
    for row in rows:
        row[3:6] = [f"{57.3 * float(cell) + 45:.4f}" for cell in row[3:6]]

    with pytest.raises(ImuError, match="it looks like deg/s") as caught:
        cut(read(file, rows), 1.0)

    assert caught.value.code == "imu_implausible_units"


@pytest.mark.parametrize("rate_hz", [50, 100, 200, 800])
def test_devices_of_any_rate_give_the_students_grid(file: Path, rate_hz: float) -> None:
    time_s: NDArray[np.float64] = np.arange(round(6 * rate_hz)) / rate_hz
    rows = recorded(rate_hz=rate_hz)
    for row, value in zip(rows, np.sin(2 * np.pi * time_s), strict=True):
        row[3] = f"{value:.6f}"

    window = cut(read(file, rows), 2.0)

    clip = Clip(clip_id="c", segment_id="s", video_id="v", start_s=2.0, stop_s=2.0 + 64 / 30)
    expected_W = np.sin(2 * np.pi * imu_times(clip, 422, RATE_HZ))
    np.testing.assert_allclose(window.samples_W6[:, 3] + window.mean_6[3], expected_W, atol=3e-3)
    assert window.samples_W6.shape == (422, 6)
