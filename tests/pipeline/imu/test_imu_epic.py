"""EPIC-KITCHENS' IMU files: what their clock hides, what is mended, what is said of the rest."""

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from egoctl.pipeline.errors import ImuError
from egoctl.pipeline.extraction.plan import store_rows
from egoctl.pipeline.files.cache import MediaFile
from egoctl.pipeline.imu.epic import repair_clock
from egoctl.pipeline.imu.recording import (
    ImuResampler,
    imu_files,
    read_imu,
    read_media_imu,
    summarize_imu,
)
from egoctl.pipeline.imu.sensor import RATE_HZ
from egoctl.pipeline.reading.clip_job import ClipSource
from egoctl.pipeline.records import Clip, ImuTrack, ImuWindow
from egoctl.pipeline.sampling import imu_times
from egoctl.tests.worlds.epic_world import stamped_ms, write_pair


def window(track: ImuTrack, start_s: float) -> ImuWindow:
    stop_s = start_s + 64 / 30
    clip = Clip(clip_id="c", segment_id="s", video_id="v", start_s=start_s, stop_s=stop_s)
    return ImuResampler(track).window(imu_times(clip, 422, RATE_HZ), span_s=(start_s, stop_s))


def refusal(track: ImuTrack, start_s: float) -> ImuError:
    with pytest.raises(ImuError) as caught:
        window(track, start_s)
    return caught.value


# --- the clock ---------------------------------------------------------------------------------


def test_even_payloads_of_varying_size_stay_as_they_were_stamped() -> None:
    time_s = stamped_ms([198, 197, 200]) / 1000

    np.testing.assert_allclose(repair_clock(time_s), time_s, atol=1e-12)


def test_samples_crowded_at_225_hz_are_spread_over_their_second() -> None:
    crowded_s = stamped_ms([198, 198, 198], spacing_ms=1000 / 225) / 1000

    mended_s = repair_clock(crowded_s)

    assert np.diff(crowded_s).max() == pytest.approx(1 - 197 / 225)
    np.testing.assert_allclose(np.diff(mended_s), 1 / 198, atol=1e-12)
    assert (mended_s[0], mended_s[198], mended_s[396]) == (0.0, 1.0, 2.0)


def test_stamps_rounded_to_milliseconds_are_spread_the_same() -> None:
    rounded_s = np.round(stamped_ms([198, 198, 198])) / 1000

    np.testing.assert_allclose(np.diff(repair_clock(rounded_s)), 1 / 198, atol=1e-9)


def test_a_payload_that_lost_samples_keeps_the_usual_spacing_and_shows_a_gap() -> None:
    mended_s = repair_clock(stamped_ms([198, 99, 198]) / 1000)

    spacing_s = np.diff(mended_s)
    assert mended_s[198 + 98] == pytest.approx(1 + 98 / 198)
    assert spacing_s.max() == pytest.approx(100 / 198)
    assert np.count_nonzero(spacing_s > 0.006) == 1


def test_a_payload_that_is_absent_stays_a_gap_of_a_second() -> None:
    time_s = stamped_ms([198, 198, 198, 198]) / 1000
    time_s = np.delete(time_s, np.s_[198:396])

    assert np.diff(repair_clock(time_s)).max() == pytest.approx(1 + 1 / 198)


def test_a_payload_that_stands_twice_stays_a_step_back() -> None:
    time_s = stamped_ms([200, 200, 200]) / 1000
    time_s = np.concatenate([time_s[:400], time_s[200:]])

    spacing_s = np.diff(repair_clock(time_s))

    assert np.flatnonzero(spacing_s <= 0).tolist() == [399]
    assert spacing_s[399] == pytest.approx(1 - 1.995)


def test_a_clock_that_does_not_begin_its_seconds_is_left_alone() -> None:
    time_s = 0.31 + np.arange(1000) / 197.3

    np.testing.assert_array_equal(repair_clock(time_s), time_s)


def test_no_samples_are_no_times() -> None:
    assert repair_clock(np.zeros(0)).shape == (0,)


# --- the pair ----------------------------------------------------------------------------------


