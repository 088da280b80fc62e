"""Train and evaluate every student of a plan, as many as are not there yet."""

import io
import multiprocessing
import os
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from typing import Literal, TypeVar

import torch

from egoctl.pipeline.errors import EgoctlError
from egoctl.pipeline.manifest import read_manifest, write_manifest
from egoctl.student.evaluation.evaluate import evaluate
from egoctl.student.pretraining.pretrain import pretrain
from egoctl.student.studies.plan import StudyPlan
from egoctl.student.studies.planned_runs import (
    PretrainRun,
    StudyRun,
    labelled_part,
    planned_runs,
    share_file,
)
from egoctl.student.training.train import train

Say = Callable[[str], None]
State = Literal["found", "done", "failed", "left"]
_Item = TypeVar("_Item")


@dataclass(frozen=True, kw_only=True, slots=True)
class RunState:
    """A run of the plan, and what became of it."""

    run: StudyRun
    state: State
    """found: it was there before. left: it was not asked for now."""
    reason: str = ""
    """Why it failed."""

    @property
    def has_metrics(self) -> bool:
        return self.state in ("found", "done")


def run_study(
    plan: StudyPlan, *, only: Sequence[str] = (), jobs: int = 1, say: Say
) -> tuple[RunState, ...]:
    """Do what is left of the plan; a run that fails ends only itself.

    only: names of rows and tables; other rows are left as they are.

    Raises:
        EgoctlError: for a plan, stores or names that do not fit, before anything is trained; or
            if a process was killed.
        KeyboardInterrupt: if it was asked to stop; run it again to go on.
    """
    if jobs < 1:
        raise EgoctlError(f"--jobs must be 1 or more, got {jobs}.")
    runs = planned_runs(plan)
    wanted = rows_of(plan, only)
    to_do = [run for run in runs if not run.is_done and run.row in wanted]
    _write_manifests(plan, to_do)
    failed: dict[str, str] = {}
    pretrainings = {
        run.pretraining.config.run: run.pretraining
        for run in to_do
        if run.pretraining is not None and not run.pretraining.is_done
    }
    count = len(pretrainings) + len(to_do)
    done = 0
    for pretraining, reason, seconds in _each(_pretrain, list(pretrainings.values()), jobs):
        done += 1
        say(f"[{done}/{count}] pretraining {pretraining.folder.name}: {_outcome(reason, seconds)}")
        if reason:
            failed[pretraining.config.run] = reason
    ready = []
    for run in to_do:
        if run.pretraining is not None and run.pretraining.config.run in failed:
            failed[run.config.run] = f"its pretraining: {failed[run.pretraining.config.run]}"
        else:
            ready.append(run)
    for run, reason, seconds in _each(_train_and_evaluate, ready, jobs):
        done += 1
        say(f"[{done}/{count}] {run.name}: {_outcome(reason, seconds)}")
        if reason:
            failed[run.config.run] = reason
    return tuple(_state(run, to_do, failed) for run in runs)


def study_states(plan: StudyPlan) -> tuple[RunState, ...]:
    """What is there of the plan and what is left; nothing is trained or written."""
    return tuple(_state(run, [], {}) for run in planned_runs(plan))


def _state(run: StudyRun, to_do: list[StudyRun], failed: dict[str, str]) -> RunState:
    if run.config.run in failed:
        return RunState(run=run, state="failed", reason=failed[run.config.run])
    if not run.is_done:
        return RunState(run=run, state="left")
    return RunState(run=run, state="done" if run in to_do else "found")


def rows_of(plan: StudyPlan, only: Sequence[str]) -> set[str]:
    """The rows of these names and of the tables of these names; without a name all."""
    rows = {row.name for row in plan.rows}
    if not only:
        return rows
    of_table = {
        table.name: {name for name in (*table.rows, table.against) if name in rows}
        for table in plan.tables
    }
    wanted: set[str] = set()
    for name in only:
        if name not in rows and name not in of_table:
            raise EgoctlError(
                f"--only {name}: the plan has no such row or table; it has "
                f"{', '.join([*(row.name for row in plan.rows), *of_table])}."
            )
        wanted |= ({name} & rows) | {row for row in of_table.get(name, ()) if row is not None}
    return wanted


def _write_manifests(plan: StudyPlan, runs: list[StudyRun]) -> None:
    """Those with fewer train segments."""
    share_of = {row.name: row.labelled_share for row in plan.rows}
    splits = {(run.config.train_split, share_of[run.row]) for run in runs}
    for train_split, share in splits:
        if share is not None:
            whole = read_manifest(plan.manifest)
            part = labelled_part(whole, train_split=train_split, share=share)
            write_manifest(part, share_file(plan, train_split, share))


def _pretrain(run: PretrainRun) -> str:
    return _quietly(lambda: pretrain(run.config))


def _train_and_evaluate(run: StudyRun) -> str:
    def do() -> None:
        train(run.config)
        for imu in run.imu:
            evaluate(run.folder, split=run.split, imu=imu, teacher=run.beside)

    return _quietly(do)


def _quietly(do: Callable[[], object]) -> str:
    """Why it failed, or nothing. Output is dropped: every run has a log of its own."""
    try:
        with redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
            do()
    # RuntimeError is torch's for memory that does not suffice and for much else.
    except (EgoctlError, OSError, RuntimeError, MemoryError) as error:
        return f"{error}" or type(error).__name__
    return ""


def _each(
    do: Callable[[_Item], str], items: Sequence[_Item], jobs: int
) -> Iterator[tuple[_Item, str, float]]:
    """Every item with why it failed and its seconds, in the order in which they end."""
    if jobs == 1:
        for item in items:
            start_s = time.perf_counter()
            yield item, do(item), time.perf_counter() - start_s
        return
    left = list(reversed(items))
    running: dict[Future[str], tuple[_Item, float]] = {}
    threads = max(1, (os.cpu_count() or 1) // jobs)
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(jobs, spawn, initializer=_start, initargs=(threads,)) as pool:
        try:
            while left or running:
                # Never more than are running: what the pool has taken cannot be called back.
                # So after a Ctrl-C nothing new begins, and running ones save and end.
                while left and len(running) < jobs:
                    item = left.pop()
                    running[pool.submit(_in_process, do, item)] = item, time.perf_counter()
                for future in wait(running, return_when=FIRST_COMPLETED).done:
                    item, start_s = running.pop(future)
                    yield item, future.result(), time.perf_counter() - start_s
        except BrokenProcessPool as error:
            raise EgoctlError(
                "a process of the study was killed, perhaps for want of memory. Finished runs are "
                "kept: run the same command again, with fewer --jobs if need be."
            ) from error


def _start(threads: int) -> None:
    # A terminal's Ctrl-C reaches every process; a waiting one should not print a traceback.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    torch.set_num_threads(threads)


def _in_process(do: Callable[[_Item], str], item: _Item) -> str:
    signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        return do(item)
    finally:
        signal.signal(signal.SIGINT, signal.SIG_IGN)


def _outcome(reason: str, seconds: float) -> str:
    return f"FAILED: {reason}" if reason else f"done in {seconds:.1f} s"
