"""Reads the shards that zarr wrote, straight into one array.

A shard is its chunks one after another, each with a crc32c, and an index of (offset, length) pairs
with a crc32c of its own at the end (Zarr's sharding_indexed codec, version 1). Numbers lie in a
chunk as they do in memory; byte strings are a count, and then a length and the bytes of each (its
vlen-bytes codec). Every checksum that is passed is compared.
"""

# n rows of a part

import math
import os
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import google_crc32c
import numpy as np
from numpy.typing import NDArray

from egoctl.pipeline.errors import StoreError
from egoctl.pipeline.store.header import BYTES, ArraySpec

CRC_BYTES = 4
INDEX_ENTRY_BYTES = 16
NO_CHUNK = 2**64 - 1
MAX_FRAME_BYTES = 64 << 20
MAX_BUFFERS = os.sysconf("SC_IOV_MAX")
"""That one read may fill."""


def empty(spec: ArraySpec, num_rows: int) -> NDArray[Any]:
    """An array for rows to be read into."""
    shape = (num_rows, *spec.row_shape)
    return np.empty(shape, dtype=object if spec.dtype == BYTES else spec.dtype)


def max_shard_bytes(spec: ArraySpec, part_rows: int) -> int:
    """More than this is no shard of such an array."""
    num_chunks = part_rows // spec.chunk_rows
    overhead = num_chunks * (CRC_BYTES + INDEX_ENTRY_BYTES) + CRC_BYTES
    if spec.dtype == BYTES:
        return min(part_rows * math.prod(spec.row_shape) * MAX_FRAME_BYTES, 64 << 30)
    return part_rows * spec.row_bytes + overhead


