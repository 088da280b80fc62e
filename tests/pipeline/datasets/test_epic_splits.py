"""EPIC-KITCHENS-100: the three divisions, labels and filters; recipes and the command."""

from pathlib import Path

import pytest
from typer.testing import CliRunner

from egoctl.cli import app
from egoctl.pipeline.datasets.dataset_recipe import read_recipe
from egoctl.pipeline.datasets.epic.kitchens import epic_source
from egoctl.pipeline.manifest import read_manifest
from egoctl.tests.worlds.epic_builds import build, refusal, splits
from egoctl.tests.worlds.places import MANIFESTS

pytest_plugins = ["egoctl.tests.worlds.epic_builds"]


# --- splits ------------------------------------------------------------------------------------


def test_the_official_split_is_the_three_files(kitchen: Path) -> None:
    assert splits(build(kitchen).manifest) == {
        "P01_01_0": "train", "P01_101_0": "train", "P02_102_0": "train", "P30_01_0": "train",
        "P30_101_0": "train", "P30_101_1": "train", "P01_11_0": "val", "P01_107_0": "test",
    }  # fmt: skip


def test_egodistill_takes_labelled_extension_videos_with_imu_and_p30_evaluates(
    kitchen: Path,
) -> None:
    found = build(kitchen, split_rule="egodistill")

    assert splits(found.manifest) == {
        "P01_101_0": "train", "P02_102_0": "train", "P30_101_0": "test", "P30_101_1": "test",
    }  # fmt: skip
    assert found.notes[-1] == (
        "this evaluation set (P30, P35, P37) lies inside the official training split, on which "
        "the released EPIC-KITCHENS teachers were trained: a teacher's accuracy here is accuracy "
        "on its own training clips. --split egodistill-clean is for a teacher that never saw them."
    )


def test_the_clean_split_gives_a_teacher_everybody_else_and_nothing_of_p30(kitchen: Path) -> None:
    found = build(kitchen, split_rule="egodistill-clean")

    assert splits(found.manifest) == {
        "P01_01_0": "teacher-train", "P01_101_0": "train", "P02_102_0": "train",
        "P30_101_0": "test", "P30_101_1": "test",
    }  # fmt: skip
    assert "Fine-tune a teacher on the splits train and teacher-train" in found.notes[-1]


def test_a_video_that_lost_its_imu_trains_the_teacher_alone_and_is_named(kitchen: Path) -> None:
    (kitchen / "data" / "EPIC-KITCHENS" / "P02" / "meta_data" / "P02_102-gyro.csv").unlink()

    paper = build(kitchen, split_rule="egodistill")
    clean = build(kitchen, split_rule="egodistill-clean")

    assert "P02_102_0" not in splits(paper.manifest)
    assert splits(clean.manifest)["P02_102_0"] == "teacher-train"
    expected = f"1 segments of 1 videos have no -accl.csv and -gyro.csv in {kitchen / 'data'}"
    assert paper.left_out == clean.left_out == (f"{expected}: P02_102.",)


def test_egodistill_needs_the_training_file(kitchen: Path) -> None:
    (kitchen / "annotations" / "EPIC_100_train.csv").unlink()

    assert refusal(kitchen, split_rule="egodistill") == (
        "--split egodistill divides the official training split; put EPIC_100_train.csv into "
        f"{kitchen / 'annotations'}."
    ).replace(f"{kitchen}/", "")


# --- labels and filters ------------------------------------------------------------------------


def test_labels_are_verbs_nouns_or_the_pairs_that_occur(kitchen: Path) -> None:
    verb, noun, action = (
        build(kitchen, label=label).manifest for label in ("verb", "noun", "action")
    )

    assert [len(found.class_names) for found in (verb, noun, action)] == [97, 300, 3]
    assert [s.label for s in verb.segments] == [3, 0, 3, 3, 3, 3, 3, None]
    assert [s.label for s in noun.segments] == [8, 8, 8, 8, 8, 2, 8, None]
    assert action.class_names == ("verb 0 noun 8", "verb 3 noun 2", "verb 3 noun 8")
    assert [s.label for s in action.segments] == [2, 0, 2, 2, 2, 1, 2, None]


