"""Evaluation takes the rows that a run was trained on wherever they lie now, and no others."""

import dataclasses
import json
import shutil
from pathlib import Path

import polars as pl
import pytest
from typer.testing import CliRunner

from egoctl import cli
from egoctl.pipeline.errors import EgoctlError, StoreMismatchError
from egoctl.pipeline.manifest import write_manifest
from egoctl.pipeline.sharing.copy import copy_store
from egoctl.pipeline.sharing.merge import merge
from egoctl.pipeline.sharing.selection import Selection
from egoctl.pipeline.store import FeatureStore
from egoctl.student.evaluation.evaluate import evaluate
from egoctl.student.training.train import train
from egoctl.tests.worlds.student_world import make_world, rewrite_part

SPLITS = ("train", "test")
# 3 segments of 2 clips in each split, parts of 8 rows: rows 0 to 5 are train's, part 1 is test's.


@pytest.fixture
def world(tmp_path):
    """With a trained run."""
    world = make_world(tmp_path / "world", splits=SPLITS, segments_of_split=3)
    train(world.config(num_epochs=1))
    return world


# --- what is recorded ---


def test_a_run_says_which_clips_it_was_trained_on(world):
    found = pl.read_parquet(world.folder / "run" / "train_clips.parquet")

    assert found.to_dict(as_series=False) == {
        "clip_id": [
            "train-0@1.000-3.000", "train-0@2.000-4.000", "train-1@1.000-3.000",
            "train-1@2.000-4.000", "train-2@1.000-3.000", "train-2@2.000-4.000",
        ],
        "has_target": [True] * 6,
    }  # fmt: skip


def test_a_run_on_labels_was_trained_on_no_target(world):
    config = world.config(run="labels", num_epochs=1, student={"method": "imuonly"})

    train(config)

    found = pl.read_parquet(Path(config.run) / "train_clips.parquet")
    assert found["has_target"].to_list() == [False] * 6
    digests = json.loads((Path(config.run) / "config.json").read_text())["digests"]["train"]
    assert sorted(digests) == ["clips", "inputs"]


# --- the same rows elsewhere ---


def test_stores_that_have_grown_are_the_same(world):
    before = evaluate(world.folder / "run")
    num_rows = world.teacher.num_rows()

    larger = make_world(world.folder, splits=(*SPLITS, "val"), segments_of_split=3)

    assert (num_rows, larger.teacher.num_rows()) == (12, 22)
    assert evaluate(world.folder / "run") == before


def test_stores_that_were_merged_into_other_parts_are_the_same(world, tmp_path):
    before = evaluate(world.folder / "run")
    merged = {kind: str(tmp_path / f"{kind}.merged") for kind in ("inputs", "teacher")}
    for kind, url in merged.items():
        merge([getattr(world, kind).url], url, part_rows=16)

    assert FeatureStore.open(merged["inputs"]).header.part_rows == 16
    assert evaluate(world.folder / "run", **merged) == before


def test_a_run_is_pointed_at_copies_by_options(world, tmp_path):
    before = evaluate(world.folder / "run")
    for kind in ("inputs", "teacher"):
        copy_store(
            getattr(world, kind).url, str(tmp_path / f"{kind}.copy"), Selection(),
            say=lambda text: None,
        )  # fmt: skip
    write_manifest(world.manifest, tmp_path / "copy.parquet")
    shutil.move(world.folder / "run", tmp_path / "run")
    shutil.rmtree(world.folder)

    result = CliRunner().invoke(
        cli.app,
        [
            "evaluate", str(tmp_path / "run"), "--json",
            "--manifest", str(tmp_path / "copy.parquet"),
            "--inputs", str(tmp_path / "inputs.copy"), "--store", str(tmp_path / "teacher.copy"),
        ],
    )  # fmt: skip

    assert result.exit_code == 0
    assert json.loads(result.stdout) == json.loads(json.dumps(dataclasses.asdict(before)))


def test_rows_that_the_run_was_not_trained_on_may_change(world):
    rewrite_part(world.teacher, 1)

    metrics = evaluate(world.folder / "run")

    assert metrics.num_target_clips == 6


# --- other rows ---


@pytest.mark.parametrize(("kind", "option"), [("inputs", "--inputs"), ("teacher", "--store")])
def test_a_store_whose_part_was_computed_to_other_values_is_refused(world, kind, option):
    store = getattr(world, kind)
    rewrite_part(store, 0)

    with pytest.raises(StoreMismatchError) as caught:
        evaluate(world.folder / "run")

    assert str(caught.value) == (
        f"{world.folder / 'run'} was trained on other rows than {store.url} has now: its 6 clips "
        f"are there, but not with the same content. Give {option} the store that it was trained "
        "on, or a copy of that, or train again with a new --run."
    )


