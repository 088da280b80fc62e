"""Pretraining of the IMU branch: what it learns from, what a run leaves behind, what is refused."""

import json
import os
import signal
from pathlib import Path
from typing import Any

import pytest
import torch

from egoctl.pipeline.errors import EgoctlError
from egoctl.pipeline.manifest import read_manifest, write_manifest
from egoctl.pipeline.runs.checkpoint import load_checkpoint
from egoctl.pipeline.runs.epoch_loop import EpochLoop
from egoctl.student.model.image_encoder import ImageEncoder
from egoctl.student.pretraining.pretrain import pretrain
from egoctl.student.runs.pretrained_file import read_pretraining
from egoctl.tests.worlds.pretrain_world import pretrain_config
from egoctl.tests.worlds.student_world import make_world, metric_rows, weights


def equal(one, two) -> bool:
    return one.keys() == two.keys() and all(torch.equal(one[name], two[name]) for name in one)


def without_times(run) -> list[dict[str, Any]]:
    return [{k: v for k, v in row.items() if k != "clips_per_s"} for row in metric_rows(run)]


def killed_in_epoch(config, epoch, monkeypatch) -> None:
    real = EpochLoop._train_epoch

    def dies(self, number, stop):
        if number == epoch:
            raise KeyboardInterrupt
        return real(self, number, stop)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(EpochLoop, "_train_epoch", dies)
        pretrain(config)


# --- what a run leaves ---


def test_a_run_leaves_config_metrics_checkpoints_and_one_file_for_students(world):
    config = pretrain_config(world, "whole")

    result = pretrain(config)

    assert (result.epochs_done, result.num_clips, result.left_out) == (2, 18, {})
    assert result.file == f"{config.run}/pretrained.safetensors"
    record = json.loads((Path(config.run) / "config.json").read_text())
    assert (record["pretrain"]["losses"], record["pretrain"]["splits"]) == ("nce+l1", ["train"])
    assert record["fingerprints"]["teacher"] == world.teacher.header.fingerprint
    rows = metric_rows(config.run)
    assert [row["epoch"] for row in rows] == [1, 2]
    assert rows[0]["loss"] == pytest.approx(rows[0]["nce"] + rows[0]["l1"])
    assert 0 <= rows[0]["retrieval_top1"] <= 1
    assert rows[0]["val_loss"] == pytest.approx(rows[0]["val_nce"] + rows[0]["val_l1"])
    best = min(rows, key=lambda row: row["val_loss"])["epoch"]
    assert result.best_epoch == best
    assert equal(dict(read_pretraining(config.run).weights), weights(config.run, "best"))
    assert {name.split(".")[0] for name in weights(config.run)} == {
        *("imu", "to_feature", "predictor"),
        *("image_mean_I", "image_std_I", "target_mean_D", "target_std_D"),
    }


@pytest.mark.parametrize(
    ("losses", "parts"), [("nce", {"imu", "predictor"}), ("l1", {"imu", "to_feature"})]
)
def test_one_loss_alone_trains_what_it_needs_and_nothing_else(world, losses, parts):
    config = pretrain_config(
        world, f"alone-{losses}", losses=losses, teacher=world.teacher.url, num_epochs=1
    )

    pretrain(config)

    row = metric_rows(config.run)[0]
    assert (row["nce"] is None, row["l1"] is None) == (losses == "l1", losses == "nce")
    assert (row["retrieval_top1"] is None) == (losses == "l1")
    found = weights(config.run)
    assert {name.split(".")[0] for name in found if "." in name} == parts


def test_nce_needs_no_teacher(world):
    config = pretrain_config(world, "no-teacher", losses="nce", teacher=None, num_epochs=1)

    assert pretrain(config).epochs_done == 1
    assert read_pretraining(config.run).made_for.has_fusion is False


def test_the_image_encoder_is_never_trained(world, monkeypatch):
    encoders = []
    real = ImageEncoder.forward

    def seen(self, frames):
        if self not in encoders:
            encoders.append(self)
            digests.append(self.weights_digest())
        return real(self, frames)

    digests: list[str] = []
    monkeypatch.setattr(ImageEncoder, "forward", seen)
    config = pretrain_config(world, "frozen", num_epochs=1, feature_cache=None)

    pretrain(config)

    assert [encoder.weights_digest() for encoder in encoders] == digests
    assert len(encoders) == 1
    assert encoders[0].net.bn1.num_batches_tracked == 0


def test_frames_are_encoded_once_and_kept_for_other_runs(world, tmp_path, monkeypatch):
    first = pretrain_config(world, "cache-filled", feature_cache=tmp_path / "cache", num_epochs=1)
    pretrain(first)
    monkeypatch.setattr(
        "egoctl.student.clips.frames.decode_frames", None
    )  # nothing is decoded again

    second = pretrain_config(world, "cache-used", feature_cache=tmp_path / "cache", num_epochs=1)
    pretrain(second)

    assert equal(weights(first.run), weights(second.run))


def test_no_label_is_read(tmp_path):
    labelled = make_world(tmp_path / "a", splits=("train", "val"))
    every = tuple(f"{split}-{index}" for split in ("train", "val") for index in range(9))
    bare = make_world(tmp_path / "b", splits=("train", "val"), class_names=(), unlabelled=every)

    pretrain(pretrain_config(labelled))
    pretrain(pretrain_config(bare))

    assert equal(weights(tmp_path / "a" / "pretrain"), weights(tmp_path / "b" / "pretrain"))
    # Labels that come later are no other data: the finished run is left as it is.
    with_labels = read_manifest(tmp_path / "a" / "manifest.parquet")
    write_manifest(with_labels, tmp_path / "b" / "manifest.parquet")
    assert pretrain(pretrain_config(bare)).last is None


