"""Rows that teammates computed already: found by content, copied instead of computed again.

clip_key and fingerprint together decide a value, so a row of another store with both equal is the
row that this store would compute. Names and paths play no part.
"""

# n rows asked for

from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from egoctl.pipeline.errors import StoreError, StoreMismatchError
from egoctl.pipeline.progress import Progress
from egoctl.pipeline.records import OK, RowOutcome
from egoctl.pipeline.sharing.checked_parts import CheckedParts, joint_seconds, joint_versions
from egoctl.pipeline.sharing.diff import header_differences
from egoctl.pipeline.store import FeatureStore
from egoctl.pipeline.store.clip_table import Part
from egoctl.pipeline.store.header import StoreHeader
from egoctl.pipeline.store.outcomes import streams_in, streams_of_kind
from egoctl.pipeline.store.receipt import Receipt
from egoctl.pipeline.store.shard_bytes import empty

Key: TypeAlias = tuple[str | None, str | None]
"""A row's (clip_key, imu_key)."""


class ReusableRows:
    """Rows of other stores, made like this one, that have data: every outcome of theirs is ok."""

    def __init__(self, urls: Sequence[str], header: StoreHeader) -> None:
        """An index over the stores at urls, for a store with this header.

        Raises:
            StoreMismatchError: if one was made another way; each field is named.
            StoreError: if there is no store.
        """
        self.header = header
        self._sources = [CheckedParts(FeatureStore.open(url)) for url in urls]
        self._at: dict[Key, tuple[int, int]] = {}
        """Which source, and which row of it."""
        for number, source in enumerate(self._sources):
            _refuse_other(source.store, header)
            rows = source.store.rows()
            for stream in streams_in(rows):
                rows = rows.filter(rows[stream] == OK)
            for row, clip_key, imu_key in rows.select("row", "clip_key", "imu_key").iter_rows():
                self._at.setdefault((clip_key, imu_key), (number, row))

    def __contains__(self, key: Key) -> bool:
        """Whether the row's values can be had; never where a key does not identify its content."""
        clip_key, imu_key = key
        # Without a digest of the IMU "there is none" and "it was not found" look the same.
        is_telling = clip_key is not None and (self.header.kind == "teacher" or imu_key is not None)
        return is_telling and key in self._at

    def rows_of(self, part: Part) -> list[int]:
        """Which rows of a part can be had, counted within it, in order."""
        return [index for index, key in enumerate(keys_of(part)) if key in self]

    def fetch(self, keys: Sequence[Key], array: str) -> NDArray[Any]:
        """(n, ...) an array's values for these keys, in their order, compared with their digests.

        Raises:
            KeyError: if a key is not here.
            ValueError: if there is no such array.
            StoreError: if a shard is missing, or it or a row differs from its receipt.
        """
        spec = self.header.array(array)
        if spec is None:
            raise ValueError(f"these stores have no array {array!r}")
        out_n = empty(spec, len(keys))
        places = [self._at[key] for key in keys]
        source_n, row_n = np.array(places, dtype=np.int64).reshape(-1, 2).T
        for number in np.unique(source_n).tolist():
            here = source_n == number
            out_n[here] = self._sources[number].read(array, row_n[here])
        return out_n

    def gpu_seconds(self, keys: Sequence[Key]) -> float:
        """What computing these rows had cost: their share of the teacher's time for their parts."""
        return joint_seconds(self.origins(keys)).get("teacher", 0.0)

    def origins(self, keys: Sequence[Key]) -> list[tuple[Receipt, int]]:
        """The receipt of each row, and the row's place in it."""
        places = [self._at[key] for key in keys]
        return [self._sources[source].place_of(row) for source, row in places]


@dataclass(frozen=True, kw_only=True, slots=True)
class CopiedRows:
    """Rows of one part as others computed them; the outcome of each is ok."""

    indices: tuple[int, ...]
    """Which of the part's rows."""
    arrays: Mapping[str, NDArray[Any]]
    """By array name: (n, ...) their values."""
    seconds: Mapping[str, float]
    """What computing them had taken."""
    versions: Mapping[str, str]
    """What they were computed with."""


def keys_of(part: Part) -> list[Key]:
    """The keys of every row of a part."""
    keys = part.clips.select("clip_key", "imu_key").iter_rows()
    return [(clip_key, imu_key) for clip_key, imu_key in keys]


