"""Shards read without zarr are what zarr reads, and damage in them is told."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from egoctl.pipeline.errors import StoreError
from egoctl.pipeline.store.header import BYTES, ArraySpec
from egoctl.pipeline.store.shard_bytes import decoded, empty, max_shard_bytes, read_some, read_whole
from egoctl.pipeline.store.zarr_files import encoded_shard


def numbers(dtype="float16", row_shape=(3,), chunk_rows=4):
    return ArraySpec(name="feature", dtype=dtype, row_shape=row_shape, chunk_rows=chunk_rows)


FRAMES = ArraySpec(name="frames", dtype=BYTES, row_shape=(2,), chunk_rows=4)


@settings(max_examples=30, deadline=None)
@given(
    num_rows=st.integers(1, 12),
    dtype=st.sampled_from(["float16", "float32", "float64"]),
    row_shape=st.sampled_from([(3,), (5, 6), (1,), (2, 1, 3)]),
    chunk_rows=st.sampled_from([1, 3, 4, 12]),
)
def test_numbers_come_back_bit_by_bit(num_rows, dtype, row_shape, chunk_rows):
    spec = numbers(dtype, row_shape, chunk_rows)
    values = np.random.default_rng(num_rows).normal(size=(num_rows, *row_shape)).astype(dtype)
    values.flat[0] = np.nan

    shard = encoded_shard(spec, 12, values)

    found = decoded(shard, spec, 12, num_rows, "here")
    assert found.dtype == dtype
    np.testing.assert_array_equal(found, values)
    assert len(shard) <= max_shard_bytes(spec, 12)


@settings(max_examples=20, deadline=None)
@given(
    rows=st.lists(st.tuples(st.binary(max_size=40), st.binary(max_size=9)), min_size=1, max_size=12)
)
def test_byte_strings_come_back(rows):
    values = np.empty((len(rows), 2), dtype=object)
    for index, row in enumerate(rows):
        values[index] = row

    shard = encoded_shard(FRAMES, 12, values)

    assert decoded(shard, FRAMES, 12, len(rows), "here").tolist() == [list(row) for row in rows]


@pytest.mark.parametrize("num_rows", [12, 8])
def test_whole_shards_are_read_straight_into_place(tmp_path: Path, num_rows):
    spec = numbers()
    values = np.random.default_rng(0).normal(size=(num_rows, 3)).astype(np.float16)
    path = tmp_path / "0"
    path.write_bytes(encoded_shard(spec, 12, values))
    out = empty(spec, num_rows + 2)
    out.fill(7)

    assert read_whole(path, spec, 12, out[1:-1])

    np.testing.assert_array_equal(out[1:-1], values)
    assert (out[[0, -1]] == 7).all()


def test_rows_that_end_within_a_chunk_are_left_to_the_slower_way(tmp_path: Path):
    spec = numbers()
    path = tmp_path / "0"
    path.write_bytes(encoded_shard(spec, 12, np.zeros((6, 3), np.float16)))

    assert not read_whole(path, spec, 12, empty(spec, 6))


@pytest.mark.parametrize("index", [[0], [11, 3, 3], [5, 4, 0, 8], []])
def test_some_rows_are_read_from_their_chunks_alone(tmp_path: Path, index):
    values = np.random.default_rng(0).normal(size=(12, 3)).astype(np.float16)
    frames = np.empty((12, 2), dtype=object)
    frames[:] = [[bytes([row]) * row, b"x" * row] for row in range(12)]
    wanted = np.array(index, dtype=np.int64)
    for spec, whole in ((numbers(), values), (FRAMES, frames)):
        path = tmp_path / spec.name
        path.write_bytes(encoded_shard(spec, 12, whole))

        assert read_some(path, spec, 12, wanted).tolist() == whole[wanted].tolist()


def test_every_flipped_bit_of_a_shard_of_numbers_is_found(tmp_path: Path):
    spec = numbers(chunk_rows=2)
    values = np.random.default_rng(0).normal(size=(4, 3)).astype(np.float16)
    shard = encoded_shard(spec, 4, values)
    path = tmp_path / "0"

    for bit in range(8 * len(shard)):
        broken = bytearray(shard)
        broken[bit // 8] ^= 1 << bit % 8
        with pytest.raises(StoreError, match="here"):
            decoded(bytes(broken), spec, 4, 4, "here")
        path.write_bytes(broken)
        with pytest.raises(StoreError):
            read_whole(path, spec, 4, empty(spec, 4))


@pytest.mark.parametrize("cut", [0, 3, 40, 100])
def test_a_shard_that_was_cut_off_is_refused(cut):
    shard = encoded_shard(FRAMES, 12, np.full((12, 2), b"abc", dtype=object))

    with pytest.raises(StoreError):
        decoded(shard[:cut], FRAMES, 12, 12, "here")
