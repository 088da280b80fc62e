"""A teacher without classes: its store holds features alone, and students learn from those."""

from pathlib import Path

import numpy as np
import pytest
import torch

from egoctl.pipeline.errors import StoreMismatchError
from egoctl.pipeline.extraction.reproduce import reproduce
from egoctl.pipeline.records import TeacherTargets
from egoctl.pipeline.store import FeatureStore
from egoctl.pipeline.teachers.batches import Agreement, agreement
from egoctl.student.clip_dataset import ClipDataset
from egoctl.student.evaluation.evaluate import evaluate
from egoctl.student.model.loss_config import LossConfig
from egoctl.student.model.student_config import StudentConfig
from egoctl.student.settings.train_config import TrainConfig
from egoctl.student.training.train import train
from egoctl.tests.worlds.extract_world import MeanTeacher, World, draw_colours, write_imu


def rows_of(split: str, first_s: float) -> list[dict[str, object]]:
    return [
        {
            "segment_id": f"{split}-{label}",
            "video": "a.mp4",
            "imu": "a.csv",
            "start_s": first_s + 0.5 * label,
            "stop_s": first_s + 0.5 * label + 2.5,
            "label": ("cut", "stir")[label],
            "split": split,
        }
        for label in (0, 1)
    ]


ROWS = [*rows_of("train", 0), *rows_of("val", 3)]


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    """Two clips per segment, extracted with a teacher of frame means that has no classes."""
    made = World(folder=tmp_path_factory.mktemp("world"))
    draw_colours(made.videos / "a.mp4", seconds=6)
    write_imu(made.imu / "a.csv", seconds=6)
    manifest = made.manifest(ROWS)
    report = made.extract(manifest, teacher=MeanTeacher(num_classes=0))
    assert (report.num_read, report.failures) == (8, [])
    return made


def config_of(world: World, run: Path, *, alpha: float) -> TrainConfig:
    return TrainConfig(
        manifest=str(world.manifest_path),
        inputs=world.inputs_url,
        teacher=world.teacher_url,
        run=str(run),
        student=StudentConfig(method="imuonly-distill", image_weights="random", imu_out=8),
        loss=LossConfig(alpha=alpha),
        num_epochs=1,
        batch_size=2,
        device="cpu",
    )


def test_its_store_has_the_feature_array_and_no_logits(world: World) -> None:
    store = FeatureStore.open(world.teacher_url)

    assert store.array_specs() == {"feature": ((8, 48), "float32")}
    assert store.header.recipe["num_classes"] == 0
    assert np.isfinite(store.read("feature", np.arange(8))).all()


def test_its_rows_can_be_made_again_and_compared(world: World) -> None:
    found = reproduce(
        world.teacher_url,
        world.manifest(ROWS),
        MeanTeacher(num_classes=0),
        device=torch.device("cpu"),
        num_rows=3,
    )

    assert (found.num_sampled, found.failures, list(found.arrays)) == (3, (), ["feature"])
    assert found.is_reproduced


def test_distilling_logits_from_it_is_refused_with_what_to_pass(world: World) -> None:
    with pytest.raises(StoreMismatchError) as caught:
        train(config_of(world, world.folder / "refused", alpha=0.5))

    assert str(caught.value) == (
        f"KD needs logits, and {world.teacher_url} holds features only: its teacher has no "
        "classes. Pass --alpha 0 to learn from labels and L1 only."
    )


def test_a_student_learns_from_its_features_and_is_scored_without_a_teachers_accuracy(
    world: World, tmp_path: Path
) -> None:
    train(config_of(world, tmp_path / "run", alpha=0))

    metrics = evaluate(tmp_path / "run", split="val")

    assert metrics.num_target_clips == 4
    assert metrics.feature_l1 is not None
    assert (metrics.teacher_top1, metrics.agreement) == (None, None)


def test_a_data_set_gives_its_features_and_empty_logits(world: World) -> None:
    clips = ClipDataset(
        world.manifest_path, inputs=world.inputs_url, teacher=world.teacher_url, split="train"
    )

    assert clips[0].feature.shape == (48,)
    assert clips[0].logits.shape == (0,)


def test_a_faster_mode_is_judged_by_the_features_alone() -> None:
    feature_ND = np.array([[3.0, 4.0], [0.0, 1.0]])
    nothing_N0 = np.zeros((2, 0))
    found = TeacherTargets(feature_ND=feature_ND, logits_NC=nothing_N0)

    assert agreement(found, found) == Agreement(cosine=1.0, num_clips=2, num_same_class=None)
