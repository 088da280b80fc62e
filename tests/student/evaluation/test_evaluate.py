"""Evaluation: averages over segments, the teacher beside the student, IMU that is exchanged."""

import dataclasses
import json
import shutil
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch

from egoctl.pipeline.errors import EgoctlError
from egoctl.student.clips.frames import FrameLoader
from egoctl.student.clips.sources import open_sources, read_heldout_clips
from egoctl.student.evaluation.evaluate import evaluate, exchanged_imu, load_student
from egoctl.student.evaluation.predict import (
    BATCH,
    centre_clips,
    mean_over_segments,
    predict,
    top_k,
)
from egoctl.student.evaluation.report import metrics_lines
from egoctl.student.model.loss_config import LossConfig
from egoctl.student.training.train import train
from egoctl.tests.worlds.invoked import run as run_egoctl
from egoctl.tests.worlds.student_world import make_world


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """With a student that has learnt it: all of test right, where the teacher has one wrong."""
    world = make_world(tmp_path_factory.mktemp("world"))
    train(learnable(world))
    return world


def learnable(world, **changes):
    options = {
        "num_epochs": 30,
        "schedule": "onecycle",
        "loss": LossConfig(l1_reduction="mean"),
    }
    return world.config(**(options | changes))


def heldout(world, split="test"):
    config = learnable(world)
    return read_heldout_clips(config, open_sources(config), split, with_targets=True)


# --- the arithmetic ---


def test_probabilities_are_averaged_over_the_clips_of_a_segment():
    probability = torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.5, 0.5], [0.4, 0.6]])

    mean = mean_over_segments(probability, torch.tensor([0, 2, 2, 0]), 3)

    np.testing.assert_allclose(mean, [[0.7, 0.3], [np.nan, np.nan], [0.25, 0.75]])


def test_top_k_counts_labelled_rows_with_a_score():
    scores = torch.tensor([[0.5, 0.3, 0.2], [0.1, 0.3, 0.6], [0.9, 0.1, 0.0], [np.nan] * 3])
    labels = torch.tensor([1, 2, -1, 0])

    assert top_k(scores, labels, 1) == 0.5
    assert top_k(scores, labels, 2) == 1.0
    assert top_k(scores, labels, 5) == 1.0
    assert top_k(scores[2:], labels[2:], 1) is None


def test_the_centre_clip_is_the_one_nearest_to_the_segments_middle(world):
    # Segments are [1, 4) s, clips [1, 3) and [2, 4): equally far, so the earlier one.
    clips = heldout(world)

    assert centre_clips(clips).tolist() == list(range(0, 18, 2))


# --- a run ---


def test_a_student_is_scored_beside_its_teacher(world):
    metrics = evaluate(world.folder / "run", split="test")

    assert (metrics.num_segments, metrics.num_scored, metrics.num_clips) == (9, 9, 18)
    assert (metrics.top1, metrics.top5, metrics.centre_clip_top1) == (1.0, 1.0, 1.0)
    assert metrics.teacher_top1 == pytest.approx(8 / 9)
    assert metrics.agreement == pytest.approx(8 / 9)
    assert [(row.name, row.num_segments, row.top1) for row in metrics.per_class] == [
        ("cut", 3, 1.0),
        ("stir", 3, 1.0),
        ("wash", 3, 1.0),
    ]
    assert [row.teacher_top1 for row in metrics.per_class] == pytest.approx([1, 1, 2 / 3])
    assert metrics.left_out == {}


def test_feature_distances_are_those_of_the_slow_way(world):
    metrics = evaluate(world.folder / "run")

    clips = heldout(world)
    with torch.no_grad():
        student = load_student(world.folder / "run")(imu_BWA=clips.imu_NWA).feature_BD.numpy()
    teacher = clips.feature_ND.numpy()
    l1 = [sum(abs(a - b) for a, b in zip(s, t, strict=True)) for s, t in zip_rows(student, teacher)]
    cosine = [s @ t / np.sqrt((s @ s) * (t @ t)) for s, t in zip_rows(student, teacher)]
    assert metrics.feature_l1 == pytest.approx(np.mean(l1), rel=1e-5)
    assert metrics.feature_cosine == pytest.approx(np.mean(cosine), rel=1e-5)


