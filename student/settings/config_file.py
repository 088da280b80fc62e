"""Settings of a training run from a TOML file and the command line, checked by name and type."""

import dataclasses
import typing
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from egoctl.pipeline.errors import EgoctlError
from egoctl.pipeline.schedule import PRESETS, SCHEDULES
from egoctl.pipeline.typed_toml import near_miss, read_toml, record_of
from egoctl.student.model.loss_config import LossConfig
from egoctl.student.model.student_config import StudentConfig
from egoctl.student.settings.train_config import TrainConfig

TAKEN_FROM_DATA = ("imu_samples", "teacher_dim", "num_classes")


def read_settings(path: Path) -> dict[str, Any]:
    """The flat table of a TOML file.

    Raises:
        EgoctlError: if there is no such file or it is not TOML.
    """
    try:
        return read_toml(path)
    except EgoctlError as error:
        raise EgoctlError(f"--config {error}") from error


def train_config(settings: Mapping[str, Any]) -> TrainConfig:
    """The run that flat settings describe; a setting that is None keeps its default.

    Raises:
        EgoctlError: naming the setting that is unknown, missing, of a wrong type or value.
    """
    settings = {name: value for name, value in settings.items() if value is not None}
    types = setting_types()
    given: dict[type, dict[str, Any]] = {TrainConfig: {}, StudentConfig: {}, LossConfig: {}}
    for name, value in _with_preset(settings).items():
        if name not in types:
            raise EgoctlError(f"no setting is called {name!r}. {near_miss(name, sorted(types))}")
        given[types[name][0]][name] = value
    parts = {
        "student": record_of(StudentConfig, given[StudentConfig]),
        "loss": record_of(LossConfig, given[LossConfig]),
    }
    return record_of(TrainConfig, given[TrainConfig] | parts)


def _with_preset(settings: Mapping[str, Any]) -> Mapping[str, Any]:
    """A schedule that is a preset's name becomes its settings; those that are given win."""
    name = settings.get("schedule")
    if name is None or name in SCHEDULES:
        return settings
    # As a tuple: a TOML file may give a list, which no mapping can be asked for.
    if name not in tuple(PRESETS):
        raise EgoctlError(
            f"schedule must be one of {', '.join((*PRESETS, *SCHEDULES))}, got {name!r}."
        )
    return {**PRESETS[name], **{key: settings[key] for key in settings if key != "schedule"}}


def setting_types() -> dict[str, tuple[type, Any]]:
    """Every setting's owner and type, by name; the three configs share no name."""
    return {
        name: (owner, kind)
        for owner in (TrainConfig, StudentConfig, LossConfig)
        for name, kind in typing.get_type_hints(owner).items()
        if name not in ("student", "loss", *TAKEN_FROM_DATA)
        and name in {field.name for field in dataclasses.fields(owner)}
    }
