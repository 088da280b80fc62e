"""EPIC-KITCHENS-100 through the commands: the paper's division, and one with a clean teacher."""

from pathlib import Path

import pytest

from egoctl.pipeline.errors import EgoctlError
from egoctl.pipeline.finetuning import finetune
from egoctl.pipeline.manifest import read_manifest
from egoctl.pipeline.store import FeatureStore
from egoctl.pipeline.teachers import lineup
from egoctl.tests.worlds.epic_jobs import build
from egoctl.tests.worlds.extract_world import stored
from egoctl.tests.worlds.whole_path import (
    SMALL_STORES,
    SMALL_STUDENT,
    Job,
    egoctl,
    metrics_in,
    predicted_in,
    small_machine,
)

pytest_plugins = ["egoctl.tests.worlds.epic_jobs"]
CLIPS_OF_PAPER = ("P01", "P02", "P30", "P35", "P37")


# --- the paper's division ----------------------------------------------------------------------


def test_the_paper_judges_on_three_participants_and_the_build_says_what_that_means(
    papers: Job,
) -> None:
    ran = papers.ran["build"]

    segments = read_manifest(papers.folder / "epic.parquet").segments
    assert {segment.segment_id: segment.split for segment in segments} == {
        "P01_101_0": "train", "P01_101_1": "train",
        "P02_104_0": "train", "P02_104_1": "train", "P02_104_2": "train",
        "P30_101_0": "test", "P35_105_0": "test", "P35_105_1": "test",
        "P37_103_0": "test", "P37_103_1": "test",
    }  # fmt: skip
    assert ran.code == 1
    assert (
        "note: this evaluation set (P30, P35, P37) lies inside the official training split, on "
        "which the released EPIC-KITCHENS teachers were trained" in ran.said
    )
    assert "EgoDistill (arXiv:2301.02217) has 29,000" in ran.said


def test_segments_without_a_video_or_without_imu_files_are_named_by_the_build(
    papers: Job,
) -> None:
    said = papers.ran["build"].said.replace(str(papers.folder), "")

    assert "left out: 1 segments of 1 videos have no video file in /data: P04_108." in said
    assert (
        "left out: 1 segments of 1 videos have no -accl.csv and -gyro.csv in /data: P03_110."
        in said
    )


def test_the_check_names_every_fault_of_the_files(papers: Job) -> None:
    ran = papers.ran["check"]

    assert ran.code == 1
    assert [line.split(":")[:2] for line in ran.said.splitlines() if line.startswith("  P")] == [
        ["  P01_101_1", " imu_low_coverage"],
        ["  P02_104_1", " imu_low_coverage"],
        ["  P35_105_1", " imu_low_coverage"],
        ["  P37_103_1", " video_truncated"],
    ]
    # The crowded stamps of P01_101 are put right: its rate is the sensor's, not 225 Hz.
    (crowded,) = [line.split() for line in ran.said.splitlines() if line.startswith("P01_101 ")]
    assert (crowded[5], crowded[6], crowded[-1]) == ("198.0", "198.0", "ok")
    assert "it ends at 5.99 s" in ran.said
    assert "it has a gap of 1.01 s at 3.99 s" in ran.said
    assert "its data end at 5.00 s of the 7.00 s its header promises" in ran.said


def test_extraction_stores_the_same_faults_as_outcomes_clip_by_clip(papers: Job) -> None:
    assert papers.ran["extract"].code == 1

    outcomes = {
        clip_id: (one.outcome, one.imu_outcome)
        for clip_id, one in stored(f"{papers.folder}/inputs.store").items()
        if (one.outcome, one.imu_outcome) != ("ok", "ok") and clip_id[:3] in CLIPS_OF_PAPER
    }
    assert outcomes == {
        "P01_101_1@4.200-6.333": ("ok", "imu_low_coverage"),
        "P02_104_1@4.000-6.133": ("ok", "imu_low_coverage"),
        "P02_104_1@4.200-6.333": ("ok", "imu_low_coverage"),
        "P35_105_1@4.000-6.133": ("ok", "imu_low_coverage"),
        "P35_105_1@4.200-6.333": ("ok", "imu_low_coverage"),
        "P37_103_1@4.000-6.133": ("video_truncated", "ok"),
        "P37_103_1@4.200-6.333": ("video_truncated", "imu_low_coverage"),
    }
    assert "imu_low_coverage: 6, such as" in papers.ran["extract"].said
    assert "video_truncated: 2, such as" in papers.ran["extract"].said


def test_training_says_which_clips_it_goes_without(papers: Job) -> None:
    ran = papers.ran["train"]

    assert ran.code == 0
    assert "student: 2 epochs on 6 clips of 4 segments." in ran.said
    assert "Left out, train clips: IMU: imu_low_coverage 3." in ran.said


