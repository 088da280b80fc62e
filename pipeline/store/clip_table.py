"""What each row of a store is: the parquet files under clips/, and the parts they form."""

import io
import threading
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from typing import TYPE_CHECKING

import numpy as np
from blake3 import blake3

from egoctl.pipeline.errors import StoreError, StoreMismatchError
from egoctl.pipeline.files.place import Place
from egoctl.pipeline.store.clips_file import (
    CLIP_COLUMNS,
    COPY,
    MAX_CLIPS_FILE_BYTES,
    clips_in,
    clips_schema,
    copy_of,
)

if TYPE_CHECKING:
    import polars as pl  # slow to import; a program that names a store may never read one


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


@dataclass(frozen=True, kw_only=True, eq=False)
class Part:
    """Consecutive rows that fill one shard of each array: the unit of work and of atomicity."""

    number: int
    first_row: int
    clips: "pl.DataFrame"
    """Its rows of the clip table."""
    digest: Callable[[], str]
    """Gives `clips_blake3`; made for all parts at once, and only when somebody asks."""

    @property
    def num_rows(self) -> int:
        return len(self.clips)

    @cached_property
    def clip_ids(self) -> tuple[str, ...]:
        return tuple(self.clips["clip_id"])

    @property
    def rows(self) -> tuple[StoreRow, ...]:
        """What its rows are, as records. Slow for many: `clips` has the same."""
        columns = self.clips.select(ROW_FIELDS).to_dict(as_series=False)
        return tuple(
            StoreRow(**dict(zip(columns, values, strict=True)))
            for values in zip(*columns.values(), strict=True)
        )

    @property
    def clips_blake3(self) -> str:
        """Digest of everything that the table has on these rows."""
        return self.digest()

    def is_within(self, clip_ids: Collection[str]) -> bool:
        """Whether all its rows are about these clips."""
        return all(clip_id in clip_ids for clip_id in self.clip_ids)


def texts_of(clips: "pl.DataFrame") -> list[str]:
    """Everything that the table has on each row, as one line; times in whole microseconds."""
    import polars as pl

    micros = ((pl.col(name) * 1e6).round().cast(pl.Int64) for name in ("start_s", "stop_s"))
    keys = (pl.col(name).fill_null("") for name in ("clip_key", "imu_key"))
    row = pl.concat_str("clip_id", "segment_id", "video_id", *micros, *keys, separator="\x1f")
    return clips.select(row).to_series().to_list()


def parts_of(clips: "pl.DataFrame") -> list[Part]:
    """The parts that the rows of a table form, in order."""
    numbers, rows = clips["part"].to_numpy(), clips["row"].to_numpy()
    edges = [0, *(np.flatnonzero(np.diff(numbers)) + 1).tolist(), len(clips)]
    spans = [(low, high) for low, high in zip(edges, edges[1:], strict=False) if low < high]
    digests: list[str] = []
    lock = threading.Lock()  # threads that read receipts ask for them, many at once

    def digest(index: int) -> str:
        with lock:
            for at in range(len(digests), len(spans), PARTS_AT_ONCE):
                some = spans[at : at + PARTS_AT_ONCE]
                first = some[0][0]
                texts = texts_of(clips[first : some[-1][1]])
                for low, high in some:
                    text = "\n".join(texts[low - first : high - first])
                    digests.append(blake3(text.encode()).hexdigest())
            return digests[index]

    return [
        Part(
            number=int(numbers[low]),
            first_row=int(rows[low]),
            clips=clips[low:high],
            digest=partial(digest, index),
        )
        for index, (low, high) in enumerate(spans)
    ]


PARTS_AT_ONCE = 64
"""Parts whose rows are written out as text together: fewer take longer, more take memory."""
ROW_FIELDS = [name for name in CLIP_COLUMNS if name not in ("row", "part")]


def clip_key(video_digest: str, start_s: float, stop_s: float) -> str:
    """The same for the same span of the same video content, in any store."""
    return blake3(f"{video_digest} {start_s:.6f} {stop_s:.6f}".encode()).hexdigest()


