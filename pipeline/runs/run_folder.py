"""A run's folder: its config, its metrics per epoch, its log. One process writes to it."""

import json
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

from tqdm import tqdm

from egoctl.pipeline.errors import EgoctlError
from egoctl.pipeline.files.whole_file import write_whole
from egoctl.pipeline.recipe import field_differences
from egoctl.pipeline.runs.run_place import RunPlace, run_folder_at

CONFIG_FILE = "config.json"
METRICS_FILE = "metrics.jsonl"
LOG_FILE = "train.log"


class ScalarWriter(Protocol):
    """The part of TensorBoard's writer that is used."""

    def add_scalar(self, tag: str, scalar_value: float, global_step: int) -> None: ...

    def close(self) -> None: ...


class RunFolder:
    """A run's files. Of several processes only the one with is_writer touches the disk."""

    def __init__(self, run: RunPlace, *, is_writer: bool) -> None:
        self.run = run
        self.path = run.folder
        self.is_writer = is_writer
        self._scalars: ScalarWriter | None = None

    def claim(
        self,
        config: Mapping[str, Any],
        *,
        may_differ: frozenset[str],
        completed: Callable[[Mapping[str, Any]], Mapping[str, Any]] = dict,
    ) -> None:
        """Write config.json, or check that the one there is the same.

        may_differ: names of fields that decide where a run computes, not what ('train.device').
        completed: adds to a config of an earlier version the settings that it lacks.

        Raises:
            EgoctlError: naming every other field that differs.
        """
        file = self.path / CONFIG_FILE
        if file.is_file():
            found = completed(read_json(file, where=self.run.name_of(file)))
            lines = [
                f"{one.field}: run {one.left}, now {one.right}"
                for one in field_differences(found, config)
                if one.field not in may_differ
            ]
            if lines:
                raise EgoctlError(
                    f"{self.run.url} is a run with another config:\n  "
                    + "\n  ".join(lines)
                    + "\nGive another --run folder, or the old settings to go on with it."
                )
        if self.is_writer:
            write_json(file, config)

    def say(self, text: str) -> None:
        """Print a line to stderr, and append it to train.log."""
        if self.is_writer:
            # To stderr: stdout belongs to the result, which may be JSON.
            tqdm.write(text, file=sys.stderr)
            with (self.path / LOG_FILE).open("a", encoding="utf-8") as log:
                log.write(text + "\n")

    def start_metrics(self, epochs_done: int) -> None:
        """Drop the lines of epochs that no checkpoint holds: they are done again."""
        if not self.is_writer:
            return
        file = self.path / METRICS_FILE
        if file.is_file():
            # In order, one a line: a line that a kill cut short lies behind the last checkpoint.
            lines = file.read_text(encoding="utf-8").splitlines(keepends=True)
            write_whole(file, "".join(lines[:epochs_done]))
        self._scalars = _tensorboard(self.path, purge_step=epochs_done + 1)

    def add_metrics(self, row: Mapping[str, Any]) -> None:
        """Append one epoch to metrics.jsonl, and to TensorBoard's events if it is installed."""
        if not self.is_writer:
            return
        with (self.path / METRICS_FILE).open("a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")
        for name, value in row.items():
            if self._scalars is not None and name != "epoch" and value is not None:
                self._scalars.add_scalar(name, float(value), global_step=int(row["epoch"]))

    def metrics_of(self, epoch: int) -> dict[str, Any]:
        """An epoch's line of metrics.jsonl, which holds one for every epoch done.

        Raises:
            EgoctlError: if it does not.
        """
        file = self.path / METRICS_FILE
        try:
            found: dict[str, Any] = json.loads(file.read_text("utf-8").splitlines()[epoch - 1])
        except (OSError, ValueError, IndexError) as error:
            raise EgoctlError(
                f"{self.run.name_of(file)} lacks epoch {epoch}, which the run's checkpoint names "
                f"({error}). Put it back, or start a new run."
            ) from error
        return found

    def publish(self) -> None:
        """Bring the run's bucket up to date, if it lives in one."""
        if self.is_writer:
            self.run.publish()

    def close(self) -> None:
        """Flush TensorBoard's events."""
        if self._scalars is not None:
            self._scalars.close()


@contextmanager
def opened_run_folder(url: str, *, is_writer: bool) -> Iterator[RunFolder]:
    """The run at url, a folder or a bucket; its files are closed at the end of the block."""
    with run_folder_at(url) as run:
        folder = RunFolder(run, is_writer=is_writer)
        try:
            yield folder
        finally:
            folder.close()


def read_json(file: Path, *, where: str) -> dict[str, Any]:
    """The JSON object in file, which messages call where.

    Raises:
        EgoctlError: if there is none.
    """
    try:
        value = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise EgoctlError(f"{where} cannot be read as JSON: {error}") from error
    if not isinstance(value, dict):
        raise EgoctlError(f"{where} does not hold a JSON object.")
    return value


def write_json(file: Path, value: Mapping[str, Any]) -> None:
    """Written to a second name first: readers see the old file or the whole new one."""
    file.parent.mkdir(parents=True, exist_ok=True)
    write_whole(file, json.dumps(value, indent=1, allow_nan=False) + "\n")


def _tensorboard(folder: Path, *, purge_step: int) -> ScalarWriter | None:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        return None
    writer: ScalarWriter = SummaryWriter(str(folder / "tensorboard"), purge_step=purge_step)
    return writer
