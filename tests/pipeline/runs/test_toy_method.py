"""A new method costs batches, a loss and a config: the loop trains it, resumes it, and keeps it."""

import dataclasses
import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from egoctl.pipeline.errors import EgoctlError
from egoctl.pipeline.runs.checkpoint import load_checkpoint, load_weights
from egoctl.tests.worlds.toy_method import CONFIG, STEPS, Toy, points, train_toy


@pytest.fixture(autouse=True)
def _one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def alone(tmp_path_factory) -> Path:
    """A run that nothing happened to."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    run: Path = tmp_path_factory.mktemp("toy") / "alone"
    train_toy(run)
    torch.set_num_threads(threads)
    return run


def assert_same_bits(one: Path, other: Path) -> None:
    for name in ("last", "best"):
        a, b = (load_checkpoint(run / "checkpoints" / name, where=name) for run in (one, other))
        assert (a.state, a.partial) == (b.state, None)
        assert a.average is not None and b.average is not None
        for mine, its in ((a.weights, b.weights), (a.average, b.average)):
            assert all(torch.equal(mine[key], its[key]) for key in mine)
        for key, moments in a.optimizer["state"].items():
            assert all(torch.equal(moments[k], b.optimizer["state"][key][k]) for k in moments)
    assert (one / "metrics.jsonl").read_text() == (other / "metrics.jsonl").read_text()


@pytest.mark.parametrize("step", [STEPS + 1, STEPS + 3, 2 * STEPS, 1])
def test_a_toy_that_is_killed_between_or_within_epochs_ends_bit_for_bit_like_one_left_alone(
    alone, tmp_path, step
):
    run = tmp_path / "killed"
    with subprocess.Popen(
        [sys.executable, "-m", "egoctl.tests.worlds.toy_method", str(run), str(step)],
        stdout=subprocess.PIPE,
        text=True,
    ) as child:
        assert child.stdout is not None
        printed = child.stdout.readline()
        child.send_signal(signal.SIGKILL)
        assert printed == "waiting\n"

    train_toy(run)

    assert_same_bits(alone, run)
    place = {
        STEPS + 1: "going on after epoch 1\n",
        STEPS + 3: "going on after step 2 of epoch 2\n",
        2 * STEPS: "going on after step 4 of epoch 2\n",
        1: "",
    }[step]
    assert place in (run / "train.log").read_text()


def test_the_best_epoch_of_a_toy_is_evaluated_from_its_folder(alone):
    rows = [json.loads(line) for line in (alone / "metrics.jsonl").read_text().splitlines()]
    toy = Toy(*points())

    toy.module.load_state_dict(load_weights(alone / "checkpoints" / "best", where="best"))
    row = toy.validated(toy.metrics(1, 0.0, [1.0, 1.0], 1.0))

    assert [row["epoch"] for row in rows] == [1, 2, 3]
    assert row.val_top1 == max(row["val_top1"] for row in rows) > 0.8


def test_a_finished_toy_is_left_as_it_is_and_another_config_is_refused(alone):
    before = (alone / "checkpoints" / "last" / "state.json").stat().st_mtime_ns

    assert train_toy(alone).state.epochs_done == 3

    assert (alone / "checkpoints" / "last" / "state.json").stat().st_mtime_ns == before
    with pytest.raises(EgoctlError, match="toy.learning_rate: run 0.05, now 0.1"):
        train_toy(alone, dataclasses.replace(CONFIG, learning_rate=0.1))


def test_a_run_that_lacks_the_metrics_of_its_best_epoch_says_so(tmp_path):
    train_toy(tmp_path / "toy")
    (tmp_path / "toy" / "metrics.jsonl").unlink()

    with pytest.raises(EgoctlError, match="metrics.jsonl lacks epoch .*Put it back"):
        train_toy(tmp_path / "toy")


def test_a_toy_that_blows_up_is_not_saved(tmp_path):
    with pytest.raises(EgoctlError, match=r"epoch 1: loss .*not finite. The toy has blown up"):
        train_toy(tmp_path / "toy", dataclasses.replace(CONFIG, learning_rate=1e38))

    kept = load_checkpoint(tmp_path / "toy" / "checkpoints" / "last", where="last")
    assert kept.partial is not None and kept.state.epochs_done == 0
    assert all(value.isfinite().all() for value in kept.weights.values())
