"""Ego4D through the commands: from its annotations to the accuracy of a student.

Annotations, folders and the faults of annotations, IMU files and videos are Ego4D's; the videos
are drawn. Six seconds of each; an action early in it and one late.
"""

import json
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from egoctl.pipeline.manifest import read_manifest
from egoctl.tests.worlds.drawn_video import cut_file
from egoctl.tests.worlds.ego4d_world import CUT, PUT, Ego4dWorld, action, recorded, write_imu
from egoctl.tests.worlds.extract_world import stored
from egoctl.tests.worlds.places import MANIFESTS
from egoctl.tests.worlds.whole_path import (
    SMALL_STORES,
    SMALL_STUDENT,
    Job,
    Ran,
    egoctl,
    metrics_in,
    predicted_in,
    small_machine,
)

EARLY, LATE = (0, 66), (105, 172)
SOUND = ("s1", "s2", "s3", "s4")
UIDS = (*SOUND, "gap", "twice", "still", "cut", "absent")


def write_ego4d(folder: Path) -> None:
    """A download with the faults that Ego4D has."""
    world = Ego4dWorld(root=folder / "ego4d")
    bad = {
        "rejected": action("x1", CUT, *EARLY, is_rejected=True),
        "invalid": action("x2", CUT, *EARLY, is_invalid_annotation=True),
        "verbless": action("x3", None, *EARLY),
        "frameless": action("x4", CUT, *EARLY, critical_frames=None),
        "backwards": action("x5", CUT, 172, 105),
        "past the end": action("x6", CUT, 17900, 18000),
        "rare": action("x7", "knead", *EARLY),
        "again": action("s1-early", CUT, *EARLY),
    }
    world.annotate(
        {
            uid: [action(f"{uid}-early", CUT, *EARLY), action(f"{uid}-late", PUT, *LATE)]
            for uid in UIDS
        }
        | {"silent": [action("silent-early", CUT, *EARLY)], "faulty": list(bad.values())}
    )
    world.describe(dict.fromkeys((*UIDS, "faulty"), True) | {"silent": False})
    for uid in UIDS:
        if uid != "absent":
            world.film(uid)
    broken = world.film("cut")
    cut_file(broken, broken, at_packet=100)
    imu = {uid: recorded(component=number) for number, uid in enumerate(UIDS)}
    imu["s1"][7][2] = "NULL"
    imu["s1"][400], imu["s1"][401] = imu["s1"][401], imu["s1"][400]
    imu["gap"] = recorded(seconds=3)
    for row in imu["twice"]:
        row[8] = row[7]
    for row in imu["still"]:
        row[6:] = ["", "", ""]
    for uid in UIDS:
        if uid != "absent":
            write_imu(world.imu / f"{uid}.csv", imu[uid])


def build(folder: Path, recipe: str) -> Ran:
    return egoctl(
        *("manifest", "build", "ego4d", folder / "ego4d", "--recipe", MANIFESTS / f"{recipe}.toml"),
        *("--out", folder / f"{recipe}.parquet"),
    )


@pytest.fixture(scope="module")
def papers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Job]:
    """The paper's random division, from the files to an evaluation."""
    folder = tmp_path_factory.mktemp("ego4d")
    write_ego4d(folder)
    manifest = folder / "ego4d-egodistill.parquet"
    stores = ("--store", folder / "teacher.store", "--inputs", folder / "inputs.store")
    student = folder / "runs" / "student"
    with small_machine(num_classes=2):
        ran = {
            "build": build(folder, "ego4d-egodistill"),
            "build by video": build(folder, "ego4d-by-video"),
            "check": egoctl("manifest", "check", manifest),
            "plan": egoctl("extract-teacher", manifest, *stores, *SMALL_STORES, "--plan"),
            "extract": egoctl("extract-teacher", manifest, *stores, *SMALL_STORES),
            "extract by video": egoctl(
                "extract-teacher", folder / "ego4d-by-video.parquet", *stores, *SMALL_STORES
            ),
            "pretrain": egoctl(
                *("pretrain-imu", manifest, *stores, "--run", folder / "runs" / "imu"),
                *("--epochs", "1", "--batch-size", "4", "--image-weights", "random"),
                *("--device", "cpu"),
            ),
            "train": egoctl(
                *("train-student", manifest, *stores, "--run", student, "--method", "egodistill"),
                *("--pretrain", folder / "runs" / "imu", "--schedule", "ego4d", *SMALL_STUDENT),
            ),
            "evaluate": egoctl("evaluate", student),
        }
        yield Job(folder=folder, ran=ran)


def test_actions_that_are_left_out_are_counted_by_reason(papers: Job) -> None:
    ran = papers.ran["build"]

    assert ran.code == 0
    assert "18 segments of 9 videos, 2 classes, splits: train 12, test 6" in ran.said
    assert [line for line in ran.said.splitlines() if line.startswith("left out")] == [
        "left out: 1 actions: rejected by the annotator",
        "left out: 1 actions: invalid annotation",
        "left out: 1 actions: no structured_verb",
        "left out: 1 actions: no pre_frame or post_frame",
        "left out: 1 actions: post_frame not after pre_frame",
        "left out: 1 actions: post_frame after the end of the video",
        "left out: 1 actions: stands in the file already",
        "left out: 1 actions: video without IMU",
        "left out: 1 actions: verb with fewer than 2 segments",
    ]


