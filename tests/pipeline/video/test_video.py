"""Frames come from their presentation times, bad files from nobody's traceback."""

import os
import tracemalloc
from pathlib import Path

import av
import numpy as np
import pytest
from numpy.typing import NDArray

from egoctl.pipeline.errors import VideoError
from egoctl.pipeline.files.cache import MediaFile
from egoctl.pipeline.video import pyav_clips as video
from egoctl.pipeline.video.clip_plan import ClipRequest, DecodedClip, DecodeStats
from egoctl.pipeline.video.pyav_clips import (
    FrameView,
    decode_clips,
    probe_video,
    scan_frame_times,
    video_digest,
)
from egoctl.tests.worlds.decoded_clips import (
    VFR_MS,
    WHOLE,
    clip,
    decode,
    draw_long_video,
    failure_of,
    numbers_of,
    slow_pictures,
)
from egoctl.tests.worlds.drawn_video import draw_video, even_times_ms
from egoctl.tests.worlds.places import DATA


def random_clips(duration_s: float, *, seed: int) -> list[ClipRequest]:
    """Twelve clips of 1 to 8 moments each, some before the start and up to 0.1 s past the end."""
    rng = np.random.default_rng(seed)
    return [
        clip(index, *rng.uniform(-0.2, duration_s + 0.09, rng.integers(1, 9)))
        for index in rng.permutation(12).tolist()
    ]


