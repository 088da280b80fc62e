"""The store: teacher targets, or student inputs, of many clips. The only file that imports zarr.

    store.json           the header: kind, recipe, fingerprint, class names, rows of a part
    arrays/              a plain Zarr v3 group; one shard of each array is one part
    clips/00000.parquet  what each row is; a larger manifest adds a file, rows never move
    parts/00017.json     the receipt that makes a part count: digests, outcomes, timings

A part is written as whole shards first and its receipt last, so a process that dies anywhere
leaves either a part or nothing; the next run redoes what has no receipt. Format: docs/store.md.
"""

# N rows of the store

import json
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import obstore
import polars as pl
import zarr
from blake3 import blake3
from numpy.typing import NDArray
from obstore.exceptions import AlreadyExistsError
from obstore.store import LocalStore
from zarr.core.dtype import VariableLengthBytes
from zarr.errors import UnstableSpecificationWarning
from zarr.storage import ObjectStore

from egoctl.pipeline.clip_table import ClipTable, Part, StoreRow
from egoctl.pipeline.errors import StoreError, StoreMismatchError
from egoctl.pipeline.outcomes import OUTCOME_STREAMS, with_outcomes
from egoctl.pipeline.receipt import IMU_NONE, OK, Receipt, RowOutcome, Shard, StoreHeader
from egoctl.pipeline.recipe import differences
from egoctl.pipeline.store_lock import StoreLock
from egoctl.pipeline.stored_values import fitted

BYTES = "bytes"
"""The dtype of arrays whose items are byte strings (JPEG frames)."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ArraySpec:
    """An array's dtype and the shape of one row; chunk_rows rows are read at a time."""

    name: str
    dtype: str
    """A numpy float dtype, or BYTES."""
    row_shape: tuple[int, ...]
    chunk_rows: int


