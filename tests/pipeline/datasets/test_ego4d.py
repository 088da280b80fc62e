"""Ego4D's annotations and downloads become a manifest; what is left out of it is said."""

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from egoctl.pipeline.datasets.dataset_recipe import DatasetBuild
from egoctl.pipeline.datasets.ego4d.hands_objects import Ego4dSource, build_ego4d
from egoctl.pipeline.datasets.health import check_manifest, table_lines
from egoctl.pipeline.datasets.random_split import split_by_group, split_per_class
from egoctl.pipeline.errors import EgoctlError, ManifestError
from egoctl.pipeline.manifest import read_manifest
from egoctl.pipeline.records import Segment
from egoctl.tests.worlds.ego4d_world import (
    CUT,
    PUT,
    Ego4dWorld,
    action,
    build,
    recorded,
    two_verbs,
    write_imu,
)
from egoctl.tests.worlds.extract_world import World, stored
from egoctl.tests.worlds.invoked import run
from egoctl.tests.worlds.places import MANIFESTS


@pytest.fixture
def world(tmp_path: Path) -> Ego4dWorld:
    return two_verbs(tmp_path / "ego4d")


def with_actions(world: Ego4dWorld, *actions: dict[str, Any], **changes: Any) -> DatasetBuild:
    """The build of two sound actions of v1, and these."""
    sound = [action("a", CUT, 300, 366), action("b", CUT, 900, 966)]
    world.annotate({"v1": [*sound, *actions]})
    return build(world, **changes)


def ids(found: DatasetBuild) -> list[str]:
    return [segment.segment_id for segment in found.manifest.segments]


def test_an_action_lasts_from_its_pre_frame_until_its_post_frame_is_gone(
    world: Ego4dWorld,
) -> None:
    found = build(world).manifest

    assert found.segments[0] == Segment(
        segment_id="v1-1", video_id="v1", video_path="ego4d/v2/full_scale/v1.mp4",
        imu_path="ego4d/v2/imu/v1.csv", participant_id="12", start_s=10.0, stop_s=12.233333,
        label=1, split=found.segments[0].split, narration="#C C does v1-1",
    )  # fmt: skip
    assert found.class_names == (CUT, PUT)
    assert [segment.participant_id for segment in found.segments] == ["12"] * 4 + ["unknown"] * 4
    assert found.dataset_name == "Ego4D Hands + Objects"


@pytest.mark.parametrize(("fps", "start_s"), [(30.0, 10.0), (29.97, 10.01001), (None, 10.0)])
def test_frames_are_counted_at_the_videos_own_rate(
    world: Ego4dWorld, fps: float | None, start_s: float
) -> None:
    world.annotate({"v1": [action("a", CUT, 300, 366), action("b", CUT, 300, 366)]}, fps=fps)

    assert build(world).manifest.segments[0].start_s == start_s


# --- what is left out, and said ---


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"is_rejected": True}, "rejected by the annotator"),
        ({"is_invalid_annotation": True}, "invalid annotation"),
        ({"is_valid_action": False}, "no valid action"),
        ({"structured_verb": None}, "no structured_verb"),
        ({"critical_frames": None}, "no pre_frame or post_frame"),
        ({"critical_frames": {"pre_frame": 5}}, "no pre_frame or post_frame"),
        ({"critical_frames": {"pre_frame": None, "post_frame": 9}}, "no pre_frame or post_frame"),
        (
            {"critical_frames": {"pre_frame": 60, "post_frame": 60}},
            "post_frame not after pre_frame",
        ),
        (
            {"critical_frames": {"pre_frame": -1, "post_frame": 60}},
            "post_frame not after pre_frame",
        ),
        (
            {"critical_frames": {"pre_frame": 17900, "post_frame": 18000}},
            "post_frame after the end of the video",
        ),
        ({"uid": "a"}, "stands in the file already"),
        ({"structured_verb": PUT}, "verb with fewer than 2 segments"),
    ],
)
def test_an_action_with_a_fault_is_left_out_and_counted(
    world: Ego4dWorld, changes: dict[str, Any], reason: str
) -> None:
    found = with_actions(world, action("c", CUT, 1500, 1566) | changes)

    assert ids(found) == ["a", "b"]
    assert found.left_out == (f"1 actions: {reason}",)


def test_an_action_with_several_faults_is_counted_once(world: Ego4dWorld) -> None:
    bad = {"is_rejected": True, "structured_verb": None, "critical_frames": None}

    found = with_actions(world, *(action(f"c{number}", CUT, 1, 2, **bad) for number in range(1200)))

    assert found.left_out == ("1,200 actions: rejected by the annotator",)


