"""What an extraction will cost, from the plan and a short probe: `extract-teacher --plan`."""

import time
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import torch

from egoctl.pipeline.clip_reader import ClipReader, ClipSource, Job
from egoctl.pipeline.extract import RunConfig
from egoctl.pipeline.manifest import Manifest
from egoctl.pipeline.plan import (
    StoreConfig,
    clip_sources,
    inputs_view,
    parts_left,
    spanned_hours,
    teacher_view,
)
from egoctl.pipeline.receipt import OK
from egoctl.pipeline.store import FeatureStore
from egoctl.pipeline.teachers.protocol import Teacher, find_batch_size, targets

PROBE_CLIPS = 8


@dataclass(frozen=True, kw_only=True, slots=True)
class Estimate:
    """Counts of the plan; speeds from a probe of the first clips on this machine."""

    num_clips: int
    num_clips_left: int
    num_videos: int
    video_hours: float
    num_parts_left: int
    teacher_bytes: int
    inputs_bytes: int
    probe_clips: int
    """Clips that the probe could read; 0: none, and the speeds below are unknown."""
    read_clips_per_s: float | None
    """Decoding, resizing, JPEG and IMU, for teacher and inputs together."""
    teacher_clips_per_s: float | None
    seconds_left: float | None
    """The slower of reading and teacher, which overlap."""


def estimate(
    manifest: Manifest,
    teacher: Teacher,
    *,
    store_url: str,
    inputs_url: str | None,
    config: StoreConfig,
    run: RunConfig,
) -> Estimate:
    """What `extract` would do with the same arguments. Nothing is written."""
    sources = clip_sources(manifest)
    stores = [_open(store_url), _open(inputs_url)]
    left = _left(sources, stores, inputs_url, config)
    num_left = sum(len(clips) for clips in left)
    probe = [source for clips in left for source in clips][:PROBE_CLIPS]
    jpeg_bytes, num_read, read_s, teacher_s = _probe(probe, manifest, teacher, config, run)
    itemsize = np.dtype(config.dtype).itemsize
    view = inputs_view(config, manifest.window_s)
    row_bytes = (view.imu_samples + 1) * 6 * 4 + config.frames_per_clip * (jpeg_bytes + 8)
    speeds = (num_read / read_s, num_read / teacher_s) if num_read else None
    return Estimate(
        num_clips=len(sources),
        num_clips_left=num_left,
        num_videos=len({source.video for source in sources.values()}),
        video_hours=spanned_hours(list(sources.values())),
        num_parts_left=len(left),
        teacher_bytes=num_left * (teacher.spec.feature_dim + teacher.spec.num_classes) * itemsize,
        inputs_bytes=0 if inputs_url is None else int(num_left * row_bytes),
        probe_clips=num_read,
        read_clips_per_s=speeds[0] if speeds else None,
        teacher_clips_per_s=speeds[1] if speeds else None,
        seconds_left=num_left / min(speeds) if speeds else None,
    )


def estimate_lines(found: Estimate) -> Iterable[str]:
    """The estimate for people."""
    yield (
        f"{found.num_clips} clips over {found.video_hours:.2f} hours of {found.num_videos} videos; "
        f"{found.num_clips_left} clips in {found.num_parts_left} parts are left to do."
    )
    yield (
        f"To be written: about {_size(found.teacher_bytes)} of targets"
        f" and {_size(found.inputs_bytes)} of inputs."
    )
    if found.seconds_left is None:
        if found.num_clips_left:
            yield f"None of the first {PROBE_CLIPS} clips could be read: no speed to estimate from."
        return
    yield (
        f"Probe of {found.probe_clips} clips: reading {found.read_clips_per_s:.2f} clips/s, "
        f"teacher {found.teacher_clips_per_s:.2f} clips/s, at the same time. "
        f"About {_duration(found.seconds_left)} left."
    )


def _left(
    sources: dict[str, ClipSource],
    stores: list[FeatureStore | None],
    inputs_url: str | None,
    config: StoreConfig,
) -> list[list[ClipSource]]:
    """The clips of each part still to do, counting those that a new store would get."""
    teacher_store, inputs_store = stores
    planned, _ = parts_left(sources, teacher_store, inputs_store)
    left = [list(part.job.sources) for part in planned]
    wanted = [teacher_store] if inputs_url is None else [teacher_store, inputs_store]
    known = [set(store.clips()["clip_id"]) if store else set() for store in wanted]
    new = [
        source
        for clip_id, source in sources.items()
        if not all(clip_id in clip_ids for clip_ids in known)
    ]
    size = config.part_rows
    return left + [new[first : first + size] for first in range(0, len(new), size)]


def _probe(
    clips: list[ClipSource],
    manifest: Manifest,
    teacher: Teacher,
    config: StoreConfig,
    run: RunConfig,
) -> tuple[float, int, float, float]:
    """Mean JPEG size, clips read, seconds of reading, seconds of the teacher."""
    reader = ClipReader(
        [Job(number=0, sources=clips, for_teacher=True, for_inputs=True)],
        teacher=teacher_view(teacher.spec, manifest.window_s),
        inputs=inputs_view(config, manifest.window_s),
        queue_size=max(len(clips), 1),
    )
    read = [clip for clip in reader if clip.outcome.code == OK]
    frames = [clip.teacher_frames for clip in read if clip.teacher_frames is not None]
    if not frames:
        return 0.0, 0, 0.0, 0.0
    autocast = torch.bfloat16 if run.resolved_precision() == "bf16" else None
    size = run.batch_size or find_batch_size(teacher, run.device, autocast_dtype=autocast)
    targets(teacher, torch.from_numpy(frames[0][None]).to(run.device), autocast_dtype=autocast)
    start = time.perf_counter()
    for first in range(0, len(frames), size):
        batch = torch.from_numpy(np.stack(frames[first : first + size])).to(run.device)
        targets(teacher, batch, autocast_dtype=autocast)
    teacher_s = time.perf_counter() - start
    jpeg_bytes = float(np.mean([len(jpeg) for clip in read for jpeg in clip.jpegs]))
    return jpeg_bytes, len(read), reader.stats.busy_s, teacher_s


def _open(url: str | None) -> FeatureStore | None:
    if url is None or not FeatureStore.exists(url):
        return None
    return FeatureStore.open(url)


def _size(num_bytes: float) -> str:
    for unit in ("bytes", "kB", "MB", "GB"):
        if num_bytes < 1000:
            return f"{num_bytes:.3g} {unit}"
        num_bytes /= 1000
    return f"{num_bytes:.3g} TB"


def _duration(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"
