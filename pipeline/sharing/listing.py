"""The stores in a folder or a bucket, each in a line; little of each is read."""

import io
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import obstore
from obstore.exceptions import BaseError

from egoctl.pipeline.errors import StoreError
from egoctl.pipeline.files.bucket import first_cause
from egoctl.pipeline.files.place import FileInfo, Place
from egoctl.pipeline.store import FeatureStore
from egoctl.pipeline.store.receipt import receipt_name

NUM_THREADS = 8
FOOTER_BYTES = 1 << 20
"""The end of a clips file, with the number of its rows: enough for tens of millions."""


@dataclass(frozen=True, kw_only=True, slots=True)
class StoreEntry:
    """A store in short, or why it cannot be read."""

    url: str
    kind: str = ""
    made_by: str = ""
    """The teacher, or what frames an inputs store has."""
    fingerprint: str = ""
    num_rows: int = 0
    num_parts_done: int = 0
    """Those with a receipt; `store info` also looks whether their files are there."""
    num_parts: int = 0
    num_bytes: int = 0
    problem: str | None = None


def entry_lines(entries: Sequence[StoreEntry]) -> Iterator[str]:
    """The entries for people."""
    for entry in entries:
        if entry.problem is not None:
            yield f"{entry.url}: {entry.problem}"
            continue
        yield (
            f"{entry.url}: {entry.kind}, {entry.made_by}, {entry.fingerprint}, "
            f"{entry.num_rows} rows, {entry.num_parts_done}/{entry.num_parts} parts, "
            f"{entry.num_bytes / 1e6:.1f} MB"
        )
    yield f"{len(entries)} stores."


def list_stores(urls: Sequence[str]) -> list[StoreEntry]:
    """Every store at these places and below, in the order of their names.

    Raises:
        StoreError: if a place is not there or cannot be listed.
    """
    found = [entry for url in urls for entry in _found(Place(url))]
    with ThreadPoolExecutor(NUM_THREADS) as pool:
        return list(pool.map(_filled, found))


def _found(place: Place) -> list[StoreEntry]:
    """The stores' URLs, and folders that cannot be read; what is inside stores is not looked at."""
    if place.path is None:
        return [StoreEntry(url=url) for url in _in_bucket(place)]
    if not place.path.is_dir():
        raise StoreError(f"no folder {place.path}. Check the path.")
    closed: list[StoreEntry] = []

    def remember(error: OSError) -> None:
        problem = f"cannot be listed ({error.strerror})"
        closed.append(StoreEntry(url=str(error.filename), problem=problem))

    stores = []
    for folder, folders, names in os.walk(place.path, onerror=remember):
        if "store.json" in names:
            stores.append(StoreEntry(url=folder))
            folders.clear()
    return sorted([*stores, *closed], key=lambda entry: entry.url)


def _in_bucket(place: Place) -> list[str]:
    stores, prefixes = [], [""]
    while prefixes:
        prefix = prefixes.pop()
        try:
            found = obstore.list_with_delimiter(place.bucket, prefix or None)
        except BaseError as error:
            raise StoreError(
                f"{place.url}/{prefix} cannot be listed: {first_cause(error)}. "
                "Check the URL, permissions and connection."
            ) from error
        names = {meta["path"].rpartition("/")[2] for meta in found["objects"]}
        if "store.json" in names:
            stores.append(f"{place.url}/{prefix}".rstrip("/"))
        else:
            prefixes += found["common_prefixes"]
    return sorted(stores)


def _filled(entry: StoreEntry) -> StoreEntry:
    if entry.problem is not None:
        return entry
    try:
        return _entry(FeatureStore.open(entry.url))
    except StoreError as error:
        return StoreEntry(url=entry.url, problem=str(error))


def _entry(store: FeatureStore) -> StoreEntry:
    files = list(store.place.list())
    names = {info.name for info in files}
    clips = [info for info in files if info.name.startswith("clips/")]
    counts = [_num_rows(store.place, info) for info in clips if info.name.endswith(".parquet")]
    # Every clips file starts a new part.
    num_parts = sum(-(-count // store.header.part_rows) for count in counts)
    return StoreEntry(
        url=store.url,
        kind=store.header.kind,
        made_by=_made_by(store),
        fingerprint=store.header.fingerprint[:12],
        num_rows=sum(counts),
        num_parts_done=sum(receipt_name(number) in names for number in range(num_parts)),
        num_parts=num_parts,
        num_bytes=sum(info.num_bytes for info in files),
    )


def _num_rows(place: Place, info: FileInfo) -> int:
    import pyarrow as pa
    import pyarrow.parquet as pq

    start = max(0, info.num_bytes - FOOTER_BYTES)
    (footer,) = place.ranges(info.name, [(start, info.num_bytes)])
    try:
        return int(pq.read_metadata(io.BytesIO(footer)).num_rows)
    except (pa.ArrowException, OSError, ValueError) as error:
        raise StoreError(f"{place.url}/{info.name} cannot be read ({error}).") from error


def _made_by(store: FeatureStore) -> str:
    recipe = store.header.recipe
    if store.header.kind == "inputs":
        return f"{recipe.get('frames_per_clip')} frames of {recipe.get('frame_px')} px"
    name = str(recipe.get("teacher"))
    return f"{name} (RANDOM weights)" if recipe.get("weights_are_random") else name
