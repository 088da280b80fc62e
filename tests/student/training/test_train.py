"""Training: what every method learns from, what a run leaves behind, what is refused."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

import egoctl.student.training.student_method as train_module
from egoctl.pipeline.errors import EgoctlError, StoreMismatchError
from egoctl.student.model.loss_config import LossConfig
from egoctl.student.model.student_config import METHODS
from egoctl.student.settings.train_config import TrainConfig
from egoctl.student.training.train import train
from egoctl.tests.worlds.student_world import make_world, metric_rows, weights

# --- training ---


@pytest.mark.parametrize("method", METHODS)
def test_every_method_trains_and_leaves_a_whole_run(world, method):
    config = world.config(
        run=f"run-{method}", num_epochs=1, student={"method": method, "freeze_image_encoder": True}
    )

    result = train(config)

    assert (result.epochs_done, result.num_clips, result.num_segments) == (1, 18, 9)
    assert json.loads((Path(config.run) / "config.json").read_text())["train"]["seed"] == 0
    row = metric_rows(config.run)[0]
    assert row["loss"] > 0
    assert (row["kd"] > 0) == (row["l1"] > 0) == METHODS[method].distills
    for name in ("best", "last"):
        files = sorted(path.name for path in (Path(config.run) / "checkpoints" / name).iterdir())
        assert files == ["model.safetensors", "optimizer.pt", "state.json"]


def test_a_student_learns_what_the_imu_tells(world):
    config = world.config(
        run="learns",
        num_epochs=30,
        schedule="onecycle",
        loss=LossConfig(l1_reduction="mean"),
    )

    result = train(config)

    assert result.best_top1 == 1.0
    rows = metric_rows(config.run)
    assert rows[-1]["kd"] < 0.5 * rows[0]["kd"]


def test_an_image_encoder_that_is_not_frozen_is_trained_on_decoded_frames(world):
    config = world.config(run="trains-image", num_epochs=1, student={"method": "visonly-distill"})

    train(config)

    found = weights(config.run)
    assert found["image.net.bn1.num_batches_tracked"] == 3  # 18 clips in batches of 6
    assert found["image_std_I"].unique().tolist() == [1.0]


@pytest.mark.parametrize(("cache_frames", "num_workers"), [("ram", 2), ("disk", 0), ("none", 0)])
def test_where_frames_are_kept_and_who_decodes_them_changes_no_weight(
    world, tmp_path, monkeypatch, cache_frames, num_workers
):
    monkeypatch.setenv("EGOCTL_CACHE", str(tmp_path))
    plain = world.config(run=f"plain-{cache_frames}", student={"method": "egodistill"})
    other = world.config(
        run=f"kept-{cache_frames}",
        student={"method": "egodistill"},
        cache_frames=cache_frames,
        num_workers=num_workers,
    )

    train(plain)
    train(other)

    one, two = weights(plain.run), weights(other.run)
    assert all(torch.equal(one[name], two[name]) for name in one)
    assert [row["val_top1"] for row in metric_rows(plain.run)] == [
        row["val_top1"] for row in metric_rows(other.run)
    ]


def test_frozen_features_are_standardised_with_the_train_split_and_kept(world, tmp_path):
    config = world.config(
        run="frozen",
        num_epochs=1,
        feature_cache=tmp_path / "cache",
        student={"method": "egodistill", "freeze_image_encoder": True},
    )

    train(config)

    found = weights(config.run)
    cached = [np.load(file) for file in sorted((tmp_path / "cache").iterdir())]
    assert [array.shape for array in cached] == [(18, 512), (18, 512)]  # train and val
    means = [np.allclose(found["image_mean_I"], each.mean(axis=0)) for each in cached]
    assert sorted(means) == [False, True]


def test_a_feature_cache_gives_the_same_run(world, tmp_path, monkeypatch):
    options = {
        "num_epochs": 1,
        "feature_cache": tmp_path / "cache",
        "student": {"method": "egodistill", "freeze_image_encoder": True},
    }
    train(world.config(run="cache-filled", **options))
    monkeypatch.setattr(
        "egoctl.student.clips.frames.decode_frames", None
    )  # nothing is decoded again

    train(world.config(run="cache-used", **options))

    one, two = weights(world.folder / "cache-filled"), weights(world.folder / "cache-used")
    assert all(torch.equal(one[name], two[name]) for name in one)


def test_standardised_targets_keep_their_statistics_with_the_weights(world):
    config = world.config(run="standard", num_epochs=1, loss=LossConfig(standardise_targets=True))

    train(config)

    # A third of the clips has a 2 in dimension 0; dimension 5 never varies.
    found = weights(config.run)
    assert found["target_mean_D"][0].item() == pytest.approx(2 / 3)
    assert found["target_std_D"][5].item() == pytest.approx(1e-6)


def test_bf16_mixed_precision_trains_with_float32_weights(world):
    config = world.config(run="bf16", num_epochs=1, precision="bf16-mixed")

    result = train(config)

    assert np.isfinite(result.last.loss)
    assert {value.dtype for name, value in weights(config.run).items() if "weight" in name} == {
        torch.float32
    }


def test_without_a_val_split_the_best_epoch_is_the_last(tmp_path):
    world = make_world(tmp_path, splits=("train",))

    result = train(world.config())

    assert (result.best_epoch, result.best_top1) == (2, None)
    last, best = weights(tmp_path / "run"), weights(tmp_path / "run", "best")
    assert all(torch.equal(last[name], best[name]) for name in last)


def test_left_out_clips_are_said_and_logged(tmp_path, capsys):
    world = make_world(tmp_path, splits=("train",), failed={"train-0": "video_unreadable"})

    result = train(world.config(num_epochs=1))

    line = "left out of train: 2 clips (inputs: video_unreadable)"
    assert result.left_out == {"inputs: video_unreadable": 2}
    assert line in capsys.readouterr().err
    assert line in (tmp_path / "run" / "train.log").read_text()


# --- blown up ---


def test_a_loss_that_is_not_finite_ends_training_before_a_checkpoint(world, monkeypatch):
    real = train_module.student_loss
    steps = []

    def loss(*args, **kwargs):
        steps.append(1)
        found = real(*args, **kwargs)
        # Three steps an epoch, so this is the second of epoch 2.
        return found._replace(total=found.total * float("nan")) if len(steps) == 5 else found

    monkeypatch.setattr(train_module, "student_loss", loss)
    config = world.config(run="blown-up", num_epochs=3)

    with pytest.raises(EgoctlError, match="epoch 2: loss nan.*lower learning rate.*store verify"):
        train(config)

    assert [row["epoch"] for row in metric_rows(config.run)] == [1]
    assert all(value.isfinite().all() for value in weights(config.run).values())


def test_weights_spoilt_by_an_epochs_last_step_are_not_saved(world, monkeypatch):
    real = train_module.student_loss
    steps = []

    def loss(*args, **kwargs):
        steps.append(1)
        found = real(*args, **kwargs)
        if len(steps) == 3:  # the loss is finite, its gradient is not
            found.total.register_hook(lambda gradient: gradient * float("nan"))
        return found

    monkeypatch.setattr(train_module, "student_loss", loss)
    config = world.config(run="spoilt")

    with pytest.raises(EgoctlError, match=r"epoch 1: loss \d.*weights not finite"):
        train(config)

    assert not (Path(config.run) / "checkpoints" / "last").exists()


# --- refusals ---


def test_kd_from_a_teacher_of_other_classes_is_refused(tmp_path):
    world = make_world(tmp_path, splits=("train",), teacher_classes=("a", "b", "c", "d"))

    with pytest.raises(StoreMismatchError) as caught:
        train(world.config())

    assert str(caught.value) == (
        f"KD needs the same classes in {world.folder / 'manifest.parquet'} and in "
        f"{world.teacher.url}: the manifest has 3 classes, the teacher 4; only the manifest has "
        "'cut', 'stir', 'wash'; only the teacher has 'a', 'b', 'c' and 1 more. "
        "Pass --alpha 0 to learn from labels and L1 only."
    )


def test_a_manifest_without_classes_is_refused(tmp_path):
    segments = tuple(f"train-{index}" for index in range(9))
    world = make_world(tmp_path, splits=("train",), class_names=(), unlabelled=segments)

    with pytest.raises(EgoctlError, match="has no classes.*'egoctl manifest build folder ANN.csv'"):
        train(world.config())


def test_without_kd_a_teacher_of_other_classes_gives_its_features(tmp_path):
    world = make_world(tmp_path, splits=("train",), teacher_classes=("a", "b", "c", "d"))

    result = train(world.config(num_epochs=1, loss=LossConfig(alpha=0.0)))

    assert (result.last.kd, result.last.l1 > 0, result.last.gt > 0) == (0, True, True)


def test_the_same_number_of_classes_with_other_names_is_not_the_same(tmp_path):
    world = make_world(tmp_path, splits=("train",), teacher_classes=("stir", "slice", "wash"))

    with pytest.raises(
        StoreMismatchError, match=": only the manifest has 'cut'; only the teacher has 'slice'.*"
    ):
        train(world.config())


def test_a_method_that_distills_needs_a_teacher(world):
    with pytest.raises(EgoctlError, match="imuonly-distill learns from a teacher"):
        world.config(teacher=None)


def test_a_method_on_labels_does_without_a_teacher(world):
    config = world.config(
        run="no-teacher", teacher=None, num_epochs=1, student={"method": "imuonly"}
    )

    assert train(config).epochs_done == 1


def test_a_device_that_is_not_there_is_refused(world, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)

    with pytest.raises(EgoctlError, match="torch sees 0 cuda devices"):
        train(world.config(device="cuda"))


@pytest.mark.parametrize(
    ("field", "value"),
    [("schedule", "cosine"), ("num_epochs", 0), ("batch_size", 1), ("learning_rate", 0.0)],
)
def test_an_impossible_run_is_refused_by_name(world, field, value):
    with pytest.raises(EgoctlError, match=field):
        world.config(**{field: value})


def test_a_config_survives_json(world, tmp_path):
    config = world.config(feature_cache=tmp_path, loss=LossConfig(tau=4.0))

    assert TrainConfig.from_json(json.loads(json.dumps(config.to_json()))) == config


def test_a_config_of_a_run_from_before_frames_had_a_choice_of_place_is_read(world):
    values = world.config().to_json()
    del values["cache_frames"]

    assert TrainConfig.from_json(values).cache_frames == "ram"
