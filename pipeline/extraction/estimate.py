"""What an extraction will cost, from the plan and a short probe: `extract-teacher --plan`."""

import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from egoctl.pipeline.extraction.part_pass import PassConfig
from egoctl.pipeline.extraction.part_queue import parts_left
from egoctl.pipeline.extraction.plan import (
    FilledStore,
    StoreConfig,
    clip_sources,
    filled_stores,
    spanned_hours,
    store_rows,
)
from egoctl.pipeline.manifest import Manifest
from egoctl.pipeline.reading.clip_job import ClipSource, Job
from egoctl.pipeline.reading.clip_reader import ClipReader, ReadClip
from egoctl.pipeline.records import IMU_NONE, OK
from egoctl.pipeline.store import FeatureStore
from egoctl.pipeline.store.clip_table import Part, StoreRow, clips_frame, parts_of
from egoctl.pipeline.store.header import BYTES
from egoctl.pipeline.store.outcomes import OUTCOME_STREAMS
from egoctl.pipeline.teachers.protocol import Teacher, find_batch_size, targets
from egoctl.pipeline.trained_on import TrainedOn

PROBE_CLIPS = 8


@dataclass(frozen=True, kw_only=True, slots=True)
class StoreEstimate:
    """What one store lacks."""

    store: str
    teacher: str | None
    """None: it is the inputs store."""
    num_clips_left: int
    num_parts_left: int
    num_bytes: int
    teacher_clips_per_s: float | None
    """None: no clip could be read, or there is no teacher."""


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
    """Decoding and resizing for the teachers; with inputs also for them, JPEG and IMU."""
    teacher_clips_per_s: float | None
    """All teachers, one after the other."""
    seconds_left: float | None
    """The slower of reading and teachers, which overlap."""
    stores: tuple[StoreEstimate, ...] = ()


def estimate(
    manifest: Manifest,
    teachers: Mapping[str, Teacher],
    *,
    inputs_url: str | None,
    config: StoreConfig,
    run: PassConfig,
    trained_on: Mapping[str, TrainedOn] | None = None,
) -> Estimate:
    """What `extract` would do with the same arguments. Nothing is written.

    Raises:
        EgoctlError: where `extract` would refuse.
    """
    sources = clip_sources(manifest)
    fills = filled_stores(
        manifest,
        teachers,
        inputs_url,
        config,
        precision=run.resolved_precision(),
        is_compiled=run.compile,
        trained_on=trained_on,
    )
    views = {name: fill.view for name, fill in fills.items()}
    parts = {name: _parts_to_come(fill, sources, config) for name, fill in fills.items()}
    planned, _ = parts_left(sources, views, parts)
    left = [source for part in planned for source in part.job.sources]
    probe = _probe(Job(number=0, sources=left[:PROBE_CLIPS], views=views), fills, config, run)
    stores = []
    for name, fill in fills.items():
        of_store = [part for part in planned if name in part.parts]
        num_clips = sum(len(part.job.sources) for part in of_store)
        teacher_s = probe.teacher_s.get(name)
        row_bytes = sum(
            probe.jpeg_bytes * spec.row_shape[0] if spec.dtype == BYTES else spec.row_bytes
            for spec in fill.arrays
        )
        stores.append(
            StoreEstimate(
                store=fill.url,
                teacher=None if fill.teacher is None else fill.teacher.spec.name,
                num_clips_left=num_clips,
                num_parts_left=len(of_store),
                num_bytes=int(num_clips * row_bytes),
                teacher_clips_per_s=probe.num_clips / teacher_s if teacher_s else None,
            )
        )
    all_teachers_s = sum(probe.teacher_s.values())
    return Estimate(
        num_clips=len(sources),
        num_clips_left=len(left),
        num_videos=len({source.video for source in sources.values()}),
        video_hours=spanned_hours(list(sources.values())),
        num_parts_left=len(planned),
        teacher_bytes=sum(store.num_bytes for store in stores if store.teacher is not None),
        inputs_bytes=sum(store.num_bytes for store in stores if store.teacher is None),
        probe_clips=probe.num_clips,
        read_clips_per_s=probe.num_clips / probe.read_s if probe.num_clips else None,
        teacher_clips_per_s=probe.num_clips / all_teachers_s if all_teachers_s else None,
        seconds_left=_seconds_left(len(left), stores, probe) if probe.num_clips else None,
        stores=tuple(stores),
    )