def zip_rows(one, two):
    return zip(one, two, strict=True)


def test_predictions_and_metrics_are_written(world):
    metrics = evaluate(world.folder / "run")

    table = pl.read_parquet(world.folder / "run" / "predictions.parquet")
    assert table["segment_id"].to_list() == [f"test-{index}" for index in range(9)]
    assert table["label"].to_list() == [0, 1, 2] * 3
    assert table["predicted"].to_list() == [0, 1, 2] * 3
    assert table["teacher_predicted"].to_list() == [0, 1, 2, 0, 1, 2, 0, 1, 0]
    assert table["probabilities"].list.sum().to_list() == pytest.approx([1.0] * 9, rel=1e-5)
    written = json.loads((world.folder / "run" / "metrics.json").read_text())
    assert written["top1"] == metrics.top1
    assert written["per_class"][2]["name"] == "wash"


def test_the_command_computes_on_the_device_that_it_is_given(world):
    run = world.folder / "run"

    code, printed = run_egoctl("evaluate", run, "--device", "cpu", "--json")

    assert (code, json.loads(printed)["top1"]) == (0, evaluate(run, device="cpu").top1)


def test_a_device_that_is_not_here_is_refused_before_anything_is_read(tmp_path):
    with pytest.raises(EgoctlError, match="no device is called 'gpu'. Pass --device auto, cpu"):
        run_egoctl("evaluate", tmp_path / "none", "--device", "gpu")


def test_another_split_gets_files_of_its_own(world):
    run = world.folder / "run"
    evaluate(run)
    before = [(run / name).read_bytes() for name in ("metrics.json", "predictions.parquet")]

    evaluate(run, split="val")
    evaluate(run, split="val", imu="other")

    after = [(run / name).read_bytes() for name in ("metrics.json", "predictions.parquet")]
    assert before == after
    assert json.loads((run / "metrics-val.json").read_text())["split"] == "val"
    assert json.loads((run / "metrics-val-imu-other.json").read_text())["imu"] == "other"
    table = pl.read_parquet(run / "predictions-val.parquet")
    assert table["segment_id"].to_list() == [f"val-{index}" for index in range(9)]


def test_the_imu_of_other_segments_ruins_a_student_that_needs_its_own(world):
    own = evaluate(world.folder / "run")

    other = evaluate(world.folder / "run", imu="other")
    zero = evaluate(world.folder / "run", imu="zero")

    assert own.top1 == 1.0
    assert other.top1 < 0.7
    assert zero.top1 == pytest.approx(1 / 3)  # every clip gets one and the same answer
    written = json.loads((world.folder / "run" / "metrics-imu-other.json").read_text())
    assert (written["imu"], written["top1"]) == ("other", other.top1)
    assert json.loads((world.folder / "run" / "metrics.json").read_text())["imu"] == "own"


def test_exchanged_imu_comes_from_another_segment_for_every_clip(world):
    clips = heldout(world)

    shown = exchanged_imu(clips, "other", seed=3)

    for index, segment in enumerate(clips.segment_N.tolist()):
        source = (clips.imu_NWA == shown[index]).all(dim=2).all(dim=1).nonzero().item()
        assert clips.segment_N[source] != segment
    assert torch.equal(shown, exchanged_imu(clips, "other", seed=3))


def test_exchanged_imu_needs_two_segments(world):
    clips = heldout(world)
    one = dataclasses.replace(
        clips, clips=clips.clips[:2], segment_N=clips.segment_N[:2], imu_NWA=clips.imu_NWA[:2]
    )

    with pytest.raises(EgoctlError, match="at least two segments"):
        exchanged_imu(one, "other", seed=0)


