"""The records that cross module borders. Each checks itself once, when it is made."""

# N clips, W IMU samples, 6 IMU axes (accelerometer xyz, gyroscope xyz), D feature width, C classes

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

from egoctl.pipeline.errors import ManifestError

if TYPE_CHECKING:
    import numpy as np  # slow to import, and commands need constants and words alone
    from numpy.typing import NDArray

FloatArray: TypeAlias = "NDArray[np.floating]"
WINDOW_S = 64 / 30
"""MotionFormer's 16 frames at every 4th of 30 fps; 422 IMU samples at 198 Hz."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Segment:
    """An annotated span [start_s, stop_s) of one video."""

    segment_id: str
    video_id: str
    video_path: str
    """Relative to the manifest's folder, or an absolute path or URI."""
    imu_path: str | None
    """None: no IMU. Equal to video_path: inside the video file. Else a CSV."""
    participant_id: str
    start_s: float
    """Presentation time, seconds from the video stream's first frame."""
    stop_s: float
    """Exclusive end, on the same clock."""
    label: int | None
    split: str
    verb_class: int | None = None
    """What is done, as the dataset numbers it; so that one manifest serves several labels."""
    noun_class: int | None = None
    """What it is done to, as the dataset numbers it."""
    narration: str | None = None
    """An annotator's words for the segment."""

    def __post_init__(self) -> None:
        if not self.segment_id:
            raise ManifestError("segment_id is empty. Give every segment a unique id.")
        if not (math.isfinite(self.start_s) and math.isfinite(self.stop_s)):
            raise ManifestError(
                f"segment {self.segment_id!r}: start_s and stop_s must be finite, "
                f"got {self.start_s} and {self.stop_s}. Fix that row."
            )
        if not 0 <= self.start_s < self.stop_s:
            raise ManifestError(
                f"segment {self.segment_id!r}: need 0 <= start_s < stop_s, "
                f"got {self.start_s:g} and {self.stop_s:g}. Fix that row."
            )
        if self.label is not None and self.label < 0:
            raise ManifestError(
                f"segment {self.segment_id!r}: label must be 0 or more, got {self.label}."
            )


@dataclass(frozen=True, kw_only=True, slots=True)
class Clip:
    """A window [start_s, stop_s) that teacher and student look at; never longer than the window."""

    clip_id: str
    segment_id: str
    video_id: str
    start_s: float
    stop_s: float

    @property
    def mid_s(self) -> float:
        return (self.start_s + self.stop_s) / 2


@dataclass(frozen=True, kw_only=True, slots=True)
class TeacherSpec:
    """What a teacher looks at and what it gives back."""

    name: str
    num_frames: int
    stride_s: float
    """Seconds between two frames, as the network was trained."""
    short_side_px: int
    """The short side of the frame is resized to this, keeping the aspect ratio ..."""
    crop_px: int
    """... and the centre square of this side is what the network sees."""
    mean: tuple[float, float, float]
    """Per channel, in channel_order, of pixels scaled to [0, 1]."""
    std: tuple[float, float, float]
    channel_order: str
    """'rgb' or 'bgr'."""
    tap: str
    """Where the feature is taken: the module whose input it is, or the step whose output."""
    feature_dim: int
    num_classes: int
    head_sizes: tuple[int, ...] = ()
    """Classes of each of several classifiers, whose logits lie side by side; (): one."""

    def __post_init__(self) -> None:
        if self.num_frames < 1 or self.stride_s <= 0:
            raise ValueError(f"{self.name}: num_frames and stride_s must be positive")
        if not 0 < self.crop_px <= self.short_side_px:
            raise ValueError(f"{self.name}: need 0 < crop_px <= short_side_px")
        if self.channel_order not in ("rgb", "bgr"):
            raise ValueError(f"{self.name}: channel_order is rgb or bgr")
        if self.head_sizes and (
            min(self.head_sizes) < 1 or sum(self.head_sizes) != self.num_classes
        ):
            raise ValueError(
                f"{self.name}: heads of {self.head_sizes} classes are not {self.num_classes} in all"
            )


@dataclass(frozen=True, kw_only=True, slots=True)
class TeacherTargets:
    """What the teacher computes for N clips: feature (N, D) and raw logits (N, C), float32."""

    feature_ND: FloatArray
    logits_NC: FloatArray

    def __post_init__(self) -> None:
        if self.feature_ND.ndim != 2 or self.logits_NC.ndim != 2:
            raise ValueError("feature and logits must be (N, D) and (N, C)")
        if len(self.feature_ND) != len(self.logits_NC):
            raise ValueError(
                f"feature has {len(self.feature_ND)} rows, logits {len(self.logits_NC)}"
            )


@dataclass(frozen=True, kw_only=True, slots=True)
class ImuTrack:
    """A whole recording: accelerometer (m/s^2) and gyroscope (rad/s), each on its own clock."""

    accel_time_s: FloatArray
    """(N,), seconds from the video's first frame."""
    accel_N3: FloatArray
    gyro_time_s: FloatArray
    """(M,), the same zero."""
    gyro_M3: FloatArray
    source: str
    """Where it came from, for messages: a path and, for telemetry, the camera."""

    def __post_init__(self) -> None:
        for name, time, xyz in (
            ("accelerometer", self.accel_time_s, self.accel_N3),
            ("gyroscope", self.gyro_time_s, self.gyro_M3),
        ):
            if time.ndim != 1 or xyz.shape != (len(time), 3):
                raise ValueError(
                    f"{self.source}: {name} needs (N,) times and (N, 3) values, "
                    f"got {time.shape} and {xyz.shape}"
                )


@dataclass(frozen=True, kw_only=True, slots=True)
class ImuWindow:
    """A clip's IMU on the student's grid: accelerometer xyz, then gyroscope xyz."""

    samples_W6: "NDArray[np.float32]"
    """Mean over the window removed per axis (so gravity is gone)."""
    mean_6: "NDArray[np.float32]"
    """The mean that was removed; samples + mean is the measured signal."""
    coverage: float
    """Share of the grid that measured samples support, 0 to 1."""


OK = "ok"


IMU_NONE = "imu_none"
"""The manifest names no IMU: nothing was expected, so nothing failed."""


@dataclass(frozen=True, kw_only=True, slots=True)
class RowOutcome:
    """What became of one row: 'ok', or an error code and the sentence for people."""

    code: str = OK
    reason: str | None = None
