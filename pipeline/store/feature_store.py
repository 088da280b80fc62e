"""The store: teacher targets, or student inputs, of many clips, in a folder or a bucket.

    store.json           the header: kind, recipe, fingerprint, class names, arrays, rows of a part
    arrays/              a plain Zarr v3 group; one shard of each array is one part
    clips/00000.parquet  what each row is; a larger manifest adds a file, rows never move
    parts/00017.json     the receipt that makes a part count: digests, outcomes, timings
    stats/00017.npz      mean, spread and range of the part's columns
    claims/              who is working on which part; empty when nobody is

A part is written as whole shards first and its receipt last, so a process that dies anywhere
leaves either a part or nothing; the next run redoes what has no receipt. Format: docs/store.md.
"""

# n rows asked for

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
from blake3 import blake3
from numpy.typing import NDArray

from egoctl.pipeline.errors import StoreError, StoreMismatchError
from egoctl.pipeline.files.place import Place
from egoctl.pipeline.recipe import differences
from egoctl.pipeline.records import RowOutcome
from egoctl.pipeline.store.claims import Claims
from egoctl.pipeline.store.clip_table import ClipTable, Part, StoreRow
from egoctl.pipeline.store.column_stats import MAX_STATS_BYTES, ColumnStats, merged, read_stats
from egoctl.pipeline.store.header import MAX_HEADER_BYTES, ArraySpec, StoreHeader
from egoctl.pipeline.store.outcomes import is_failed, streams_of_kind, with_outcomes
from egoctl.pipeline.store.receipt import (
    MAX_RECEIPT_BYTES,
    Receipt,
    Shard,
    receipt_name,
    stats_name,
)
from egoctl.pipeline.store.shard_reader import NUM_FETCHERS, read_rows

if TYPE_CHECKING:
    import polars as pl  # slow to import; a program that names a store may never read one

SizeOf: TypeAlias = Callable[[str], int | None]
LEASE_S = 180.0
"""How long a part stays claimed by a process that no longer renews its claim. Longer than a
request to the storage is retried."""


