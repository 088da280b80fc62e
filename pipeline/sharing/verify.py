"""Whether a store still holds what was written, down to the row."""

# n rows of a part

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from egoctl.pipeline.errors import StoreError
from egoctl.pipeline.files.place import Place
from egoctl.pipeline.records import OK
from egoctl.pipeline.store import FeatureStore
from egoctl.pipeline.store.clip_table import Part
from egoctl.pipeline.store.clips_file import COPY, MAX_CLIPS_FILE_BYTES, clips_in, copied
from egoctl.pipeline.store.column_stats import ColumnStats, stats_bytes
from egoctl.pipeline.store.header import (
    BYTES,
    MAX_HEADER_BYTES,
    ArraySpec,
    StoreHeader,
    parsed,
)
from egoctl.pipeline.store.jpeg import jpeg_fault
from egoctl.pipeline.store.outcomes import stream_of
from egoctl.pipeline.store.receipt import (
    Receipt,
    Shard,
    files_of,
    receipt_name,
    row_digests,
    stats_name,
)
from egoctl.pipeline.store.shard_bytes import decoded, max_shard_bytes
from egoctl.pipeline.store.zarr_files import metadata_files, read_with_zarr

GROUP = "arrays/zarr.json"


@dataclass(frozen=True, kw_only=True, slots=True)
class Fault:
    """A file that is not as it was written, and the rows that this concerns."""

    file: str
    """Below the store."""
    what: str
    part: int | None = None
    rows: tuple[int, ...] = ()
    """Those at fault, where only some of the part's are; empty: all of them, or none."""
    is_undone: bool = False
    """Nothing is damaged: the part was not written yet."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Verification:
    """Every digest of a store, recomputed."""

    url: str
    num_parts: int
    faults: tuple[Fault, ...]
    is_deep: bool


def verification_lines(found: Verification) -> Iterator[str]:
    """The verification for people."""
    for fault in found.faults:
        part = "" if fault.part is None else f"part {fault.part}, "
        rows = ""
        if fault.rows:
            shown = ", ".join(map(str, fault.rows[:10]))
            rows = f" (rows {shown}{' and more' if len(fault.rows) > 10 else ''})"
        yield f"{part}{fault.file}: {fault.what}{rows}"
    undone = sum(fault.is_undone for fault in found.faults)
    damaged = len(found.faults) - undone
    if damaged:
        yield (
            f"{damaged} faults. 'egoctl store verify {found.url} --repair' restores what a store "
            "has twice and takes damaged parts out of use; extract-teacher then redoes those."
        )
    if undone:
        yield f"{undone} of {found.num_parts} parts are not done: extract-teacher goes on there."
    if not found.faults:
        yield f"{found.url}: all {found.num_parts} parts are as they were written."


def verify(url: str, *, is_deep: bool = False) -> Verification:
    """Compare every file with its digest; deep also every value with what rows must hold.

    Deep reads all arrays with zarr and without, looks for values that are not finite in rows
    marked ok and for data in rows that failed, decodes every JPEG header, and recomputes
    statistics.

    Raises:
        StoreError: if there is no store, or neither copy of its header is whole.
    """
    place = Place(url)
    header, faults = header_at(place)
    store = FeatureStore(place, header)
    clips_faults = list(_clips_faults(store))
    faults += clips_faults
    if any(fault.file.endswith(".parquet") for fault in clips_faults):
        # Which rows there are is what everything else is compared with.
        return Verification(url=store.url, num_parts=0, faults=tuple(faults), is_deep=is_deep)
    faults += _metadata_faults(store)
    parts = store.parts()
    for part in parts:
        faults += _part_faults(store, part, is_deep=is_deep)
    return Verification(url=store.url, num_parts=len(parts), faults=tuple(faults), is_deep=is_deep)


def header_at(place: Place) -> tuple[StoreHeader, list[Fault]]:
    """The header, and what is wrong with its two copies."""
    text = place.read("store.json", max_bytes=MAX_HEADER_BYTES)
    try:
        if text is not None:
            return StoreHeader.from_json(text, f"{place.url}/store.json"), []
        error = StoreError(f"no store at {place.url} (no store.json in it). Check the path.")
    except StoreError as damage:
        error = damage
    copy = place.read(GROUP, max_bytes=MAX_HEADER_BYTES)
    if copy is None:
        raise error
    found = parsed(copy, f"{place.url}/{GROUP}").get("attributes", {})
    header = StoreHeader.from_json(json.dumps(found.get("egoctl")).encode(), f"{place.url}/{GROUP}")
    return header, [Fault(file="store.json", what=str(error))]


def _clips_faults(store: FeatureStore) -> Iterator[Fault]:
    """Clips files that differ from their copies, and copies that differ from their own digest."""
    place = store.place / "clips"
    stems = {info.name.split(".")[0] for info in place.list()}
    count = 1 + max((int(stem) for stem in stems if stem.isdecimal()), default=-1)
    for name in (f"{number:05d}.parquet" for number in range(count)):
        content = place.read(name, max_bytes=MAX_CLIPS_FILE_BYTES)
        copy = place.read(name + COPY, max_bytes=MAX_CLIPS_FILE_BYTES)
        if content is None:
            yield Fault(file=f"clips/{name}", what="is missing")
        elif copied(copy) is not None and copied(copy) != content:
            yield Fault(file=f"clips/{name}", what="was changed: it differs from its copy")
        elif not is_readable(content):
            yield Fault(file=f"clips/{name}", what="was changed: it cannot be read")
        elif copied(copy) is None:
            what = "is missing" if copy is None else "was changed: its digest differs"
            yield Fault(file=f"clips/{name}{COPY}", what=what)


def is_readable(clips_file: bytes) -> bool:
    """Whether it is a clips file."""
    try:
        clips_in(clips_file, "")
    except StoreError:
        return False
    return True


def _metadata_faults(store: FeatureStore) -> Iterator[Fault]:
    """Zarr's metadata; another version of zarr may have added keys of its own."""
    num_rows = store.num_rows()
    for name, expected in metadata_files(store.header, num_rows).items():
        text = (store.place / "arrays").read(name, max_bytes=MAX_HEADER_BYTES)
        if text is None:
            yield Fault(file=f"arrays/{name}", what="is missing")
            continue
        try:
            found, wanted = parsed(text, name), parsed(expected, name)
        except StoreError as error:
            yield Fault(file=f"arrays/{name}", what=str(error))
            continue
        if differing := sorted(key for key in wanted if found.get(key) != wanted[key]):
            yield Fault(file=f"arrays/{name}", what=f"other {', '.join(differing)} than expected")