@pytest.fixture(scope="module")
def long_video(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return draw_long_video(tmp_path_factory.mktemp("long") / "long.mp4")


# --- which frame ------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", ["mp4", "mkv", "ts"])
@pytest.mark.parametrize("num_b_frames", [0, 3])
@pytest.mark.parametrize(
    "times_ms",
    [even_times_ms(90), even_times_ms(60, fps=29.97, start_ms=1500), VFR_MS],
    ids=["constant", "non-zero start", "variable"],
)
def test_random_clips_show_the_last_frame_up_to_each_time(
    tmp_path: Path, suffix: str, num_b_frames: int, times_ms: list[int]
) -> None:
    path = draw_video(tmp_path / f"v.{suffix}", times_ms, num_b_frames=num_b_frames)
    shown_s = (np.array(times_ms) - times_ms[0]) / 1000
    requests = random_clips(shown_s[-1] + 0.01, seed=len(times_ms))

    results, _ = decode(path, requests)

    for request in requests:
        at = [max(int((shown_s <= time_s + 1e-3).sum()) - 1, 0) for time_s in request.times_s[0]]
        assert numbers_of(results[request.index]) == at
        result = results[request.index]
        assert isinstance(result, DecodedClip)
        np.testing.assert_allclose(result.times_s[0], shown_s[at], atol=1e-3)


def test_a_time_rounded_to_just_before_its_frame_still_finds_it(tmp_path: Path) -> None:
    path = draw_video(tmp_path / "v.mp4", [0, 100, 200, 300])

    results, _ = decode(path, [clip(0, 0.0995, 0.0985, 0.1005)])

    assert numbers_of(results[0]) == [1, 0, 1]


def test_a_time_before_the_first_frame_shows_the_first(tmp_path: Path) -> None:
    path = draw_video(tmp_path / "v.mp4", [0, 100, 200, 300])

    results, _ = decode(path, [clip(0, -3.0, -0.5)])

    assert numbers_of(results[0]) == [0, 0]


def test_an_avi_whose_clock_starts_at_its_second_tick_starts_at_its_first_frame(
    tmp_path: Path,
) -> None:
    path = draw_video(tmp_path / "v.avi", even_times_ms(30, fps=20), codec="mpeg4")

    results, _ = decode(path, [clip(0, 0.0, 0.5, 1.0)])

    assert numbers_of(results[0]) == [0, 10, 20]
    assert scan_frame_times(path)[0] == 0.0


def test_a_video_of_one_frame_shows_it(tmp_path: Path) -> None:
    path = draw_video(tmp_path / "v.mp4", [0])

    results, _ = decode(path, [clip(0, 0.0, 0.02)])

    assert numbers_of(results[0]) == [0, 0]


def test_results_come_by_last_time_then_index(long_video: Path) -> None:
    requests = [clip(7, 1.0, 2.0), clip(3, 0.5, 2.0), clip(9, 0.1), clip(1, 1.9, 3.0)]

    results = list(decode_clips(long_video, requests, [WHOLE], DecodeStats()))

    assert [result.index for result in results] == [9, 3, 7, 1]


def test_each_view_has_its_own_times_and_its_own_size(long_video: Path) -> None:
    request = ClipRequest(index=0, times_s=(np.array([0.5, 1.0]), np.array([0.8])))
    views = [WHOLE, FrameView(short_side_px=64, crop_px=48)]

    results, _ = decode(long_video, [request], *views)

    result = results[0]
    assert isinstance(result, DecodedClip)
    assert numbers_of(result) == [15, 30]
    assert [frames.shape for frames in result.frames] == [(2, 64, 64, 3), (1, 48, 48, 3)]
    np.testing.assert_allclose(result.times_s[1], [0.8], atol=1e-3)


def test_a_view_without_times_gives_no_frames_and_has_no_say(long_video: Path) -> None:
    nothing = np.zeros(0)
    requests = [
        ClipRequest(index=0, times_s=(np.array([0.5, 1.0]), nothing)),
        ClipRequest(index=1, times_s=(nothing, np.array([30.0]))),
    ]

    results, _ = decode(long_video, requests, WHOLE, FrameView(short_side_px=64, crop_px=48))

    result = results[0]
    assert isinstance(result, DecodedClip)
    assert (numbers_of(result), result.frames[1].shape) == ([15, 30], (0, 0, 0, 3))
    assert [times_s.tolist() for times_s in result.times_s] == [[0.5, 1.0], []]
    assert failure_of(results[1])[0] == "past_end"


def test_a_clip_that_looks_at_nothing_is_a_broken_caller() -> None:
    with pytest.raises(ValueError, match="clip 3: at least one view needs a time"):
        ClipRequest(index=3, times_s=(np.zeros(0), np.zeros(0)))


def test_a_clip_without_times_for_every_view_is_a_broken_caller(long_video: Path) -> None:
    with pytest.raises(ValueError, match="clip 4 has times for 1 views, but 2"):
        decode_clips(long_video, [clip(4, 0.0)], [WHOLE, WHOLE], DecodeStats())


# --- what it costs ----------------------------------------------------------------------------


def overlapping_clips() -> list[ClipRequest]:
    """Clips of 2 s that start every 0.5 s: each moment of 20 s lies in four of them."""
    return [clip(index, *(index * 0.5 + np.arange(16) / 8)) for index in range(36)]


def test_clips_that_overlap_four_times_decode_each_frame_once(long_video: Path) -> None:
    _, stats = decode(long_video, overlapping_clips())

    assert stats.frames_decoded <= 1.05 * stats.frames_spanned
    assert stats.seeks == 0


def test_a_frame_that_four_clips_share_is_converted_once_per_view(
    long_video: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    converted: list[int] = []

    class CountingReformatter:
        def __init__(self) -> None:
            self.inner = av.video.reformatter.VideoReformatter()

        def reformat(self, frame: av.VideoFrame, *args: object, **kwargs: object) -> av.VideoFrame:
            assert frame.pts is not None
            converted.append(frame.pts)
            return self.inner.reformat(frame, *args, **kwargs)  # type: ignore[arg-type]

    monkeypatch.setattr(video, "VideoReformatter", CountingReformatter)

    _, stats = decode(long_video, overlapping_clips())

    # 8 moments a second from 0 to 19.375 s
    assert len(converted) == len(set(converted)) == stats.frames_used == 156


def test_a_frame_that_cannot_be_made_rgb_costs_its_clips_only(
    long_video: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class MoodyReformatter:
        def __init__(self) -> None:
            self.inner = av.video.reformatter.VideoReformatter()

        def reformat(self, frame: av.VideoFrame, *args: object, **kwargs: object) -> av.VideoFrame:
            assert frame.pts is not None and frame.time_base is not None
            if round(frame.pts * frame.time_base * 30) == 30:
                raise av.FFmpegError(22, "not today")
            return self.inner.reformat(frame, *args, **kwargs)  # type: ignore[arg-type]

    monkeypatch.setattr(video, "VideoReformatter", MoodyReformatter)

    results, _ = decode(long_video, [clip(0, 0.9, 1.0, 1.1), clip(1, 0.9, 1.1)])

    assert failure_of(results[0]) == (
        "decode_error",
        "a yuv420p frame cannot be made RGB (not today)",
    )
    assert numbers_of(results[1]) == [27, 33]


def test_a_clip_in_the_middle_decodes_little_more_than_its_group_of_pictures(
    long_video: Path,
) -> None:
    results, stats = decode(long_video, [clip(0, 15.5, 15.7)])

    assert numbers_of(results[0]) == [465, 471]
    assert stats.seeks == 1
    # one group (30), and what the decoder and the hold for B-frames run ahead
    assert stats.frames_decoded <= 7 + 30 + 16


@pytest.mark.parametrize("suffix", ["mkv", "ts"])
def test_a_clip_in_the_middle_of_a_file_without_an_index_is_sought(
    tmp_path: Path, suffix: str
) -> None:
    path = draw_video(tmp_path / f"v.{suffix}", even_times_ms(400), gop=30)

    results, stats = decode(path, [clip(0, 11.0, 11.1)])

    assert numbers_of(results[0]) == [330, 333]
    assert stats.frames_decoded <= 150


def test_a_gap_is_jumped_where_a_keyframe_lies_in_it(long_video: Path) -> None:
    results, stats = decode(long_video, [clip(0, 0.0, 0.5), clip(1, 18.0, 18.5)])

    assert numbers_of(results[0]) == [0, 15]
    assert numbers_of(results[1]) == [540, 555]
    assert stats.seeks == 1
    assert stats.frames_decoded < 120


def test_a_gap_without_a_keyframe_is_decoded_through(tmp_path: Path) -> None:
    path = draw_video(tmp_path / "v.mp4", even_times_ms(200), gop=1000)

    results, stats = decode(path, [clip(0, 0.0), clip(1, 6.0)])

    assert numbers_of(results[1]) == [180]
    assert (stats.seeks, stats.frames_spanned, stats.frames_used) == (0, 2, 2)


def test_a_transport_stream_with_rare_keyframes_is_not_decoded_over_and_over(
    tmp_path: Path,
) -> None:
    path = draw_video(tmp_path / "v.ts", even_times_ms(400), gop=1000)

    results, stats = decode(path, [clip(index, index * 2.5) for index in range(5)])

    assert [numbers_of(results[index]) for index in range(5)] == [[0], [75], [150], [225], [300]]
    assert stats.frames_decoded < 2.5 * 400


def test_pictures_are_let_go_when_no_clip_needs_them(long_video: Path) -> None:
    view = FrameView(short_side_px=None, crop_px=128)
    picture_bytes = 128 * 128 * 3
    requests = [clip(index, *(index * 0.5 + np.arange(15) / 30)) for index in range(38)]

    tracemalloc.start()
    for _ in decode_clips(long_video, requests, [view], DecodeStats()):
        pass
    _, peak_bytes = tracemalloc.get_traced_memory()
    tracemalloc.stop()

    # 15 pictures of the clip at work, its stack, and the result just handed out; 570 in all.
    assert peak_bytes < 60 * picture_bytes


def test_leaving_early_closes_the_file(long_video: Path) -> None:
    open_before = set(os.listdir("/proc/self/fd"))
    clips = decode_clips(long_video, [clip(0, 0.0), clip(1, 9.0)], [WHOLE], DecodeStats())
    next(clips)

    clips.close()

    assert set(os.listdir("/proc/self/fd")) == open_before


# --- real recordings ----------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "num_frames"), [("max-heromode", 315), ("karma", 362)])
def test_a_gopro_recording_decodes_as_the_obvious_way_does(name: str, num_frames: int) -> None:
    path = DATA / "gopro" / f"{name}.mp4"
    if not path.exists():
        pytest.skip(f"needs {path}")
    requests = [
        clip(index, *(start_s + np.arange(4) * 0.1334))
        for index, start_s in enumerate((0, 2.1, 8.9))
    ]

    results, stats = decode(path, requests, FrameView(short_side_px=128, crop_px=112))

    assert len(scan_frame_times(path)) == probe_video(path).num_frames == num_frames
    for request in requests:
        result = results[request.index]
        assert isinstance(result, DecodedClip)
        expected = slow_pictures(path, request.times_s[0], 128, 112)
        np.testing.assert_array_equal(result.frames[0], expected)


# === What is known of a video without looking at its pictures: header, frame times, digest ===


def test_a_probe_tells_what_the_header_says(long_video: Path) -> None:
    info = probe_video(long_video)

    assert (info.codec, info.pixel_format) == ("h264", "yuv420p")
    assert (info.width, info.height, info.rotation_deg) == (96, 64, 0)
    assert info.average_fps == pytest.approx(30, abs=0.01)
    assert info.duration_s == pytest.approx(20.0, abs=0.02)
    assert info.num_frames == 600


@pytest.mark.parametrize("suffix", ["mp4", "mkv", "ts"])
def test_a_late_start_does_not_lengthen_the_video(tmp_path: Path, suffix: str) -> None:
    path = draw_video(tmp_path / f"v.{suffix}", even_times_ms(60, start_ms=3000))

    assert probe_video(path).duration_s == pytest.approx(2.0, abs=0.04)


def test_probing_an_empty_file_raises(tmp_path: Path) -> None:
    path = tmp_path / "v.mp4"
    path.touch()

    with pytest.raises(VideoError, match="the file is empty") as raised:
        probe_video(path)

    assert raised.value.code == "video_unreadable"


@pytest.mark.parametrize("num_b_frames", [0, 3])
@pytest.mark.parametrize("suffix", ["mp4", "mkv", "ts"])
def test_a_scan_finds_every_presentation_time_without_decoding(
    tmp_path: Path, suffix: str, num_b_frames: int
) -> None:
    times_ms = [700 + time_ms for time_ms in VFR_MS]
    path = draw_video(tmp_path / f"v.{suffix}", times_ms, num_b_frames=num_b_frames)

    times_s = scan_frame_times(path)

    np.testing.assert_allclose(times_s, np.array(VFR_MS) / 1000, atol=1e-3)


def test_the_digest_of_a_small_file_is_its_blake3(tmp_path: Path) -> None:
    path = tmp_path / "v.mp4"
    path.write_bytes(b"abc")

    # The official value for b"abc".
    digest = video_digest(MediaFile(url=str(path)))
    assert digest == "6437b3ac38465133ffb63b75273a8db548c558465d79db03fd359c6cd5bd9d85"


def test_the_digest_of_a_large_file_sees_its_size_its_ends_and_its_blocks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(video, "WHOLE_FILE_BYTES", 2**20)
    monkeypatch.setattr(video, "EDGE_BYTES", 1000)
    monkeypatch.setattr(video, "BLOCK_BYTES", 100)
    data = bytearray(2 * 2**20)
    path = tmp_path / "v.mp4"

    def digest_with(position: int | None) -> str:
        changed = bytearray(data)
        if position is not None:
            changed[position] = 1
        path.write_bytes(changed)
        return video_digest(MediaFile(url=str(path)))

    original = digest_with(None)
    second_block = (len(data) - 100) // 63
    seen = [0, 999, second_block, second_block + 99, len(data) - 1000, len(data) - 1]
    assert original not in {digest_with(position) for position in seen}
    assert original == digest_with(second_block + 200)  # the documented price
    path.write_bytes(data + b"\0")
    assert video_digest(MediaFile(url=str(path))) != original


def test_a_missing_file_has_no_digest(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="there is no file .*gone.mp4"):
        video_digest(MediaFile(url=str(tmp_path / "gone.mp4")))


# === How frames look: upright, as bright as they were recorded, cut where they should be ===


RED = (255, 0, 0)


def corners(width: int, height: int) -> NDArray[np.uint8]:
    """Gray, with a red corner at the top left."""
    picture = np.full((height, width, 3), 128, np.uint8)
    picture[: height // 2, : width // 2] = RED
    return picture


@pytest.mark.parametrize("rotation_deg", [0, 90, -90, 180])
def test_a_turned_video_comes_out_upright(tmp_path: Path, rotation_deg: int) -> None:
    upright = corners(96, 64)
    # The player turns by rotation_deg counterclockwise, so the camera stored it turned back.
    stored = np.ascontiguousarray(np.rot90(upright, -rotation_deg // 90))
    path = draw_video(
        tmp_path / "v.mp4", [0, 33], pictures=[stored, stored], rotation_deg=rotation_deg
    )

    results, _ = decode(
        path,
        [clip(0, 0.0)],
        FrameView(short_side_px=64, crop_px=64),
    )

    result, info = results[0], probe_video(path)
    assert isinstance(result, DecodedClip)
    # The centre 64 columns of 96: red reaches from column 0 to 32.
    expected = upright[:, 16:80]
    assert np.abs(result.frames[0][0].astype(int) - expected).mean() < 8
    assert (info.width, info.height) == (96, 64)
    assert info.rotation_deg == -rotation_deg % 360


@pytest.mark.parametrize(
    ("codec", "pixel_format", "suffix"),
    [
        ("libx264", "yuv420p", "mp4"),
        ("libx264", "yuv420p10", "mp4"),
        ("libx264", "yuv444p", "mkv"),
        ("libx264", "gray", "mp4"),
        ("mjpeg", "yuvj420p", "avi"),
        ("libvpx-vp9", "yuv420p", "webm"),
    ],
)
def test_every_pixel_format_becomes_rgb_of_the_same_brightness(
    tmp_path: Path, codec: str, pixel_format: str, suffix: str
) -> None:
    path = tmp_path / f"v.{suffix}"
    draw_video(path, even_times_ms(3, fps=20), codec=codec, pixel_format=pixel_format)

    results, _ = decode(path, [clip(0, 0.0, 0.05, 0.1)])

    result = results[0]
    assert isinstance(result, DecodedClip)
    assert numbers_of(result) == [0, 1, 2]
    # Background gray is 90, a white block 255, a black one 0, whatever the coded range.
    white, black = result.frames[0][1, 8, 4], result.frames[0][1, 8, 16]
    assert np.abs(result.frames[0][1, 56].astype(int) - 90).max() <= 6
    assert white.min() >= 245 and black.max() <= 10


@pytest.mark.parametrize(("width", "height"), [(97, 65), (65, 97), (131, 70)])
def test_odd_sizes_keep_their_lines_straight(tmp_path: Path, width: int, height: int) -> None:
    picture = corners(width, height)
    path = tmp_path / "v.mkv"
    draw_video(path, [0, 33], pictures=[picture, picture], pixel_format="yuv444p")

    results, _ = decode(path, [clip(0, 0.0)], FrameView(short_side_px=65, crop_px=51))

    expected = slow_pictures(path, np.array([0.0]), 65, 51)
    result = results[0]
    assert isinstance(result, DecodedClip)
    np.testing.assert_array_equal(result.frames[0], expected)


def test_a_crop_larger_than_the_short_side_is_refused() -> None:
    with pytest.raises(ValueError, match="crop_px <= short_side_px, got 256 and 224"):
        FrameView(short_side_px=224, crop_px=256)
