"""What two stores do not have in common: how they were made, which clips, which values."""

# n clips that both stores have

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import polars as pl
from numpy.typing import NDArray

from egoctl.pipeline.recipe import FieldDifference, Json, field_differences
from egoctl.pipeline.records import OK
from egoctl.pipeline.sharing.checked_parts import CheckedParts
from egoctl.pipeline.sharing.closeness import Closeness
from egoctl.pipeline.some_names import first_names
from egoctl.pipeline.store import FeatureStore
from egoctl.pipeline.store.header import BYTES, StoreHeader
from egoctl.pipeline.store.outcomes import NOT_DONE, OUTCOME_STREAMS, stream_of

MAX_ROWS_READ = 1000
"""How many of an array's differing rows are read, to measure by how much they differ."""


@dataclass(frozen=True, kw_only=True, slots=True)
class OtherOutcome:
    """A clip with another outcome in the other store."""

    clip_id: str
    stream: str
    """'outcome', or 'imu_outcome'."""
    left: str
    right: str


@dataclass(frozen=True, kw_only=True, slots=True)
class ArrayDifference:
    """An array's clips that are ok in both stores: how many differ, and by how much."""

    array: str
    num_compared: int
    clip_ids: tuple[str, ...]
    """Those that differ, by their row's digest."""
    closeness: Closeness | None
    """How close the first MAX_ROWS_READ of them are; None if none differ, or for byte strings."""


@dataclass(frozen=True, kw_only=True, slots=True)
class StoreDifference:
    """Everything in which two stores differ. How rows are cut into parts is no difference."""

    left: str
    right: str
    fields: tuple[FieldDifference, ...]
    """Kind, class names, arrays and fields of the recipe."""
    only_left: tuple[str, ...]
    """clip_ids."""
    only_right: tuple[str, ...]
    num_common: int
    other_times: tuple[str, ...]
    """clip_ids that both have, with other start or stop."""
    other_content: tuple[str, ...]
    """clip_ids whose video or IMU file has another digest."""
    outcomes: tuple[OtherOutcome, ...]
    arrays: tuple[ArrayDifference, ...]

    @property
    def is_none(self) -> bool:
        lists = (self.fields, self.only_left, self.only_right, self.other_times)
        is_same = not any((*lists, self.other_content, self.outcomes))
        return is_same and not any(found.clip_ids for found in self.arrays)


def header_differences(left: StoreHeader, right: StoreHeader) -> list[FieldDifference]:
    """Where two headers promise other values: kind, class names, arrays, recipe."""
    return field_differences(_promises(left), _promises(right))


def difference(left_url: str, right_url: str) -> StoreDifference:
    """Compare two stores; of their data only rows are read whose digests differ.

    Raises:
        StoreError: if there is no store, or a shard that must be read was changed.
    """
    left, right = FeatureStore.open(left_url), FeatureStore.open(right_url)
    rows, others = _table(left), _table(right)
    common = rows.join(others, on="clip_id", suffix="_right", maintain_order="left")
    return StoreDifference(
        left=left.url,
        right=right.url,
        fields=tuple(header_differences(left.header, right.header)),
        only_left=_ids(rows.join(others, on="clip_id", how="anti", maintain_order="left")),
        only_right=_ids(others.join(rows, on="clip_id", how="anti", maintain_order="left")),
        num_common=len(common),
        other_times=_ids(common.filter(_differs("start_us") | _differs("stop_us"))),
        other_content=_ids(common.filter(_differs("content"))),
        outcomes=tuple(_other_outcomes(common)),
        arrays=tuple(_array_differences(common, CheckedParts(left), CheckedParts(right))),
    )