def test_the_counts_of_the_evaluation_add_up(papers: Job) -> None:
    metrics = metrics_in(papers.run("student"))

    assert metrics["num_segments"] == 5
    assert metrics["num_scored"] == 3
    assert metrics["left_out"] == {"IMU: imu_low_coverage": 1, "inputs: video_truncated": 1}
    # Five segments of two clips each.
    assert metrics["num_clips"] == 6
    assert metrics["clips_left_out"] == {"IMU: imu_low_coverage": 2, "inputs: video_truncated": 2}
    assert sum(one["num_segments"] for one in metrics["per_class"]) == 3
    assert predicted_in(papers.run("student")) == ["P30_101_0", "P35_105_0", "P37_103_0"]


def test_an_evaluation_on_what_the_teacher_learnt_from_says_so(papers: Job) -> None:
    header = FeatureStore.open(f"{papers.folder}/teacher.store").header

    # Thirteen segments of the official training split have a video here.
    assert header.trained_on is not None and header.trained_on.num_segments == 13
    assert metrics_in(papers.run("student"))["teacher_memory"]["num_seen"] == 3
    assert (
        "The teacher was fitted to 3 of these 3 segments (100.0 %): its accuracy there, and what "
        "students learn of it, is partly memory." in papers.ran["evaluate"].said
    )


# --- the clean division ------------------------------------------------------------------------


@pytest.fixture(scope="module")
def clean(papers: Job) -> Job:
    """A teacher that never saw who evaluates, its targets of the paper's clips, and a student."""
    folder = papers.folder
    with small_machine(num_classes=97), pytest.MonkeyPatch.context() as patch:
        # A network instead of frame means, as it is to be fitted.
        patch.setattr(lineup, "load_teacher", finetune.load_teacher)
        manifest, store = folder / "epic.parquet", folder / "clean.store"
        inputs, run = folder / "inputs.store", folder / "runs" / "clean"
        ran = {
            "build": build(
                folder, "clean", "epic-kitchens-egodistill", "--split", "egodistill-clean"
            ),
            "finetune": egoctl(
                *("finetune-teacher", folder / "clean.parquet", "--teacher", "x3d_xs"),
                *(
                    "--weights",
                    "random:0",
                    "--head-only",
                    "--run",
                    folder / "runs" / "teacher",
                    "--epochs",
                    "1",
                ),
                *("--train-split", "train,teacher-train", "--batch-size", "4", "--workers", "1"),
                *("--device", "cpu"),
            ),
            "extract": egoctl(
                *("extract-teacher", manifest, "--store", store, *SMALL_STORES[2:]),
                *("--teacher", "x3d_xs"),
                *("--weights", folder / "runs" / "teacher" / "teacher.safetensors"),
            ),
            "train": egoctl(
                *("train-student", manifest, "--store", store, "--inputs", inputs),
                *("--run", run, "--method", "egodistill", *SMALL_STUDENT),
            ),
            "evaluate": egoctl("evaluate", run),
        }
    return Job(folder=folder, ran=ran)


def test_the_clean_division_has_footage_for_the_teacher_of_nobody_who_evaluates(
    clean: Job,
) -> None:
    segments = read_manifest(clean.folder / "clean.parquet").segments

    of_split = {
        split: {segment.segment_id[:3] for segment in segments if segment.split == split}
        for split in ("train", "teacher-train", "test")
    }
    assert of_split == {
        "train": {"P01", "P02"},
        "teacher-train": {"P03", "P05"},
        "test": {"P30", "P35", "P37"},
    }
    said = clean.ran["build"].said
    assert "released EPIC-KITCHENS teachers were trained on this evaluation set" in said


def test_a_teacher_is_fitted_to_both_splits_and_a_student_of_it_is_judged_on_new_footage(
    clean: Job,
) -> None:
    assert clean.ran["finetune"].code == 0
    header = FeatureStore.open(f"{clean.folder}/clean.store").header
    # Five segments of train, and those of P03 and P05.
    assert header.trained_on is not None and header.trained_on.num_segments == 7
    assert set(header.trained_on.spans_s) == {"P01_101", "P02_104", "P03_110", "P05_02"}
    assert (
        "The teacher was fitted to none of these 3 segments, as far as video ids show."
        in clean.ran["evaluate"].said
    )


def test_a_split_that_the_teacher_cannot_learn_from_is_named(clean: Job, tmp_path: Path) -> None:
    with pytest.raises(EgoctlError, match=r"no split 'teacher-trian'; it has"):
        egoctl(
            *("finetune-teacher", clean.folder / "clean.parquet", "--teacher", "x3d_xs"),
            *("--run", tmp_path / "run", "--train-split", "train,teacher-trian"),
        )