class FeatureStore:
    """One store on a file system. Open it with `open`, or make it with `create`."""

    def __init__(self, url: str, header: StoreHeader) -> None:
        self.url = url
        self.header = header
        self._lock = StoreLock(_folder(url) / "writer.lock")
        self._table = ClipTable(_folder(url) / "clips", header.part_rows)

    def close(self) -> None:
        """Let other processes write into the store; reading needs no closing."""
        self._lock.release()

    @cached_property
    def _files(self) -> LocalStore:
        return LocalStore(_folder(self.url))

    @cached_property
    def _arrays(self) -> ObjectStore[LocalStore]:
        return ObjectStore(LocalStore(_folder(self.url) / "arrays", mkdir=True))

    @cached_property
    def _ranks(self) -> dict[str, int]:
        return {name: len(shape) for name, (shape, _) in self.array_specs().items()}

    # --- making and opening ---

    @classmethod
    def open(cls, url: str) -> "FeatureStore":
        """The store at url.

        Raises:
            StoreError: if there is none, or its header cannot be trusted.
        """
        header_path = _folder(url) / "store.json"
        if not header_path.is_file():
            raise StoreError(
                f"no store at {url} (no store.json in it). "
                "'egoctl extract-teacher' makes one; check the path."
            )
        return cls(url, StoreHeader.from_json(header_path.read_bytes(), str(header_path)))

    @classmethod
    def exists(cls, url: str) -> bool:
        """Whether a store was begun at url."""
        return (_folder(url) / "store.json").is_file()

    @classmethod
    def create(cls, url: str, header: StoreHeader, arrays: Sequence[ArraySpec]) -> "FeatureStore":
        """The store at url, made if it is not there.

        Raises:
            StoreMismatchError: if one is there with another recipe; it names each field.
            StoreError: if the folder holds something else.
        """
        folder = _folder(url)
        if folder.exists() and not (folder / "store.json").is_file():
            # A put that was killed leaves a staged file store.json#1; that is no other content.
            others = [file.name for file in folder.iterdir() if "store.json" not in file.name]
            if others:
                raise StoreError(f"{url} is a folder with other files in it. Give a new path.")
        folder.mkdir(parents=True, exist_ok=True)
        files = LocalStore(folder)
        text = _json_bytes(header.to_dict())
        try:
            # Put-if-absent: of two first starters exactly one makes the header.
            obstore.put(files, "store.json", text, mode="create")
        except AlreadyExistsError:
            store = cls.open(url)
            store._refuse_other(header)
            store._create_arrays(arrays)
            return store
        store = cls(url, header)
        store._create_arrays(arrays)
        return store

    def _refuse_other(self, wanted: StoreHeader) -> None:
        found = self.header
        lines = differences(
            {"kind": found.kind, "part_rows": found.part_rows, **found.recipe},
            {"kind": wanted.kind, "part_rows": wanted.part_rows, **wanted.recipe},
        )
        if lines:
            raise StoreMismatchError(
                f"{self.url} was made with another recipe:\n  "
                + "\n  ".join(lines)
                + "\nGive another path, or the old settings."
            )

    def _create_arrays(self, specs: Sequence[ArraySpec]) -> None:
        """Make group and arrays where missing. Every starter writes the same bytes."""
        group = zarr.open_group(self._arrays, mode="a")
        if dict(group.attrs) != {"egoctl": self.header.to_dict()}:
            group.attrs.put({"egoctl": self.header.to_dict()})
        for spec in specs:
            if spec.name in group:
                continue
            is_bytes = spec.dtype == BYTES
            with _byte_arrays_allowed():
                group.create_array(
                    spec.name,
                    shape=(0, *spec.row_shape),
                    chunks=(_chunk_rows(spec.chunk_rows, self.header.part_rows), *spec.row_shape),
                    shards=(self.header.part_rows, *spec.row_shape),
                    dtype=VariableLengthBytes() if is_bytes else spec.dtype,
                    fill_value=b"" if is_bytes else float("nan"),
                    compressors=None,
                    config={"write_empty_chunks": True},
                )

    # --- rows and parts ---

    def append(self, rows: Sequence[StoreRow]) -> int:
        """Add the rows whose clip_id is new, after the last part; how many were added.

        So are rows whose clip failed and whose files have changed since, and rows of parts that
        an earlier manifest left unfinished and that these rows do not cover.

        Raises:
            StoreMismatchError: if a clip that did not fail now comes from other content.
            StoreError: if another process writes into this store.
        """
        self._lock.acquire()
        known = self.rows()
        wanted = {row.clip_id for row in rows}
        cut_off = [part.number for part in self.parts_to_do() if not part.is_within(wanted)]
        stranded = set(known.filter(pl.col("part").is_in(cut_off))["clip_id"])
        streams = [name for name in OUTCOME_STREAMS if name in known.columns]
        is_failed = pl.any_horizontal(pl.col(streams).is_in([OK, IMU_NONE]).not_())
        failed = set(known.filter(is_failed)["clip_id"])
        num_new = self._table.append(rows, failed=failed, stranded=stranded)
        num_rows = self._table.num_rows()
        with _byte_arrays_allowed():
            for _, array in zarr.open_group(self._arrays, mode="r+").arrays():
                if array.shape[0] < num_rows:
                    array.resize((num_rows, *array.shape[1:]))
        return num_new

    def parts(self) -> list[Part]:
        """Every part, in order."""
        return self._table.parts()

    def clips(self) -> pl.DataFrame:
        """Row, part, clip_id, segment_id, video_id, start_s, stop_s, clip_key of every row."""
        return self._table.read()

    def rows(self) -> pl.DataFrame:
        """`clips()` with outcome and reason (inputs: imu_outcome, imu_reason too).

        One row per clip_id, the last. outcome is null where the part is not done, 'ok' where
        there is data, else a code.
        """
        streams = OUTCOME_STREAMS if self.header.kind == "inputs" else OUTCOME_STREAMS[:1]
        parts = {part.number: part for part in self.parts()}
        return with_outcomes(self.clips(), streams, lambda n: self._valid_receipt(parts[n]))

    def receipt(self, number: int) -> Receipt | None:
        """The receipt of a part, or None while the part is not done.

        Raises:
            StoreError: if the file is there but damaged.
        """
        name = _receipt_name(number)
        path = _folder(self.url) / name
        if not path.is_file():
            return None
        return Receipt.from_json(path.read_bytes(), str(path))

    def parts_to_do(self) -> list[Part]:
        """Parts without a receipt of their own rows, or whose shards are not as it says.

        Sizes are compared here; `verify` recomputes the digests.
        """
        return [part for part in self.parts() if self._valid_receipt(part) is None]

    def _valid_receipt(self, part: Part) -> Receipt | None:
        """The receipt that makes the part count, or None."""
        try:
            receipt = self.receipt(part.number)
        except StoreError:
            return None
        if receipt is None or not self.belongs(receipt, part):
            return None
        for name, shard in receipt.shards.items():
            path = self._shard_path(name, part.number)
            if not path.is_file() or path.stat().st_size != shard.num_bytes:
                return None
        return receipt

    def belongs(self, receipt: Receipt, part: Part) -> bool:
        """Whether the receipt is about this store's recipe, these rows and all arrays."""
        return (
            receipt.fingerprint == self.header.fingerprint
            and receipt.clips_blake3 == part.clips_blake3
            and receipt.shards.keys() == self._ranks.keys()
            and all(len(rows) == len(part.rows) for rows in receipt.outcomes.values())
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
    ) -> None:
        """Write every array's rows of the part, then the receipt.

        Raises:
            ValueError: if an array or an outcome list does not have the part's rows.
            StoreError: if a value does not fit the stored dtype.
        """
        group = zarr.open_group(self._arrays, mode="r+")
        names = sorted(name for name, _ in group.arrays())
        if sorted(arrays) != names:
            raise ValueError(f"the store has arrays {names}, got {sorted(arrays)}")
        num_rows = len(part.rows)
        lengths = {name: len(values) for name, values in arrays.items()}
        lengths |= {stream: len(rows) for stream, rows in outcomes.items()}
        if wrong := {name: count for name, count in lengths.items() if count != num_rows}:
            raise ValueError(f"a part of {num_rows} rows was given {wrong}")
        self._lock.acquire()
        # A part that is redone stops counting before its shards change.
        (_folder(self.url) / _receipt_name(part.number)).unlink(missing_ok=True)
        shards: dict[str, Shard] = {}
        for name in names:
            # zarr keeps this setting in memory only. Without it, a shard of fill values alone
            # (no clip has an IMU, or every clip failed) is left out, or deleted if there was one.
            array = _array(group, name).with_config({"write_empty_chunks": True})
            where = f"{self.url}, part {part.number}, {name}"
            stored = fitted(arrays[name], array.dtype, where=where)
            array[part.first_row : part.first_row + num_rows] = stored
            shards[name] = _shard(self._shard_path(name, part.number).read_bytes())
        receipt = Receipt(
            part=part.number,
            fingerprint=self.header.fingerprint,
            clips_blake3=part.clips_blake3,
            shards=shards,
            outcomes={stream: tuple(rows) for stream, rows in outcomes.items()},
            seconds=seconds,
            versions=versions,
        )
        obstore.put(self._files, _receipt_name(part.number), receipt.to_json())

    def read(self, array: str, rows: NDArray[np.int64]) -> NDArray[Any]:
        """(n, ...) the given rows of an array, in the order given; read a shard at a time.

        Raises:
            StoreError: if the store has no such array, or not that many rows.
        """
        group = zarr.open_group(self._arrays, mode="r")
        if array not in group:
            raise StoreError(f"{self.url} has no array {array!r}.")
        source = _array(group, array)
        rows = np.asarray(rows, dtype=np.int64)
        if rows.size and not (0 <= rows.min() and rows.max() < source.shape[0]):
            raise StoreError(f"{self.url}: rows {rows.min()}..{rows.max()} of {source.shape[0]}")
        out = np.empty((len(rows), *source.shape[1:]), dtype=source.dtype)
        parts = rows // self.header.part_rows
        for number in np.unique(parts):
            here = np.flatnonzero(parts == number)
            low, high = int(rows[here].min()), int(rows[here].max()) + 1
            out[here] = np.asarray(source[low:high])[rows[here] - low]
        return out

    def array_specs(self) -> dict[str, tuple[tuple[int, ...], str]]:
        """Shape and dtype of every array, by name."""
        group = zarr.open_group(self._arrays, mode="r")
        return {
            name: (array.shape, str(array.dtype if array.dtype != object else BYTES))
            for name, array in sorted(group.arrays())
        }

    def digest_of(self, rows: NDArray[np.int64]) -> str:
        """Digest of the content of these rows' parts: what a run was trained on.

        Raises:
            StoreError: if a row's part is not done.
        """
        digest = blake3(self.header.fingerprint.encode())
        parts = {part.number: part for part in self.parts()}
        for number in np.unique(np.asarray(rows, dtype=np.int64) // self.header.part_rows):
            receipt = self._valid_receipt(parts[int(number)])
            if receipt is None:
                raise StoreError(f"{self.url}: part {number} is not done, or was damaged.")
            for name, shard in sorted(receipt.shards.items()):
                digest.update(f"{number} {name} {shard.blake3}\n".encode())
        digest.update(np.sort(np.asarray(rows, dtype="<i8")).tobytes())
        return digest.hexdigest()

    # --- files ---

    def _shard_path(self, name: str, number: int) -> Path:
        if name not in self._ranks:
            raise StoreError(f"{self.url} has no array {name!r}.")
        zeros = ["0"] * (self._ranks[name] - 1)
        return _folder(self.url).joinpath("arrays", name, "c", str(number), *zeros)

    def shard(self, name: str, number: int) -> Shard | None:
        """Digest and size of one stored object as it is now, or None if it is missing."""
        path = self._shard_path(name, number)
        return _shard(path.read_bytes()) if path.is_file() else None


@contextmanager
def _byte_arrays_allowed() -> Iterator[None]:
    """Writing metadata of a byte-string array makes zarr 3.1 warn, though reading it does not."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UnstableSpecificationWarning)
        yield


def _folder(url: str) -> Path:
    path = url.removeprefix("file://")
    if "://" in path:
        raise StoreError(f"{url}: stores live on file systems; give a local or NFS path.")
    return Path(path)


def _receipt_name(number: int) -> str:
    return f"parts/{number:05d}.json"


def _json_bytes(value: dict[str, Any]) -> bytes:
    return json.dumps(value, indent=1, allow_nan=False).encode()


def _chunk_rows(wanted: int, part_rows: int) -> int:
    """The largest divisor of part_rows up to wanted: chunks must fill a shard exactly."""
    return next(rows for rows in range(min(wanted, part_rows), 0, -1) if part_rows % rows == 0)


def _array(group: zarr.Group, name: str) -> zarr.Array[Any]:
    if isinstance(array := group[name], zarr.Array):
        return array
    raise StoreError(f"{name} is a group, not an array.")


def _shard(content: bytes) -> Shard:
    return Shard(blake3=blake3(content).hexdigest(), num_bytes=len(content))