def _seconds_left(num_clips: int, stores: Sequence[StoreEstimate], probe: "_Probe") -> float:
    teachers_s = [
        store.num_clips_left / store.teacher_clips_per_s
        for store in stores
        if store.teacher_clips_per_s
    ]
    return max(num_clips * probe.read_s / probe.num_clips, sum(teachers_s))


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
    if sum(store.teacher is not None for store in found.stores) > 1:
        for store in found.stores:
            speed = store.teacher_clips_per_s
            yield (
                f"  {store.store} ({store.teacher or 'inputs'}): {store.num_clips_left} clips in "
                f"{store.num_parts_left} parts, about {_size(store.num_bytes)}"
                f"{'' if speed is None else f', {speed:.2f} clips/s'}."
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


def _parts_to_come(
    fill: FilledStore, sources: dict[str, ClipSource], config: StoreConfig
) -> list[Part]:
    """The unfinished parts of a store, and those that its new rows will form."""
    parts, known = [], {}
    # Making a store that is there only compares the recipe, and refuses as `extract` would.
    if FeatureStore.exists(fill.url):
        store = fill.made()
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
        for row in store_rows(failed, with_imu=fill.teacher is None)
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


@dataclass(frozen=True, kw_only=True, slots=True)
class _Probe:
    num_clips: int
    """Clips that could be read in every view."""
    jpeg_bytes: float
    """The mean size of a stored frame."""
    read_s: float
    teacher_s: Mapping[str, float]
    """By store: what its teacher took for these clips."""


def _probe(
    job: Job, fills: Mapping[str, FilledStore], config: StoreConfig, run: PassConfig
) -> _Probe:
    reader = ClipReader(
        [job],
        queue_size=max(len(job.sources) * len(fills), 1),
        decoder=config.decoder,
    )
    by_clip: dict[int, dict[str, ReadClip]] = {}
    for clip in reader:
        if clip.outcome.code == OK:
            by_clip.setdefault(clip.index, {})[clip.view] = clip
    read = [of_view for of_view in by_clip.values() if len(of_view) == len(fills)]
    teacher_s = {}
    for name, fill in fills.items():
        frames = [found for of_view in read if (found := of_view[name].frames) is not None]
        if fill.teacher is not None and frames:
            teacher_s[name] = _teacher_seconds(fill.teacher, frames, run)
    jpegs = [len(jpeg) for of_view in read for clip in of_view.values() for jpeg in clip.jpegs]
    return _Probe(
        num_clips=len(read),
        jpeg_bytes=sum(jpegs) / max(len(jpegs), 1),
        read_s=reader.stats.busy_s,
        teacher_s=teacher_s,
    )


def _teacher_seconds(
    teacher: Teacher, frames: Sequence[NDArray[np.uint8]], run: PassConfig
) -> float:
    autocast = torch.bfloat16 if run.resolved_precision() == "bf16" else None
    size = run.batch_size or find_batch_size(teacher, run.device, autocast_dtype=autocast)
    targets(teacher, torch.from_numpy(frames[0][None]).to(run.device), autocast_dtype=autocast)
    start = time.perf_counter()
    for first in range(0, len(frames), size):
        batch = torch.from_numpy(np.stack(frames[first : first + size])).to(run.device)
        targets(teacher, batch, autocast_dtype=autocast)
    return time.perf_counter() - start


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
