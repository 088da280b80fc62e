"""Bad files through the command line: each is named, none harms its neighbours, none ends a run."""

import json
from pathlib import Path

import numpy as np
import pytest

from egoctl.pipeline.imu.recording import ImuResampler, read_imu
from egoctl.pipeline.manifest import read_manifest
from egoctl.pipeline.sampling import imu_times, uniform_times
from egoctl.tests.worlds.command_runs import Run, extract
from egoctl.tests.worlds.drawn_video import (
    cut_file,
    damage_file,
    draw_silence,
    draw_video,
    even_times_ms,
)
from egoctl.tests.worlds.extract_world import (
    MeanTeacher,
    StoredRow,
    World,
    all_frames,
    colour_picture,
    draw_colours,
    shown_at,
    slow_targets,
    store_files,
    stored,
    write_annotations,
    write_imu,
)

pytest_plugins = ("egoctl.tests.worlds.command_runs",)

GOOD = {"good", "variable", "half-before"}
"""half-before lies in front of the place where its video was cut."""
VIDEO_FAULTS = {
    "half-behind": ("video_truncated", "cut off"),
    "unfinished": ("video_unreadable", "never finished"),
    "empty": ("video_unreadable", "the file is empty"),
    "text": ("video_unreadable", "not a video"),
    "sound": ("no_video_stream", "holds no video"),
    "single": ("past_end", "the video ends at 0.03 s"),
    "past-end": ("past_end", "the video ends at 3.00 s"),
    "gone": ("video_missing", "there is no file"),
}
IMU_FAULTS = {
    "imu-gone": ("imu_missing", "no such file. Correct imu_path"),
    "imu-nan": ("imu_nan", "not finite numbers"),
}


def segment(
    name: str, video: str, *, imu: str = "good.csv", start_s: float = 0.5
) -> dict[str, object]:
    return {
        "segment_id": name,
        "video": video,
        "imu": imu,
        "start_s": start_s,
        "stop_s": start_s + 2,
    }


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> World:
    """A manifest of good and bad files, one clip of 2 s per segment."""
    world = World(folder=tmp_path_factory.mktemp("bad"))
    videos = world.videos
    draw_colours(videos / "good.mp4", seconds=3)
    write_imu(world.imu / "good.csv", seconds=14)
    write_imu(world.imu / "nan.csv", seconds=6, gyro_z=(300, "NaN"))
    draw_colours(videos / "whole.mp4", seconds=6, first=300)
    cut_file(videos / "whole.mp4", videos / "half.mp4", at_packet=90)
    at_the_end = draw_video(videos / "end.mp4", even_times_ms(60))
    (videos / "unfinished.mp4").write_bytes(at_the_end.read_bytes()[:-2000])
    (videos / "empty.mp4").write_bytes(b"")
    (videos / "text.mp4").write_text("I am a letter, not a video.\n" * 100)
    draw_silence(videos / "sound.mp4")
    draw_video(videos / "single.mp4", [0])
    steps_ms = np.tile([20, 60, 33, 90, 17], 16)
    times_ms = [0, *np.cumsum(steps_ms).tolist()]
    pictures = [colour_picture(500 + number) for number in range(len(times_ms))]
    draw_video(videos / "variable.mp4", times_ms, pictures=pictures)
    rows = [
        segment("good", "good.mp4"),
        segment("variable", "variable.mp4"),
        segment("half-before", "half.mp4"),
        segment("half-behind", "half.mp4", start_s=3.5),
        *(segment(name, f"{name}.mp4") for name in ("unfinished", "empty", "text", "sound")),
        segment("single", "single.mp4"),
        segment("past-end", "good.mp4", start_s=10),
        segment("gone", "gone.mp4"),
        segment("imu-gone", "good.mp4", imu="gone.csv"),
        segment("imu-nan", "good.mp4", imu="nan.csv"),
    ]
    write_annotations(world.folder / "ANN.csv", rows)
    return world


@pytest.fixture
def world(drawn: World, tmp_path: Path, run: Run) -> World:
    """The drawn files, seen from a new folder with its own manifest and stores."""
    for name in ("videos", "imu"):
        (tmp_path / name).symlink_to(drawn.folder / name)
    world = World(folder=tmp_path)
    built = run(
        *("manifest", "build", "folder", drawn.folder / "ANN.csv", "--videos", world.videos),
        *("--imu", world.imu, "--window", "2", "--out", world.manifest_path),
    )
    assert (built.code, built.out.splitlines()[1]) == (0, "13 clips of 2.0000 s, one per segment.")
    return world