def test_a_student_without_imu_has_none_to_exchange(world):
    train(world.config(run="vis", num_epochs=1, student={"method": "visonly"}))

    with pytest.raises(EgoctlError, match="visonly has no IMU"):
        evaluate(world.folder / "vis", imu="other")


def test_a_method_on_labels_has_no_feature_distance_but_the_teacher_beside_it(world):
    train(world.config(run="vis2", num_epochs=1, student={"method": "visonly"}))

    metrics = evaluate(world.folder / "vis2")

    assert (metrics.feature_l1, metrics.feature_cosine) == (None, None)
    assert metrics.teacher_top1 == pytest.approx(8 / 9)


def test_without_a_teacher_store_its_numbers_are_missing(world):
    train(world.config(run="alone", teacher=None, num_epochs=1, student={"method": "imuonly"}))

    metrics = evaluate(world.folder / "alone")

    assert (metrics.teacher_top1, metrics.agreement, metrics.num_teacher_segments) == (
        None,
        None,
        0,
    )
    assert metrics.top1 is not None


def test_a_frozen_encoder_is_evaluated_with_the_training_statistics(world):
    config = world.config(
        run="frozen",
        num_epochs=3,
        student={"method": "egodistill", "freeze_image_encoder": True},
    )
    train(config)
    student = load_student(config.run)
    clips = read_heldout_clips(config, open_sources(config), "test", with_targets=True)

    metrics = evaluate(config.run)

    # From frames, without features computed beforehand: the same answers.
    slow = predict(
        student,
        clips,
        loader=FrameLoader(clips.jpegs, max_batch=BATCH, num_workers=0, device=torch.device("cpu")),
        imu_NWA=clips.imu_NWA,
        device=torch.device("cpu"),
    )
    table = pl.read_parquet(Path(config.run) / "predictions.parquet")
    expected = mean_over_segments(slow.probability_NC, clips.segment_N, 9)
    np.testing.assert_allclose(table["probabilities"].to_list(), expected, atol=1e-5)
    assert not torch.equal(student.image_std_I, torch.ones(512))
    assert metrics.num_clips == 18


def test_standardised_targets_are_scored_in_the_teachers_units(world):
    config = learnable(
        world, run="standard", loss=LossConfig(l1_reduction="mean", standardise_targets=True)
    )
    train(config)

    metrics = evaluate(config.run)

    clips = heldout(world)
    student = load_student(config.run)
    with torch.no_grad():
        standardised = student(imu_BWA=clips.imu_NWA).feature_BD
    raw = standardised * student.target_std_D + student.target_mean_D
    distance = (raw - clips.feature_ND).abs().sum(dim=1).mean().item()
    assert metrics.feature_l1 == pytest.approx(distance, rel=1e-5)
    assert student.target_mean_D[7].item() == pytest.approx(1.5)  # clips start at 1 s and at 2 s


# --- what is left out ---


def test_segments_are_left_out_by_reason_and_their_number_is_told(tmp_path):
    world = make_world(
        tmp_path,
        segments_of_split=6,
        failed={"test-0": "video_unreadable"},
        without_imu=("test-1", "test-2"),
        unlabelled=("test-3",),
    )
    train(world.config(num_epochs=1))

    metrics = evaluate(tmp_path / "run")

    assert metrics.left_out == {
        "IMU: imu_none": 2,
        "inputs: video_unreadable": 1,
        "no label": 1,
    }
    assert (metrics.num_segments, metrics.num_scored, metrics.num_clips) == (6, 2, 6)
    table = pl.read_parquet(tmp_path / "run" / "predictions.parquet")
    assert table["segment_id"].to_list() == ["test-3", "test-4", "test-5"]
    assert table["label"].to_list() == [None, 1, 2]


