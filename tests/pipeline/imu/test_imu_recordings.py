"""Head motion from recordings: inside a video, Aria glasses, Ego4D and EPIC-KITCHENS files."""

# N samples of one sensor
# N samples of one sensor

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from egoctl.pipeline.errors import EgoctlError, ImuError
from egoctl.pipeline.extraction.plan import store_rows
from egoctl.pipeline.files.cache import MediaFile
from egoctl.pipeline.imu.aria import aria_track
from egoctl.pipeline.imu.ego4d import is_ego4d_csv
from egoctl.pipeline.imu.epic import repair_clock
from egoctl.pipeline.imu.recording import (
    ImuResampler,
    imu_files,
    read_imu,
    read_media_imu,
    summarize_imu,
)
from egoctl.pipeline.imu.sensor import RATE_HZ
from egoctl.pipeline.imu.telemetry import check_telemetry_package, gopro_track, normalized_track
from egoctl.pipeline.reading.clip_job import ClipSource
from egoctl.pipeline.records import Clip, ImuTrack, ImuWindow
from egoctl.pipeline.sampling import imu_times
from egoctl.tests.worlds.ego4d_world import IMU_HEADER, ImuRow, recorded, write_imu
from egoctl.tests.worlds.epic_world import stamped_ms, write_pair
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


# === Aria glasses on the clock of vrs_to_mp4's video; a stand-in takes the place of VRS ===


START_NS = 7_000_000_000_000


class Domain(Enum):
    """The two of projectaria_tools' time domains that are used."""

    DEVICE_TIME = "device"
    RECORD_TIME = "record"


@dataclass(kw_only=True, slots=True)
class Sample:
    capture_timestamp_ns: int
    accel_msec2: Sequence[float]
    gyro_radsec: Sequence[float]
    accel_valid: bool = True
    gyro_valid: bool = True


def samples(num: int, *, first_ns: int = START_NS) -> list[Sample]:
    """A thousand a second, numbered in the x axes."""
    return [
        Sample(
            capture_timestamp_ns=first_ns + index * 1_000_000,
            accel_msec2=[9.0 + index, 0.5, 0.25],
            gyro_radsec=[0.1 * index, 0.2, 0.3],
        )
        for index in range(num)
    ]


@dataclass(frozen=True, kw_only=True, slots=True)
class Recording:
    """What a VrsDataProvider answers; streams are known by their label."""

    imu: dict[str, list[Sample]]
    first_ns: dict[tuple[str, Domain], int]
    inactive: set[str] = field(default_factory=set)

    def get_stream_id_from_label(self, label: str) -> str | None:
        known = {*self.imu, *(name for name, _ in self.first_ns)}
        return f"id of {label}" if label in known else None

    def check_stream_is_active(self, stream_id: str) -> bool:
        return stream_id.removeprefix("id of ") not in self.inactive

    def get_first_time_ns(self, stream_id: str, time_domain: Domain) -> int:
        return self.first_ns[stream_id.removeprefix("id of "), time_domain]

    def get_num_data(self, stream_id: str) -> int:
        return len(self.imu[stream_id.removeprefix("id of ")])

    def get_imu_data_by_index(self, stream_id: str, index: int) -> Sample:
        return self.imu[stream_id.removeprefix("id of ")][index]


RGB = {("camera-rgb", Domain.DEVICE_TIME): START_NS + 500_000_000}
SOUND = {("mic", Domain.RECORD_TIME): START_NS + 400_000_000}


def test_time_starts_with_the_first_rgb_frame_where_there_is_no_sound() -> None:
    recording = Recording(imu={"imu-right": samples(1000)}, first_ns=RGB)

    track = aria_track(recording, Domain, source="take.vrs")

    np.testing.assert_allclose(track.accel_time_s[[0, 500, 999]], [-0.5, 0.0, 0.499], atol=1e-9)
    np.testing.assert_allclose(track.gyro_time_s, track.accel_time_s)
    assert track.accel_N3[3].tolist() == [12.0, 0.5, 0.25]
    assert track.gyro_M3[3].tolist() == pytest.approx([0.3, 0.2, 0.3])
    assert track.source == "take.vrs (imu-right)"


