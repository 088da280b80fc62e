"""How frames look: upright, as bright as they were recorded, cut where they should be."""

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from egoctl.pipeline.video.clip_plan import DecodedClip
from egoctl.pipeline.video.pyav_clips import FrameView, probe_video
from egoctl.tests.worlds.decoded_clips import clip, decode, numbers_of, slow_pictures
from egoctl.tests.worlds.drawn_video import draw_video, even_times_ms

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
