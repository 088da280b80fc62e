"""Whether a store still holds what its receipts say."""

from collections.abc import Iterator

from egoctl.pipeline.clip_table import Part
from egoctl.pipeline.errors import StoreError
from egoctl.pipeline.store import FeatureStore


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