def test_fields_that_are_not_filled_are_no_fault(world: Ego4dWorld) -> None:
    unfilled = {
        "is_valid_action": None, "is_rejected": None, "is_invalid_annotation": None, "uid": None,
    }  # fmt: skip

    found = with_actions(world, action("c", CUT, 1500, 1566) | unfilled)

    assert ids(found) == ["a", "b", "v1:1500-1566"]
    assert found.left_out == ()


def test_the_last_frame_of_a_video_may_be_an_actions_last(world: Ego4dWorld) -> None:
    found = with_actions(world, action("c", CUT, 17900, 17999))

    assert found.manifest.segments[-1].stop_s == 600.0


def test_videos_without_imu_are_left_out_unless_asked_for(world: Ego4dWorld) -> None:
    with_imu, all_videos = build(world), build(world, only_with_imu=False)

    assert {segment.video_id for segment in with_imu.manifest.segments} == {"v1", "v2"}
    assert with_imu.left_out == ("4 actions: video without IMU",)
    assert all_videos.left_out == ()
    assert {segment.video_id: segment.imu_path for segment in all_videos.manifest.segments} == {
        "v1": "ego4d/v2/imu/v1.csv", "v2": "ego4d/v2/imu/v2.csv", "silent": None,
    }  # fmt: skip


def test_a_verb_that_only_videos_without_imu_show_twice_is_left_out(world: Ego4dWorld) -> None:
    rare = [action(f"r{number}", "knead", 60 * number, 60 * number + 30) for number in (1, 2)]
    world.annotate({"v1": [action("a", CUT, 3, 9), action("b", CUT, 3, 9), rare[0]],
                    "silent": [rare[1]]})  # fmt: skip

    found = build(world)

    assert found.manifest.class_names == (CUT,)
    assert set(found.left_out) == {
        "1 actions: video without IMU", "1 actions: verb with fewer than 2 segments",
    }  # fmt: skip


def test_a_file_of_verbs_fixes_the_labels_and_leaves_out_the_rest(world: Ego4dWorld) -> None:
    found = build(world, class_names=("knead", PUT))

    assert found.manifest.class_names == ("knead", PUT)
    assert {segment.label for segment in found.manifest.segments} == {1}
    assert "4 actions: verb not among the class names" in found.left_out


def test_without_ego4d_json_imu_files_decide_and_what_cannot_be_told_is_said(
    world: Ego4dWorld,
) -> None:
    (world.root / "ego4d.json").unlink()
    write_imu(world.imu / "v2.csv", recorded(seconds=0.1))

    found = build(world)

    assert {segment.video_id for segment in found.manifest.segments} == {"v2"}
    assert {segment.participant_id for segment in found.manifest.segments} == {"unknown"}
    assert found.notes[0] == (
        "there is no ego4d.json: who wore the camera cannot be told, nor whether a video "
        "without a file in imu/ was recorded without IMU or is not downloaded yet."
    )


def test_the_manifest_is_the_same_before_and_after_the_download(world: Ego4dWorld) -> None:
    before = build(world)

    for uid in ("v1", "v2"):
        write_imu(world.imu / f"{uid}.csv", recorded(seconds=0.1))
        world.film(uid, seconds=0.2)
    after = build(world)

    assert before.manifest == after.manifest
    assert before.notes[:2] == (
        f"2 of 2 videos are not in {world.root}/v2/full_scale yet.",
        f"2 IMU files that ego4d.json promises are not in {world.root}/v2/imu yet.",
    )
    assert not any("yet" in note for note in after.notes)


def test_videos_may_be_the_small_ones_or_lie_elsewhere(world: Ego4dWorld, tmp_path: Path) -> None:
    world.film("v1", seconds=0.2, folder="video_540ss")
    (tmp_path / "disk2").mkdir()

    small = build(world, videos="video_540ss").manifest.segments[0]
    elsewhere = build(world, videos=str(tmp_path / "disk2")).manifest.segments[0]

    assert small.video_path == "ego4d/v2/video_540ss/v1.mp4"
    assert elsewhere.video_path == "disk2/v1.mp4"


def test_the_version_folder_itself_may_be_given_and_annotations_lie_elsewhere(
    world: Ego4dWorld, tmp_path: Path
) -> None:
    whole = build(world).manifest
    moved = world.fho_main.rename(tmp_path / "fho_main.json")
    (world.root / "ego4d.json").rename(world.root / "v2" / "ego4d.json")

    source = Ego4dSource(root=world.root / "v2", annotations=moved)

    assert build_ego4d(source, manifest_folder=tmp_path).manifest == whole


# --- refusals ---


def test_a_folder_without_annotations_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ManifestError, match="no .*annotations/fho_main.json. Give the folder of"):
        build(Ego4dWorld(root=tmp_path))


