"""What each row of a store is: the parquet files under clips/, and the parts they form."""

import io
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import obstore
import polars as pl
from blake3 import blake3
from obstore.exceptions import AlreadyExistsError
from obstore.store import LocalStore

from egoctl.pipeline.errors import StoreError, StoreMismatchError

CLIP_COLUMNS = {
    "row": pl.Int64(),
    "part": pl.Int64(),
    "clip_id": pl.String(),
    "segment_id": pl.String(),
    "video_id": pl.String(),
    "start_s": pl.Float64(),
    "stop_s": pl.Float64(),
    "clip_key": pl.String(),
    "imu_key": pl.String(),
}


@dataclass(frozen=True, kw_only=True, slots=True)
class StoreRow:
    """What a row of the store is about."""

    clip_id: str
    segment_id: str
    video_id: str
    start_s: float
    stop_s: float
    clip_key: str | None
    """See `clip_key`; None if there was no video file when the row was added."""
    imu_key: str | None = None
    """Digest of the IMU file; None if there was none, or the store holds no IMU."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Part:
    """Consecutive rows that fill one shard of each array: the unit of work and of atomicity."""

    number: int
    first_row: int
    rows: tuple[StoreRow, ...]

    @property
    def clips_blake3(self) -> str:
        return blake3("\n".join(row.clip_id for row in self.rows).encode()).hexdigest()

    def is_within(self, clip_ids: Collection[str]) -> bool:
        """Whether all its rows are about these clips."""
        return all(row.clip_id in clip_ids for row in self.rows)


def clip_key(video_digest: str, start_s: float, stop_s: float) -> str:
    """The same for the same span of the same video content, in any store."""
    return blake3(f"{video_digest} {start_s:.6f} {stop_s:.6f}".encode()).hexdigest()


class ClipTable:
    """Append-only rows: every append is one more parquet file, and starts a new part."""

    def __init__(self, folder: Path, part_rows: int) -> None:
        self.folder = folder
        self.part_rows = part_rows

    def read(self) -> pl.DataFrame:
        """All rows with the columns of CLIP_COLUMNS, in order.

        Raises:
            StoreError: if a file is missing or damaged.
        """
        frames = [self._read_file(name) for name in self._file_names()]
        return pl.concat(frames) if frames else pl.DataFrame(schema=CLIP_COLUMNS)

    def num_rows(self) -> int:
        """One past the last row."""
        row = self.read()["row"]
        return int(row[-1]) + 1 if len(row) else 0

    def parts(self) -> list[Part]:
        """Every part, in order."""
        columns = self.read().to_dict(as_series=False)
        numbers = np.asarray(columns.pop("part"), dtype=np.int64)
        first_rows = columns.pop("row")
        rows = [
            StoreRow(**dict(zip(columns, values, strict=True)))
            for values in zip(*columns.values(), strict=True)
        ]
        edges = [0, *(np.flatnonzero(np.diff(numbers)) + 1).tolist(), len(rows)]
        return [
            Part(number=int(numbers[low]), first_row=first_rows[low], rows=tuple(rows[low:high]))
            for low, high in zip(edges, edges[1:], strict=False)
            if low < high
        ]

    def append(
        self,
        rows: Sequence[StoreRow],
        *,
        failed: Collection[str] = (),
        stranded: Collection[str] = (),
    ) -> int:
        """Add the rows whose clip_id is new; how many were added.

        Where a clip of a video is in failed and that video's files have changed since, or a file
        has come that was not there, its clips are added once more: rows never change, the last
        row of a clip_id is the one that counts. So are clips in stranded: their part is not done
        and never will be, as it also has clips that the manifest no longer names.

        Raises:
            StoreMismatchError: if a video without a failed clip now has other content.
        """
        known = self.read()
        facts = known.select("start_s", "stop_s", "clip_key", "imu_key").iter_rows()
        facts_of = dict(zip(known["clip_id"], facts, strict=True))
        mended = {row.video_id for row in rows if row.clip_id in failed}
        new = []
        for row in rows:
            if row.clip_id not in facts_of:
                new.append(row)
                continue
            start_s, stop_s, old_clip, old_imu = facts_of[row.clip_id]
            if (start_s, stop_s) != (row.start_s, row.stop_s):
                raise StoreMismatchError(
                    f"clip {row.clip_id!r} is [{start_s}, {stop_s}) s in {self.folder.parent}, but "
                    f"[{row.start_s}, {row.stop_s}) s now. Give that segment another segment_id, "
                    "or start a new store."
                )
            pairs = (("video", old_clip, row.clip_key), ("IMU file", old_imu, row.imu_key))
            changed = [(what, old) for what, old, now in pairs if now is not None and now != old]
            # A file that was not there before takes nothing back; a changed one does.
            taken_back = [what for what, old in changed if old is not None]
            if taken_back and row.video_id not in mended:
                raise StoreMismatchError(
                    f"clip {row.clip_id!r} is in {self.folder.parent} already, but its "
                    f"{taken_back[0]} (video {row.video_id!r}) has other content now. Restore "
                    "the old file, or start a new store."
                )
            if changed or row.clip_id in stranded:
                new.append(row)
        if not new:
            return 0
        first_part = int(known["part"][-1]) + 1 if len(known) else 0
        row_numbers = np.arange(len(new)) + first_part * self.part_rows
        frame = pl.DataFrame(
            {"row": row_numbers, "part": row_numbers // self.part_rows}
            | {
                name: [getattr(row, name) for row in new]
                for name in CLIP_COLUMNS
                if name not in ("row", "part")
            },
            schema=CLIP_COLUMNS,
        )
        buffer = io.BytesIO()
        frame.write_parquet(buffer)
        name = f"{len(self._file_names()):05d}.parquet"
        try:
            store = LocalStore(self.folder, mkdir=True)
            obstore.put(store, name, buffer.getvalue(), mode="create")
        except AlreadyExistsError:
            # Somebody else appended in this moment: look again, add what is still new.
            return self.append(rows, failed=failed, stranded=stranded)
        return len(new)

    def _file_names(self) -> list[str]:
        names = sorted(path.name for path in self.folder.glob("*.parquet"))
        if names != [f"{number:05d}.parquet" for number in range(len(names))]:
            raise StoreError(
                f"{self.folder} has a gap in its files: {names}. Restore it from a copy."
            )
        return names

    def _read_file(self, name: str) -> pl.DataFrame:
        path = self.folder / name
        try:
            frame = pl.read_parquet(path)
        except (pl.exceptions.PolarsError, OSError) as error:
            raise StoreError(f"{path} cannot be read ({error}). Restore it from a copy.") from error
        if dict(frame.schema) != CLIP_COLUMNS:
            raise StoreError(f"{path} has other columns than a store's clips file.")
        return frame
