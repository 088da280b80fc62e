"""How many frames are decoded for overlapping clips, and how fast.

Clips that overlap four times need every frame four times; each should be decoded once.
"""

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import av
import numpy as np
from numpy.typing import NDArray

from egoctl.pipeline.extraction.plan import StoreConfig, clip_sources
from egoctl.pipeline.reading.clip_job import ClipSource, Job
from egoctl.pipeline.reading.clip_reader import ClipReader
from egoctl.pipeline.records import WINDOW_S
from egoctl.pipeline.teachers.lineup import teacher_spec
from egoctl.pipeline.video.clip_plan import TOLERANCE_S
from egoctl.pipeline.video.pyav_clips import scan_frame_times
from egoctl.tests.benchmarks.figures import Figure, Setup, alternate, rates
from egoctl.tests.benchmarks.footage import footage_manifest, jobs_of

AIM = "<= 1.05"
OVERLAP = 4
SMALL_PART_ROWS, QUICK_SMALL_PART_ROWS = 16, 3
TEACHER = "x3d_xs"
STORES = StoreConfig()


def run(setup: Setup) -> list[Figure]:
    """Parts of the default size, small parts, and PyAV alone as the speed to compare with."""
    manifest = footage_manifest(setup, stride_s=WINDOW_S / OVERLAP)
    small_rows = QUICK_SMALL_PART_ROWS if setup.is_quick else SMALL_PART_ROWS
    large, small = f"parts of {STORES.part_rows}", f"parts of {small_rows}"
    spec = teacher_spec(TEACHER)
    jobs_of_side = {
        large: jobs_of(manifest, spec, STORES),
        small: jobs_of(manifest, spec, replace(STORES, part_rows=small_rows)),
    }
    sources = list(clip_sources(manifest).values())
    videos = list(dict.fromkeys(source.video for source in sources))
    spanned = sum(
        num_spanned(scan_frame_times(video.local()), [s for s in sources if s.video == video])
        for video in videos
    )

    def decoded(jobs: Sequence[Job]) -> float:
        reader = ClipReader(jobs, queue_size=20)
        assert all(clip.outcome.code == "ok" for clip in reader)
        return reader.stats.decode.frames_decoded

    found = alternate(
        {
            **{side: partial(decoded, jobs) for side, jobs in jobs_of_side.items()},
            "PyAV alone": lambda: _decoded_by_pyav([video.local() for video in videos]),
        },
        repeats=setup.repeats,
    )
    num_cuts = num_cut_videos(jobs_of_side[small])
    figures = [
        Figure(
            benchmark="decoding",
            name=f"{side} ({len(jobs)} of them): frames decoded / frames spanned ({spanned})",
            unit="ratio of frames",
            values=tuple(sample.amount / spanned for sample in found[side]),
            aim=AIM,
        )
        for side, jobs in jobs_of_side.items()
    ]
    figures.append(
        Figure(
            benchmark="decoding",
            name=f"{small}: more frames decoded for each part that ends inside a video",
            unit="frames",
            values=tuple(
                (more.amount - less.amount) / num_cuts
                for more, less in zip(found[small], found[large], strict=True)
            ),
        )
    )
    return figures + [
        Figure(benchmark="decoding", name=name, unit="frames/s", values=rates(samples))
        for name, samples in (
            (f"clips read, {side}" if side in jobs_of_side else side, samples)
            for side, samples in found.items()
        )
    ]


def num_spanned(times_N: NDArray[np.float64], sources: Sequence[ClipSource]) -> int:
    """Frames, of those shown at times_N seconds, that lie in one clip or more; each counts once."""
    is_spanned_N = np.zeros(len(times_N), dtype=bool)
    # Clips are written with six digits, so their edges are as tolerant as the decoder's.
    due_N = times_N + TOLERANCE_S
    for source in sources:
        is_spanned_N |= (due_N >= source.clip.start_s) & (due_N < source.clip.stop_s)
    return int(is_spanned_N.sum())


def num_cut_videos(jobs: Sequence[Job]) -> int:
    """How many jobs end in a video with which the next job goes on."""
    return sum(
        job.sources[-1].video == following.sources[0].video
        for job, following in zip(jobs, jobs[1:], strict=False)
    )


def _decoded_by_pyav(videos: Sequence[Path]) -> int:
    """Every frame of the videos, decoded and dropped: no times, no pictures, no checks."""
    count = 0
    for video in videos:
        with av.open(str(video)) as container:
            container.streams.video[0].thread_type = "AUTO"
            count += sum(1 for _ in container.decode(video=0))
    return count
