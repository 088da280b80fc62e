"""One process per device: they share the parts, and do what one that died has left."""

import json
import signal
from pathlib import Path

import pytest
import torch

from egoctl.pipeline.errors import EgoctlError
from egoctl.pipeline.extraction.job import (
    DeviceResult,
    devices_from_text,
    extract_on_devices,
    merged_report,
)
from egoctl.pipeline.sharing.verify import verify
from egoctl.pipeline.store import FeatureStore
from egoctl.tests.worlds.extract_world import World, draw_colours, write_imu
from egoctl.tests.worlds.invoked import run
from egoctl.tests.worlds.worker_jobs import doomed_job, interrupted_job, shard_digests


def test_a_process_that_dies_leaves_its_part_to_the_others_and_is_told_of(tmp_path: Path) -> None:
    world, calm = World(folder=tmp_path / "world"), World(folder=tmp_path / "world" / "calm")
    draw_colours(world.videos / "a.mp4", seconds=4)
    write_imu(world.imu / "a.csv", seconds=4)
    row = {"segment_id": "a", "video": "a.mp4", "imu": "a.csv", "start_s": 0, "stop_s": 4}
    manifest = world.manifest([row], stride_s=0.25)
    calm.folder.mkdir()
    world.extract(manifest, store_url=calm.teacher_url, inputs_url=calm.inputs_url)
    job = doomed_job(world)
    said: list[str] = []

    results = extract_on_devices(job, ["cpu", "cpu"], say=said.append)

    dead = "it died; its traceback, if it had one, is above"
    assert job.mark.exists()
    assert sorted(result.problem or "" for result in results) == ["", dead]
    assert said == [f"The process of cpu ended: {dead}"]
    report = merged_report(results)
    assert (report.num_clips, report.failures) == (9, [])
    for url, calm_url in (
        (world.teacher_url, calm.teacher_url),
        (world.inputs_url, calm.inputs_url),
    ):
        assert verify(url).faults == ()
        assert shard_digests(url) == shard_digests(calm_url)


def test_ctrl_c_ends_all_processes_without_a_word_and_no_part_stays_claimed(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    world = World(folder=tmp_path)
    draw_colours(world.videos / "a.mp4", seconds=4)
    row = {"segment_id": "a", "video": "a.mp4", "start_s": 0, "stop_s": 4}
    world.manifest([row], stride_s=0.1)
    job = interrupted_job(world)

    with pytest.raises(KeyboardInterrupt):
        extract_on_devices(job, ["cpu", "cpu"], say=print)

    out, err = capfd.readouterr()
    assert (out, err) == ("", "")
    assert len(list(job.folder.iterdir())) == 2
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    for url in (world.teacher_url, world.inputs_url):
        assert list(FeatureStore.open(url).place.list("claims")) == []


def test_two_processes_of_the_command_fill_stores_of_a_real_network_together(
    tmp_path: Path,
) -> None:
    world = World(folder=tmp_path)
    draw_colours(world.videos / "a.mp4", seconds=3)
    row = {"segment_id": "a", "video": "a.mp4", "start_s": 0, "stop_s": 3}
    world.manifest([row])

    code, said = run(
        "extract-teacher", world.manifest_path, "--teacher", "x3d_xs", "--weights", "random:0",
        "--store", world.teacher_url, "--inputs", world.inputs_url, "--part-rows", "1",
        "--devices", "cpu,cpu", "--batch-size", "1", "--json",
    )  # fmt: skip

    assert code == 0
    report = json.loads(said)
    assert (report["num_clips"], report["num_read"], report["num_parts"]) == (3, 3, 3)
    for url in (world.teacher_url, world.inputs_url):
        store = FeatureStore.open(url)
        assert store.rows()["outcome"].to_list() == ["ok", "ok", "ok"]
        assert list(store.place.list("claims")) == []


def test_a_mistake_is_told_once_per_process_and_is_the_commands(tmp_path: Path) -> None:
    results = [
        DeviceResult(device=device, report=None, problem="the store has another recipe")
        for device in ("cuda:0", "cuda:1")
    ]

    with pytest.raises(EgoctlError, match="no process came to an end: the store has another"):
        merged_report(results)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("cpu", ["cpu"]),
        ("cpu,cpu", ["cpu", "cpu"]),
        (" cpu , cpu ,", ["cpu", "cpu"]),
    ],
)
def test_devices_are_named_with_commas_and_may_be_named_twice(
    text: str, expected: list[str]
) -> None:
    assert devices_from_text(text) == expected


def test_all_devices_are_all_gpus_or_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)

    assert devices_from_text("all") == ["cpu"]

    monkeypatch.setattr(torch.cuda, "device_count", lambda: 3)

    assert devices_from_text("all") == ["cuda:0", "cuda:1", "cuda:2"]
    assert devices_from_text("0,2") == ["cuda:0", "cuda:2"]


@pytest.mark.parametrize("text", ["", " ", ",,"])
def test_no_device_at_all_is_refused_with_examples(text: str) -> None:
    with pytest.raises(EgoctlError, match="--devices must name devices, such as all, 0,1"):
        devices_from_text(text)


@pytest.mark.parametrize("text", ["cpu,no-such", "gpu"])
def test_a_device_that_is_not_there_is_refused_by_name(text: str) -> None:
    with pytest.raises(EgoctlError, match=text.rpartition(",")[2]):
        devices_from_text(text)
