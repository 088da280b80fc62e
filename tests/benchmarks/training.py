"""Clips per second of training from the stores, beside the same steps on batches held ready.

The second is what the student alone can do on this machine: forward, loss, backward, optimizer,
with every batch in memory as the tensors it takes. What training from the stores adds to it are
orders and batches, decoded frames, gathered rows, metrics.
"""

# N clips, B clips of a batch, F frames of a clip

import dataclasses
import io
import json
from collections.abc import Sequence
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch

from egoctl.pipeline.devices import keep_freed_memory
from egoctl.pipeline.runs.run_folder import METRICS_FILE
from egoctl.pipeline.store import FeatureStore
from egoctl.student.clips.epochs import batches_of, epoch_order
from egoctl.student.clips.frames import FrameLoader, rows_on, to_device
from egoctl.student.clips.image_features import encode_once
from egoctl.student.clips.jpegs import keep_jpegs
from egoctl.student.clips.sources import (
    open_sources,
    read_train_clips,
    resolved_student,
    with_image_features,
)
from egoctl.student.model.image_encoder import build_image_encoder
from egoctl.student.model.student import Student, build_student
from egoctl.student.model.student_config import StudentConfig
from egoctl.student.settings.train_config import TrainConfig
from egoctl.student.training.train import train
from egoctl.tests.benchmarks.figures import Figure, Sample, Setup, rates, seconds_ratios, timed
from egoctl.tests.benchmarks.student_steps import Batch, learn
from egoctl.tests.benchmarks.training_world import TrainingWorld, fill_training_world


@dataclass(frozen=True, kw_only=True, slots=True)
class Case:
    """A student, and how much it trains: enough seconds to be timed."""

    name: str
    world: str
    num_epochs: int
    """In each turn, after one that takes memory and chooses kernels and is not counted."""
    batch_size: int
    student: StudentConfig


WORLDS = {"frozen": 1536, "trained": 48}
"""Clips of each."""
QUICK_CLIPS = 16
FROZEN = StudentConfig(image_encoder="efficientnet_lite0", freeze_image_encoder=True)
CASES = (
    Case(
        name="EgoDistill, frozen efficientnet_lite0, IMU read-out last",
        world="frozen",
        num_epochs=5,
        batch_size=64,
        student=dataclasses.replace(FROZEN, imu_readout="last"),
    ),
    Case(
        name="EgoDistill, frozen efficientnet_lite0",
        world="frozen",
        num_epochs=1,
        batch_size=64,
        student=FROZEN,
    ),
    Case(
        name="EgoDistill, resnet18 trained along",
        world="trained",
        num_epochs=1,
        batch_size=16,
        student=StudentConfig(image_encoder="resnet18", image_weights="random"),
    ),
)


def run(setup: Setup) -> list[Figure]:
    """The frozen encoder by itself; then every student, from the stores and from memory."""
    keep_freed_memory(setup.device)  # as training does
    worlds = {
        name: fill_training_world(setup.folder / name, QUICK_CLIPS if setup.is_quick else num_clips)
        for name, num_clips in WORLDS.items()
    }
    cache = setup.folder / "features"
    figures = [_encoder_speed(worlds["frozen"], setup, cache)]
    for case in CASES:
        figures += _measure(case, worlds[case.world], setup, cache)
    return figures


def _encoder_speed(world: TrainingWorld, setup: Setup, cache: Path) -> Figure:
    """Also fills the cache, so that the runs that follow need not encode again."""
    rows = np.arange(world.num_clips)
    jpegs = keep_jpegs(
        FeatureStore.open(world.inputs), rows, np.zeros_like(rows)[:, None], cache_frames="ram",
        digest="",
    )  # fmt: skip
    encoder = build_image_encoder(FROZEN.image_encoder, FROZEN.image_weights)

    def encode(folder: Path) -> float:
        encode_once(
            encoder,
            jpegs,
            device=setup.device,
            num_workers=0,
            cache_folder=folder,
            progress=lambda _: None,
        )
        return world.num_clips

    folders = [cache, *(setup.folder / f"features-{n}" for n in range(1, setup.repeats))]
    samples = [timed(partial(encode, folder)) for folder in folders]
    return Figure(
        benchmark="training",
        name=f"{FROZEN.image_encoder} features of {world.num_clips} clips, once per run",
        unit="clips/s",
        values=rates(samples),
    )


