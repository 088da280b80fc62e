"""Writes a part so that it counts as a whole or not at all, whoever else may be writing it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from egoctl.pipeline.files.place import Place
from egoctl.pipeline.records import RowOutcome
from egoctl.pipeline.store.claims import Claims
from egoctl.pipeline.store.clip_table import Part
from egoctl.pipeline.store.column_stats import ColumnStats, stats_bytes
from egoctl.pipeline.store.header import BYTES, StoreHeader, fitted
from egoctl.pipeline.store.receipt import (
    Receipt,
    Shard,
    files_of,
    receipt_name,
    row_digests,
    stats_name,
)
from egoctl.pipeline.store.zarr_files import encoded_shard


@dataclass(frozen=True, kw_only=True, slots=True)
class PartFiles:
    """A part ready to be written."""

    number: int
    files: Mapping[str, bytes]
    """Shards and statistics, by name below the store."""
    receipt: Receipt


def part_files(
    header: StoreHeader,
    part: Part,
    arrays: Mapping[str, NDArray[Any]],
    outcomes: Mapping[str, Sequence[RowOutcome]],
    *,
    seconds: Mapping[str, float],
    versions: Mapping[str, str],
    num_reused: int,
    where: str,
) -> PartFiles:
    """Encode every array's rows of the part, and the receipt that goes with them.

    Raises:
        ValueError: if an array or an outcome list does not have the part's rows.
        StoreError: if a value does not fit the stored dtype.
    """
    _check_rows(header, part, arrays, outcomes)
    files, shards, stored_of = {}, {}, {}
    for spec in header.arrays:
        dtype = np.dtype(object if spec.dtype == BYTES else spec.dtype)
        stored_of[spec.name] = fitted(arrays[spec.name], dtype, where=f"{where}, {spec.name}")
        content = encoded_shard(spec, header.part_rows, stored_of[spec.name])
        files[spec.shard_name(part.number)] = content
        shards[spec.name] = Shard.of(content)
    stats = stats_bytes(
        {name: ColumnStats.of(of) for name, of in stored_of.items() if of.dtype != object}
    )
    files[stats_name(part.number)] = stats
    receipt = Receipt(
        part=part.number,
        fingerprint=header.fingerprint,
        clips_blake3=part.clips_blake3,
        shards=shards,
        statistics=Shard.of(stats),
        rows_blake3={name: row_digests(stored) for name, stored in stored_of.items()},
        outcomes={stream: tuple(rows) for stream, rows in outcomes.items()},
        seconds=seconds,
        versions=versions,
        num_reused=num_reused,
    )
    return PartFiles(number=part.number, files=files, receipt=receipt)


def put_part(place: Place, claims: Claims, header: StoreHeader, part: PartFiles) -> bool:
    """Write a claimed part's files, then its receipt. False: the claim was lost, somebody else did.

    A process may sleep past its lease between any two lines. On a bucket every put is conditional
    on what was there a moment before, so a sleeper's put fails once the next holder has put its
    own; a file system has no such puts, there the claim is looked up right before each. The
    receipt is put only where there is none, and if there is one, `_settle` has the last word.
    """
    name = receipt_name(part.number)
    old_receipt = place.info(name)
    if not claims.is_held(part.number):
        return False
    if old_receipt is not None:
        # A part that is redone stops counting before its shards change.
        place.delete(name)
    for file, content in part.files.items():
        # Somebody who died here may have left one.
        seen = place.info(file)
        if seen is None:
            is_ours = place.create(file, content)
        else:
            is_ours = claims.is_held(part.number) and place.replace(file, content, seen)
        if not is_ours:
            return False
    if place.create(name, part.receipt.to_json()):
        return True
    _settle(place, header, part.number)
    return False


def _settle(place: Place, header: StoreHeader, number: int) -> None:
    """Two wrote this part, and the other's receipt is there: it must fit the files that are."""
    name = receipt_name(number)
    text = place.read(name)
    if text is None:
        return
    theirs = Receipt.from_json(text, f"{place.url}/{name}")
    for file, wanted in files_of(header, theirs).items():
        content = place.read(file)
        if content is None or Shard.of(content) != wanted:
            # It fits nobody's. Without a receipt the part is simply to be done.
            place.delete(name)
            return


def _check_rows(
    header: StoreHeader,
    part: Part,
    arrays: Mapping[str, NDArray[Any]],
    outcomes: Mapping[str, Sequence[RowOutcome]],
) -> None:
    names = [spec.name for spec in header.arrays]
    if sorted(arrays) != names:
        raise ValueError(f"the store has arrays {names}, got {sorted(arrays)}")
    lengths = {name: len(values) for name, values in arrays.items()}
    lengths |= {stream: len(rows) for stream, rows in outcomes.items()}
    if wrong := {name: count for name, count in lengths.items() if count != part.num_rows}:
        raise ValueError(f"a part of {part.num_rows} rows was given {wrong}")