def by_segment(url: str) -> dict[str, StoredRow]:
    return {clip_id.partition("@")[0]: row for clip_id, row in stored(url).items()}


def test_every_bad_file_is_a_row_with_a_code_and_a_sentence_and_every_good_one_has_its_data(
    run: Run, world: World, with_mean_teacher: None
) -> None:
    ran = extract(run, world)

    assert ran.code == 1
    assert "10 failures among 13 clips:" in ran.out
    assert "video_unreadable: 3, such as" in ran.out
    targets, inputs = by_segment(world.teacher_url), by_segment(world.inputs_url)
    assert targets.keys() == GOOD | VIDEO_FAULTS.keys() | IMU_FAULTS.keys()
    for name, (code, words) in VIDEO_FAULTS.items():
        for row in (targets[name], inputs[name]):
            assert (name, row.outcome) == (name, code)
            assert words in (row.reason or "")
        assert np.isnan(targets[name].arrays["feature"]).all()
        assert np.isnan(targets[name].arrays["logits"]).all()
        assert inputs[name].arrays["frames"].tolist() == [b"", b"", b""]
        assert np.isnan(inputs[name].arrays["frame_time"]).all()
    for name, (code, words) in IMU_FAULTS.items():
        assert (name, inputs[name].imu_outcome) == (name, code)
        assert words in (inputs[name].imu_reason or "")
        assert np.isnan(inputs[name].arrays["imu"]).all()
        assert np.isnan(inputs[name].arrays["imu_mean"]).all()

    track = read_imu(world.imu / "good.csv")
    for clip in read_manifest(world.manifest_path).clips():
        if clip.segment_id in VIDEO_FAULTS:
            continue
        target, stored_inputs = targets[clip.segment_id], inputs[clip.segment_id]
        assert (target.outcome, stored_inputs.outcome) == ("ok", "ok")
        # Frames in front of a cut are the same in the video before it was cut.
        video = world.videos / clip.video_id.replace("half", "whole")
        expected = slow_targets(video, clip, MeanTeacher())
        np.testing.assert_allclose(target.arrays["feature"], expected.feature_ND[0], atol=1e-5)
        np.testing.assert_allclose(target.arrays["logits"], expected.logits_NC[0], atol=1e-4)
        frames = all_frames(video)
        times_s = [shown_at(frames, float(t))[0] for t in uniform_times(clip, 3)]
        np.testing.assert_allclose(stored_inputs.arrays["frame_time"], times_s, atol=1e-6)
        if clip.segment_id in GOOD:
            window = ImuResampler(track).window(imu_times(clip, 396, 198.0), span_s=(0.5, 2.5))
            assert stored_inputs.imu_outcome == "ok"
            np.testing.assert_array_equal(stored_inputs.arrays["imu"], window.samples_W6)


def test_a_second_run_over_bad_files_changes_nothing_and_still_fails(
    run: Run, world: World, with_mean_teacher: None
) -> None:
    first = extract(run, world)
    before = store_files(world.teacher_url), store_files(world.inputs_url)

    second = extract(run, world)

    assert second.code == 1
    assert "13 of 13 clips were stored already." in second.out
    failures = first.out[first.out.index("10 failures") :]
    assert second.out.endswith(failures)
    assert (store_files(world.teacher_url), store_files(world.inputs_url)) == before


def test_the_json_report_counts_the_failures_by_code(
    run: Run, world: World, with_mean_teacher: None
) -> None:
    ran = extract(run, world, "--json")

    found = json.loads(ran.out)
    assert ran.code == 1
    assert {failure["code"]: failure["count"] for failure in found["failures"]} == {
        "video_unreadable": 3,
        "past_end": 2,
        "video_truncated": 1,
        "no_video_stream": 1,
        "video_missing": 1,
        "imu_missing": 1,
        "imu_nan": 1,
    }


