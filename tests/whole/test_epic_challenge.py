"""EPIC-KITCHENS-100's official division through the commands, up to the challenge's zip."""

import csv
import json
import zipfile
from pathlib import Path
from shutil import copyfile

import pytest

from egoctl.pipeline.errors import EgoctlError
from egoctl.tests.worlds.epic_jobs import build, extract, kitchen, train
from egoctl.tests.worlds.epic_world import EPIC100, needs_epic100, write_rows
from egoctl.tests.worlds.extract_world import draw_colours
from egoctl.tests.worlds.whole_path import Job, Ran, egoctl, metrics_in, predicted_in, small_machine

pytest_plugins = ["egoctl.tests.worlds.epic_jobs"]


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


@needs_epic100
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
