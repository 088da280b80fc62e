"""A split as a torch Dataset, for people who bring their own training loop."""

# F frames, H height, W image width or IMU samples, D teacher feature width, C classes

from pathlib import Path
from typing import NamedTuple

import numpy as np
import polars as pl
import torch
from torch import Tensor
from torch.utils.data import Dataset

from egoctl.pipeline.manifest import Manifest, read_manifest
from egoctl.pipeline.store import FeatureStore
from egoctl.pipeline.store.jpeg import frame_size
from egoctl.pipeline.store.teacher_columns import columns_in
from egoctl.student.clips.clip_set import LeftOut, read_clips
from egoctl.student.clips.frames import decode_frames
from egoctl.student.model.student_config import METHODS, FrameSelection
from egoctl.student.settings.train_config import CacheFrames


class ClipItem(NamedTuple):
    """One clip; torch's default_collate makes a ClipItem of batches, with B before each shape."""

    frames: Tensor
    """(F, H, W, 3) uint8, RGB."""
    imu: Tensor
    """(W, 6) float32: accelerometer xyz (m/s^2), gyroscope xyz (rad/s), the clip's mean removed."""
    feature: Tensor
    """(D,) float32, the teacher's; (0,) without one."""
    logits: Tensor
    """(C,) float32, all of the teacher's, without a softmax; (0,) without a teacher or classes."""
    label: int
    """NO_LABEL, -1, where the segment has none."""
    index: int  # type: ignore[assignment]  # hides tuple.index, which nobody needs here
    """The clip's row in ClipDataset.clips."""


class ClipDataset(Dataset[ClipItem]):
    """The clips of a split that have frames, IMU and, given a teacher store, targets.

    Everything but decoded frames is read when it is made and shared with a DataLoader's workers,
    forked or spawned. No store is kept open.

    >>> clips = ClipDataset(
    ...     "manifest.parquet", inputs="inputs.store", teacher="teacher.store", split="train"
    ... )
    >>> len(clips), len(clips.left_out)
    (18, 0)
    >>> item = clips[0]
    >>> item.frames.shape, item.imu.shape, item.feature.shape, item.label
    (torch.Size([1, 32, 32, 3]), torch.Size([40, 6]), torch.Size([8]), 0)
    >>> loader = torch.utils.data.DataLoader(clips, batch_size=6, shuffle=True)
    >>> next(iter(loader)).frames.shape
    torch.Size([6, 1, 32, 32, 3])
    """

    clips: pl.DataFrame
    """Row i describes item i: clip_id, segment_id, video_id, start_s, stop_s."""
    left_out: tuple[LeftOut, ...]
    """The split's other clips, and why each cannot be used."""
    logit_columns: tuple[int, ...] | None
    """Which of the logits are the manifest's classes, in its order; None: none, or unknown."""

    def __init__(
        self,
        manifest: Manifest | Path | str,
        *,
        inputs: str,
        teacher: str | None,
        split: str,
        num_frames: int = 1,
        frame_selection: FrameSelection = "uniform",
        cache_frames: CacheFrames = "ram",
    ) -> None:
        """manifest, inputs and teacher are paths or URLs.

        Uniform frames are the middles of equal shares of the clip; first, last and center are
        neighbours among the stored frames; random is one draw, the same every epoch.

        Raises:
            EgoctlError: if manifest, split or a store is missing, or they do not fit each other.
            StoreError: if the first frame is no JPEG.
        """
        if not isinstance(manifest, Manifest):
            manifest = read_manifest(manifest)
        targets = None if teacher is None else FeatureStore.open(teacher)
        found = read_clips(
            manifest,
            split,
            method=METHODS["egodistill"],
            num_frames=num_frames,
            frame_selection=frame_selection,
            inputs=FeatureStore.open(inputs),
            teacher=targets,
            needs_targets=teacher is not None,
            needs_labels=False,
            allow_missing=True,
            cache_frames=cache_frames,
        )
        assert found.imu_NWA is not None and found.jpegs is not None, "egodistill sees both"
        self.left_out = found.left_out
        self.logit_columns = None
        if targets is not None:
            self.logit_columns = columns_in(targets, manifest.class_names).columns_C
        columns = ("clip_id", "segment_id", "video_id", "start_s", "stop_s")
        self.clips = pl.DataFrame(
            {name: [getattr(clip, name) for clip in found.clips] for name in columns}
        )
        nothing_N0 = torch.zeros(len(found), 0)
        self._jpegs = found.jpegs
        self._imu_NW6 = found.imu_NWA
        self._feature_ND = nothing_N0 if found.feature_ND is None else found.feature_ND
        self._logits_NC = nothing_N0 if found.logits_NC is None else found.logits_NC
        self._label_N = found.label_N
        self._frame_px = (0, 0)
        if len(found):
            self._frame_px = frame_size(found.jpegs.of(np.zeros(1, dtype=np.int64))[0])

    def __len__(self) -> int:
        return len(self._label_N)

    def __getitem__(self, index: int) -> ClipItem:
        """Raises StoreError: if a frame cannot be decoded or has another size than the first."""
        if not 0 <= index < len(self):
            raise IndexError(f"clip {index} of {len(self)}")
        frames_1FHW3 = np.empty((1, self._jpegs.shape[1], *self._frame_px, 3), dtype=np.uint8)
        decode_frames(self._jpegs.of(np.array([index])), frames_1FHW3)
        return ClipItem(
            frames=torch.from_numpy(frames_1FHW3[0]),
            imu=self._imu_NW6[index],
            feature=self._feature_ND[index],
            logits=self._logits_NC[index],
            label=int(self._label_N[index]),
            index=index,
        )
