"""The pass's settings and its report: what is refused, what is survived, what is told."""

import os
import re
import threading
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from egoctl.pipeline.errors import EgoctlError, StoreMismatchError
from egoctl.pipeline.extraction.part_pass import RunConfig
from egoctl.pipeline.extraction.report import ExtractReport, extract_lines
from egoctl.pipeline.store import FeatureStore
from egoctl.tests.worlds.extract_world import (
    RUN,
    MeanTeacher,
    World,
    stored,
)
from egoctl.tests.worlds.two_videos import copy_of, draw_two_videos
from egoctl.tests.worlds.worker_jobs import shard_digests

CPU = torch.device("cpu")
A = {"segment_id": "a", "video": "a.mp4", "imu": "a.csv", "start_s": 0, "stop_s": 4}
B = {"segment_id": "b", "video": "b.mp4", "imu": "b.csv", "start_s": 0, "stop_s": 4}


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return draw_two_videos(tmp_path_factory.mktemp("drawn"), b_seconds=4)


@pytest.fixture
def world(drawn: Path, tmp_path: Path) -> World:
    return copy_of(drawn, tmp_path / "world")


# --- settings ---


def test_an_end_of_memory_is_survived_and_reported(world: World) -> None:
    class SmallDevice(MeanTeacher):
        def feature(self, video_BCTHW: Tensor) -> Tensor:
            if len(video_BCTHW) > 2:
                raise torch.cuda.OutOfMemoryError("CUDA out of memory.")
            return super().feature(video_BCTHW)

    manifest = world.manifest([A, B])

    report = world.extract(manifest, teacher=SmallDevice(), run=replace(RUN, batch_size=4))

    assert (report.batch_size, report.num_halvings, report.failures) == (2, 1, [])
    assert "batches were halved to 2 clips. Pass --batch-size 2" in "\n".join(extract_lines(report))
    assert [row.outcome for row in stored(world.teacher_url).values()] == ["ok"] * 10


class CoarseTeacher(MeanTeacher):
    """bf16 rounds its feature at 30 times its size."""

    def feature(self, video_BCTHW: Tensor) -> Tensor:
        feature_BD = super().feature(video_BCTHW) + 30
        return (feature_BD @ torch.eye(feature_BD.shape[1])).float() - 30


def test_a_mode_that_differs_is_refused_and_writes_nothing_unless_it_is_forced(
    world: World,
) -> None:
    manifest = world.manifest([A])
    run = replace(RUN, precision="bf16")
    with pytest.raises(EgoctlError, match="to a cosine of .*--force-precision"):
        world.extract(manifest, teacher=CoarseTeacher(), run=run)
    assert shard_digests(world.teacher_url) == {}
    assert not [t for t in threading.enumerate() if t.name.startswith("decoder-")]

    report = world.extract(
        manifest, teacher=CoarseTeacher(), run=replace(run, force_precision=True)
    )

    assert report.agreement is not None and report.agreement.cosine < 0.9999
    assert f"have a cosine of {report.agreement.cosine:.6f} or more" in "\n".join(
        extract_lines(report)
    )
    assert [row.outcome for row in stored(world.teacher_url).values()] == ["ok"] * 5


def test_the_recipe_says_whether_the_network_was_compiled(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    manifest = world.manifest([A])
    world.extract(manifest)
    assert FeatureStore.open(world.teacher_url).header.recipe["compile"] is False
    monkeypatch.setattr(torch, "compile", lambda feature, *, dynamic: feature)
    run = replace(RUN, compile=True)

    with pytest.raises(StoreMismatchError, match="compile: store false, this run true"):
        world.extract(manifest, run=run)
    report = world.extract(manifest, run=run, store_url=f"{world.folder}/compiled.store")

    assert report.agreement is not None and report.agreement.cosine == pytest.approx(1)


def test_the_number_of_decoders_follows_the_cores_or_what_is_asked_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def limits(num_cores: int, **asked: int) -> tuple[int, int]:
        monkeypatch.setattr(
            os, "sched_getaffinity", lambda pid: set(range(num_cores)), raising=False
        )
        run = RunConfig(device=CPU, **asked)  # type: ignore[arg-type]
        return run.max_decoders(has_teacher=True), run.max_decoders(has_teacher=False)

    assert limits(1) == (1, 1)
    assert limits(2) == (1, 2)
    assert limits(16) == (8, 16)
    assert limits(96) == (16, 16)
    assert limits(2, num_decoders=24) == (24, 24)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"num_decoders": 0}, "--decoders must be 1 or more, got 0"),
        ({"batch_size": -1}, "--batch-size must be 1 or more, got -1"),
        ({"precision": "fp8"}, "--precision must be one of auto, fp32, bf16, got 'fp8'"),
    ],
)
def test_settings_that_cannot_be_are_refused(settings: dict[str, object], message: str) -> None:
    with pytest.raises(EgoctlError, match=message):
        RunConfig(device=CPU, **settings)  # type: ignore[arg-type]


# --- the report ---


def test_the_seconds_of_the_report_add_up_to_the_wall_time(world: World) -> None:
    seconds = world.extract(world.manifest([A, B])).seconds

    assert sorted(seconds) == ["copy", "other", "setup", "teacher", "wait", "wall", "write"]
    assert sum(seconds.values()) - seconds["wall"] == pytest.approx(seconds["wall"])
    assert min(seconds.values()) > 0


def test_the_report_tells_what_the_decoders_did(world: World) -> None:
    report = world.extract(world.manifest([A, B]))

    assert sorted(report.decoder_seconds) == [
        *("blocked", "decode", "fetch", "imu", "jpeg", "resize")
    ]
    assert all(report.decoder_seconds[kind] > 0 for kind in ("decode", "resize", "jpeg", "imu"))
    assert "decoders at the same time: decoding" in "\n".join(extract_lines(report))


@pytest.mark.parametrize(
    ("seconds", "line"),
    [
        ({"wait": 83.0, "teacher": 10.0}, r"Bottleneck: decoding \(83% of the wall .* --decoders"),
        ({"teacher": 30.0, "copy": 25.0, "wait": 45.0}, r"the teacher \(55% of .*--compile"),
        ({"write": 60.0, "wait": 40.0}, r"writing \(60% of the wall time\). A store on a faster"),
        ({"setup": 60.0, "teacher": 40.0}, r"setup \(60% of the wall time: hashing videos"),
    ],
)
def test_the_report_names_the_bottleneck_and_what_helps(
    seconds: dict[str, float], line: str
) -> None:
    report = ExtractReport(num_clips=9, num_done_before=0, num_foreign_parts=0, num_padded=0)
    report.num_read = 9
    report.decoder_seconds = dict.fromkeys(("decode", "resize", "jpeg", "imu", "blocked"), 1.0)
    report.seconds |= seconds

    report.end(100.0)

    assert re.search(line, "\n".join(extract_lines(report)))
