"""What extraction promises: one pass, right values, nothing computed twice, nothing overwritten."""

# T teacher frames, K stored frames, H height, W width, 3 channels RGB, N clips

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import simplejpeg
import torch

from egoctl.pipeline.errors import StoreError, StoreMismatchError
from egoctl.pipeline.extraction.estimate import estimate, estimate_lines
from egoctl.pipeline.extraction.report import ExtractReport, extract_lines
from egoctl.pipeline.imu.recording import ImuResampler, read_imu
from egoctl.pipeline.manifest import Manifest
from egoctl.pipeline.sampling import frame_times, imu_times, uniform_times
from egoctl.pipeline.sharing.info import store_info
from egoctl.pipeline.store import FeatureStore
from egoctl.pipeline.trained_on import TrainedOn
from egoctl.tests.worlds.drawn_video import cut_file
from egoctl.tests.worlds.extract_world import (
    CONFIG,
    RUN,
    MeanTeacher,
    World,
    all_frames,
    draw_colours,
    pixels,
    shown_at,
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
    B_SHORT,
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


# --- one pass ---


def test_one_pass_fills_both_stores_and_the_report_counts_it(world: World) -> None:
    report = world.extract(world.manifest(ROWS))

    assert (report.num_clips, report.num_read, report.num_parts) == (11, 11, 3)
    assert (report.num_done_before, report.num_padded, report.failures) == (0, 1, [])
    assert [row.outcome for row in stored(world.teacher_url).values()] == ["ok"] * 11
    assert [row.outcome for row in stored(world.inputs_url).values()] == ["ok"] * 11
    text = "\n".join(extract_lines(report))
    assert "11 clips in 3 parts" in text
    assert "1 clips are shorter than the window: edge frames were held." in text
    assert "All 11 clips of the manifest are stored." in text


def test_stored_targets_equal_the_teacher_run_clip_by_clip_over_fully_decoded_videos(
    world: World,
) -> None:
    manifest = world.manifest(ROWS)

    world.extract(manifest)

    rows = stored(world.teacher_url)
    for clip in manifest.clips():
        expected = slow_targets(world.videos / clip.video_id, clip, MeanTeacher())
        found = rows[clip.clip_id].arrays
        np.testing.assert_allclose(found["feature"], expected.feature_ND[0], atol=1e-5)
        np.testing.assert_allclose(found["logits"], expected.logits_NC[0], atol=1e-4)


def test_overlapping_windows_decode_each_frame_once(world: World) -> None:
    draw_colours(world.videos / "long.mp4", seconds=14)
    row = {"segment_id": "long", "video": "long.mp4", "start_s": 0, "stop_s": 14}
    manifest = world.manifest([row])

    report = world.extract(manifest, inputs_url=None, config=replace(CONFIG, part_rows=64))

    assert (report.num_clips, report.num_parts) == (25, 1)
    # The first window looks at 0.4 s first, the last at 13.6 s last.
    assert report.frames_spanned == pytest.approx(13.2 * 30, abs=2)
    assert report.frames_decoded / report.frames_spanned <= 1.05


def test_stored_frames_are_the_right_frames_and_decode_to_almost_the_same_pixels(
    world: World,
) -> None:
    manifest = world.manifest(ROWS)

    world.extract(manifest)

    rows = stored(world.inputs_url)
    for clip in manifest.clips():
        frames = all_frames(world.videos / clip.video_id)
        shown = [shown_at(frames, float(t)) for t in uniform_times(clip, 3)]
        found = rows[clip.clip_id].arrays
        np.testing.assert_allclose(found["frame_time"], [t for t, _ in shown], atol=1e-6)
        for jpeg, (_, frame) in zip(found["frames"], shown, strict=True):
            expected_HW3 = pixels(frame, 64, 64).astype(float)
            decoded_HW3 = simplejpeg.decode_jpeg(jpeg).astype(float)
            assert decoded_HW3.shape == (64, 64, 3)
            assert np.abs(decoded_HW3 - expected_HW3).mean() < 3


def test_stored_imu_equals_the_window_resampled_for_the_clip(world: World) -> None:
    manifest = world.manifest([A_LONG, A_INNER])

    world.extract(manifest)

    track = read_imu(world.imu / "a.csv")
    for clip in manifest.clips():
        window = ImuResampler(track).window(
            imu_times(clip, 396, 198.0), span_s=(clip.start_s, clip.stop_s)
        )
        row = stored(world.inputs_url)[clip.clip_id]
        assert (row.imu_outcome, row.arrays["imu"].shape) == ("ok", (396, 6))
        np.testing.assert_array_equal(row.arrays["imu"], window.samples_W6)
        np.testing.assert_array_equal(row.arrays["imu_mean"], window.mean_6)


def test_a_clip_without_an_imu_has_its_frames_and_says_that_none_was_named(world: World) -> None:
    report = world.extract(world.manifest([B_LONG, B_BARE]))

    assert report.failures == []
    row = stored(world.inputs_url)["b-bare@0.000-2.000"]
    assert (row.outcome, row.imu_outcome) == ("ok", "imu_none")
    assert np.isnan(row.arrays["imu"]).all()
    assert all(row.arrays["frames"])


def test_a_short_segment_holds_its_first_and_last_frame(world: World) -> None:
    manifest = world.manifest([B_SHORT])  # 0.5 to 1.3 s; the teacher looks at 0.3 to 1.5 s
    (clip,) = manifest.clips()

    report = world.extract(manifest)

    assert (report.num_clips, report.num_padded) == (1, 1)
    np.testing.assert_allclose(frame_times(clip, 4, 0.4), [0.5, 0.7, 1.1, 1.3], atol=1e-5)
    (row,) = stored(world.teacher_url).values()
    expected = slow_targets(world.videos / "b.mp4", clip, MeanTeacher())
    np.testing.assert_allclose(row.arrays["feature"], expected.feature_ND[0], atol=1e-5)


@pytest.mark.parametrize("part_rows", [1, 3, 64])
def test_values_do_not_depend_on_the_size_of_parts(world: World, part_rows: int) -> None:
    manifest = world.manifest(ROWS)
    world.extract(manifest)
    again = {"store_url": f"{world.folder}/t2.store", "inputs_url": f"{world.folder}/i2.store"}

    world.extract(manifest, config=replace(CONFIG, part_rows=part_rows), **again)

    for url, url_again in zip((world.teacher_url, world.inputs_url), again.values(), strict=True):
        rows, rows_again = stored(url), stored(url_again)
        assert rows.keys() == rows_again.keys()
        for clip_id, row in rows.items():
            for name, values in row.arrays.items():
                other = rows_again[clip_id].arrays[name]
                if name == "logits":  # a batch of one is summed in another order
                    np.testing.assert_allclose(other, values, rtol=1e-5, atol=1e-5)
                else:
                    np.testing.assert_array_equal(other, values)


def test_what_the_teacher_says_that_is_no_number_is_a_failure_and_never_data(
    world: World,
) -> None:
    class OverflowingTeacher(MeanTeacher):
        def feature(self, video_BCTHW: torch.Tensor) -> torch.Tensor:
            feature_BD = super().feature(video_BCTHW)
            feature_BD[0, 7] = torch.inf
            return feature_BD

    report = world.extract(world.manifest([B_LONG]), teacher=OverflowingTeacher())

    (failure,) = report.failures
    assert (failure.code, failure.count) == ("teacher_not_finite", 2)
    assert "--precision fp32" in failure.example_reason
    rows = list(stored(world.teacher_url).values())
    # The first of each batch of two.
    assert [row.outcome for row in rows] == ["teacher_not_finite", "ok", "teacher_not_finite"]
    assert [np.isnan(row.arrays["feature"]).all() for row in rows] == [True, False, True]
    assert [np.isnan(row.arrays["logits"]).all() for row in rows] == [True, False, True]
    assert [row.outcome for row in stored(world.inputs_url).values()] == ["ok"] * 3


@pytest.mark.parametrize("has_video", [True, False])
def test_a_part_without_any_imu_or_any_good_clip_is_stored_like_every_other(
    world: World, has_video: bool
) -> None:
    if not has_video:
        (world.videos / "b.mp4").unlink()

    report = world.extract(world.manifest([B_BARE]))

    assert [f.code for f in report.failures] == ([] if has_video else ["video_missing"])
    (row,) = stored(world.inputs_url).values()
    assert (row.outcome, row.imu_outcome) == ("ok" if has_video else "video_missing", "imu_none")
    assert np.isnan(row.arrays["imu"]).all()


CUT = "video_truncated"


@pytest.mark.parametrize(
    ("frames_per_clip", "at_packet", "teacher_outcomes", "inputs_outcomes"),
    [
        # Five clips, their middles at 1, 1.5 ... 3 s. The teacher looks up to 0.6 s further.
        (1, 70, ["ok", "ok", CUT, CUT, CUT], ["ok", "ok", "ok", CUT, CUT]),  # the middle alone
        (3, 64, ["ok", "ok", CUT, CUT, CUT], ["ok", CUT, CUT, CUT, CUT]),  # up to 0.67 s further
    ],
)
def test_what_a_store_says_of_a_cut_video_is_the_same_whether_the_other_is_read_with_it(
    world: World,
    frames_per_clip: int,
    at_packet: int,
    teacher_outcomes: list[str],
    inputs_outcomes: list[str],
) -> None:
    cut_file(world.videos / "a.mp4", world.videos / "a.mp4", at_packet=at_packet)
    manifest = world.manifest([A_LONG])
    config = replace(CONFIG, frames_per_clip=frames_per_clip)
    world.extract(manifest, config=config)
    together = stored(world.teacher_url), stored(world.inputs_url)
    assert [row.outcome for row in together[0].values()] == teacher_outcomes
    assert [row.outcome for row in together[1].values()] == inputs_outcomes

    for part in (Path(world.inputs_url) / "parts").iterdir():
        part.unlink()  # the process died between the two stores
    teacher = MeanTeacher()
    assert world.extract(manifest, config=config, teacher=teacher).num_read == 5
    assert teacher.num_clips_seen == 0
    alone_url = f"{world.folder}/alone.store"
    world.extract(manifest, config=config, store_url=alone_url, inputs_url=None)

    for one, other in zip(together, (stored(alone_url), stored(world.inputs_url)), strict=True):
        assert one.keys() == other.keys()
        for clip_id, row in one.items():
            again = other[clip_id]
            assert (again.outcome, again.reason) == (row.outcome, row.reason)
            for name, values in row.arrays.items():
                np.testing.assert_array_equal(again.arrays[name], values)


def test_store_info_does_not_call_a_clip_without_an_imu_failed(world: World) -> None:
    world.extract(world.manifest([B_BARE]))

    info = store_info(FeatureStore.open(world.inputs_url))

    assert info["failed"] == []
    assert info["outcomes"] == {"outcome": {"ok": 1}, "imu_outcome": {"imu_none": 1}}


# === Extraction a second time: what is done stays, what was mended is read again ===


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


# === What --plan says, held against what extraction then does ===


EPIC = TrainedOn(dataset="EPIC-KITCHENS-100", num_segments=3, spans_s={"a": ((1.0, 4.0),)})
EGO4D = TrainedOn(dataset="Ego4D", num_segments=9, spans_s={"a": ((0.0, 90.0),)})


def planned_and_done(world: World, manifest: Manifest, **changes: object) -> ExtractReport:
    """Extraction, after checking that its plan counted the same and wrote nothing."""
    url, said = str(changes.get("store_url", world.teacher_url)), changes.get("trained_on")
    before = store_files(str(world.folder))
    found = estimate(
        manifest,
        {url: MeanTeacher()},
        inputs_url=world.inputs_url,
        config=CONFIG,
        run=RUN,
        trained_on={url: said} if isinstance(said, TrainedOn) else None,
    )
    assert store_files(str(world.folder)) == before

    report = world.extract(manifest, **changes)

    assert found.num_clips == report.num_clips
    assert (found.num_clips_left, found.num_parts_left) == (report.num_read, report.num_parts)
    return report


def test_the_plan_of_new_stores_counts_what_extraction_then_does(world: World) -> None:
    assert planned_and_done(world, world.manifest(ROWS)).num_parts == 3


def test_the_plan_of_finished_stores_has_nothing_left(world: World) -> None:
    manifest = world.manifest(ROWS)
    world.extract(manifest)

    assert planned_and_done(world, manifest).num_read == 0


def test_the_plan_goes_on_where_a_run_was_stopped(world: World) -> None:
    manifest = world.manifest(ROWS)
    world.extract(manifest)
    (Path(world.inputs_url) / "parts" / "00001.json").unlink()

    assert planned_and_done(world, manifest).num_read == 4


def test_the_plan_of_a_larger_manifest_counts_the_new_clips(world: World) -> None:
    world.extract(world.manifest([A_LONG]))

    assert planned_and_done(world, world.manifest(ROWS)).num_read == 6


def test_the_plan_of_a_second_teacher_counts_targets_alone(world: World) -> None:
    manifest = world.manifest(ROWS)
    world.extract(manifest)
    url = f"{world.folder}/other.store"

    found = estimate(
        manifest,
        {url: MeanTeacher()},
        inputs_url=world.inputs_url,
        config=CONFIG,
        run=RUN,
    )

    assert (found.teacher_bytes, found.inputs_bytes) == (11 * (48 + 5) * 4, 0)
    assert planned_and_done(world, manifest, store_url=url).num_read == 11


def test_the_plan_of_stores_that_grew_apart_counts_every_reading(world: World) -> None:
    world.extract(world.manifest([A_INNER]), teacher=None, store_url=None)

    planned_and_done(world, world.manifest([A_LONG, A_INNER]))


def test_the_plan_counts_a_broken_video_that_was_replaced(world: World, drawn: Path) -> None:
    manifest = world.manifest([A_LONG, B_LONG])
    (world.videos / "b.mp4").write_text("not yet copied")
    world.extract(manifest)
    shutil.copy(drawn / "videos" / "b.mp4", world.videos)

    assert planned_and_done(world, manifest).num_read == 3


def test_the_plan_refuses_another_recipe_as_extraction_does(world: World) -> None:
    manifest = world.manifest([B_LONG])
    world.extract(manifest)

    with pytest.raises(StoreMismatchError, match="dtype"):
        estimate(
            manifest,
            {world.teacher_url: MeanTeacher()},
            inputs_url=None,
            config=replace(CONFIG, dtype="float16"),
            run=RUN,
        )


@pytest.mark.parametrize(
    ("told", "says"),
    [
        (None, "does not record what its teacher was fitted to"),
        (EGO4D, "records that its teacher was fitted to 9 segments of Ego4D: other spans"),
    ],
)
def test_the_plan_refuses_a_store_that_tells_of_other_footage_as_extraction_does(
    world: World, told: TrainedOn | None, says: str
) -> None:
    manifest = world.manifest([B_LONG])
    world.extract(manifest, trained_on=told)

    with pytest.raises(StoreMismatchError, match=f"{says}.*header never changes.*--trained-on"):
        planned_and_done(world, manifest, trained_on=EPIC)


def test_the_plan_takes_a_store_that_tells_what_is_said(world: World) -> None:
    manifest = world.manifest([B_LONG])
    world.extract(manifest, trained_on=EPIC)

    assert planned_and_done(world, manifest, trained_on=EPIC).num_read == 0


def test_the_plan_tells_bytes_hours_and_speeds(world: World) -> None:
    manifest = world.manifest([A_LONG, A_INNER])

    found = estimate(
        manifest,
        {world.teacher_url: MeanTeacher()},
        inputs_url=world.inputs_url,
        config=CONFIG,
        run=RUN,
    )

    # 7 windows cover the 4 s of the one video
    assert found.num_videos == 1
    assert found.video_hours == pytest.approx(4 / 3600)
    assert found.teacher_bytes == 7 * (48 + 5) * 4
    assert found.probe_clips == 7
    world.extract(manifest)
    jpegs = [
        len(jpeg) for row in stored(world.inputs_url).values() for jpeg in row.arrays["frames"]
    ]
    assert found.inputs_bytes == pytest.approx(7 * 397 * 6 * 4 + sum(jpegs) + 21 * 8, abs=1)
    assert found.read_clips_per_s and found.teacher_clips_per_s
    slower = min(found.read_clips_per_s, found.teacher_clips_per_s)
    assert found.seconds_left == pytest.approx(7 / slower)
    assert "7 clips in 2 parts are left to do." in "\n".join(estimate_lines(found))


def test_the_plan_of_videos_that_cannot_be_read_says_so(world: World) -> None:
    (world.videos / "b.mp4").write_bytes(b"")

    found = estimate(
        world.manifest([B_LONG]),
        {world.teacher_url: MeanTeacher()},
        inputs_url=None,
        config=CONFIG,
        run=RUN,
    )

    assert (found.probe_clips, found.seconds_left, found.num_clips_left) == (0, None, 3)
    assert "None of the first 8 clips could be read" in "\n".join(estimate_lines(found))
