"""A recipe is everything that determines a stored value; its digest is the fingerprint.

No paths, host names or times belong in one: the same recipe on another machine is the same. Where
two differ is reported field by field, as it is of runs' configs.
"""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TypeAlias

from blake3 import blake3

Json: TypeAlias = None | bool | int | float | str | list["Json"] | dict[str, "Json"]
Recipe: TypeAlias = Mapping[str, Json]


def fingerprint(recipe: Recipe) -> str:
    """64 hex digits, the same for equal recipes whatever the order of their fields."""
    return blake3(json.dumps(recipe, sort_keys=True, allow_nan=False).encode()).hexdigest()


@dataclass(frozen=True, kw_only=True, slots=True)
class FieldDifference:
    """A field that two recipes, or configs, have different values for, as JSON or '(none)'."""

    field: str
    left: str
    right: str


def field_differences(left: Recipe, right: Recipe) -> list[FieldDifference]:
    """The fields that differ, those of nested objects by themselves, in alphabetical order."""
    lefts, rights = dict(_fields("", left)), dict(_fields("", right))
    return [
        FieldDifference(
            field=name, left=lefts.get(name, "(none)"), right=rights.get(name, "(none)")
        )
        for name in sorted(lefts.keys() | rights.keys())
        if lefts.get(name) != rights.get(name)
    ]


def differences(found: Recipe, wanted: Recipe) -> list[str]:
    """One line per field that differs: `stride_s: store 0.1333, this run 0.1667`."""
    return [
        f"{one.field}: store {one.left}, this run {one.right}"
        for one in field_differences(found, wanted)
    ]


def _fields(prefix: str, value: Json | Recipe) -> Iterator[tuple[str, str]]:
    if isinstance(value, Mapping):
        for name, item in value.items():
            yield from _fields(f"{prefix}.{name}" if prefix else name, item)
    else:
        yield prefix, json.dumps(value)