def _part_faults(store: FeatureStore, part: Part, *, is_deep: bool) -> Iterator[Fault]:
    name = receipt_name(part.number)
    try:
        receipt = store.receipt(part.number)
    except StoreError as error:
        yield Fault(file=name, part=part.number, what=str(error))
        return
    if receipt is None:
        what = "not done: it has no receipt"
        yield Fault(file=name, part=part.number, what=what, is_undone=True)
        return
    if not store.belongs(receipt, part):
        what = "belongs to another recipe, other rows or other arrays"
        yield Fault(file=name, part=part.number, what=what)
        return
    limits = {
        spec.shard_name(part.number): max_shard_bytes(spec, store.header.part_rows)
        for spec in store.header.arrays
    }
    whole: dict[str, bytes] = {}
    for file, wanted in files_of(store.header, receipt).items():
        try:
            content = store.place.read(file, max_bytes=limits.get(file))
        except StoreError as error:
            yield Fault(file=file, part=part.number, what=str(error))
            continue
        if content is None:
            yield Fault(file=file, part=part.number, what="is missing")
        elif len(content) != wanted.num_bytes:
            what = f"has {len(content)} bytes, not {wanted.num_bytes}"
            yield Fault(file=file, part=part.number, what=what)
        elif Shard.of(content) != wanted:
            rows = _changed_rows(store.header, part, receipt, file, content)
            what = "was changed: its digest differs"
            yield Fault(file=file, part=part.number, what=what, rows=rows)
        else:
            whole[file] = content
    if is_deep:
        yield from _value_faults(store, part, receipt, whole)


