"""The pass: parts come one by one, are written as they finish, and have the same bits always."""

# n rows of a part

import os
import re
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from egoctl.pipeline.errors import EgoctlError, StoreMismatchError
from egoctl.pipeline.extraction import part_pass, part_queue
from egoctl.pipeline.extraction.part_buffer import PartBuffer
from egoctl.pipeline.extraction.part_pass import PassConfig, run_parts
from egoctl.pipeline.extraction.part_queue import PartQueue, PlannedPart, parts_left
from egoctl.pipeline.extraction.plan import FilledStore, clip_sources, filled_stores
from egoctl.pipeline.extraction.report import ExtractReport, extract_lines
from egoctl.pipeline.manifest import Manifest
from egoctl.pipeline.reading import decoder_pool
from egoctl.pipeline.reading.clip_job import Job
from egoctl.pipeline.records import RowOutcome
from egoctl.pipeline.store import FeatureStore
from egoctl.pipeline.teachers.batches import TeacherBatches
from egoctl.tests.worlds.extract_world import (
    CONFIG,
    RUN,
    MeanTeacher,
    World,
    stored,
)
from egoctl.tests.worlds.two_videos import copy_of, draw_two_videos
from egoctl.tests.worlds.worker_jobs import shard_digests

CPU = torch.device("cpu")
PATIENCE_S = 20.0
A = {"segment_id": "a", "video": "a.mp4", "imu": "a.csv", "start_s": 0, "stop_s": 4}
B = {"segment_id": "b", "video": "b.mp4", "imu": "b.csv", "start_s": 0, "stop_s": 4}
GONE = {"segment_id": "gone", "video": "gone.mp4", "imu": "a.csv", "start_s": 0, "stop_s": 2.5}
"""5 + 5 + 2 clips: windows of 2 s every 0.5 s; parts of 4 rows."""
Seconds = Mapping[str, Mapping[str, float]]
Write = Callable[[PlannedPart, PartBuffer, Seconds], None]


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return draw_two_videos(tmp_path_factory.mktemp("drawn"), b_seconds=4)


@pytest.fixture
def world(drawn: Path, tmp_path: Path) -> World:
    return copy_of(drawn, tmp_path / "world")


@pytest.fixture
def eager_pool(monkeypatch: pytest.MonkeyPatch) -> None:
    """A pool that adds a decoder at every item."""
    monkeypatch.setattr(decoder_pool, "MAX_WAIT_SHARE", -1)
    monkeypatch.setattr(decoder_pool, "ITEMS_PER_DECISION", 1)


@pytest.fixture
def one_in_flight(monkeypatch: pytest.MonkeyPatch) -> None:
    """What CUDA does, done on a CPU: a batch is fetched once the next was launched."""
    monkeypatch.setattr(part_pass, "TeacherBatches", partial(TeacherBatches, num_in_flight=1))


def fills_of(manifest: Manifest, teacher: MeanTeacher) -> dict[str, FilledStore]:
    """Both stores, though nothing is written into them."""
    return filled_stores(
        manifest, {"teacher": teacher}, "inputs", CONFIG, precision="fp32", is_compiled=False
    )


def planned(world: World, manifest: Manifest) -> list[PlannedPart]:
    """The parts of both stores, which are made by an extraction of nothing but their rows."""
    url = f"{world.folder}/planned"
    world.extract(manifest, store_url=f"{url}-t", inputs_url=f"{url}-i")
    views = {name: fill.view for name, fill in fills_of(manifest, MeanTeacher()).items()}
    stored_parts = {name: FeatureStore.open(f"{url}-{name[0]}").parts() for name in views}
    parts, _ = parts_left(clip_sources(manifest), views, stored_parts)
    return parts


def run_all(
    manifest: Manifest,
    parts: Iterator[PlannedPart],
    write: Write,
    *,
    teacher: MeanTeacher | None = None,
    run: PassConfig = RUN,
    stop: Callable[[], object] | None = None,
) -> ExtractReport:
    report = ExtractReport(num_clips=0, num_done_before=0, num_foreign_parts=0, num_padded=0)
    run_parts(
        parts,
        fills=fills_of(manifest, teacher or MeanTeacher()),
        planned=("teacher", "inputs"),
        decoder="pyav",
        run=run,
        report=report,
        write=write,
        num_clips=12,
        stop=stop,
    )
    return report


def decoders_alive() -> list[str]:
    return [t.name for t in threading.enumerate() if t.name.startswith("decoder-")]


# --- the same bits ---


