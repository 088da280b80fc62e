"""The pass over the videos: parts are pulled, read, sent through the teacher and handed out."""

import os
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass

import torch

from egoctl.pipeline.devices import keep_freed_memory, resolved_precision
from egoctl.pipeline.errors import EgoctlError
from egoctl.pipeline.extraction.part_buffer import PartBuffer
from egoctl.pipeline.extraction.plan import PlannedPart
from egoctl.pipeline.extraction.report import ExtractReport
from egoctl.pipeline.precision import PRECISIONS
from egoctl.pipeline.progress import Progress
from egoctl.pipeline.reading.clip_job import InputsView, TeacherView
from egoctl.pipeline.reading.clip_reader import JobReader, ReadClip, ReadStats
from egoctl.pipeline.reading.decoder_pool import DecoderPool
from egoctl.pipeline.teachers.batches import TeacherBatches
from egoctl.pipeline.teachers.protocol import Teacher, find_batch_size
from egoctl.pipeline.video.decoder_choice import FFMPEG_THREADS, DecoderName

MAX_DECODERS = 16
QUEUED_BATCHES = 2
"""Decoded clips that may wait for the teacher, in batches."""

WritePart = Callable[[PlannedPart, PartBuffer, Mapping[str, float]], None]
"""Called with a finished part, its rows, and the seconds it took."""