def test_with_sound_time_starts_where_vrs_to_mp4_starts_its_video() -> None:
    recording = Recording(imu={"imu-right": samples(1000)}, first_ns=RGB | SOUND)

    track = aria_track(recording, Domain, source="take.vrs")

    assert track.accel_time_s[400] == 0.0


@pytest.mark.parametrize("inactive", [set(), {"imu-right"}])
def test_the_right_imu_is_read_and_the_left_where_the_right_is_off(inactive: set[str]) -> None:
    both = {"imu-left": samples(8), "imu-right": samples(10)}

    track = aria_track(
        Recording(imu=both, first_ns=RGB, inactive=inactive), Domain, source="take.vrs"
    )

    assert len(track.gyro_time_s) == (8 if inactive else 10)
    assert track.source == f"take.vrs (imu-{'left' if inactive else 'right'})"


def test_a_sample_that_is_not_valid_costs_its_sensor_alone() -> None:
    found = samples(10)
    found[4] = Sample(
        capture_timestamp_ns=found[4].capture_timestamp_ns,
        accel_msec2=[0, 0, 0],
        gyro_radsec=[1, 2, 3],
        accel_valid=False,
    )

    track = aria_track(Recording(imu={"imu-right": found}, first_ns=RGB), Domain, source="take.vrs")

    assert (len(track.accel_time_s), len(track.gyro_time_s)) == (9, 10)
    assert track.accel_N3[4].tolist() == [14.0, 0.5, 0.25]


@pytest.mark.parametrize(
    ("recording", "reason"),
    [
        (Recording(imu={}, first_ns=RGB), "no stream imu-right or imu-left"),
        (Recording(imu={"imu-right": samples(9)}, first_ns={}), "no stream camera-rgb"),
        (Recording(imu={"imu-right": []}, first_ns=RGB), "0 accelerometer and 0 gyroscope samples"),
    ],
)
def test_a_recording_without_motion_or_picture_is_named(recording: Recording, reason: str) -> None:
    with pytest.raises(ImuError, match=f"take.vrs: (it has )?{reason}") as caught:
        aria_track(recording, Domain, source="take.vrs")

    assert caught.value.code == "imu_missing"


@pytest.fixture
def vrs(tmp_path: Path) -> Path:
    path = tmp_path / "take.VRS"
    path.write_bytes(b"not read by the stand-in")
    return path


def pretend(monkeypatch: pytest.MonkeyPatch, recording: Recording | None) -> None:
    """A projectaria_tools that opens every file as this recording."""
    names = ("projectaria_tools", "projectaria_tools.core")
    package, core = (ModuleType(name) for name in names)
    provider = ModuleType("projectaria_tools.core.data_provider")
    sensor = ModuleType("projectaria_tools.core.sensor_data")
    for holder, name, value in (
        (package, "core", core), (core, "data_provider", provider), (core, "sensor_data", sensor),
        (provider, "create_vrs_data_provider", lambda path: recording),
        (sensor, "TimeDomain", Domain),
    ):  # fmt: skip
        setattr(holder, name, value)
    for module in (package, core, provider, sensor):
        monkeypatch.setitem(sys.modules, module.__name__, module)


def test_a_vrs_file_is_read_by_its_suffix(monkeypatch: pytest.MonkeyPatch, vrs: Path) -> None:
    pretend(monkeypatch, Recording(imu={"imu-right": samples(5)}, first_ns=RGB))

    check_telemetry_package([vrs])

    assert len(read_imu(vrs).accel_time_s) == 5


def test_a_file_that_is_no_vrs_is_unreadable(monkeypatch: pytest.MonkeyPatch, vrs: Path) -> None:
    pretend(monkeypatch, None)

    with pytest.raises(ImuError, match="take.VRS: projectaria_tools cannot open it") as caught:
        read_imu(vrs)

    assert caught.value.code == "imu_unreadable"


def test_without_the_package_the_command_to_install_it_is_told(
    monkeypatch: pytest.MonkeyPatch, vrs: Path
) -> None:
    monkeypatch.setitem(sys.modules, "projectaria_tools", None)

    for use in (read_imu, lambda path: check_telemetry_package([path])):
        with pytest.raises(
            EgoctlError, match=r"take.VRS: .*pip install 'egoctl\[aria\]'"
        ) as caught:
            use(vrs)
        assert not isinstance(caught.value, ImuError)