@pytest.mark.usefixtures("eager_pool")
def test_one_decoder_and_three_write_the_same_bits(world: World) -> None:
    manifest = world.manifest([A, B, GONE])
    one = world.extract(manifest, run=replace(RUN, num_decoders=1))
    again = {"store_url": f"{world.folder}/t3.store", "inputs_url": f"{world.folder}/i3.store"}

    three = world.extract(manifest, run=replace(RUN, num_decoders=3), **again)

    assert (one.num_decoders, three.num_decoders) == (1, 3)
    assert len(shard_digests(world.teacher_url)) == 3
    assert shard_digests(again["store_url"]) == shard_digests(world.teacher_url)
    assert shard_digests(again["inputs_url"]) == shard_digests(world.inputs_url)
    assert three.frames_decoded == one.frames_decoded
    assert [f.code for f in three.failures] == ["video_missing"]


@pytest.mark.usefixtures("eager_pool", "one_in_flight")
def test_a_batch_in_flight_changes_no_bit_and_no_part_is_written_before_its_last_batch(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    manifest = world.manifest([A, B])
    again = {"store_url": f"{world.folder}/t2.store", "inputs_url": f"{world.folder}/i2.store"}
    world.extract(manifest, run=replace(RUN, num_decoders=2), **again)
    monkeypatch.undo()

    world.extract(manifest)

    assert shard_digests(again["store_url"]) == shard_digests(world.teacher_url)
    assert not any(
        np.isnan(row.arrays["feature"]).any() for row in stored(world.teacher_url).values()
    )


# --- one part at a time ---


@pytest.mark.usefixtures("one_in_flight")
def test_a_finished_part_is_written_while_the_next_is_waited_for(world: World) -> None:
    manifest = world.manifest([A, B])
    parts = planned(world, manifest)
    is_written = threading.Event()

    def one_by_one() -> Iterator[PlannedPart]:
        for part in parts:
            yield part
            # As a queue that waits for what others hold: nothing comes before this is written.
            assert is_written.wait(PATIENCE_S)
            is_written.clear()

    written = []

    def write(part: PlannedPart, buffer: PartBuffer, seconds: Seconds) -> None:
        assert np.isfinite(buffer.arrays["teacher"]["feature"]).all()
        written.append(part)
        is_written.set()

    report = run_all(manifest, one_by_one(), write)

    assert written == parts
    assert (report.num_parts, report.num_read) == (3, 10)


def test_the_seconds_of_a_part_are_its_own(world: World) -> None:
    manifest = world.manifest([A, B])
    parts = planned(world, manifest)
    seconds_of: list[Seconds] = []

    report = run_all(
        manifest, iter(parts), lambda part, buffer, seconds: seconds_of.append(seconds)
    )

    for store in ("teacher", "inputs"):
        assert [sorted(seconds[store]) for seconds in seconds_of] == [["teacher", "wait"]] * 3
    assert all(seconds["teacher"] == seconds["inputs"] for seconds in seconds_of)
    total_s = sum(seconds["teacher"]["teacher"] for seconds in seconds_of)
    assert total_s == pytest.approx(report.seconds["teacher"] + report.seconds["copy"])
    assert all(seconds["teacher"]["teacher"] > 0 for seconds in seconds_of)


def test_a_part_of_which_others_have_rows_reads_the_missing_ones_into_its_whole_length(
    world: World,
) -> None:
    manifest = world.manifest([A])
    whole, _ = planned(world, manifest)
    expected: list[PartBuffer] = []
    run_all(manifest, iter([whole]), lambda part, buffer, seconds: expected.append(buffer))

    def copied(buffer: PartBuffer) -> None:
        for kind, arrays in buffer.arrays.items():
            for name, values in arrays.items():
                values[[0, 2]] = expected[0].arrays[kind][name][[0, 2]]
            for outcomes in buffer.outcomes[kind].values():
                outcomes[0] = outcomes[2] = RowOutcome()

    some = replace(
        whole,
        job=replace(whole.job, sources=[whole.job.sources[1], whole.job.sources[3]], rows=[1, 3]),
        prefill=copied,
    )
    teacher = MeanTeacher()
    found: list[PartBuffer] = []

    report = run_all(
        manifest,
        iter([some]),
        lambda part, buffer, seconds: found.append(buffer),
        teacher=teacher,
    )

    assert (report.num_read, teacher.num_clips_seen) == (2, 2)
    assert found[0].outcomes == expected[0].outcomes
    for kind, arrays in found[0].arrays.items():
        for name, values in arrays.items():
            np.testing.assert_array_equal(values, expected[0].arrays[kind][name])


def test_a_part_that_is_all_copied_is_written_without_reading(world: World) -> None:
    manifest = world.manifest([A])
    whole, _ = planned(world, manifest)

    def copied(buffer: PartBuffer) -> None:
        for streams in buffer.outcomes.values():
            for outcomes in streams.values():
                outcomes[:] = [RowOutcome()] * len(outcomes)

    part = replace(whole, job=replace(whole.job, sources=[], rows=[]), prefill=copied)
    written: list[PlannedPart] = []

    run_all(manifest, iter([part]), lambda part, buffer, seconds: written.append(part))

    assert written == [part]


def test_a_row_that_nobody_reads_or_copies_is_never_written(world: World) -> None:
    manifest = world.manifest([A])
    whole, _ = planned(world, manifest)
    job = replace(whole.job, sources=whole.job.sources[:3], rows=[0, 1, 3])

    with pytest.raises(ValueError, match=r"rows \[2\] of a part were not filled"):
        run_all(manifest, iter([replace(whole, job=job)]), refuse_to_write)


def test_a_job_has_a_row_for_every_source() -> None:
    with pytest.raises(ValueError, match="2 rows for 0 sources"):
        Job(number=0, sources=[], rows=[1, 2], views={})


# --- ends ---


def refuse_to_write(part: PlannedPart, buffer: PartBuffer, seconds: Seconds) -> None:
    raise AssertionError("nothing is to be written")


@pytest.mark.usefixtures("eager_pool")
@pytest.mark.parametrize("error", [OSError("disk full"), KeyboardInterrupt()])
def test_what_write_raises_reaches_the_caller_and_no_thread_is_left(
    world: World, error: BaseException
) -> None:
    manifest = world.manifest([A, B])
    stopped: list[bool] = []

    def write(part: PlannedPart, buffer: PartBuffer, seconds: Seconds) -> None:
        raise error

    with pytest.raises(type(error)) as found:
        run_all(
            manifest,
            iter(planned(world, manifest)),
            write,
            run=replace(RUN, num_decoders=3),
            stop=lambda: stopped.append(True),
        )

    assert found.value is error
    assert decoders_alive() == []
    assert stopped  # an iterator that waits for others was told


@pytest.mark.usefixtures("eager_pool")
def test_a_decoder_that_fails_ends_the_run_with_its_error_and_no_thread_is_left(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    manifest = world.manifest([A, B])
    parts = planned(world, manifest)

    def broken(path: Path, *rest: object) -> Iterator[object]:
        raise ZeroDivisionError(path.name)

    monkeypatch.setattr(
        "egoctl.pipeline.reading.clip_reader.decode_with", lambda name, **more: broken
    )

    with pytest.raises(ZeroDivisionError, match="a.mp4"):
        run_all(manifest, iter(parts), refuse_to_write, run=replace(RUN, num_decoders=3))

    assert decoders_alive() == []


def test_what_the_iterator_of_parts_raises_reaches_the_caller(world: World) -> None:
    manifest = world.manifest([A])

    def claimed() -> Iterator[PlannedPart]:
        yield planned(world, manifest)[0]
        raise PermissionError("no claim can be made")

    with pytest.raises(PermissionError, match="no claim can be made"):
        run_all(manifest, claimed(), lambda part, buffer, seconds: None)

    assert decoders_alive() == []


def test_a_run_that_fails_while_it_waits_for_what_others_hold_ends_at_once(world: World) -> None:
    class BreaksLater(MeanTeacher):
        """Fails at its second batch, when the decoder asks for a part and all are taken."""

        def feature(self, video_BCTHW: Tensor) -> Tensor:
            if self.num_clips_seen:
                assert is_waiting.wait(PATIENCE_S)
                raise ZeroDivisionError("the second batch")
            return super().feature(video_BCTHW)

    is_waiting = threading.Event()
    manifest = world.manifest([A])
    world.extract(manifest)  # two parts
    for part in Path(world.teacher_url, "parts").iterdir():
        part.unlink()
    teammate = FeatureStore.open(world.teacher_url)
    assert teammate.claims.take(1)
    wait = PartQueue._report

    def reported(queue: PartQueue, reported: set[int]) -> set[int]:
        is_waiting.set()
        return wait(queue, reported)

    # The run may not wait for that.
    teammate_ends = threading.Timer(PATIENCE_S, teammate.close)
    teammate_ends.start()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(PartQueue, "_report", reported)
        patch.setattr(part_queue, "POLL_S", PATIENCE_S)
        with pytest.raises(ZeroDivisionError, match="the second batch"):
            world.extract(manifest, teacher=BreaksLater())

    assert teammate_ends.is_alive()
    assert decoders_alive() == []
    teammate_ends.cancel()
    teammate.close()


# === The pass's settings and its report: what is refused, what is survived, what is told ===


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
        run = PassConfig(device=CPU, **asked)  # type: ignore[arg-type]
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
        PassConfig(device=CPU, **settings)  # type: ignore[arg-type]


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
