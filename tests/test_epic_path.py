"""EPIC-KITCHENS-100 through the commands: from its files to accuracies and a challenge's zip.

Annotations, folders and the faults of the IMU files are the dataset's; the videos are drawn.
"""

import csv
import json
import os
import zipfile
from pathlib import Path
from shutil import copyfile
from typing import Any

import pytest

from egoctl.pipeline import finetune
from egoctl.pipeline.errors import EgoctlError
from egoctl.pipeline.manifest import read_manifest
from egoctl.pipeline.store import FeatureStore
from egoctl.pipeline.teachers import lineup
from egoctl.tests.drawn_video import cut_file
from egoctl.tests.epic_world import row, unlabelled, write_pair, write_rows, write_video_info
from egoctl.tests.extract_world import draw_colours, stored
from egoctl.tests.whole_path import (
    SMALL_STORES,
    SMALL_STUDENT,
    Job,
    Ran,
    egoctl,
    metrics_in,
    predicted_in,
    small_machine,
)

ROOT = Path(__file__).resolve().parents[1]
RECIPES = ROOT / "manifests"
EPIC100 = Path(os.environ.get("EGOCTL_TEST_DATA", ROOT.parent / "shared" / "data")) / "epic100"
VIDEO_S = 7.0
CLIPS_OF_PAPER = ("P01", "P02", "P30", "P35", "P37")
EARLY, LATE = ("00:00:00.50", "00:00:03.00"), ("00:00:04.00", "00:00:06.50")


def imu(folder: Path, video_id: str, **changes: Any) -> None:
    """Sound files of a stream that ends a second before its video, but for what is changed."""
    sound: dict[str, Any] = {"accel_per_s": [198] * 6, "gyro_per_s": [198] * 6}
    write_pair(kitchen(folder, video_id, "meta_data"), video_id, **sound | changes)


def kitchen(folder: Path, video_id: str, kind: str) -> Path:
    return folder / "data" / "EPIC-KITCHENS" / video_id[:3] / kind


def film(folder: Path, video_id: str) -> Path:
    return draw_colours(
        kitchen(folder, video_id, "videos") / f"{video_id}.MP4",
        seconds=VIDEO_S,
        # Other pictures than those of other videos.
        first=7 * sum(map(ord, video_id)) % 800,
    )


def write_kitchens(folder: Path) -> None:
    """Annotations of all three official splits, videos, and IMU files with the known faults."""
    annotations = folder / "annotations"
    write_rows(
        annotations / "EPIC_100_train.csv",
        [
            row("P01_101_0", *EARLY, verb_class=0, noun_class=1),
            row("P01_101_1", *LATE, verb_class=1, noun_class=2),
            row("P02_104_0", *EARLY, verb_class=0, noun_class=1),
            row("P02_104_1", *LATE, verb_class=1, noun_class=2),
            row("P02_104_2", "00:00:00.20", "00:00:01.30", verb_class=3, noun_class=8),
            row("P03_110_0", *EARLY, verb_class=0, noun_class=1),
            row("P04_108_0", *EARLY, verb_class=0, noun_class=1),
            row("P05_02_0", *EARLY, verb_class=1, noun_class=2),
            row("P30_101_0", *EARLY, verb_class=0, noun_class=1),
            row("P30_05_0", *EARLY, verb_class=0, noun_class=1),
            row("P35_105_0", *EARLY, verb_class=1, noun_class=2),
            row("P35_105_1", *LATE, verb_class=0, noun_class=1),
            row("P37_103_0", *EARLY, verb_class=1, noun_class=2),
            row("P37_103_1", *LATE, verb_class=0, noun_class=1),
        ],
    )
    write_rows(
        annotations / "EPIC_100_validation.csv",
        [
            row("P18_05_0", *EARLY, verb_class=0, noun_class=1),
            row("P18_05_1", *LATE, verb_class=1, noun_class=2),
        ],
    )
    write_rows(
        annotations / "EPIC_100_test_timestamps.csv",
        [
            unlabelled(row("P06_102_0", *EARLY)),
            unlabelled(row("P06_102_1", *LATE)),
            unlabelled(row("P07_09_0", *EARLY)),
        ],
    )
    write_rows(annotations / "EPIC_100_tail_verbs.csv", [{"verb": 1}])
    write_rows(annotations / "EPIC_100_tail_nouns.csv", [{"noun": 2}])
    write_rows(
        annotations / "EPIC_100_unseen_participant_ids_validation.csv", [{"participant_id": "P18"}]
    )
    filmed = (
        "P01_101", "P02_104", "P03_110", "P05_02", "P30_101", "P30_05", "P35_105", "P37_103",
        "P18_05", "P06_102", "P07_09",
    )  # fmt: skip
    write_video_info(annotations, **dict.fromkeys((*filmed, "P04_108"), (VIDEO_S, 30.0)))
    for video_id in filmed:
        film(folder, video_id)
    broken = kitchen(folder, "P37_103", "videos") / "P37_103.MP4"
    cut_file(broken, broken, at_packet=150)
    imu(folder, "P01_101", spacing_ms=1000 / 225)
    imu(folder, "P02_104", gyro_per_s=[198] * 4)
    imu(folder, "P04_108")
    imu(folder, "P30_101")
    imu(folder, "P35_105", accel_per_s=[198] * 4 + [0] + [198])
    imu(folder, "P37_103")
    imu(folder, "P06_102", gyro_per_s=[198] * 4)


