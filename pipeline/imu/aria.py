"""Reads head motion from the VRS recordings of Project Aria glasses, through Meta's own package.

Frames are not read from VRS: Meta's vrs_to_mp4 makes the video, and this reader puts the motion on
that video's clock.
"""

# N samples of the stream

from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any, Protocol

import numpy as np

from egoctl.pipeline.errors import EgoctlError, ImuError
from egoctl.pipeline.records import ImuTrack

IMU_LABELS = ("imu-right", "imu-left")
"""The stream that is looked for first, and the one for want of it; about 1000 and 800 Hz."""


class Motion(Protocol):
    """One sample: MotionData of projectaria_tools."""

    capture_timestamp_ns: int
    """On the device's clock."""
    accel_valid: bool
    accel_msec2: Sequence[float]
    gyro_valid: bool
    gyro_radsec: Sequence[float]


class AriaRecording(Protocol):
    """What is used of a VrsDataProvider of projectaria_tools."""

    def get_stream_id_from_label(self, label: str) -> Any: ...
    def check_stream_is_active(self, stream_id: Any) -> bool: ...
    def get_first_time_ns(self, stream_id: Any, time_domain: Any) -> int: ...
    def get_num_data(self, stream_id: Any) -> int: ...
    def get_imu_data_by_index(self, stream_id: Any, index: int) -> Motion: ...


def is_vrs(path: Path) -> bool:
    return path.suffix.lower() == ".vrs"


def aria_tools(path: Path) -> ModuleType:
    """The package that reads VRS.

    Raises:
        EgoctlError: if it is not installed; that is no fault of the recording at path.
    """
    try:
        import projectaria_tools.core.data_provider
        import projectaria_tools.core.sensor_data
    except ImportError as error:
        raise EgoctlError(
            f"{path}: reading motion of Aria glasses needs projectaria_tools: "
            "pip install 'egoctl[aria]'."
        ) from error
    core: ModuleType = projectaria_tools.core
    return core


def read_vrs_track(path: Path) -> ImuTrack:
    """The motion of a VRS file, zero at the first frame of the video that vrs_to_mp4 makes of it.

    Raises:
        ImuError: imu_unreadable if it is no VRS file; imu_missing if it has no IMU or no picture.
        EgoctlError: without projectaria_tools.
    """
    core = aria_tools(path)
    recording = core.data_provider.create_vrs_data_provider(str(path))
    if recording is None:
        raise ImuError("imu_unreadable", f"{path}: projectaria_tools cannot open it as VRS.")
    return aria_track(recording, core.sensor_data.TimeDomain, source=str(path))


def aria_track(recording: AriaRecording, domains: Any, *, source: str) -> ImuTrack:
    """The track of an open recording; domains is projectaria_tools' TimeDomain.

    Raises:
        ImuError: imu_missing.
    """

    def stream(*labels: str) -> tuple[str, Any] | None:
        for label in labels:
            stream_id = recording.get_stream_id_from_label(label)
            if stream_id is not None and recording.check_stream_is_active(stream_id):
                return label, stream_id
        return None

    imu, rgb, sound = stream(*IMU_LABELS), stream("camera-rgb"), stream("mic")
    if imu is None or rgb is None:
        lacking = " or ".join(IMU_LABELS) if imu is None else "camera-rgb"
        raise _missing(source, f"it has no stream {lacking}")
    # As vrs_to_mp4 does it: with sound, its video starts where the sound was begun to be recorded,
    # and shows the picture nearest to each moment from there.
    zero_ns = (
        recording.get_first_time_ns(rgb[1], domains.DEVICE_TIME)
        if sound is None
        else recording.get_first_time_ns(sound[1], domains.RECORD_TIME)
    )
    samples = [
        recording.get_imu_data_by_index(imu[1], index)
        for index in range(recording.get_num_data(imu[1]))
    ]
    accel = [one for one in samples if one.accel_valid]
    gyro = [one for one in samples if one.gyro_valid]
    if not accel or not gyro:
        raise _missing(source, f"{len(accel)} accelerometer and {len(gyro)} gyroscope samples")
    return ImuTrack(
        accel_time_s=np.array([one.capture_timestamp_ns - zero_ns for one in accel]) / 1e9,
        accel_N3=np.array([one.accel_msec2 for one in accel], np.float64),
        gyro_time_s=np.array([one.capture_timestamp_ns - zero_ns for one in gyro]) / 1e9,
        gyro_M3=np.array([one.gyro_radsec for one in gyro], np.float64),
        source=f"{source} ({imu[0]})",
    )


def _missing(source: str, reason: str) -> ImuError:
    return ImuError(
        "imu_missing",
        f"{source}: {reason}. Record with a profile that has pictures and an IMU, or give the "
        "segment no imu_path.",
    )