def difference_lines(found: StoreDifference) -> Iterator[str]:
    """The difference for people."""
    for one in found.fields:
        yield f"{one.field}: {one.left} in {found.left}, {one.right} in {found.right}"
    for where, ids in ((found.left, found.only_left), (found.right, found.only_right)):
        if ids:
            yield f"{len(ids)} clips only in {where}: {first_names(ids)}"
    if found.other_times:
        yield f"{len(found.other_times)} clips have other times: {first_names(found.other_times)}"
    if found.other_content:
        ids = found.other_content
        yield f"{len(ids)} clips come from files with other content: {first_names(ids)}"
    if found.outcomes:
        shown = [f"{one.clip_id} ({one.left}, {one.right})" for one in found.outcomes]
        yield f"{len(shown)} outcomes differ: {first_names(shown)}"
    for of in found.arrays:
        if not of.clip_ids:
            yield f"{of.array}: the same in all {of.num_compared} clips that both have"
            continue
        yield (
            f"{of.array}: {len(of.clip_ids)} of {of.num_compared} clips have other values: "
            f"{first_names(of.clip_ids)}"
        )
        if of.closeness is not None:
            yield f"{of.array}: {of.closeness.line()}"
    if found.is_none:
        yield f"{found.left} and {found.right} hold the same: {found.num_common} clips."


def _promises(header: StoreHeader) -> dict[str, Json]:
    names: Json = None if header.class_names is None else list(header.class_names)
    arrays: dict[str, Json] = {
        spec.name: f"{spec.dtype} {'x'.join(map(str, spec.row_shape))}" for spec in header.arrays
    }
    promises: dict[str, Json] = {"kind": header.kind, "class_names": names, "arrays": arrays}
    return promises | {f"recipe.{name}": value for name, value in header.recipe.items()}


def _table(store: FeatureStore) -> pl.DataFrame:
    """The rows that count, with whole microseconds, one key, and each array's row digests."""
    rows = store.rows()
    micros = [
        (pl.col(f"{name}_s") * 1e6).round().cast(pl.Int64).alias(f"{name}_us")
        for name in ("start", "stop")
    ]
    keys = (pl.col(name).fill_null("") for name in ("clip_key", "imu_key"))
    rows = rows.with_columns(*micros, pl.concat_str(*keys, separator=" ").alias("content"))
    receipts = store.valid_receipts()
    digests = {}
    for spec in store.header.arrays:
        digests[_digest_column(spec.name)] = [
            receipts[number].row_digest(spec.name, row % store.header.part_rows)
            if number in receipts
            else None
            for number, row in rows.select("part", "row").iter_rows()
        ]
    return rows.with_columns(pl.Series(n, of, dtype=pl.String) for n, of in digests.items())


def _digest_column(array: str) -> str:
    return f"blake3 of {array}"


def _differs(column: str) -> pl.Expr:
    return pl.col(column).ne_missing(pl.col(f"{column}_right"))


def _other_outcomes(common: pl.DataFrame) -> Iterator[OtherOutcome]:
    for stream in OUTCOME_STREAMS:
        if stream not in common.columns or f"{stream}_right" not in common.columns:
            continue
        differing = common.filter(_differs(stream))
        for clip_id, left, right in differing.select(
            "clip_id", stream, f"{stream}_right"
        ).iter_rows():
            yield OtherOutcome(
                clip_id=clip_id, stream=stream, left=left or NOT_DONE, right=right or NOT_DONE
            )


def _array_differences(
    common: pl.DataFrame, left: CheckedParts, right: CheckedParts
) -> Iterator[ArrayDifference]:
    """Differences in arrays of one type in both stores; `header_differences` has the others."""
    if left.store.header.kind != right.store.header.kind:
        return
    for spec in left.store.header.arrays:
        other = right.store.header.array(spec.name)
        if other is None or (other.dtype, other.row_shape) != (spec.dtype, spec.row_shape):
            continue
        stream = stream_of(spec.name)
        ok_n = common.filter(pl.col(stream) == OK, pl.col(f"{stream}_right") == OK)
        differing = ok_n.filter(_differs(_digest_column(spec.name)))
        closeness = None
        if len(differing) and spec.dtype != BYTES:
            read = differing.head(MAX_ROWS_READ)
            closeness = Closeness.of(
                left.read(spec.name, _rows(read, "row")),
                right.read(spec.name, _rows(read, "row_right")),
            )
        yield ArrayDifference(
            array=spec.name,
            num_compared=len(ok_n),
            clip_ids=_ids(differing),
            closeness=closeness,
        )


def _rows(frame: pl.DataFrame, column: str) -> NDArray[np.int64]:
    return frame[column].to_numpy().astype(np.int64)


def _ids(frame: pl.DataFrame) -> tuple[str, ...]:
    return tuple(frame["clip_id"])