def test_the_build_says_what_is_not_downloaded_and_what_the_split_means(papers: Job) -> None:
    said = papers.ran["build"].said.replace(str(papers.folder), "")

    assert "note: 1 of 9 videos are not in /ego4d/v2/full_scale yet." in said
    assert "note: 1 IMU files that ego4d.json promises are not in /ego4d/v2/imu yet." in said
    assert "of 9 videos have segments in train and in test: accuracy here is that of" in said
    assert "EgoDistill (arXiv:2301.02217) has 8,500" in said
    assert (
        "note: no video is in both train (6 videos) and test (3 videos)."
        in papers.ran["build by video"].said
    )


@pytest.mark.parametrize(
    ("recipe", "num_on_both_sides"), [("ego4d-egodistill", 2), ("ego4d-by-video", 0)]
)
def test_the_split_rules_hold(papers: Job, recipe: str, num_on_both_sides: int) -> None:
    segments = read_manifest(papers.folder / f"{recipe}.parquet").segments

    sides = {
        split: {segment.video_id for segment in segments if segment.split == split}
        for split in ("train", "test")
    }
    assert len(sides["train"] & sides["test"]) == num_on_both_sides
    assert sides["train"] | sides["test"] == set(UIDS)
    of_class = Counter((s.label, s.split) for s in segments)
    assert of_class == {(0, "train"): 6, (0, "test"): 3, (1, "train"): 6, (1, "test"): 3}


def test_the_check_names_every_fault_of_the_files(papers: Job) -> None:
    ran = papers.ran["check"]

    assert ran.code == 1
    names = [line.split(":")[:2] for line in ran.said.splitlines() if re.match("  [a-z]+-", line)]
    assert names == [
        ["  gap-late", " imu_low_coverage"],
        ["  twice-early", " imu_duplicate_axes"],
        ["  twice-late", " imu_duplicate_axes"],
        ["  still-early", " imu_missing"],
        ["  still-late", " imu_missing"],
        ["  cut-late", " video_truncated"],
        ["  absent-early", " video_missing"],
        ["  absent-late", " video_missing"],
    ]
    assert "s1.csv (Ego4D; 1 rows without a canonical time, 1 rows earlier than the row" in ran.said
    assert "no accelerometer: none of its 1200 rows has usable values" in ran.said


def test_extraction_stores_the_same_faults_as_outcomes(papers: Job) -> None:
    assert "18 clips in 3 parts are left to do." in papers.ran["plan"].said
    assert papers.ran["extract"].code == 1

    assert {
        clip_id.partition("@")[0]: (one.outcome, one.imu_outcome)
        for clip_id, one in stored(f"{papers.folder}/inputs.store").items()
        if (one.outcome, one.imu_outcome) != ("ok", "ok")
    } == {
        "gap-late": ("ok", "imu_low_coverage"),
        "twice-early": ("ok", "imu_duplicate_axes"),
        "twice-late": ("ok", "imu_duplicate_axes"),
        "still-early": ("ok", "imu_missing"),
        "still-late": ("ok", "imu_missing"),
        "cut-late": ("video_truncated", "ok"),
        "absent-early": ("video_missing", "imu_missing"),
        "absent-late": ("video_missing", "imu_missing"),
    }


def test_the_other_split_of_the_same_actions_needs_no_second_extraction(papers: Job) -> None:
    assert "18 of 18 clips were stored already." in papers.ran["extract by video"].said


def test_training_begins_with_the_pretrained_imu_encoder_and_says_what_it_goes_without(
    papers: Job,
) -> None:
    # Of the 12 train segments: absent-early and -late, gap-late, still-late, cut-late.
    assert papers.ran["pretrain"].code == 0
    assert papers.ran["train"].code == 0
    assert "2 epochs on 7 clips of 7 segments." in papers.ran["train"].said
    assert (
        "Left out, train clips: inputs: video_missing 2, IMU: imu_low_coverage 1, "
        "IMU: imu_missing 1, inputs: video_truncated 1." in papers.ran["train"].said
    )
    config = json.loads((papers.run("student") / "config.json").read_text())["train"]
    assert (config["pretrain"], config["loss"]["tau"]) == (str(papers.run("imu")), 10.0)


def test_the_counts_of_the_evaluation_add_up(papers: Job) -> None:
    metrics = metrics_in(papers.run("student"))

    assert metrics["num_segments"] == 6
    assert (metrics["num_scored"], metrics["num_clips"]) == (3, 3)
    assert metrics["left_out"] == {"IMU: imu_duplicate_axes": 2, "IMU: imu_missing": 1}
    assert metrics["clips_left_out"] == metrics["left_out"]
    assert {one["name"]: one["num_segments"] for one in metrics["per_class"]} == {CUT: 2, PUT: 1}
    assert predicted_in(papers.run("student")) == ["s3-early", "s4-early", "s4-late"]
    # This teacher's weights tell nothing, and nobody said --trained-on.
    assert metrics["teacher_memory"] is None
    assert "What the teacher was fitted to is unknown" in papers.ran["evaluate"].said