def test_a_pair_is_named_by_its_accelerometer_and_keeps_two_clocks_and_the_cameras_axes(
    tmp_path: Path,
) -> None:
    (tmp_path / "P01_101-accl.csv").write_text(
        "Milliseconds,AcclX,AcclY,AcclZ\n0,9.5,0.25,-1\n500,9.75,0.5,-2\n"
    )
    (tmp_path / "P01_101-gyro.csv").write_text(
        "Milliseconds,GyroX,GyroY,GyroZ\n0,0.125,1,2\n250,0.25,3,4\n500,0.5,5,6\n750,1,7,8\n"
    )

    track = read_imu(tmp_path / "P01_101-accl.csv")

    np.testing.assert_array_equal(track.accel_time_s, [0, 0.5])
    np.testing.assert_array_equal(track.accel_N3, [[9.5, 0.25, -1], [9.75, 0.5, -2]])
    np.testing.assert_array_equal(track.gyro_time_s, [0, 0.25, 0.5, 0.75])
    np.testing.assert_array_equal(
        track.gyro_M3, [[0.125, 1, 2], [0.25, 3, 4], [0.5, 5, 6], [1, 7, 8]]
    )


def test_a_recording_is_both_files_and_read_from_both() -> None:
    pair = MediaFile(url="s3://epic/P01/meta_data/P01_101-accl.csv")
    plain = MediaFile(url="s3://epic/P01_101.csv")

    assert [one.url for one in imu_files(pair)] == [
        "s3://epic/P01/meta_data/P01_101-accl.csv",
        "s3://epic/P01/meta_data/P01_101-gyro.csv",
    ]
    assert imu_files(plain) == (plain,)


