"""A study's plan, from a TOML file: students to train from which stores, tables to make of them."""

import re
import tomllib
import typing
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeVar, get_args

from egoctl.pipeline.errors import EgoctlError
from egoctl.pipeline.files.place import is_remote
from egoctl.pipeline.typed_toml import read_toml, record_of
from egoctl.student.evaluation.metrics import ImuFrom

TableKind = Literal["accuracy", "classes"]
METRICS = ("top1", "top5", "centre_clip_top1", "common_top1", "agreement", "feature_l1",
           "feature_cosine")  # fmt: skip
TEACHER_ROW = "teacher"
"""A table's row for the teacher itself."""
PATHS = ("manifest", "out")
PATH_TABLES = ("inputs", "teachers")
_Record = TypeVar("_Record")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.+-]*")


@dataclass(frozen=True, kw_only=True, slots=True)
class PaperNumber:
    """A paper's numbers for a row, printed beside ours and used in no computation."""

    row: str
    teacher: str | None = None
    """None: for every teacher."""
    numbers: Mapping[str, float] = field(default_factory=dict)
    """Per data set, percent."""


@dataclass(frozen=True, kw_only=True, slots=True)
class StudyTable:
    """Rows x teachers x IMU (own, another clip's, none), for one metric."""

    name: str
    title: str
    rows: tuple[str, ...]
    kind: TableKind = "accuracy"
    """classes: per class, the gain of the one row over `against`."""
    teachers: tuple[str, ...] = ()
    """None given: all of the plan."""
    metric: str = "top1"
    imu: tuple[str, ...] = ("own",)
    against: str | None = None
    """A row that the others are compared with, seed by seed."""
    costs: bool = False
    """Show every row's GFLOPs and parameters, and draw the metric against them."""
    paper_source: str = ""
    paper: tuple[PaperNumber, ...] = ()

    def __post_init__(self) -> None:
        if self.metric not in METRICS:
            raise EgoctlError(f"metric {self.metric!r} is not one of {', '.join(METRICS)}.")
        if self.kind not in get_args(TableKind):
            raise EgoctlError(f"kind {self.kind!r} is not one of {', '.join(get_args(TableKind))}.")
        if wrong := set(self.imu) - set(get_args(ImuFrom)):
            raise EgoctlError(f"imu is own, other or zero, got {', '.join(sorted(wrong))}.")
        if self.kind == "classes" and (len(self.rows) != 1 or self.against is None):
            raise EgoctlError("a table of classes has one row, and 'against' another one.")
        if self.paper and not self.paper_source:
            raise EgoctlError("paper numbers need a paper_source, such as 'EgoDistill, Table 1'.")


@dataclass(frozen=True, kw_only=True, slots=True)
class StudyRow:
    """A student of the study: what differs from the study's settings."""

    name: str
    inputs: str | None = None
    """Which of the plan's inputs stores; None: its first."""
    pretrain: str | None = None
    """Which of the plan's pretrainings it begins with."""
    labelled_share: float | None = None
    """Train it on this share of the train segments alone, about the same of every class."""
    settings: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.labelled_share is not None and not 0 < self.labelled_share < 1:
            raise EgoctlError(f"labelled_share must be between 0 and 1, got {self.labelled_share}.")


@dataclass(frozen=True, kw_only=True, slots=True)
class StudyPretraining:
    """A pretraining of the IMU branch, on all clips of the train split."""

    name: str
    inputs: str | None = None
    """Which of the plan's inputs stores; None: that of the row."""
    settings: Mapping[str, Any] = field(default_factory=dict)
    """Fields of PretrainConfig."""


@dataclass(frozen=True, kw_only=True, slots=True)
class StudyPlan:
    """Everything that a study trains and prints."""

    name: str
    title: str = ""
    """Heading of its tables; none: its name."""
    out: str
    """The folder for runs and tables."""
    manifest: str
    inputs: Mapping[str, str]
    teachers: Mapping[str, str]
    """Teacher stores by the name that tables give them."""
    seeds: tuple[int, ...]
    split: str = "test"
    settings: Mapping[str, Any] = field(default_factory=dict)
    """Settings of every row that does not set them itself; named as in train-student's --config."""
    rows: tuple[StudyRow, ...]
    pretrainings: tuple[StudyPretraining, ...] = ()
    tables: tuple[StudyTable, ...] = ()

    def __post_init__(self) -> None:
        if not self.inputs or not self.teachers or not self.rows:
            raise EgoctlError("a plan needs [inputs], [teachers] and [rows], one of each or more.")
        if not self.seeds or len(set(self.seeds)) < len(self.seeds):
            raise EgoctlError(f"seeds must be one or more, each once, got {list(self.seeds)}.")
        rows = [row.name for row in self.rows]
        for name in (*rows, *self.teachers):
            if not _NAME.fullmatch(name):
                raise EgoctlError(
                    f"{name!r} becomes part of a folder's name: use letters, digits and _ . + -"
                )
        if TEACHER_ROW in rows:
            raise EgoctlError(f"a row cannot be called {TEACHER_ROW!r}: tables mean the teacher.")
        for row in self.rows:
            _known(f"row {row.name}: inputs", [row.inputs], self.inputs)
            _known(f"row {row.name}: pretrain", [row.pretrain], [p.name for p in self.pretrainings])
        for pretraining in self.pretrainings:
            _known(f"pretrain {pretraining.name}: inputs", [pretraining.inputs], self.inputs)
        for table in self.tables:
            where = f"table {table.name}"
            _known(f"{where}: rows", table.rows, [*rows, TEACHER_ROW])
            _known(f"{where}: against", [table.against], rows)
            _known(f"{where}: teachers", table.teachers, self.teachers)
            _known(f"{where}: paper row", [p.row for p in table.paper], table.rows)
            _known(f"{where}: paper teacher", [p.teacher for p in table.paper], self.teachers)

    def row(self, name: str) -> StudyRow:
        """The row of that name."""
        return next(row for row in self.rows if row.name == name)

    def teachers_of(self, table: StudyTable) -> tuple[str, ...]:
        """The teachers that a table shows."""
        return table.teachers or tuple(self.teachers)


def _known(where: str, names: Iterable[str | None], known: Iterable[str]) -> None:
    if unknown := [name for name in names if name is not None and name not in set(known)]:
        raise EgoctlError(f"{where}: the plan has no {unknown[0]!r}; it has {', '.join(known)}.")


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
