"""What an extraction will cost, from the plan and a short probe: `extract-teacher --plan`."""

import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from egoctl.pipeline.extraction.part_pass import RunConfig
from egoctl.pipeline.extraction.plan import (
    StoreConfig,
    clip_sources,
    inputs_arrays,
    inputs_header,
    inputs_view,
    parts_left,
    spanned_hours,
    store_rows,
    teacher_arrays,
    teacher_header,
)
from egoctl.pipeline.imu.telemetry import check_telemetry_package
from egoctl.pipeline.manifest import Manifest
from egoctl.pipeline.reading.clip_job import ClipSource, Job, teacher_view
from egoctl.pipeline.reading.clip_reader import ClipReader
from egoctl.pipeline.records import IMU_NONE, OK
from egoctl.pipeline.store import FeatureStore
from egoctl.pipeline.store.clip_table import Part, StoreRow, clips_frame, parts_of
from egoctl.pipeline.store.header import ArraySpec, StoreHeader
from egoctl.pipeline.store.outcomes import OUTCOME_STREAMS
from egoctl.pipeline.teachers.protocol import Teacher, find_batch_size, targets
from egoctl.pipeline.trained_on import TrainedOn, refuse_other_footage

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
    """Decoding and resizing for the teacher; with inputs also for them, JPEG and IMU."""
    teacher_clips_per_s: float | None
    seconds_left: float | None
    """The slower of reading and teacher, which overlap."""


def estimate(
    manifest: Manifest,
    teacher: Teacher,
    *,
    store_url: str | None,
    inputs_url: str | None,
    config: StoreConfig,
    run: RunConfig,
    trained_on: TrainedOn | None = None,
) -> Estimate:
    """What `extract` would do with the same arguments. Nothing is written.

    Raises:
        EgoctlError: where `extract` would refuse.
    """
    sources = clip_sources(manifest)
    spec, view = teacher.spec, inputs_view(config, manifest.window_s)
    header = teacher_header(
        spec,
        teacher.weights,
        teacher_view(spec, manifest.window_s),
        config,
        precision=run.resolved_precision(),
        is_compiled=run.compile,
    )
    arrays = teacher_arrays(spec, config)
    teacher_store = None if store_url is None else _opened(store_url, header, arrays)
    if teacher_store is not None:
        told = teacher_store.header.trained_on
        refuse_other_footage(teacher_store.url, told=told, said=trained_on)
    teacher_parts = _parts_to_come(teacher_store, sources, config, with_imu=False)
    inputs_parts: list[Part] = []
    if inputs_url is not None:
        check_telemetry_package(
            Path(source.imu.url) for source in sources.values() if source.imu is not None
        )
        inputs_store = _opened(inputs_url, inputs_header(view, config), inputs_arrays(view))
        inputs_parts = _parts_to_come(inputs_store, sources, config, with_imu=True)
    planned, _ = parts_left(sources, teacher_parts, inputs_parts)
    left = [source for part in planned for source in part.job.sources]
    num_targets = sum(len(p.job.sources) for p in planned if p.teacher_part is not None)
    num_inputs = sum(len(p.job.sources) for p in planned if p.inputs_part is not None)
    jpeg_bytes, num_read, read_s, teacher_s = _probe(
        Job(
            number=0,
            sources=left[:PROBE_CLIPS],
            for_teacher=True,
            for_inputs=inputs_url is not None,
        ),
        manifest,
        teacher,
        config,
        run,
    )
    itemsize = np.dtype(config.dtype).itemsize
    row_bytes = (view.imu_samples + 1) * 6 * 4 + config.frames_per_clip * (jpeg_bytes + 8)
    speeds = (num_read / read_s, num_read / teacher_s) if num_read else None
    return Estimate(
        num_clips=len(sources),
        num_clips_left=len(left),
        num_videos=len({source.video for source in sources.values()}),
        video_hours=spanned_hours(list(sources.values())),
        num_parts_left=len(planned),
        teacher_bytes=num_targets * (spec.feature_dim + spec.num_classes) * itemsize,
        inputs_bytes=int(num_inputs * row_bytes),
        probe_clips=num_read,
        read_clips_per_s=speeds[0] if speeds else None,
        teacher_clips_per_s=speeds[1] if speeds else None,
        seconds_left=len(left) / min(speeds) if speeds else None,
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


def _opened(url: str, header: StoreHeader, arrays: Sequence[ArraySpec]) -> FeatureStore | None:
    if not FeatureStore.exists(url):
        return None
    # Of a store that is there, this only compares the recipe, and refuses as `extract` would.
    return FeatureStore.create(url, header, arrays)


def _parts_to_come(
    store: FeatureStore | None,
    sources: dict[str, ClipSource],
    config: StoreConfig,
    *,
    with_imu: bool,
) -> list[Part]:
    """The unfinished parts of a store, and those that its new rows will form."""
    parts, known = [], {}
    if store is not None:
        parts = store.parts_to_do()
        known = {row["clip_id"]: row for row in store.rows().iter_rows(named=True)}
    # Rows are added for new clips, and for failed ones whose files are others now. Digests cost
    # a look at every byte, so they are taken of these alone.
    failed = {
        clip_id: sources[clip_id]
        for clip_id, row in known.items()
        if clip_id in sources
        and any(row.get(name) not in (None, OK, IMU_NONE) for name in OUTCOME_STREAMS)
    }
    changed = {
        row.clip_id
        for row in store_rows(failed, with_imu=with_imu)
        if (row.clip_key, row.imu_key)
        != (known[row.clip_id]["clip_key"], known[row.clip_id]["imu_key"])
    }
    new = [
        StoreRow(
            clip_id=clip_id,
            segment_id=source.clip.segment_id,
            video_id=source.clip.video_id,
            start_s=source.clip.start_s,
            stop_s=source.clip.stop_s,
            clip_key=None,
        )
        for clip_id, source in sources.items()
        if clip_id not in known or clip_id in changed
    ]
    size = config.part_rows
    return parts + parts_of(clips_frame(new, first_part=0, part_rows=size))


def _probe(
    job: Job,
    manifest: Manifest,
    teacher: Teacher,
    config: StoreConfig,
    run: RunConfig,
) -> tuple[float, int, float, float]:
    """Mean JPEG size, clips read, seconds of reading, seconds of the teacher."""
    reader = ClipReader(
        [job],
        teacher=teacher_view(teacher.spec, manifest.window_s),
        inputs=inputs_view(config, manifest.window_s),
        queue_size=max(len(job.sources), 1),
        decoder=config.decoder,
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
    jpegs = [len(jpeg) for clip in read for jpeg in clip.jpegs]
    return sum(jpegs) / max(len(jpegs), 1), len(read), reader.stats.busy_s, teacher_s


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
