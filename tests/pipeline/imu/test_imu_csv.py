"""Head motion from a plain CSV: what is read, and files that are not there or cannot be read."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from egoctl.pipeline.errors import ImuError
from egoctl.pipeline.imu.recording import read_imu

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
