"""The same parts on a Ray cluster: one actor per GPU, retries, and no part that stops the others.

Actors claim their parts like any other worker, so other machines may fill the same stores.
"""

import os
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch

from egoctl.pipeline.errors import EgoctlError
from egoctl.pipeline.extraction.extract import Extraction
from egoctl.pipeline.extraction.job import ExtractJob
from egoctl.pipeline.extraction.part_queue import PlannedPart
from egoctl.pipeline.extraction.report import ExtractReport, extract_lines
from egoctl.pipeline.progress import Progress
from egoctl.pipeline.setting_checks import refuse_below
from egoctl.pipeline.teachers.protocol import Teacher

MAX_TRIES = 3
"""Whatever ends the actor of a part this often is the part's own fault."""


@dataclass(frozen=True, kw_only=True, slots=True)
class RayConfig:
    """Where, and on how many actors."""

    address: str | None = None
    """Address of a running cluster; None: this machine alone."""
    num_workers: int | None = None
    """None: one per GPU of the cluster; without GPUs one per four cores."""

    def __post_init__(self) -> None:
        refuse_below("--workers", self.num_workers, least=1)


@dataclass(kw_only=True)
class RayReport:
    """What the run did."""

    extract: ExtractReport
    num_workers: int
    num_retries: int = 0
    """Parts that were given out again after their actor or their pass had failed."""
    given_up: dict[str, str] = field(default_factory=dict)
    """Parts that failed every time, in words, and the last error's first line."""


def ray_lines(report: RayReport) -> Iterable[str]:
    """What the run did, for people."""
    yield f"{report.num_workers} Ray actors; {report.num_retries} parts were given out again."
    for parts, why in report.given_up.items():
        yield f"{parts} failed {MAX_TRIES} times and was left out: {why}"
    yield from extract_lines(report.extract)


def extract_on_ray(
    job: ExtractJob, teachers: Mapping[str, Teacher], config: RayConfig
) -> RayReport:
    """Fill the stores with actors; this process adds the rows and hands out the parts.

    Raises:
        EgoctlError: if Ray is not installed, or the cluster has no room for a single actor.
    """
    ray = _ray()
    start = time.perf_counter()
    extraction = job.extraction(teachers)
    try:
        extraction.add_rows()
        planned, num_foreign = extraction.queue(job.work).left()
        report = extraction.new_report(planned, num_foreign)
        with _cluster(ray, config):
            found = _Run(ray, job, config, planned, extraction, report).run()
        report.failures = extraction.failures()
    finally:
        extraction.close()
    report.end(time.perf_counter() - start)
    return found


