"""Manifests, recordings and runs by URL, on a real S3 server."""

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from egoctl import cli
from egoctl.pipeline.datasets.health import check_manifest
from egoctl.pipeline.errors import EgoctlError, ManifestError, StoreError
from egoctl.pipeline.files.cache import MediaFile
from egoctl.pipeline.files.place import Place
from egoctl.pipeline.manifest import Manifest, read_manifest, write_manifest
from egoctl.pipeline.records import Segment
from egoctl.pipeline.runs.run_place import run_folder_at
from egoctl.tests.worlds.drawn_video import draw_video, even_times_ms
from egoctl.tests.worlds.extract_world import write_imu
from egoctl.tests.worlds.s3_server import S3Server


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EGOCTL_CACHE", str(tmp_path / "cache"))


def segment(segment_id: str, video_path: str, imu_path: str | None = None) -> Segment:
    return Segment(
        segment_id=segment_id, video_id=segment_id, video_path=video_path, imu_path=imu_path,
        participant_id="P01", start_s=0.0, stop_s=1.0, label=0, split="train",
    )  # fmt: skip


def manifest(root: Path | str, *segments: Segment) -> Manifest:
    return Manifest(
        segments=segments,
        class_names=("cut",),
        dataset_name="kitchen",
        window_s=1.0,
        stride_s=None,
        root=root,
    )


# --- manifests ---


def test_a_manifest_in_a_bucket_comes_back_and_knows_where_it_lies(s3: str) -> None:
    told = manifest(f"{s3}/kitchen", segment("s1", "v.mp4"))

    write_manifest(told, f"{s3}/kitchen/clips.parquet")

    assert read_manifest(f"{s3}/kitchen/clips.parquet") == told


def test_a_manifest_reads_the_same_by_path_and_by_url(tmp_path: Path) -> None:
    told = manifest(tmp_path.resolve(), segment("s1", "v.mp4"))

    write_manifest(told, f"file://{tmp_path}/clips.parquet")

    assert read_manifest(tmp_path / "clips.parquet") == told
    assert read_manifest(f"file://{tmp_path}/clips.parquet") == told


def test_its_digest_does_not_change_with_where_it_lies(s3: str, tmp_path: Path) -> None:
    rows = (segment("s1", "v.mp4"),)

    assert manifest(s3, *rows).fingerprint() == manifest(tmp_path, *rows).fingerprint()


@pytest.mark.parametrize(
    ("path", "here", "in_a_bucket"),
    [
        ("videos/v.mp4", "/data/videos/v.mp4", "s3://b/x/videos/v.mp4"),
        ("/nfs/v.mp4", "/nfs/v.mp4", "/nfs/v.mp4"),
        ("file:///nfs/v.mp4", "/nfs/v.mp4", "/nfs/v.mp4"),
        ("s3://other/v.mp4", "s3://other/v.mp4", "s3://other/v.mp4"),
        ("gs://other/v.mp4", "gs://other/v.mp4", "gs://other/v.mp4"),
        ("az://other/v.mp4", "az://other/v.mp4", "az://other/v.mp4"),
    ],
)
def test_a_recording_is_found_from_where_the_manifest_lies(
    path: str, here: str, in_a_bucket: str
) -> None:
    assert manifest(Path("/data")).media(path) == MediaFile(url=here)
    assert manifest("s3://b/x").media(path) == MediaFile(url=in_a_bucket)


def test_what_is_no_manifest_is_named_by_its_url(s3: str) -> None:
    with pytest.raises(ManifestError, match=f"no manifest at {s3}/clips.parquet. Make one"):
        read_manifest(f"{s3}/clips.parquet")
    Place(s3).put("clips.parquet", b"segment_id,video")
    with pytest.raises(ManifestError, match=f"{s3}/clips.parquet is not a readable parquet file"):
        read_manifest(f"{s3}/clips.parquet")
    with pytest.raises(StoreError, match="s3:/bucket: no such kind of place"):
        read_manifest(Path("s3://bucket/clips.parquet"))


# --- recordings ---


def test_recordings_in_a_bucket_are_checked_like_those_on_disk(s3: str, tmp_path: Path) -> None:
    video = draw_video(tmp_path / "v.mp4", even_times_ms(40))
    imu = write_imu(tmp_path / "v.csv", seconds=1.4)
    Place(s3).put("videos/v.mp4", video)
    Place(s3).put("v.csv", imu)
    rows = (
        segment("good", "videos/v.mp4", "v.csv"),
        segment("no video", "videos/none.mp4"),
        segment("no imu", "videos/v.mp4", f"{s3}/none.csv"),
    )
    write_manifest(manifest(s3, *rows), f"{s3}/clips.parquet")

    health = check_manifest(read_manifest(f"{s3}/clips.parquet"))

    assert [(row.segment_id, row.code) for row in health.segments] == [
        ("good", "ok"), ("no video", "video_missing"), ("no imu", "imu_missing")
    ]  # fmt: skip
    assert health.files[0].fps == pytest.approx(30, abs=0.5)
    assert health.segments[1].reason == f"there is no file {s3}/videos/none.mp4"
    assert f"there is no file {s3}/none.csv" in str(health.segments[2].reason)


