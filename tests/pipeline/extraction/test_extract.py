"""What extraction promises: one pass, right values, nothing computed twice, nothing overwritten."""

# T teacher frames, K stored frames, H height, W width, 3 channels RGB, N clips

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import simplejpeg
import torch

from egoctl.pipeline.extraction.report import extract_lines
from egoctl.pipeline.imu.recording import ImuResampler, read_imu
from egoctl.pipeline.sampling import frame_times, imu_times, uniform_times
from egoctl.pipeline.sharing.info import store_info
from egoctl.pipeline.store import FeatureStore
from egoctl.tests.worlds.drawn_video import cut_file
from egoctl.tests.worlds.extract_world import (
    CONFIG,
    MeanTeacher,
    World,
    all_frames,
    draw_colours,
    pixels,
    shown_at,
    slow_targets,
    stored,
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