def test_a_store_without_some_of_the_clips_says_how_many(world, tmp_path):
    # Part 0 is not done there, and it holds all of train.
    other = make_world(tmp_path / "other", splits=SPLITS, segments_of_split=3, done_parts=(1,))

    with pytest.raises(
        StoreMismatchError,
        match=r"other/teacher.store has now: 6 of 6 clips are missing, such as 'train-0@1.000-3",
    ):
        evaluate(world.folder / "run", teacher=other.teacher.url)


def test_a_clip_that_has_failed_since_is_missing(world, tmp_path):
    other = make_world(
        tmp_path / "other", splits=SPLITS, segments_of_split=3, failed={"train-2": "past_end"}
    )

    with pytest.raises(
        StoreMismatchError, match="inputs.store has now: 2 of 6 clips are missing, such as 'train-2"
    ):
        evaluate(world.folder / "run", inputs=other.inputs.url)


def test_a_run_that_does_not_say_its_clips_is_refused(world):
    (world.folder / "run" / "train_clips.parquet").unlink()

    with pytest.raises(EgoctlError, match="does not say which clips.*Train again with a new --run"):
        evaluate(world.folder / "run")


@pytest.mark.parametrize("content", [b"PAR1 no more", b""])
def test_a_damaged_list_of_clips_is_refused_and_written_anew_by_training(world, content):
    file = world.folder / "run" / "train_clips.parquet"
    whole = evaluate(world.folder / "run")
    file.write_bytes(content)

    with pytest.raises(
        EgoctlError, match=r"run/train_clips.parquet is damaged \(.*the same comman"
    ):
        evaluate(world.folder / "run")

    train(world.config(num_epochs=1))
    assert evaluate(world.folder / "run") == whole


def test_a_list_of_other_columns_is_damaged(world):
    pl.DataFrame({"clip": ["a"]}).write_parquet(world.folder / "run" / "train_clips.parquet")

    with pytest.raises(EgoctlError, match=r"is damaged \(columns clip\)"):
        evaluate(world.folder / "run")


# --- other classes and recipes ---


def test_a_manifest_of_other_classes_is_refused(tmp_path):
    world = make_world(tmp_path, segments_of_split=3)
    train(world.config(num_epochs=1))
    other = dataclasses.replace(world.manifest, class_names=("cut", "peel", "wash"))
    write_manifest(other, tmp_path / "manifest.parquet")

    with pytest.raises(
        StoreMismatchError,
        match="only the run has 'stir'; only the manifest has 'peel'.*train again",
    ):
        evaluate(tmp_path / "run")


@pytest.mark.parametrize("kind", ["inputs", "teacher"])
def test_a_store_of_another_recipe_is_refused(tmp_path, kind):
    world = make_world(tmp_path, segments_of_split=3)
    config = world.config(num_epochs=1)
    train(config)
    file = tmp_path / f"{kind}.store" / "store.json"
    header = getattr(world, kind).header
    other = dataclasses.replace(header, recipe={**header.recipe, "crop_px": 112})
    file.write_text(json.dumps(other.to_dict()))

    with pytest.raises(StoreMismatchError) as caught:
        evaluate(tmp_path / "run")

    assert str(caught.value) == (
        f"{tmp_path / 'run'} was trained on {kind} of fingerprint {header.fingerprint}, but "
        f"{tmp_path / kind}.store now has {other.fingerprint}: another recipe. "
        "Put back the data it was trained on, or train again with a new --run."
    )


def test_a_teacher_that_took_no_part_in_the_training_may_change(tmp_path):
    world = make_world(tmp_path, segments_of_split=3)
    train(world.config(num_epochs=1, student={"method": "imuonly"}))
    record = json.loads((tmp_path / "run" / "config.json").read_text())
    assert record["fingerprints"]["teacher"] is None
    header = dataclasses.replace(world.teacher.header, recipe={"teacher": "another"})
    (tmp_path / "teacher.store" / "store.json").write_text(json.dumps(header.to_dict()))

    metrics = evaluate(tmp_path / "run")

    # Its parts are of the old recipe, so it has no targets; the student is scored all the same.
    assert (metrics.num_scored, metrics.num_teacher_segments) == (3, 0)
