"""Copies a store, or some parts of it, to another place: `egoctl store push` and `pull`.

The target is a proper store from the first moment: header, rows and metadata come first, then of
each part its shards, compared with the receipt on their way, and its receipt last. So what is not
there whole does not count, and running the same command again goes on. Parts are claimed in the
target, so copiers, and whoever computes parts there, share the work and never mix two versions of
a part.
"""

import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import zip_longest

from blake3 import blake3

from egoctl.pipeline.errors import EgoctlError, StoreError, StoreMismatchError
from egoctl.pipeline.files.place import Place
from egoctl.pipeline.progress import Progress
from egoctl.pipeline.sharing.selection import Selection
from egoctl.pipeline.store import FeatureStore
from egoctl.pipeline.store.clip_table import Part, texts_of
from egoctl.pipeline.store.clips_file import COPY, MAX_CLIPS_FILE_BYTES, clips_in, copied, copy_of
from egoctl.pipeline.store.column_stats import MAX_STATS_BYTES
from egoctl.pipeline.store.feature_store import SizeOf
from egoctl.pipeline.store.header import StoreHeader
from egoctl.pipeline.store.part_writer import PartFiles, put_part
from egoctl.pipeline.store.receipt import Receipt, Shard, files_of, receipt_name, stats_name
from egoctl.pipeline.store.shard_bytes import max_shard_bytes

NUM_THREADS = 8
MAX_MEMORY_BYTES = 2 << 30
"""Bytes of all shards in memory together; a single larger one is still copied, alone."""
POLL_S = 2.0

# What became of a part.
COPIED, PRESENT, DAMAGED, DIFFERS, UNDONE, BUSY = (
    "copied", "already there", "damaged", "differs", "not done", "busy",
)  # fmt: skip


@dataclass(frozen=True, kw_only=True, slots=True)
class PartCopy:
    """What became of one part."""

    part: int
    state: str
    """COPIED, PRESENT, DAMAGED, DIFFERS, UNDONE or BUSY."""
    what: str = ""
    """What is wrong, for people."""
    num_bytes: int = 0
    """Bytes that were written."""


@dataclass(frozen=True, kw_only=True, slots=True)
class CopyReport:
    """What a copy did."""

    source: str
    target: str
    num_parts: dict[str, int]
    """How many parts, by what became of them."""
    faults: tuple[PartCopy, ...]
    """Damaged in the source, or there already with other content."""
    num_bytes: int
    seconds: float


def copy_lines(report: CopyReport) -> Iterator[str]:
    """The report for people."""
    for fault in report.faults:
        yield f"part {fault.part}: {fault.what}"
    count = report.num_parts
    if damaged := count.get(DAMAGED):
        yield (
            f"{damaged} parts were left out: 'egoctl store verify {report.source} --repair' takes "
            "them out of use, extract-teacher redoes them."
        )
    if undone := count.get(UNDONE):
        yield f"{undone} parts are not done in {report.source} yet."
    rate = report.num_bytes / 1e6 / max(report.seconds, 1e-9)
    yield (
        f"{count.get(COPIED, 0)} parts copied, {count.get(PRESENT, 0)} already there, "
        f"{count.get(DAMAGED, 0)} damaged: {report.num_bytes / 1e6:.1f} MB in "
        f"{report.seconds:.1f} s, {rate:.1f} MB/s."
    )


def _say(sentence: str) -> None:
    print(sentence, file=sys.stderr, flush=True)


def copy_store(
    source_url: str,
    target_url: str,
    selection: Selection,
    *,
    title: str = "copy",
    say: Callable[[str], object] = _say,
    num_threads: int = NUM_THREADS,
    lease_s: float = 120.0,
) -> CopyReport:
    """Bring the target up to the source's finished parts; what is there already is not sent again.

    It waits for parts that others are writing in the target; say reports that. A part that dies
    with its process is blocked there for lease_s.

    Raises:
        StoreMismatchError: if the target is a store of another recipe, arrays or rows.
        StoreError: if either cannot be read or written.
    """
    started_s = time.monotonic()
    source = FeatureStore.open(source_url)
    if Place(target_url).url == source.url:
        raise StoreError(f"{source.url} is source and target. Give another target.")
    header = selection.header(source.header, source.url)
    parts = selection.parts(source)
    if not parts and source.parts():
        raise EgoctlError(f"{source.url} holds no row of those that were asked for.")
    target = FeatureStore.create(target_url, header, header.arrays, lease_s=lease_s)
    if target.header != header:
        raise StoreMismatchError(
            f"{target.url} has other class names than {source.url}, though the same recipe. "
            "Give another path."
        )
    copy_clips(source.place / "clips", target.place / "clips")
    target.write_metadata()
    try:
        done = _Copier(source, target, parts).run(title, say, num_threads)
    finally:
        target.close()
    return CopyReport(
        source=source.url,
        target=target.url,
        num_parts=dict(Counter(copy.state for copy in done)),
        faults=tuple(copy for copy in done if copy.state in (DAMAGED, DIFFERS)),
        num_bytes=sum(copy.num_bytes for copy in done),
        seconds=time.monotonic() - started_s,
    )