def _changed_rows(
    header: StoreHeader, part: Part, receipt: Receipt, file: str, content: bytes
) -> tuple[int, ...]:
    """Which rows of a changed shard differ; empty where that is unknown."""
    spec = next((s for s in header.arrays if s.shard_name(part.number) == file), None)
    if spec is None:
        return ()
    try:
        values_n = decoded(content, spec, header.part_rows, part.num_rows, file, checks_crc=False)
    except StoreError:
        return ()
    now = row_digests(values_n)
    width = len(now) // part.num_rows
    return tuple(
        part.first_row + index
        for index in range(part.num_rows)
        if now[index * width : (index + 1) * width] != receipt.row_digest(spec.name, index)
    )


def _value_faults(
    store: FeatureStore, part: Part, receipt: Receipt, whole: Mapping[str, bytes]
) -> Iterator[Fault]:
    """Faults that digests do not show: values that should never have been written."""
    stats = {}
    for spec in store.header.arrays:
        file = spec.shard_name(part.number)
        if file not in whole:
            continue
        part_rows = store.header.part_rows
        values_n = decoded(whole[file], spec, part_rows, part.num_rows, file)
        by_zarr = read_with_zarr(store.place / "arrays", spec.name, part.first_row, part.num_rows)
        if row_digests(by_zarr) != row_digests(values_n):
            yield Fault(file=file, part=part.number, what="zarr reads other values than egoctl")
        if row_digests(values_n) != receipt.rows_blake3[spec.name]:
            yield Fault(file=file, part=part.number, what="rows differ from the receipt's digests")
        if spec.dtype != BYTES:
            stats[spec.name] = ColumnStats.of(values_n)
        what, is_bad_n = _bad_rows(store.header, spec, receipt, values_n)
        if is_bad_n.any():
            rows = tuple((part.first_row + np.flatnonzero(is_bad_n)).tolist())
            yield Fault(file=file, part=part.number, what=what, rows=rows)
    is_all = len(stats) == sum(spec.dtype != BYTES for spec in store.header.arrays)
    if is_all and receipt.shards.keys() == {spec.name for spec in store.header.arrays}:
        if Shard.of(stats_bytes(stats)) != receipt.statistics:
            file = stats_name(part.number)
            yield Fault(file=file, part=part.number, what="are not the statistics of the values")


def _bad_rows(
    header: StoreHeader, spec: ArraySpec, receipt: Receipt, values_n: NDArray[Any]
) -> tuple[str, NDArray[np.bool_]]:
    """Rows marked ok without proper values, and failed ones with some."""
    codes = pl.Series([row.code for row in receipt.outcomes[stream_of(spec.name)]])
    is_ok_n = (codes == OK).to_numpy()
    if spec.dtype == BYTES:
        side = header.recipe.get("frame_px")
        side_px = side if isinstance(side, int) else None
        faults = [
            next(filter(None, (jpeg_fault(item, side_px) for item in row)), None)
            for row in values_n
        ]
        first = next((fault for fault in faults if fault), "")
        is_empty_n = np.array([not any(row) for row in values_n])
        is_bad_n = np.array([fault is not None for fault in faults]) & is_ok_n
        return f"frames that are no proper JPEG: {first}", is_bad_n | (~is_ok_n & ~is_empty_n)
    flat = values_n.reshape(len(values_n), -1)
    is_bad_n = is_ok_n & ~np.isfinite(flat).all(axis=1)
    is_bad_n |= ~is_ok_n & ~np.isnan(flat).all(axis=1)
    return f"rows marked {OK} without finite values, or others with values", is_bad_n
