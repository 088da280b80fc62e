"""Pretraining runs in the tiny world of tests of training, and clips that it can learn from."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from egoctl.pipeline.runs.run_folder import RunFolder
from egoctl.pipeline.runs.run_place import RunPlace
from egoctl.student.model.student_config import StudentConfig
from egoctl.student.pretraining.data import EncodedClips, PretrainClips
from egoctl.student.settings.pretrain_config import PretrainConfig
from egoctl.tests.worlds.student_world import IMU_SAMPLES, World

STUDENT = StudentConfig(
    method="egodistill",
    image_weights="random",
    imu_out=16,
    imu_readout="last",
    imu_samples=IMU_SAMPLES,
    fusion_hidden=16,
)


def pretrain_config(world: World, run="pretrain", **changes) -> PretrainConfig:
    """Two epochs of three batches on the world's 18 train clips, changed as told."""
    plain = PretrainConfig(
        manifest=str(world.folder / "manifest.parquet"),
        inputs=world.inputs.url,
        teacher=world.teacher.url,
        run=str(world.folder / run),
        student=STUDENT,
        num_epochs=2,
        batch_size=6,
        learning_rate=1e-2,
        device="cpu",
        # The same frames in every test: encoded once.
        feature_cache=world.folder / "image-features",
    )
    student = changes.pop("student", {})
    return replace(plain, student=replace(STUDENT, **student), **changes)


def run_folder(path: Path, *, is_writer: bool = True) -> RunFolder:
    """A folder that a loop can write to."""
    path.mkdir(exist_ok=True)
    return RunFolder(RunPlace(str(path), path, None), is_writer=is_writer)


def moving_heads(num_clips: int, *, seed: int, is_told: bool) -> EncodedClips:
    """Six ramps of IMU move six of the image's 512 dimensions; if not told, another clip's do."""
    random = torch.Generator().manual_seed(seed)
    turn_N6 = torch.randn(num_clips, 6, generator=random)
    ramp_W = torch.linspace(-1, 1, IMU_SAMPLES)
    noise_NW6 = 0.1 * torch.randn(num_clips, IMU_SAMPLES, 6, generator=random)
    first_NI = torch.randn(num_clips, 512, generator=random)
    last_NI = first_NI.clone()
    last_NI[:, :6] += 3 * (turn_N6 if is_told else turn_N6.roll(1, dims=0))
    return EncodedClips(
        clips=PretrainClips(
            clip_ids=tuple(str(index) for index in range(num_clips)),
            imu_NWA=turn_N6[:, None, :] * ramp_W[None, :, None] + noise_NW6,
            feature_ND=None,
            left_out={},
            digests={},
        ),
        feature_NPI=torch.stack([first_NI, last_NI], dim=1),
        picked_P=np.array([0, 2]),
        num_stored=3,
    )