@pytest.mark.parametrize("content", ["", "{", "[]", "{}", '{"videos": [{"video_uid": "v1"}]}'])
def test_a_file_that_is_no_fho_main_is_refused(world: Ego4dWorld, content: str) -> None:
    world.fho_main.write_text(content)

    with pytest.raises(ManifestError, match=r"fho_main.json: (not readable JSON|wanted videos >)"):
        build(world)


@pytest.mark.parametrize("content", ["{", "[]", '{"videos": [{"video_uid": "v1"}]}'])
def test_a_damaged_ego4d_json_is_refused(world: Ego4dWorld, content: str) -> None:
    (world.root / "ego4d.json").write_text(content)

    with pytest.raises(ManifestError, match=r"ego4d.json: .* Download it again"):
        build(world)


def test_where_no_action_is_left_the_reasons_are_told(world: Ego4dWorld) -> None:
    world.annotate({"silent": [action("a", CUT, 3, 9), action("b", None, 3, 9)]})

    with pytest.raises(
        ManifestError, match=r"no action is left. 1 actions: .*; 1 actions: video without IMU"
    ):
        build(world)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"split_rule": "random"}, "split-rule 'random' is not known; choose egodistill, by-video"),
        ({"label": "noun"}, "label 'noun' is not known; choose structured_verb"),
        ({"min_segments": 0}, "--min-segments must be 1 or more, got 0"),
    ],
)
def test_a_wrong_choice_is_refused(world: Ego4dWorld, changes: dict[str, Any], reason: str) -> None:
    with pytest.raises(EgoctlError, match=reason):
        build(world, **changes)


# === Ego4D's divisions, by class and by video; its recipe and command ===


# --- splits ---


def test_of_each_class_seventy_percent_train() -> None:
    sizes = {"a": 2, "b": 3, "c": 10, "d": 1000, "e": 1}
    class_of = {f"{name}{k}": name for name, size in sizes.items() for k in range(size)}

    split = split_per_class(class_of, seed=0)

    train = Counter(class_of[one] for one, side in split.items() if side == "train")
    assert train == {"a": 1, "b": 2, "c": 7, "d": 700, "e": 1}
    assert set(split.values()) == {"train", "test"}


def test_a_split_depends_on_the_seed_and_not_on_the_order_of_the_file() -> None:
    class_of = {f"s{k}": "abc"[k % 3] for k in range(300)}
    backwards = dict(reversed(class_of.items()))

    split = split_per_class(class_of, seed=0)

    assert split_per_class(backwards, seed=0) == split
    moved = sum(split[one] != side for one, side in split_per_class(class_of, seed=1).items())
    assert 90 < moved < 160  # 42 % of 300, if the two are independent


def test_a_split_by_group_divides_no_group_and_is_near_seventy_percent() -> None:
    group_of = {f"v{k % 40}-{k}": f"v{k % 40}" for k in range(1000)}

    split = split_by_group(group_of, seed=3)

    sides = {(group, split[one]) for one, group in group_of.items()}
    assert len(sides) == 40
    assert Counter(split.values()) == {"train": 700, "test": 300}
    assert split_by_group(dict(reversed(group_of.items())), seed=3) == split


@pytest.mark.parametrize(("sizes", "num_train"), [([5], 1), ([5, 5], 1), ([1, 1, 1], 2)])
def test_of_several_groups_both_sides_get_one(sizes: list[int], num_train: int) -> None:
    group_of = {f"{v}-{k}": f"v{v}" for v, size in enumerate(sizes) for k in range(size)}

    split = split_by_group(group_of, seed=0)

    assert len({group_of[one] for one, side in split.items() if side == "train"}) == num_train


def test_the_papers_split_says_that_videos_are_on_both_sides(world: Ego4dWorld) -> None:
    found = build(world)

    assert Counter((one.label, one.split) for one in found.manifest.segments) == {
        (0, "train"): 3, (0, "test"): 1, (1, "train"): 3, (1, "test"): 1,
    }  # fmt: skip
    assert found.notes[-1].startswith(("1 of 2 videos", "2 of 2 videos"))
    assert "have segments in train and in test" in found.notes[-1]


def test_the_clean_split_keeps_every_video_on_one_side(world: Ego4dWorld) -> None:
    found = build(world, split_rule="by-video")

    sides = {(one.video_id, one.split) for one in found.manifest.segments}
    assert len(sides) == 2
    assert {split for _, split in sides} == {"train", "test"}
    assert found.notes[-1] == "no video is in both train (1 videos) and test (1 videos)."


def test_a_class_that_only_the_clean_splits_test_shows_is_counted(world: Ego4dWorld) -> None:
    world.annotate(
        {
            uid: [action(f"{uid}{k}", verb, 3, 9) for k in range(2)]
            for uid, verb in (("v1", CUT), ("v2", PUT))
        }
    )

    found = build(world, split_rule="by-video")

    assert found.notes[-1] == "1 classes have segments in test and none in train."