def test_a_manifest_of_a_private_server_is_checked_there(
    s3_server: S3Server, s3: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    Place(s3).put("v.mp4", draw_video(tmp_path / "v.mp4", even_times_ms(40)))
    write_manifest(manifest(s3, segment("s1", "v.mp4")), f"{s3}/clips.parquet")
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:1")

    args = ["manifest", "check", f"{s3}/clips.parquet", "--endpoint", s3_server.url, "--json"]
    told = CliRunner().invoke(cli.app, args)

    assert told.exit_code == 0, told.output
    assert [row["code"] for row in json.loads(told.stdout)["segments"]] == ["ok"]


def test_a_bucket_that_cannot_be_reached_is_no_verdict_on_its_videos(
    s3: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:1")

    with pytest.raises(StoreError, match="cannot be opened: .*Connection refused"):
        check_manifest(manifest(s3, segment("s1", "v.mp4")))


# --- runs ---


def names_at(url: str) -> list[str]:
    return [info.name for info in Place(url).list()]


def write_checkpoint(folder: Path, epoch: int) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "model.safetensors").write_bytes(bytes([epoch]) * 100)
    (folder / "state.json").write_text(json.dumps({"epochs_done": epoch}))


def test_a_run_on_this_machine_is_worked_on_where_it_is(tmp_path: Path) -> None:
    with run_folder_at(str(tmp_path / "run")) as run:
        assert run.folder == tmp_path / "run"
        run.publish()

    assert not (tmp_path / "run").exists()


def test_a_run_in_a_bucket_goes_on_where_it_was_published(s3: str) -> None:
    with run_folder_at(f"{s3}/runs/a") as run:
        (run.folder / "config.json").write_text("{}")
        (run.folder / ".config.json.7.part").write_text("{")
        write_checkpoint(run.folder / "checkpoints" / "last", 1)
        (run.folder / "tensorboard").mkdir()
        (run.folder / "tensorboard" / "events").write_text("")
        first = run.folder

    assert not first.exists()
    assert names_at(f"{s3}/runs/a") == [
        "checkpoints/last.zip", "config.json", "tensorboard/events"
    ]  # fmt: skip
    with run_folder_at(f"{s3}/runs/a/") as run:
        found = sorted(
            path.relative_to(run.folder).as_posix()
            for path in run.folder.rglob("*")
            if path.is_file()
        )
        state = json.loads((run.folder / "checkpoints/last/state.json").read_text())
    assert found == [
        "checkpoints/last/model.safetensors", "checkpoints/last/state.json", "config.json",
        "tensorboard/events",
    ]  # fmt: skip
    assert state == {"epochs_done": 1}


def test_only_what_changed_is_sent_and_what_makes_it_count_comes_last(
    s3: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    sent: list[str] = []
    put = Place.put

    def counted(place: Place, name: str, content: bytes | Path) -> None:
        sent.append(name)
        put(place, name, content)

    monkeypatch.setattr(Place, "put", counted)
    with run_folder_at(f"{s3}/runs/a") as run:
        (run.folder / "config.json").write_text("{}")
        (run.folder / "metrics.json").write_text("{}")
        (run.folder / "train.log").write_text("one\n")
        for name in ("best", "last"):
            write_checkpoint(run.folder / "checkpoints" / name, 1)
        run.publish()
        assert sent == [
            "config.json", "train.log", "metrics.json", "checkpoints/best.zip",
            "checkpoints/last.zip",
        ]  # fmt: skip

        sent.clear()
        run.publish()
        assert sent == []

        (run.folder / "train.log").write_text("one\ntwo\n")
        write_checkpoint(run.folder / "checkpoints" / "last", 2)
    assert sent == ["train.log", "checkpoints/last.zip"]

    # Nor is what was just fetched sent back: only the writer of a run changes it.
    sent.clear()
    with run_folder_at(f"{s3}/runs/a"):
        pass
    assert sent == []


def test_a_checkpoint_arrives_in_one_piece(s3: str, monkeypatch: pytest.MonkeyPatch) -> None:
    at_server: list[int] = []
    put = Place.put

    def seen(place: Place, name: str, content: bytes | Path) -> None:
        put(place, name, content)
        with run_folder_at(f"{s3}/runs/a") as other:
            last = other.folder / "checkpoints" / "last"
            weights = (last / "model.safetensors").read_bytes()
            at_server.append(json.loads((last / "state.json").read_text())["epochs_done"])
            assert weights == bytes([at_server[-1]]) * 100

    monkeypatch.setattr(Place, "put", seen)
    with run_folder_at(f"{s3}/runs/a") as run:
        for epoch in (1, 2):
            write_checkpoint(run.folder / "checkpoints" / "last", epoch)
            run.publish()

    # After every single request that changes the bucket, what is there is one whole epoch.
    assert at_server == [1, 2]


def test_a_run_that_fails_publishes_nothing_more(s3: str) -> None:
    with pytest.raises(ValueError, match="blown up"), run_folder_at(f"{s3}/runs/a") as run:
        (run.folder / "config.json").write_text("{}")
        run.publish()
        (run.folder / "train.log").write_text("half a li")
        raise ValueError("blown up")

    assert names_at(f"{s3}/runs/a") == ["config.json"]


def test_a_damaged_checkpoint_is_named(s3: str) -> None:
    with run_folder_at(f"{s3}/runs/a") as run:
        write_checkpoint(run.folder / "checkpoints" / "last", 1)
    files = Place(f"{s3}/runs/a")
    content = files.read("checkpoints/last.zip")
    assert content is not None
    files.put("checkpoints/last.zip", content.replace(b"\x01" * 100, b"\x02" * 100))

    with (
        pytest.raises(EgoctlError, match=r"runs/a/checkpoints/last.zip is damaged \(Bad CRC-32"),
        run_folder_at(f"{s3}/runs/a"),
    ):
        pass