def copied_rows(part: Part, indices: Sequence[int], reusable: ReusableRows) -> CopiedRows:
    """These rows of a part, fetched.

    Raises:
        StoreError: if a row differs from its digest.
    """
    keys = keys_of(part)
    wanted = [keys[index] for index in indices]
    origins = reusable.origins(wanted)
    return CopiedRows(
        indices=tuple(indices),
        arrays={spec.name: reusable.fetch(wanted, spec.name) for spec in reusable.header.arrays},
        seconds=joint_seconds(origins),
        versions=joint_versions(origins),
    )


def write_copied(store: FeatureStore, part: Part, found: CopiedRows) -> bool:
    """Write a part of which every row was found; whether it was still this process's to write."""
    streams = streams_of_kind(store.header.kind)
    return store.write_part(
        part,
        found.arrays,
        {stream: [RowOutcome()] * part.num_rows for stream in streams},
        seconds=found.seconds,
        versions=found.versions,
        num_reused=part.num_rows,
    )


@dataclass(kw_only=True)
class ReuseReport:
    """What `reuse` copied, and what it left; filled while it goes."""

    url: str
    num_rows: int = 0
    """Rows that were copied."""
    num_parts: int = 0
    teacher_s: float = 0.0
    """Seconds that the teacher had spent on these rows where they were computed."""
    num_parts_partly_found: int = 0
    num_rows_partly_found: int = 0
    """Rows of those parts that could be copied."""
    num_parts_not_found: int = 0
    num_parts_held: int = 0
    """Parts whose rows were all found, but that others are writing, or finished meanwhile."""
    faults: list[str] = field(default_factory=list)
    """Damage in the stores to copy from; the parts that met it are left as they were."""


def reuse(url: str, from_urls: Sequence[str]) -> ReuseReport:
    """Fill the parts of a store whose rows are all found in the others. No teacher is loaded.

    Raises:
        StoreMismatchError: if one of the others was made another way.
        StoreError: if there is no store, or this one cannot be written.
    """
    store = FeatureStore.open(url)
    reusable = ReusableRows(from_urls, store.header)
    report = ReuseReport(url=store.url)
    parts = store.parts_to_do()
    with closing(store), Progress(len(parts), title="reuse", unit="part") as progress:
        for part in parts:
            _reuse_part(store, part, reusable, report)
            progress.advance()
    return report


def reuse_lines(report: ReuseReport) -> Iterator[str]:
    """The report for people."""
    yield (
        f"{report.url}: {report.num_rows} rows copied in {report.num_parts} parts; computing them "
        f"had taken a teacher {report.teacher_s:.1f} s."
    )
    if report.num_parts_partly_found:
        yield (
            f"{report.num_parts_partly_found} parts were found only in part "
            f"({report.num_rows_partly_found} rows): 'egoctl extract-teacher --reuse' copies these "
            "rows and computes the others."
        )
    if report.num_parts_not_found:
        yield f"{report.num_parts_not_found} parts are nowhere else."
    if report.num_parts_held:
        yield f"{report.num_parts_held} parts are in other hands, or were finished meanwhile."
    yield from (f"not copied: {fault}" for fault in report.faults)


def _reuse_part(
    store: FeatureStore, part: Part, reusable: ReusableRows, report: ReuseReport
) -> None:
    indices = reusable.rows_of(part)
    if not indices:
        report.num_parts_not_found += 1
        return
    if len(indices) < part.num_rows:
        report.num_parts_partly_found += 1
        report.num_rows_partly_found += len(indices)
        return
    if not store.claims.take(part.number):
        report.num_parts_held += 1
        return
    try:
        if store.is_done(part):
            report.num_parts_held += 1
            return
        try:
            found = copied_rows(part, indices, reusable)
        except StoreError as damage:
            report.faults.append(f"part {part.number}: {damage}")
            return
        is_ours = write_copied(store, part, found)
    finally:
        store.claims.release(part.number)
    if not is_ours:
        report.num_parts_held += 1
        return
    report.num_parts += 1
    report.num_rows += part.num_rows
    report.teacher_s += found.seconds.get("teacher", 0.0)


def _refuse_other(source: FeatureStore, header: StoreHeader) -> None:
    lines = [
        f"{one.field}: {one.left} there, {one.right} here"
        for one in header_differences(source.header, header)
        if one.field != "class_names"  # names change no value
    ]
    if lines:
        raise StoreMismatchError(
            f"nothing of {source.url} can be reused, as it was made another way:\n  "
            + "\n  ".join(lines)
            + "\nLeave it out."
        )
