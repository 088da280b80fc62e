"""A study's plan from a TOML file, every name and type in it checked."""

import dataclasses
import difflib
import tomllib
import typing
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import UnionType
from typing import Any, Literal, TypeVar

from egoctl.pipeline.errors import EgoctlError
from egoctl.pipeline.files.place import is_remote
from egoctl.student.studies.plan import (
    PaperNumber,
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
    try:
        found = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise EgoctlError(f"{path}: {error.strerror}.") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise EgoctlError(f"{path} is not TOML: {error}.") from error
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
    values = dict(found)
    rows, pretrainings, tables = (
        _named(values.pop(name, {}), name) for name in ("rows", "pretrain", "tables")
    )
    values["rows"] = [_record(StudyRow, "row", name, row) for name, row in rows.items()]
    values["pretrainings"] = [
        _record(StudyPretraining, "pretrain", name, row) for name, row in pretrainings.items()
    ]
    values["tables"] = [_table(name, table) for name, table in tables.items()]
    return _checked(StudyPlan, "the plan", values)


def _named(found: Any, what: str) -> dict[str, dict[str, Any]]:
    if not isinstance(found, dict) or not all(isinstance(row, dict) for row in found.values()):
        raise EgoctlError(f"{what} are tables of their own: [{what}.NAME].")
    return found


def _table(name: str, found: Mapping[str, Any]) -> StudyTable:
    paper = found.get("paper", [])
    if not isinstance(paper, list) or not all(isinstance(row, dict) for row in paper):
        raise EgoctlError(f"table {name}: paper is a list of {{ row = ..., numbers = ... }}.")
    rows = [_checked(PaperNumber, f"table {name}: paper", row) for row in paper]
    return _checked(StudyTable, f"table {name}", {**found, "name": name, "paper": rows})


def _record(kind: type[_Record], what: str, name: str, found: Mapping[str, Any]) -> _Record:
    """A row or pretraining: what is no field of the record is a setting of the training."""
    own = set(typing.get_type_hints(kind)) - {"name", "settings"}
    values = {key: value for key, value in found.items() if key in own}
    settings = {key: value for key, value in found.items() if key not in own}
    return _checked(kind, f"{what} {name}", {**values, "name": name, "settings": settings})


def _checked(kind: type[_Record], where: str, values: Mapping[str, Any]) -> _Record:
    hints = typing.get_type_hints(kind)
    for key, value in values.items():
        if key not in hints:
            near = difflib.get_close_matches(key, hints, n=1)
            hint = f"Did you mean {near[0]!r}?" if near else f"Known: {', '.join(hints)}."
            raise EgoctlError(f"{where} knows no {key!r}. {hint}")
        if not fits(value, hints[key]):
            raise EgoctlError(f"{where}: {key} cannot be {value!r}.")
    needed = [f.name for f in _fields(kind) if f.default is f.default_factory]  # both MISSING
    if missing := [name for name in needed if name not in values]:
        raise EgoctlError(f"{where} lacks {', '.join(missing)}.")
    try:
        return kind(**{k: tuple(v) if isinstance(v, list) else v for k, v in values.items()})
    except EgoctlError as error:
        raise EgoctlError(f"{where}: {error}") from error


def _fields(kind: Any) -> tuple[dataclasses.Field[Any], ...]:
    return dataclasses.fields(kind)


def fits(value: Any, hint: Any) -> bool:
    """Whether a value of a TOML file is allowed in a field of that type."""
    origin, parts = typing.get_origin(hint), typing.get_args(hint)
    if hint is Any:
        return True
    if origin in (UnionType, typing.Union):
        return any(fits(value, part) for part in parts)
    if origin is Literal:
        return isinstance(value, str)  # the record checks which ones
    if origin is tuple:
        return isinstance(value, list) and all(fits(item, parts[0]) for item in value)
    if origin is not None:
        return isinstance(value, dict) and all(fits(item, parts[1]) for item in value.values())
    if isinstance(value, bool):
        return hint is bool
    return isinstance(value, int | float) if hint is float else isinstance(value, hint)