class PartWorker:
    """An actor: the teachers, and all stores."""

    def __init__(self, job: ExtractJob) -> None:
        self._job = job if job.run.device.type == "cpu" else job.on("cuda")
        if job.run.device.type == "cpu":
            torch.set_num_threads(max(1, len(os.sched_getaffinity(0)) // 2))
        self._extraction = self._job.extraction(self._job.load_teachers())
        self._queue = self._extraction.queue(job.work)
        self._planned, _ = self._queue.left()

    def do(self, numbers: Mapping[str, int]) -> ExtractReport:
        """Read, compute and write what is left of a part; what others hold is left to them.

        numbers: its number in each store that it fills, by the store's name.
        """
        report = self._extraction.new_report((), 0)
        # By any number: one of its stores may have been filled before this worker came.
        found = [
            self._queue.claimed(part)
            for part in self._planned
            if numbers_of(part).items() & numbers.items()
        ]
        claimed = [part for part in found if part is not None]
        if claimed:
            try:
                self._extraction.run_parts(claimed, report)
            finally:
                self._release(claimed)
        return report

    def _release(self, parts: list[PlannedPart]) -> None:
        """Give back what failed: whoever tries it again must be able to claim it."""
        for part in parts:
            for name, number in numbers_of(part).items():
                self._extraction.stores[name].claims.release(number)

    def close(self) -> None:
        self._extraction.close()


def numbers_of(part: PlannedPart) -> dict[str, int]:
    """What identifies a planned part on every machine: its number in each store, by name."""
    return {name: stored.number for name, stored in part.parts.items()}


class _Run:
    def __init__(
        self,
        ray: Any,
        job: ExtractJob,
        config: RayConfig,
        planned: list[PlannedPart],
        extraction: Extraction,
        report: ExtractReport,
    ) -> None:
        self._ray = ray
        self._extraction = extraction
        self._left = deque(planned)
        self._tries = Counter[str]()
        self._num_workers = min(_num_workers(ray, job, config), max(1, len(planned)))
        needs_gpu = job.run.device.type == "cuda"
        actor = ray.remote(num_gpus=1 if needs_gpu else 0, num_cpus=1)(PartWorker)
        self._new_actor: Callable[[], Any] = lambda: actor.remote(job)
        self._running: dict[Any, tuple[Any, PlannedPart]] = {}
        self.report = RayReport(extract=report, num_workers=self._num_workers)

    def run(self) -> RayReport:
        num_clips = sum(len(part.job.sources) for part in self._left)
        with Progress(num_clips, title="extract", unit="clip") as progress:
            for _ in range(min(self._num_workers, len(self._left))):
                self._give_out(self._new_actor())
            while self._running:
                (done,), _ = self._ray.wait(list(self._running))
                worker, part = self._running.pop(done)
                worker = self._take_in(done, worker, part)
                progress.advance(len(part.job.sources))
                if self._left:
                    self._give_out(worker)
                else:
                    self._dismiss(worker)
        return self.report

    def _give_out(self, worker: Any) -> None:
        part = self._left.popleft()
        self._running[worker.do.remote(numbers_of(part))] = (worker, part)

    def _take_in(self, done: Any, worker: Any, part: PlannedPart) -> Any:
        """Count what a worker did; the worker for the next part, a new one if it died."""
        exceptions = self._ray.exceptions
        try:
            _add(self.report.extract, self._ray.get(done))
            return worker
        except exceptions.RayTaskError as error:
            self._try_again(part, f"{type(error.cause).__name__}: {error.cause}")
            return worker
        except exceptions.RayActorError as error:
            # Ray reports it dead, so its claim need not run out first.
            for name, number in numbers_of(part).items():
                self._extraction.stores[name].claims.drop(number)
            self._try_again(part, f"its worker died ({str(error).splitlines()[0]})")
            return self._new_actor()

    def _try_again(self, part: PlannedPart, why: str) -> None:
        titles = {name: fill.title for name, fill in self._extraction.fills.items()}
        words = " and ".join(
            f"part {number} of {titles[name]}" for name, number in numbers_of(part).items()
        )
        self._tries[words] += 1
        if self._tries[words] < MAX_TRIES:
            self.report.num_retries += 1
            self._left.append(part)
        else:
            self.report.given_up[words] = why

    def _dismiss(self, worker: Any) -> None:
        self._ray.get(worker.close.remote())
        self._ray.kill(worker)


def _add(total: ExtractReport, part: ExtractReport) -> None:
    total.add(part)
    for all_s, seconds in (
        (total.seconds, part.seconds),
        (total.decoder_seconds, part.decoder_seconds),
    ):
        for name, value in seconds.items():
            all_s[name] = all_s.get(name, 0.0) + value


def _num_workers(ray: Any, job: ExtractJob, config: RayConfig) -> int:
    found = ray.cluster_resources()
    num_gpus, num_cores = int(found.get("GPU", 0)), int(found.get("CPU", 0))
    if job.run.device.type == "cuda" and num_gpus < 1:
        raise EgoctlError("the Ray cluster has no GPU. Pass --device cpu, or add a node with one.")
    if config.num_workers is not None:
        return config.num_workers
    return num_gpus if job.run.device.type == "cuda" else max(1, num_cores // 4)


class _cluster:
    """Connects to the cluster, or starts one here; leaves it afterwards."""

    def __init__(self, ray: Any, config: RayConfig) -> None:
        self._ray = ray
        self._config = config

    def __enter__(self) -> None:
        try:
            self._ray.init(
                address=self._config.address,
                include_dashboard=False,
                log_to_driver=False,
                logging_level="ERROR",
            )
        except ConnectionError as error:
            raise EgoctlError(
                f"--address {self._config.address}: no Ray cluster answers there. Start one with "
                "'ray start --head', or leave --address out."
            ) from error

    def __exit__(self, *error: object) -> None:
        self._ray.shutdown()


def _ray() -> Any:
    try:
        import ray
        import ray.exceptions
    except ImportError as error:
        raise EgoctlError(
            "--engine ray needs the package ray: pip install 'egoctl[ray]'."
        ) from error
    return ray
