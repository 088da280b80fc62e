"""Extraction: what there is to do, the pass over it, and what became of every clip."""

import sys
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.metadata import version

from egoctl.pipeline.errors import EgoctlError
from egoctl.pipeline.extraction.part_buffer import PartBuffer
from egoctl.pipeline.extraction.part_pass import PassConfig, run_parts
from egoctl.pipeline.extraction.part_queue import PartQueue, PartShare, PlannedPart
from egoctl.pipeline.extraction.plan import StoreConfig, clip_sources, filled_stores, store_rows
from egoctl.pipeline.extraction.report import ExtractReport, Failure
from egoctl.pipeline.extraction.reused_rows import Copies
from egoctl.pipeline.manifest import Manifest
from egoctl.pipeline.reading.clip_job import ClipSource
from egoctl.pipeline.records import IMU_NONE, OK, RowOutcome
from egoctl.pipeline.store import FeatureStore
from egoctl.pipeline.store.feature_store import LEASE_S
from egoctl.pipeline.store.outcomes import OUTCOME_STREAMS, reason_column
from egoctl.pipeline.teachers.protocol import Teacher
from egoctl.pipeline.trained_on import TrainedOn

NOT_DONE = RowOutcome(
    code="not_done", reason="its part was not written; run the same command again"
)
MIN_LEASE_S = 2.0


@dataclass(frozen=True, kw_only=True, slots=True)
class WorkConfig:
    """How the work is shared with other processes that fill the same stores."""

    share: PartShare = PartShare()
    waits: bool = True
    """Wait for parts that others hold, and do those that they leave behind."""
    lease_s: float = LEASE_S
    """After so long without a sign of life, what a process held is free for others."""
    reuse: tuple[str, ...] = ()
    """Stores whose rows are copied where recipe and clip are the same."""

    def __post_init__(self) -> None:
        if self.lease_s < MIN_LEASE_S:
            raise EgoctlError(f"--lease must be {MIN_LEASE_S:g} s or more, got {self.lease_s:g}.")


def extract(
    manifest: Manifest,
    teachers: Mapping[str, Teacher],
    *,
    inputs_url: str | None,
    config: StoreConfig,
    run: PassConfig,
    work: WorkConfig | None = None,
    trained_on: Mapping[str, TrainedOn] | None = None,
) -> ExtractReport:
    """Fill stores for every clip of the manifest; go on where an earlier run stopped.

    teachers: who computes the targets of each store, by the store's URL; every video is decoded
    once for all of them, and each store is as if its teacher had run alone. Any number of
    processes may fill the same stores at once. Bad videos and IMU files become outcomes of their
    clips and never end the run.

    trained_on: by URL, what teachers have seen, where their weights do not record it.

    >>> import torch
    >>> from egoctl.pipeline.manifest import read_manifest
    >>> from egoctl.pipeline.teachers.lineup import load_teacher
    >>> cpu = torch.device("cpu")
    >>> teacher = load_teacher("x3d_xs", weights="random:0", device=cpu)
    >>> report = extract(
    ...     read_manifest("clips.parquet"),
    ...     {"x3d.store": teacher},
    ...     inputs_url=None,
    ...     config=StoreConfig(),
    ...     run=PassConfig(device=cpu, batch_size=2),
    ... )
    >>> report.num_read, report.failures
    (3, [])
    >>> FeatureStore.open("x3d.store").read("feature", [0, 2]).shape
    (2, 2048)

    Raises:
        EgoctlError: if a store holds another recipe, or cannot be written; if IMU recordings
            lie inside videos and the package that reads them is not installed.
    """
    start = time.perf_counter()
    work = work or WorkConfig()
    job = Extraction(
        manifest,
        teachers,
        inputs_url=inputs_url,
        config=config,
        run=run,
        lease_s=work.lease_s,
        reuse=work.reuse,
        trained_on=trained_on,
    )
    try:
        job.add_rows()
        queue = job.queue(work)
        planned, num_foreign = queue.left()
        report = job.new_report(planned, num_foreign)
        report.seconds["setup"] = time.perf_counter() - start
        if planned:
            try:
                job.run_parts(planned, report, claimed=iter(queue), stop=queue.stop)
            finally:
                queue.stop()
        report.failures = job.failures(planned if work.share.count > 1 else None)
    finally:
        job.close()
    report.end(time.perf_counter() - start)
    return report


