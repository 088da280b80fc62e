"""A recipe is everything that determines a stored value; its digest is the fingerprint.

No paths, host names or times belong in one: the same recipe on another machine is the same.
"""

import json
from collections.abc import Iterator, Mapping
from typing import TypeAlias

from blake3 import blake3

Json: TypeAlias = None | bool | int | float | str | list["Json"] | dict[str, "Json"]
Recipe: TypeAlias = Mapping[str, Json]


def fingerprint(recipe: Recipe) -> str:
    """64 hex digits, the same for equal recipes whatever the order of their fields."""
    return blake3(json.dumps(recipe, sort_keys=True, allow_nan=False).encode()).hexdigest()


def differences(found: Recipe, wanted: Recipe) -> list[str]:
    """One line per field that differs: `stride_s: store 0.1333, this run 0.1667`."""
    left, right = dict(_fields("", found)), dict(_fields("", wanted))
    return [
        f"{name}: store {left.get(name, '(none)')}, this run {right.get(name, '(none)')}"
        for name in sorted(left.keys() | right.keys())
        if left.get(name) != right.get(name)
    ]


def _fields(prefix: str, value: Json | Recipe) -> Iterator[tuple[str, str]]:
    if isinstance(value, Mapping):
        for name, item in value.items():
            yield from _fields(f"{prefix}.{name}" if prefix else name, item)
    else:
        yield prefix, json.dumps(value)
