"""A fine-tuning run's folder: its config, metrics, checkpoints and, when done, its weights.

Every file is written under another name and then renamed, so that a kill leaves the old one or
the new one. `last.pt` is what a rerun believes; all else is written before it.
"""

import json
import os
import shutil
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch

from egoctl.pipeline.errors import EgoctlError
from egoctl.pipeline.recipe import field_differences
from egoctl.pipeline.teachers.checkpoints import DAMAGED, StateDict

WEIGHTS_FILE = "teacher.safetensors"


@dataclass(frozen=True, kw_only=True, slots=True)
class Sums:
    """Of the clips of an epoch so far."""

    loss: float = 0.0
    right: float = 0.0
    clips: float = 0.0

    def __add__(self, other: "Sums") -> "Sums":
        return Sums(
            loss=self.loss + other.loss,
            right=self.right + other.right,
            clips=self.clips + other.clips,
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class RunState:
    """How far a run is."""

    epochs_done: int = 0
    steps_done: int = 0
    """Of the epoch after these."""
    sums: Sums = field(default_factory=Sums)
    """Of those steps."""
    best_epoch: int = 0
    """Counted from 1; 0: none yet."""
    best_top1: float | None = None
    """On the val split; None without one."""
    unread: Mapping[str, str] = field(default_factory=dict)
    """Segments that could not be read, with the reason."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Checkpoint:
    """What a run needs to go on."""

    trainee: StateDict
    optimizer: dict[str, Any]
    state: RunState


class FinetuneFolder:
    """The files of one run."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.weights = path / WEIGHTS_FILE
        self._config = path / "config.json"
        self._metrics = path / "metrics.jsonl"
        self._last = path / "checkpoints" / "last.pt"
        self._best = path / "checkpoints" / "best.safetensors"

    def check(self, config: Mapping[str, Any]) -> None:
        """Refuse a folder that holds a run with another config.

        Raises:
            EgoctlError: naming every field that differs.
        """
        if not self._config.is_file():
            return
        try:
            found = json.loads(self._config.read_text(encoding="utf-8"))
        except ValueError as error:
            raise EgoctlError(f"{self._config} is damaged ({error}). Give a new --run.") from error
        lines = [
            f"{one.field}: run {one.left}, now {one.right}"
            for one in field_differences(found, config)
        ]
        if lines:
            raise EgoctlError(
                f"{self.path} is a run with another config:\n  "
                + "\n  ".join(lines)
                + "\nGive another --run folder, or the old settings to go on with it."
            )

    def begin(self, config: Mapping[str, Any], state: RunState) -> None:
        """Write the config, and drop metrics of epochs that are to be done again."""
        self._last.parent.mkdir(parents=True, exist_ok=True)
        _replace(self._config, lambda part: part.write_text(json.dumps(config, indent=1) + "\n"))
        if self._metrics.is_file():
            lines = self._metrics.read_text(encoding="utf-8").splitlines(keepends=True)
            kept = "".join(lines[: state.epochs_done])
            _replace(self._metrics, lambda part: part.write_text(kept))

    def add_metrics(self, row: Mapping[str, Any]) -> None:
        """Append an epoch."""
        with self._metrics.open("a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")

    def save(self, checkpoint: Checkpoint) -> None:
        """Replace the checkpoint that a rerun goes on from."""
        content = {
            "trainee": checkpoint.trainee,
            "optimizer": checkpoint.optimizer,
            "state": asdict(checkpoint.state),
        }
        _replace(self._last, lambda part: torch.save(content, part))

    def saved(self) -> Checkpoint | None:
        """The checkpoint to go on from, on the CPU; None: there is none.

        Raises:
            EgoctlError: if it is damaged.
        """
        if not self._last.is_file():
            return None
        try:
            found = torch.load(self._last, map_location="cpu", weights_only=True)
            state = {**found["state"], "sums": Sums(**found["state"]["sums"])}
            return Checkpoint(
                trainee=found["trainee"], optimizer=found["optimizer"], state=RunState(**state)
            )
        except DAMAGED as error:
            raise EgoctlError(
                f"{self._last} is damaged ({type(error).__name__}). Delete it to begin again, or "
                "give a new --run."
            ) from error

    def save_best(self, write: Callable[[Path], None]) -> None:
        """Replace the best epoch's weights by what write puts into a file."""
        _replace(self._best, write)

    def finish(self) -> None:
        """Give the best epoch's weights their place in the run."""
        _replace(self.weights, lambda part: shutil.copyfile(self._best, part))


def _replace(file: Path, write: Callable[[Path], object]) -> None:
    part = file.with_name(f".{file.name}.{os.getpid()}.part")
    try:
        write(part)
        part.replace(file)
    finally:
        part.unlink(missing_ok=True)
