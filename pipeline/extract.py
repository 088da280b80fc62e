"""The pass over the videos: every clip once, through the teacher, into the stores."""

# n rows of a part, D feature width, C classes, K stored frames, W IMU samples

import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from importlib.metadata import version
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from egoctl.pipeline.clip_reader import ClipReader, ClipSource, InputsView, ReadClip, TeacherView
from egoctl.pipeline.errors import EgoctlError, StoreError
from egoctl.pipeline.imu_telemetry import check_telemetry_package
from egoctl.pipeline.manifest import Manifest
from egoctl.pipeline.outcomes import OUTCOME_STREAMS, reason_column
from egoctl.pipeline.plan import (
    PlannedPart,
    StoreConfig,
    clip_sources,
    inputs_arrays,
    inputs_header,
    inputs_view,
    parts_left,
    store_rows,
    teacher_arrays,
    teacher_header,
    teacher_view,
)
from egoctl.pipeline.progress import Progress
from egoctl.pipeline.receipt import IMU_NONE, OK, RowOutcome, StoreHeader
from egoctl.pipeline.records import TeacherSpec, TeacherTargets
from egoctl.pipeline.report import ExtractReport, Failure
from egoctl.pipeline.store import ArraySpec, FeatureStore
from egoctl.pipeline.teachers.protocol import Teacher, find_batch_size, targets

PRECISIONS = ("auto", "fp32", "bf16")
NOT_FINITE = RowOutcome(
    code="teacher_not_finite",
    reason="the teacher's feature or logits for this clip are not finite numbers; check its "
    "weights, or start a new store with --precision fp32",
)
QUEUED_BATCHES = 2
"""Decoded clips that may wait for the teacher, in batches."""
NOT_DONE = RowOutcome(
    code="not_done", reason="its part was not written; run the same command again"
)


@dataclass(frozen=True, kw_only=True, slots=True)
class RunConfig:
    """How the pass runs on this machine; only precision can change what is stored."""

    device: torch.device
    precision: str = "auto"
    batch_size: int | None = None
    """None: found automatically."""

    def __post_init__(self) -> None:
        if self.precision not in PRECISIONS:
            raise EgoctlError(
                f"--precision must be one of {', '.join(PRECISIONS)}, got {self.precision!r}."
            )
        if self.batch_size is not None and self.batch_size < 1:
            raise EgoctlError(f"--batch-size must be 1 or more, got {self.batch_size}.")

    def resolved_precision(self) -> str:
        """'fp32' or 'bf16': auto takes bf16 on GPUs that compute in it."""
        if self.precision != "auto":
            return self.precision
        is_capable = self.device.type == "cuda" and torch.cuda.is_bf16_supported()
        return "bf16" if is_capable else "fp32"


def extract(
    manifest: Manifest,
    teacher: Teacher | None,
    *,
    store_url: str | None,
    inputs_url: str | None,
    config: StoreConfig,
    run: RunConfig,
) -> ExtractReport:
    """Fill both stores for every clip of the manifest; go on where an earlier run stopped.

    Bad videos and IMU files become outcomes of their clips and never end the run.

    Raises:
        EgoctlError: if a store holds another recipe, or cannot be written; if IMU recordings
            lie inside videos and the package that reads them is not installed.
    """
    start = time.perf_counter()
    sources = clip_sources(manifest)
    if not sources:
        raise EgoctlError("the manifest has no segments, so there is nothing to extract.")
    if inputs_url is not None:
        check_telemetry_package(source.imu for source in sources.values() if source.imu is not None)
    views = _Views.of(manifest, teacher.spec if teacher else None, config)
    teacher_store = inputs_store = None
    if store_url is not None and teacher is not None and views.teacher is not None:
        precision = run.resolved_precision()
        header = teacher_header(
            teacher.spec, teacher.weights, views.teacher, config, precision=precision
        )
        teacher_store = _made(store_url, header, teacher_arrays(teacher.spec, config))
    if inputs_url is not None:
        header = inputs_header(views.inputs, config)
        inputs_store = _made(inputs_url, header, inputs_arrays(views.inputs))
    # Only now that neither store refused: a refused run leaves no rows behind.
    stores = [store for store in (teacher_store, inputs_store) if store is not None]
    try:
        report = _fill(manifest, sources, teacher, teacher_store, inputs_store, views, run)
    finally:
        for store in stores:
            store.close()
    report.failures = _failures(stores, sources.keys())
    report.seconds["wall"] = time.perf_counter() - start
    return report