def _measure(case: Case, world: TrainingWorld, setup: Setup, cache: Path) -> list[Figure]:
    config = TrainConfig(
        manifest=str(world.manifest),
        inputs=world.inputs,
        teacher=world.teacher,
        run=str(setup.folder / "run"),
        student=case.student,
        num_epochs=case.num_epochs + 1,
        batch_size=case.batch_size,
        device="cuda" if setup.device.type == "cuda" else "cpu",
        feature_cache=cache,
    )
    # Its own talk would stand between our tables.
    with redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
        student, batches = _student_and_batches(config, setup.device)
        turns: dict[str, list[Sample]] = {"from the stores": [], "the model alone": []}
        for turn in range(setup.repeats):
            run_dir = setup.folder / f"{case.world}-{case.student.imu_readout}-{turn}"
            turns["from the stores"].append(_stored(dataclasses.replace(config, run=str(run_dir))))
            turns["the model alone"].append(_alone(student, batches, config))
    stored, alone = turns.values()
    ratio = Figure(
        benchmark="training",
        name=f"{case.name}: speed from the stores / speed of the model alone",
        unit="ratio",
        # The same clips on both sides.
        values=seconds_ratios(alone, stored),
        aim=">= 0.95" if setup.device.type == "cuda" else ">= 0.90",
    )
    epoch = f"epochs of {world.num_clips} clips, batches of {case.batch_size}"
    return [ratio] + [
        Figure(
            benchmark="training",
            name=f"{case.name}, {epoch}: {name}",
            unit="clips/s",
            values=rates(samples),
        )
        for name, samples in turns.items()
    ]


def _stored(config: TrainConfig) -> Sample:
    """As train-student does it: what it says itself of its epochs, all but the first."""
    num_clips = train(config).num_clips
    lines = (Path(config.run) / METRICS_FILE).read_text().splitlines()[1:]
    return Sample(
        amount=num_clips * len(lines),
        seconds=sum(num_clips / json.loads(line)["clips_per_s"] for line in lines),
    )


def _alone(student: Student, batches: Sequence[Batch], config: TrainConfig) -> Sample:
    """As many epochs, of which the first is not counted either."""
    optimizer = torch.optim.AdamW(
        [parameter for parameter in student.parameters() if parameter.requires_grad],
        lr=config.learning_rate,
        weight_decay=config.weight_decay,
    )
    epochs = [
        timed(partial(learn, student, optimizer, batches, config.effective_loss))
        for _ in range(config.num_epochs)
    ][1:]
    return Sample(
        amount=sum(each.amount for each in epochs), seconds=sum(each.seconds for each in epochs)
    )


def _student_and_batches(config: TrainConfig, device: torch.device) -> tuple[Student, list[Batch]]:
    """A student as train builds it, and an epoch of what train would give it."""
    sources = open_sources(config)
    clips = read_train_clips(config, sources)
    student = build_student(resolved_student(config, sources), seed=config.seed).to(device)
    clips = with_image_features(clips, student, config, device)
    assert clips.jpegs is not None and clips.imu_NWA is not None
    assert clips.feature_ND is not None and clips.logits_NC is not None
    loader = FrameLoader(clips.jpegs, max_batch=config.batch_size, num_workers=0, device=device)
    order = epoch_order(clips.segment_N, config.epoch_over, seed=config.seed, epoch=1)
    batches = []
    for index_B in batches_of(order, batch_size=config.batch_size, rank=0, num_ranks=1):
        feature_NFI = clips.image_feature_NFI
        batches.append(
            Batch(
                frames_BFHW3=next(loader.batches([index_B])) if feature_NFI is None else None,
                image_feature_BFI=rows_on(device, feature_NFI, index_B),
                imu_BWA=to_device(clips.imu_NWA[index_B], device),
                label_B=to_device(clips.label_N[index_B], device),
                feature_BD=to_device(clips.feature_ND[index_B], device),
                logits_BC=to_device(clips.logits_NC[index_B], device),
            )
        )
    return student, batches
