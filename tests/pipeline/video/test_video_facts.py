"""What is known of a video without looking at its pictures: header, frame times, digest."""

from pathlib import Path

import numpy as np
import pytest

from egoctl.pipeline.errors import VideoError
from egoctl.pipeline.files.cache import MediaFile
from egoctl.pipeline.video import pyav_clips as video
from egoctl.pipeline.video.pyav_clips import probe_video, scan_frame_times, video_digest
from egoctl.tests.worlds.decoded_clips import VFR_MS, draw_long_video
from egoctl.tests.worlds.drawn_video import draw_video, even_times_ms


@pytest.fixture(scope="module")
def long_video(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return draw_long_video(tmp_path_factory.mktemp("long") / "long.mp4")


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
