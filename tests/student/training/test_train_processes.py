"""Two processes train the student that one does."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from egoctl.student.model.loss_config import LossConfig
from egoctl.student.training.train import train
from egoctl.tests.worlds.student_world import make_world, metric_rows, weights

OPTIONS = {
    "num_epochs": 2,
    "batch_size": 6,
    "save_every_steps": 2,
    "loss": LossConfig(alpha=0.5),
    # No BatchNorm and no dropout in training: the first sees the clips of its own process alone.
    "student": {"method": "visonly-distill", "freeze_image_encoder": True},
}


def two_processes(config) -> None:
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    folder = Path(config.run).parent
    script = folder / "two.py"
    script.write_text(
        "import json, sys\n"
        "from egoctl.student.training.train import train\n"
        "from egoctl.student.settings.train_config import TrainConfig\n"
        "train(TrainConfig.from_json(json.loads(sys.argv[1])))\n"
    )
    done = subprocess.run(
        [sys.executable, *launcher, str(script), json.dumps(config.to_json())],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr


def test_two_processes_of_torchrun_train_like_one_at_the_same_batch(tmp_path):
    world = make_world(tmp_path, unlabelled=("train-0", "train-4"))
    alone = world.config(run="alone", **OPTIONS)
    train(alone)
    together = world.config(run="together", **OPTIONS)

    two_processes(together)

    one, two = weights(alone.run), weights(together.run)
    assert one.keys() == two.keys()
    assert all(torch.allclose(one[name], two[name], atol=1e-5) for name in one)
    left, right = metric_rows(alone.run), metric_rows(together.run)
    assert len(left) == len(right) == 2
    for before, after in zip(left, right, strict=True):
        for name in ("loss", "kd", "gt", "l1", "train_top1", "val_top1"):
            assert after[name] == pytest.approx(before[name], rel=1e-4), name
    assert "saved after step 2 of 3 of epoch 1" in (tmp_path / "together/train.log").read_text()