# === Ego4D's IMU files: what is put right, what is left out, and that all of it is said ===


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


# === EPIC-KITCHENS' IMU files: what their clock hides, what is mended, what is said of the rest ===


def window(track: ImuTrack, start_s: float) -> ImuWindow:
    stop_s = start_s + 64 / 30
    clip = Clip(clip_id="c", segment_id="s", video_id="v", start_s=start_s, stop_s=stop_s)
    return ImuResampler(track).window(imu_times(clip, 422, RATE_HZ), span_s=(start_s, stop_s))


def refusal(track: ImuTrack, start_s: float) -> ImuError:
    with pytest.raises(ImuError) as caught:
        window(track, start_s)
    return caught.value


# --- the clock ---------------------------------------------------------------------------------


def test_even_payloads_of_varying_size_stay_as_they_were_stamped() -> None:
    time_s = stamped_ms([198, 197, 200]) / 1000

    np.testing.assert_allclose(repair_clock(time_s), time_s, atol=1e-12)


def test_samples_crowded_at_225_hz_are_spread_over_their_second() -> None:
    crowded_s = stamped_ms([198, 198, 198], spacing_ms=1000 / 225) / 1000

    mended_s = repair_clock(crowded_s)

    assert np.diff(crowded_s).max() == pytest.approx(1 - 197 / 225)
    np.testing.assert_allclose(np.diff(mended_s), 1 / 198, atol=1e-12)
    assert (mended_s[0], mended_s[198], mended_s[396]) == (0.0, 1.0, 2.0)


def test_stamps_rounded_to_milliseconds_are_spread_the_same() -> None:
    rounded_s = np.round(stamped_ms([198, 198, 198])) / 1000

    np.testing.assert_allclose(np.diff(repair_clock(rounded_s)), 1 / 198, atol=1e-9)


def test_a_payload_that_lost_samples_keeps_the_usual_spacing_and_shows_a_gap() -> None:
    mended_s = repair_clock(stamped_ms([198, 99, 198]) / 1000)

    spacing_s = np.diff(mended_s)
    assert mended_s[198 + 98] == pytest.approx(1 + 98 / 198)
    assert spacing_s.max() == pytest.approx(100 / 198)
    assert np.count_nonzero(spacing_s > 0.006) == 1


def test_a_payload_that_is_absent_stays_a_gap_of_a_second() -> None:
    time_s = stamped_ms([198, 198, 198, 198]) / 1000
    time_s = np.delete(time_s, np.s_[198:396])

    assert np.diff(repair_clock(time_s)).max() == pytest.approx(1 + 1 / 198)


def test_a_payload_that_stands_twice_stays_a_step_back() -> None:
    time_s = stamped_ms([200, 200, 200]) / 1000
    time_s = np.concatenate([time_s[:400], time_s[200:]])

    spacing_s = np.diff(repair_clock(time_s))

    assert np.flatnonzero(spacing_s <= 0).tolist() == [399]
    assert spacing_s[399] == pytest.approx(1 - 1.995)


def test_a_clock_that_does_not_begin_its_seconds_is_left_alone() -> None:
    time_s = 0.31 + np.arange(1000) / 197.3

    np.testing.assert_array_equal(repair_clock(time_s), time_s)


def test_no_samples_are_no_times() -> None:
    assert repair_clock(np.zeros(0)).shape == (0,)


# --- the pair ----------------------------------------------------------------------------------


def test_a_pair_is_named_by_its_accelerometer_and_keeps_two_clocks_and_the_cameras_axes(
    tmp_path: Path,
) -> None:
    (tmp_path / "P01_101-accl.csv").write_text(
        "Milliseconds,AcclX,AcclY,AcclZ\n0,9.5,0.25,-1\n500,9.75,0.5,-2\n"
    )
    (tmp_path / "P01_101-gyro.csv").write_text(
        "Milliseconds,GyroX,GyroY,GyroZ\n0,0.125,1,2\n250,0.25,3,4\n500,0.5,5,6\n750,1,7,8\n"
    )

    track = read_imu(tmp_path / "P01_101-accl.csv")

    np.testing.assert_array_equal(track.accel_time_s, [0, 0.5])
    np.testing.assert_array_equal(track.accel_N3, [[9.5, 0.25, -1], [9.75, 0.5, -2]])
    np.testing.assert_array_equal(track.gyro_time_s, [0, 0.25, 0.5, 0.75])
    np.testing.assert_array_equal(
        track.gyro_M3, [[0.125, 1, 2], [0.25, 3, 4], [0.5, 5, 6], [1, 7, 8]]
    )


