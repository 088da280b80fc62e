"""Reads rows of a store, each compared with its receipt: nothing that was changed is passed on.

Training reads with `FeatureStore.read`, which trusts a folder's files. What is copied into another
store, or compared with one, is held against the receipt first: shard by shard and row by row.
"""

# n rows asked for

from collections.abc import Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from egoctl.pipeline.errors import StoreError
from egoctl.pipeline.store import FeatureStore
from egoctl.pipeline.store.header import ArraySpec
from egoctl.pipeline.store.receipt import Receipt, Shard, row_digests
from egoctl.pipeline.store.shard_bytes import decoded, empty, max_shard_bytes


class CheckedParts:
    """The parts of a store that are done at the moment; keeps one shard of each array in memory.

    Threads may share it.
    """

    def __init__(self, store: FeatureStore) -> None:
        self.store = store
        self.parts = {part.number: part for part in store.parts()}
        self.receipts = store.valid_receipts()
        self._kept: dict[str, tuple[int, NDArray[Any]]] = {}
        """The last shard read, by array."""

    def place_of(self, row: int) -> tuple[Receipt, int]:
        """The receipt of a row's part, which must be done, and which of the part's rows it is."""
        number, index = divmod(row, self.store.header.part_rows)
        return self.receipts[number], index

    def read(self, array: str, row_n: NDArray[np.int64]) -> NDArray[Any]:
        """(n, ...) rows of an array, in the order given.

        Raises:
            StoreError: if a shard is missing, or it or a row differs from its receipt.
            ValueError: if the store has no such array.
        """
        spec = self.store.header.array(array)
        if spec is None:
            raise ValueError(f"{self.store.url} has no array {array!r}")
        part_rows = self.store.header.part_rows
        out_n = empty(spec, len(row_n))
        part_of_n = row_n // part_rows
        for number in np.unique(part_of_n).tolist():
            here = part_of_n == number
            out_n[here] = self._shard(spec, number)[row_n[here] - number * part_rows]
        return out_n

    def _shard(self, spec: ArraySpec, number: int) -> NDArray[Any]:
        number_kept, values = self._kept.get(spec.name, (None, None))
        if number_kept == number and values is not None:
            return values
        values = self._checked(spec, number)
        self._kept[spec.name] = (number, values)
        return values

    def _checked(self, spec: ArraySpec, number: int) -> NDArray[Any]:
        header, receipt = self.store.header, self.receipts[number]
        name = spec.shard_name(number)
        limit = max_shard_bytes(spec, header.part_rows)
        content = self.store.place.read(name, max_bytes=limit)
        where = f"{self.store.url}/{name}"
        if content is None or Shard.of(content) != receipt.shards[spec.name]:
            what = "is missing" if content is None else "was changed: its digest differs"
            raise StoreError(
                f"{where} {what}. 'egoctl store verify {self.store.url}' reports more."
            )
        num_rows = self.parts[number].num_rows
        values = decoded(content, spec, header.part_rows, num_rows, where)
        if row_digests(values) != receipt.rows_blake3.get(spec.name):
            raise StoreError(
                f"{where} holds other rows than its receipt has digests of. "
                f"'egoctl store verify {self.store.url} --deep' reports more."
            )
        return values


def joint_seconds(origins: Iterable[tuple[Receipt, int]]) -> dict[str, float]:
    """What computing these rows took: each brings an equal share of its part's time."""
    seconds: dict[str, float] = {}
    for receipt, _ in origins:
        num_rows = len(receipt.outcomes["outcome"])
        for name, spent_s in receipt.seconds.items():
            seconds[name] = seconds.get(name, 0.0) + spent_s / num_rows
    return seconds


def joint_versions(origins: Iterable[tuple[Receipt, int]]) -> dict[str, str]:
    """What these rows were computed with; several versions of a package are listed together."""
    found: dict[str, set[str]] = {}
    for versions in {id(receipt): receipt.versions for receipt, _ in origins}.values():
        for name, version in versions.items():
            found.setdefault(name, set()).update(version.split(", "))
    return {name: ", ".join(sorted(versions)) for name, versions in sorted(found.items())}
