"""A folder of GoPro files becomes a manifest: motion inside the files, chapters known as such."""

from pathlib import Path

import pytest

from egoctl.pipeline.datasets.folder import FolderSource
from egoctl.pipeline.datasets.gopro import chapter_lines, gopro_folder, recording_of
from egoctl.pipeline.datasets.health import check_manifest
from egoctl.pipeline.errors import ManifestError
from egoctl.pipeline.manifest import Manifest, read_manifest
from egoctl.tests.worlds.drawn_video import draw_video, even_times_ms
from egoctl.tests.worlds.extract_world import write_annotations
from egoctl.tests.worlds.invoked import run
from egoctl.tests.worlds.places import DATA

GOPRO = DATA / "gopro"


def film(folder: Path, *names: str) -> None:
    """Draw a second of video under each name; all are MP4 inside, as a camera's are."""
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        drawn = draw_video(folder / "drawn.mp4", even_times_ms(30))
        drawn.rename(folder / name)


def build(folder: Path, *, labels: Path | None = None) -> tuple[Manifest, list[str]]:
    source = FolderSource(videos=folder, imu=None, window_s=0.5, stride_s=0.25)
    return gopro_folder(source, manifest_folder=folder.parent, labels=labels)


@pytest.mark.parametrize(
    ("video", "recording"),
    [
        ("GX010001.MP4", "recording 0001"),
        ("GX020001.MP4", "recording 0001"),
        ("GH010001.MP4", "recording 0001"),
        ("GX010002.MP4", "recording 0002"),
        ("GOPR0001.MP4", "recording 0001"),
        ("GP010001.MP4", "recording 0001"),
        ("day 1/gx010001.mp4", "day 1/recording 0001"),
        ("day 2/GX010001.MP4", "day 2/recording 0001"),
        ("walk.mp4", "walk"),
        ("GX010001-cut.mp4", "GX010001-cut"),
        ("GX01000.MP4", "GX01000"),
    ],
)
def test_the_name_of_a_file_tells_its_recording(video: str, recording: str) -> None:
    assert recording_of(video) == recording


def test_every_chapter_is_a_video_of_its_own_and_they_share_the_recording(tmp_path: Path) -> None:
    film(tmp_path / "DCIM", "GX010001.MP4", "GX020001.MP4", "GX010002.MP4")

    found, left_out = build(tmp_path / "DCIM")

    assert left_out == []
    assert [
        (one.video_id, one.video_path, one.imu_path, one.participant_id) for one in found.segments
    ] == [
        (name, f"DCIM/{name}", f"DCIM/{name}", recording)
        for name, recording in (
            ("GX010001.MP4", "recording 0001"),
            ("GX010002.MP4", "recording 0002"),
            ("GX020001.MP4", "recording 0001"),
        )
    ]
    assert list(chapter_lines(found)) == ["recording 0001: 2 chapters (GX010001.MP4, GX020001.MP4)"]
    # One second holds a window of 0.5 s every 0.25 s from 0 to 0.5.
    assert len(found.clips()) == 9


def test_the_cameras_small_copies_are_left_out_and_named(tmp_path: Path) -> None:
    film(tmp_path / "DCIM", "GX010001.MP4", "GL010001.LRV", "GL010009.LRV", "day2/GL010001.LRV")

    found, left_out = build(tmp_path / "DCIM")

    # A copy whose original is not here is all there is: it stays.
    assert [one.video_id for one in found.segments] == [
        "GL010009.LRV", "GX010001.MP4", "day2/GL010001.LRV",
    ]  # fmt: skip
    assert left_out == ["GL010001.LRV: the camera's small copy of another file"]


def test_a_csv_gives_labelled_segments_with_the_motion_of_their_files(tmp_path: Path) -> None:
    rows = [
        {"segment_id": "s1", "video": "GX010001.MP4", "label": "walk", "participant_id": "",
         "start_s": 0, "stop_s": 1},
        {"segment_id": "s2", "video": "GX020001.MP4", "label": "stand", "participant_id": "P07",
         "start_s": 0, "stop_s": 1, "imu": "self"},
    ]  # fmt: skip

    found, left_out = build(
        tmp_path / "DCIM", labels=write_annotations(tmp_path / "labels.csv", rows)
    )

    assert left_out == []
    assert found.class_names == ("stand", "walk")
    assert [
        (one.segment_id, one.label, one.imu_path, one.participant_id) for one in found.segments
    ] == [
        ("s1", 1, "DCIM/GX010001.MP4", "recording 0001"),
        ("s2", 0, "DCIM/GX020001.MP4", "P07"),
    ]


def test_a_folder_without_videos_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ManifestError, match="holds no readable video"):
        build(tmp_path)


def test_the_command_names_what_it_leaves_out_and_exits_1(tmp_path: Path) -> None:
    film(tmp_path / "DCIM", "GX010001.MP4", "GX020001.MP4")
    (tmp_path / "DCIM" / "GX030001.MP4").write_bytes(b"cut off")

    code, said = run(
        "manifest", "build", "gopro", tmp_path / "DCIM", "--out", tmp_path / "clips.parquet"
    )

    assert code == 1
    assert "recording 0001: 2 chapters (GX010001.MP4, GX020001.MP4)" in said
    assert "left out: GX030001.MP4:" in said
    assert len(read_manifest(tmp_path / "clips.parquet").segments) == 2


@pytest.mark.skipif(
    not (GOPRO / "karma.mp4").is_file(),
    reason=f"needs karma.mp4 in {GOPRO}; set EGOCTL_TEST_DATA to its parent folder",
)
def test_real_files_give_windows_with_motion(tmp_path: Path) -> None:
    code, _ = run("manifest", "build", "gopro", GOPRO, "--out", tmp_path / "clips.parquet")

    health = check_manifest(read_manifest(tmp_path / "clips.parquet"))

    assert code == 0
    assert [verdict.code for verdict in health.segments] == ["ok", "ok"]
    assert {row.video_id: row.gyro_rate_hz for row in health.files} == {
        "karma.mp4": pytest.approx(397.5, abs=0.5),
        "max-heromode.mp4": pytest.approx(197.5, abs=0.5),
    }
