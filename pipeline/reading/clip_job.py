"""What is to be read of which clips: a job, the files it is cut from, and the views of them."""

# T teacher frames, K stored frames

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from egoctl.pipeline.files.cache import MediaFile
from egoctl.pipeline.records import Clip, TeacherSpec
from egoctl.pipeline.sampling import frame_times, resolved_stride_s, uniform_times
from egoctl.pipeline.video.pyav_clips import FrameView


@dataclass(frozen=True, kw_only=True, slots=True)
class TeacherView:
    """The frames a teacher looks at."""

    num_frames: int
    stride_s: float
    frame: FrameView

    def times_s(self, clip: Clip) -> NDArray[np.float64]:
        """(T,) when it looks at a clip."""
        return frame_times(clip, self.num_frames, self.stride_s)


@dataclass(frozen=True, kw_only=True, slots=True)
class InputsView:
    """The frames and IMU a student reads."""

    num_frames: int
    frame_px: int
    jpeg_quality: int
    imu_samples: int

    @property
    def frame(self) -> FrameView:
        return FrameView(short_side_px=None, crop_px=self.frame_px)

    def times_s(self, clip: Clip) -> NDArray[np.float64]:
        """(K,) when its frames are taken."""
        return uniform_times(clip, self.num_frames)


@dataclass(frozen=True, kw_only=True, slots=True)
class ClipSource:
    """A clip and the files it is cut from."""

    clip: Clip
    video: MediaFile
    imu: MediaFile | None


@dataclass(frozen=True, kw_only=True, slots=True)
class Job:
    """Clips to read together (of one part), and the views in which each of them is read."""

    number: int
    sources: Sequence[ClipSource]
    rows: Sequence[int] | None = None
    """The position of each source in its part; None: the sources are the whole part, in order."""
    views: Mapping[str, TeacherView | InputsView]
    """By name; at most one is an InputsView."""

    def __post_init__(self) -> None:
        if self.rows is not None and len(self.rows) != len(self.sources):
            raise ValueError(f"{len(self.rows)} rows for {len(self.sources)} sources")

    def row(self, at: int) -> int:
        """The position in its part of the source at this place of the job."""
        return at if self.rows is None else self.rows[at]


def teacher_view(spec: TeacherSpec, window_s: float) -> TeacherView:
    return TeacherView(
        num_frames=spec.num_frames,
        stride_s=resolved_stride_s(spec.num_frames, spec.stride_s, window_s),
        frame=FrameView(short_side_px=spec.short_side_px, crop_px=spec.crop_px),
    )
