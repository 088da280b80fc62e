"""The small JSON files of a store: its header, and the receipt that makes a part count."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from egoctl.pipeline.errors import StoreError
from egoctl.pipeline.recipe import Recipe, fingerprint

FORMAT_VERSION = 1
KINDS = ("teacher", "inputs")
OK = "ok"
IMU_NONE = "imu_none"
"""The manifest names no IMU: nothing was expected, so nothing failed."""
MAX_PART_ROWS = 1 << 20


@dataclass(frozen=True, kw_only=True, slots=True)
class StoreHeader:
    """What a store is; written once, never changed."""

    kind: str
    """'teacher' (feature, logits) or 'inputs' (frames, IMU)."""
    recipe: Recipe
    class_names: tuple[str, ...] | None
    """Names of the logits' classes, where the weights tell them."""
    part_rows: int

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise StoreError(f"a store is of kind {' or '.join(KINDS)}, got {self.kind!r}")
        if not 1 <= self.part_rows <= MAX_PART_ROWS:
            raise StoreError(f"part_rows must be 1 to {MAX_PART_ROWS}, got {self.part_rows}")

    @property
    def fingerprint(self) -> str:
        return fingerprint(self.recipe)

    def to_dict(self) -> dict[str, Any]:
        return {
            "format_version": FORMAT_VERSION,
            "kind": self.kind,
            "recipe": dict(self.recipe),
            "fingerprint": self.fingerprint,
            "class_names": None if self.class_names is None else list(self.class_names),
            "part_rows": self.part_rows,
        }

    @classmethod
    def from_json(cls, text: bytes, where: str) -> "StoreHeader":
        """The header in text.

        Raises:
            StoreError: if it is no header, of another format, or its fingerprint is not its own.
        """
        found = parsed(text, where)
        version = found.get("format_version")
        if version != FORMAT_VERSION:
            raise StoreError(
                f"{where} has store format {version!r}; this egoctl reads {FORMAT_VERSION}."
            )
        names = found.get("class_names")
        recipe, kind, part_rows = (found.get(key) for key in ("recipe", "kind", "part_rows"))
        if (
            not isinstance(recipe, dict)
            or not isinstance(kind, str)
            or not isinstance(part_rows, int)
            or not (names is None or is_list_of_str(names))
        ):
            raise StoreError(f"{where} is not a store header. Restore it from a copy.")
        header = cls(
            kind=kind,
            recipe=recipe,
            class_names=None if names is None else tuple(names),
            part_rows=part_rows,
        )
        if found.get("fingerprint") != header.fingerprint:
            raise StoreError(
                f"{where}: the fingerprint does not belong to the recipe; the file was changed. "
                "Restore it from a copy."
            )
        return header


@dataclass(frozen=True, kw_only=True, slots=True)
class RowOutcome:
    """What became of one row: 'ok', or an error code and the sentence for people."""

    code: str = OK
    reason: str | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Shard:
    """One stored object: blake3 of its bytes, and how many there are."""

    blake3: str
    num_bytes: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Receipt:
    """Proof that a part was written whole."""

    part: int
    fingerprint: str
    clips_blake3: str
    """Digest of the part's clip ids: a receipt belongs to these rows and no others."""
    shards: Mapping[str, Shard]
    """By array name."""
    outcomes: Mapping[str, tuple[RowOutcome, ...]]
    """'outcome' for every row; inputs stores have 'imu_outcome' too."""
    seconds: Mapping[str, float]
    versions: Mapping[str, str]

    def to_json(self) -> bytes:
        return json.dumps(
            {
                "part": self.part,
                "fingerprint": self.fingerprint,
                "clips_blake3": self.clips_blake3,
                "shards": {
                    name: {"blake3": shard.blake3, "bytes": shard.num_bytes}
                    for name, shard in self.shards.items()
                },
                "outcomes": {
                    stream: [
                        row.code if row.reason is None else [row.code, row.reason] for row in rows
                    ]
                    for stream, rows in self.outcomes.items()
                },
                "seconds": {name: round(value, 3) for name, value in self.seconds.items()},
                "versions": dict(self.versions),
            },
            indent=1,
        ).encode()

    @classmethod
    def from_json(cls, text: bytes, where: str) -> "Receipt":
        """The receipt in text.

        Raises:
            StoreError: if it is not one.
        """
        found = parsed(text, where)
        try:
            return cls(
                part=int(found["part"]),
                fingerprint=str(found["fingerprint"]),
                clips_blake3=str(found["clips_blake3"]),
                shards={
                    str(name): Shard(blake3=str(shard["blake3"]), num_bytes=int(shard["bytes"]))
                    for name, shard in found["shards"].items()
                },
                outcomes={
                    str(stream): tuple(_outcome(row) for row in rows)
                    for stream, rows in found["outcomes"].items()
                },
                seconds={str(k): float(v) for k, v in found["seconds"].items()},
                versions={str(k): str(v) for k, v in found["versions"].items()},
            )
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise StoreError(f"{where} is not a receipt ({error!r}).") from error


def parsed(text: bytes, where: str) -> dict[str, Any]:
    """The JSON object in text; a StoreError names where it came from."""
    try:
        found = json.loads(text)
    except ValueError as error:
        raise StoreError(f"{where} is not JSON ({error}). Restore it from a copy.") from error
    if not isinstance(found, dict):
        raise StoreError(f"{where} is not a JSON object. Restore it from a copy.")
    return found


def is_list_of_str(value: object) -> bool:
    return isinstance(value, list) and all(isinstance(item, str) for item in value)


def _outcome(row: object) -> RowOutcome:
    if isinstance(row, str):
        return RowOutcome(code=row)
    if isinstance(row, list) and len(row) == 2 and is_list_of_str(row):
        return RowOutcome(code=row[0], reason=row[1])
    raise ValueError(f"outcome {row!r}")