def _fill(
    manifest: Manifest,
    sources: dict[str, ClipSource],
    teacher: Teacher | None,
    teacher_store: FeatureStore | None,
    inputs_store: FeatureStore | None,
    views: "_Views",
    run: RunConfig,
) -> ExtractReport:
    rows = store_rows(sources, with_imu=inputs_store is not None)
    if teacher_store is not None:
        teacher_store.append([replace(row, imu_key=None) for row in rows])
    if inputs_store is not None:
        inputs_store.append(rows)
    planned, num_foreign = parts_left(
        sources,
        teacher_store.parts_to_do() if teacher_store is not None else (),
        inputs_store.parts_to_do() if inputs_store is not None else (),
    )
    clips = [source.clip for source in sources.values()]
    to_read = [source.clip.clip_id for part in planned for source in part.job.sources]
    report = ExtractReport(
        num_clips=len(sources),
        # A clip is read twice where it stands in other company in the two stores.
        num_done_before=len(sources) - len(set(to_read)),
        num_foreign_parts=num_foreign,
        num_padded=manifest.num_padded(clips),
    )
    report.seconds = dict.fromkeys(("teacher", "write", "wait"), 0.0)
    if planned:
        _Pass(planned, teacher, teacher_store, inputs_store, views, run, report).run(len(to_read))
    return report


def _made(url: str, header: StoreHeader, arrays: Sequence[ArraySpec]) -> FeatureStore:
    try:
        return FeatureStore.create(url, header, arrays)
    except OSError as error:
        raise StoreError(
            f"{url}: no store can be made there ({error.strerror}). Give another path."
        ) from error


@dataclass(frozen=True, kw_only=True, slots=True)
class _Views:
    teacher: TeacherView | None
    inputs: InputsView

    @classmethod
    def of(cls, manifest: Manifest, spec: TeacherSpec | None, config: StoreConfig) -> "_Views":
        return cls(
            teacher=None if spec is None else teacher_view(spec, manifest.window_s),
            inputs=inputs_view(config, manifest.window_s),
        )


class _Pass:
    """One run over the planned parts."""

    def __init__(
        self,
        planned: Sequence[PlannedPart],
        teacher: Teacher | None,
        teacher_store: FeatureStore | None,
        inputs_store: FeatureStore | None,
        views: _Views,
        run: RunConfig,
        report: ExtractReport,
    ) -> None:
        self._planned = planned
        self._teacher = teacher
        self._stores = {"teacher": teacher_store, "inputs": inputs_store}
        self._views = views
        self._device = run.device
        is_bf16 = run.resolved_precision() == "bf16"
        self._autocast_dtype = torch.bfloat16 if is_bf16 else None
        self._report = report
        self._batch_size = run.batch_size or 1
        if teacher is not None and run.batch_size is None:
            self._batch_size = find_batch_size(
                teacher, run.device, autocast_dtype=self._autocast_dtype
            )
        report.batch_size = self._batch_size if teacher is not None else None

    def run(self, num_clips: int) -> None:
        reader = ClipReader(
            [part.job for part in self._planned],
            teacher=self._views.teacher,
            inputs=self._views.inputs,
            queue_size=QUEUED_BATCHES * self._batch_size + 2,
        )
        # Closed also when the run is interrupted: a thread that still decodes while Python
        # shuts down may crash it.
        with closing(reader), Progress(num_clips, title="extract", unit="clip") as progress:
            clips = iter(reader)
            for part in self._planned:
                self._run_part(part, clips, progress)
        self._report.frames_decoded = reader.stats.decode.frames_decoded
        self._report.frames_spanned = reader.stats.decode.frames_spanned
        self._report.seconds["read"] = reader.stats.busy_s

    def _run_part(self, part: PlannedPart, clips: Iterator[ReadClip], progress: Progress) -> None:
        started = dict(self._report.seconds)
        buffer = _PartBuffer(part, self._teacher, self._views)
        batch: list[ReadClip] = []
        # A batch never crosses a part: a part redone alone must give the same bits.
        for _ in part.job.sources:
            tick = time.perf_counter()
            clip = next(clips)
            self._report.seconds["wait"] += time.perf_counter() - tick
            buffer.put(clip)
            if clip.teacher_frames is not None:
                batch.append(clip)
                if len(batch) == self._batch_size:
                    self._forward(batch, buffer)
                    batch = []
            progress.advance()
        if batch:
            self._forward(batch, buffer)
        tick = time.perf_counter()
        seconds = {name: self._report.seconds[name] - started[name] for name in ("teacher", "wait")}
        for kind, stored in (("teacher", part.teacher_part), ("inputs", part.inputs_part)):
            store = self._stores[kind]
            if store is not None and stored is not None:
                store.write_part(
                    stored,
                    buffer.arrays[kind],
                    buffer.outcomes[kind],
                    seconds=seconds,
                    versions=_versions(),
                )
        self._report.seconds["write"] += time.perf_counter() - tick
        self._report.num_read += len(part.job.sources)
        self._report.num_parts += 1

    def _forward(self, batch: Sequence[ReadClip], buffer: "_PartBuffer") -> None:
        assert self._teacher is not None
        tick = time.perf_counter()
        frames = torch.from_numpy(
            np.stack([c.teacher_frames for c in batch if c.teacher_frames is not None])
        )
        found = targets(self._teacher, frames.to(self._device), autocast_dtype=self._autocast_dtype)
        buffer.put_targets([clip.index for clip in batch], found)
        self._report.seconds["teacher"] += time.perf_counter() - tick