def clips_frame(rows: Sequence[StoreRow], *, first_part: int, part_rows: int) -> "pl.DataFrame":
    """The rows as a table, numbered from the first row of a part."""
    import polars as pl

    row_numbers = np.arange(len(rows)) + first_part * part_rows
    return pl.DataFrame(
        {"row": row_numbers, "part": row_numbers // part_rows}
        | {name: [getattr(row, name) for row in rows] for name in ROW_FIELDS},
        schema=clips_schema(),
    )


class ClipTable:
    """Append-only rows: every append is one more parquet file, and starts a new part."""

    def __init__(self, place: Place, part_rows: int) -> None:
        self.place = place
        self.part_rows = part_rows
        self._read: dict[str, pl.DataFrame] = {}
        """Files never change, so each is read once."""
        self._parts: tuple[int, list[Part]] | None = None
        """How many files there were, and the parts they form."""

    def read(self) -> "pl.DataFrame":
        """All rows with the columns of CLIP_COLUMNS, in order.

        Raises:
            StoreError: if a file is missing or damaged.
        """
        return self._rows_of(self.file_names())

    def _rows_of(self, names: Sequence[str]) -> "pl.DataFrame":
        import polars as pl

        frames = [self._file(name) for name in names]
        clips = pl.concat(frames) if frames else pl.DataFrame(schema=clips_schema())
        if (clips["row"].diff(null_behavior="drop") <= 0).any():
            raise StoreError(f"{self.place.url}: rows are not numbered in order. Restore a copy.")
        return clips

    def num_rows(self) -> int:
        """One past the last row."""
        row = self.read()["row"]
        return int(row[-1]) + 1 if len(row) else 0

    def parts(self) -> list[Part]:
        """Every part, in order."""
        num_files = len(self.file_names())
        if self._parts is None or self._parts[0] != num_files:
            self._parts = (num_files, parts_of(self.read()))
        return self._parts[1]

    def append(
        self,
        rows: Sequence[StoreRow],
        *,
        failed: Collection[str] = (),
        stranded: Collection[str] = (),
    ) -> int | None:
        """Add the rows whose clip_id is new; how many were added. None: somebody was faster.

        Where a clip of a video is in failed and that video's files have changed since, or a file
        has come that was not there, its clips are added once more: rows never change, the last
        row of a clip_id is the one that counts. So are clips in stranded: their part is not done
        and never will be, as it also has clips that the manifest no longer names.

        Raises:
            StoreMismatchError: if a video without a failed clip now has other content.
        """
        self._mend_copies()
        # Listed once: the new rows must be numbered on from the very files that they follow.
        names = self.file_names()
        known = self._rows_of(names)
        new = self._new(rows, known, failed, stranded)
        if not new:
            return 0
        first_part = int(known["part"][-1]) + 1 if len(known) else 0
        frame = clips_frame(new, first_part=first_part, part_rows=self.part_rows)
        return len(new) if self.add_file(frame, number=len(names)) else None

    def add_rows(self, frame: "pl.DataFrame") -> bool:
        """Add these rows as they are numbered; False: they do not follow those that are there."""
        names = self.file_names()
        known = self._rows_of(names)
        is_next = not len(known) or int(frame["part"][0]) > int(known["part"][-1])
        return is_next and self.add_file(frame, number=len(names))

    def add_file(self, frame: "pl.DataFrame", *, number: int) -> bool:
        """Add these rows as they are numbered, as the number-th file; False: there is one."""
        buffer = io.BytesIO()
        frame.write_parquet(buffer)
        name = f"{number:05d}.parquet"
        if not self.place.create(name, buffer.getvalue()):
            return False
        self.place.put(name + COPY, copy_of(buffer.getvalue()))
        return True

    def _mend_copies(self) -> None:
        """Write the copy of a file whose writer died before it."""
        names = {info.name for info in self.place.list()}
        for name in sorted(name for name in names if name.endswith(".parquet")):
            if name + COPY not in names and (content := self.place.read(name)) is not None:
                self.place.put(name + COPY, copy_of(content))

    def _new(
        self,
        rows: Sequence[StoreRow],
        known: "pl.DataFrame",
        failed: Collection[str],
        stranded: Collection[str],
    ) -> list[StoreRow]:
        facts = known.select("start_s", "stop_s", "clip_key", "imu_key").iter_rows()
        facts_of = dict(zip(known["clip_id"], facts, strict=True))
        mended = {row.video_id for row in rows if row.clip_id in failed}
        new = []
        for row in rows:
            if row.clip_id not in facts_of:
                new.append(row)
            elif self._is_changed(row, facts_of[row.clip_id], is_mended=row.video_id in mended):
                new.append(row)
            elif row.clip_id in stranded:
                new.append(row)
        return new

    def _is_changed(
        self, row: StoreRow, facts: tuple[float, float, str | None, str | None], *, is_mended: bool
    ) -> bool:
        start_s, stop_s, old_clip, old_imu = facts
        if (start_s, stop_s) != (row.start_s, row.stop_s):
            raise StoreMismatchError(
                f"clip {row.clip_id!r} is [{start_s}, {stop_s}) s in {self.place.url}, but "
                f"[{row.start_s}, {row.stop_s}) s now. Give that segment another segment_id, "
                "or start a new store."
            )
        pairs = (("video", old_clip, row.clip_key), ("IMU file", old_imu, row.imu_key))
        changed = [(what, old) for what, old, now in pairs if now is not None and now != old]
        # A file that was not there before takes nothing back; a changed one does.
        taken_back = [what for what, old in changed if old is not None]
        if taken_back and not is_mended:
            raise StoreMismatchError(
                f"clip {row.clip_id!r} is in {self.place.url} already, but its "
                f"{taken_back[0]} (video {row.video_id!r}) has other content now. Restore "
                "the old file, or start a new store."
            )
        return bool(changed)

    def file_names(self) -> list[str]:
        """Names of the table's files, in order.

        Raises:
            StoreError: if one is missing.
        """
        names = [info.name for info in self.place.list() if info.name.endswith(".parquet")]
        if names != [f"{number:05d}.parquet" for number in range(len(names))]:
            raise StoreError(
                f"{self.place.url} has a gap in its files: {names}. "
                "'egoctl store verify --repair' restores them from their copies."
            )
        return names

    def _file(self, name: str) -> "pl.DataFrame":
        if name not in self._read:
            content = self.place.read(name, max_bytes=MAX_CLIPS_FILE_BYTES)
            where = f"{self.place.url}/{name}"
            if content is None:
                raise StoreError(f"{where} is missing. Restore it from a copy.")
            self._read[name] = clips_in(content, where)
        return self._read[name]
