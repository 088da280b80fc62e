"""When a clip is looked at: times by hand, and properties of all of them."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from egoctl.pipeline.records import Clip, Segment
from egoctl.pipeline.sampling import (
    clip_spans,
    clips_of,
    frame_times,
    imu_times,
    num_imu_samples,
    resolved_stride_s,
    uniform_times,
)

WINDOW_S = 64 / 30
# Nothing is written to disk, and every run draws the same examples.
SETTINGS = settings(max_examples=100, deadline=None, database=None, derandomize=True)


def clip(start_s: float, stop_s: float) -> Clip:
    return Clip(clip_id="c", segment_id="s", video_id="v", start_s=start_s, stop_s=stop_s)


def segment(start_s: float, stop_s: float) -> Segment:
    return Segment(
        segment_id="P01_01_7", video_id="v", video_path="v.mp4", imu_path=None,
        participant_id="P01", start_s=start_s, stop_s=stop_s, label=None, split="train",
    )  # fmt: skip


def test_sixteen_frames_every_4th_of_30_fps_start_a_fifteenth_second_into_the_window() -> None:
    times = frame_times(clip(10.0, 10.0 + WINDOW_S), 16, 4 / 30)

    np.testing.assert_allclose(times, [10 + k * 4 / 30 + 2 / 30 for k in range(16)], atol=1e-12)


def test_a_short_clip_holds_its_first_and_last_frame() -> None:
    times = frame_times(clip(5.0, 6.0), 16, 4 / 30)

    expected = [
        5.0, 5.0, 5.0, 5.0, 5.033333, 5.166667, 5.3, 5.433333,
        5.566667, 5.7, 5.833333, 5.966667, 5.999999, 5.999999, 5.999999, 5.999999,
    ]  # fmt: skip
    np.testing.assert_allclose(times, expected, atol=5e-7)
    assert times.max() < 6.0


def test_one_frame_is_the_middle_one() -> None:
    assert frame_times(clip(1.0, 3.0), 1, 0.5).tolist() == [2.0]
    assert uniform_times(clip(1.0, 3.0), 1).tolist() == [2.0]


def test_uniform_frames_are_the_middles_of_equal_bins() -> None:
    assert uniform_times(clip(0.0, 3.0), 3).tolist() == [0.5, 1.5, 2.5]
    assert uniform_times(clip(10.0, 12.0), 4).tolist() == [10.25, 10.75, 11.25, 11.75]


def test_a_stride_that_overruns_the_window_is_made_smaller() -> None:
    assert resolved_stride_s(16, 4 / 30, WINDOW_S) == pytest.approx(4 / 30, abs=1e-12)
    assert resolved_stride_s(16, 4 / 30, 1.0) == 0.0625


def test_the_papers_window_has_422_imu_samples_centred_on_the_clip() -> None:
    assert num_imu_samples(WINDOW_S, 198) == 422

    times = imu_times(clip(0.0, WINDOW_S), 422, 198)

    assert times.shape == (422,)
    # 422.4 sample intervals fit: 0.2 are spare on each side, and half a one before the first.
    assert times[0] == pytest.approx(0.7 / 198, abs=1e-9)
    assert times[-1] == pytest.approx(WINDOW_S - 0.7 / 198, abs=1e-9)
    np.testing.assert_allclose(np.diff(times), 1 / 198, atol=1e-12)


def test_a_window_that_holds_whole_samples_loses_none_to_rounding() -> None:
    assert num_imu_samples(2.0, 198) == 396
    assert num_imu_samples(0.7, 10) == 7  # 0.7 * 10 is just below 7 for some floats
    assert num_imu_samples(2.3, 100) == 230  # 229.99999999999997


def test_imu_samples_outside_a_short_clip_are_held_too() -> None:
    times = imu_times(clip(0.0, 2.0), 4, 1.0)

    np.testing.assert_allclose(times, [0.0, 0.5, 1.5, 1.999999], atol=1e-12)


def test_without_a_stride_the_one_window_is_in_the_middle() -> None:
    assert clip_spans(0.0, 10.0, window_s=2.0, stride_s=None) == [(4.0, 6.0)]


def test_with_a_stride_windows_stay_inside_the_segment() -> None:
    spans = clip_spans(100.0, 110.0, window_s=2.0, stride_s=3.0)

    assert spans == [(100.0, 102.0), (103.0, 105.0), (106.0, 108.0)]  # 109 to 111 would not


@pytest.mark.parametrize("stride_s", [None, 0.5])
def test_a_segment_shorter_than_the_window_is_one_clip_by_itself(stride_s: float | None) -> None:
    assert clip_spans(1.0, 2.0, window_s=2.0, stride_s=stride_s) == [(1.0, 2.0)]


def test_a_segment_written_with_six_digits_still_holds_a_whole_window() -> None:
    assert clip_spans(0.0, 2.133333, window_s=WINDOW_S, stride_s=None) == [(0.0, WINDOW_S)]
    assert clip_spans(0.0, 2.133332, window_s=WINDOW_S, stride_s=None) == [(0.0, 2.133332)]


@pytest.mark.parametrize(
    ("stop_s", "stride_s", "starts_s"),
    [
        (2.4, 8 / 30, [0.0, 0.266667]),
        (2.4, 4 / 30, [0.0, 0.133333, 0.266667]),
        (2.133333, 0.5, [0.0]),  # a 64/30 s segment as written with six digits
        (3.0, 0.1, [0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8]),
    ],
)
def test_a_window_that_just_fits_is_not_lost_to_float_rounding(
    stop_s: float, stride_s: float, starts_s: list[float]
) -> None:
    clips = clips_of(segment(0.0, stop_s), window_s=WINDOW_S, stride_s=stride_s)

    assert [one.start_s for one in clips] == starts_s
    assert all(one.stop_s == pytest.approx(one.start_s + WINDOW_S, abs=1e-6) for one in clips)


def test_a_clip_is_named_after_its_segment_and_span() -> None:
    first, second = clips_of(segment(1.0, 4.0), window_s=2.0, stride_s=1.0)

    assert first.clip_id == "P01_01_7@1.000-3.000"
    assert second.clip_id == "P01_01_7@2.000-4.000"
    assert (second.segment_id, second.video_id) == ("P01_01_7", "v")
    assert (second.start_s, second.stop_s, second.mid_s) == (2.0, 4.0, 3.0)


clips = st.builds(
    lambda start_s, length_s: clip(start_s, start_s + length_s),
    st.floats(0, 1e5),
    st.floats(1e-3, 100),
)


@SETTINGS
@given(one=clips, count=st.integers(1, 64), step_s=st.floats(1e-3, 2))
def test_every_time_is_inside_the_clip_and_in_order(one: Clip, count: int, step_s: float) -> None:
    for times in (
        frame_times(one, count, step_s),
        imu_times(one, count, 1 / step_s),
        uniform_times(one, count),
    ):
        assert times.shape == (count,)
        assert one.start_s <= times.min()
        assert times.max() < one.stop_s
        assert (np.diff(times) >= 0).all()


@SETTINGS
@given(
    start_s=st.floats(0, 1e4),
    length_s=st.floats(0.05, 60),
    window_s=st.floats(0.1, 10),
    stride_s=st.none() | st.floats(0.05, 5),
)
def test_every_clip_is_inside_its_segment_and_the_next_one_would_not_be(
    start_s: float, length_s: float, window_s: float, stride_s: float | None
) -> None:
    stop_s = start_s + length_s
    found = clips_of(segment(start_s, stop_s), window_s=window_s, stride_s=stride_s)

    slack_s = 1e-5  # clips are written with six digits
    assert start_s - slack_s <= found[0].start_s
    assert found[-1].stop_s <= stop_s + slack_s
    if stride_s is not None and length_s >= window_s:
        assert found[-1].stop_s + stride_s > stop_s - slack_s
        assert found[0].start_s == round(start_s, 6)
    length_of_all = min(length_s, window_s)
    assert all(abs(one.stop_s - one.start_s - length_of_all) <= slack_s for one in found)
