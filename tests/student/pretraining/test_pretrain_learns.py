"""That pretraining learns: clips whose IMU tells how their last frame differs from their first."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import safetensors.torch
import torch
from lightning_fabric import Fabric
from typer.testing import CliRunner

from egoctl import cli
from egoctl.pipeline.runs.epoch_loop import EpochLoop
from egoctl.pipeline.runs.method import LoopConfig
from egoctl.student.model.student import build_student
from egoctl.student.pretraining.net import build_pretrain_net
from egoctl.student.pretraining.pretrain_method import PretrainMethod, whole_batches
from egoctl.student.runs.pretrained_file import read_pretraining
from egoctl.tests.worlds import pretrain_processes
from egoctl.tests.worlds.pretrain_world import moving_heads, pretrain_config, run_folder
from egoctl.tests.worlds.student_world import make_world, metric_rows, weights

BATCH = 32


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    return make_world(tmp_path_factory.mktemp("world"), splits=("train",))


def retrieval_after_training(world, folder, *, is_told: bool) -> float:
    """Share of clips never trained on that find their own IMU among 32."""
    config = pretrain_config(
        world,
        losses="nce",
        teacher=None,
        num_epochs=12,
        batch_size=BATCH,
        learning_rate=2e-3,
    )
    net = build_pretrain_net(
        build_student(config.student, seed=0), uses_nce=True, uses_l1=False, seed=0
    )
    fabric = Fabric(accelerator="cpu", devices=1)
    fabric.launch()
    method = PretrainMethod(
        fabric, config, net, moving_heads(640, seed=0, is_told=is_told), val=None
    )
    EpochLoop(fabric, run_folder(folder), LoopConfig.of(config), method).run()
    found = method.held_out(moving_heads(320, seed=1, is_told=is_told))
    top1: float = found["retrieval_top1"]
    return top1


def test_imu_that_tells_the_change_between_frames_is_found_far_above_chance(world, tmp_path):
    assert retrieval_after_training(world, tmp_path, is_told=True) > 10 / BATCH


def test_imu_of_other_clips_stays_at_chance(world, tmp_path):
    assert retrieval_after_training(world, tmp_path, is_told=False) < 3 / BATCH


def test_a_batch_is_whole_and_shared_equally():
    order = torch.arange(14)

    one, two = (whole_batches(order, batch_size=6, rank=rank, num_ranks=2) for rank in (0, 1))

    # Clips 12 and 13 fill no batch of six.
    assert [batch.tolist() for batch in one] == [[0, 2, 4], [6, 8, 10]]
    assert [batch.tolist() for batch in two] == [[1, 3, 5], [7, 9, 11]]


def test_two_processes_learn_as_one_does_with_the_same_batch(tmp_path):
    one, two = tmp_path / "one.safetensors", tmp_path / "two.safetensors"
    pretrain_processes.main(1, str(one))
    done = subprocess.run(
        [sys.executable, "-m", "egoctl.tests.worlds.pretrain_processes", "2", str(two)],
        capture_output=True, text=True, check=False, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    alone, together = safetensors.torch.load_file(one), safetensors.torch.load_file(two)

    # Its negatives lie on both processes: with those of its own alone the loss would be lower.
    assert alone["loss"] > 1.5
    assert together.keys() == alone.keys()
    for name, value in alone.items():
        torch.testing.assert_close(together[name], value, rtol=1e-4, atol=1e-6)


# --- the command ---


def arguments(world, run: Path) -> list[str]:
    return [
        *("pretrain-imu", str(world.folder / "manifest.parquet"), "--run", str(run)),
        *("--inputs", world.inputs.url, "--store", world.teacher.url, "--image-weights", "random"),
        *("--imu-out", "16", "--imu-readout", "last", "--fusion-hidden", "16", "--device", "cpu"),
        *("--epochs", "1", "--batch-size", "6", "--json"),
    ]


def test_the_command_pretrains_and_a_student_begins_with_it(world, tmp_path):
    said = CliRunner().invoke(cli.app, arguments(world, tmp_path / "imu"))

    assert said.exit_code == 0, said.output
    assert json.loads(said.stdout)["num_clips"] == 18
    assert metric_rows(tmp_path / "imu")[0]["retrieval_top1"] is not None
    config = tmp_path / "student.toml"
    config.write_text('imu_out = 16\nfusion_hidden = 16\ndevice = "cpu"\n')
    said = CliRunner().invoke(
        cli.app,
        [
            *("train-student", str(world.folder / "manifest.parquet"), "--method", "egodistill"),
            *("--inputs", world.inputs.url, "--store", world.teacher.url, "--epochs", "1"),
            *("--run", str(tmp_path / "student"), "--pretrain", str(tmp_path / "imu")),
            *("--image-weights", "random", "--freeze-image-encoder", "--imu-readout", "last"),
            *("--config", str(config)),
        ],
    )
    assert said.exit_code == 0, said.output
    pretrained = read_pretraining(str(tmp_path / "imu"))
    begun = json.loads((tmp_path / "student" / "config.json").read_text())
    assert begun["digests"]["pretraining"] == pretrained.digest
    assert torch.equal(
        weights(tmp_path / "student")["image_mean_I"], pretrained.weights["image_mean_I"]
    )
