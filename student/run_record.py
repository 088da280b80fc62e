"""config.json: what a run was asked for, and the data it was made of.

Training writes it; evaluation reads it back and refuses data that are no longer those.
"""

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from egoctl.pipeline.errors import EgoctlError, StoreMismatchError
from egoctl.student.data import ClipSet
from egoctl.student.model import StudentConfig
from egoctl.student.run_folder import CONFIG_FILE, read_json
from egoctl.student.split import Sources, class_difference
from egoctl.student.train_config import TrainConfig


@dataclass(frozen=True, kw_only=True, slots=True)
class RunRecord:
    """What evaluation needs of config.json."""

    train: TrainConfig
    student: StudentConfig
    class_names: tuple[str, ...]
    inputs_fingerprint: str
    teacher_fingerprint: str | None
    """None: no teacher took part in the training."""


def run_record(
    config: TrainConfig,
    shape: StudentConfig,
    sources: Sources,
    train_clips: ClipSet,
    val_clips: ClipSet | None,
) -> dict[str, Any]:
    """What was asked for, what came of it, and digests of the data it was made of, for JSON."""
    teacher = sources.teacher if config.student.parts.distills else None
    return {
        "train": config.to_json(),
        "student": dataclasses.asdict(shape),
        "class_names": list(sources.manifest.class_names),
        "digests": {
            "train": dict(train_clips.digests),
            "val": None if val_clips is None else dict(val_clips.digests),
        },
        "fingerprints": {
            "inputs": sources.inputs.header.fingerprint,
            "teacher": None if teacher is None else teacher.header.fingerprint,
        },
    }


def read_run(run_dir: Path) -> RunRecord:
    """The record of a run.

    Raises:
        EgoctlError: if the folder holds no run of this version.
    """
    if not (run_dir / CONFIG_FILE).is_file():
        raise EgoctlError(
            f"no run in {run_dir} (no {CONFIG_FILE}). 'egoctl train-student' makes one."
        )
    record = read_json(run_dir / CONFIG_FILE)
    try:
        return RunRecord(
            train=TrainConfig.from_json(record["train"]),
            student=StudentConfig(**record["student"]),
            class_names=tuple(record["class_names"]),
            inputs_fingerprint=record["fingerprints"]["inputs"],
            teacher_fingerprint=record["fingerprints"]["teacher"],
        )
    except (KeyError, TypeError) as error:
        raise EgoctlError(
            f"{run_dir / CONFIG_FILE} is not one of this egoctl's ({error}). Train again."
        ) from error


def refuse_other_data(run_dir: Path, record: RunRecord, sources: Sources) -> None:
    """Check that classes and recipes are still those that the run was trained on.

    Raises:
        StoreMismatchError: naming what differs.
    """
    what_to_do = "Put back the data it was trained on, or train again with a new --run."
    names = sources.manifest.class_names
    if names != record.class_names:
        told = class_difference(record.class_names, names, left="the run", right="the manifest")
        raise StoreMismatchError(
            f"{run_dir} was trained on other classes than {record.train.manifest} has now: "
            f"{told}. {what_to_do}"
        )
    for kind, store, wanted in (
        ("inputs", sources.inputs, record.inputs_fingerprint),
        ("teacher", sources.teacher, record.teacher_fingerprint),
    ):
        if store is not None and wanted is not None and store.header.fingerprint != wanted:
            raise StoreMismatchError(
                f"{run_dir} was trained on {kind} of fingerprint {wanted}, but {store.url} "
                f"now has {store.header.fingerprint}: another recipe. {what_to_do}"
            )
