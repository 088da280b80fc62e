"""The second decoder shows the frames that the first shows, and they look the same."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

from egoctl.pipeline.video.clip_plan import ClipRequest, DecodedClip, DecodeStats, FailedClip
from egoctl.pipeline.video.decoder_choice import decode_with
from egoctl.pipeline.video.frame_source import FrameSource
from egoctl.pipeline.video.pyav_clips import FrameView, decode_clips
from egoctl.pipeline.video.torchcodec_clips import decode_clips_torchcodec
from egoctl.pipeline.video.torchcodec_reel import Reel
from egoctl.tests.worlds.decoded_clips import (
    VFR_MS,
    WHOLE,
    clip,
    draw_long_video,
    failure_of,
    numbers_of,
)
from egoctl.tests.worlds.drawn_video import (
    cut_file,
    damage_file,
    draw_silence,
    draw_video,
    even_times_ms,
    number_picture,
)
from egoctl.tests.worlds.places import DATA
from egoctl.tests.worlds.torchcodec_clips import decode, gaps, needs_torchcodec


@pytest.fixture(scope="module")
def long_video(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return draw_long_video(tmp_path_factory.mktemp("long") / "long.mp4")


# --- which frame ------------------------------------------------------------------------------


@needs_torchcodec
@pytest.mark.parametrize("suffix", ["mp4", "mkv", "ts"])
@pytest.mark.parametrize("num_b_frames", [0, 3])
@pytest.mark.parametrize(
    "times_ms",
    [even_times_ms(90), even_times_ms(60, fps=29.97, start_ms=1500), VFR_MS],
    ids=["constant", "non-zero start", "variable"],
)
def test_random_clips_have_the_frames_and_times_and_order_of_pyav(
    tmp_path: Path, suffix: str, num_b_frames: int, times_ms: list[int]
) -> None:
    path = draw_video(tmp_path / f"v.{suffix}", times_ms, num_b_frames=num_b_frames)
    rng = np.random.default_rng(len(times_ms))
    last_s = (times_ms[-1] - times_ms[0]) / 1000
    requests = [
        clip(index, *rng.uniform(-0.2, last_s + 0.3, rng.integers(1, 9)))
        for index in rng.permutation(12).tolist()
    ]

    ours = list(decode_clips(path, requests, [WHOLE], DecodeStats()))
    theirs = list(decode_with("torchcodec")(path, requests, [WHOLE], DecodeStats()))

    assert [our.index for our in ours] == [their.index for their in theirs]
    for our, their in zip(ours, theirs, strict=True):
        if isinstance(our, FailedClip):
            assert failure_of(their)[0] == our.code == "past_end"
            continue
        assert numbers_of(their) == numbers_of(our)
        assert isinstance(their, DecodedClip)
        np.testing.assert_allclose(their.times_s[0], our.times_s[0], atol=1e-6)


@needs_torchcodec
def test_clips_that_overlap_decode_each_frame_once_and_convert_only_what_is_seen(
    long_video: Path,
) -> None:
    requests = [clip(index, *(index * 0.5 + np.arange(16) / 8)) for index in range(36)]

    _, stats = decode(long_video, requests)

    assert stats.seeks == 0
    assert stats.frames_decoded <= 1.05 * stats.frames_spanned
    # 8 moments a second from 0 to 19.375 s
    assert stats.frames_used == 156


@needs_torchcodec
def test_a_gap_is_jumped_where_a_keyframe_lies_in_it(long_video: Path) -> None:
    results, stats = decode(long_video, [clip(0, 0.0, 0.5), clip(1, 18.0, 18.5)])

    assert numbers_of(results[0]) == [0, 15]
    assert numbers_of(results[1]) == [540, 555]
    assert stats.seeks == 1
    assert stats.frames_decoded < 60


@needs_torchcodec
def test_each_view_has_its_own_times_and_its_own_size(long_video: Path) -> None:
    request = ClipRequest(index=0, times_s=(np.array([0.5, 1.0]), np.array([0.8])))

    results, _ = decode(long_video, [request], WHOLE, FrameView(short_side_px=64, crop_px=48))

    result = results[0]
    assert isinstance(result, DecodedClip)
    assert numbers_of(result) == [15, 30]
    assert [frames.shape for frames in result.frames] == [(2, 64, 64, 3), (1, 48, 48, 3)]


@needs_torchcodec
def test_a_clip_without_times_for_every_view_is_a_broken_caller(long_video: Path) -> None:
    with pytest.raises(ValueError, match="clip 4 has times for 1 views, but 2"):
        decode(long_video, [clip(4, 0.0)], WHOLE, WHOLE)


@needs_torchcodec
def test_leaving_early_closes_the_file(long_video: Path) -> None:
    open_before = set(os.listdir("/proc/self/fd"))
    clips = decode_clips_torchcodec(
        long_video, [clip(0, 0.0), clip(1, 9.0)], [WHOLE], DecodeStats(), device="cpu"
    )
    next(clips)

    clips.close()

    assert set(os.listdir("/proc/self/fd")) == open_before


# --- how frames look --------------------------------------------------------------------------


@needs_torchcodec
@pytest.mark.parametrize("rotation_deg", [0, 90, -90, 180])
def test_a_turned_video_comes_out_upright_and_cut_where_pyav_cuts(
    tmp_path: Path, rotation_deg: int
) -> None:
    # 33 columns are left over, so a crop that rounds the other way is off by one.
    upright = number_picture(0b1101100101, 97, 64)
    stored = np.ascontiguousarray(np.rot90(upright, -rotation_deg // 90))
    path = draw_video(
        tmp_path / "v.mkv",
        [0, 33],
        pictures=[stored, stored],
        pixel_format="yuv444p",
        rotation_deg=rotation_deg,
    )
    view = FrameView(short_side_px=64, crop_px=64)

    results, _ = decode(path, [clip(0, 0.0)], view)

    (ours,) = decode_clips(path, [clip(0, 0.0)], [view], DecodeStats())
    theirs = results[0]
    assert isinstance(ours, DecodedClip) and isinstance(theirs, DecodedClip)
    assert np.abs(theirs.frames[0][0].astype(int) - upright[:, 16:80]).mean() < 3
    assert gaps(ours, theirs, 0).max() <= 1


@needs_torchcodec
@pytest.mark.parametrize(
    ("codec", "pixel_format", "suffix"),
    [
        ("libx264", "yuv420p", "mp4"),
        ("libx264", "yuv420p10", "mp4"),
        ("libx264", "gray", "mp4"),
        ("mjpeg", "yuvj420p", "avi"),
        ("libvpx-vp9", "yuv420p", "webm"),
    ],
)
def test_every_pixel_format_is_as_bright_as_with_pyav(
    tmp_path: Path, codec: str, pixel_format: str, suffix: str
) -> None:
    path = tmp_path / f"v.{suffix}"
    draw_video(path, even_times_ms(3, fps=20), codec=codec, pixel_format=pixel_format)

    results, _ = decode(path, [clip(0, 0.0, 0.05, 0.1)])

    (ours,) = decode_clips(path, [clip(0, 0.0, 0.05, 0.1)], [WHOLE], DecodeStats())
    theirs = results[0]
    assert isinstance(ours, DecodedClip) and isinstance(theirs, DecodedClip)
    assert numbers_of(theirs) == [0, 1, 2]
    # Measured in the middle: 0 to 1.0 on average, 2 at most (gray and full-range video).
    middle = gaps(ours, theirs, 0)[:, 16:-16, 16:-16]
    assert middle.mean() <= 1.1 and middle.max() <= 3


# --- real recordings


@needs_torchcodec
@pytest.mark.parametrize("name", ["karma.mp4", "max-heromode.mp4"])
def test_a_real_recording_has_pyav_s_pixels_unscaled_and_nearly_so_scaled(name: str) -> None:
    path = DATA / "gopro" / name
    if not path.exists():
        pytest.skip(f"{path.name} is not in the shared data")
    unscaled = FrameView(short_side_px=480, crop_px=480)
    scaled = FrameView(short_side_px=256, crop_px=224)
    times_s = np.arange(0.0, 3.0, 0.25)
    request = ClipRequest(index=0, times_s=(times_s, times_s))

    (ours,) = decode_clips(path, [request], [unscaled, scaled], DecodeStats())
    results, _ = decode(path, [request], unscaled, scaled)

    theirs = results[0]
    assert isinstance(ours, DecodedClip) and isinstance(theirs, DecodedClip)
    np.testing.assert_array_equal(theirs.times_s[0], ours.times_s[0])
    # Measured with FFmpeg 5 against PyAV's FFmpeg 8: no pixel differs before scaling. Scaled,
    # 0.6 to 0.7 on average; 3 (karma) and 12 (heromode, full of edges) at most in the middle.
    assert gaps(ours, theirs, 0).max() <= 2
    middle = gaps(ours, theirs, 1)[:, 56:-56, 56:-56]
    assert middle.mean() <= 1.0 and middle.max() <= 24


# === What the second decoder makes of damaged videos: it never passes a patched picture as good ===


def one_clip_per_frame(num_frames: int) -> list[ClipRequest]:
    return [clip(number, number / 30) for number in range(num_frames)]


def good_ones(results: dict[int, DecodedClip | FailedClip]) -> list[int]:
    """The clips that were decoded, each asserted to show the frame it asked for."""
    good = [index for index in sorted(results) if isinstance(results[index], DecodedClip)]
    assert [numbers_of(results[index]) for index in good] == [[index] for index in good]
    return good


def overwrite_middle(path: Path, to: Path, *, at_packet: int) -> float:
    """Overwrite the middle third of a packet, not its head; its presentation time in seconds."""
    with av.open(str(path)) as container:
        packets = [packet for packet in container.demux(video=0) if packet.size]
        packet = packets[at_packet]
        assert packet.pos is not None and packet.pts is not None and packet.time_base is not None
        start, third, shown_s = packet.pos, packet.size // 3, packet.pts * packet.time_base
    data = bytearray(path.read_bytes())
    data[start + third : start + 2 * third] = b"\xa5" * third
    to.write_bytes(data)
    return float(shown_s)


@needs_torchcodec
def test_files_without_frames_fail_every_clip_in_the_words_of_pyav(tmp_path: Path) -> None:
    (tmp_path / "empty.mp4").touch()
    (tmp_path / "text.mp4").write_text("once upon a time\n" * 50)
    paths = [
        tmp_path / "gone.mp4",
        tmp_path / "empty.mp4",
        tmp_path / "text.mp4",
        draw_silence(tmp_path / "silence.mp4"),
        draw_video(tmp_path / "bare.h264", even_times_ms(10)),
    ]

    failures = [failure_of(decode(path, [clip(0, 0.0)])[0][0]) for path in paths]

    assert [code for code, _ in failures] == [
        "video_missing",
        "video_unreadable",
        "video_unreadable",
        "no_video_stream",
        "video_unreadable",
    ]
    for path, failure in zip(paths, failures, strict=True):
        (ours,) = decode_clips(path, [clip(0, 0.0)], [WHOLE], DecodeStats())
        assert failure_of(ours) == failure


@needs_torchcodec
def test_a_clip_past_the_end_names_both_times(tmp_path: Path) -> None:
    path = draw_video(tmp_path / "v.mp4", even_times_ms(30), num_b_frames=3)

    results, _ = decode(path, [clip(0, 0.9, 1.09), clip(1, 0.5, 1.12)])

    assert numbers_of(results[0]) == [27, 29]
    assert failure_of(results[1]) == (
        "past_end",
        "the clip needs 0.50-1.12 s but the video ends at 1.00 s",
    )


@needs_torchcodec
@pytest.mark.parametrize("num_b_frames", [0, 3])
@pytest.mark.parametrize("at_packet", [0, 30, 50, 119])
def test_a_packet_overwritten_whole_fails_its_clips_and_shows_no_wrong_frame(
    tmp_path: Path, num_b_frames: int, at_packet: int
) -> None:
    whole = draw_video(tmp_path / "whole.mp4", even_times_ms(120), num_b_frames=num_b_frames)
    damaged = round(30 * damage_file(whole, tmp_path / "v.mp4", at_packet=at_packet))

    results, _ = decode(tmp_path / "v.mp4", one_clip_per_frame(120))

    good = good_ones(results)
    assert damaged not in good
    assert set(range(damaged - 8)) <= set(good)
    # Keyframes: 0, 15, 30, ...; with B-frames the next one may be too near to be trusted.
    next_key = (damaged // 15 + (3 if num_b_frames else 1)) * 15
    assert set(range(next_key, 120)) <= set(good)
    assert {failure_of(results[index])[0] for index in set(results) - set(good)} == {"decode_error"}


@needs_torchcodec
@pytest.mark.parametrize("num_b_frames", [0, 3])
def test_a_picture_that_ffmpeg_patched_over_damage_is_not_passed_on_as_good(
    tmp_path: Path, num_b_frames: int
) -> None:
    whole = draw_video(tmp_path / "whole.mp4", even_times_ms(120), num_b_frames=num_b_frames)
    damaged = round(30 * overwrite_middle(whole, tmp_path / "v.mp4", at_packet=50))

    results, stats = decode(tmp_path / "v.mp4", one_clip_per_frame(120))

    # FFmpeg gave a picture for each frame, also for those that it could not decode.
    assert stats.frames_decoded == 120
    good = good_ones(results)
    assert damaged not in good
    code, reason = failure_of(results[damaged])
    assert code == "decode_error"
    assert reason.startswith("the video is damaged from 1.") and "torchcodec: " in reason
    assert set(range(75, 120)) <= set(good) and set(range(45)) <= set(good)


@needs_torchcodec
def test_a_frame_that_is_missing_without_a_complaint_is_not_filled_in_by_its_neighbour(
    long_video: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    decoded = Reel._decoded

    def forgetful(reel: Reel) -> Iterator[tuple[list[Any], str | None]]:
        for raws, complaint in decoded(reel):
            yield [raw for raw in raws if round(raw.pts_seconds * 30) != 50], complaint

    monkeypatch.setattr(Reel, "_decoded", forgetful)  # as a GPU may

    results, _ = decode(long_video, one_clip_per_frame(600))

    # Up to the next keyframe: what follows may have been predicted from what is missing.
    assert good_ones(results) == [*range(50), *range(60, 600)]
    assert failure_of(results[50]) == (
        "decode_error",
        "the video is damaged from 1.67 s up to its next keyframe (torchcodec: frames are missing)",
    )


@needs_torchcodec
def test_a_video_that_two_readers_list_differently_is_not_trusted(
    long_video: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scan = FrameSource.scan
    monkeypatch.setattr(FrameSource, "scan", lambda source: np.delete(scan(source), 7))

    results, _ = decode(long_video, [clip(0, 0.5)])

    assert failure_of(results[0]) == (
        "video_unreadable",
        "torchcodec cannot be trusted with long.mp4 (it lists 600 frames where PyAV lists 599). "
        "Use --decoder pyav.",
    )


@needs_torchcodec
def test_damage_behind_a_jump_is_found(tmp_path: Path, long_video: Path) -> None:
    damaged_s = damage_file(long_video, tmp_path / "v.mp4", at_packet=545)

    results, stats = decode(tmp_path / "v.mp4", [clip(0, 0.0), clip(1, 18.5), clip(2, 17.9)])

    assert 18.0 < damaged_s < 18.4
    assert numbers_of(results[0]) == [0] and numbers_of(results[2]) == [537]
    assert failure_of(results[1])[0] == "decode_error"
    assert (stats.seeks, stats.frames_decoded < 120) == (1, True)


@needs_torchcodec
def test_a_jump_to_a_damaged_keyframe_is_taken_back_and_all_frames_are_judged(
    tmp_path: Path, long_video: Path
) -> None:
    damaged_s = overwrite_middle(long_video, tmp_path / "v.mp4", at_packet=300)

    results, stats = decode(tmp_path / "v.mp4", [clip(0, 0.0), clip(1, 10.5), clip(2, 12.5)])

    assert damaged_s == 10.0
    assert numbers_of(results[0]) == [0]
    assert failure_of(results[1])[0] == "decode_error"
    # The keyframe at 11 s comes too soon behind the damage; the one at 12 s does not.
    assert numbers_of(results[2]) == [375]
    assert (stats.seeks, stats.frames_decoded > 375) == (1, True)


@needs_torchcodec
@pytest.mark.parametrize("at_packet", [1, 2, 20, 251, 252, 253, 310])
def test_frames_before_a_cut_are_right_and_those_behind_are_truncated(
    tmp_path: Path, long_video: Path, at_packet: int
) -> None:
    path = cut_file(long_video, tmp_path / "v.mp4", at_packet=at_packet)

    results, _ = decode(path, one_clip_per_frame(600))

    good = good_ones(results)
    # With B-frames, the last 16 before the cut may have holes between them: none is used.
    assert good == list(range(max(at_packet - 17, 0)))
    code, reason = failure_of(results[599])
    assert code == "video_truncated"
    assert "of the 20.00 s its header promises" in reason


@needs_torchcodec
def test_a_cut_matroska_is_truncated_too(tmp_path: Path) -> None:
    whole = draw_video(tmp_path / "whole.mkv", even_times_ms(120, start_ms=2000))
    path = cut_file(whole, tmp_path / "v.mkv", at_packet=60)

    results, _ = decode(path, one_clip_per_frame(120))

    assert len(good_ones(results)) in (58, 59, 60)
    assert failure_of(results[119])[0] == "video_truncated"
