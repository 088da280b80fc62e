"""Extraction a second time: what is done stays, what was mended is read again."""

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from egoctl.pipeline.errors import StoreError, StoreMismatchError
from egoctl.pipeline.extraction.report import extract_lines
from egoctl.pipeline.sharing.info import store_info
from egoctl.pipeline.store import FeatureStore
from egoctl.tests.worlds.drawn_video import cut_file
from egoctl.tests.worlds.extract_world import (
    CONFIG,
    MeanTeacher,
    World,
    draw_colours,
    slow_targets,
    store_files,
    stored,
    write_imu,
)
from egoctl.tests.worlds.two_videos import (
    A_INNER,
    A_LONG,
    B_BARE,
    B_LONG,
    ROWS,
    copy_of,
    draw_two_videos,
)


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return draw_two_videos(tmp_path_factory.mktemp("drawn"))


@pytest.fixture
def world(drawn: Path, tmp_path: Path) -> World:
    return copy_of(drawn, tmp_path / "world")


# --- going on ---


def test_a_second_run_does_nothing(world: World) -> None:
    manifest = world.manifest(ROWS)
    world.extract(manifest)
    before = store_files(world.teacher_url), store_files(world.inputs_url)
    teacher = MeanTeacher()

    report = world.extract(manifest, teacher=teacher)

    assert (report.num_read, report.num_parts, report.num_done_before) == (0, 0, 11)
    assert (teacher.num_clips_seen, report.frames_decoded) == (0, 0)
    assert (store_files(world.teacher_url), store_files(world.inputs_url)) == before


def test_a_larger_manifest_appends_rows_and_computes_only_those(world: World) -> None:
    world.extract(world.manifest([A_LONG]))
    before = stored(world.teacher_url)
    shards = store_files(world.teacher_url)
    teacher = MeanTeacher()

    report = world.extract(world.manifest(ROWS), teacher=teacher)

    assert (report.num_done_before, report.num_read, teacher.num_clips_seen) == (5, 6, 6)
    assert FeatureStore.open(world.teacher_url).clips()["part"].to_list() == [
        *(0, 0, 0, 0, 1),
        *(2, 2, 2, 2, 3, 3),  # a new part for the new rows, though part 1 has room
    ]
    after = stored(world.teacher_url)
    assert len(after) == 11
    for clip_id, row in before.items():
        np.testing.assert_array_equal(after[clip_id].arrays["feature"], row.arrays["feature"])
    assert store_files(world.teacher_url)["parts/00001.json"] == shards["parts/00001.json"]


def test_a_second_teacher_over_complete_inputs_fills_its_own_store_alone(world: World) -> None:
    manifest = world.manifest(ROWS)
    world.extract(manifest)
    before = store_files(world.inputs_url)
    other_url = f"{world.folder}/other.store"

    report = world.extract(manifest, teacher=MeanTeacher("others"), store_url=other_url)

    assert (report.num_read, report.num_done_before) == (11, 0)
    assert [row.outcome for row in stored(other_url).values()] == ["ok"] * 11
    assert store_files(world.inputs_url) == before


def test_stores_that_grew_apart_are_both_filled_and_counted_by_clips(world: World) -> None:
    world.extract(world.manifest([A_INNER]), teacher=None, store_url=None)

    # Inputs hold 2 of the 7 clips, so the parts of the two stores hold different clips.
    report = world.extract(world.manifest([A_LONG, A_INNER]))

    assert (report.num_clips, report.num_done_before) == (7, 0)
    assert [row.outcome for row in stored(world.teacher_url).values()] == ["ok"] * 7
    assert [row.outcome for row in stored(world.inputs_url).values()] == ["ok"] * 7


def test_unfinished_parts_of_another_manifest_are_left_alone_and_counted(world: World) -> None:
    world.extract(world.manifest(ROWS))
    (Path(world.teacher_url) / "parts" / "00002.json").unlink()

    report = world.extract(world.manifest([A_LONG]))

    assert (report.num_foreign_parts, report.num_read) == (1, 0)
    assert "1 unfinished parts belong to another manifest" in "\n".join(extract_lines(report))


# --- refusing ---


def test_another_recipe_is_refused_and_the_fields_are_named(world: World) -> None:
    manifest = world.manifest([B_LONG])
    world.extract(manifest)
    before = store_files(world.teacher_url), store_files(world.inputs_url)
    teacher = MeanTeacher("others")
    teacher.spec = replace(teacher.spec, stride_s=0.2)

    with pytest.raises(
        StoreMismatchError, match='stride_s: store 0.4, this run 0.2\n.*teacher: store "means"'
    ):
        world.extract(manifest, teacher=teacher)
    with pytest.raises(StoreMismatchError, match="frame_px: store 64, this run 32"):
        world.extract(manifest, config=replace(CONFIG, frame_px=32))

    assert (store_files(world.teacher_url), store_files(world.inputs_url)) == before


def test_a_refused_inputs_store_leaves_no_rows_in_a_new_teacher_store(world: World) -> None:
    manifest = world.manifest([B_LONG])
    world.extract(manifest)
    other_url = f"{world.folder}/other.store"

    with pytest.raises(StoreMismatchError, match="jpeg_quality"):
        world.extract(manifest, store_url=other_url, config=replace(CONFIG, jpeg_quality=50))

    assert len(FeatureStore.open(other_url).clips()) == 0


