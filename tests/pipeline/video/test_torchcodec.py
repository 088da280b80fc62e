"""The second decoder shows the frames that the first shows, and they look the same."""

import os
from pathlib import Path

import numpy as np
import pytest

from egoctl.pipeline.video.clip_plan import ClipRequest, DecodedClip, DecodeStats, FailedClip
from egoctl.pipeline.video.decoder_choice import decode_with
from egoctl.pipeline.video.pyav_clips import FrameView, decode_clips
from egoctl.pipeline.video.torchcodec_clips import decode_clips_torchcodec
from egoctl.tests.worlds.decoded_clips import (
    VFR_MS,
    WHOLE,
    clip,
    draw_long_video,
    failure_of,
    numbers_of,
)
from egoctl.tests.worlds.drawn_video import draw_video, even_times_ms, number_picture
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
