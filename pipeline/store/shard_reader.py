"""Reads rows of a store's arrays in bulk: whole shards, straight into one array."""

# n rows asked for

import os
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from egoctl.pipeline.errors import StoreError
from egoctl.pipeline.files.cache import cached_content
from egoctl.pipeline.files.place import Place
from egoctl.pipeline.store.clip_table import Part
from egoctl.pipeline.store.header import ArraySpec
from egoctl.pipeline.store.receipt import Receipt
from egoctl.pipeline.store.shard_bytes import empty, read_some, read_whole

NUM_FETCHERS = 16
"""Files of a bucket that are fetched at the same time: each answer takes some 20 ms to begin."""
PARTS_OF_A_TASK = 32
"""Parts of a folder that one task of a thread reads."""


def read_rows(
    place: Place,
    spec: ArraySpec,
    part_rows: int,
    row_n: NDArray[np.int64],
    parts: Sequence[Part],
    receipts: Mapping[int, Receipt],
) -> NDArray[Any]:
    """(n, ...) the given rows of an array, in the order given; each shard is read once.

    Shards of a bucket are kept in the node's cache; receipts have the digests of their bytes.

    Raises:
        StoreError: if there are no such rows, or a file is missing or was changed.
    """
    out = empty(spec, len(row_n))
    if not len(row_n):
        return out
    by_number = {part.number: part for part in parts}
    # Rows usually come in order: then those of a part are one slice, and need no search.
    is_rising = bool((np.diff(row_n) > 0).all())
    part_of_n = row_n // part_rows
    edges = np.flatnonzero(np.diff(part_of_n, prepend=-2, append=-2)).tolist()
    numbers = (part_of_n[edges[:-1]] if is_rising else np.unique(part_of_n)).tolist()

    def fill(at: int) -> None:
        number = numbers[at]
        here = slice(edges[at], edges[at + 1]) if is_rising else part_of_n == number
        index_n = row_n[here] - number * part_rows
        part = by_number.get(number)
        first, last = (index_n[0], index_n[-1]) if is_rising else (index_n.min(), index_n.max())
        if part is None or not 0 <= first <= last < part.num_rows:
            raise StoreError(f"{place.url} has no rows {row_n[here].min()} to {row_n[here].max()}.")
        path = _local_shard(place, spec, number, receipts)
        try:
            if is_rising and len(index_n) == part.num_rows:
                if read_whole(path, spec, part_rows, out[here]):
                    return
            out[here] = read_some(path, spec, part_rows, index_n)
        except FileNotFoundError as error:
            raise StoreError(
                f"{path} is missing. 'egoctl store verify {place.url}' reports more."
            ) from error

    def fill_some(places: range) -> None:
        for at in places:
            fill(at)

    # A task for some parts: where a part takes microseconds, handing it out takes as long.
    is_local = place.path is not None
    num_threads = len(os.sched_getaffinity(0)) if is_local else NUM_FETCHERS
    size = PARTS_OF_A_TASK if is_local else 1
    tasks = [range(low, min(low + size, len(numbers))) for low in range(0, len(numbers), size)]
    with ThreadPoolExecutor(num_threads) as pool:
        for _ in pool.map(fill_some, tasks):
            pass  # the first error is raised here
    return out


def _local_shard(
    place: Place, spec: ArraySpec, number: int, receipts: Mapping[int, Receipt]
) -> Path:
    name = spec.shard_name(number)
    if place.path is None:
        if number not in receipts:
            raise StoreError(f"{place.url}: part {number} is not done, or was damaged.")
        shard = receipts[number].shards[spec.name]
        return cached_content(place, name, shard.blake3, shard.num_bytes)
    return place.path / name
