"""The receipt that makes a part count: what was written, what became of every row."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from blake3 import blake3
from numpy.typing import NDArray

from egoctl.pipeline.errors import StoreError
from egoctl.pipeline.records import OK, RowOutcome
from egoctl.pipeline.store.header import StoreHeader, is_list_of_str, parsed

ROW_DIGEST_CHARS = 16
"""Hex digits per row: enough to tell rows apart and find the damaged one; a shard's digest guards
against intent."""
MAX_RECEIPT_BYTES = 512 << 20


@dataclass(frozen=True, kw_only=True, slots=True)
class Shard:
    """One stored object: blake3 of its bytes, and how many there are."""

    blake3: str
    num_bytes: int

    @classmethod
    def of(cls, content: bytes) -> "Shard":
        return cls(blake3=blake3(content).hexdigest(), num_bytes=len(content))


@dataclass(frozen=True, kw_only=True, slots=True)
class Receipt:
    """Proof that a part was written whole."""

    part: int
    fingerprint: str
    clips_blake3: str
    """Digest of what the part's rows are: a receipt belongs to these rows and no others."""
    shards: Mapping[str, Shard]
    """By array name."""
    statistics: Shard
    rows_blake3: Mapping[str, str]
    """By array name: ROW_DIGEST_CHARS hex digits for each row, one after another."""
    outcomes: Mapping[str, tuple[RowOutcome, ...]]
    """'outcome' for every row; inputs stores have 'imu_outcome' too."""
    seconds: Mapping[str, float]
    versions: Mapping[str, str]
    num_reused: int = 0
    """Rows that were copied from another store instead of computed."""

    def row_digest(self, array: str, index: int) -> str:
        """Digest of the part's index-th row."""
        low = index * ROW_DIGEST_CHARS
        return self.rows_blake3[array][low : low + ROW_DIGEST_CHARS]

    def to_json(self) -> bytes:
        found = {
            "part": self.part,
            "fingerprint": self.fingerprint,
            "clips_blake3": self.clips_blake3,
            "shards": {name: _shard_dict(shard) for name, shard in self.shards.items()},
            "statistics": _shard_dict(self.statistics),
            "rows_blake3": dict(self.rows_blake3),
            "outcomes": {
                stream: [row.code if row.reason is None else [row.code, row.reason] for row in rows]
                for stream, rows in self.outcomes.items()
            },
            "seconds": {name: round(value, 3) for name, value in self.seconds.items()},
            "versions": dict(self.versions),
            "num_reused": self.num_reused,
        }
        return json.dumps(found | {"blake3": _digest(found)}, indent=1).encode()

    @classmethod
    def from_json(cls, text: bytes, where: str) -> "Receipt":
        """The receipt in text.

        Raises:
            StoreError: if it is not one, or not as it was written.
        """
        found = parsed(text, where)
        digest = found.pop("blake3", None)
        if digest != _digest(found):
            raise StoreError(f"{where} is not as it was written: its digest differs.")
        try:
            return cls(
                part=int(found["part"]),
                fingerprint=str(found["fingerprint"]),
                clips_blake3=str(found["clips_blake3"]),
                shards={str(name): _shard(shard) for name, shard in found["shards"].items()},
                statistics=_shard(found["statistics"]),
                rows_blake3={str(k): str(v) for k, v in found["rows_blake3"].items()},
                outcomes={
                    str(stream): tuple(_outcome(row) for row in rows)
                    for stream, rows in found["outcomes"].items()
                },
                seconds={str(k): float(v) for k, v in found["seconds"].items()},
                versions={str(k): str(v) for k, v in found["versions"].items()},
                num_reused=int(found["num_reused"]),
            )
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise StoreError(f"{where} is not a receipt ({error!r}).") from error


def receipt_name(number: int) -> str:
    """Name of a part's receipt, below the store."""
    return f"parts/{number:05d}.json"


def stats_name(number: int) -> str:
    """Name of a part's statistics, below the store."""
    return f"stats/{number:05d}.npz"


def files_of(header: StoreHeader, receipt: Receipt) -> dict[str, Shard]:
    """Every file of a part besides its receipt, by name below the store, as it must be."""
    shards = {spec.shard_name(receipt.part): receipt.shards[spec.name] for spec in header.arrays}
    return shards | {stats_name(receipt.part): receipt.statistics}


def row_digests(values: NDArray[Any]) -> str:
    """ROW_DIGEST_CHARS hex digits for each of the rows, one after another."""
    if values.dtype == object:
        return "".join(_digest_of_strings(row) for row in values)
    rows = np.ascontiguousarray(values).reshape(len(values), -1).view(np.uint8)
    return "".join(blake3(row.data).hexdigest()[:ROW_DIGEST_CHARS] for row in rows)


def _digest_of_strings(row: NDArray[Any]) -> str:
    digest = blake3()
    for item in row.ravel():
        digest.update(len(item).to_bytes(8, "little"))
        digest.update(item)
    return digest.hexdigest()[:ROW_DIGEST_CHARS]


def _digest(found: Mapping[str, Any]) -> str:
    return blake3(json.dumps(found, sort_keys=True).encode()).hexdigest()


def _shard_dict(shard: Shard) -> dict[str, Any]:
    return {"blake3": shard.blake3, "bytes": shard.num_bytes}


def _shard(found: Mapping[str, Any]) -> Shard:
    return Shard(blake3=str(found["blake3"]), num_bytes=int(found["bytes"]))


_OK = RowOutcome()


def _outcome(row: object) -> RowOutcome:
    if row == OK:
        return _OK  # one for all: a store has millions
    if isinstance(row, str):
        return RowOutcome(code=row)
    if isinstance(row, Sequence) and len(row) == 2 and is_list_of_str(row):
        return RowOutcome(code=row[0], reason=row[1])
    raise ValueError(f"outcome {row!r}")
