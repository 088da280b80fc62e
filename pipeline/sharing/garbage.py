"""Removes what processes that were killed left in a store, and nothing that anybody needs."""

import os
import re
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from egoctl.pipeline.files.place import FileInfo
from egoctl.pipeline.store import FeatureStore
from egoctl.pipeline.store.receipt import receipt_name, stats_name

STAGED = re.compile(r".+#\d+")
"""Puts into a folder are staged as NAME#1 beside NAME, and renamed when they are whole."""
OLD_STAGED_S = 3600.0
"""A staged file that nobody wrote to for so long has no writer; clocks may be minutes apart."""
FOLDERS = ("arrays", "claims", "clips", "parts", "stats")


@dataclass(frozen=True, kw_only=True, slots=True)
class RemovedFile:
    """A file that was removed, or would be without the dry run."""

    name: str
    """Below the store."""
    num_bytes: int
    why: str


@dataclass(frozen=True, kw_only=True, slots=True)
class GcReport:
    """What was removed, and which parts were left alone as somebody is writing them."""

    url: str
    is_dry_run: bool
    removed: tuple[RemovedFile, ...]
    parts_at_work: tuple[int, ...]
    """Without a receipt, and claimed: their files were not touched."""

    @property
    def num_bytes(self) -> int:
        return sum(file.num_bytes for file in self.removed)


def gc_lines(report: GcReport) -> Iterator[str]:
    """The report for people."""
    for file in report.removed:
        yield f"{file.name}: {file.why}, {file.num_bytes:,} bytes"
    if report.parts_at_work:
        yield f"{len(report.parts_at_work)} parts are being written; they were left alone."
    verb = "would be removed" if report.is_dry_run else "removed"
    yield f"{len(report.removed)} files {verb}, {report.num_bytes:,} bytes."


def collect(url: str, *, is_dry_run: bool = False) -> GcReport:
    """Remove expired claims, files of parts that were never finished, and staged files.

    Raises:
        StoreError: if there is no store, or it cannot be written.
    """
    store = FeatureStore.open(url)
    try:
        removed = _stale_claims(store, is_dry_run=is_dry_run)
        orphans, at_work = _orphans(store, is_dry_run=is_dry_run)
        removed += [*orphans, *_staged(store, is_dry_run=is_dry_run)]
    finally:
        store.close()
    return GcReport(
        url=store.url, is_dry_run=is_dry_run, removed=tuple(removed), parts_at_work=tuple(at_work)
    )


def _stale_claims(store: FeatureStore, *, is_dry_run: bool) -> list[RemovedFile]:
    removed = []
    for name in store.claims.stale_files():
        info = store.claims.place.info(name)
        if info is not None:
            why = "a claim that expired" if name[0].isdecimal() else "an old clock probe"
            removed.append(RemovedFile(name=f"claims/{name}", num_bytes=info.num_bytes, why=why))
            if not is_dry_run:
                store.claims.place.delete(name)
    return removed


def _orphans(store: FeatureStore, *, is_dry_run: bool) -> tuple[list[RemovedFile], list[int]]:
    """Remove files of parts without a receipt; also the parts that somebody is writing."""
    place = store.place
    files: dict[int, list[FileInfo]] = {}
    for folder in ("arrays", "stats"):
        for info in place.list(folder):
            if (number := _part_of(store, info.name)) is not None:
                files.setdefault(number, []).append(info)
    # Listed after the files: a part that is finished meanwhile has its receipt now.
    receipts = {info.name for info in place.list("parts")}
    unfinished = sorted(number for number in files if receipt_name(number) not in receipts)
    at_work = store.claims.live() if is_dry_run and unfinished else set()
    removed, left = [], []
    for number in unfinished:
        # With the claim nobody else writes the part; a living claim is not to be had.
        if number in at_work or not (is_dry_run or store.claims.take(number)):
            left.append(number)
            continue
        if place.info(receipt_name(number)) is None:
            for info in files[number]:
                why = f"of part {number}, which has no receipt"
                removed.append(RemovedFile(name=info.name, num_bytes=info.num_bytes, why=why))
                if not is_dry_run and store.claims.is_held(number):
                    place.delete(info.name)
        store.claims.release(number)
    return removed, left


def _part_of(store: FeatureStore, name: str) -> int | None:
    """The part that a shard or a file of statistics belongs to; None: it is neither."""
    for spec in store.header.arrays:
        found = re.fullmatch(rf"arrays/{spec.name}/c/(\d+)(/0)+", name)
        if found and spec.shard_name(int(found[1])) == name:
            return int(found[1])
    found = re.fullmatch(r"stats/(\d+)\.npz", name)
    return int(found[1]) if found and stats_name(int(found[1])) == name else None


def _staged(store: FeatureStore, *, is_dry_run: bool) -> list[RemovedFile]:
    """Only folders have them: a bucket forgets a put that does not end."""
    root = store.place.path
    if root is None:
        return []
    found = [path for path in root.glob("store.json#*") if path.is_file()]
    for folder in FOLDERS:
        found += [
            Path(parent) / name for parent, _, names in os.walk(root / folder) for name in names
        ]
    removed = []
    for path in sorted(found):
        if STAGED.fullmatch(path.name) and time.time() - path.lstat().st_mtime > OLD_STAGED_S:
            name, num_bytes = str(path.relative_to(root)), path.lstat().st_size
            removed.append(RemovedFile(name=name, num_bytes=num_bytes, why="never finished"))
            if not is_dry_run:
                path.unlink(missing_ok=True)
    return removed
