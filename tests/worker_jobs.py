"""Jobs for worker processes, which cannot import test files: teachers that die, or that fail."""

import os
import signal
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from egoctl.pipeline.extract import WorkConfig
from egoctl.pipeline.extract_job import ExtractJob
from egoctl.pipeline.store import FeatureStore
from egoctl.tests.extract_world import CONFIG, RUN, MeanTeacher, World


class DoomedTeacher(MeanTeacher):
    """Kills its process at its second batch, unless the file mark says that one has done so."""

    def __init__(self, mark: Path) -> None:
        super().__init__()
        self._mark = mark

    def feature(self, video_BCTHW: Tensor) -> Tensor:
        if self.num_clips_seen:
            try:
                self._mark.touch(exist_ok=False)
            except FileExistsError:
                pass
            else:
                os.kill(os.getpid(), signal.SIGKILL)
        return super().feature(video_BCTHW)


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

    def load_teacher(self) -> MeanTeacher:
        torch.set_num_threads(1)
        return DoomedTeacher(self.mark)


@dataclass(frozen=True, kw_only=True, slots=True)
class TimidJob(ExtractJob):
    """A job that fails at black videos."""

    def load_teacher(self) -> MeanTeacher:
        torch.set_num_threads(1)
        return TimidTeacher()


def doomed_job(world: World) -> DoomedJob:
    return DoomedJob(
        manifest=str(world.manifest_path), teacher="means", weights="default",
        store=world.teacher_url, inputs=world.inputs_url, config=CONFIG, run=RUN,
        work=WorkConfig(lease_s=3600), mark=world.folder / "mark",
    )  # fmt: skip


def timid_job(world: World) -> TimidJob:
    return TimidJob(
        manifest=str(world.manifest_path), teacher="means", weights="default",
        store=world.teacher_url, inputs=None, config=CONFIG, run=RUN, work=WorkConfig(),
    )  # fmt: skip


def shard_digests(url: str) -> dict[int, dict[str, str]]:
    """Of every array of every part."""
    receipts = FeatureStore.open(url).valid_receipts()
    return {
        number: {name: shard.blake3 for name, shard in receipt.shards.items()}
        for number, receipt in receipts.items()
    }
