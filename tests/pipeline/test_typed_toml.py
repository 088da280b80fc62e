"""TOML files as records: what fits is taken as it is, and what does not is named."""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import pytest

from egoctl.pipeline.errors import EgoctlError
from egoctl.pipeline.typed_toml import read_toml, record_of


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Row:
    """A table of the file."""

    count: int = 1
    shares: Mapping[str, float] = dataclasses.field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.count < 0:
            raise EgoctlError("count must be 0 or more.")


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class File:
    """All of the file."""

    name: str
    seeds: tuple[int, ...]
    row: Row = dataclasses.field(default_factory=Row)
    rows: tuple[Row, ...] = ()
    folder: Path | None = None
    kind: Literal["x", "y"] = "x"
    is_on: bool = False
    rest: Mapping[str, Any] = dataclasses.field(default_factory=dict)


NEEDED = {"name": "n", "seeds": [1, 2]}


def refusal(values: dict[str, Any], where: str = "") -> str:
    with pytest.raises(EgoctlError) as caught:
        record_of(File, values, where=where)
    return str(caught.value)


def test_what_a_file_leaves_open_has_its_default() -> None:
    assert record_of(File, NEEDED) == File(name="n", seeds=(1, 2))


def test_values_of_every_type_are_taken() -> None:
    found = record_of(
        File,
        NEEDED
        | {"row": {"count": 2, "shares": {"a": 1}}, "rows": [{}, Row(count=3)], "folder": "f"}
        | {"kind": "y", "is_on": True, "rest": {"any": [1, {"thing": 2}]}},
    )

    assert found == File(
        name="n",
        seeds=(1, 2),
        row=Row(count=2, shares={"a": 1.0}),
        rows=(Row(), Row(count=3)),
        folder=Path("f"),
        kind="y",
        is_on=True,
        rest={"any": [1, {"thing": 2}]},
    )
    assert type(found.row.shares["a"]) is float


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        ({"seed": [1]}, "unknown key 'seed'. Did you mean 'seeds'?"),
        (
            {"zzz": 1},
            "unknown key 'zzz'. Known: name, seeds, row, rows, folder, kind, is_on, rest.",
        ),
        ({"row": {"cont": 1}}, "row: unknown key 'cont'. Did you mean 'count'?"),
        ({"name": 1}, "name must be text, got 1."),
        ({"seeds": 3}, "seeds must be a list, got 3."),
        ({"seeds": "12"}, "seeds must be a list, got '12'."),
        ({"seeds": [1, "2"]}, "seeds.1 must be a whole number, got '2'."),
        ({"seeds": [True]}, "seeds.0 must be a whole number, got True."),
        ({"row": 3}, "row must be a table, got 3."),
        ({"row": {"count": 1.5}}, "row.count must be a whole number, got 1.5."),
        ({"row": {"shares": {"a": "1"}}}, "row.shares.a must be a number, got '1'."),
        ({"row": {"shares": [1]}}, "row.shares must be a table, got [1]."),
        ({"rows": [{}, {"count": -1}]}, "rows.1: count must be 0 or more."),
        ({"folder": 3}, "folder must be text, got 3."),
        ({"kind": ["x"]}, "kind must be one of x, y, got ['x']."),
        ({"is_on": 1}, "is_on must be true or false, got 1."),
    ],
)
def test_what_does_not_fit_is_named(values: dict[str, Any], sentence: str) -> None:
    assert refusal(NEEDED | values) == sentence


def test_a_key_that_is_needed_is_named_and_so_is_the_place() -> None:
    assert refusal({"name": "n"}, where="plan.toml") == "plan.toml: seeds is missing."


def test_a_key_that_is_spelled_wrong_is_named_before_the_one_that_is_missing() -> None:
    assert refusal({"name": "n", "seds": [1]}) == "unknown key 'seds'. Did you mean 'seeds'?"


@pytest.mark.parametrize("content", [b"a: 3\n", b"a = 1\na = 2\n", b'a = "\xff"\n'])
def test_a_file_that_is_no_toml_is_named(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.toml").write_bytes(content)

    with pytest.raises(EgoctlError, match=r"a\.toml is not TOML: "):
        read_toml(tmp_path / "a.toml")


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(EgoctlError, match=r"none\.toml: No such file or directory\.$"):
        read_toml(tmp_path / "none.toml")
