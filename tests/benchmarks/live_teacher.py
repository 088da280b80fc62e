"""What stored targets save: an epoch from the stores, and the same with the teacher in the loop.

Same clips, same batches, same student, one process each. The live side reads every batch's clips
off their videos with the code that extraction reads them with, runs the teacher, and then takes the
step that the stored side takes. Videos are small and the teacher is a light one: with a heavy one,
or longer videos, the ratio is larger.
"""

# B clips of a batch

import io
from collections.abc import Iterator, Sequence
from contextlib import redirect_stderr
from functools import partial

import numpy as np
import torch
from torch import Tensor

from egoctl.pipeline.extraction.extract import PassConfig, extract
from egoctl.pipeline.extraction.plan import StoreConfig, clip_sources
from egoctl.pipeline.imu.sensor import RATE_HZ
from egoctl.pipeline.manifest import Manifest
from egoctl.pipeline.reading.clip_job import Job
from egoctl.pipeline.reading.clip_reader import ClipReader
from egoctl.pipeline.records import WINDOW_S
from egoctl.pipeline.sampling import num_imu_samples
from egoctl.pipeline.store import FeatureStore
from egoctl.pipeline.store.jpeg import frame_size
from egoctl.pipeline.teachers.lineup import load_teacher
from egoctl.pipeline.teachers.protocol import Teacher, targets
from egoctl.student.clips.clip_set import ClipSet, read_clips
from egoctl.student.clips.epochs import batches_of, epoch_order
from egoctl.student.clips.frames import FrameLoader, decode_frames, to_device
from egoctl.student.model.loss_config import LossConfig
from egoctl.student.model.losses import NO_LABEL
from egoctl.student.model.student import Student, build_student
from egoctl.student.model.student_config import METHODS, MethodName, StudentConfig
from egoctl.tests.benchmarks.figures import Figure, Setup, alternate, rates, seconds_ratios
from egoctl.tests.benchmarks.footage import footage_manifest, views_of
from egoctl.tests.benchmarks.student_steps import Batch, learn

TEACHER = "x3d_xs"
STORES = StoreConfig(frames_per_clip=1, dtype="float32")
BATCH = 6
STUDENTS: dict[MethodName, str] = {
    "imuonly-distill": "a student of IMU alone",
    "egodistill": "EgoDistill, resnet18 trained along",
}


def run(setup: Setup) -> list[Figure]:
    """Two students: beside the small one nothing but the teacher takes time."""
    manifest = footage_manifest(setup, stride_s=WINDOW_S)
    teacher = load_teacher(TEACHER, weights="random:0", device=setup.device)
    store, inputs = str(setup.folder / "teacher.store"), str(setup.folder / "inputs.store")
    # Its own talk would stand between our tables.
    with redirect_stderr(io.StringIO()):
        extract(
            manifest,
            {store: teacher},
            inputs_url=inputs,
            config=STORES,
            run=PassConfig(device=setup.device),
        )
    return [
        figure
        for method in STUDENTS
        for figure in _measure(method, manifest, teacher, store, inputs, setup)
    ]


def _measure(
    method: MethodName, manifest: Manifest, teacher: Teacher, store: str, inputs: str, setup: Setup
) -> list[Figure]:
    config = StudentConfig(
        method=method,
        image_weights="random",
        teacher_dim=teacher.spec.feature_dim,
        num_classes=teacher.spec.num_classes,
        imu_samples=num_imu_samples(WINDOW_S, RATE_HZ),
    )
    student = build_student(config, seed=0).to(setup.device)
    optimizer = torch.optim.AdamW(student.parameters(), lr=1e-4)
    clips = _clips(manifest, FeatureStore.open(store), FeatureStore.open(inputs))
    assert clips.jpegs is not None
    loader = FrameLoader(clips.jpegs, max_batch=BATCH + 1, num_workers=0, device=setup.device)
    order = epoch_order(clips.segment_N, "clips", seed=0, epoch=1)
    batches = batches_of(order, batch_size=BATCH, rank=0, num_ranks=1)
    sides = {
        "from the stores": partial(_stored, clips, loader, batches, setup.device),
        "with the teacher in the loop": partial(
            _live, manifest, teacher, clips, batches, setup.device
        ),
    }
    for stored, live in zip(*(side() for side in sides.values()), strict=True):
        _check_equal(stored, live)
    found = alternate(
        {name: partial(_epoch, student, optimizer, side) for name, side in sides.items()},
        # One more than is counted: the first also takes memory and chooses kernels.
        repeats=setup.repeats + 1,
    )
    counted = {name: samples[1:] for name, samples in found.items()}
    stored_side, live_side = counted.values()
    told = f"{STUDENTS[method]}, teacher {TEACHER}, {len(clips)} clips"
    ratio = Figure(
        benchmark="live_teacher",
        name=f"{told}: an epoch with the teacher in the loop / from the stores",
        unit="ratio of seconds",
        values=seconds_ratios(live_side, stored_side),
    )
    return [ratio] + [
        Figure(
            benchmark="live_teacher",
            name=f"{told}: an epoch {name}",
            unit="clips/s",
            values=rates(samples),
        )
        for name, samples in counted.items()
    ]


