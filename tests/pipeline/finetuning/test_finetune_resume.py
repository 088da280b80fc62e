"""Fine-tuning that is killed, interrupted, or spread over processes ends like one left alone."""

import multiprocessing
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from multiprocessing.context import ForkServerContext
from multiprocessing.process import BaseProcess
from pathlib import Path

import pytest
import safetensors.torch
import torch

from egoctl.pipeline.errors import EgoctlError
from egoctl.pipeline.finetuning import steps as finetune_steps
from egoctl.pipeline.finetuning.config import Augment
from egoctl.tests.worlds.finetune_world import (
    config_in,
    fitted,
    metrics,
    run_in,
    same_bits,
)

pytest_plugins = ("egoctl.tests.worlds.finetune_colours",)
pytestmark = pytest.mark.usefixtures("tiny")

GIVE_UP_S = 120.0


def command(folder: Path, run: str, *options: str) -> list[str]:
    """What config_in asks for, as typed."""
    return [
        *(
            "finetune-teacher",
            str(folder / "clips.parquet"),
            "--teacher",
            "tiny",
            "--weights",
            "random:0",
        ),
        *("--run", str(folder / run), "--batch-size", "4", "--lr", "0.01", "--flip", "0.5"),
        *("--device", "cpu", "--workers", "1", *options),
    ]


class Stopped(BaseException):
    """What ends a process in the middle of things."""


def stop_at_step(count: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the optimiser take so many steps, and the next one end the run."""
    real = finetune_steps.Stepper.step
    taken: list[int] = []

    def step(self, share, **options):
        if len(taken) == count:
            raise Stopped
        taken.append(1)
        return real(self, share, **options)

    monkeypatch.setattr(finetune_steps.Stepper, "step", step)


@pytest.mark.parametrize("num_steps", [0, 2, 3, 5, 8])
def test_a_run_stopped_at_any_step_goes_on_to_the_bits_of_one_left_alone(
    folder, monkeypatch, num_steps
):
    settings = {"num_epochs": 3, "save_every": 1, "schedule": "onecycle"}
    alone = config_in(folder, "alone", **settings)
    stopped = config_in(folder, f"stopped-{num_steps}", **settings)
    _, wanted = fitted(alone)

    with monkeypatch.context() as patch, pytest.raises(Stopped):
        stop_at_step(num_steps, patch)
        fitted(stopped)
    _, found = fitted(stopped)

    assert same_bits(found, wanted)
    assert metrics(stopped) == metrics(alone) and len(metrics(alone)) == 3


@pytest.fixture(scope="module")
def processes() -> ForkServerContext:
    """Starts real processes that have torch imported already: an import costs seconds."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["egoctl.tests.worlds.finetune_world"])
    return context


def started(processes: ForkServerContext, words: list[str], said: Path) -> BaseProcess:
    process = processes.Process(target=run_in, args=(words, said))
    process.start()
    return process


def wait_for(is_so: Callable[[], bool], process: BaseProcess) -> None:
    end_s = time.monotonic() + GIVE_UP_S
    while not is_so():
        assert process.is_alive(), "it ended by itself"
        assert time.monotonic() < end_s, "it never came so far"
        time.sleep(0.001)


def test_a_killed_process_that_is_started_again_ends_with_the_same_bits(folder, processes):
    settings = {"num_epochs": 30, "save_every": 1}
    _, wanted = fitted(config_in(folder, "undisturbed", **settings))
    words = command(folder, "killed", "--epochs", "30", "--save-every", "1")
    run, said = folder / "killed", folder / "killed.txt"

    process = started(processes, words, said)
    wait_for(lambda: (run / "metrics.jsonl").is_file(), process)
    process.kill()
    process.join()
    assert not (run / "teacher.safetensors").exists(), "it was killed before the end"
    process = started(processes, words, said)
    process.join(GIVE_UP_S)

    assert process.exitcode == 0, said.read_text()
    assert "going on after epoch" in said.read_text()
    assert same_bits(safetensors.torch.load_file(run / "teacher.safetensors"), wanted)


def test_ctrl_c_ends_in_a_sentence_and_code_130(folder, processes):
    said = folder / "interrupted.txt"
    process = started(processes, command(folder, "interrupted", "--epochs", "4000"), said)
    wait_for(lambda: (folder / "interrupted" / "metrics.jsonl").is_file(), process)

    assert process.pid is not None
    os.kill(process.pid, signal.SIGINT)
    process.join(GIVE_UP_S)

    assert process.exitcode == 130
    assert "Stopped. Run the same command to go on from the last checkpoint." in said.read_text()
    assert "Traceback" not in said.read_text()


def test_two_processes_learn_what_one_does(folder):
    settings = {"teacher": "tiny_plain", "learning_rate": 1e-3}
    one = config_in(folder, "one", **settings)
    _, wanted = fitted(one)

    options = ("--teacher", "tiny_plain", "--epochs", "2", "--lr", "0.001", "--devices", "2")
    two = subprocess.run(
        [sys.executable, "-m", "egoctl.tests.worlds.finetune_world",
         *command(folder, "two", *options)],
        capture_output=True, text=True, check=False,
    )  # fmt: skip

    assert two.returncode == 0, two.stderr
    found = safetensors.torch.load_file(folder / "two" / "teacher.safetensors")
    for name, value in wanted.items():
        torch.testing.assert_close(found[name], value, rtol=1e-4, atol=1e-5)
    assert two.stdout.count("teacher.safetensors") == 1, "only one of them tells"
    rows = metrics(config_in(folder, "two"))
    assert [row["clips"] for row in rows] == [12, 12]
    assert [row["loss"] for row in rows] == pytest.approx([row["loss"] for row in metrics(one)])


def test_a_finished_run_is_left_as_it_is(folder):
    config = config_in(folder, "finished")
    first, before = fitted(config)
    stamp = Path(config.run, "checkpoints", "last.pt").stat().st_mtime_ns

    again, after = fitted(config)

    assert again == first and same_bits(before, after)
    assert Path(config.run, "checkpoints", "last.pt").stat().st_mtime_ns == stamp


def test_a_run_folder_with_another_config_names_the_fields_that_differ(folder):
    config = config_in(folder, "taken", num_epochs=1)
    fitted(config)
    other = replace(
        config, learning_rate=0.5, augment=Augment(flip=0.25), weights="random:1", workers=2
    )

    with pytest.raises(EgoctlError, match="learning_rate: run 0.01, now 0.5") as caught:
        fitted(other)

    assert "augment.flip: run 0.5, now 0.25" in str(caught.value)
    assert "weights_sha256" in str(caught.value)
    assert "workers" not in str(caught.value) and "num_epochs" not in str(caught.value)


def test_a_damaged_checkpoint_is_named(folder):
    config = config_in(folder, "damaged", num_epochs=1)
    fitted(config)
    Path(config.run, "checkpoints", "last.pt").write_bytes(b"no checkpoint")

    with pytest.raises(EgoctlError, match="last.pt is damaged .*Delete it to begin again"):
        fitted(config)
