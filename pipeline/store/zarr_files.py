"""The arrays of a store as Zarr v3 files, in memory. The only file that imports zarr.

zarr says what the bytes are, `Place` puts them where they belong: so a shard is whole before any
of it is written, and its digest is known without reading it back. Reading does without zarr
(`shard_bytes`), which took sixteen times as long as reading plain files; `verify --deep` compares
the two.
"""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import zarr
from numpy.typing import NDArray
from zarr.codecs import Crc32cCodec
from zarr.core.dtype import VariableLengthBytes
from zarr.errors import UnstableSpecificationWarning
from zarr.storage import MemoryStore, ObjectStore

from egoctl.pipeline.files.place import Place
from egoctl.pipeline.store.header import BYTES, ArraySpec, StoreHeader


def metadata_files(header: StoreHeader, num_rows: int) -> dict[str, bytes]:
    """The group's and the arrays' metadata, by name below the arrays' folder."""
    files = MemoryStore()
    group = zarr.create_group(files, attributes={"egoctl": header.to_dict()})
    for spec in header.arrays:
        _create(group, spec, header.part_rows, num_rows)
    return _content(files)


def encoded_shard(spec: ArraySpec, part_rows: int, values: NDArray[Any]) -> bytes:
    """The shard of a part whose first rows are values; the others stay fill values."""
    files = MemoryStore()
    array = _create(zarr.create_group(files), spec, part_rows, part_rows)
    # zarr keeps this setting in memory only. Without it, a shard of fill values alone (no clip
    # has an IMU, or every clip failed) is left out.
    array.with_config({"write_empty_chunks": True})[: len(values)] = values
    (shard,) = (content for name, content in _content(files).items() if "/c/" in name)
    return shard


def read_with_zarr(arrays: Place, name: str, first_row: int, num_rows: int) -> NDArray[Any]:
    """Rows of an array, read as any Zarr reader does."""
    array = zarr.open_group(ObjectStore(arrays.bucket), mode="r")[name]
    assert isinstance(array, zarr.Array)
    return np.asarray(array[first_row : first_row + num_rows])


def _create(group: zarr.Group, spec: ArraySpec, part_rows: int, num_rows: int) -> "zarr.Array[Any]":
    is_bytes = spec.dtype == BYTES
    with _byte_arrays_allowed():
        return group.create_array(
            spec.name,
            shape=(num_rows, *spec.row_shape),
            chunks=(spec.chunk_rows, *spec.row_shape),
            shards=(part_rows, *spec.row_shape),
            dtype=VariableLengthBytes() if is_bytes else spec.dtype,
            fill_value=b"" if is_bytes else float("nan"),
            # Features do not compress; by the checksum every Zarr reader notices a flipped bit.
            compressors=[Crc32cCodec()],
            config={"write_empty_chunks": True},
        )


def _content(files: MemoryStore) -> dict[str, bytes]:
    return {name: content.to_bytes() for name, content in files._store_dict.items()}


@contextmanager
def _byte_arrays_allowed() -> Iterator[None]:
    """Writing metadata of a byte-string array makes zarr 3.1 warn, though reading it does not."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UnstableSpecificationWarning)
        yield
