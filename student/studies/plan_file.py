"""A study's plan from a TOML file, every name and type in it checked."""

import tomllib
import typing
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from egoctl.pipeline.errors import EgoctlError
from egoctl.pipeline.files.place import is_remote
from egoctl.pipeline.typed_toml import read_toml, record_of
from egoctl.student.studies.plan import (
    StudyPlan,
    StudyPretraining,
    StudyRow,
    StudyTable,
)

PATHS = ("manifest", "out")
PATH_TABLES = ("inputs", "teachers")
_Record = TypeVar("_Record")


def read_plan(path: Path, changes: Sequence[str] = ()) -> StudyPlan:
    """The plan in a TOML file; its paths start from its folder.

    changes: 'settings.num_epochs=2' or 'manifest=clips.parquet'; paths in them are as typed.

    Raises:
        EgoctlError: naming what is unknown, missing or of a wrong type or value.
    """
    found = read_toml(path)
    _start_paths_from(path.absolute().parent, found)
    for change in changes:
        _apply(change, found)
    try:
        return _plan({"name": path.stem, **found})
    except EgoctlError as error:
        raise EgoctlError(f"{path}: {error}") from error


def _start_paths_from(folder: Path, found: dict[str, Any]) -> None:
    places = [(found, name) for name in PATHS]
    places += [(found[table], name) for table in PATH_TABLES for name in _keys(found.get(table))]
    for holder, name in places:
        value = holder.get(name)
        if isinstance(value, str) and not is_remote(value):
            holder[name] = str((folder / value).resolve())


def _keys(value: Any) -> list[str]:
    return list(value) if isinstance(value, dict) else []


def _apply(change: str, found: dict[str, Any]) -> None:
    """Put a change in its place; the value is TOML if it can be read so, else a string."""
    name, equals, text = change.partition("=")
    if not name or not equals:
        raise EgoctlError(f"--set {change!r} is not NAME=VALUE, such as settings.num_epochs=2.")
    try:
        value = tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        value = text
    *tables, last = name.split(".")
    here = found
    for table in tables:
        here = here.setdefault(table, {})
        if not isinstance(here, dict):
            raise EgoctlError(f"--set {change!r}: {table!r} is no table of the plan.")
    here[last] = value


def _plan(found: Mapping[str, Any]) -> StudyPlan:
    rows, pretrainings, tables = (
        _named(found.get(name, {}), name) for name in ("rows", "pretrain", "tables")
    )
    values = {key: value for key, value in found.items() if key not in ("pretrain", "tables")}
    values["rows"] = [_record(StudyRow, "row", name, row) for name, row in rows.items()]
    values["pretrainings"] = [
        _record(StudyPretraining, "pretrain", name, row) for name, row in pretrainings.items()
    ]
    values["tables"] = [
        record_of(StudyTable, {**table, "name": name}, where=f"table {name}")
        for name, table in tables.items()
    ]
    return record_of(StudyPlan, values, where="the plan")


def _named(found: Any, what: str) -> dict[str, dict[str, Any]]:
    if not isinstance(found, dict) or not all(isinstance(row, dict) for row in found.values()):
        raise EgoctlError(f"{what} are tables of their own: [{what}.NAME].")
    return found


def _record(kind: type[_Record], what: str, name: str, found: Mapping[str, Any]) -> _Record:
    """A row or pretraining: what is no field of the record is a setting of the training."""
    own = set(typing.get_type_hints(kind)) - {"name", "settings"}
    values = {key: value for key, value in found.items() if key in own}
    settings = {key: value for key, value in found.items() if key not in own}
    return record_of(kind, {**values, "name": name, "settings": settings}, where=f"{what} {name}")
