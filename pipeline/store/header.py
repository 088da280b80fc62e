"""What a store is: its kind, recipe, arrays and class names; written once, never changed."""

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from blake3 import blake3
from numpy.typing import NDArray

from egoctl.pipeline.errors import EgoctlError, StoreError
from egoctl.pipeline.recipe import Recipe, fingerprint
from egoctl.pipeline.trained_on import TrainedOn

FORMAT_VERSION = 2
KINDS = ("teacher", "inputs")
BYTES = "bytes"
"""The dtype of arrays whose items are byte strings (JPEG frames)."""
ITEM_BYTES = {"float16": 2, "float32": 4, "float64": 8, BYTES: 1}
NAME = re.compile(r"[a-z][a-z0-9_]{0,63}")

# A header comes from strangers, too: nothing may allocate memory by it beyond these.
MAX_HEADER_BYTES = 16 << 20
MAX_PART_ROWS = 1 << 20
MAX_ARRAYS = 16
MAX_DIMENSIONS = 4
MAX_PART_BYTES = 16 << 30


@dataclass(frozen=True, kw_only=True, slots=True)
class ArraySpec:
    """An array's dtype and the shape of one row; chunk_rows rows are read at a time."""

    name: str
    dtype: str
    """float16, float32, float64 or BYTES."""
    row_shape: tuple[int, ...]
    chunk_rows: int

    def __post_init__(self) -> None:
        if not NAME.fullmatch(self.name):
            raise StoreError(f"an array may not be called {self.name!r}: a-z, 0-9 and _ only")
        if self.dtype not in ITEM_BYTES:
            raise StoreError(
                f"array {self.name!r} has dtype {self.dtype!r}; a store has {', '.join(ITEM_BYTES)}"
            )
        if not 1 <= len(self.row_shape) <= MAX_DIMENSIONS or min(self.row_shape) < 1:
            raise StoreError(f"array {self.name!r} has rows of shape {self.row_shape}")
        if self.chunk_rows < 1:
            raise StoreError(f"array {self.name!r} has chunks of {self.chunk_rows} rows")

    @property
    def row_bytes(self) -> int:
        """Bytes of one row of numbers; of byte strings, which have no fixed size, their number."""
        return math.prod(self.row_shape) * ITEM_BYTES[self.dtype]

    def in_parts_of(self, part_rows: int) -> "ArraySpec":
        """The same with the largest chunks, up to chunk_rows, that fill a part exactly."""
        wanted = min(self.chunk_rows, part_rows)
        chunk_rows = next(rows for rows in range(wanted, 0, -1) if part_rows % rows == 0)
        return ArraySpec(
            name=self.name, dtype=self.dtype, row_shape=self.row_shape, chunk_rows=chunk_rows
        )

    def shard_name(self, number: int) -> str:
        """Name of a part's shard, below the store."""
        return "/".join(("arrays", self.name, "c", str(number), *["0"] * len(self.row_shape)))

    def to_dict(self) -> dict[str, Any]:
        return {
            "dtype": self.dtype,
            "row_shape": list(self.row_shape),
            "chunk_rows": self.chunk_rows,
        }