# --- the commands, and the whole way ---


def test_the_command_follows_the_recipe_and_tells_the_papers_counts(
    world: Ego4dWorld, tmp_path: Path
) -> None:
    out = tmp_path / "ego4d.parquet"

    code, said = run(
        *("manifest", "build", "ego4d", world.root, "--out", out),
        *("--recipe", MANIFESTS / "ego4d-egodistill.toml", "--stride", "0.5"),
    )

    assert code == 0
    assert read_manifest(out).segments == build(world).manifest.segments
    assert read_manifest(out).stride_s == 0.5
    lines = said.splitlines()
    assert lines[0].startswith("8 segments of 2 videos, 2 classes, splits: ")
    assert "segments: 8 (-99.9%); EgoDistill (arXiv:2301.02217) has 12,100" in lines
    assert "classes: 2 (-97.9%); EgoDistill (arXiv:2301.02217) has 94" in lines
    assert lines[-1] == "left out: 4 actions: video without IMU"


def test_options_overrule_the_recipe(world: Ego4dWorld, tmp_path: Path) -> None:
    out = tmp_path / "ego4d.parquet"

    code, said = run(
        *("manifest", "build", "ego4d", world.root, "--out", out, "--also-without-imu"),
        *("--recipe", MANIFESTS / "ego4d-egodistill.toml", "--split-rule", "by-video"),
    )

    assert code == 0
    assert {one.video_id for one in read_manifest(out).segments} == {"v1", "v2", "silent"}
    assert "no video is in both train" in said


def test_from_annotations_to_clips_with_every_fault_named(tmp_path: Path) -> None:
    # Six seconds of video; v1's IMU is sound but for a few rows, v2 has none from 3 s on,
    # v3's accelerometer repeats an axis, v4 is not downloaded.
    world = Ego4dWorld(root=tmp_path / "ego4d")
    world.annotate(
        {
            uid: [action(f"{uid}-early", CUT, 0, 62), action(f"{uid}-late", CUT, 105, 168)]
            for uid in ("v1", "v2", "v3", "v4")
        }
    )
    world.describe(dict.fromkeys(("v1", "v2", "v3", "v4"), True))
    sound, doubled = recorded(), recorded(component=1)
    sound[7][2] = "NULL"
    sound[400], sound[401] = sound[401], sound[400]
    for row in doubled:
        row[8] = row[7]
    write_imu(world.imu / "v1.csv", sound)
    write_imu(world.imu / "v2.csv", recorded(seconds=3))
    write_imu(world.imu / "v3.csv", doubled)
    for uid in ("v1", "v2", "v3"):
        world.film(uid)
    manifest = build_ego4d(
        Ego4dSource(root=world.root, window_s=2.0, stride_s=None), manifest_folder=tmp_path
    ).manifest

    health = check_manifest(manifest)
    report = World(folder=tmp_path).extract(manifest)

    assert {verdict.segment_id: verdict.code for verdict in health.segments} == {
        "v1-early": "ok", "v1-late": "ok",
        "v2-early": "ok", "v2-late": "imu_low_coverage",
        "v3-early": "imu_duplicate_axes", "v3-late": "imu_duplicate_axes",
        "v4-early": "video_missing", "v4-late": "video_missing",
    }  # fmt: skip
    table = "\n".join(table_lines(health))
    assert "1 rows without a canonical time, 1 rows earlier than the row before: sorted" in table
    assert "v3.csv (Ego4D); accelerometer y = z all through" in table
    rows = stored(World(folder=tmp_path).inputs_url)
    outcomes = {
        clip_id.partition("@")[0]: (row.outcome, row.imu_outcome) for clip_id, row in rows.items()
    }
    assert outcomes == {
        "v1-early": ("ok", "ok"), "v1-late": ("ok", "ok"),
        "v2-early": ("ok", "ok"), "v2-late": ("ok", "imu_low_coverage"),
        "v3-early": ("ok", "imu_duplicate_axes"), "v3-late": ("ok", "imu_duplicate_axes"),
        "v4-early": ("video_missing", "imu_missing"),
        "v4-late": ("video_missing", "imu_missing"),
    }  # fmt: skip
    (early,) = (row for clip_id, row in rows.items() if clip_id.startswith("v1-early"))
    # gyro_x rises by 0.2 rad/s in a second, and so does the stored window, less its mean.
    rise = np.diff(early.arrays["imu"][:, 3].astype(np.float64)) * 198
    np.testing.assert_allclose(rise, 0.2, atol=2e-3)
    assert health.num_bad == 5
    assert {failure.code: failure.count for failure in report.failures} == {
        "video_missing": 2, "imu_missing": 2, "imu_low_coverage": 1, "imu_duplicate_axes": 2,
    }  # fmt: skip
