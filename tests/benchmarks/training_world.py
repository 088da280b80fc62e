"""A manifest and two stores to train on, filled with drawn frames and noise."""

# N clips, W IMU samples, D feature width (768), C classes

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from egoctl.pipeline.extraction.plan import StoreConfig, inputs_arrays, inputs_view
from egoctl.pipeline.imu.sensor import RATE_HZ
from egoctl.pipeline.manifest import Manifest, write_manifest
from egoctl.pipeline.records import WINDOW_S, Segment
from egoctl.pipeline.sampling import num_imu_samples
from egoctl.pipeline.store.header import ArraySpec
from egoctl.tests.benchmarks.filled_store import new_store, numbered_clips, write_all
from egoctl.tests.benchmarks.footage import jpeg_frames

STORES = StoreConfig(frames_per_clip=1)
NUM_CLASSES, FEATURE_DIM = 97, 768
NUM_PICTURES = 64
"""Distinct ones; clips take turns with them."""


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainingWorld:
    """Where it lies."""

    manifest: Path
    inputs: str
    teacher: str
    num_clips: int


def fill_training_world(folder: Path, num_clips: int) -> TrainingWorld:
    """All of them train clips, each a segment of its own with a label."""
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
    return TrainingWorld(
        manifest=folder / "clips.parquet",
        inputs=inputs.url,
        teacher=teacher.url,
        num_clips=num_clips,
    )
