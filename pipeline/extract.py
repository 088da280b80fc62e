"""Extraction: what there is to do, the pass over it, and what became of every clip."""

import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from importlib.metadata import version
from typing import Any

from egoctl.pipeline.clip_reader import ClipSource
from egoctl.pipeline.errors import EgoctlError, StoreError
from egoctl.pipeline.imu_telemetry import check_telemetry_package
from egoctl.pipeline.manifest import Manifest
from egoctl.pipeline.outcomes import OUTCOME_STREAMS, reason_column
from egoctl.pipeline.part_buffer import PartBuffer
from egoctl.pipeline.part_pass import RunConfig, Views, WritePart, run_parts
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
from egoctl.pipeline.receipt import IMU_NONE, OK, RowOutcome
from egoctl.pipeline.report import ExtractReport, Failure
from egoctl.pipeline.store import FeatureStore
from egoctl.pipeline.store_header import ArraySpec, StoreHeader
from egoctl.pipeline.teachers.protocol import Teacher

NOT_DONE = RowOutcome(
    code="not_done", reason="its part was not written; run the same command again"
)


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
    views = Views(
        teacher=None if teacher is None else teacher_view(teacher.spec, manifest.window_s),
        inputs=inputs_view(config, manifest.window_s),
    )
    teacher_store = inputs_store = None
    if store_url is not None and teacher is not None and views.teacher is not None:
        header = teacher_header(
            teacher.spec,
            teacher.weights,
            views.teacher,
            config,
            precision=run.resolved_precision(),
            is_compiled=run.compile,
        )
        teacher_store = _made(store_url, header, teacher_arrays(teacher.spec, config))
    if inputs_url is not None:
        header = inputs_header(views.inputs, config)
        inputs_store = _made(inputs_url, header, inputs_arrays(views.inputs))
    # Only now that neither store refused: a refused run leaves no rows behind.
    stores = [store for store in (teacher_store, inputs_store) if store is not None]
    try:
        report, planned = _plan(manifest, sources, teacher_store, inputs_store)
        report.seconds["setup"] = time.perf_counter() - start
        if planned:
            run_parts(
                iter(planned),
                teacher=teacher,
                views=views,
                run=run,
                report=report,
                write=_writer({"teacher": teacher_store, "inputs": inputs_store}),
                num_clips=sum(len(part.job.sources) for part in planned),
            )
    finally:
        for store in stores:
            store.close()
    report.failures = _failures(stores, sources.keys())
    report.end(time.perf_counter() - start)
    return report


def _plan(
    manifest: Manifest,
    sources: dict[str, ClipSource],
    teacher_store: FeatureStore | None,
    inputs_store: FeatureStore | None,
) -> tuple[ExtractReport, list[PlannedPart]]:
    """Rows for every clip in the stores; a report to fill, and the parts to do."""
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
    to_read = {source.clip.clip_id for part in planned for source in part.job.sources}
    report = ExtractReport(
        num_clips=len(sources),
        # A clip is read twice where it stands in other company in the two stores.
        num_done_before=len(sources) - len(to_read),
        num_foreign_parts=num_foreign,
        num_padded=manifest.num_padded(clips),
    )
    return report, planned


def _writer(stores: Mapping[str, FeatureStore | None]) -> WritePart:
    versions = {name: version(name) for name in ("egoctl", "torch", "av", "zarr", "numpy")}

    def write(part: PlannedPart, buffer: PartBuffer, seconds: Mapping[str, float]) -> None:
        for kind, stored in (("teacher", part.teacher_part), ("inputs", part.inputs_part)):
            store = stores[kind]
            if store is not None and stored is not None:
                store.write_part(
                    stored,
                    buffer.arrays[kind],
                    buffer.outcomes[kind],
                    seconds=seconds,
                    versions=versions,
                )

    return write


def _made(url: str, header: StoreHeader, arrays: Sequence[ArraySpec]) -> FeatureStore:
    try:
        return FeatureStore.create(url, header, arrays)
    except OSError as error:
        raise StoreError(
            f"{url}: no store can be made there ({error.strerror}). Give another path."
        ) from error


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