def test_of_a_pair_in_a_bucket_both_files_are_fetched(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_pair(tmp_path / "bucket", "P01_101", accel_per_s=[198] * 4, gyro_per_s=[198] * 4)

    def fetched(url: str) -> Path:
        # As the cache does: every file in a folder of its own.
        name = url.removeprefix("s3://epic/")
        folder = tmp_path / name.removesuffix(".csv")
        folder.mkdir()
        return (tmp_path / "bucket" / name).rename(folder / name)

    monkeypatch.setattr("egoctl.pipeline.files.cache.local_file", fetched)

    track = read_media_imu(MediaFile(url="s3://epic/P01_101-accl.csv"))

    assert (len(track.accel_time_s), len(track.gyro_time_s)) == (792, 792)


def test_a_stores_key_of_the_imu_covers_both_files(tmp_path: Path) -> None:
    accl = write_pair(tmp_path, "P01_101", accel_per_s=[198], gyro_per_s=[198])
    source = ClipSource(
        clip=Clip(clip_id="c", segment_id="s", video_id="v", start_s=0, stop_s=1),
        video=MediaFile(url=str(tmp_path / "none.mp4")),
        imu=MediaFile(url=str(accl)),
    )
    (before,) = store_rows({"c": source}, with_imu=True)

    gyro = tmp_path / "P01_101-gyro.csv"
    gyro.write_text(gyro.read_text() + "1000,0,0,0\n")

    (after,) = store_rows({"c": source}, with_imu=True)
    assert before.imu_key is not None and after.imu_key is not None
    assert before.imu_key != after.imu_key


def test_a_window_is_the_measured_signal(tmp_path: Path) -> None:
    accl = write_pair(tmp_path, "P01_101", accel_per_s=[198] * 6, gyro_per_s=[201] * 6)

    found = window(read_media_imu(MediaFile(url=str(accl))), 2.0)

    assert found.coverage == 1.0
    assert found.samples_W6.shape == (422, 6)
    # write_pair turns the head at 1 rad/s once in two seconds.
    middle_s = 2.0 + 32 / 30
    times_W = middle_s + (np.arange(422) - 210.5) / 198
    expected_W: NDArray[np.float64] = np.sin(np.pi * times_W)
    np.testing.assert_allclose(found.samples_W6[:, 3] + found.mean_6[3], expected_W, atol=0.002)


def test_crowded_samples_cover_a_window_that_their_stamps_would_not(tmp_path: Path) -> None:
    accl = write_pair(
        tmp_path, "P01_101", accel_per_s=[198] * 6, gyro_per_s=[198] * 6, spacing_ms=1000 / 225
    )

    assert window(read_imu(accl), 2.0).coverage == 1.0


def test_a_stream_that_ends_before_its_video_refuses_the_windows_past_its_end(
    tmp_path: Path,
) -> None:
    accl = write_pair(tmp_path, "P01_101", accel_per_s=[198] * 7, gyro_per_s=[198] * 5)
    track = read_imu(accl)

    assert window(track, 2.5).coverage == 1.0
    assert refusal(track, 4.0).code == "imu_low_coverage"
    assert "the gyroscope covers 46 % of 4.00-6.13 s, needed 90 %: it ends at 4.99 s" in str(
        refusal(track, 4.0)
    )


def test_a_missing_payload_refuses_the_windows_that_touch_it(tmp_path: Path) -> None:
    accl = write_pair(
        tmp_path, "P01_101", accel_per_s=[198] * 9, gyro_per_s=[198, 198, 198, 0, *[198] * 5]
    )
    track = read_imu(accl)

    assert summarize_imu(track).longest_gap_s == pytest.approx(1 + 1 / 198)
    assert "it has a gap of 1.01 s at 2.99 s" in str(refusal(track, 2.5))
    assert window(track, 5.0).coverage == 1.0


def test_a_payload_that_stands_twice_refuses_the_windows_that_touch_it(tmp_path: Path) -> None:
    accl = write_pair(tmp_path, "P01_101", accel_per_s=[198] * 8, gyro_per_s=[198] * 8)
    lines = accl.read_text().splitlines()
    accl.write_text("\n".join([*lines[: 1 + 2 * 198], *lines[1 + 198 :]]))
    track = read_imu(accl)

    assert summarize_imu(track).num_non_monotonic == 1
    assert refusal(track, 0.5).code == "imu_not_monotonic"
    assert window(track, 4.0).coverage == 1.0


def test_two_equal_axes_refuse_the_window(tmp_path: Path) -> None:
    accl = write_pair(tmp_path, "P01_101", accel_per_s=[198] * 5, gyro_per_s=[198] * 5)
    lines = (tmp_path / "P01_101-gyro.csv").read_text().splitlines()
    cells = [line.split(",") for line in lines[1:]]
    doubled = [",".join([time, x, y, y]) for time, x, y, _ in cells]
    (tmp_path / "P01_101-gyro.csv").write_text("\n".join([lines[0], *doubled]))
    track = read_imu(accl)

    assert summarize_imu(track).duplicated_axes == ("gyroscope y = z",)
    assert refusal(track, 1.0).code == "imu_duplicate_axes"


# --- files that are no pair --------------------------------------------------------------------


def test_without_the_gyroscopes_file_the_reason_tells_both_names(tmp_path: Path) -> None:
    accl = write_pair(tmp_path, "P01_101", accel_per_s=[198], gyro_per_s=[198])
    (tmp_path / "P01_101-gyro.csv").unlink()

    with pytest.raises(ImuError, match="P01_101-gyro.csv: no such file.*-accl.csv and NAME-gyro"):
        read_imu(accl)


@pytest.mark.parametrize(
    ("content", "code", "reason"),
    [
        ("Time,X,Y,Z\n0,1,2,3\n", "imu_unreadable", "line 1: no column Milliseconds, GyroX, GyroY"),
        (
            "Milliseconds,GyroX,GyroY,GyroZ\n0,1,2,3\n5,1,two,3\n",
            "imu_unreadable",
            "line 3: GyroY is not a number: 'two'",
        ),
        (
            "Milliseconds,GyroX,GyroY,GyroZ\n0,1,2,3\n,1,2,3\n",
            "imu_unreadable",
            "line 3: Milliseconds is not a number: None",
        ),
        ("Milliseconds,GyroX,GyroY,GyroZ\n0,1,2,3\n5,1,2,3,4\n", "imu_unreadable", "gyro.csv: "),
        ("", "imu_unreadable", "gyro.csv: "),
        ("Milliseconds,GyroX,GyroY,GyroZ\n", "imu_missing", "it holds no sample"),
    ],
    ids=["columns", "no number", "no time", "ragged", "empty", "header alone"],
)
def test_a_file_that_cannot_be_used_is_refused_with_its_line(
    tmp_path: Path, content: str, code: str, reason: str
) -> None:
    accl = write_pair(tmp_path, "P01_101", accel_per_s=[198], gyro_per_s=[198])
    (tmp_path / "P01_101-gyro.csv").write_text(content)

    with pytest.raises(ImuError, match=reason) as caught:
        read_imu(accl)
    assert caught.value.code == code


def test_an_empty_cell_refuses_the_windows_that_touch_it(tmp_path: Path) -> None:
    accl = write_pair(tmp_path, "P01_101", accel_per_s=[198] * 8, gyro_per_s=[198] * 8)
    lines = accl.read_text().splitlines()
    time, x, _, z = lines[1 + 198].split(",")
    lines[1 + 198] = f"{time},{x},,{z}"
    accl.write_text("\n".join(lines))
    track = read_imu(accl)

    assert refusal(track, 0.5).code == "imu_nan"
    assert window(track, 4.0).coverage == 1.0