@dataclass(frozen=True, kw_only=True, slots=True)
class StoreHeader:
    """What a store is; written once, never changed."""

    kind: str
    """'teacher' (feature, logits) or 'inputs' (frames, IMU)."""
    recipe: Recipe
    class_names: tuple[str, ...] | None
    """Names of the logits' classes, where the weights have them."""
    part_rows: int
    arrays: tuple[ArraySpec, ...] = ()
    """Sorted by name; their chunks fill parts exactly."""
    trained_on: TrainedOn | None = None
    """What the teacher's weights were fitted to; None: unknown. No value depends on it."""

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise StoreError(f"a store is of kind {' or '.join(KINDS)}, got {self.kind!r}")
        if not 1 <= self.part_rows <= MAX_PART_ROWS:
            raise StoreError(f"part_rows must be 1 to {MAX_PART_ROWS}, got {self.part_rows}")
        if len(self.arrays) > MAX_ARRAYS:
            raise StoreError(f"a store has {MAX_ARRAYS} arrays at most, got {len(self.arrays)}")
        for spec in self.arrays:
            if spec.row_bytes * self.part_rows > MAX_PART_BYTES:
                raise StoreError(
                    f"array {spec.name!r}: a part of {self.part_rows} rows of shape "
                    f"{spec.row_shape} would take {spec.row_bytes * self.part_rows:,} bytes, "
                    f"more than the {MAX_PART_BYTES:,} that are allowed"
                )
            if self.part_rows % spec.chunk_rows:
                raise StoreError(
                    f"array {spec.name!r}: chunks of {spec.chunk_rows} rows do not fill parts "
                    f"of {self.part_rows}"
                )

    @property
    def fingerprint(self) -> str:
        return fingerprint(self.recipe)

    def array(self, name: str) -> ArraySpec | None:
        return next((spec for spec in self.arrays if spec.name == name), None)

    def to_dict(self) -> dict[str, Any]:
        found = {
            "format_version": FORMAT_VERSION,
            "kind": self.kind,
            "recipe": dict(self.recipe),
            "fingerprint": self.fingerprint,
            "class_names": None if self.class_names is None else list(self.class_names),
            "part_rows": self.part_rows,
            "arrays": {spec.name: spec.to_dict() for spec in self.arrays},
        }
        # Left out where it is unknown, as in stores from before there was such a field.
        if self.trained_on is not None:
            found["trained_on"] = self.trained_on.to_dict()
        return found | {"blake3": _digest(found)}

    def to_json(self) -> bytes:
        """The content of store.json.

        Raises:
            StoreError: if it would be longer than readers accept.
        """
        text = json.dumps(self.to_dict(), indent=1, allow_nan=False).encode()
        if len(text) > MAX_HEADER_BYTES:
            raise StoreError(
                f"the store's header would have {len(text):,} bytes; {MAX_HEADER_BYTES:,} are "
                "allowed. Shorten it: fewer spans of footage, or shorter class names."
            )
        return text

    @classmethod
    def from_json(cls, text: bytes, where: str) -> "StoreHeader":
        """The header in text.

        Raises:
            StoreError: if it is no header, of another format, absurd, or not as it was written.
        """
        found = parsed(text, where)
        version = found.get("format_version")
        if version != FORMAT_VERSION:
            raise StoreError(
                f"{where} has store format {version!r}; this egoctl reads {FORMAT_VERSION}."
            )
        try:
            header = _header(found)
            digest = found.pop("blake3", None)
            is_as_written = digest == _digest(found) and found["fingerprint"] == header.fingerprint
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise StoreError(
                f"{where} is not a store header ({error}). Restore it from a copy."
            ) from error
        except EgoctlError as error:
            raise StoreError(
                f"{where}: {str(error).rstrip('.')}. Nothing of this store was read."
            ) from error
        if not is_as_written:
            raise StoreError(
                f"{where}: its digest does not belong to its content; the file was changed. "
                f"'egoctl store verify --repair' restores it."
            )
        return header


def parsed(text: bytes, where: str) -> dict[str, Any]:
    """The JSON object in text; a StoreError names where it came from."""
    try:
        found = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise StoreError(f"{where} is not JSON ({error}). Restore it from a copy.") from error
    if not isinstance(found, dict):
        raise StoreError(f"{where} is not a JSON object. Restore it from a copy.")
    return found


def is_list_of_str(value: object) -> bool:
    return isinstance(value, list) and all(isinstance(item, str) for item in value)


def _header(found: Mapping[str, Any]) -> StoreHeader:
    names, recipe, kind = (found[key] for key in ("class_names", "recipe", "kind"))
    if not isinstance(recipe, dict) or not (names is None or is_list_of_str(names)):
        raise ValueError("recipe or class names are of a wrong type")
    arrays = tuple(
        ArraySpec(
            name=name,
            dtype=str(spec["dtype"]),
            row_shape=tuple(_whole(size) for size in spec["row_shape"]),
            chunk_rows=_whole(spec["chunk_rows"]),
        )
        for name, spec in found["arrays"].items()
    )
    return StoreHeader(
        kind=kind,
        recipe=recipe,
        class_names=None if names is None else tuple(names),
        part_rows=_whole(found["part_rows"]),
        arrays=tuple(sorted(arrays, key=lambda spec: spec.name)),
        trained_on=TrainedOn.from_dict(found["trained_on"]) if "trained_on" in found else None,
    )


def _whole(value: object) -> int:
    if isinstance(value, bool) or not isinstance(value, int):
        raise ValueError(f"{value!r} is no whole number")
    return value


def _digest(found: Mapping[str, Any]) -> str:
    return blake3(json.dumps(found, sort_keys=True, allow_nan=False).encode()).hexdigest()


def fitted(values: NDArray[Any], dtype: np.dtype[Any], *, where: str) -> NDArray[Any]:
    """values in dtype; byte strings as they are.

    Raises:
        StoreError: if a finite value would become infinite.
    """
    if values.dtype == object:
        return values
    with np.errstate(over="ignore"):
        stored = values.astype(dtype)
    if np.isinf(stored).any() and np.isfinite(values[np.isinf(stored)]).any():
        raise StoreError(
            f"{where}: values reach {np.nanmax(np.abs(values)):.3g}, too large for {dtype}. "
            "Start a new store with --dtype float32."
        )
    return stored
