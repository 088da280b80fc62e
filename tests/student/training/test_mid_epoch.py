"""A run that is stopped within an epoch goes on there, and ends as if it had not been."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from egoctl.pipeline.errors import EgoctlError
from egoctl.pipeline.runs.checkpoint import load_checkpoint
from egoctl.pipeline.runs.epoch_loop import EpochLoop
from egoctl.pipeline.runs.partial_epoch import PartialEpoch
from egoctl.student.training.train import train
from egoctl.tests.worlds.student_world import metric_rows, weights

pytest.importorskip("timm")

# Three steps an epoch. Everything that has a state of its own takes part: dropout, BatchNorm,
# frames drawn every epoch, the moving average, the rate of a schedule over steps.
EVERYTHING = {
    "num_epochs": 3,
    "schedule": "onecycle",
    "ema_decay": 0.7,
    "accumulate": 2,
    "student": {
        "method": "egodistill",
        "image_encoder": "timm:test_resnet",
        "num_frames": 2,
        "frame_selection": "random",
    },
}


@pytest.fixture(scope="module")
def undisturbed(world):
    config = world.config(run="undisturbed", **EVERYTHING)
    train(config)
    return config


def at_step(monkeypatch, number: int, act) -> None:
    """Do act at the beginning of that step of the run, counted from 1."""
    real = EpochLoop._step
    begun = []

    def step(self, *args):
        begun.append(1)
        if len(begun) == number:
            act()
        return real(self, *args)

    monkeypatch.setattr(EpochLoop, "_step", step)


def assert_same_run(one, other) -> None:
    for name in ("last", "best"):
        left, right = Path(one.run) / "checkpoints" / name, Path(other.run) / "checkpoints" / name
        a, b = load_checkpoint(left, where="one"), load_checkpoint(right, where="other")
        assert a.state == b.state
        for mine, its in ((a.weights, b.weights), (a.average or {}, b.average or {})):
            assert mine.keys() == its.keys()
            assert all(torch.equal(mine[key], its[key]) for key in mine)
        for key, state in a.optimizer["state"].items():
            assert all(torch.equal(state[k], b.optimizer["state"][key][k]) for k in state)
        assert a.optimizer["param_groups"] == b.optimizer["param_groups"]
        assert (a.partial, b.partial) == (None, None)
    timeless = [
        [{k: v for k, v in row.items() if k != "clips_per_s"} for row in metric_rows(run.run)]
        for run in (one, other)
    ]
    assert timeless[0] == timeless[1]


def die() -> None:
    raise RuntimeError("power cut")


@pytest.mark.parametrize("step", [2, 5, 6])
def test_a_run_that_died_within_an_epoch_ends_bit_for_bit_like_one_that_did_not(
    world, undisturbed, monkeypatch, step
):
    config = world.config(run=f"died-{step}", save_every_steps=1, **EVERYTHING)
    with monkeypatch.context() as patch, pytest.raises(RuntimeError, match="power cut"):
        at_step(patch, step, die)
        train(config)

    result = train(config)

    assert result.epochs_done == 3
    assert_same_run(undisturbed, config)


def test_a_process_killed_within_an_epoch_leaves_what_a_new_one_goes_on_from(
    world, undisturbed, tmp_path
):
    config = world.config(run="killed", save_every_steps=2, **EVERYTHING)
    script = tmp_path / "train.py"
    script.write_text(
        "import json, signal, sys\n"
        "from egoctl.student.training.train import train\n"
        "from egoctl.student.settings.train_config import TrainConfig\n"
        "from egoctl.pipeline.runs.epoch_loop import EpochLoop\n"
        "real, begun = EpochLoop._step, []\n"
        "def step(self, *args):\n"
        "    begun.append(1)\n"
        "    if len(begun) == 6:\n"
        "        print('in step 6', flush=True)\n"
        "        signal.pause()\n"
        "    return real(self, *args)\n"
        "EpochLoop._step = step\n"
        "train(TrainConfig.from_json(json.loads(sys.argv[1])))\n"
    )
    with subprocess.Popen(
        [sys.executable, script, json.dumps(config.to_json())],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as child:
        assert child.stdout is not None
        said = child.stdout.readline()
        child.send_signal(signal.SIGKILL)
        assert said == "in step 6\n"

    train(config)

    # Saved after steps 2 and 4, and after every epoch.
    log = (Path(config.run) / "train.log").read_text()
    assert "saved after step 1 of 3 of epoch 2" in log
    assert "going on after step 1 of epoch 2" in log
    assert_same_run(undisturbed, config)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_run_that_is_asked_to_stop_saves_after_the_step_and_goes_on_there(
    world, undisturbed, monkeypatch, number
):
    config = world.config(run=f"asked-{number}", **EVERYTHING)
    handlers = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        at_step(patch, 4, lambda: os.kill(os.getpid(), number))
        train(config)

    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == handlers
    found = load_checkpoint(Path(config.run) / "checkpoints" / "last", where="run")
    assert found.partial is not None
    assert (found.partial.epoch, found.partial.steps_done) == (2, 1)
    assert [row["epoch"] for row in metric_rows(config.run)] == [1]
    train(config)
    assert_same_run(undisturbed, config)


def test_asked_to_stop_in_an_epochs_last_step_a_run_finishes_that_epoch(world, monkeypatch):
    config = world.config(run="asked-at-end", num_epochs=3)
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        at_step(patch, 3, lambda: os.kill(os.getpid(), signal.SIGTERM))
        train(config)

    assert [row["epoch"] for row in metric_rows(config.run)] == [1]
    assert train(config).epochs_done == 3


def test_how_often_a_run_is_saved_makes_no_difference(world, undisturbed):
    config = world.config(run="saved-often", save_every_steps=1, **EVERYTHING)

    train(config)

    assert_same_run(undisturbed, config)


def test_a_step_that_spoils_the_weights_is_not_saved_within_the_epoch(world, monkeypatch):
    config = world.config(run="spoilt", save_every_steps=1)
    real = EpochLoop._step
    taken = []

    def step(self, *args):
        taken.append(1)
        found = real(self, *args)
        if len(taken) == 2:
            next(self._module.parameters()).data.fill_(float("nan"))
        return found

    monkeypatch.setattr(EpochLoop, "_step", step)

    with pytest.raises(EgoctlError, match=r"epoch 1: loss \d.*weights not finite"):
        train(config)

    assert all(value.isfinite().all() for value in weights(config.run).values())


def test_the_middle_of_an_epoch_is_of_the_processes_that_were_there(world):
    partial = PartialEpoch(
        epoch=2,
        steps_done=1,
        seconds=1.0,
        sums_RM=torch.zeros(2, 7),
        cpu_random_RS=torch.zeros(2, 5056, dtype=torch.uint8),
        device_random_RS=torch.empty(2, 0, dtype=torch.uint8),
    )

    class OneProcess:
        world_size = 1

    with pytest.raises(EgoctlError, match=r"epoch 2 on 2 processes.*on 1. Pass --devices 2"):
        partial.restore_random(OneProcess())
