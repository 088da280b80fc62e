"""Motion of Aria glasses on the clock of vrs_to_mp4's video; a stand-in takes the place of VRS."""

import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from egoctl.pipeline.errors import EgoctlError, ImuError
from egoctl.pipeline.imu.aria import aria_track
from egoctl.pipeline.imu.recording import read_imu
from egoctl.pipeline.imu.telemetry import check_telemetry_package

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
