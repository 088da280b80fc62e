"""Fits the demo's teacher to the labels of a manifest's train split."""

# N segments, T frames, C channels, H height, W width, D pooled width

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from egoctl.pipeline.clip_reader import ClipReader, ClipSource, Job, TeacherView
from egoctl.pipeline.errors import EgoctlError
from egoctl.pipeline.manifest import Manifest
from egoctl.pipeline.progress import Progress
from egoctl.pipeline.records import Clip
from egoctl.pipeline.teachers.frame_temporal import (
    FRAME_PX,
    NUM_FRAMES,
    FrameTrunk,
    OnEpoch,
    fit_frame_temporal,
    trunk_features,
)
from egoctl.pipeline.teachers.lineup import teacher_spec
from egoctl.pipeline.teachers.weights import save_checkpoint
from egoctl.pipeline.trained_on import TrainedOn
from egoctl.pipeline.video import FrameView

SEGMENTS_PER_BATCH = 4


@dataclass(frozen=True, kw_only=True, slots=True)
class TeacherFit:
    """What was fitted."""

    path: Path
    num_segments: int
    num_frames: int
    """Frames of each segment; every step saw a random run of the teacher's 8."""
    last_loss: float


def fit_demo_teacher(
    manifest: Manifest, out: Path, *, seed: int, epochs: int = 12, split: str = "train"
) -> TeacherFit:
    """Train the temporal head on the split's labelled segments and write it to out.

    Raises:
        EgoctlError: if the split has no labelled segments, or a video cannot be read.
    """
    stride_s = teacher_spec("lite0_temporal").stride_s
    segments = [s for s in manifest.segments if s.split == split and s.label is not None]
    if not segments:
        raise EgoctlError(f"the manifest has no labelled segment in split {split!r}.")
    # As many frames as the shortest segment holds: a step then picks a run of 8 among them.
    shortest_s = min(segment.stop_s - segment.start_s for segment in segments)
    num_frames = max(NUM_FRAMES, int(shortest_s / stride_s + 1e-6))
    sources = [
        ClipSource(
            clip=Clip(
                clip_id=segment.segment_id,
                segment_id=segment.segment_id,
                video_id=segment.video_id,
                start_s=segment.start_s,
                stop_s=segment.stop_s,
            ),
            video=manifest.media(segment.video_path),
            imu=None,
        )
        for segment in segments
    ]
    reader = ClipReader(
        [Job(number=0, sources=sources, for_teacher=True, for_inputs=False)],
        teacher=TeacherView(
            num_frames=num_frames,
            stride_s=stride_s,
            frame=FrameView(short_side_px=FRAME_PX, crop_px=FRAME_PX),
        ),
        inputs=None,
        queue_size=2 * SEGMENTS_PER_BATCH,
    )
    order: list[int] = []
    with Progress(len(sources), title="frames for the teacher", unit="segment") as progress:
        grid_NTCHW, pooled_NTD = trunk_features(
            FrameTrunk(), _batches(reader, sources, order, progress)
        )
    labels = np.array([segments[index].label for index in order], dtype=np.int64)
    losses: list[float] = []
    with Progress(epochs, title="fit the teacher", unit="epoch") as progress:
        state = fit_frame_temporal(
            grid_NTCHW,
            pooled_NTD,
            labels,
            len(manifest.class_names),
            seed,
            epochs=epochs,
            on_epoch=_on_epoch(losses, progress),
        )
    out.parent.mkdir(parents=True, exist_ok=True)
    save_checkpoint(
        out,
        state,
        class_names=manifest.class_names,
        trained_on=TrainedOn.of_segments(segments, dataset=manifest.dataset_name),
    )
    return TeacherFit(
        path=out, num_segments=len(order), num_frames=num_frames, last_loss=losses[-1]
    )


def _batches(
    reader: ClipReader, sources: Sequence[ClipSource], order: list[int], progress: Progress
) -> Iterator[Tensor]:
    """uint8 (B, T, H, W, 3); order receives the index of every segment, as they come."""
    batch = []
    for clip in reader:
        if clip.teacher_frames is None:
            source = sources[clip.index]
            raise EgoctlError(
                f"segment {source.clip.segment_id!r}: {clip.outcome.reason}. The demo teacher "
                "learns from every train segment; repair that video."
            )
        batch.append(clip.teacher_frames)
        order.append(clip.index)
        if len(batch) == SEGMENTS_PER_BATCH:
            yield torch.from_numpy(np.stack(batch))
            progress.advance(len(batch))
            batch = []
    if batch:
        yield torch.from_numpy(np.stack(batch))
        progress.advance(len(batch))


def _on_epoch(losses: list[float], progress: Progress) -> OnEpoch:
    def on_epoch(epoch: int, loss: float) -> None:
        losses.append(loss)
        progress.advance()

    return on_epoch