def build(folder: Path, name: str, recipe: str, *more: str) -> Ran:
    return egoctl(
        *("manifest", "build", "epic-kitchens", "--annotations", folder / "annotations"),
        *("--data", folder / "data", "--recipe", RECIPES / f"{recipe}.toml"),
        *("--stride", "0.2", "--out", folder / f"{name}.parquet", *more),
    )


def extract(folder: Path, name: str, *more: str) -> Ran:
    return egoctl(
        *("extract-teacher", folder / f"{name}.parquet", "--store", folder / "teacher.store"),
        *("--inputs", folder / "inputs.store", *SMALL_STORES, *more),
    )


def train(folder: Path, name: str, run: str, method: str, *more: str) -> Ran:
    return egoctl(
        *("train-student", folder / f"{name}.parquet", "--store", folder / "teacher.store"),
        *("--inputs", folder / "inputs.store", "--run", folder / "runs" / run),
        *("--method", method, *SMALL_STUDENT, *more),
    )


@pytest.fixture(scope="module")
def papers(tmp_path_factory: pytest.TempPathFactory) -> Job:
    """The paper's division, from the files to an evaluation."""
    folder = tmp_path_factory.mktemp("epic")
    write_kitchens(folder)
    with small_machine(num_classes=97):
        ran = {
            "build": build(folder, "epic", "epic-kitchens-egodistill"),
            "build official": build(folder, "official", "epic-kitchens-official"),
            "check": egoctl("manifest", "check", folder / "epic.parquet"),
            "extract": extract(folder, "epic", "--trained-on", f"{folder}/official.parquet#train"),
            "train": train(folder, "epic", "student", "egodistill"),
            "evaluate": egoctl("evaluate", folder / "runs" / "student"),
        }
    return Job(folder=folder, ran=ran)


@pytest.fixture(scope="module")
def challenge(papers: Job) -> Job:
    """The official splits in the same stores: students of verbs and nouns, and their zip."""
    folder = papers.folder
    with small_machine(num_classes=97):
        ran = {
            "extract": extract(folder, "official"),
            "build nouns": build(folder, "nouns", "epic-kitchens-official", "--label", "noun"),
            "train verbs": train(folder, "official", "verbs", "egodistill"),
            "train blind verbs": train(folder, "official", "blind", "visonly-distill"),
            "train nouns": train(folder, "nouns", "nouns", "visonly-distill", "--alpha", "0"),
        }
        for run, split in (
            ("verbs", "test"), ("nouns", "test"), ("blind", "val"), ("nouns", "val"),
        ):  # fmt: skip
            ran[f"evaluate {run} {split}"] = egoctl(
                "evaluate", folder / "runs" / run, "--split", split
            )
        ran["submit test"] = submit(folder, "verbs", "test")
        ran["submit val"] = submit(folder, "blind", "val", "--annotations", f"{folder}/annotations")
    return Job(folder=folder, ran=ran)


def submit(folder: Path, verbs: str, split: str, *more: str) -> Ran:
    return egoctl(
        *("submission", "epic", folder / "runs" / verbs, folder / "runs" / "nouns"),
        *("--out", folder / f"{split}.zip", "--split", split),
        *("--sls-pt", "2", "--sls-tl", "3", "--sls-td", "3", *more),
    )


def zipped(path: Path) -> dict[str, dict[str, dict[str, float]]]:
    """The results of a submission."""
    with zipfile.ZipFile(path) as file:
        results: dict[str, dict[str, dict[str, float]]] = json.loads(file.read("test.json"))[
            "results"
        ]
    return results


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
        "The teacher was fitted to none of these 3 segments, as far as video ids tell."
        in clean.ran["evaluate"].said
    )


def test_a_split_that_the_teacher_cannot_learn_from_is_named(clean: Job, tmp_path: Path) -> None:
    with pytest.raises(EgoctlError, match=r"no labelled segment in split 'teacher-trian'; its"):
        egoctl(
            *("finetune-teacher", clean.folder / "clean.parquet", "--teacher", "x3d_xs"),
            *("--run", tmp_path / "run", "--train-split", "train,teacher-trian"),
        )