@dataclass(frozen=True, kw_only=True, slots=True)
class RunConfig:
    """How the pass runs on this machine; precision and compile can change what is stored."""

    device: torch.device
    precision: str = "auto"
    compile: bool = False
    """Let torch.compile make the network faster."""
    force_precision: bool = False
    """Store what bf16 or a compiled network says however far it is from plain float32."""
    batch_size: int | None = None
    """None: found automatically."""
    num_decoders: int | None = None
    """At most so many threads read videos; None: by the number of cores."""

    def __post_init__(self) -> None:
        if self.precision not in PRECISIONS:
            raise EgoctlError(
                f"--precision must be one of {', '.join(PRECISIONS)}, got {self.precision!r}."
            )
        for name in ("batch_size", "num_decoders"):
            value = getattr(self, name)
            if value is not None and value < 1:
                option = {"batch_size": "--batch-size", "num_decoders": "--decoders"}[name]
                raise EgoctlError(f"{option} must be 1 or more, got {value}.")

    def resolved_precision(self) -> str:
        """'fp32' or 'bf16': auto takes bf16 on GPUs that compute in it."""
        return resolved_precision(self.precision, self.device)

    def max_decoders(self, *, has_teacher: bool) -> int:
        """Threads that may read; they are started one by one, while frames are waited for."""
        if self.num_decoders is not None:
            return self.num_decoders
        num_cores = _usable_cores()
        return max(1, min(MAX_DECODERS, num_cores // 2 if has_teacher else num_cores))


@dataclass(frozen=True, kw_only=True, slots=True)
class Views:
    """What is read of every clip, and with which decoder."""

    teacher: TeacherView | None
    inputs: InputsView
    decoder: DecoderName = "pyav"


def run_parts(
    parts: Iterator[PlannedPart],
    *,
    teacher: Teacher | None,
    views: Views,
    run: RunConfig,
    report: ExtractReport,
    write: WritePart,
    num_clips: int,
    stop: Callable[[], object] | None = None,
) -> None:
    """Read and compute every part and call write with it; report tells what that cost.

    A part is pulled in the moment a decoder is free to begin it, by that decoder's thread and by
    one at a time; pulling may take its time. Several parts can be under way, and are written as
    they are finished. num_clips is what the progress bar expects; stop ends an iterator that is
    waiting for a next part, and is called however the run ends.

    Raises:
        EgoctlError: as TeacherBatches.submit. What parts or write raise comes out as it is.
    """
    start = time.perf_counter()
    batches = _batches(teacher, run) if teacher is not None else None
    report.seconds["setup"] += time.perf_counter() - start
    one_pass = _Pass(parts, teacher, batches, views, run, report, write, stop)
    with Progress(num_clips, title="extract", unit="clip") as progress:
        one_pass.run(progress)


def _batches(teacher: Teacher, run: RunConfig) -> TeacherBatches:
    precision = run.resolved_precision()
    keep_freed_memory(run.device)
    batch_size = run.batch_size or find_batch_size(
        teacher, run.device, autocast_dtype=torch.bfloat16 if precision == "bf16" else None
    )
    return TeacherBatches(
        teacher,
        device=run.device,
        batch_size=batch_size,
        precision=precision,
        is_compiled=run.compile,
        is_forced=run.force_precision,
    )


class _OpenPart:
    """A part under way."""

    def __init__(self, part: PlannedPart, teacher: Teacher | None, views: Views) -> None:
        self.part = part
        self.buffer = PartBuffer(
            part.num_rows,
            teacher=teacher.spec if teacher and part.teacher_part is not None else None,
            inputs=views.inputs if part.inputs_part is not None else None,
        )
        self.batch: list[ReadClip] = []
        self.seconds = {"wait": 0.0, "teacher": 0.0}

    def read(self, reader: JobReader) -> Iterator[ReadClip]:
        """Its clips; in a decoder's thread."""
        if self.part.prefill is not None:
            self.part.prefill(self.buffer)
        return reader.read(self.part.job)


class _Pass:
    def __init__(
        self,
        parts: Iterator[PlannedPart],
        teacher: Teacher | None,
        batches: TeacherBatches | None,
        views: Views,
        run: RunConfig,
        report: ExtractReport,
        write: WritePart,
        stop: Callable[[], object] | None,
    ) -> None:
        self._batches = batches
        self._views = views
        self._report = report
        self._write_part = write
        self._readers: list[JobReader] = []
        batch_size = 1 if batches is None else batches.batch_size
        self._pool = DecoderPool(
            (_OpenPart(part, teacher, views) for part in parts),
            self._new_reader,
            queue_size=QUEUED_BATCHES * batch_size + 2,
            max_decoders=run.max_decoders(has_teacher=teacher is not None),
            stop_jobs=stop,
        )

    def _new_reader(self) -> Callable[[_OpenPart], Iterator[ReadClip]]:
        reader = JobReader(
            teacher=self._views.teacher,
            inputs=self._views.inputs,
            decoder=self._views.decoder,
            num_threads=FFMPEG_THREADS,
        )
        self._readers.append(reader)
        return lambda part: part.read(reader)

    def run(self, progress: Progress) -> None:
        waited_s = 0.0
        # Closed also when the run is interrupted: a thread that still decodes while Python
        # shuts down may crash it.
        with closing(self._pool):
            for part, clip in self._pool:
                part.seconds["wait"] += self._pool.wait_s - waited_s
                waited_s = self._pool.wait_s
                if clip is None:
                    self._end(part)
                else:
                    self._take(part, clip)
                    progress.advance()
                if self._batches is not None and self._pool.is_empty:
                    # Nothing to launch: what is on its way may land, and its part be written.
                    self._batches.finish()
            if self._batches is not None:
                self._batches.finish()
        self._fill_report()

    def _take(self, part: _OpenPart, clip: ReadClip) -> None:
        part.buffer.put(clip)
        if clip.teacher_frames is None:
            return
        assert self._batches is not None, "frames were read for a teacher"
        # A batch never crosses a part: a part redone alone must give the same bits.
        part.batch.append(clip)
        if len(part.batch) >= self._batches.batch_size:
            self._submit(part, self._batches)

    def _submit(self, part: _OpenPart, batches: TeacherBatches) -> None:
        clips, part.batch = part.batch, []
        rows = [clip.index for clip in clips]
        before_s = batches.teacher_s + batches.copy_s
        batches.submit(
            [clip.teacher_frames for clip in clips if clip.teacher_frames is not None],
            lambda found: part.buffer.put_targets(rows, found),
        )
        part.seconds["teacher"] += batches.teacher_s + batches.copy_s - before_s

    def _end(self, part: _OpenPart) -> None:
        if self._batches is None:
            self._write(part)
            return
        if part.batch:
            self._submit(part, self._batches)
        self._batches.then(lambda: self._write(part))

    def _write(self, part: _OpenPart) -> None:
        start = time.perf_counter()
        part.buffer.check_filled()
        self._write_part(part.part, part.buffer, part.seconds)
        self._report.seconds["write"] += time.perf_counter() - start
        self._report.num_read += len(part.part.job.sources)
        self._report.num_parts += 1

    def _fill_report(self) -> None:
        report, pool = self._report, self._pool
        report.seconds["wait"] += pool.wait_s
        report.num_decoders = pool.num_decoders
        cost = ReadStats()
        for reader in self._readers:
            cost.add(reader.stats)
        report.frames_decoded = cost.decode.frames_decoded
        report.frames_spanned = cost.decode.frames_spanned
        report.decoder_seconds = {**cost.seconds, "blocked": pool.blocked_s}
        if self._batches is not None:
            report.seconds["copy"] += self._batches.copy_s
            report.seconds["teacher"] += self._batches.teacher_s
            report.batch_size = self._batches.batch_size
            report.num_halvings = self._batches.num_halvings
            report.agreement = self._batches.agreement


def _usable_cores() -> int:
    # Fewer than the machine has, where a scheduler gave this process some of them.
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
