"""Clips per second of a training epoch, from stores filled with drawn frames and noise."""

# N clips, W IMU samples, D feature width (768), C classes

import io
import json
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from egoctl.pipeline.imu import RATE_HZ
from egoctl.pipeline.manifest import WINDOW_S, Manifest, write_manifest
from egoctl.pipeline.plan import StoreConfig, inputs_arrays, inputs_view
from egoctl.pipeline.records import Segment
from egoctl.pipeline.sampling import num_imu_samples
from egoctl.pipeline.store import FeatureStore
from egoctl.pipeline.store_header import ArraySpec
from egoctl.student.frames import encode_once
from egoctl.student.image_encoder import build_image_encoder
from egoctl.student.jpegs import keep_jpegs
from egoctl.student.model import StudentConfig
from egoctl.student.run_folder import METRICS_FILE
from egoctl.student.train import train
from egoctl.student.train_config import TrainConfig
from egoctl.tests.benchmarks.figures import Figure, Setup, rates, timed
from egoctl.tests.benchmarks.filled_store import new_store, numbered_clips, write_all
from egoctl.tests.benchmarks.footage import jpeg_frames

STORES = StoreConfig(frames_per_clip=1)
NUM_CLASSES, FEATURE_DIM = 97, 768
NUM_PICTURES = 64
"""Distinct ones; clips take turns with them."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Case:
    """A student, and how many clips make its epoch long enough to be timed."""

    name: str
    num_clips: int
    quick_num_clips: int
    batch_size: int
    student: StudentConfig


FROZEN = Case(
    name="EgoDistill, frozen efficientnet_lite0 (features computed before)",
    num_clips=512,
    quick_num_clips=64,
    batch_size=64,
    student=StudentConfig(image_encoder="efficientnet_lite0", freeze_image_encoder=True),
)
TRAINED = Case(
    name="EgoDistill, resnet18 trained along",
    num_clips=48,
    quick_num_clips=8,
    batch_size=16,
    student=StudentConfig(image_encoder="resnet18", image_weights="random"),
)


@dataclass(frozen=True, kw_only=True, slots=True)
class _World:
    manifest: Path
    inputs: str
    teacher: str
    num_clips: int


def run(setup: Setup) -> list[Figure]:
    """A student with a frozen encoder, that encoder by itself, and one trained whole."""
    frozen = _world(FROZEN, setup, "frozen")
    cache = setup.folder / "features"
    return [
        _encoder_speed(frozen, setup, cache),
        _epoch_speed(FROZEN, frozen, setup, cache),
        _epoch_speed(TRAINED, _world(TRAINED, setup, "trained"), setup, None),
    ]


def _encoder_speed(world: _World, setup: Setup, cache: Path) -> Figure:
    """Also fills the cache, so that the run that follows need not encode again."""
    rows = np.arange(world.num_clips)
    jpegs = keep_jpegs(
        FeatureStore.open(world.inputs), rows, np.zeros_like(rows)[:, None], cache_frames="ram",
        digest="",
    )  # fmt: skip
    config = FROZEN.student
    encoder = build_image_encoder(config.image_encoder, config.image_weights)

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
        name=f"{config.image_encoder} features of {world.num_clips} clips, once per run",
        unit="clips/s",
        values=rates(samples),
    )


def _epoch_speed(case: Case, world: _World, setup: Setup, cache: Path | None) -> Figure:
    run_dir = setup.folder / f"run-{case.student.image_encoder}"
    config = TrainConfig(
        manifest=str(world.manifest),
        inputs=world.inputs,
        teacher=world.teacher,
        run=str(run_dir),
        student=case.student,
        # One more than is counted: the first epoch also takes memory and chooses kernels.
        num_epochs=setup.repeats + 1,
        batch_size=case.batch_size,
        device="cuda" if setup.device.type == "cuda" else "cpu",
        feature_cache=cache,
    )
    # Its own talk would stand between our tables.
    with redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
        train(config)
    epochs = [json.loads(line) for line in (run_dir / METRICS_FILE).read_text().splitlines()]
    return Figure(
        benchmark="training",
        name=f"{case.name}: an epoch of {world.num_clips} clips, batches of {case.batch_size}",
        unit="clips/s",
        values=tuple(epoch["clips_per_s"] for epoch in epochs[1:]),
    )


def _world(case: Case, setup: Setup, name: str) -> _World:
    folder = setup.folder / name
    num_clips = case.quick_num_clips if setup.is_quick else case.num_clips
    segments = tuple(
        Segment(
            segment_id=clip.segment_id,
            video_id=clip.video_id,
            video_path="video.mp4",
            imu_path="imu.csv",
            participant_id="P01",
            start_s=clip.start_s,
            stop_s=clip.stop_s,
            label=index % NUM_CLASSES,
            split="train",
        )
        for index, clip in enumerate(numbered_clips(num_clips, window_s=WINDOW_S))
    )
    manifest = Manifest(
        segments=segments,
        class_names=tuple(f"class {label}" for label in range(NUM_CLASSES)),
        dataset_name="benchmark",
        window_s=WINDOW_S,
        stride_s=None,
        root=folder,
    )
    write_manifest(manifest, folder / "clips.parquet")
    clips = manifest.clips()
    random = np.random.default_rng(0)
    teacher = new_store(
        folder / "teacher.store",
        kind="teacher",
        part_rows=STORES.part_rows,
        arrays=[
            ArraySpec(name="feature", dtype="float16", row_shape=(FEATURE_DIM,), chunk_rows=256),
            ArraySpec(name="logits", dtype="float16", row_shape=(NUM_CLASSES,), chunk_rows=256),
        ],
        clips=clips,
    )
    write_all(
        teacher,
        {
            "feature": random.normal(size=(num_clips, FEATURE_DIM)),
            "logits": random.normal(size=(num_clips, NUM_CLASSES)),
        },
    )
    inputs = new_store(
        folder / "inputs.store",
        kind="inputs",
        part_rows=STORES.part_rows,
        arrays=inputs_arrays(inputs_view(STORES, WINDOW_S)),
        clips=clips,
    )
    pictures = jpeg_frames(NUM_PICTURES, STORES)
    jpegs = [pictures[index % NUM_PICTURES] for index in range(num_clips)]
    write_all(
        inputs,
        {
            "frames": np.array(jpegs, dtype=object)[:, None],
            "frame_time": np.array([[clip.mid_s] for clip in clips]),
            "imu": random.normal(size=(num_clips, num_imu_samples(WINDOW_S, RATE_HZ), 6)),
            "imu_mean": np.zeros((num_clips, 6)),
        },
    )
    return _World(
        manifest=folder / "clips.parquet",
        inputs=inputs.url,
        teacher=teacher.url,
        num_clips=num_clips,
    )