# --- the official division and the challenge ---------------------------------------------------


def test_the_official_splits_go_into_the_stores_that_the_papers_clips_are_in(
    challenge: Job,
) -> None:
    said = challenge.ran["extract"].said

    assert "19 of 35 clips were stored already." in said
    assert "16 clips in 2 parts" in said


def test_a_test_split_without_labels_is_predicted_and_not_scored(challenge: Job) -> None:
    metrics = metrics_in(challenge.run("verbs"))

    assert (metrics["num_segments"], metrics["num_scored"]) == (3, 0)
    assert (metrics["top1"], metrics["teacher_top1"]) == (None, None)
    assert predicted_in(challenge.run("verbs")) == ["P06_102_0"]
    assert predicted_in(challenge.run("nouns")) == ["P06_102_0", "P06_102_1", "P07_09_0"]


def test_a_submission_has_every_test_segment_and_says_which_have_no_prediction(
    challenge: Job,
) -> None:
    ran = challenge.ran["submit test"]

    results = zipped(challenge.folder / "test.zip")
    assert list(results) == ["P06_102_0", "P06_102_1", "P07_09_0"]
    for scores in results.values():
        assert (len(scores["verb"]), len(scores["noun"])) == (97, 300)
    is_told = {name: len(set(scores["verb"].values())) > 1 for name, scores in results.items()}
    assert is_told == {"P06_102_0": True, "P06_102_1": False, "P07_09_0": False}
    assert ran.code == 1
    assert "all classes score the same: 2 segments (P06_102_1, P07_09_0)." in ran.said


def test_a_submission_of_the_validation_split_tells_the_official_accuracies(
    challenge: Job,
) -> None:
    ran = challenge.ran["submit val"]

    assert ran.code == 0
    assert list(zipped(challenge.folder / "val.zip")) == ["P18_05_0", "P18_05_1"]
    for name in (
        "all_action_accuracy_at_1",
        "unseen_verb_accuracy_at_1",
        "tail_noun_accuracy_at_1",
    ):
        assert name in ran.said


def test_a_student_that_needs_imu_cannot_be_judged_where_there_is_none(challenge: Job) -> None:
    with pytest.raises(EgoctlError, match=r"split 'val' has no usable clip .*IMU: imu_none': 4"):
        egoctl("evaluate", challenge.run("verbs"), "--split", "val")


# --- the published files -----------------------------------------------------------------------


@pytest.mark.skipif(not EPIC100.is_dir(), reason=f"no EPIC-KITCHENS-100 annotations in {EPIC100}")
def test_published_rows_go_all_the_way_to_the_official_accuracies(tmp_path: Path) -> None:
    # The training file is not there: one of two validation videos takes its place.
    annotations = tmp_path / "annotations"
    with (EPIC100 / "EPIC_100_validation.csv").open(newline="") as file:
        rows = [one for one in csv.DictReader(file) if one["stop_timestamp"] < "00:00:12"]
    for name, video_id in (("train", "P02_15"), ("validation", "P11_18")):
        write_rows(
            annotations / f"EPIC_100_{name}.csv", [r for r in rows if r["video_id"] == video_id]
        )
        draw_colours(kitchen(tmp_path, video_id, "videos") / f"{video_id}.MP4", seconds=12)
    for name in ("video_info", "verb_classes", "noun_classes"):
        copyfile(EPIC100 / f"EPIC_100_{name}.csv", annotations / f"EPIC_100_{name}.csv")

    with small_machine(num_classes=97):
        built = build(tmp_path, "official", "epic-kitchens-official")
        build(tmp_path, "nouns", "epic-kitchens-official", "--label", "noun")
        extract(tmp_path, "official")
        train(tmp_path, "official", "blind", "visonly-distill")
        train(tmp_path, "nouns", "nouns", "visonly-distill", "--alpha", "0")
        for run in ("blind", "nouns"):
            egoctl("evaluate", tmp_path / "runs" / run, "--split", "val")
        submitted = submit(tmp_path, "blind", "val", "--annotations", str(EPIC100))

    assert built.code == 0
    assert "17 segments of 2 videos, 97 classes, splits: train 9, val 8" in built.said
    classes = metrics_in(tmp_path / "runs" / "blind", "metrics-val.json")["per_class"]
    assert {one["name"]: one["num_segments"] for one in classes} == {
        "take": 3, "put": 2, "open": 2, "close": 1,
    }  # fmt: skip
    assert list(zipped(tmp_path / "val.zip")) == [f"P11_18_{number}" for number in range(8)]
    assert "all_action_accuracy_at_5" in submitted.said
    assert submitted.code == 0