def test_store_info_lists_every_failure(run: Run, world: World, with_mean_teacher: None) -> None:
    extract(run, world)

    found = json.loads(run("store", "info", world.inputs_url, "--json").out)

    codes = {entry["clip_id"].partition("@")[0]: entry["code"] for entry in found["failed"]}
    faults = VIDEO_FAULTS | IMU_FAULTS
    assert codes == {name: code for name, (code, _) in faults.items()}


def test_manifest_check_gives_the_verdicts_that_extraction_gives(run: Run, world: World) -> None:
    ran = run("manifest", "check", world.manifest_path, "--json")

    found = json.loads(ran.out)
    assert (ran.code, found["num_bad"]) == (1, 10)
    verdicts = {verdict["segment_id"]: verdict["code"] for verdict in found["segments"]}
    expected = {name: code for name, (code, _) in (VIDEO_FAULTS | IMU_FAULTS).items()}
    assert verdicts == expected | dict.fromkeys(GOOD, "ok")
    assert all(verdict["reason"] for verdict in found["segments"] if verdict["code"] != "ok")
    variable_rate = {file["video_id"]: file["is_variable_rate"] for file in found["files"]}
    assert (variable_rate["variable.mp4"], variable_rate["good.mp4"]) == (True, False)


def test_manifest_check_prints_a_table_with_a_sentence_for_every_bad_segment(
    run: Run, world: World
) -> None:
    ran = run("manifest", "check", world.manifest_path)

    lines = ran.out.splitlines()
    assert ran.code == 1
    assert lines[-1] == "10 of 13 segments will give no full data."
    for name, (code, words) in (VIDEO_FAULTS | IMU_FAULTS).items():
        (line,) = (line for line in lines if line.startswith(f"  {name}: "))
        assert line.startswith(f"  {name}: {code}: ")
        if code != "past_end":
            assert words in line
    assert not any(line.startswith(f"  {name}: ") for line in lines for name in GOOD)


def test_the_check_sees_no_damage_inside_a_video_and_goes_by_the_clips_end(
    run: Run, drawn: World, tmp_path: Path, with_mean_teacher: None
) -> None:
    mine = World(folder=tmp_path / "mine")
    mine.videos.mkdir(parents=True)
    (mine.videos / "good.mp4").symlink_to(drawn.videos / "good.mp4")
    damage_file(drawn.videos / "good.mp4", mine.videos / "damaged.mp4", at_packet=40)
    # 1.2 to 3.2 s of 3 s, of which the teacher looks at 1.6 to 2.8 s, the inputs at 1.53 to 2.87 s.
    late = segment("late", "good.mp4", imu="", start_s=1.2)
    mine.manifest([segment("inside", "damaged.mp4", imu=""), late])

    checked = json.loads(run("manifest", "check", mine.manifest_path, "--json").out)
    extract(run, mine)

    verdicts = {verdict["segment_id"]: verdict["code"] for verdict in checked["segments"]}
    assert verdicts == {"inside": "ok", "late": "past_end"}
    for url in (mine.teacher_url, mine.inputs_url):
        outcomes = {name: row.outcome for name, row in by_segment(url).items()}
        assert outcomes == {"inside": "decode_error", "late": "ok"}


def test_an_imu_file_in_a_folder_that_may_not_be_looked_into_is_an_outcome(
    run: Run, world: World, with_mean_teacher: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    is_file = Path.is_file

    def is_file_or_refused(path: Path) -> bool:
        if path.name == "good.csv":
            raise PermissionError(13, "Permission denied", str(path))
        return is_file(path)

    # Not by the folder's mode: the tests may run as a user whom no mode holds back.
    monkeypatch.setattr(Path, "is_file", is_file_or_refused)

    assert extract(run, world).code == 1
    row = by_segment(world.inputs_url)["good"]
    assert (row.outcome, row.imu_outcome) == ("ok", "imu_unreadable")
    assert (row.imu_reason or "").endswith("good.csv: Permission denied.")
    assert by_segment(world.inputs_url)["imu-nan"].imu_outcome == "imu_nan"
    found = json.loads(run("manifest", "check", world.manifest_path, "--json").out)
    verdicts = {verdict["segment_id"]: verdict["code"] for verdict in found["segments"]}
    assert (verdicts["good"], verdicts["imu-nan"]) == ("imu_unreadable", "imu_nan")
