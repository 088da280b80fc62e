"""Head motion from inside a video: GoPro's sensors on their clocks, other cameras' rows."""

# N samples of one sensor

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from egoctl.pipeline.errors import EgoctlError, ImuError
from egoctl.pipeline.imu.recording import ImuResampler, read_imu, summarize_imu
from egoctl.pipeline.imu.telemetry import check_telemetry_package, gopro_track, normalized_track
from egoctl.pipeline.records import ImuTrack
from egoctl.tests.worlds.imu_tracks import WINDOW_S, grid
from egoctl.tests.worlds.places import DATA

MAX_MP4 = DATA / "gopro" / "max-heromode.mp4"
KARMA_MP4 = DATA / "gopro" / "karma.mp4"


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
