"""Pretraining runs in the tiny world of tests of training."""

from dataclasses import replace

from egoctl.student.model import StudentConfig
from egoctl.student.pretrain_config import PretrainConfig
from egoctl.tests.student_world import World

STUDENT = StudentConfig(
    method="egodistill",
    image_weights="random",
    imu_out=16,
    imu_readout="last",
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
