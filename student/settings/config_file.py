"""Settings of a training run from a TOML file and the command line, checked by name and type."""

import dataclasses
import difflib
import tomllib
import typing
from collections.abc import Mapping
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Literal

from egoctl.pipeline.errors import EgoctlError
from egoctl.pipeline.schedule import PRESETS, SCHEDULES
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
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise EgoctlError(f"--config {path}: {error.strerror}.") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise EgoctlError(f"--config {path} is not TOML: {error}.") from error


def train_config(settings: Mapping[str, Any]) -> TrainConfig:
    """The run that flat settings describe; a setting that is None keeps its default.

    Raises:
        EgoctlError: naming the setting that is unknown, missing, of a wrong type or value.
    """
    settings = _with_preset(settings)
    types = setting_types()
    groups: dict[type, dict[str, Any]] = {TrainConfig: {}, StudentConfig: {}, LossConfig: {}}
    for name, value in settings.items():
        if name not in types:
            near = difflib.get_close_matches(name, types, n=1)
            hint = f" Did you mean {near[0]!r}?" if near else f" Known: {', '.join(sorted(types))}."
            raise EgoctlError(f"no setting is called {name!r}.{hint}")
        if value is not None:
            owner, kind = types[name]
            groups[owner][name] = _checked(name, value, kind)
    for name in ("manifest", "inputs", "run"):
        if name not in groups[TrainConfig]:
            raise EgoctlError(f"the setting {name!r} is needed and was not given.")
    return TrainConfig(
        **groups[TrainConfig],
        student=StudentConfig(**groups[StudentConfig]),
        loss=LossConfig(**groups[LossConfig]),
    )


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
    given = {key: value for key, value in settings.items() if value is not None}
    del given["schedule"]
    return {**PRESETS[name], **given}


def setting_types() -> dict[str, tuple[type, Any]]:
    """Every setting's owner and type, by name; the three configs share no name."""
    return {
        name: (owner, kind)
        for owner in (TrainConfig, StudentConfig, LossConfig)
        for name, kind in typing.get_type_hints(owner).items()
        if name not in ("student", "loss", *TAKEN_FROM_DATA)
        and name in {field.name for field in dataclasses.fields(owner)}
    }


def _checked(name: str, value: Any, kind: Any) -> Any:
    if typing.get_origin(kind) in (UnionType, typing.Union):
        kind = next(arg for arg in typing.get_args(kind) if arg is not NoneType)
    if typing.get_origin(kind) is Literal:
        choices = typing.get_args(kind)
        if value not in choices:
            raise EgoctlError(f"{name} must be one of {', '.join(choices)}, got {value!r}.")
        return value
    if kind is Path and isinstance(value, str):
        return Path(value)
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
        raise EgoctlError(f"{name} must be {kind.__name__}, got {value!r}.")
    return value
