"""Puts right what `verify` found, as far as a store can without its teacher."""

from egoctl.pipeline.errors import StoreError
from egoctl.pipeline.files.place import Place
from egoctl.pipeline.sharing.verify import Fault, Verification, header_at, is_readable
from egoctl.pipeline.store import FeatureStore
from egoctl.pipeline.store.clip_table import Part
from egoctl.pipeline.store.clips_file import COPY, copied, copy_of
from egoctl.pipeline.store.column_stats import ColumnStats, stats_bytes
from egoctl.pipeline.store.header import BYTES
from egoctl.pipeline.store.receipt import Shard, receipt_name, stats_name
from egoctl.pipeline.store.shard_bytes import decoded
from egoctl.pipeline.store.zarr_files import metadata_files


def repair(found: Verification) -> list[str]:
    """Restore what can be restored; a line for each thing that was done.

    Raises:
        StoreError: if a file is damaged that nothing else in the store can restore.
    """
    place = Place(found.url)
    header, _ = header_at(place)
    store = FeatureStore(place, header)
    done = []
    for fault in found.faults:
        if fault.file == "store.json":
            place.put("store.json", header.to_json())
            done.append("store.json was restored from the arrays' metadata")
        elif fault.file.startswith("clips/"):
            done.append(_restore_clips(place, fault))
    for name, content in metadata_files(header, store.num_rows()).items():
        if any(fault.file == f"arrays/{name}" for fault in found.faults):
            (place / "arrays").put(name, content)
            done.append(f"arrays/{name} was written anew")
    damaged = {f.part for f in found.faults if f.part is not None and not f.is_undone}
    parts = {part.number: part for part in store.parts()}
    for number in sorted(damaged):
        if not _restore_statistics(store, parts[number]):
            place.delete(receipt_name(number))
            done.append(f"part {number} no longer counts: extract-teacher will do it again")
        else:
            done.append(f"{stats_name(number)} was computed anew")
    return done


def _restore_clips(place: Place, fault: Fault) -> str:
    name = fault.file.removesuffix(COPY)
    content, copy = place.read(name), copied(place.read(name + COPY))
    if copy is not None:
        place.put(name, copy)
        return f"{name} was restored from its copy"
    if content is not None and is_readable(content):
        place.put(name + COPY, copy_of(content))
        return f"{name}{COPY} was written anew"
    raise StoreError(f"{place.url}/{name} and its copy are both lost. Restore a backup.")


def _restore_statistics(store: FeatureStore, part: Part) -> bool:
    """Write the part's statistics anew if they alone are damaged; whether that was all."""
    try:
        receipt = store.receipt(part.number)
    except StoreError:
        return False
    if receipt is None or not store.belongs(receipt, part):
        return False
    stats = {}
    for spec in store.header.arrays:
        content = store.place.read(spec.shard_name(part.number))
        if content is None or Shard.of(content) != receipt.shards[spec.name]:
            return False
        if spec.dtype != BYTES:
            values_n = decoded(
                content, spec, store.header.part_rows, part.num_rows, spec.shard_name(part.number)
            )
            stats[spec.name] = ColumnStats.of(values_n)
    text = stats_bytes(stats)
    if Shard.of(text) != receipt.statistics:
        return False
    store.place.put(stats_name(part.number), text)
    return True
