"""A split in memory: its usable clips, what stores hold of them, and which clips are left out."""

# N clips, F frames, I image feature width, W IMU samples, A IMU axes (6)
# D teacher feature width, C classes

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from egoctl.pipeline.records import Clip, Segment
from egoctl.student.clips.jpegs import Jpegs


@dataclass(frozen=True, kw_only=True, slots=True)
class LeftOut:
    """A clip that cannot be used, and why."""

    clip_id: str
    segment_id: str
    reason: str


@dataclass(frozen=True, kw_only=True, slots=True)
class ClipSet:
    """The usable clips of one split, in the manifest's order."""

    segments: tuple[Segment, ...]
    """All of the split, also those without a usable clip."""
    clips: tuple[Clip, ...]
    segment_N: Tensor
    """Index into segments."""
    label_N: Tensor
    """NO_LABEL where the segment has none."""
    feature_ND: Tensor | None
    """The teacher's, raw; NaN where has_target_N is False."""
    logits_NC: Tensor | None
    """The teacher's, raw, of the columns that were asked for; NaN likewise."""
    has_target_N: Tensor
    is_common_N: Tensor
    """Inputs, IMU and, given a teacher store, a target: any method could use the clip."""
    imu_NWA: Tensor | None
    jpegs: Jpegs | None
    image_feature_NFI: Tensor | None = None
    """Of a frozen encoder; None: there is none, or they are not computed yet."""
    left_out: tuple[LeftOut, ...]
    digests: Mapping[str, str]
    """Of the clips and labels, and of the rows read from each store."""

    def __len__(self) -> int:
        return len(self.clips)

    def left_out_by_reason(self) -> dict[str, int]:
        """Clips per reason, the most frequent first."""
        return dict(Counter(item.reason for item in self.left_out).most_common())
