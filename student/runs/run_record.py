"""config.json: the settings of a run, and the data it was made of.

Training writes it; evaluation reads it back and refuses data that are no longer those.
"""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from egoctl.pipeline.errors import EgoctlError, StoreMismatchError
from egoctl.pipeline.runs.run_folder import CONFIG_FILE, read_json
from egoctl.pipeline.runs.run_place import RunPlace
from egoctl.pipeline.store.teacher_columns import class_difference
from egoctl.student.clips.clip_set import ClipSet
from egoctl.student.clips.sources import Sources
from egoctl.student.model.loss_config import LossConfig
from egoctl.student.model.student_config import StudentConfig
from egoctl.student.runs.pretrained_file import Pretraining
from egoctl.student.settings.train_config import TrainConfig


@dataclass(frozen=True, kw_only=True, slots=True)
class RunRecord:
    """The part of config.json that evaluation needs."""

    train: TrainConfig
    student: StudentConfig
    class_names: tuple[str, ...]
    inputs_fingerprint: str
    teacher_fingerprint: str | None
    """None: no teacher took part in the training."""
    train_digests: Mapping[str, str]
    """Digests of the rows trained on, per store: 'inputs' and, if it took part, 'teacher'."""


def run_record(
    config: TrainConfig,
    shape: StudentConfig,
    sources: Sources,
    train_clips: ClipSet,
    val_clips: ClipSet | None,
    pretraining: Pretraining | None,
) -> dict[str, Any]:
    """Content of config.json: settings, the resulting student, and digests of the data."""
    teacher = sources.teacher if config.student.parts.distills else None
    # Runs from before there was pretraining have no such line, and go on without one.
    began_as = {} if pretraining is None else {"pretraining": pretraining.digest}
    return {
        "train": config.to_json(),
        "student": dataclasses.asdict(shape),
        "class_names": list(sources.manifest.class_names),
        "digests": {
            "train": dict(train_clips.digests),
            "val": None if val_clips is None else dict(val_clips.digests),
            **began_as,
        },
        "fingerprints": {
            "inputs": sources.inputs.header.fingerprint,
            "teacher": None if teacher is None else teacher.header.fingerprint,
        },
    }


def with_later_settings(record: Mapping[str, Any]) -> dict[str, Any]:
    """The record with the defaults of settings that its egoctl did not have yet.

    They were added so that their defaults do what was done before, so the run is the same.
    """
    of_train = with_defaults(TrainConfig, record.get("train", {}))
    of_student = with_defaults(StudentConfig, of_train.get("student", {}))
    of_loss = with_defaults(LossConfig, of_train.get("loss", {}))
    return {
        **record,
        "train": of_train | {"student": of_student, "loss": of_loss},
        "student": with_defaults(StudentConfig, record.get("student", {})),
    }


def with_defaults(owner: type[Any], values: Mapping[str, Any]) -> dict[str, Any]:
    """The values, and the plain defaults of those of the owner's fields that they lack."""
    defaults = {field.name: field.default for field in dataclasses.fields(owner)}
    plain = {name: value for name, value in defaults.items() if value is not dataclasses.MISSING}
    return plain | dict(values)


def read_run(run: RunPlace) -> RunRecord:
    """The record of a run.

    Raises:
        EgoctlError: if the folder holds no run of this version.
    """
    file = run.folder / CONFIG_FILE
    if not file.is_file():
        raise EgoctlError(
            f"no run in {run.url} (no {CONFIG_FILE}). 'egoctl train-student' makes one."
        )
    record = read_json(file, where=run.name_of(file))
    try:
        return RunRecord(
            train=TrainConfig.from_json(record["train"]),
            student=StudentConfig(**record["student"]),
            class_names=tuple(record["class_names"]),
            inputs_fingerprint=record["fingerprints"]["inputs"],
            teacher_fingerprint=record["fingerprints"]["teacher"],
            train_digests=record["digests"]["train"],
        )
    except (KeyError, TypeError) as error:
        raise EgoctlError(
            f"{run.name_of(file)} is not one of this egoctl's ({error}). Train again."
        ) from error


def refuse_other_recipes(
    run: RunPlace, record: RunRecord, sources: Sources, *, manifest: str
) -> None:
    """Check that classes and recipes are those that the run was trained on.

    manifest: where that of the sources lies.

    Raises:
        StoreMismatchError: naming what differs.
    """
    what_to_do = "Put back the data it was trained on, or train again with a new --run."
    names = sources.manifest.class_names
    if names != record.class_names:
        differ = class_difference(record.class_names, names, left="the run", right="the manifest")
        raise StoreMismatchError(
            f"{run.url} was trained on other classes than {manifest} has now: {differ}. "
            f"{what_to_do}"
        )
    for kind, store, wanted in (
        ("inputs", sources.inputs, record.inputs_fingerprint),
        ("teacher", sources.teacher, record.teacher_fingerprint),
    ):
        if store is not None and wanted is not None and store.header.fingerprint != wanted:
            raise StoreMismatchError(
                f"{run.url} was trained on {kind} of fingerprint {wanted}, but {store.url} "
                f"now has {store.header.fingerprint}: another recipe. {what_to_do}"
            )