class _Damage(StoreError):
    """A file of the source that differs from its receipt."""


class _SourceFiles(Mapping[str, bytes]):
    """A part's files, each read and compared only in the moment it is asked for."""

    def __init__(self, place: Place, header: StoreHeader, files: Mapping[str, Shard]) -> None:
        self._place, self._header, self._files = place, header, files

    def __getitem__(self, name: str) -> bytes:
        place, wanted = self._place, self._files[name]
        try:
            content = place.read(name, max_bytes=wanted.num_bytes)
        except StoreError as error:
            if place.path is None:
                raise  # a bucket that is out of reach is so for all parts
            raise _Damage(str(error)) from error
        if content is None:
            raise _Damage(f"{name} is missing")
        if Shard.of(content) != wanted:
            raise _Damage(f"{name} was changed: its digest differs")
        return content

    def __iter__(self) -> Iterator[str]:
        return iter(self._files)

    def __len__(self) -> int:
        return len(self._files)


class _Copier:
    """Copies parts from one open store to another."""

    def __init__(self, source: FeatureStore, target: FeatureStore, parts: Sequence[Part]) -> None:
        self._source, self._target, self._parts = source, target, parts
        self._source_sizes = _sizes(source.place)
        self._target_sizes = _sizes(target.place)

    def run(self, title: str, say: Callable[[str], object], num_threads: int) -> list[PartCopy]:
        """What became of every part, in order."""
        largest = max(self._source_sizes.values(), default=1)
        num_threads = max(1, min(num_threads, MAX_MEMORY_BYTES // max(largest, 1)))
        for part in self._parts:
            part.clips_blake3  # noqa: B018 - they are made one after another, not by threads
        done: dict[int, PartCopy] = {}
        left, is_reported = list(self._parts), False
        with (
            Progress(len(left), title=title, unit="part") as progress,
            ThreadPoolExecutor(num_threads) as pool,
        ):
            while left:
                for copy in pool.map(self._copy, left):
                    if copy.state != BUSY:
                        done[copy.part] = copy
                        progress.advance()
                busy = [part for part in left if part.number not in done]
                if busy and not is_reported:
                    say(f"Waiting for {len(busy)} parts that others are writing.")
                    is_reported = True
                if len(busy) == len(left):
                    time.sleep(POLL_S)
                left = busy
        return [done[part.number] for part in self._parts]

    def _copy(self, part: Part) -> PartCopy:
        number = part.number
        if receipt_name(number) not in self._source_sizes:
            return PartCopy(part=number, state=UNDONE)
        try:
            receipt = self._receipt(part)
            if (state := self._state(part, receipt, self._target_sizes.get)) is not None:
                return self._found(number, state)
            files = files_of(self._target.header, receipt)
            self._check_sizes(number, files)
            if not self._target.claims.take(number):
                return PartCopy(part=number, state=BUSY)
            try:
                # Somebody may have finished it since the target was listed.
                if (state := self._state(part, receipt, self._target.place.num_bytes)) is not None:
                    return self._found(number, state)
                return self._put(number, receipt, files)
            finally:
                self._target.claims.release(number)
        except _Damage as damage:
            return PartCopy(part=number, state=DAMAGED, what=f"{damage}. It was not copied.")

    def _put(self, number: int, receipt: Receipt, files: Mapping[str, Shard]) -> PartCopy:
        missing = {name: shard for name, shard in files.items() if not self._has(name, shard)}
        content = _SourceFiles(self._source.place, self._source.header, missing)
        ready = PartFiles(number=number, files=content, receipt=receipt)
        target = self._target
        if not put_part(target.place, target.claims, target.header, ready):
            return PartCopy(part=number, state=BUSY)
        num_bytes = sum(shard.num_bytes for shard in missing.values())
        return PartCopy(part=number, state=COPIED, num_bytes=num_bytes)

    def _receipt(self, part: Part) -> Receipt:
        try:
            receipt = self._source.receipt(part.number)
        except StoreError as error:
            raise _Damage(str(error)) from error
        if receipt is None or not self._target.belongs(receipt, part):
            raise _Damage(f"{receipt_name(part.number)} belongs to other rows or another recipe")
        return receipt

    def _check_sizes(self, number: int, files: Mapping[str, Shard]) -> None:
        """Refuse before anything is read: nobody's receipt may fill the memory."""
        header = self._source.header
        limits = {s.shard_name(number): max_shard_bytes(s, header.part_rows) for s in header.arrays}
        limits[stats_name(number)] = MAX_STATS_BYTES
        for name, wanted in files.items():
            found = self._source_sizes.get(name)
            if found is None:
                raise _Damage(f"{name} is missing")
            if found != wanted.num_bytes or found > limits[name]:
                raise _Damage(f"{name} has {found:,} bytes, not {wanted.num_bytes:,}")

    def _state(self, part: Part, receipt: Receipt, size_of: SizeOf) -> str | None:
        """PRESENT or DIFFERS if the target has the part whole, else None."""
        target = self._target
        if size_of(receipt_name(part.number)) is None:
            return None
        try:
            theirs = target.receipt(part.number)
        except StoreError:
            return None
        if theirs is None or not target.belongs(theirs, part):
            return None
        files = files_of(target.header, theirs)
        if any(size_of(name) != shard.num_bytes for name, shard in files.items()):
            return None
        if target.place.path is not None and not all(self._has(*file) for file in files.items()):
            return None
        is_same = files == files_of(target.header, receipt) and theirs.outcomes == receipt.outcomes
        return PRESENT if is_same else DIFFERS

    def _has(self, name: str, wanted: Shard) -> bool:
        """Whether the target's file is this one. A bucket's file is not read back to find out:
        without a receipt its size proves nothing, as all shards of numbers have the same.
        """
        place = self._target.place
        if place.path is None:
            return False
        info = place.info(name)
        if info is None or info.num_bytes != wanted.num_bytes:
            return False
        digest = blake3()
        for block in place.blocks(info):
            digest.update(block)
        return digest.hexdigest() == wanted.blake3

    def _found(self, number: int, state: str) -> PartCopy:
        what = ""
        if state == DIFFERS:
            what = (
                f"{self._target.url} has it whole, with other values or outcomes than "
                f"{self._source.url}. It was left as it is; 'egoctl store diff' compares the two."
            )
        return PartCopy(part=number, state=state, what=what)


def _sizes(place: Place) -> dict[str, int]:
    folders = ("arrays", "stats", "parts")
    return {info.name: info.num_bytes for folder in folders for info in place.list(folder)}


def copy_clips(source: Place, target: Place) -> None:
    """Give the target the clips files that it lacks; both are folders of clips files.

    Raises:
        StoreMismatchError: if the target has other rows than the source, or more.
        StoreError: if a file of the source was changed.
    """
    names, theirs = ({info.name for info in place.list()} for place in (source, target))
    ours = {name for name in names if name.endswith(".parquet")}
    if further := {name for name in theirs if name.endswith(".parquet")} - ours:
        raise StoreMismatchError(
            f"{target.url}/{min(further)} holds rows that {source.url} has not. "
            "Copy in the other direction first, or give another path."
        )
    for name in sorted(ours):
        content = source.read(name, max_bytes=MAX_CLIPS_FILE_BYTES)
        if content is None:
            raise StoreError(f"{source.url}/{name} vanished while it was copied. Try again.")
        there = target.read(name, max_bytes=MAX_CLIPS_FILE_BYTES) if name in theirs else None
        if there is None:
            _check(source, name, content)
            # Another copier may have put it since; then what is there is judged like any other.
            there = content if target.create(name, content) else target.read(name)
        if there != content:
            _check_same_rows(source, target, name, content, there or b"")
        if name + COPY not in theirs:
            target.put(name + COPY, copy_of(there or b""))


def _check(source: Place, name: str, content: bytes) -> None:
    where = f"{source.url}/{name}"
    copy = copied(source.read(name + COPY, max_bytes=MAX_CLIPS_FILE_BYTES))
    if copy not in (None, content):
        store = source.url.removesuffix("/clips")
        raise StoreError(
            f"{where} was changed. 'egoctl store verify {store} --repair' restores it."
        )
    clips_in(content, where)


def _check_same_rows(source: Place, target: Place, name: str, content: bytes, there: bytes) -> None:
    """Other bytes may hold the same rows: those of another version of polars."""
    clips = clips_in(content, f"{source.url}/{name}")
    ours, theirs = texts_of(clips), texts_of(clips_in(there, f"{target.url}/{name}"))
    pairs = enumerate(zip_longest(ours, theirs, fillvalue="nothing"))
    first = next(((index, pair) for index, pair in pairs if pair[0] != pair[1]), None)
    if first is not None:
        index, (our_text, their_text) = first
        raise StoreMismatchError(
            f"{target.url} holds other rows than {source.url}: row {index} of {name} is "
            f"{_shown(their_text)} there, {_shown(our_text)} here. Give another path."
        )


def _shown(text: str) -> str:
    return text.replace("\x1f", " ")