def test_a_store_path_that_is_a_file_is_refused(world: World) -> None:
    (world.folder / "notes.txt").write_text("mine")

    with pytest.raises(StoreError, match="notes.txt.*Give another path"):
        world.extract(world.manifest([B_LONG]), store_url=f"{world.folder}/notes.txt")


def test_a_good_video_whose_content_changed_is_refused(world: World) -> None:
    manifest = world.manifest([B_LONG])
    world.extract(manifest)
    before = store_files(world.teacher_url)
    draw_colours(world.videos / "b.mp4", seconds=3, first=7)

    with pytest.raises(StoreMismatchError, match="its video.*'b.mp4'.*has other content now"):
        world.extract(manifest)

    assert store_files(world.teacher_url) == before


def test_a_good_imu_file_whose_content_changed_is_refused(world: World) -> None:
    manifest = world.manifest([A_LONG])
    world.extract(manifest)
    write_imu(world.imu / "a.csv", seconds=4, seed=1)

    with pytest.raises(StoreMismatchError, match="its IMU file"):
        world.extract(manifest)


# --- mending ---


def test_an_imu_file_that_failed_for_some_clips_and_was_repaired_is_read_again(
    world: World,
) -> None:
    manifest = world.manifest([A_LONG])
    csv = world.imu / "a.csv"
    good = csv.read_text()
    lines = good.splitlines()
    lines[5] = "0.02,nan,nan,nan,0,0,0"
    csv.write_text("\n".join(lines))
    assert [(f.code, f.count) for f in world.extract(manifest).failures] == [("imu_nan", 1)]
    csv.write_text(good)
    teacher = MeanTeacher()

    report = world.extract(manifest, teacher=teacher)

    assert report.failures == []
    assert teacher.num_clips_seen == 0  # the teacher's rows do not hang on the IMU
    assert [row.imu_outcome for row in stored(world.inputs_url).values()] == ["ok"] * 5


def test_an_imu_named_later_is_read_without_the_teacher(world: World) -> None:
    world.extract(world.manifest([B_BARE]))
    write_imu(world.imu / "b.csv", seconds=3, seed=2)
    teacher = MeanTeacher()

    report = world.extract(world.manifest([B_BARE | {"imu": "b.csv"}]), teacher=teacher)

    assert (report.failures, teacher.num_clips_seen) == ([], 0)
    assert [row.imu_outcome for row in stored(world.inputs_url).values()] == ["ok"]


def test_a_broken_video_that_was_replaced_is_computed_and_good_rows_stay_untouched(
    world: World, drawn: Path
) -> None:
    manifest = world.manifest([A_LONG, B_LONG])
    (world.videos / "b.mp4").write_text("not yet copied")
    first = world.extract(manifest)
    assert [(f.code, f.count) for f in first.failures] == [("video_unreadable", 3)]
    before = store_files(world.teacher_url)
    shutil.copy(drawn / "videos" / "b.mp4", world.videos)
    teacher = MeanTeacher()

    second = world.extract(manifest, teacher=teacher)

    assert (second.num_read, teacher.num_clips_seen, second.failures) == (3, 3, [])
    after = store_files(world.teacher_url)
    done = [name for name in before if name.startswith("parts/") or "/c/" in name]
    assert len(done) == 6
    assert all(after[name] == before[name] for name in done)
    rows = stored(world.teacher_url)
    assert [row.outcome for row in rows.values()] == ["ok"] * 8
    for clip in manifest.clips():
        expected = slow_targets(world.videos / clip.video_id, clip, MeanTeacher())
        found = rows[clip.clip_id].arrays["feature"]
        np.testing.assert_allclose(found, expected.feature_ND[0], atol=1e-5)
    assert world.extract(manifest).num_read == 0


def test_an_imu_file_that_came_later_is_cut_for_clips_that_lacked_it(
    world: World, drawn: Path
) -> None:
    manifest = world.manifest([A_LONG, B_LONG])
    (world.imu / "b.csv").unlink()
    first = world.extract(manifest)
    assert [(f.code, f.count) for f in first.failures] == [("imu_missing", 3)]
    shutil.copy(drawn / "imu" / "b.csv", world.imu)

    second = world.extract(manifest)

    assert (second.num_read, second.failures) == (3, [])
    rows = stored(world.inputs_url).values()
    assert [row.imu_outcome for row in rows] == ["ok"] * 8
    assert not any(np.isnan(row.arrays["imu"]).any() for row in rows)


def test_a_file_that_stays_broken_is_not_read_again(world: World) -> None:
    manifest = world.manifest([A_LONG, B_LONG])
    cut_file(world.videos / "a.mp4", world.videos / "a.mp4", at_packet=60)
    first = world.extract(manifest)
    assert [f.code for f in first.failures] == ["video_truncated"]
    before = store_files(world.teacher_url)

    second = world.extract(manifest)

    assert second.num_read == 0
    assert second.failures == first.failures
    assert store_files(world.teacher_url) == before
    failed = store_info(FeatureStore.open(world.teacher_url))["failed"]
    assert isinstance(failed, list) and len(failed) == first.num_failed
