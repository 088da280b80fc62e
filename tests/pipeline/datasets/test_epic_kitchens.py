"""EPIC-KITCHENS-100: rows, files and times become segments, and what they hide is said."""

from pathlib import Path

import pytest
from typer.testing import CliRunner

from egoctl.cli import app
from egoctl.pipeline.datasets.dataset_recipe import read_recipe
from egoctl.pipeline.datasets.epic.annotations import is_extension
from egoctl.pipeline.datasets.epic.kitchens import epic_source
from egoctl.pipeline.manifest import read_manifest
from egoctl.pipeline.records import Segment
from egoctl.tests.worlds.epic_builds import build, refusal, splits, write_train
from egoctl.tests.worlds.epic_world import row, write_rows, write_video_info
from egoctl.tests.worlds.places import MANIFESTS

pytest_plugins = ["egoctl.tests.worlds.epic_builds"]


# --- rows --------------------------------------------------------------------------------------


def test_a_row_becomes_a_segment_in_the_seconds_of_its_timestamps(kitchen: Path) -> None:
    write_train(
        kitchen,
        row("P01_101_3", "01:02:18.98", "01:02:20.07", narration="turn on tap", verb_class=6),
    )

    found = build(kitchen, participants=("P01",)).manifest

    assert found.segments[0] == Segment(
        segment_id="P01_101_3", video_id="P01_101",
        video_path="data/EPIC-KITCHENS/P01/videos/P01_101.MP4",
        imu_path="data/EPIC-KITCHENS/P01/meta_data/P01_101-accl.csv",
        participant_id="P01", start_s=3738.98, stop_s=3740.07, label=6, split="train",
        verb_class=6, noun_class=8, narration="turn on tap",
    )  # fmt: skip
    assert (found.dataset_name, found.window_s, found.stride_s) == (
        "EPIC-KITCHENS-100", 64 / 30, None,
    )  # fmt: skip


def test_the_test_split_has_times_and_no_labels(kitchen: Path) -> None:
    segment = next(s for s in build(kitchen).manifest.segments if s.split == "test")

    assert (segment.segment_id, segment.start_s, segment.stop_s) == ("P01_107_0", 1.0, 3.5)
    assert (segment.label, segment.verb_class, segment.noun_class) == (None, None, None)
    assert segment.narration is None


@pytest.mark.parametrize(
    ("video_id", "is_new"), [("P01_101", True), ("P01_11", False), ("P01_1011", False)]
)
def test_three_digits_tell_an_extension_video(video_id: str, is_new: bool) -> None:
    assert is_extension(video_id) == is_new


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"start_timestamp": "1.5"}, "line 2: start_timestamp must be HH:MM:SS.ff, got '1.5'"),
        ({"stop_timestamp": "00:00:61.00"}, "line 2: stop_timestamp must be HH:MM:SS.ff"),
        ({"stop_timestamp": "00:00:01.00"}, "line 2: P01_01_0 stops at 00:00:01.00, not after"),
        ({"verb_class": 97}, "line 2: verb_class must be a whole number, 0 to 96, got '97'"),
        ({"noun_class": "[8]"}, "line 2: noun_class must be a whole number, 0 to 299"),
        ({"start_frame": "-1"}, "line 2: start_frame must be a whole number, 0 or more, got '-1'"),
    ],
)
def test_a_row_that_cannot_be_used_is_refused_with_its_line(
    kitchen: Path, changes: dict[str, object], reason: str
) -> None:
    write_train(kitchen, row("P01_01_0") | changes)

    assert refusal(kitchen).startswith(f"annotations/EPIC_100_train.csv, {reason}")


def test_a_file_of_other_columns_and_a_row_cut_short_are_refused(kitchen: Path) -> None:
    train = kitchen / "annotations" / "EPIC_100_train.csv"
    lines = train.read_text().splitlines()
    train.write_text("\n".join([lines[0], lines[1][:40]]))
    assert "EPIC_100_train.csv, line 2: wanted 15 cells" in refusal(kitchen)

    train.write_text("uid,video\n1,P01_01\n")
    assert "line 1: no column narration_id, participant_id, video_id" in refusal(kitchen)


def test_absent_files_are_named_with_what_cannot_be_had(kitchen: Path) -> None:
    (kitchen / "annotations" / "EPIC_100_test_timestamps.csv").unlink()

    found = build(kitchen)

    where = kitchen / "annotations"
    assert found.notes[:4] == (
        f"EPIC_100_test_timestamps.csv is not in {where}: no segment of the official test split.",
        f"EPIC_100_video_info.csv is not in {where}: ends of videos and frame columns are not "
        "checked.",
        f"EPIC_100_verb_classes.csv is not in {where}: classes are named 'verb 0' to 'verb 96'.",
        f"EPIC_100_noun_classes.csv is not in {where}: classes are named 'noun 0' to 'noun 299'.",
    )
    assert found.manifest.class_names[:2] == ("verb 0", "verb 1")


