"""Checkpoints: folders of weights, optimizer and state, replaced whole or not at all.

A write goes to a new folder that takes the old one's name only when complete. Where a process
dies between the two renames, the old folder is still there under a second name and is used.
Files are not fsynced: a killed process loses nothing, a power cut may cost the last epoch.
"""

import json
import pickle
import shutil
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor

from egoctl.pipeline.errors import EgoctlError
from egoctl.pipeline.runs.partial_epoch import PartialEpoch

MODEL_FILE = "model.safetensors"
TRAINED_FILE = "trained.safetensors"
"""The weights to go on training with, where model.safetensors holds their average."""
PARTIAL_FILE = "partial.pt"
_UNREADABLE = (OSError, RuntimeError, EOFError, ValueError, pickle.PickleError)


@dataclass(frozen=True, kw_only=True, slots=True)
class RunState:
    """Epochs that a run has done, and the best of them."""

    epochs_done: int = 0
    best_epoch: int = 0
    """Counted from 1; 0 while there is none."""
    best_top1: float | None = None
    """The best epoch's top-1 on the val split; None where there is none."""


@dataclass(frozen=True, kw_only=True, slots=True)
class RunCheckpoint:
    """All that a run needs to go on, on the CPU."""

    weights: dict[str, Tensor]
    optimizer: dict[str, Any]
    state: RunState
    average: dict[str, Tensor] | None = None
    """Moving average of the weights; it is then what model.safetensors holds: what is evaluated."""
    partial: PartialEpoch | None = None
    """None: between two epochs."""
    extra: dict[str, Any] = field(default_factory=dict)
    """Other values that the method keeps in state.json."""


def save_checkpoint(folder: Path, checkpoint: RunCheckpoint) -> None:
    """Replace folder by this checkpoint; a kill anywhere leaves the old one or the new one."""
    new, old = _sibling(folder, "new"), _sibling(folder, "old")
    if old.exists() and not folder.exists():
        old.rename(folder)
    for leftover in (new, old):
        shutil.rmtree(leftover, ignore_errors=True)
    new.mkdir(parents=True)
    if checkpoint.average is None:
        _save_weights(checkpoint.weights, new / MODEL_FILE)
    else:
        _save_weights(checkpoint.average, new / MODEL_FILE)
        _save_weights(checkpoint.weights, new / TRAINED_FILE)
    if checkpoint.partial is not None:
        torch.save(checkpoint.partial.to_plain(), new / PARTIAL_FILE)
    torch.save(checkpoint.optimizer, new / "optimizer.pt")
    state = asdict(checkpoint.state) | checkpoint.extra
    (new / "state.json").write_text(json.dumps(state, indent=1))
    if folder.exists():
        folder.rename(old)
    new.rename(folder)
    shutil.rmtree(old, ignore_errors=True)


def find_checkpoint(folder: Path) -> Path | None:
    """Where the checkpoint called folder lies, or None: there is none."""
    for path in (folder, _sibling(folder, "old")):
        if path.is_dir():
            return path
    return None


def load_checkpoint(path: Path, *, where: str) -> RunCheckpoint:
    """The checkpoint in the folder that find_checkpoint gave; messages call it where.

    Raises:
        EgoctlError: if a file is missing or damaged.
    """
    weights = load_weights(path, where=where)
    average = partial = None
    if (path / TRAINED_FILE).is_file():
        average, weights = weights, load_weights(path, where=where, name=TRAINED_FILE)
    try:
        if (path / PARTIAL_FILE).is_file():
            plain = torch.load(path / PARTIAL_FILE, map_location="cpu", weights_only=True)
            partial = PartialEpoch(**plain)
        optimizer = torch.load(path / "optimizer.pt", map_location="cpu", weights_only=True)
        extra = json.loads((path / "state.json").read_text())
        state = RunState(**{one.name: extra.pop(one.name) for one in fields(RunState)})
    except (*_UNREADABLE, LookupError, TypeError, AttributeError) as error:
        raise EgoctlError(_damaged(where, error)) from error
    return RunCheckpoint(
        weights=weights,
        optimizer=optimizer,
        state=state,
        average=average,
        partial=partial,
        extra=extra,
    )


def load_weights(path: Path, *, where: str, name: str = MODEL_FILE) -> dict[str, Tensor]:
    """Only the weights to evaluate; messages call the checkpoint where.

    Raises:
        EgoctlError: if the file is missing or damaged.
    """
    try:
        return safetensors.torch.load_file(path / name)
    except (OSError, SafetensorError) as error:
        raise EgoctlError(_damaged(where, error)) from error


def _save_weights(weights: dict[str, Tensor], file: Path) -> None:
    # Cloned where two names have one memory, which safetensors refuses.
    seen: set[int] = set()
    own = {}
    for name, value in weights.items():
        place = value.untyped_storage().data_ptr()
        own[name] = value.clone() if place in seen else value.contiguous()
        seen.add(place)
    safetensors.torch.save_file(own, file)


def _sibling(folder: Path, suffix: str) -> Path:
    return folder.with_name(f".{folder.name}.{suffix}")


def _damaged(where: str, error: Exception) -> str:
    # torch's own words advise to run code from the file.
    fault = type(error).__name__ if isinstance(error, pickle.PickleError) else error
    return f"checkpoint {where} is damaged ({fault}). Delete it, or start a new run."