def test_several_splits_are_pretrained_on_together(world):
    config = pretrain_config(world, "splits", splits=("train", "test"), num_epochs=1)

    assert pretrain(config).num_clips == 36


def test_clips_that_cannot_be_used_are_counted(tmp_path, capsys):
    world = make_world(
        tmp_path,
        splits=("train",),
        failed={"train-0": "video_unreadable"},
        without_imu=("train-1",),
    )

    result = pretrain(pretrain_config(world, num_epochs=1))

    assert result.num_clips == 18 - 2 - len(
        [clip for clip in world.clips if clip.segment_id == "train-1"]
    )
    assert result.left_out["inputs: video_unreadable"] == 2
    assert "left out: 2 clips (inputs: video_unreadable)" in capsys.readouterr().err


def test_without_a_val_split_the_best_epoch_is_the_last(tmp_path):
    world = make_world(tmp_path, splits=("train",))

    result = pretrain(pretrain_config(world))

    assert result.best_epoch == 2
    assert equal(weights(tmp_path / "pretrain", "best"), weights(tmp_path / "pretrain", "last"))


@pytest.mark.parametrize("selection", ["random", "first"])
def test_the_fusion_learns_from_the_frames_that_the_student_will_see(world, selection):
    config = pretrain_config(
        world,
        f"frames-{selection}",
        num_epochs=1,
        student={"num_frames": 2, "frame_selection": selection},
    )

    pretrain(config)

    assert "gru.weight_ih_l0" in weights(config.run)


# --- going on ---


def test_a_killed_run_that_goes_on_ends_bit_for_bit_like_one_left_alone(world, monkeypatch):
    student = {"frame_selection": "random"}
    alone = pretrain_config(world, "alone", num_epochs=4, student=student)
    killed = pretrain_config(world, "killed", num_epochs=4, student=student)
    pretrain(alone)

    killed_in_epoch(killed, 3, monkeypatch)
    with pytest.raises(EgoctlError, match=r"no pretrained.safetensors.*last epoch"):
        read_pretraining(killed.run)
    pretrain(killed)

    for name in ("last", "best"):
        assert equal(weights(alone.run, name), weights(killed.run, name))
    moments = [
        load_checkpoint(Path(run.run) / "checkpoints" / "last", where="last").optimizer["state"]
        for run in (alone, killed)
    ]
    assert all(equal(moments[0][index], moments[1][index]) for index in moments[0])
    assert without_times(alone.run) == without_times(killed.run)
    assert read_pretraining(alone.run).digest == read_pretraining(killed.run).digest


def test_a_run_asked_to_stop_within_an_epoch_goes_on_there_to_the_same_bits(world, monkeypatch):
    alone = pretrain_config(world, "unasked", student={"frame_selection": "random"})
    asked = pretrain_config(world, "asked", student={"frame_selection": "random"})
    pretrain(alone)
    real, taken = EpochLoop._step, []

    def step(self, *args):
        taken.append(1)
        if len(taken) == 5:
            os.kill(os.getpid(), signal.SIGTERM)
        return real(self, *args)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(EpochLoop, "_step", step)
        pretrain(asked)
    pretrain(asked)

    assert "going on after step 2 of epoch 2" in (Path(asked.run) / "train.log").read_text()
    assert equal(weights(alone.run), weights(asked.run))
    assert without_times(alone.run) == without_times(asked.run)


def test_another_setting_is_refused_by_name(world):
    pretrain(pretrain_config(world, "taken", num_epochs=1))

    with pytest.raises(EgoctlError, match='pretrain.losses: run "nce\\+l1", now "nce"'):
        pretrain(pretrain_config(world, "taken", num_epochs=1, losses="nce"))


def test_other_data_are_refused(tmp_path):
    world = make_world(tmp_path / "a", splits=("train",))
    pretrain(pretrain_config(world, num_epochs=1))
    other = make_world(tmp_path / "b", splits=("train",), failed={"train-0": "lost"})

    with pytest.raises(EgoctlError, match="digests.train"):
        pretrain(
            pretrain_config(world, num_epochs=1, teacher=other.teacher.url, inputs=other.inputs.url)
        )


def test_a_loss_that_is_not_finite_ends_pretraining_before_a_checkpoint(world):
    config = pretrain_config(world, "blown-up", learning_rate=1e30)

    with pytest.raises(EgoctlError, match="epoch 1: loss .*not finite.*lower learning rate"):
        pretrain(config)

    assert not (Path(config.run) / "checkpoints" / "last").exists()


# --- refusals ---


def test_fewer_clips_than_a_batch_are_refused(world):
    with pytest.raises(
        EgoctlError, match="18 usable clips.*fewer than a batch of 64.*--batch-size"
    ):
        pretrain(pretrain_config(world, "few", batch_size=64))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"losses": "kd"}, "losses 'kd' is not known; choose nce\\+l1, nce, l1"),
        ({"batch_size": 1}, "batch_size must be 2 or more, got 1"),
        ({"temperature": 0.0}, "temperature must be above 0"),
        ({"teacher": None}, "learn from a teacher.*--losses nce"),
        ({"splits": ()}, "must be one or more"),
        ({"splits": ("train", "val")}, "without the val split 'val'"),
        ({"splits": ("train", "train")}, "names one twice"),
        ({"student": {"method": "visonly"}}, "visonly does not see both"),
    ],
)
def test_an_impossible_run_is_refused_by_name(world, changes, message):
    with pytest.raises(EgoctlError, match=message):
        pretrain_config(world, **changes)
