"""EPIC-KITCHENS-100 whole: a small kitchen up to its inputs store; the published annotations."""

from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from egoctl.pipeline.datasets.epic.annotations import is_extension, read_epic_annotations
from egoctl.pipeline.datasets.epic.frames import check_frames
from egoctl.pipeline.datasets.health import check_manifest
from egoctl.pipeline.extraction.extract import extract
from egoctl.pipeline.records import Segment
from egoctl.tests.worlds.epic_builds import build, write_train
from egoctl.tests.worlds.epic_world import (
    EPIC100,
    needs_epic100,
    row,
    touch_imu,
    touch_videos,
    write_pair,
    write_video_info,
)
from egoctl.tests.worlds.extract_world import CONFIG, RUN, MeanTeacher, draw_colours, stored

# --- a small kitchen, from the official layout to the inputs store -----------------------------


def test_official_files_with_their_faults_become_checked_and_extracted_inputs(
    tmp_path: Path,
) -> None:
    kitchen = tmp_path / "data" / "EPIC-KITCHENS"
    # Each stream ends a second early; P30's samples are crowded and one of its payloads is absent.
    draw_colours(kitchen / "P01" / "videos" / "P01_101.MP4", seconds=6)
    draw_colours(kitchen / "P30" / "videos" / "P30_101.MP4", seconds=9, first=200)
    write_pair(
        kitchen / "P01" / "meta_data", "P01_101", accel_per_s=[198] * 5, gyro_per_s=[201] * 4
    )
    write_pair(
        kitchen / "P30" / "meta_data", "P30_101", spacing_ms=1000 / 225,
        accel_per_s=[198] * 8, gyro_per_s=[198] * 5 + [0] + [198] * 2,
    )  # fmt: skip
    write_train(
        tmp_path,
        row("P01_101_0", "00:00:00.50", "00:00:03.00"),
        row("P01_101_1", "00:00:03.40", "00:00:05.60"),
        row("P30_101_0", "00:00:01.00", "00:00:03.60"),
        row("P30_101_1", "00:00:04.50", "00:00:06.80"),
    )
    write_video_info(tmp_path / "annotations", P01_101=(6.0, 30), P30_101=(9.0, 30))

    found = build(tmp_path, split_rule="egodistill")
    health = check_manifest(found.manifest)

    assert [file.accel_rate_hz for file in health.files] == pytest.approx([198, 198])
    assert [file.imu_coverage for file in health.files] == pytest.approx([4 / 6, 8 / 9], abs=1e-3)
    assert {verdict.segment_id: verdict.code for verdict in health.segments} == {
        "P01_101_0": "ok", "P01_101_1": "imu_low_coverage",
        "P30_101_0": "ok", "P30_101_1": "imu_low_coverage",
    }  # fmt: skip
    reasons = {verdict.segment_id: verdict.reason or "" for verdict in health.segments}
    assert "P01_101-accl.csv: the gyroscope covers" in reasons["P01_101_1"]
    assert "it has a gap of 1.01 s at 4.99 s" in reasons["P30_101_1"]

    report = extract(
        found.manifest,
        {str(tmp_path / "teacher.store"): MeanTeacher()},
        inputs_url=str(tmp_path / "inputs.store"),
        config=CONFIG,
        run=RUN,
    )

    assert report.num_failed == 2  # the two without IMU
    rows = {
        name.partition("@")[0]: one for name, one in stored(str(tmp_path / "inputs.store")).items()
    }
    assert {name: (one.outcome, one.imu_outcome) for name, one in rows.items()} == {
        "P01_101_0": ("ok", "ok"), "P01_101_1": ("ok", "imu_low_coverage"),
        "P30_101_0": ("ok", "ok"), "P30_101_1": ("ok", "imu_low_coverage"),
    }  # fmt: skip
    # write_pair turns the head about x at sin(pi t) rad/s; the clip's middle is at 2.3 s.
    times_W = 2.3 + (np.arange(422) - 210.5) / 198
    measured_W = rows["P30_101_0"].arrays["imu"][:, 3] + rows["P30_101_0"].arrays["imu_mean"][3]
    np.testing.assert_allclose(measured_W, np.sin(np.pi * times_W), atol=0.002)


# --- the real annotations ----------------------------------------------------------------------


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Stand-in files for every video of EPIC-KITCHENS-100; IMU for the extension."""
    folder = tmp_path_factory.mktemp("real")
    annotations = read_epic_annotations(EPIC100)
    touch_videos(folder / "data", *annotations.videos)
    touch_imu(folder / "data", *filter(is_extension, annotations.videos))
    return folder


@needs_epic100
def test_the_published_files_are_read_whole() -> None:
    found = read_epic_annotations(EPIC100)

    assert len(found.segments) == 9668
    assert (len(found.verb_names), len(found.noun_names)) == (97, 300)
    assert (found.verb_names[0], found.verb_names[96]) == ("take", "unfreeze")
    assert (found.noun_names[0], found.noun_names[1]) == ("tap", "spoon")
    assert Counter(round(video.fps, 2) for video in found.videos.values()) == {
        59.94: 423, 50.0: 268, 29.97: 4, 47.95: 4, 90.0: 1,
    }  # fmt: skip
    extension = [video for name, video in found.videos.items() if is_extension(name)]
    assert len(extension) == 268
    assert {video.fps for video in extension} == {50.0}
    assert sum(video.duration_s for video in extension) / 3600 == pytest.approx(45.68, abs=0.005)


@needs_epic100
def test_the_published_validation_split_as_verbs(real: Path) -> None:
    found = build(real, annotations=EPIC100)

    assert len(found.manifest.segments) == 9668
    assert len({segment.video_id for segment in found.manifest.segments}) == 138
    assert {segment.split for segment in found.manifest.segments} == {"val"}
    assert found.manifest.num_padded(found.manifest.clips()) == 5199
    assert found.manifest.segments[0] == Segment(
        segment_id="P01_11_0", video_id="P01_11",
        video_path="data/EPIC-KITCHENS/P01/videos/P01_11.MP4", imu_path=None,
        participant_id="P01", start_s=0.0, stop_s=1.89, label=0, split="val",
        verb_class=0, noun_class=2, narration="take plate",
    )  # fmt: skip
    assert "78 of 97 verb classes occur." in found.notes
    assert "0 of 9,668 segments have IMU." in found.notes
    assert "cut at the end of their video: 1 segments (P29_05_563)." in found.notes
    assert found.left_out == ()


@needs_epic100
def test_published_frame_columns_count_60_a_second_whatever_the_video_does() -> None:
    found = read_epic_annotations(EPIC100)

    check = check_frames(found.segments, found.videos)

    assert (check.num_checked, check.num_off) == (9668, 8657)
    assert check.contradicting_ids == ()
    assert (check.farthest_id, round(check.farthest_s, 1)) == ("P18_02_28", 188.6)


@needs_epic100
def test_published_actions_are_1352_pairs_and_tail_classes_can_be_left_out(real: Path) -> None:
    actions = build(real, annotations=EPIC100, label="action")
    common = build(real, annotations=EPIC100, min_segments=100)

    assert len(actions.manifest.class_names) == 1352
    assert actions.manifest.class_names[:3] == ("take tap", "take spoon", "take plate")
    labels = [segment.label for segment in common.manifest.segments]
    assert min(Counter(labels).values()) >= 100
    assert "14 of 97 verb classes occur." in common.notes