def read_whole(path: Path, spec: ArraySpec, part_rows: int, out_n: NDArray[Any]) -> bool:
    """Fill out_n with the first rows of a shard, without a copy; False: it is not laid out plainly.

    Plain are shards of numbers whose chunks lie in order, as zarr writes them.
    """
    if spec.dtype == BYTES or len(out_n) == 0:
        return False
    num_chunks = part_rows // spec.chunk_rows
    num_stored = -(-len(out_n) // spec.chunk_rows)
    chunk_bytes = spec.chunk_rows * spec.row_bytes
    step = chunk_bytes + CRC_BYTES
    if len(out_n) != num_stored * spec.chunk_rows:
        return False
    raw = out_n.reshape(-1).view(np.uint8)
    crcs = bytearray(num_stored * CRC_BYTES)
    index = bytearray(num_chunks * INDEX_ENTRY_BYTES + CRC_BYTES)
    buffers: list[Any] = []
    for chunk in range(num_stored):
        buffers.append(raw[chunk * chunk_bytes : (chunk + 1) * chunk_bytes])
        buffers.append(memoryview(crcs)[chunk * CRC_BYTES : (chunk + 1) * CRC_BYTES])
    buffers.append(index)
    wanted_bytes = num_stored * step + len(index)
    if len(buffers) > MAX_BUFFERS:
        return False
    # Not as a file object: that takes as long to make as a small shard to read.
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        if os.fstat(descriptor).st_size != wanted_bytes:
            return False
        if os.readv(descriptor, buffers) != wanted_bytes:
            return False
    finally:
        os.close(descriptor)
    stored = [(chunk * step, step) for chunk in range(num_stored)]
    stored += [(NO_CHUNK, NO_CHUNK)] * (num_chunks - num_stored)
    if _index(bytes(index), str(path)) != stored:
        return False
    for chunk in range(num_stored):
        _check_crc(
            raw[chunk * chunk_bytes : (chunk + 1) * chunk_bytes],
            crcs[chunk * CRC_BYTES : (chunk + 1) * CRC_BYTES],
            f"{path}, chunk {chunk}",
        )
    return True


def decoded(
    content: bytes,
    spec: ArraySpec,
    part_rows: int,
    num_rows: int,
    where: str,
    *,
    checks_crc: bool = True,
) -> NDArray[Any]:
    """(num_rows, ...) the first rows of a shard; without checks_crc also of one that was changed.

    Raises:
        StoreError: if it is no such shard, or a checksum differs.
    """

    def fetch(offset: int, length: int) -> bytes:
        return content[offset : offset + length]

    shard = _Shard(fetch, len(content), spec, part_rows, where, checks_crc)
    return shard.rows(np.arange(num_rows))


def read_some(
    path: Path, spec: ArraySpec, part_rows: int, index_n: NDArray[np.int64]
) -> NDArray[Any]:
    """(n, ...) some rows of a shard, in the order given; only their chunks are read.

    Raises:
        StoreError: as `decoded`.
    """
    with path.open("rb", buffering=0) as file:
        descriptor = file.fileno()

        def fetch(offset: int, length: int) -> bytes:
            return os.pread(descriptor, length, offset)

        num_bytes = os.fstat(descriptor).st_size
        return _Shard(fetch, num_bytes, spec, part_rows, str(path), True).rows(index_n)


class _Shard:
    """A shard whose bytes are fetched as they are needed."""

    def __init__(
        self,
        fetch: Callable[[int, int], bytes],
        num_bytes: int,
        spec: ArraySpec,
        part_rows: int,
        where: str,
        checks_crc: bool,
    ) -> None:
        self._fetch = fetch
        self._spec = spec
        self._where = where
        self._checks_crc = checks_crc
        index_bytes = part_rows // spec.chunk_rows * INDEX_ENTRY_BYTES + CRC_BYTES
        self._body_bytes = num_bytes - index_bytes
        limit = max_shard_bytes(spec, part_rows)
        if num_bytes > limit:
            raise StoreError(
                f"{where} has {num_bytes:,} bytes; a shard of it has {limit:,} at most."
            )
        if self._body_bytes < 0:
            raise StoreError(f"{where} has {num_bytes} bytes: too few for a shard.")
        self._index = _index(fetch(self._body_bytes, index_bytes), where)

    def rows(self, index_n: NDArray[np.int64]) -> NDArray[Any]:
        out = empty(self._spec, len(index_n))
        chunk_n = index_n // self._spec.chunk_rows
        for chunk in np.unique(chunk_n).tolist():
            here = np.flatnonzero(chunk_n == chunk)
            out[here] = self._chunk_rows(chunk, index_n[here] - chunk * self._spec.chunk_rows)
        return out

    def _chunk_rows(self, chunk: int, row_n: NDArray[np.int64]) -> Any:
        offset, length = self._index[chunk]
        if (offset, length) == (NO_CHUNK, NO_CHUNK):
            return b"" if self._spec.dtype == BYTES else np.nan
        is_bytes = self._spec.dtype == BYTES
        wanted = None if is_bytes else self._spec.chunk_rows * self._spec.row_bytes + CRC_BYTES
        if wanted not in (None, length):
            raise StoreError(f"{self._where}, chunk {chunk} has {length} bytes, not {wanted}.")
        if length < CRC_BYTES or offset + length > self._body_bytes:
            raise StoreError(f"{self._where}, chunk {chunk}: its index points outside the shard.")
        content, where = self._fetch(offset, length), f"{self._where}, chunk {chunk}"
        body = memoryview(content)[:-CRC_BYTES]
        if self._checks_crc:
            _check_crc(body, content[-CRC_BYTES:], where)
        if is_bytes:
            return _byte_rows(body, self._spec, row_n, where)
        little_endian = np.dtype(self._spec.dtype).newbyteorder("<")
        shape = (self._spec.chunk_rows, *self._spec.row_shape)
        return np.frombuffer(body, dtype=little_endian).reshape(shape)[row_n]


def _byte_rows(
    body: memoryview, spec: ArraySpec, row_n: NDArray[np.int64], where: str
) -> NDArray[Any]:
    per_row = math.prod(spec.row_shape)
    count = spec.chunk_rows * per_row
    if len(body) < 4 or struct.unpack_from("<I", body)[0] != count:
        raise StoreError(f"{where} does not hold {count} byte strings.")
    starts, at = [], 4
    for number in range(count):
        starts.append(at)
        length = struct.unpack_from("<I", body, at)[0] if at + 4 <= len(body) else len(body)
        at += 4 + length
        if at > len(body):
            raise StoreError(f"{where} ends within byte string {number}.")
    starts.append(at)
    items = np.empty(len(row_n) * per_row, dtype=object)
    wanted = (row_n[:, None] * per_row + np.arange(per_row)).ravel()
    for place, number in enumerate(wanted.tolist()):
        items[place] = bytes(body[starts[number] + 4 : starts[number + 1]])
    return items.reshape(len(row_n), *spec.row_shape)


def _index(content: bytes, where: str) -> list[tuple[int, int]]:
    _check_crc(content[:-CRC_BYTES], content[-CRC_BYTES:], f"{where}, index")
    numbers = struct.unpack(f"<{(len(content) - CRC_BYTES) // 8}Q", content[:-CRC_BYTES])
    return list(zip(numbers[::2], numbers[1::2], strict=True))


def _check_crc(body: Any, stored: bytes | bytearray, where: str) -> None:
    # As numpy: the checksum's package takes no view of bytes that may change.
    if google_crc32c.value(np.frombuffer(body, np.uint8)) != int.from_bytes(stored, "little"):
        raise StoreError(
            f"{where}: its checksum differs, so the file was changed. 'egoctl store verify' "
            "names every part at fault."
        )
