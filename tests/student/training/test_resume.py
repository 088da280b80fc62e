"""A killed run goes on as if nothing was, and a checkpoint is replaced whole or not at all."""

import shutil
from pathlib import Path

import pytest
import safetensors.torch
import torch

from egoctl.pipeline.errors import EgoctlError
from egoctl.pipeline.runs import checkpoint
from egoctl.pipeline.runs.checkpoint import RunCheckpoint, RunState
from egoctl.student.model.loss_config import LossConfig
from egoctl.student.training.train import train
from egoctl.tests.worlds.student_world import killed_in_epoch, make_world, metric_rows, weights


@pytest.mark.parametrize("schedule", ["steps", "onecycle"])
def test_a_killed_run_that_goes_on_ends_bit_for_bit_like_one_left_alone(
    world, monkeypatch, schedule
):
    options = {"num_epochs": 4, "schedule": schedule, "epoch_over": "segments"}
    alone = world.config(run=f"alone-{schedule}", **options)
    killed = world.config(run=f"killed-{schedule}", **options)
    train(alone)

    killed_in_epoch(killed, 3, monkeypatch)
    train(killed)

    for name in ("last", "best"):
        one, two = weights(alone.run, name), weights(killed.run, name)
        assert one.keys() == two.keys()
        assert all(torch.equal(one[key], two[key]) for key in one)
    timeless = [
        [{k: v for k, v in row.items() if k != "clips_per_s"} for row in metric_rows(run.run)]
        for run in (alone, killed)
    ]
    assert timeless[0] == timeless[1]


def test_metrics_of_an_epoch_without_a_checkpoint_are_written_once(world, monkeypatch):
    config = world.config(run="between", num_epochs=3)
    killed_in_epoch(config, 2, monkeypatch)
    with (Path(config.run) / "metrics.jsonl").open("a") as file:
        file.write('{"epoch": 2, "loss": 1.')  # killed while writing

    train(config)

    assert [row["epoch"] for row in metric_rows(config.run)] == [1, 2, 3]


def test_a_finished_run_is_left_as_it_is(world):
    config = world.config(run="finished")
    train(config)
    before = weights(config.run)

    result = train(config)

    assert (result.epochs_done, result.last) == (2, None)
    assert all(torch.equal(before[name], weights(config.run)[name]) for name in before)


def test_a_run_folder_with_another_config_names_the_fields_that_differ(world):
    train(world.config(run="taken"))

    with pytest.raises(EgoctlError, match="train.learning_rate: run 0.01, now 0.02") as caught:
        train(world.config(run="taken", learning_rate=0.02, loss=LossConfig(tau=4.0)))

    assert "train.loss.tau: run 1.0, now 4.0" in str(caught.value)
    assert "seed" not in str(caught.value)


def test_stores_may_move_but_not_change_under_a_run(tmp_path):
    world = make_world(tmp_path / "a", splits=("train",))
    train(world.config())
    shutil.copytree(tmp_path / "a" / "teacher.store", tmp_path / "moved.store")
    moved = world.config(teacher=str(tmp_path / "moved.store"))

    assert train(moved).epochs_done == 2

    other = make_world(tmp_path / "b", splits=("train",), failed={"train-0": "lost"})
    with pytest.raises(EgoctlError, match="digests.train.teacher"):
        train(world.config(teacher=other.teacher.url, inputs=other.inputs.url))


def test_a_killed_run_goes_on_to_the_same_bits_with_workers_that_had_gone_ahead(world, monkeypatch):
    options = {"num_epochs": 3, "student": {"method": "visonly"}}
    alone = world.config(run="alone-ahead", **options)
    killed = world.config(run="killed-ahead", num_workers=1, **options)
    train(alone)

    killed_in_epoch(killed, 2, monkeypatch)
    train(killed)

    one, two = weights(alone.run), weights(killed.run)
    assert all(torch.equal(one[name], two[name]) for name in one)


# --- checkpoints ---


def example(epoch: int) -> RunCheckpoint:
    return RunCheckpoint(
        weights={"w": torch.full((2,), float(epoch))},
        optimizer={"state": {0: {"step": torch.tensor(float(epoch))}}, "param_groups": []},
        state=RunState(epochs_done=epoch, best_epoch=epoch, best_top1=0.5),
    )


@pytest.mark.parametrize("step", ["save_file", "first rename", "second rename", "rmtree"])
def test_a_kill_at_any_step_of_saving_leaves_a_whole_checkpoint(tmp_path, monkeypatch, step):
    folder = tmp_path / "last"
    checkpoint.save_checkpoint(folder, example(1))
    path_type = type(folder)
    real_rename = path_type.rename

    def die(*args, **kwargs):
        raise KeyboardInterrupt

    def die_into(target):
        def rename(self, to):
            if to.name == target:
                raise KeyboardInterrupt
            return real_rename(self, to)

        return rename

    with monkeypatch.context() as patch:
        if step == "save_file":
            patch.setattr(safetensors.torch, "save_file", die)
        elif step == "rmtree":
            patch.setattr(shutil, "rmtree", lambda path, **_: die() if path.exists() else None)
        else:
            target = ".last.old" if step == "first rename" else "last"
            patch.setattr(path_type, "rename", die_into(target))
        with pytest.raises(KeyboardInterrupt):
            checkpoint.save_checkpoint(folder, example(2))

    found = checkpoint.load_checkpoint(checkpoint.find_checkpoint(folder), where="run")
    assert found.state.epochs_done == (2 if step == "rmtree" else 1)
    checkpoint.save_checkpoint(folder, example(3))
    assert checkpoint.load_checkpoint(folder, where="run").weights["w"].tolist() == [3.0, 3.0]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["last"]


def test_a_damaged_checkpoint_is_named(tmp_path):
    checkpoint.save_checkpoint(tmp_path / "last", example(1))
    (tmp_path / "last" / "optimizer.pt").write_bytes(b"not a checkpoint")

    with pytest.raises(EgoctlError, match="checkpoint run/last is damaged"):
        checkpoint.load_checkpoint(tmp_path / "last", where="run/last")
