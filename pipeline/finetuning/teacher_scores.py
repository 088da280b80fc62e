"""A teacher's own accuracy on labelled segments, seen in one view of each or in many."""

# N views of a segment, K classes of the manifest, T frames, H height, W width

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray

from egoctl.pipeline.errors import EgoctlError
from egoctl.pipeline.manifest import Manifest
from egoctl.pipeline.progress import Progress
from egoctl.pipeline.reading.clip_job import ClipSource, Job, TeacherView, teacher_view
from egoctl.pipeline.reading.clip_reader import ClipReader
from egoctl.pipeline.records import Clip, Segment, TeacherTargets
from egoctl.pipeline.store.teacher_columns import teacher_columns
from egoctl.pipeline.teachers.batches import TeacherBatches
from egoctl.pipeline.teachers.protocol import CPU_BATCH_SIZE, Teacher

CROPS = {1: (0.5,), 3: (0.0, 0.5, 1.0)}
"""Where squares lie along a frame's long side: 0 is its start, 1 its end."""
GPU_BATCH_SIZE = 16


@dataclass(frozen=True, kw_only=True, slots=True)
class Views:
    """Views of a segment: windows along time, crops along the long side of each."""

    num_windows: int = 1
    num_crops: int = 1

    def __post_init__(self) -> None:
        if self.num_windows < 1 or self.num_crops not in CROPS:
            raise EgoctlError(
                f"views are WINDOWSxCROPS with 1 or 3 crops, such as 10x3, "
                f"got {self.num_windows}x{self.num_crops}."
            )

    @classmethod
    def from_text(cls, text: str) -> "Views":
        """The views of a text such as '10x3'.

        Raises:
            EgoctlError: for anything else.
        """
        windows, _, crops = text.partition("x")
        if not (windows.isdecimal() and crops.isdecimal()):
            raise EgoctlError(f"views are WINDOWSxCROPS, such as 10x3, got {text!r}.")
        return cls(num_windows=int(windows), num_crops=int(crops))

    def clips(self, segment: Segment, *, window_s: float) -> list[Clip]:
        """The windows. One lies in the middle.

        Several start at i / num_windows of what the segment has to spare, so the last does not
        reach its end: as MotionFormer's authors evaluate (and PySlowFast before them).
        """
        spare_s = max(0.0, segment.stop_s - segment.start_s - window_s)
        shares = [0.5]
        if self.num_windows > 1:
            shares = [index / self.num_windows for index in range(self.num_windows)]
        starts = [segment.start_s + share * spare_s for share in shares]
        return [
            Clip(
                clip_id=f"{segment.segment_id}#{index}",
                segment_id=segment.segment_id,
                video_id=segment.video_id,
                start_s=start_s,
                stop_s=min(start_s + window_s, segment.stop_s),
            )
            for index, start_s in enumerate(starts)
        ]


@dataclass(frozen=True, kw_only=True, slots=True)
class TeacherScores:
    """Result of a teacher's evaluation; accuracies are shares of 1."""

    teacher: str
    split: str
    views: str
    num_segments: int
    top1: float | None
    """Softmax summed over the views of a segment; None without a segment that could be read."""
    top5: float | None
    num_seen: int | None
    """Scored segments that the weights were fitted to; None: they do not record that."""
    failures: dict[str, str] = field(default_factory=dict)
    """By segment, why it could not be read."""

    def lines(self) -> Iterator[str]:
        """For people."""
        yield (
            f"{self.teacher} on split {self.split!r}, {self.views} views: "
            f"{self.num_segments} segments scored."
        )
        if self.top1 is not None and self.top5 is not None:
            yield f"  top-1 {self.top1:.4f}, top-5 {self.top5:.4f}"
        if self.num_seen is None:
            yield "  Its weights do not record whether it was fitted to some of them."
        elif self.num_seen:
            yield (
                f"  It was fitted to {self.num_seen} of them: its accuracy there is partly memory."
            )
        for segment_id, reason in self.failures.items():
            yield f"  segment {segment_id!r}: {reason}"


def score_teacher(
    manifest: Manifest,
    teacher: Teacher,
    *,
    split: str,
    views: Views,
    device: torch.device,
    precision: str = "fp32",
) -> TeacherScores:
    """Read the split's labelled segments, ask the teacher, compare with the labels.

    Every crop is a pass over the videos of its own. A segment with a view that cannot be read is
    named and not scored.

    Raises:
        EgoctlError: if the split has no labelled segment, or the teacher knows other classes.
    """
    segments = [segment for segment in manifest.split(split) if segment.label is not None]
    if not segments:
        raise EgoctlError(f"split {split!r} has no labelled segment. Pass another --split.")
    columns_K = _columns(manifest, teacher)
    score_SK, failures = _summed_softmax(
        manifest, teacher, segments, views, columns_K, device=device, precision=precision
    )
    scored = [at for at, s in enumerate(segments) if s.segment_id not in failures]
    label_S = np.array([segments[at].label for at in scored], dtype=np.int64)
    seen = teacher.weights.trained_on
    return TeacherScores(
        teacher=teacher.spec.name,
        split=split,
        views=f"{views.num_windows}x{views.num_crops}",
        num_segments=len(scored),
        top1=_top_k(score_SK[scored], label_S, 1),
        top5=_top_k(score_SK[scored], label_S, 5),
        num_seen=None if seen is None else sum(seen.saw(segments[at]) for at in scored),
        failures=failures,
    )


