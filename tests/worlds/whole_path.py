"""Commands one after the other, for tests that look at a whole job from several sides."""

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import torch

from egoctl.pipeline.teachers import lineup
from egoctl.tests.worlds.extract_world import MeanTeacher
from egoctl.tests.worlds.invoked import invoke

SMALL_STORES = (
    "--teacher", "means", "--dtype", "float32", "--frame-px", "64", "--part-rows", "8",
    "--decoders", "1", "--batch-size", "4", "--device", "cpu",
)  # fmt: skip
SMALL_STUDENT = (
    "--epochs", "2", "--batch-size", "4", "--image-weights", "random", "--freeze-image-encoder",
    "--device", "cpu",
)  # fmt: skip


@dataclass(frozen=True, kw_only=True, slots=True)
class Ran:
    """What a command left behind: its exit code, and all that it printed."""

    code: int
    said: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Job:
    """What every command said, and where everything lies."""

    folder: Path
    ran: Mapping[str, Ran]

    def run(self, name: str) -> Path:
        return self.folder / "runs" / name


def egoctl(*args: object) -> Ran:
    """A command in this process; an error that ends it is raised."""
    result = invoke(*args)
    return Ran(code=result.exit_code, said=result.output)


@contextmanager
def small_machine(*, num_classes: int) -> Iterator[None]:
    """The teacher of frame means, with so many classes, under every name."""

    def load(name: str, *, weights: str, device: torch.device) -> MeanTeacher:
        return MeanTeacher(name, num_classes=num_classes)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(lineup, "load_teacher", load)
        yield


def metrics_in(run: Path, name: str = "metrics.json") -> dict[str, Any]:
    found: dict[str, Any] = json.loads((run / name).read_text())
    return found


def predicted_in(run: Path, name: str = "predictions.parquet") -> list[str]:
    """The segments that a run has a prediction of."""
    return sorted(pl.read_parquet(run / name)["segment_id"])