class Extraction:
    """A manifest's clips, and the stores that they are to fill. Close it."""

    def __init__(
        self,
        manifest: Manifest,
        teachers: Mapping[str, Teacher],
        *,
        inputs_url: str | None,
        config: StoreConfig,
        run: PassConfig,
        lease_s: float,
        reuse: Sequence[str] = (),
        trained_on: Mapping[str, TrainedOn] | None = None,
    ) -> None:
        self._manifest = manifest
        self._decoder = config.decoder
        self._run = run
        self.sources: dict[str, ClipSource] = clip_sources(manifest)
        if not self.sources:
            raise EgoctlError("the manifest has no segments, so there is nothing to extract.")
        self.fills = filled_stores(
            manifest,
            teachers,
            inputs_url,
            config,
            precision=run.resolved_precision(),
            is_compiled=run.compile,
            trained_on=trained_on,
        )
        self.stores: dict[str, FeatureStore] = {}
        # Rows are added only when no store has refused: a refused run leaves none behind.
        for name, fill in self.fills.items():
            self.stores[name] = fill.made(lease_s=lease_s)
        self._copies = Copies.of(reuse, self.stores) if reuse else None

    def close(self) -> None:
        """Give back what was claimed."""
        for store in self.stores.values():
            store.close()

    def add_rows(self) -> None:
        """Make every clip a row of each store. Reads every video and IMU file for its digest."""
        rows = store_rows(self.sources, with_imu="inputs" in self.stores)
        for name, store in self.stores.items():
            store.append(self.fills[name].rows_of(rows))

    def queue(self, work: WorkConfig) -> PartQueue:
        """The parts that are left, to be claimed one at a time."""
        return PartQueue(
            self.sources,
            {name: fill.view for name, fill in self.fills.items()},
            self.stores,
            share=work.share,
            waits=work.waits,
            say=lambda text: print(text, file=sys.stderr, flush=True),
        )

    def new_report(self, planned: Collection[PlannedPart], num_foreign: int) -> ExtractReport:
        """To be filled by a run over the planned parts."""
        clips = [source.clip for source in self.sources.values()]
        to_read = {source.clip.clip_id for part in planned for source in part.job.sources}
        return ExtractReport(
            num_clips=len(self.sources),
            # A clip is read twice where it stands in other company in the two stores.
            num_done_before=len(self.sources) - len(to_read),
            num_foreign_parts=num_foreign,
            num_padded=self._manifest.num_padded(clips),
        )

    def run_parts(
        self,
        planned: Sequence[PlannedPart],
        report: ExtractReport,
        *,
        claimed: Iterator[PlannedPart] | None = None,
        stop: Callable[[], object] | None = None,
    ) -> None:
        """Read, compute and write parts, which are claimed: those planned, or claimed as they come.

        stop ends an iterator that is waiting for others.
        """
        parts = iter(planned) if claimed is None else claimed
        run_parts(
            parts if self._copies is None else self._copies.taken_off(parts, report),
            fills=self.fills,
            planned={name for part in planned for name in part.parts},
            decoder=self._decoder,
            run=self._run,
            report=report,
            write=lambda part, buffer, seconds: self._write(part, buffer, seconds, report),
            num_clips=sum(len(part.job.sources) for part in planned),
            stop=stop,
        )

    def _write(
        self,
        part: PlannedPart,
        buffer: PartBuffer,
        seconds: Mapping[str, Mapping[str, float]],
        report: ExtractReport,
    ) -> None:
        for name, stored in part.parts.items():
            is_ours = self.stores[name].write_part(
                stored,
                buffer.arrays[name],
                buffer.outcomes[name],
                seconds=seconds[name],
                versions=_versions(),
                num_reused=part.num_rows - len(part.job.sources),
            )
            # Its claim ran out while this process slept: another has it, and redoes it.
            report.num_lost_parts += not is_ours

    def failures(self, planned: Collection[PlannedPart] | None = None) -> list[Failure]:
        """Every failed clip, counted once per code, the most frequent code first.

        Of the planned parts if they are given, else of the whole manifest.
        """
        clip_ids: Collection[str] = self.sources.keys()
        if planned is not None:
            clip_ids = {source.clip.clip_id for part in planned for source in part.job.sources}
        failed: dict[tuple[str, str], str] = {}
        for store in self.stores.values():
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


@cache
def _versions() -> Mapping[str, str]:
    """Versions of what decides values; read off files, and the same for every part."""
    return {name: version(name) for name in ("egoctl", "torch", "av", "zarr", "numpy")}