def test_the_numbers_of_actions_do_not_hang_on_the_files_that_are_there(kitchen: Path) -> None:
    some = build(kitchen, label="action", participants=("P30",)).manifest

    assert some.class_names == ("verb 0 noun 8", "verb 3 noun 2", "verb 3 noun 8")
    assert [s.label for s in some.segments] == [2, 2, 1]


def test_classes_may_be_few_and_numbers_stay(kitchen: Path) -> None:
    common = build(kitchen, min_segments=2)
    chosen = build(kitchen, keep_classes=("verb 0",))

    assert [s.label for s in common.manifest.segments] == [3, 3, 3, 3, 3, 3, None]
    assert "1 segments of 1 classes left out by --classes and --min-segments." in common.notes
    assert [s.label for s in chosen.manifest.segments] == [0, None]
    assert len(chosen.manifest.class_names) == 97
    assert "1 of 97 verb classes occur." in chosen.notes


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"label": "verbs"}, "--label 'verbs' is not known; choose verb, noun, action."),
        (
            {"split_rule": "random"},
            "--split 'random' is not known; choose official, egodistill, egodistill-clean",
        ),
        ({"min_segments": 0}, "--min-segments must be 1 or more, got 0."),
        ({"participants": ("P01", "P99")}, "--participants: nobody is called P99."),
        ({"keep_classes": ("opn",)}, "--classes names opn, but no verb is called so."),
    ],
)
def test_a_slip_in_the_options_is_refused(
    kitchen: Path, changes: dict[str, object], reason: str
) -> None:
    assert refusal(kitchen, **changes).startswith(reason)


# --- recipes and the command -------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "split_rule", "counts"),
    [
        ("egodistill", "egodistill", {"train": 29000, "test": 6200}),
        ("official", "official", {"train": 67217, "val": 9668, "test": 13092}),
    ],
)
def test_the_recipes_of_the_repository_can_be_built(
    name: str, split_rule: str, counts: dict[str, int], tmp_path: Path
) -> None:
    recipe = read_recipe(MANIFESTS / f"epic-kitchens-{name}.toml", dataset="epic-kitchens")

    source = epic_source(recipe, annotations=tmp_path, data=tmp_path, label=None, min_segments=3)

    assert (source.label, source.split_rule, source.min_segments) == ("verb", split_rule, 3)
    assert (source.window_s, source.stride_s) == (64 / 30, None)
    assert recipe.expected.splits == counts
    assert sum(counts.values()) == recipe.expected.segments


def test_the_command_writes_the_manifest_and_says_what_differs(kitchen: Path) -> None:
    (kitchen / "data" / "EPIC-KITCHENS" / "P30" / "meta_data" / "P30_101-gyro.csv").unlink()
    out = kitchen / "epic.parquet"

    done = CliRunner().invoke(
        app,
        [
            "manifest", "build", "epic-kitchens", "--annotations", str(kitchen / "annotations"),
            "--data", str(kitchen / "data"), "--out", str(out), "--stride", "0.5",
            "--recipe", str(MANIFESTS / "epic-kitchens-egodistill.toml"),
        ],
    )  # fmt: skip

    assert done.exit_code == 1
    assert "2 segments of 2 videos, 97 classes, splits: train 2" in done.stdout
    assert "note: this evaluation set (P30, P35, P37) lies inside" in done.stdout
    assert "train segments: 2 (-100.0%); EgoDistill (arXiv:2301.02217) has 29,000" in done.stdout
    assert "left out: 2 segments of 1 videos have no -accl.csv and -gyro.csv" in done.stdout
    assert read_manifest(out).stride_s == 0.5
