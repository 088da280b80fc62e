"""What extraction costs beyond what it cannot avoid: decoding the clips, and the teacher.

The aim is that nothing else takes time: no second decoding, no waiting, no slow store.
"""

# B clips of a batch, T frames, H height, W width, 3 channels RGB

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby

import numpy as np
import torch
from torch import Tensor

from egoctl.pipeline.devices import keep_freed_memory
from egoctl.pipeline.extraction.extract import extract
from egoctl.pipeline.extraction.part_pass import QUEUED_BATCHES, PassConfig
from egoctl.pipeline.extraction.plan import StoreConfig
from egoctl.pipeline.extraction.report import ExtractReport
from egoctl.pipeline.manifest import Manifest
from egoctl.pipeline.reading.clip_reader import ClipReader, ReadClip
from egoctl.pipeline.teachers.lineup import load_teacher
from egoctl.pipeline.teachers.protocol import Teacher, find_batch_size, targets
from egoctl.tests.benchmarks import dense_windows
from egoctl.tests.benchmarks.figures import Figure, Setup, alternate, rates, seconds_ratios
from egoctl.tests.benchmarks.footage import footage_manifest, jobs_of

AIM = "<= 1.05"
STORES = StoreConfig()


@dataclass(frozen=True, kw_only=True, slots=True)
class Case:
    """A teacher, and how densely the footage is cut into clips."""

    teacher: str
    stride_s: float
    seconds: float
    """Of each of the two videos."""


LIGHT = Case(teacher="x3d_xs", stride_s=0.5, seconds=76.5)
"""300 clips: what is done once, as making stores, weighs as little as in a real run."""
HEAVY = Case(teacher="mvit_v2_s", stride_s=5.5, seconds=20.0)
"""Few clips: it takes a second or so for each."""


def run(setup: Setup) -> list[Figure]:
    """Two teachers: next to the light one decoding is a large share, next to the heavy one none."""
    figures = [figure for case in (LIGHT, HEAVY) for figure in _measure(case, setup)]
    return figures + dense_windows.measure(setup)


def _measure(case: Case, setup: Setup) -> list[Figure]:
    # As extraction does: the network alone is to be as fast as it can be.
    keep_freed_memory(setup.device)
    manifest = footage_manifest(setup, stride_s=case.stride_s, seconds=case.seconds)
    teacher = load_teacher(case.teacher, weights="random:0", device=setup.device)
    plain = PassConfig(device=setup.device)
    autocast_dtype = torch.bfloat16 if plain.resolved_precision() == "bf16" else None
    # Found once, outside the clock: a real run pays for it once, too.
    batch_size = find_batch_size(teacher, setup.device, autocast_dtype=autocast_dtype)
    config = PassConfig(device=setup.device, batch_size=batch_size)

    reader = _reader(manifest, teacher, batch_size)
    clips = list(reader)
    num_clips, batches = (
        len({(clip.job, clip.index) for clip in clips}),
        _batches(clips, batch_size),
    )
    del clips
    # The first pass of a shape also chooses kernels and takes memory.
    for frames_BTHW3 in {len(batch): batch for batch in batches}.values():
        targets(teacher, frames_BTHW3.to(setup.device), autocast_dtype=autocast_dtype)
    reports: list[ExtractReport] = []

    def extract_all() -> float:
        folder = tempfile.mkdtemp(dir=setup.folder)
        report = extract(
            manifest,
            {f"{folder}/teacher.store": teacher},
            inputs_url=f"{folder}/inputs.store",
            config=STORES,
            run=config,
        )
        reports.append(report)
        return report.num_read

    def decode_only() -> float:
        # Each clip is read in two views.
        return sum(1 for _ in _reader(manifest, teacher, batch_size)) / 2

    def forward_only() -> float:
        for frames_BTHW3 in batches:
            targets(teacher, frames_BTHW3.to(setup.device), autocast_dtype=autocast_dtype)
        return sum(len(frames_BTHW3) for frames_BTHW3 in batches)

    found = alternate(
        {"extract": extract_all, "decode only": decode_only, "forward only": forward_only},
        repeats=setup.repeats,
    )
    # All three sides did the same work, or their ratio would mean nothing.
    assert {sample.amount for samples in found.values() for sample in samples} == {num_clips}
    decoded = reader.stats.decode.frames_decoded
    assert all(not r.num_failed and r.frames_decoded == decoded for r in reports)

    ratio = Figure(
        benchmark="extraction",
        name=f"{case.teacher}, {num_clips} clips: extract / (decode only + forward only)",
        unit="ratio of seconds",
        values=seconds_ratios(found["extract"], found["decode only"], found["forward only"]),
        aim=AIM,
    )
    return [ratio] + [
        Figure(
            benchmark="extraction",
            name=f"{case.teacher}, {side}",
            unit="clips/s",
            values=rates(samples),
        )
        for side, samples in found.items()
    ]


def _reader(manifest: Manifest, teacher: Teacher, batch_size: int) -> ClipReader:
    """The reader that extract makes of this manifest and two new stores."""
    return ClipReader(
        jobs_of(manifest, teacher.spec, STORES),
        queue_size=2 * (QUEUED_BATCHES * batch_size + 2),
    )


def _batches(clips: Sequence[ReadClip], batch_size: int) -> list[Tensor]:
    """(B, T, H, W, 3) each; as in extract, no batch crosses a part."""
    batches = []
    for _, job_clips in groupby(clips, key=lambda clip: clip.job):
        frames = [clip.frames for clip in job_clips if clip.frames is not None]
        batches += [
            torch.from_numpy(np.stack(frames[start : start + batch_size]))
            for start in range(0, len(frames), batch_size)
        ]
    return batches
