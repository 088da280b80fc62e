"""Jobs for worker processes, which cannot import test files: teachers that die, or that fail."""

import os
import signal
import threading
from dataclasses import dataclass, replace
from pathlib import Path

from torch import Tensor

from egoctl.pipeline.extraction.extract import WorkConfig
from egoctl.pipeline.extraction.job import ExtractJob, TargetStore
from egoctl.pipeline.manifest import read_manifest
from egoctl.pipeline.store import FeatureStore
from egoctl.tests.worlds.extract_world import CONFIG, RUN, MeanTeacher, World, mean_teacher

GIVE_UP_S = 60.0


class DoomedTeacher(MeanTeacher):
    """Kills its process at its second batch, unless the file mark says that one has done so."""

    def __init__(self, mark: Path) -> None:
        super().__init__()
        self._mark = mark

    def feature(self, video_BCTHW: Tensor) -> Tensor:
        if self.num_clips_seen and _is_first(self._mark):
            os.kill(os.getpid(), signal.SIGKILL)
        return super().feature(video_BCTHW)


class InterruptingTeacher(MeanTeacher):
    """Presses Ctrl-C once two processes are at work: like a terminal's, it reaches them all."""

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self._folder = folder

    def feature(self, video_BCTHW: Tensor) -> Tensor:
        self._folder.mkdir(exist_ok=True)
        (self._folder / str(os.getpid())).touch()
        pids = {int(file.name) for file in self._folder.iterdir()}
        if len(pids) == 2 and _is_first(self._folder.with_suffix(".pressed")):
            for pid in (*(pids - {os.getpid()}), os.getppid(), os.getpid()):
                os.kill(pid, signal.SIGINT)
        threading.Event().wait(GIVE_UP_S)
        raise TimeoutError("nobody has ended this process")


def _is_first(mark: Path) -> bool:
    """Whether no process has made this file yet; now this one has."""
    try:
        mark.touch(exist_ok=False)
    except FileExistsError:
        return False
    return True


class TimidTeacher(MeanTeacher):
    """Fails whenever it sees nothing but black."""

    def feature(self, video_BCTHW: Tensor) -> Tensor:
        if float(video_BCTHW.max()) < 0:
            raise ZeroDivisionError("all is black")
        return super().feature(video_BCTHW)


@dataclass(frozen=True, kw_only=True, slots=True)
class DoomedJob(ExtractJob):
    """A job of which one process dies in the middle of a part."""

    mark: Path

    def load_teacher(self, target: TargetStore) -> MeanTeacher:
        return DoomedTeacher(self.mark)


@dataclass(frozen=True, kw_only=True, slots=True)
class InterruptedJob(ExtractJob):
    """A job that is stopped with Ctrl-C when two processes hold a part each."""

    folder: Path

    def load_teacher(self, target: TargetStore) -> MeanTeacher:
        return InterruptingTeacher(self.folder)


@dataclass(frozen=True, kw_only=True, slots=True)
class TimidJob(ExtractJob):
    """A job that fails at black videos."""

    def load_teacher(self, target: TargetStore) -> MeanTeacher:
        return TimidTeacher()


@dataclass(frozen=True, kw_only=True, slots=True)
class SeveralJob(ExtractJob):
    """A job of several teachers; the first of them dies once, in the middle of a part."""

    mark: Path

    def load_teacher(self, target: TargetStore) -> MeanTeacher:
        if target.teacher == "doomed":
            return DoomedTeacher(self.mark)
        return mean_teacher(target.teacher)


def several_job(world: World, targets: tuple[TargetStore, ...], inputs: str) -> SeveralJob:
    return SeveralJob(
        manifest=read_manifest(world.manifest_path), targets=targets, inputs=inputs,
        config=CONFIG, run=RUN, work=WorkConfig(lease_s=3600),
        mark=world.folder / "several-mark",
    )  # fmt: skip


def means_into(*urls: str) -> tuple[TargetStore, ...]:
    """A MeanTeacher for each store."""
    return tuple(TargetStore(teacher="means", weights="default", url=url) for url in urls)


def doomed_job(world: World) -> DoomedJob:
    return DoomedJob(
        manifest=read_manifest(world.manifest_path), targets=means_into(world.teacher_url),
        inputs=world.inputs_url, config=CONFIG, run=RUN,
        work=WorkConfig(lease_s=3600), mark=world.folder / "mark",
    )  # fmt: skip


def interrupted_job(world: World) -> InterruptedJob:
    return InterruptedJob(
        manifest=read_manifest(world.manifest_path), targets=means_into(world.teacher_url),
        inputs=world.inputs_url, config=CONFIG,
        # Each decoder claims a part of its own: leave some to the other process.
        run=replace(RUN, num_decoders=1), work=WorkConfig(lease_s=3600),
        folder=world.folder / "at-work",
    )  # fmt: skip


def timid_job(world: World) -> TimidJob:
    return TimidJob(
        manifest=read_manifest(world.manifest_path), targets=means_into(world.teacher_url),
        inputs=None, config=CONFIG, run=RUN, work=WorkConfig(),
    )  # fmt: skip


def shard_digests(url: str) -> dict[int, dict[str, str]]:
    """Of every array of every part."""
    receipts = FeatureStore.open(url).valid_receipts()
    return {
        number: {name: shard.blake3 for name, shard in receipt.shards.items()}
        for number, receipt in receipts.items()
    }
