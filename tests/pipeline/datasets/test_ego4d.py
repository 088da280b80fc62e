"""Ego4D's annotations and downloads become a manifest; what is left out of it is said."""

from pathlib import Path
from typing import Any

import pytest

from egoctl.pipeline.datasets.dataset_recipe import DatasetBuild
from egoctl.pipeline.datasets.ego4d.hands_objects import Ego4dSource, build_ego4d
from egoctl.pipeline.errors import EgoctlError, ManifestError
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
