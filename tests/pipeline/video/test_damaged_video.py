"""Files that are not well: each gives its code and its sentence, and the clips that are good."""

from pathlib import Path

import pytest

from egoctl.pipeline.video.clip_plan import DecodedClip, FailedClip
from egoctl.pipeline.video.pyav_clips import scan_frame_times
from egoctl.tests.worlds.decoded_clips import clip, decode, draw_long_video, failure_of, numbers_of
from egoctl.tests.worlds.drawn_video import (
    cut_file,
    damage_file,
    draw_silence,
    draw_video,
    even_times_ms,
)


@pytest.fixture(scope="module")
def long_video(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return draw_long_video(tmp_path_factory.mktemp("long") / "long.mp4")


def test_a_missing_file_fails_every_clip_by_name(tmp_path: Path) -> None:
    results, _ = decode(tmp_path / "gone.mp4", [clip(0, 0.0), clip(1, 1.0)])

    for index in (0, 1):
        code, reason = failure_of(results[index])
        assert code == "video_missing"
        assert reason == f"there is no file {tmp_path / 'gone.mp4'}"


def test_an_empty_file_says_that_it_is_empty(tmp_path: Path) -> None:
    path = tmp_path / "v.mp4"
    path.touch()

    results, _ = decode(path, [clip(0, 0.0)])

    assert failure_of(results[0]) == (
        "video_unreadable",
        "v.mp4 cannot be read: the file is empty",
    )


def test_a_text_named_mp4_is_unreadable_in_the_decoder_s_words(tmp_path: Path) -> None:
    path = tmp_path / "v.mp4"
    path.write_text("once upon a time\n" * 50)

    results, _ = decode(path, [clip(0, 0.0)])

    code, reason = failure_of(results[0])
    assert code == "video_unreadable"
    assert "v.mp4 is not a video" in reason and "Invalid data found" in reason


def test_a_folder_is_unreadable(tmp_path: Path) -> None:
    results, _ = decode(tmp_path, [clip(0, 0.0)])

    assert failure_of(results[0])[0] == "video_unreadable"


def test_sound_alone_has_no_video_stream(tmp_path: Path) -> None:
    results, _ = decode(draw_silence(tmp_path / "v.mp4"), [clip(0, 0.0)])

    assert failure_of(results[0]) == (
        "no_video_stream",
        "v.mp4 holds no video, only other streams",
    )


def test_frames_without_times_are_unreadable_and_told_the_way_out(tmp_path: Path) -> None:
    path = draw_video(tmp_path / "v.h264", even_times_ms(10))

    results, _ = decode(path, [clip(0, 0.0)])

    code, reason = failure_of(results[0])
    assert code == "video_unreadable"
    assert "no presentation times. Remux it" in reason


def test_an_unfinished_mp4_is_unreadable(tmp_path: Path) -> None:
    whole = draw_video(tmp_path / "whole.mp4", even_times_ms(60))
    path = cut_file(whole, tmp_path / "v.mp4", at_packet=30)

    results, _ = decode(path, [clip(0, 0.0)])

    code, reason = failure_of(results[0])
    assert code == "video_unreadable"
    assert "its recording was never finished" in reason


@pytest.mark.parametrize("times_s", [(0.5, 1.0), (15.0, 18.0)], ids=["before", "behind"])
def test_a_cut_mp4_gives_the_clips_before_the_cut_and_names_the_second(
    tmp_path: Path, long_video: Path, times_s: tuple[float, float]
) -> None:
    path = cut_file(long_video, tmp_path / "v.mp4", at_packet=310)
    data_end_s = scan_frame_times(path)[-1]

    results, _ = decode(path, [clip(0, *times_s), clip(1, 19.0, 19.5)])

    if times_s[0] < data_end_s:
        assert numbers_of(results[0]) == [15, 30]
    else:
        assert failure_of(results[0])[0] == "video_truncated"
    code, reason = failure_of(results[1])
    assert code == "video_truncated"
    assert reason.startswith("the clip needs 19.00-19.50 s but the video was cut off: its data end")
    assert reason.endswith("of the 20.00 s its header promises")
    named_s = float(reason.split("end at ")[1].split(" s")[0])
    assert abs(named_s - data_end_s) < 0.2


def test_frames_right_before_a_cut_are_right(tmp_path: Path, long_video: Path) -> None:
    # Some B-frames lie behind the cut; the frames shown after them must not fill in for them.
    for at_packet in (251, 252, 253, 254):
        path = cut_file(long_video, tmp_path / "v.mp4", at_packet=at_packet)
        requests = [clip(number, number / 30) for number in range(600)]

        results, _ = decode(path, requests)

        good = [number for number in range(600) if isinstance(results[number], DecodedClip)]
        assert at_packet - 4 <= len(good) <= at_packet
        assert good == list(range(len(good)))
        assert [numbers_of(results[number])[0] for number in good] == good


def test_a_cut_matroska_is_truncated_too(tmp_path: Path) -> None:
    whole = draw_video(tmp_path / "whole.mkv", even_times_ms(120, start_ms=2000))
    path = cut_file(whole, tmp_path / "v.mkv", at_packet=60)

    results, _ = decode(path, [clip(0, 0.5), clip(1, 3.5)])

    assert numbers_of(results[0]) == [15]
    assert failure_of(results[1])[0] == "video_truncated"


def test_a_clip_past_the_end_names_both_times(tmp_path: Path) -> None:
    path = draw_video(tmp_path / "v.mp4", even_times_ms(30))

    results, _ = decode(path, [clip(0, 0.5), clip(1, 0.9, 1.09), clip(2, 0.5, 1.12)])

    assert numbers_of(results[0]) == [15]
    assert numbers_of(results[1]) == [27, 29]
    assert failure_of(results[2]) == (
        "past_end",
        "the clip needs 0.50-1.12 s but the video ends at 1.00 s",
    )


@pytest.mark.parametrize("num_b_frames", [0, 3])
def test_a_damaged_packet_fails_the_clips_up_to_the_next_keyframe_only(
    tmp_path: Path, num_b_frames: int
) -> None:
    whole = draw_video(tmp_path / "whole.mp4", even_times_ms(120), num_b_frames=num_b_frames)
    damaged_s = damage_file(whole, tmp_path / "v.mp4", at_packet=50)
    requests = [clip(number, number / 30) for number in range(120)]

    results, _ = decode(tmp_path / "v.mp4", requests)

    failed = [number for number in range(120) if isinstance(results[number], FailedClip)]
    damaged = round(damaged_s * 30)
    assert failed == list(range(failed[0], 60))  # keyframes: 0, 15, 30, 45, 60, ...
    assert damaged - 8 * (num_b_frames > 0) <= failed[0] <= damaged
    code, reason = failure_of(results[59])
    assert code == "decode_error"
    assert reason.startswith("the video is damaged from 1.") and "next keyframe" in reason
    for number in set(range(120)) - set(failed):
        assert numbers_of(results[number]) == [number]


def test_a_clip_around_the_damage_fails_even_if_its_moments_miss_it(tmp_path: Path) -> None:
    whole = draw_video(tmp_path / "whole.mp4", even_times_ms(120))
    damage_file(whole, tmp_path / "v.mp4", at_packet=50)

    results, _ = decode(tmp_path / "v.mp4", [clip(0, 1.0, 3.0), clip(1, 0.0, 1.0)])

    assert failure_of(results[0])[0] == "decode_error"
    assert numbers_of(results[1]) == [0, 30]


@pytest.mark.parametrize("number", [0, 119])
def test_damage_at_either_end_of_the_file_is_no_other_frame_s(tmp_path: Path, number: int) -> None:
    whole = draw_video(tmp_path / "whole.mp4", even_times_ms(120))
    damage_file(whole, tmp_path / "v.mp4", at_packet=number)

    results, _ = decode(tmp_path / "v.mp4", [clip(0, number / 30), clip(1, 2.0)])

    assert failure_of(results[0])[0] == "decode_error"
    assert numbers_of(results[1]) == [60]