def test_segments_without_a_target_count_for_the_student_only(tmp_path):
    # 3 splits x 3 segments x 2 clips = 18 rows; part 2 holds rows 16 and 17: segment test-2.
    world = make_world(tmp_path, segments_of_split=3, done_parts=(0, 1))
    train(world.config(num_epochs=1))

    metrics = evaluate(tmp_path / "run")

    assert (metrics.num_scored, metrics.num_clips) == (3, 6)
    assert (metrics.num_teacher_segments, metrics.num_target_clips) == (2, 4)
    assert metrics.num_teacher_scored == 2
    teacher_lines = [line for line in metrics_lines(metrics) if "(teacher: 2 segments)" in line]
    assert [line.split()[0] for line in teacher_lines] == ["top-1", "top-5"]
    table = pl.read_parquet(tmp_path / "run" / "predictions.parquet")
    assert table["teacher_predicted"].to_list() == [0, 1, None]


def test_methods_are_compared_over_the_segments_that_all_of_them_could_score(tmp_path):
    # Nobody can use test-0, those with IMU not test-1; test-2 alone has everything.
    world = make_world(
        tmp_path,
        segments_of_split=3,
        failed={"test-0": "video_unreadable"},
        without_imu=("test-1",),
    )
    train(world.config(run="imu", num_epochs=1, student={"method": "imuonly"}))
    train(world.config(run="vis", num_epochs=1, student={"method": "visonly"}))

    imu, vis = evaluate(tmp_path / "imu"), evaluate(tmp_path / "vis")

    assert (imu.num_scored, vis.num_scored) == (1, 2)
    assert (imu.num_common, vis.num_common) == (1, 1)
    table = pl.read_parquet(tmp_path / "vis" / "predictions.parquet")
    assert table["segment_id"].to_list() == ["test-1", "test-2"]
    assert vis.common_top1 == float(table["predicted"][1] == 2)
    assert imu.common_top1 == imu.top1
    line = f"  top-1, common clips {vis.common_top1:15.4f} (1 segments that every method can score)"
    assert line in list(metrics_lines(vis))


def test_without_any_clip_in_common_the_common_accuracy_is_missing(tmp_path):
    world = make_world(tmp_path, segments_of_split=3, without_imu=("test-0", "test-1", "test-2"))
    train(world.config(num_epochs=1, student={"method": "visonly"}))

    metrics = evaluate(tmp_path / "run")

    assert (metrics.num_scored, metrics.common_top1, metrics.num_common) == (3, None, 0)


# --- refusals ---


def test_a_split_that_is_not_there_names_those_that_are(world):
    with pytest.raises(EgoctlError, match="no split 'dev'; it has test, train, val"):
        evaluate(world.folder / "run", split="dev")


def test_a_split_with_nothing_to_use_says_why(tmp_path):
    world = make_world(tmp_path, segments_of_split=3, without_imu=("test-0", "test-1", "test-2"))
    train(world.config(num_epochs=1))

    with pytest.raises(EgoctlError, match="no usable clip.*imu_none.*6"):
        evaluate(tmp_path / "run")


def test_a_folder_without_a_run_is_refused(tmp_path):
    with pytest.raises(EgoctlError, match=r"no run in .*config\.json"):
        evaluate(tmp_path)


def test_a_run_without_a_checkpoint_is_refused(world):
    train(world.config(run="empty", num_epochs=1))
    shutil.rmtree(world.folder / "empty" / "checkpoints")

    with pytest.raises(EgoctlError, match="no checkpoint yet"):
        evaluate(world.folder / "empty")


def test_until_there_is_a_best_epoch_the_last_one_is_evaluated(world):
    train(world.config(run="half", num_epochs=1))
    best = world.folder / "half" / "checkpoints" / "best"
    expected = load_student(world.folder / "half").state_dict()
    shutil.rmtree(best)

    found = load_student(world.folder / "half").state_dict()

    assert all(torch.equal(expected[name], found[name]) for name in expected)