def _columns(manifest: Manifest, teacher: Teacher) -> list[int]:
    spec = teacher.spec
    if spec.num_classes == 0:
        raise EgoctlError(f"teacher {spec.name} gives features alone: it has no classes to score.")
    found = teacher_columns(
        manifest.class_names,
        teacher_names=teacher.weights.class_names,
        head_sizes=list(spec.head_sizes) or [spec.num_classes],
        num_logits=spec.num_classes,
    )
    if found.columns_C is None:
        raise EgoctlError(
            f"teacher {spec.name} cannot be scored on this manifest: {found.reason}. Fit it to "
            "these classes with 'egoctl finetune-teacher'."
        )
    return list(found.columns_C)


def _summed_softmax(
    manifest: Manifest,
    teacher: Teacher,
    segments: Sequence[Segment],
    views: Views,
    columns_K: list[int],
    *,
    device: torch.device,
    precision: str,
) -> tuple[NDArray[np.float64], dict[str, str]]:
    """(S, K) over all views, and the segments that could not be read with the reason."""
    score_SK = np.zeros((len(segments), len(columns_K)))
    failures: dict[str, str] = {}
    view = teacher_view(teacher.spec, manifest.window_s)
    clips = [
        (at, clip)
        for at, segment in enumerate(segments)
        for clip in views.clips(segment, window_s=manifest.window_s)
    ]
    # By video and time, so that each is decoded once for a crop, in order.
    clips.sort(key=lambda item: (segments[item[0]].video_path, item[1].start_s))
    batches = TeacherBatches(
        teacher,
        device=device,
        batch_size=CPU_BATCH_SIZE if device.type == "cpu" else GPU_BATCH_SIZE,
        precision=precision,
    )

    def add(places: Sequence[int], found: TeacherTargets) -> None:
        logits_NK = found.logits_NC[:, columns_K].astype(np.float64)
        odds_NK = np.exp(logits_NK - logits_NK.max(axis=1, keepdims=True))
        np.add.at(score_SK, list(places), odds_NK / odds_NK.sum(axis=1, keepdims=True))

    total = len(clips) * views.num_crops
    with Progress(total, title="evaluate the teacher", unit="view") as progress:
        for place in CROPS[views.num_crops]:
            crop = view if views.num_crops == 1 else _crop(view, place)
            waiting: list[tuple[int, NDArray[np.uint8]]] = []
            for at, frames_THW3, reason in _read(manifest, segments, clips, crop):
                progress.advance()
                if frames_THW3 is None:
                    failures.setdefault(segments[at].segment_id, reason)
                    continue
                waiting.append((at, frames_THW3))
                if len(waiting) == batches.batch_size:
                    _submit(batches, waiting, add)
            _submit(batches, waiting, add)
        batches.finish()
    return score_SK, failures


def _crop(view: TeacherView, place: float) -> TeacherView:
    """The square at a place of the long side.

    It holds the whole short side, as published, so there is nothing to choose across it,
    whichever way the camera was turned.
    """
    frame = replace(view.frame, short_side_px=view.frame.crop_px, crop_at=(place, place))
    return replace(view, frame=frame)


def _submit(
    batches: TeacherBatches,
    waiting: list[tuple[int, NDArray[np.uint8]]],
    add: Callable[[Sequence[int], TeacherTargets], None],
) -> None:
    """Ask for what is waiting, and empty the list."""
    if waiting:
        places = [at for at, _ in waiting]
        batches.submit([frames for _, frames in waiting], partial(add, places))
        waiting.clear()


def _read(
    manifest: Manifest,
    segments: Sequence[Segment],
    clips: Sequence[tuple[int, Clip]],
    view: TeacherView,
) -> Iterator[tuple[int, NDArray[np.uint8] | None, str]]:
    """The segment's place, the clip's frames (T, H, W, 3), or None and why there are none."""
    sources = [
        ClipSource(clip=clip, video=manifest.media(segments[at].video_path), imu=None)
        for at, clip in clips
    ]
    job = Job(number=0, sources=sources, views={"teacher": view})
    reader = ClipReader([job], queue_size=2 * GPU_BATCH_SIZE)
    try:
        for clip in reader:
            reason = f"{clip.outcome.code}: {clip.outcome.reason}"
            yield clips[clip.index][0], clip.frames, reason
    finally:
        reader.close()


def _top_k(score_SK: NDArray[np.float64], label_S: NDArray[np.int64], k: int) -> float | None:
    """Share of the rows whose label is among the k best; of equals the first is the best."""
    if not len(label_S):
        return None
    best_Sk = np.argsort(-score_SK, axis=1, kind="stable")[:, :k]
    return float((best_Sk == label_S[:, None]).any(axis=1).mean())
