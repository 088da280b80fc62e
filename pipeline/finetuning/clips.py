"""Clips for fine-tuning, decoded in threads ahead of the network that wants them.

They are read by the code that extraction reads with, so a teacher is fitted to the frames that
it will be asked about. A clip that cannot be read is left out, and nothing takes its place.
"""

# T frames, H height, W width, 3 channels RGB

import os
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from egoctl.pipeline.errors import EgoctlError
from egoctl.pipeline.files.cache import MediaFile
from egoctl.pipeline.finetuning.draws import Draw
from egoctl.pipeline.manifest import Manifest
from egoctl.pipeline.reading.clip_job import ClipSource, Job, TeacherView
from egoctl.pipeline.reading.clip_reader import JobReader
from egoctl.pipeline.records import Clip, RowOutcome, Segment
from egoctl.pipeline.sampling import clips_of

STEPS_AHEAD = 1
"""Steps that are decoded while another is computed; a step of 64 clips of 16 x 224 x 224 pixels
takes 154 MB."""
T = TypeVar("T")


@dataclass(frozen=True, kw_only=True, slots=True)
class Example:
    """A segment to learn from, or to be judged by."""

    segment: Segment
    label: int
    video: MediaFile


@dataclass(frozen=True, kw_only=True, slots=True)
class Wish:
    """Frames to read of a segment: when, how cut, and whether mirrored."""

    source: ClipSource
    view: TeacherView
    is_mirrored: bool = False


Frames = NDArray[np.uint8]
"""(T, H, W, 3) RGB."""


def examples_of(manifest: Manifest, splits: str) -> list[Example]:
    """The segments that have a label, of a split or of several with commas between."""
    names = _split_names(splits)
    return [
        Example(segment=segment, label=segment.label, video=manifest.media(segment.video_path))
        for segment in manifest.segments
        if segment.split in names and segment.label is not None
    ]


def _split_names(splits: str) -> list[str]:
    return [name.strip() for name in splits.split(",")]


def train_examples(manifest: Manifest, splits: str) -> list[Example]:
    """The segments to learn from.

    Raises:
        EgoctlError: if one of the splits is not there or has none, or all have one label.
    """
    examples = examples_of(manifest, splits)
    labelled = {example.segment.split for example in examples}
    for split in _split_names(splits):
        if manifest.split(split) and split not in labelled:
            raise EgoctlError(
                f"split {split!r} has no labelled segment. Pass another --train-split."
            )
    if len({example.label for example in examples}) == 1:
        raise EgoctlError(
            f"the labelled segments of split {splits!r} are all of class "
            f"{manifest.class_names[examples[0].label]!r}, so there is nothing to tell apart. "
            "Pass another --train-split, or a manifest of two classes or more."
        )
    return examples


def centred(example: Example, view: TeacherView, *, window_s: float) -> Wish:
    """The clip in the segment's middle, as extraction sees it."""
    (clip,) = clips_of(example.segment, window_s=window_s, stride_s=None)
    return _wish(example, clip, view)


def drawn(
    example: Example, view: TeacherView, *, window_s: float, draw: Draw, random_crop: bool
) -> Wish:
    """A random window of the segment, looked at through a random square."""
    segment = example.segment
    spare_s = max(0.0, segment.stop_s - segment.start_s - window_s)
    start_s = segment.start_s + draw.window * spare_s
    clip = _span(segment, start_s, min(start_s + window_s, segment.stop_s))
    if random_crop:
        frame = replace(view.frame, short_side_px=draw.short_side_px, crop_at=draw.crop_at)
        view = replace(view, frame=frame)
    return replace(_wish(example, clip, view), is_mirrored=draw.is_mirrored)


def whole(example: Example, view: TeacherView) -> Wish:
    """The view's frames around the middle of the whole segment."""
    segment = example.segment
    return _wish(example, _span(segment, segment.start_s, segment.stop_s), view)


def read(wish: Wish) -> Frames | RowOutcome:
    """The frames, or why there are none."""
    # One FFmpeg thread: the pool's threads share the cores already.
    job = Job(number=0, sources=[wish.source], views={"teacher": wish.view})
    (found,) = JobReader(num_threads=1).read(job)
    if found.frames is None:
        return found.outcome
    if wish.is_mirrored:
        return np.ascontiguousarray(found.frames[:, :, ::-1])
    return found.frames


def read_steps(
    steps: Iterable[Sequence[Wish]], *, workers: int | None
) -> Iterator[list[Frames | RowOutcome]]:
    """Results of every step's wishes, in their order; the next step is read meanwhile."""
    waiting: deque[list[Future[Frames | RowOutcome]]] = deque()
    pool = ThreadPoolExecutor(workers or num_cores(), thread_name_prefix="finetune")
    try:
        for step in steps:
            waiting.append([pool.submit(read, wish) for wish in step])
            if len(waiting) > STEPS_AHEAD:
                yield [future.result() for future in waiting.popleft()]
        while waiting:
            yield [future.result() for future in waiting.popleft()]
    finally:
        # A consumer that stops early, as by Ctrl-C, waits only for clips that are half read.
        pool.shutdown(cancel_futures=True)


def num_cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def chunks(items: Sequence[T], size: int) -> list[Sequence[T]]:
    """The items in order, size at a time."""
    return [items[start : start + size] for start in range(0, len(items), size)]


def _span(segment: Segment, start_s: float, stop_s: float) -> Clip:
    return Clip(
        clip_id=segment.segment_id,
        segment_id=segment.segment_id,
        video_id=segment.video_id,
        start_s=start_s,
        stop_s=stop_s,
    )


def _wish(example: Example, clip: Clip, view: TeacherView) -> Wish:
    source = ClipSource(clip=clip, video=example.video, imu=None)
    return Wish(source=source, view=view)
