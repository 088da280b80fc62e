"""Whether a store still holds what its receipts say."""

from collections.abc import Iterator
from dataclasses import dataclass

from egoctl.pipeline.clip_table import Part
from egoctl.pipeline.errors import StoreError
from egoctl.pipeline.store import FeatureStore


@dataclass(frozen=True, kw_only=True, slots=True)
class Fault:
    """A part that is not as its receipt says, and the rows that are hit."""

    part: int
    first_row: int
    num_rows: int
    what: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Verification:
    """Every digest of a store, recomputed."""

    url: str
    num_parts: int
    faults: tuple[Fault, ...]


def verification(store: FeatureStore) -> Verification:
    """What `verify` found, as one record."""
    found = list(verify(store))
    return Verification(
        url=store.url,
        num_parts=len(found),
        faults=tuple(
            Fault(part=part.number, first_row=part.first_row, num_rows=len(part.rows), what=what)
            for part, what in found
            if what is not None
        ),
    )


def verification_lines(found: Verification) -> Iterator[str]:
    """The verification for people."""
    for fault in found.faults:
        last_row = fault.first_row + fault.num_rows - 1
        yield f"part {fault.part} (rows {fault.first_row} to {last_row}): {fault.what}"
    if found.faults:
        yield (
            f"{len(found.faults)} of {found.num_parts} parts are damaged or not done. Delete the "
            f"receipts of damaged ones ({found.url}/parts/NNNNN.json) and run extract-teacher "
            "again: it redoes those parts."
        )
    else:
        yield f"{found.url}: all {found.num_parts} parts are as they were written."


def verify(store: FeatureStore) -> Iterator[tuple[Part, str | None]]:
    """Every part with what is wrong with it (None: nothing); all digests are recomputed."""
    for part in store.parts():
        yield part, _fault_of(store, part)


def _fault_of(store: FeatureStore, part: Part) -> str | None:
    try:
        receipt = store.receipt(part.number)
    except StoreError as error:
        return str(error)
    if receipt is None:
        return "not done: it has no receipt"
    if not store.belongs(receipt, part):
        return "its receipt belongs to another recipe, other rows or other arrays"
    for name, wanted in receipt.shards.items():
        found = store.shard(name, part.number)
        if found is None:
            return f"the shard of {name!r} is missing"
        if found.num_bytes != wanted.num_bytes:
            return f"the shard of {name!r} has {found.num_bytes} bytes, not {wanted.num_bytes}"
        if found != wanted:
            return f"the shard of {name!r} was changed: its digest differs"
    return None