def test_a_folder_without_segments_is_refused(tmp_path: Path) -> None:
    (tmp_path / "annotations").mkdir()

    assert "Wanted one of EPIC_100_train.csv, EPIC_100_validation.csv" in refusal(tmp_path)


def test_class_names_must_be_all_97(kitchen: Path) -> None:
    write_rows(
        kitchen / "annotations" / "EPIC_100_verb_classes.csv",
        [{"id": number, "key": f"v{number}"} for number in range(96)],
    )

    assert "wanted 97 classes, each with an id and a key of its own" in refusal(kitchen)


# --- files -------------------------------------------------------------------------------------


def test_a_flat_folder_will_do(kitchen: Path) -> None:
    flat = kitchen / "flat"
    flat.mkdir()
    for name in ("P01_101.mp4", "P01_101-accl.csv", "P01_101-gyro.csv", "P01_01.MP4"):
        (flat / name).touch()
    write_train(kitchen, row("P01_101_0"), row("P01_01_0"))

    found = build(kitchen, data=flat)

    assert [(s.video_path, s.imu_path) for s in found.manifest.segments] == [
        ("flat/P01_101.mp4", "flat/P01_101-accl.csv"),
        ("flat/P01_01.MP4", None),
    ]
    assert found.left_out == (
        f"2 segments of 2 videos have no video file in {flat}: P01_107, P01_11.",
    )


def test_a_pair_without_its_gyroscope_is_no_imu(kitchen: Path) -> None:
    (kitchen / "data" / "EPIC-KITCHENS" / "P02" / "meta_data" / "P02_102-gyro.csv").unlink()

    everything, with_imu = build(kitchen), build(kitchen, only_with_imu=True)

    assert "4 of 8 segments have IMU." in everything.notes
    assert everything.left_out == ()
    assert list(splits(with_imu.manifest)) == ["P01_101_0", "P30_101_0", "P30_101_1", "P01_107_0"]
    assert with_imu.left_out == (
        f"1 segments of 1 videos have no -accl.csv and -gyro.csv in {kitchen / 'data'}: P02_102.",
    )


def test_without_any_file_the_refusal_says_what_was_missing(kitchen: Path) -> None:
    (kitchen / "empty").mkdir()

    assert refusal(kitchen, data=kitchen / "empty").startswith(
        "no segment is left. 8 segments of 7 videos have no video file in empty: P01_01, P01_101, "
        "P01_107, P01_11, P02_102 and 2 more."
    )
    assert refusal(kitchen, data=kitchen / "nowhere").startswith("no folder nowhere.")


# --- times and frames --------------------------------------------------------------------------


def test_a_segment_ends_where_its_video_does_and_one_past_the_end_is_left_out(
    kitchen: Path,
) -> None:
    write_train(kitchen, row("P01_01_0"), row("P01_01_1", "00:00:02.00"), row("P01_101_0"))
    write_video_info(kitchen / "annotations", P01_01=(2.0, 60), P01_101=(3.2, 50))

    found = build(kitchen, participants=("P01",))

    assert {s.segment_id: s.stop_s for s in found.manifest.segments} == {
        "P01_01_0": 2.0, "P01_101_0": 3.2, "P01_11_0": 3.5, "P01_107_0": 3.5,
    }  # fmt: skip
    assert "cut at the end of their video: 2 segments (P01_01_0, P01_101_0)." in found.notes
    assert found.left_out == ("begin after the end of their video: 1 segments (P01_01_1).",)


def test_frame_columns_are_compared_and_never_used(kitchen: Path) -> None:
    # 600 s at the published 60 frames a second are 600.6 s at the video's own 59.94.
    late = row("P01_01_0", "00:10:00.00", "00:10:02.00")
    odd = row("P01_01_1", "00:00:10.00", "00:00:12.00", start_frame=0, stop_frame=120)
    write_train(kitchen, row("P01_101_0"), late, odd)
    write_video_info(kitchen / "annotations", P01_01=(900.0, 60000 / 1001), P01_101=(9.0, 50))

    found = build(kitchen)

    assert found.manifest.segments[1].start_s == 600.0
    assert (
        "times come from the timestamps. Read as frames of the videos, start_frame and stop_frame "
        "would move 2 of 3 segments, by up to 10.0 s (P01_01_1): they count the published JPEGs, "
        "60 a second (50 in the extension)."
    ) in found.notes
    assert (
        "the frame columns of P01_01_1 fit their timestamps at no known rate; the timestamps are "
        "used."
    ) in found.notes


# === EPIC-KITCHENS-100: the three divisions, labels and filters; recipes and the command ===


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