class _PartBuffer:
    """A part's rows while they come in; what never comes stays NaN or empty."""

    def __init__(self, part: PlannedPart, teacher: Teacher | None, views: _Views) -> None:
        n = len(part.job.sources)
        self.arrays: dict[str, dict[str, NDArray[Any]]] = {}
        self.outcomes: dict[str, dict[str, list[RowOutcome]]] = {}
        if part.teacher_part is not None and teacher is not None:
            self.arrays["teacher"] = {
                "feature": _nan(n, teacher.spec.feature_dim),
                "logits": _nan(n, teacher.spec.num_classes),
            }
            self.outcomes["teacher"] = {"outcome": [RowOutcome()] * n}
        if part.inputs_part is not None:
            frames_nK = np.empty((n, views.inputs.num_frames), dtype=object)
            frames_nK.fill(b"")
            self.arrays["inputs"] = {
                "frames": frames_nK,
                "frame_time": np.full((n, views.inputs.num_frames), np.nan),
                "imu": _nan(n, views.inputs.imu_samples, 6),
                "imu_mean": _nan(n, 6),
            }
            self.outcomes["inputs"] = {
                "outcome": [RowOutcome()] * n,
                "imu_outcome": [RowOutcome()] * n,
            }

    def put_targets(self, indices: Sequence[int], found: TeacherTargets) -> None:
        for at, index in enumerate(indices):
            feature_D, logits_C = found.feature_ND[at], found.logits_NC[at]
            if np.isfinite(feature_D).all() and np.isfinite(logits_C).all():
                self.arrays["teacher"]["feature"][index] = feature_D
                self.arrays["teacher"]["logits"][index] = logits_C
            else:
                self.outcomes["teacher"]["outcome"][index] = NOT_FINITE

    def put(self, clip: ReadClip) -> None:
        if "teacher" in self.outcomes:
            self.outcomes["teacher"]["outcome"][clip.index] = clip.teacher_outcome
        inputs = self.arrays.get("inputs")
        if inputs is None:
            return
        self.outcomes["inputs"]["outcome"][clip.index] = clip.inputs_outcome
        self.outcomes["inputs"]["imu_outcome"][clip.index] = clip.imu_outcome
        if clip.inputs_outcome.code == OK:
            inputs["frames"][clip.index] = clip.jpegs
            inputs["frame_time"][clip.index] = clip.frame_times_s
        if clip.imu is not None:
            inputs["imu"][clip.index] = clip.imu.samples_W6
            inputs["imu_mean"][clip.index] = clip.imu.mean_6


def _nan(*shape: int) -> NDArray[np.float32]:
    return np.full(shape, np.nan, dtype=np.float32)


def _versions() -> Mapping[str, str]:
    return {name: version(name) for name in ("egoctl", "torch", "av", "zarr", "numpy")}


def _failures(stores: Sequence[FeatureStore], clip_ids: Any) -> list[Failure]:
    """Every failed clip of the manifest, counted once per code, the most frequent code first."""
    failed: dict[tuple[str, str], str] = {}
    for store in stores:
        rows = store.rows()
        for stream in OUTCOME_STREAMS:
            if stream not in rows.columns:
                continue
            columns = rows.select("clip_id", stream, reason_column(stream))
            for clip_id, code, reason in columns.iter_rows():
                if code not in (OK, IMU_NONE) and clip_id in clip_ids:
                    code = code or NOT_DONE.code
                    failed[code, clip_id] = reason or NOT_DONE.reason or code
    counts = Counter(code for code, _ in failed)
    failures = []
    for code, count in counts.most_common():
        clip_id, reason = next((c, r) for (k, c), r in failed.items() if k == code)
        failures.append(
            Failure(code=code, count=count, example_clip=clip_id, example_reason=reason)
        )
    return failures
