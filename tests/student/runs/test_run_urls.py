"""Training and evaluation of what lies in a bucket, on a real S3 server."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from egoctl import cli
from egoctl.pipeline.errors import EgoctlError
from egoctl.pipeline.files.place import Place
from egoctl.pipeline.manifest import write_manifest
from egoctl.pipeline.runs.run_place import run_folder_at
from egoctl.pipeline.sharing.copy import copy_store
from egoctl.pipeline.sharing.selection import Selection
from egoctl.student.clip_dataset import ClipDataset
from egoctl.student.evaluation.evaluate import evaluate, load_student
from egoctl.student.training.train import train
from egoctl.tests.worlds.student_world import killed_in_epoch, make_world, metric_rows, weights


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("EGOCTL_CACHE", str(tmp_path / "cache"))


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    return make_world(tmp_path_factory.mktemp("world"), segments_of_split=3)


@pytest.fixture
def in_bucket(world, s3):
    """The world's manifest and stores in a bucket; what a config says of where they lie."""
    where = {name: f"{s3}/{name}" for name in ("manifest", "inputs", "teacher")}
    write_manifest(world.manifest, where["manifest"])
    for kind in ("inputs", "teacher"):
        copy_store(getattr(world, kind).url, where[kind], Selection(), say=lambda text: None)
    return where


def files_at(url):
    return sorted(info.name for info in Place(url).list() if "tensorboard" not in info.name)


def timeless(rows):
    return [{name: value for name, value in row.items() if name != "clips_per_s"} for row in rows]


def test_a_run_in_a_bucket_killed_and_resumed_elsewhere_is_the_run_at_home(
    world, s3, in_bucket, tmp_path, monkeypatch
):
    home = world.config(run="home", num_epochs=3)
    away = replace(home, **in_bucket, run=f"{s3}/runs/away")
    train(home)

    killed_in_epoch(away, 3, monkeypatch)
    assert "checkpoints/last.zip" in files_at(away.run)
    monkeypatch.setenv("EGOCTL_CACHE", str(tmp_path / "another machine"))
    result = train(away)

    assert (result.run, result.epochs_done, result.last.epoch) == (away.run, 3, 3)
    with run_folder_at(away.run) as run:
        for name in ("last", "best"):
            one, two = weights(home.run, name), weights(run.folder, name)
            assert one.keys() == two.keys()
            assert all(torch.equal(one[key], two[key]) for key in one)
        assert timeless(metric_rows(home.run)) == timeless(metric_rows(run.folder))
        record = json.loads((run.folder / "config.json").read_text())
    at_home = json.loads((Path(home.run) / "config.json").read_text())
    assert record["digests"] == at_home["digests"]
    assert record["train"]["manifest"] == f"{s3}/manifest"

    assert evaluate(away.run) == evaluate(home.run)
    assert files_at(away.run) == [
        "checkpoints/best.zip", "checkpoints/last.zip", "config.json", "metrics.json",
        "metrics.jsonl", "predictions.parquet", "train.log", "train_clips.parquet",
    ]  # fmt: skip
    content = Place(away.run).read("predictions.parquet")
    assert content == (Path(home.run) / "predictions.parquet").read_bytes()


def test_a_run_is_in_the_bucket_before_its_first_epoch_so_another_one_is_refused(
    world, s3, monkeypatch
):
    config = replace(world.config(), run=f"{s3}/runs/a")
    killed_in_epoch(config, 1, monkeypatch)

    assert files_at(config.run) == ["config.json", "train_clips.parquet"]
    with pytest.raises(EgoctlError) as caught:
        train(replace(config, learning_rate=0.5))
    assert str(caught.value) == (
        f"{config.run} is a run with another config:\n  train.learning_rate: run 0.01, now 0.5\n"
        "Give another --run folder, or the old settings to go on with it."
    )


def test_a_run_may_go_on_from_local_copies_of_what_it_began_with_in_a_bucket(
    world, s3, in_bucket, monkeypatch
):
    away = replace(world.config(), **in_bucket, run=f"{s3}/runs/a")
    killed_in_epoch(away, 2, monkeypatch)

    assert train(replace(world.config(), run=away.run)).epochs_done == 2


def test_a_local_run_is_evaluated_with_data_in_a_bucket(world, in_bucket):
    config = world.config(run="local", num_epochs=1, student={"method": "egodistill"})
    train(config)

    assert evaluate(config.run, **in_bucket) == evaluate(config.run)


def test_a_student_is_loaded_from_a_bucket(world, s3):
    config = replace(world.config(num_epochs=1), run=f"{s3}/runs/a")
    train(config)

    assert load_student(config.run).config.method == "imuonly-distill"


def test_a_bucket_without_a_run_is_named(s3):
    with pytest.raises(EgoctlError, match=f"^no run in {s3}/runs/none "):
        evaluate(f"{s3}/runs/none")


def test_a_checkpoint_whose_content_is_damaged_is_named_as_in_the_bucket(world, s3):
    config = replace(world.config(num_epochs=1), run=f"{s3}/runs/a")
    train(config)
    with run_folder_at(config.run) as run:
        (run.folder / "checkpoints" / "best" / "model.safetensors").write_bytes(b"no weights")

    with pytest.raises(EgoctlError, match=f"checkpoint {config.run}/checkpoints/best.zip is dama"):
        evaluate(config.run)


def test_the_commands_go_to_the_server_that_endpoint_names(
    world, s3, in_bucket, s3_server, monkeypatch
):
    # monkeypatch puts back what the commands set.
    monkeypatch.delenv("AWS_ENDPOINT_URL")
    run = f"{s3}/runs/cli"
    settings = world.folder / "small.toml"
    settings.write_text('image_weights = "random"\nimu_out = 16\nfusion_hidden = 16\n')

    trained = CliRunner().invoke(
        cli.app,
        [
            "train-student", in_bucket["manifest"], "--inputs", in_bucket["inputs"],
            "--store", in_bucket["teacher"], "--run", run, "--method", "egodistill",
            "--freeze-image-encoder", "--epochs", "1", "--batch-size", "3", "--device", "cpu",
            "--workers", "1",
            "--cache-frames", "disk", "--config", str(settings), "--endpoint", s3_server.url,
        ],
    )  # fmt: skip
    monkeypatch.delenv("AWS_ENDPOINT_URL")
    told = CliRunner().invoke(cli.app, ["evaluate", run, "--endpoint", s3_server.url])

    assert (trained.exit_code, told.exit_code) == (0, 0)
    assert trained.stdout.startswith(f"{run}: 1 epochs on 6 clips of 3 segments.")
    assert told.stdout.startswith("egodistill on split 'test': 3 of 3 segments scored, 6 clips.")
    found = json.loads(Place(run).read("config.json"))["train"]
    assert (found["num_workers"], found["cache_frames"]) == (1, "disk")


def test_a_dataset_is_made_of_what_lies_in_a_bucket(world, in_bucket):
    dataset = ClipDataset(
        in_bucket["manifest"],
        inputs=in_bucket["inputs"],
        teacher=in_bucket["teacher"],
        split="train",
    )

    assert len(dataset) == 6
    assert dataset[0].frames.shape == (1, 32, 32, 3)
