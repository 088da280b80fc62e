"""The pass over the videos: parts are pulled, read, sent through the teacher and handed out."""

import os
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass

import torch

from egoctl.pipeline.devices import keep_freed_memory, resolved_precision
from egoctl.pipeline.errors import EgoctlError
from egoctl.pipeline.extraction.part_buffer import PartBuffer
from egoctl.pipeline.extraction.part_queue import PlannedPart
from egoctl.pipeline.extraction.plan import FilledStore
from egoctl.pipeline.extraction.report import ExtractReport, TeacherReport
from egoctl.pipeline.precision import PRECISIONS
from egoctl.pipeline.progress import Progress
from egoctl.pipeline.reading.clip_reader import JobReader, ReadClip, ReadStats
from egoctl.pipeline.reading.decoder_pool import DecoderPool
from egoctl.pipeline.setting_checks import refuse_below
from egoctl.pipeline.teachers.batches import TeacherBatches
from egoctl.pipeline.teachers.protocol import Teacher, find_batch_size
from egoctl.pipeline.video.decoder_choice import FFMPEG_THREADS, DecoderName

MAX_DECODERS = 16
QUEUED_BATCHES = 2
"""Decoded clips that may wait for the teacher, in batches."""

WritePart = Callable[[PlannedPart, PartBuffer, Mapping[str, Mapping[str, float]]], None]
"""Called with a finished part, its rows, and by store the seconds it took."""


