"""One parquet file of a store's rows: its columns, what it may hold, and its second copy."""

import io
from typing import TYPE_CHECKING

from blake3 import blake3

from egoctl.pipeline.errors import StoreError

if TYPE_CHECKING:
    import polars as pl  # slow to import; a program that names a store may never read one

CLIP_COLUMNS = {
    "row": "Int64",
    "part": "Int64",
    "clip_id": "String",
    "segment_id": "String",
    "video_id": "String",
    "start_s": "Float64",
    "stop_s": "Float64",
    "clip_key": "String",
    "imu_key": "String",
}
"""The polars type of every column, by name."""
REQUIRED = ["row", "part", "clip_id", "segment_id", "video_id", "start_s", "stop_s"]
MAX_CLIPS_FILE_BYTES = 4 << 30
DIGEST_BYTES = 32
MAX_ROWS_OF_A_FILE = 1 << 28
MAX_UNPACKED_BYTES = 64 << 30
COPY = ".copy"
"""End of the name of a clips file's second copy: its blake3, then its bytes. Nothing else in a
store could restore a clips file, or show which of two that differ was changed."""


def clips_schema() -> "pl.Schema":
    """The columns of a clips file, as polars has them."""
    import polars as pl

    return pl.Schema({name: getattr(pl, kind)() for name, kind in CLIP_COLUMNS.items()})


def copy_of(content: bytes) -> bytes:
    """What the copy of a clips file holds; `copied` takes it back."""
    return blake3(content).digest() + content


def copied(copy: bytes | None) -> bytes | None:
    """The content that a copy holds; None if there is no copy, or it was changed."""
    if copy is None or blake3(copy[DIGEST_BYTES:]).digest() != copy[:DIGEST_BYTES]:
        return None
    return copy[DIGEST_BYTES:]


def clips_in(content: bytes, where: str) -> "pl.DataFrame":
    """The rows of a clips file.

    Raises:
        StoreError: if it is none, or would unpack to absurdly much.
    """
    import polars as pl
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        meta = pq.read_metadata(io.BytesIO(content))
        unpacked = sum(meta.row_group(n).total_byte_size for n in range(meta.num_row_groups))
        if meta.num_rows > MAX_ROWS_OF_A_FILE or unpacked > MAX_UNPACKED_BYTES:
            raise StoreError(
                f"{where} claims {meta.num_rows:,} rows and {unpacked:,} bytes: more than any "
                "clips file has. It was not read."
            )
        frame = pl.read_parquet(io.BytesIO(content))
    except (pl.exceptions.PolarsError, pa.ArrowException, OSError, ValueError) as error:
        first = str(error).splitlines()[0] if str(error) else repr(error)
        raise StoreError(
            f"{where} cannot be read ({first}). 'egoctl store verify --repair' restores it from "
            "its copy."
        ) from error
    if frame.schema != clips_schema():
        raise StoreError(f"{where} has other columns than a store's clips file.")
    is_null = frame.select(pl.col(*REQUIRED).is_null().any()).row(0)
    if any(is_null):
        raise StoreError(f"{where} has rows without a value in {REQUIRED}.")
    return frame
