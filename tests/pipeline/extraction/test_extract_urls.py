"""Extraction where manifest, recordings and stores lie in a bucket, on a real S3 server."""

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from blake3 import blake3
from typer.testing import CliRunner

from egoctl import cli
from egoctl.pipeline.errors import StoreError
from egoctl.pipeline.extraction.plan import clip_sources, inputs_view
from egoctl.pipeline.files.cache import MediaFile
from egoctl.pipeline.files.place import FileInfo, Place
from egoctl.pipeline.manifest import Manifest, read_manifest, write_manifest
from egoctl.pipeline.reading.clip_job import Job
from egoctl.pipeline.reading.clip_reader import ClipReader
from egoctl.pipeline.store import FeatureStore
from egoctl.pipeline.teachers import lineup
from egoctl.pipeline.video import pyav_clips as video
from egoctl.pipeline.video.pyav_clips import video_digest
from egoctl.tests.worlds.extract_script import load_mean_teacher
from egoctl.tests.worlds.extract_world import CONFIG, World, draw_colours, stored, write_imu

ROWS = [
    {"segment_id": "whole", "video": "a.mp4", "imu": "a.csv", "start_s": 0, "stop_s": 3},
    {"segment_id": "no video", "video": "gone.mp4", "imu": "a.csv", "start_s": 0, "stop_s": 2},
    {"segment_id": "no imu", "video": "a.mp4", "imu": "gone.csv", "start_s": 0, "stop_s": 2},
]
WHOLE = ["whole@0.000-2.000", "whole@0.500-2.500", "whole@1.000-3.000"]


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("EGOCTL_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def world(tmp_path: Path) -> World:
    world = World(folder=tmp_path / "world")
    draw_colours(world.videos / "a.mp4", seconds=3)
    write_imu(world.imu / "a.csv", seconds=3)
    return world


def uploaded(world: World, s3: str) -> Manifest:
    """The world's files in the bucket, and its manifest as read from there."""
    write_manifest(world.manifest(ROWS), f"{s3}/clips.parquet")
    for file in (world.videos / "a.mp4", world.imu / "a.csv"):
        Place(s3).put(str(file.relative_to(world.folder)), file)
    return read_manifest(f"{s3}/clips.parquet")


def test_a_run_in_a_bucket_stores_what_a_run_on_disk_stores(
    world: World, s3: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    uploaded(world, s3)
    monkeypatch.setattr(lineup, "load_teacher", load_mean_teacher)
    args = [
        *("extract-teacher", f"{s3}/clips.parquet", "--teacher", "means", "--device", "cpu"),
        *("--store", f"{s3}/teacher.store", "--inputs", f"{s3}/inputs.store"),
        *("--part-rows", "4", "--dtype", "float32", "--frame-px", "64", "--batch-size", "2"),
    ]

    there = CliRunner().invoke(cli.app, args)
    again = CliRunner().invoke(cli.app, [*args, "--json"])
    world.extract(world.manifest(ROWS))

    assert there.exit_code == again.exit_code == 1
    assert "2 failures among 5 clips" in there.output
    assert json.loads(again.stdout)["num_read"] == 0
    for name, here in (("teacher", world.teacher_url), ("inputs", world.inputs_url)):
        url = f"{s3}/{name}.store"
        ours, theirs = stored(here), stored(url)
        assert list(ours) == list(theirs)
        for clip_id, row in ours.items():
            assert theirs[clip_id].outcome == row.outcome
            assert theirs[clip_id].imu_outcome == row.imu_outcome
            for array, values in row.arrays.items():
                np.testing.assert_array_equal(theirs[clip_id].arrays[array], values)
        # So that a store on disk is reused for clips in the bucket, and the other way round.
        assert keys_of(url) == keys_of(here)


def keys_of(url: str) -> list[tuple[str | None, str | None]]:
    rows = FeatureStore.open(url).rows()
    return rows.select("clip_key", "imu_key").rows()


def test_what_the_bucket_lacks_fails_its_clips_and_no_others(world: World, s3: str) -> None:
    world.extract(uploaded(world, s3))

    rows = stored(world.inputs_url)
    by_outcome = {clip_id: (row.outcome, row.imu_outcome) for clip_id, row in rows.items()}
    assert by_outcome == {
        **dict.fromkeys(WHOLE, ("ok", "ok")),
        "no video@0.000-2.000": ("video_missing", "ok"),
        "no imu@0.000-2.000": ("ok", "imu_missing"),
    }
    assert rows["no video@0.000-2.000"].reason == f"there is no file {s3}/videos/gone.mp4"
    assert rows["no imu@0.000-2.000"].imu_reason == (
        f"there is no file {s3}/imu/gone.csv. Correct imu_path in the manifest."
    )


def test_a_recording_that_comes_later_is_extracted_by_the_next_run(world: World, s3: str) -> None:
    manifest = uploaded(world, s3)
    world.extract(manifest)
    Place(s3).put("videos/gone.mp4", world.videos / "a.mp4")

    report = world.extract(manifest)

    assert stored(world.teacher_url)["no video@0.000-2.000"].outcome == "ok"
    assert [failure.code for failure in report.failures] == ["imu_missing"]


def test_a_bucket_that_does_not_answer_ends_the_run_and_judges_no_clip(
    world: World, s3: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    manifest = uploaded(world, s3)
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:1")

    with pytest.raises(StoreError, match="Connection refused"):
        world.extract(manifest)

    assert stored(world.teacher_url) == {}


@pytest.mark.parametrize("segment_id", ["whole", "no video"])
def test_a_bucket_that_is_lost_on_the_way_ends_the_reading(
    world: World, s3: str, monkeypatch: pytest.MonkeyPatch, segment_id: str
) -> None:
    sources = clip_sources(uploaded(world, s3))
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:1")
    reader = ClipReader(
        [
            Job(
                number=0,
                sources=[s for s in sources.values() if s.clip.segment_id == segment_id],
                views={"inputs": inputs_view(CONFIG, 2.0)},
            )
        ],
        queue_size=4,
    )

    with pytest.raises(StoreError, match="Connection refused"):
        list(reader)


def test_a_video_that_is_fetched_once_serves_every_part(
    world: World, s3: str, own_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fetched: list[str] = []
    blocks = Place.blocks

    def counted(place: Place, info: FileInfo) -> Iterator[bytes]:
        fetched.append(info.name)
        return blocks(place, info)

    monkeypatch.setattr(Place, "blocks", counted)

    world.extract(uploaded(world, s3))

    assert sorted(fetched) == ["a.csv", "a.mp4"]
    assert sorted(path.name for path in own_cache.rglob("a.*")) == ["a.csv", "a.mp4"]


# --- digests ---


def test_a_large_video_has_the_same_digest_there_and_is_not_fetched_for_it(
    tmp_path: Path, s3: str, own_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(video, "WHOLE_FILE_BYTES", 2**20)
    monkeypatch.setattr(video, "EDGE_BYTES", 1000)
    monkeypatch.setattr(video, "BLOCK_BYTES", 100)
    size = 2**20 + 12345
    data = np.random.default_rng(0).bytes(size)
    (tmp_path / "v.mp4").write_bytes(data)
    Place(s3).put("v.mp4", data)

    here = video_digest(MediaFile(url=str(tmp_path / "v.mp4")))
    there = video_digest(MediaFile(url=f"{s3}/v.mp4"))

    starts = [number * (size - 100) // 63 for number in range(64)]
    slow = blake3(size.to_bytes(8, "little") + data[:1000])
    for start in starts:
        slow.update(data[start : start + 100])
    assert here == there == slow.update(data[-1000:]).hexdigest()
    assert not list(own_cache.rglob("v.mp4"))


def test_a_small_video_has_the_same_digest_there(s3: str) -> None:
    Place(s3).put("v.mp4", b"abc")

    digest = video_digest(MediaFile(url=f"{s3}/v.mp4"))

    # The official blake3 of b"abc".
    assert digest == "6437b3ac38465133ffb63b75273a8db548c558465d79db03fd359c6cd5bd9d85"


def test_a_video_that_the_bucket_lacks_has_no_digest(s3: str) -> None:
    with pytest.raises(FileNotFoundError, match=f"there is no file {s3}/gone.mp4"):
        video_digest(MediaFile(url=f"{s3}/gone.mp4"))