def _epoch(
    student: Student, optimizer: torch.optim.Optimizer, side: partial[Iterator[Batch]]
) -> float:
    return learn(student, optimizer, side(), LossConfig())


def _unlabelled(batch: Tensor, device: torch.device) -> Tensor:
    """The footage has no labels."""
    return torch.full((len(batch),), NO_LABEL, device=device)


def _stored(
    clips: ClipSet, loader: FrameLoader, batches: Sequence[Tensor], device: torch.device
) -> Iterator[Batch]:
    assert clips.imu_NWA is not None
    assert clips.feature_ND is not None and clips.logits_NC is not None
    frames = loader.batches(batches)
    for batch in batches:
        yield Batch(
            frames_BFHW3=next(frames),
            label_B=_unlabelled(batch, device),
            imu_BWA=to_device(clips.imu_NWA[batch], device),
            feature_BD=to_device(clips.feature_ND[batch], device),
            logits_BC=to_device(clips.logits_NC[batch], device),
        )


def _live(
    manifest: Manifest,
    teacher: Teacher,
    clips: ClipSet,
    batches: Sequence[Tensor],
    device: torch.device,
) -> Iterator[Batch]:
    sources = clip_sources(manifest)
    views = views_of(manifest, teacher.spec, STORES)
    for batch in batches:
        wanted = [sources[clips.clips[index].clip_id] for index in batch.tolist()]
        reader = ClipReader(
            [Job(number=0, sources=wanted, views=views)],
            queue_size=2 * len(wanted),
        )
        read = sorted(reader, key=lambda clip: clip.index)
        video = np.stack([clip.frames for clip in read if clip.frames is not None])
        found = targets(teacher, torch.from_numpy(video).to(device))
        # The reader gives the student's frame as a JPEG: about a millisecond of each clip.
        jpegs = [clip.jpegs[0] for clip in read if clip.jpegs]
        frames_B1HW3 = np.empty((len(jpegs), 1, *frame_size(jpegs[0]), 3), dtype=np.uint8)
        decode_frames(jpegs, frames_B1HW3)
        imu = np.stack([clip.imu.samples_W6 for clip in read if clip.imu is not None])
        yield Batch(
            frames_BFHW3=to_device(torch.from_numpy(frames_B1HW3), device),
            label_B=_unlabelled(batch, device),
            imu_BWA=to_device(torch.from_numpy(imu), device),
            feature_BD=to_device(torch.from_numpy(found.feature_ND), device),
            logits_BC=to_device(torch.from_numpy(found.logits_NC), device),
        )


def _check_equal(stored: Batch, live: Batch) -> None:
    """Both sides learn from the same, or comparing them means nothing."""
    assert stored.frames_BFHW3 is not None and live.frames_BFHW3 is not None
    assert torch.equal(stored.frames_BFHW3, live.frames_BFHW3)
    assert torch.equal(stored.imu_BWA, live.imu_BWA)
    # Batches of other sizes are added up in another order.
    torch.testing.assert_close(stored.feature_BD, live.feature_BD, rtol=1e-2, atol=1e-3)
    torch.testing.assert_close(stored.logits_BC, live.logits_BC, rtol=1e-2, atol=1e-3)


def _clips(manifest: Manifest, store: FeatureStore, inputs: FeatureStore) -> ClipSet:
    return read_clips(
        manifest,
        manifest.segments[0].split,
        method=METHODS["egodistill"],
        num_frames=1,
        inputs=inputs,
        teacher=store,
        needs_targets=True,
        needs_labels=False,
        allow_missing=False,
    )