class FeatureStore:
    """One store. Open it with `open`, or make it with `create`.

    >>> store = FeatureStore.open("teacher.store")
    >>> store.header.class_names
    ('cut', 'stir', 'wash')
    >>> rows = store.rows().filter(outcome="ok")
    >>> rows["clip_id"].to_list()
    ['a@0.000-2.000', 'b@0.000-2.000', 'c@0.000-2.000']
    >>> store.read("feature", rows["row"]).shape
    (3, 5)
    """

    def __init__(self, place: Place, header: StoreHeader, *, lease_s: float = LEASE_S) -> None:
        self.url = place.url
        self.header = header
        self.place = place
        # At once and not when first asked for: threads that ask together must get the same.
        self.claims = Claims(place / "claims", lease_s=lease_s)
        """Who is working on which part."""
        self._table = ClipTable(place / "clips", header.part_rows)
        self._receipts: dict[int, Receipt] = {}
        """Valid ones that were read; a part that is done stays as it is."""

    def close(self) -> None:
        """Release the parts that were claimed; a store that was only read needs no closing."""
        self.claims.close()

    # --- making and opening ---

    @classmethod
    def open(cls, url: str, *, lease_s: float = LEASE_S) -> "FeatureStore":
        """The store at url.

        Raises:
            StoreError: if there is none, or its header cannot be trusted.
        """
        place = Place(url)
        text = place.read("store.json", max_bytes=MAX_HEADER_BYTES)
        if text is None:
            raise StoreError(
                f"no store at {url} (no store.json in it). "
                "'egoctl extract-teacher' makes one; check the path."
            )
        header = StoreHeader.from_json(text, f"{place.url}/store.json")
        return cls(place, header, lease_s=lease_s)

    @classmethod
    def exists(cls, url: str) -> bool:
        """Whether a store was begun at url."""
        return Place(url).info("store.json") is not None

    @classmethod
    def create(
        cls, url: str, header: StoreHeader, arrays: Sequence[ArraySpec], *, lease_s: float = LEASE_S
    ) -> "FeatureStore":
        """The store at url with these arrays, made if it is not there.

        Raises:
            StoreMismatchError: if one is there with another recipe; it names each field.
            StoreError: if the folder holds something else.
        """
        specs = sorted(
            (spec.in_parts_of(header.part_rows) for spec in arrays), key=lambda spec: spec.name
        )
        header = replace(header, arrays=tuple(specs))
        place = Place(url)
        if place.path is not None and place.path.is_file():
            raise StoreError(f"{url} is a file, so no store can be made there. Give another path.")
        if place.info("store.json") is None:
            # A put that was killed leaves a staged file store.json#1; that is no other content.
            if next((info for info in place.list() if info.name != "store.json"), None):
                raise StoreError(f"{url} is a folder with other files in it. Give a new path.")
            # Put-if-absent: of two first starters exactly one makes the header.
            place.create("store.json", header.to_json())
        store = cls.open(url, lease_s=lease_s)
        store._refuse_other(header)
        store.write_metadata()
        return store

    def _refuse_other(self, wanted: StoreHeader) -> None:
        def fields(header: StoreHeader) -> dict[str, Any]:
            found = header.to_dict()
            recipe: dict[str, Any] = found["recipe"]
            return {key: found[key] for key in ("kind", "part_rows", "arrays")} | recipe

        lines = differences(fields(self.header), fields(wanted))
        if lines:
            raise StoreMismatchError(
                f"{self.url} was made with another recipe:\n  "
                + "\n  ".join(lines)
                + "\nGive another path, or the old settings."
            )

    def write_metadata(self) -> None:
        """Give the arrays' metadata the number of rows of the clip table.

        Others may append at the same moment, so it looks again until the number has not changed.
        """
        from egoctl.pipeline.store.zarr_files import metadata_files  # slow to load, and not to read

        arrays = self.place / "arrays"
        written = -1
        while written != (num_rows := self._table.num_rows()):
            written = num_rows
            for name, content in metadata_files(self.header, num_rows).items():
                if arrays.read(name, max_bytes=MAX_HEADER_BYTES) != content:
                    arrays.put(name, content)

    # --- rows and parts ---

    def append(self, rows: Sequence[StoreRow]) -> int:
        """Add the rows whose clip_id is new, after the last part; how many were added.

        Added once more are clips that failed and whose files have changed since, and clips of
        parts that never will be done: unfinished, claimed by nobody, and with clips that are not
        among these rows.

        Raises:
            StoreMismatchError: if a clip that did not fail now comes from other content.
        """
        import polars as pl

        wanted = {row.clip_id for row in rows}
        num_new: int | None = None
        while num_new is None:
            valid = self.valid_receipts()
            known = self._rows(valid)
            at_work = self.claims.live()
            cut_off = [
                part.number
                for part in self.parts()
                if part.number not in valid
                and part.number not in at_work
                and not part.is_within(wanted)
            ]
            stranded = set(known.filter(pl.col("part").is_in(cut_off))["clip_id"])
            failed = set(known.filter(is_failed(known))["clip_id"])
            num_new = self._table.append(rows, failed=failed, stranded=stranded)
        self.write_metadata()
        return num_new

    def add_clips(self, clips: "pl.DataFrame") -> None:
        """Add rows as they are numbered, for copies of other stores.

        Raises:
            StoreError: if somebody added others in this moment.
        """
        if not self._table.add_rows(clips):
            raise StoreError(f"somebody else is writing rows into {self.url}. Give a new path.")
        self.write_metadata()

    def parts(self) -> list[Part]:
        """Every part, in order."""
        return self._table.parts()

    def clips(self) -> "pl.DataFrame":
        """Row, part, clip_id, segment_id, video_id, start_s, stop_s, clip_key of every row."""
        return self._table.read()

    def num_rows(self) -> int:
        """One past the last row."""
        return self._table.num_rows()

    def rows(self) -> "pl.DataFrame":
        """`clips()` with outcome and reason (inputs: imu_outcome, imu_reason too).

        One row per clip_id, the last. outcome is null where the part is not done, 'ok' where
        there is data, else a code.
        """
        return self._rows(self.valid_receipts())

    def _rows(self, receipts: Mapping[int, Receipt]) -> "pl.DataFrame":
        streams = streams_of_kind(self.header.kind)
        # Only a later append can repeat a clip_id.
        may_repeat = len(self._table.file_names()) > 1
        return with_outcomes(self.clips(), streams, receipts.get, may_repeat=may_repeat)

    def receipt(self, number: int) -> Receipt | None:
        """The receipt of a part, or None while the part is not done.

        Raises:
            StoreError: if the file is there but damaged.
        """
        name = receipt_name(number)
        text = self.place.read(name, max_bytes=MAX_RECEIPT_BYTES)
        return None if text is None else Receipt.from_json(text, f"{self.url}/{name}")

    def parts_to_do(self) -> list[Part]:
        """Parts without a receipt of their own rows, or whose shards do not have its sizes.

        Sizes are compared here; `verify` recomputes the digests.
        """
        valid = self.valid_receipts()
        return [part for part in self.parts() if part.number not in valid]

    def valid_receipts(self) -> dict[int, Receipt]:
        """The receipts that make a part count, by part."""
        sizes = {info.name: info.num_bytes for info in self.place.list("arrays")}
        written = {info.name for info in self.place.list("parts")}
        parts = [part for part in self.parts() if receipt_name(part.number) in written]
        with ThreadPoolExecutor(1 if self.place.path else NUM_FETCHERS) as pool:
            found = pool.map(lambda part: self._valid_receipt(part, sizes.get), parts)
            return {
                part.number: receipt
                for part, receipt in zip(parts, found, strict=True)
                if receipt is not None
            }

    def has_receipt(self, part: Part) -> bool:
        """Whether a part has a receipt, good or not: one small request."""
        return self.place.info(receipt_name(part.number)) is not None

    def is_done(self, part: Part) -> bool:
        """Whether a part counts, as the storage has it now."""
        self._receipts.pop(part.number, None)
        return self._valid_receipt(part, self.place.num_bytes) is not None

    def _valid_receipt(self, part: Part, size_of: SizeOf) -> Receipt | None:
        receipt = self._receipts.get(part.number)
        if receipt is None:
            try:
                receipt = self.receipt(part.number)
            except StoreError:
                return None
            if receipt is None or not self.belongs(receipt, part):
                return None
        for spec in self.header.arrays:
            if size_of(spec.shard_name(part.number)) != receipt.shards[spec.name].num_bytes:
                return None
        self._receipts[part.number] = receipt
        return receipt

    def belongs(self, receipt: Receipt, part: Part) -> bool:
        """Whether the receipt is about this store's recipe, these rows and all arrays."""
        return (
            receipt.part == part.number
            and receipt.fingerprint == self.header.fingerprint
            and receipt.clips_blake3 == part.clips_blake3
            and receipt.shards.keys() >= {spec.name for spec in self.header.arrays}
            and all(len(rows) == part.num_rows for rows in receipt.outcomes.values())
        )

    # --- data ---

    def write_part(
        self,
        part: Part,
        arrays: Mapping[str, NDArray[Any]],
        outcomes: Mapping[str, Sequence[RowOutcome]],
        *,
        seconds: Mapping[str, float],
        versions: Mapping[str, str],
        num_reused: int = 0,
    ) -> bool:
        """Write every array's rows of the part, then the receipt. False: somebody else did.

        The part is claimed if it was not. A claim that somebody took over, because this process
        slept past its lease, writes nothing more: every put is conditional on what was there.

        Raises:
            ValueError: if an array or an outcome list does not have the part's rows.
            StoreError: if a value does not fit the stored dtype, or a file cannot be written.
        """
        from egoctl.pipeline.store.part_writer import part_files, put_part  # loads zarr; slow

        ready = part_files(
            self.header,
            part,
            arrays,
            outcomes,
            seconds=seconds,
            versions=versions,
            num_reused=num_reused,
            where=f"{self.url}, part {part.number}",
        )
        if part.number not in self.claims.held() and not self.claims.take(part.number):
            return False
        try:
            return put_part(self.place, self.claims, self.header, ready)
        finally:
            self._receipts.pop(part.number, None)
            self.claims.release(part.number)

    def read(self, array: str, rows: "NDArray[np.int64] | pl.Series") -> NDArray[Any]:
        """(n, ...) the given rows of an array, in the order given; read a shard at a time.

        Shards of a bucket are kept in the node's cache once their digest was compared.

        Raises:
            StoreError: if the store has no such array, not these rows, or a file was changed.
        """
        row_n = np.asarray(rows, dtype=np.int64)
        receipts = {} if self.place.path is not None else self.valid_receipts()
        spec, part_rows = self._spec(array), self.header.part_rows
        return read_rows(self.place, spec, part_rows, row_n, self.parts(), receipts)

    def statistics(self) -> dict[str, ColumnStats]:
        """Statistics of every array of numbers, over all rows of the parts that are done.

        Values of rows that failed count as NaN.

        Raises:
            StoreError: if a file is missing or was changed.
        """
        of_array: dict[str, list[ColumnStats]] = {}
        for number, receipt in sorted(self.valid_receipts().items()):
            content = self.place.read(stats_name(number), max_bytes=MAX_STATS_BYTES)
            if content is None or Shard.of(content) != receipt.statistics:
                raise StoreError(f"{self.url}/{stats_name(number)} is missing or was changed.")
            for name, stats in read_stats(content, stats_name(number)).items():
                of_array.setdefault(name, []).append(stats)
        merged_of = {name: merged(stats) for name, stats in of_array.items()}
        return {name: stats for name, stats in merged_of.items() if stats is not None}

    def array_specs(self) -> dict[str, tuple[tuple[int, ...], str]]:
        """Shape and dtype of every array, by name."""
        num_rows = self._table.num_rows()
        return {spec.name: ((num_rows, *spec.row_shape), spec.dtype) for spec in self.header.arrays}

    def digest_of(self, rows: NDArray[np.int64]) -> str:
        """Digest of these rows' clips and content: what a run was trained on.

        The same in every copy and merged store: it depends on no part and no row number.

        Raises:
            StoreError: if a row's part is not done.
        """
        receipts = self.valid_receipts()
        parts = {part.number: part for part in self.parts()}
        lines = []
        for row in np.asarray(rows, dtype=np.int64).tolist():
            number = row // self.header.part_rows
            if number not in receipts:
                raise StoreError(f"{self.url}: part {number} is not done, or was damaged.")
            part, receipt = parts[number], receipts[number]
            index = row - part.first_row
            digests = [receipt.row_digest(spec.name, index) for spec in self.header.arrays]
            lines.append(f"{part.clip_ids[index]} {' '.join(digests)}")
        return blake3("\n".join([self.header.fingerprint, *sorted(lines)]).encode()).hexdigest()

    def _spec(self, name: str) -> ArraySpec:
        spec = self.header.array(name)
        if spec is None:
            known = ", ".join(spec.name for spec in self.header.arrays)
            raise StoreError(f"{self.url} has no array {name!r}; it has {known}.")
        return spec