def test_a_recording_is_both_files_and_read_from_both() -> None:
    pair = MediaFile(url="s3://epic/P01/meta_data/P01_101-accl.csv")
    plain = MediaFile(url="s3://epic/P01_101.csv")

    assert [one.url for one in imu_files(pair)] == [
        "s3://epic/P01/meta_data/P01_101-accl.csv",
        "s3://epic/P01/meta_data/P01_101-gyro.csv",
    ]
    assert imu_files(plain) == (plain,)


def test_of_a_pair_in_a_bucket_both_files_are_fetched(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_pair(tmp_path / "bucket", "P01_101", accel_per_s=[198] * 4, gyro_per_s=[198] * 4)

    def fetched(url: str) -> Path:
        # As the cache does: every file in a folder of its own.
        name = url.removeprefix("s3://epic/")
        folder = tmp_path / name.removesuffix(".csv")
        folder.mkdir()
        return (tmp_path / "bucket" / name).rename(folder / name)

    monkeypatch.setattr("egoctl.pipeline.files.cache.local_file", fetched)

    track = read_media_imu(MediaFile(url="s3://epic/P01_101-accl.csv"))

    assert (len(track.accel_time_s), len(track.gyro_time_s)) == (792, 792)


def test_a_stores_key_of_the_imu_covers_both_files(tmp_path: Path) -> None:
    accl = write_pair(tmp_path, "P01_101", accel_per_s=[198], gyro_per_s=[198])
    source = ClipSource(
        clip=Clip(clip_id="c", segment_id="s", video_id="v", start_s=0, stop_s=1),
        video=MediaFile(url=str(tmp_path / "none.mp4")),
        imu=MediaFile(url=str(accl)),
    )
    (before,) = store_rows({"c": source}, with_imu=True)

    gyro = tmp_path / "P01_101-gyro.csv"
    gyro.write_text(gyro.read_text() + "1000,0,0,0\n")

    (after,) = store_rows({"c": source}, with_imu=True)
    assert before.imu_key is not None and after.imu_key is not None
    assert before.imu_key != after.imu_key


def test_a_window_is_the_measured_signal(tmp_path: Path) -> None:
    accl = write_pair(tmp_path, "P01_101", accel_per_s=[198] * 6, gyro_per_s=[201] * 6)

    found = window(read_media_imu(MediaFile(url=str(accl))), 2.0)

    assert found.coverage == 1.0
    assert found.samples_W6.shape == (422, 6)
    # write_pair turns the head at 1 rad/s once in two seconds.
    middle_s = 2.0 + 32 / 30
    times_W = middle_s + (np.arange(422) - 210.5) / 198
    expected_W: NDArray[np.float64] = np.sin(np.pi * times_W)
    np.testing.assert_allclose(found.samples_W6[:, 3] + found.mean_6[3], expected_W, atol=0.002)


def test_crowded_samples_cover_a_window_that_their_stamps_would_not(tmp_path: Path) -> None:
    accl = write_pair(
        tmp_path, "P01_101", accel_per_s=[198] * 6, gyro_per_s=[198] * 6, spacing_ms=1000 / 225
    )

    assert window(read_imu(accl), 2.0).coverage == 1.0


def test_a_stream_that_ends_before_its_video_refuses_the_windows_past_its_end(
    tmp_path: Path,
) -> None:
    accl = write_pair(tmp_path, "P01_101", accel_per_s=[198] * 7, gyro_per_s=[198] * 5)
    track = read_imu(accl)

    assert window(track, 2.5).coverage == 1.0
    assert refusal(track, 4.0).code == "imu_low_coverage"
    assert "the gyroscope covers 46 % of 4.00-6.13 s, needed 90 %: it ends at 4.99 s" in str(
        refusal(track, 4.0)
    )


def test_a_missing_payload_refuses_the_windows_that_touch_it(tmp_path: Path) -> None:
    accl = write_pair(
        tmp_path, "P01_101", accel_per_s=[198] * 9, gyro_per_s=[198, 198, 198, 0, *[198] * 5]
    )
    track = read_imu(accl)

    assert summarize_imu(track).longest_gap_s == pytest.approx(1 + 1 / 198)
    assert "it has a gap of 1.01 s at 2.99 s" in str(refusal(track, 2.5))
    assert window(track, 5.0).coverage == 1.0


def test_a_payload_that_stands_twice_refuses_the_windows_that_touch_it(tmp_path: Path) -> None:
    accl = write_pair(tmp_path, "P01_101", accel_per_s=[198] * 8, gyro_per_s=[198] * 8)
    lines = accl.read_text().splitlines()
    accl.write_text("\n".join([*lines[: 1 + 2 * 198], *lines[1 + 198 :]]))
    track = read_imu(accl)

    assert summarize_imu(track).num_non_monotonic == 1
    assert refusal(track, 0.5).code == "imu_not_monotonic"
    assert window(track, 4.0).coverage == 1.0


def test_two_equal_axes_refuse_the_window(tmp_path: Path) -> None:
    accl = write_pair(tmp_path, "P01_101", accel_per_s=[198] * 5, gyro_per_s=[198] * 5)
    lines = (tmp_path / "P01_101-gyro.csv").read_text().splitlines()
    cells = [line.split(",") for line in lines[1:]]
    doubled = [",".join([time, x, y, y]) for time, x, y, _ in cells]
    (tmp_path / "P01_101-gyro.csv").write_text("\n".join([lines[0], *doubled]))
    track = read_imu(accl)

    assert summarize_imu(track).duplicated_axes == ("gyroscope y = z",)
    assert refusal(track, 1.0).code == "imu_duplicate_axes"


# --- files that are no pair --------------------------------------------------------------------


def test_without_the_gyroscopes_file_the_reason_tells_both_names(tmp_path: Path) -> None:
    accl = write_pair(tmp_path, "P01_101", accel_per_s=[198], gyro_per_s=[198])
    (tmp_path / "P01_101-gyro.csv").unlink()

    with pytest.raises(ImuError, match="P01_101-gyro.csv: no such file.*-accl.csv and NAME-gyro"):
        read_imu(accl)


@pytest.mark.parametrize(
    ("content", "code", "reason"),
    [
        ("Time,X,Y,Z\n0,1,2,3\n", "imu_unreadable", "line 1: no column Milliseconds, GyroX, GyroY"),
        (
            "Milliseconds,GyroX,GyroY,GyroZ\n0,1,2,3\n5,1,two,3\n",
            "imu_unreadable",
            "line 3: GyroY is not a number: 'two'",
        ),
        (
            "Milliseconds,GyroX,GyroY,GyroZ\n0,1,2,3\n,1,2,3\n",
            "imu_unreadable",
            "line 3: Milliseconds is not a number: None",
        ),
        ("Milliseconds,GyroX,GyroY,GyroZ\n0,1,2,3\n5,1,2,3,4\n", "imu_unreadable", "gyro.csv: "),
        ("", "imu_unreadable", "gyro.csv: "),
        ("Milliseconds,GyroX,GyroY,GyroZ\n", "imu_missing", "it holds no sample"),
    ],
    ids=["columns", "no number", "no time", "ragged", "empty", "header alone"],
)
def test_a_file_that_cannot_be_used_is_refused_with_its_line(
    tmp_path: Path, content: str, code: str, reason: str
) -> None:
    accl = write_pair(tmp_path, "P01_101", accel_per_s=[198], gyro_per_s=[198])
    (tmp_path / "P01_101-gyro.csv").write_text(content)

    with pytest.raises(ImuError, match=reason) as caught:
        read_imu(accl)
    assert caught.value.code == code


def test_an_empty_cell_refuses_the_windows_that_touch_it(tmp_path: Path) -> None:
    accl = write_pair(tmp_path, "P01_101", accel_per_s=[198] * 8, gyro_per_s=[198] * 8)
    lines = accl.read_text().splitlines()
    time, x, _, z = lines[1 + 198].split(",")
    lines[1 + 198] = f"{time},{x},,{z}"
    accl.write_text("\n".join(lines))
    track = read_imu(accl)

    assert refusal(track, 0.5).code == "imu_nan"
    assert window(track, 4.0).coverage == 1.0