@dataclass(frozen=True, kw_only=True, slots=True)
class PassConfig:
    """How the pass runs on this machine; precision and compile can change what is stored."""

    device: torch.device
    precision: str = "auto"
    compile: bool = False
    """Let torch.compile make the network faster."""
    force_precision: bool = False
    """Store what bf16 or a compiled network computes, however far it is from plain float32."""
    batch_size: int | None = None
    """None: found automatically."""
    num_decoders: int | None = None
    """At most so many threads read videos; None: by the number of cores."""

    def __post_init__(self) -> None:
        if self.precision not in PRECISIONS:
            raise EgoctlError(
                f"--precision must be one of {', '.join(PRECISIONS)}, got {self.precision!r}."
            )
        refuse_below("--batch-size", self.batch_size, least=1)
        refuse_below("--decoders", self.num_decoders, least=1)

    def resolved_precision(self) -> str:
        """'fp32' or 'bf16': auto takes bf16 on GPUs that compute in it."""
        return resolved_precision(self.precision, self.device)

    def max_decoders(self, *, has_teacher: bool) -> int:
        """Threads that may read; they are started one by one, while frames are waited for."""
        if self.num_decoders is not None:
            return self.num_decoders
        num_cores = _usable_cores()
        return max(1, min(MAX_DECODERS, num_cores // 2 if has_teacher else num_cores))


def run_parts(
    parts: Iterator[PlannedPart],
    *,
    fills: Mapping[str, FilledStore],
    planned: Collection[str],
    decoder: DecoderName,
    run: PassConfig,
    report: ExtractReport,
    write: WritePart,
    num_clips: int,
    stop: Callable[[], object] | None = None,
) -> None:
    """Read and compute every part and call write with it; report gets what that cost.

    fills has the stores by name, and planned names those of which parts are expected. A part is
    pulled in the moment a decoder is free to begin it, by that decoder's thread and by one at a
    time; pulling may take its time. Several parts can be under way, and are written as they are
    finished. num_clips is what the progress bar expects; stop ends an iterator that is waiting
    for a next part, and is called however the run ends.

    Raises:
        EgoctlError: as TeacherBatches.submit. What parts or write raise comes out as it is.
    """
    one_pass = _Pass(parts, fills, planned, decoder, run, report, write, stop)
    with Progress(num_clips, title="extract", unit="clip") as progress:
        one_pass.run(progress)


def _batches(teacher: Teacher, run: PassConfig) -> TeacherBatches:
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

    def __init__(self, part: PlannedPart, fills: Mapping[str, FilledStore]) -> None:
        self.part = part
        self.buffer = PartBuffer(part.num_rows, [fills[name] for name in part.parts])
        self.waiting: dict[str, list[ReadClip]] = {name: [] for name in part.parts}
        """By store: clips of the teacher's next batch."""
        self.teacher_s = dict.fromkeys(part.parts, 0.0)
        self.wait_s = 0.0

    def read(self, reader: JobReader) -> Iterator[ReadClip]:
        """Read its clips, in a decoder's thread."""
        if self.part.prefill is not None:
            self.part.prefill(self.buffer)
        return reader.read(self.part.job)

    def seconds(self) -> dict[str, dict[str, float]]:
        """What it cost, by store: the inputs store's rows are beside what all teachers took."""
        all_s = sum(self.teacher_s.values())
        return {
            name: {"wait": self.wait_s, "teacher": all_s if name == "inputs" else teacher_s}
            for name, teacher_s in self.teacher_s.items()
        }


class _Pass:
    def __init__(
        self,
        parts: Iterator[PlannedPart],
        fills: Mapping[str, FilledStore],
        planned: Collection[str],
        decoder: DecoderName,
        run: PassConfig,
        report: ExtractReport,
        write: WritePart,
        stop: Callable[[], object] | None,
    ) -> None:
        self._fills = fills
        self._run = run
        self._batches: dict[str, TeacherBatches] = {}
        self._num_parts = Counter[str]()
        self._decoder = decoder
        self._report = report
        self._write_part = write
        self._readers: list[JobReader] = []
        teachers = [name for name in fills if name in planned and fills[name].teacher is not None]
        sizes = [self._batches_of(name).batch_size for name in teachers]
        self._pool = DecoderPool(
            (_OpenPart(part, fills) for part in parts),
            self._new_reader,
            queue_size=len(fills) * (QUEUED_BATCHES * max(sizes, default=1) + 2),
            max_decoders=run.max_decoders(has_teacher=bool(sizes)),
            stop_jobs=stop,
        )

    def _batches_of(self, name: str) -> TeacherBatches:
        """A store's batches: made beforehand where parts are planned, else when they are needed."""
        if name not in self._batches:
            start = time.perf_counter()
            teacher = self._fills[name].teacher
            assert teacher is not None, "frames were read for a teacher"
            self._batches[name] = _batches(teacher, self._run)
            self._report.seconds["setup"] += time.perf_counter() - start
        return self._batches[name]

    def _new_reader(self) -> Callable[[_OpenPart], Iterator[ReadClip]]:
        reader = JobReader(decoder=self._decoder, num_threads=FFMPEG_THREADS)
        self._readers.append(reader)
        return lambda part: part.read(reader)

    def run(self, progress: Progress) -> None:
        waited_s = 0.0
        # Closed also when the run is interrupted: a thread that still decodes while Python
        # shuts down may crash it.
        with closing(self._pool):
            for part, clip in self._pool:
                part.wait_s += self._pool.wait_s - waited_s
                waited_s = self._pool.wait_s
                if clip is None:
                    self._end(part)
                else:
                    self._take(part, clip)
                    # A clip counts once, however many stores it is read for.
                    progress.advance(int(clip.view == next(iter(part.part.parts))))
                if self._pool.is_empty:
                    # Nothing to launch: what is on its way may land, and its part be written.
                    self._finish()
            self._finish()
        self._fill_report()

    def _finish(self) -> None:
        for batches in self._batches.values():
            batches.finish()

    def _take(self, part: _OpenPart, clip: ReadClip) -> None:
        part.buffer.put(clip)
        if clip.frames is None:
            return
        # A batch never crosses a part: a part redone alone must give the same bits.
        waiting = part.waiting[clip.view]
        waiting.append(clip)
        if len(waiting) >= self._batches_of(clip.view).batch_size:
            self._submit(part, clip.view)

    def _submit(self, part: _OpenPart, name: str) -> None:
        clips, part.waiting[name] = part.waiting[name], []
        rows = [clip.index for clip in clips]
        batches = self._batches_of(name)
        before_s = batches.teacher_s + batches.copy_s
        batches.submit(
            [clip.frames for clip in clips if clip.frames is not None],
            lambda found: part.buffer.put_targets(name, rows, found),
        )
        part.teacher_s[name] += batches.teacher_s + batches.copy_s - before_s

    def _end(self, part: _OpenPart) -> None:
        for name, waiting in part.waiting.items():
            if waiting:
                self._submit(part, name)
        self._write_once_landed(part, [name for name in part.waiting if name in self._batches])

    def _write_once_landed(self, part: _OpenPart, teachers: Sequence[str]) -> None:
        """Write the part when all that these teachers were given is delivered, one by one."""
        if teachers:
            name, *others = teachers
            self._batches[name].then(lambda: self._write_once_landed(part, others))
        else:
            self._write(part)

    def _write(self, part: _OpenPart) -> None:
        start = time.perf_counter()
        part.buffer.check_filled()
        self._write_part(part.part, part.buffer, part.seconds())
        self._report.seconds["write"] += time.perf_counter() - start
        self._report.num_read += len(part.part.job.sources)
        self._report.num_parts += 1
        self._num_parts.update(list(part.part.parts))

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
        for name, batches in self._batches.items():
            report.seconds["copy"] += batches.copy_s
            report.seconds["teacher"] += batches.teacher_s
            report.num_halvings += batches.num_halvings
            report.teachers[name] = TeacherReport(
                teacher=batches.teacher.spec.name,
                store=self._fills[name].url,
                num_parts=self._num_parts[name],
                batch_size=batches.batch_size,
                num_halvings=batches.num_halvings,
                agreement=batches.agreement,
                copy_s=batches.copy_s,
                teacher_s=batches.teacher_s,
            )
            if len(self._batches) == 1:
                report.batch_size = batches.batch_size
                report.agreement = batches.agreement


def _usable_cores() -> int:
    # Fewer than the machine has, where a scheduler gave this process some of them.
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
