"""Hands out the parts that are left, one at a time, to this process alone.

Any number of processes draw from the same stores: each part is claimed before it is read, and
looked at again after that, as another may have finished it a moment ago. What a dead process held
comes back when its lease ends, so whoever is still there waits for it.
"""

import threading
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from blake3 import blake3

from egoctl.pipeline.errors import EgoctlError
from egoctl.pipeline.extraction.part_buffer import PartBuffer
from egoctl.pipeline.reading.clip_job import ClipSource, InputsView, Job, TeacherView
from egoctl.pipeline.store import FeatureStore
from egoctl.pipeline.store.claims import ClaimInfo
from egoctl.pipeline.store.clip_table import Part

POLL_S = 2.0


@dataclass(frozen=True, kw_only=True, slots=True)
class PartShare:
    """The number-th of count equal shares of a store's parts, counted from 1: Slurm arrays."""

    number: int = 1
    count: int = 1

    def __post_init__(self) -> None:
        if not 1 <= self.number <= self.count:
            raise EgoctlError(
                f"--parts must be I/N with I from 1 to N, got {self.number}/{self.count}."
            )

    @classmethod
    def from_text(cls, text: str) -> "PartShare":
        """The share that '3/8' names.

        Raises:
            EgoctlError: if it is no such share.
        """
        number, slash, count = text.partition("/")
        if not (slash and number.isdecimal() and count.isdecimal()):
            raise EgoctlError(f"--parts must be like 3/8 (the third of eight), got {text!r}.")
        return cls(number=int(number), count=int(count))

    def has(self, index: int, total: int) -> bool:
        """Whether the index-th of total parts is in it. Neighbours share videos: so they stay."""
        return index * self.count // total == self.number - 1


@dataclass(frozen=True, kw_only=True, slots=True)
class PlannedPart:
    """A job for the reader, and the part of each store that it fills."""

    job: Job
    parts: Mapping[str, Part]
    """By name of the store; the job has a view for each."""
    prefill: Callable[[PartBuffer], None] | None = None
    """Fills the rows that the job does not read, as they were copied from another store."""

    @property
    def num_rows(self) -> int:
        """Rows of the whole part, read or not."""
        return next(iter(self.parts.values())).num_rows

    def only(self, names: Collection[str]) -> "PlannedPart":
        """The same for these stores alone."""
        views = {name: view for name, view in self.job.views.items() if name in names}
        parts = {name: part for name, part in self.parts.items() if name in names}
        return replace(self, job=replace(self.job, views=views), parts=parts)


def parts_left(
    sources: Mapping[str, ClipSource],
    views: Mapping[str, TeacherView | InputsView],
    left: Mapping[str, Sequence[Part]],
) -> tuple[list[PlannedPart], int]:
    """What to read for unfinished parts, by store, and how many of them are of another manifest.

    Parts of the same clips are read together, in one pass, whichever stores they belong to.
    """
    by_clips: dict[tuple[str, ...], dict[str, Part]] = {}
    num_foreign = 0
    for name, parts in left.items():
        for part in parts:
            clip_ids = part.clip_ids
            if all(clip_id in sources for clip_id in clip_ids):
                by_clips.setdefault(clip_ids, {})[name] = part
            else:
                num_foreign += 1
    planned = [
        PlannedPart(
            job=Job(
                number=number,
                sources=[sources[clip_id] for clip_id in clip_ids],
                views={name: views[name] for name in of_store},
            ),
            parts=of_store,
        )
        for number, (clip_ids, of_store) in enumerate(by_clips.items())
    ]
    return planned, num_foreign


class PartQueue:
    """Iterate it for claimed parts; `stop` ends the iteration from another thread."""

    def __init__(
        self,
        sources: Mapping[str, ClipSource],
        views: Mapping[str, TeacherView | InputsView],
        stores: Mapping[str, FeatureStore],
        *,
        share: PartShare,
        waits: bool,
        say: Callable[[str], object],
    ) -> None:
        """The unfinished parts of these stores, by name, each to be read in its view.

        With waits, it goes on until no part is left that others hold; say reports that it waits.
        """
        self._sources = dict(sources)
        self._views = views
        self._stores = stores
        self._share = share
        self._waits = waits
        self._say = say
        self._stopped = threading.Event()

    def stop(self) -> None:
        """Hand out no more."""
        self._stopped.set()

    def left(self) -> tuple[list[PlannedPart], int]:
        """The parts of this share that are not done, and how many are of another manifest."""
        left = {name: store.parts_to_do() for name, store in self._stores.items()}
        planned, num_foreign = parts_left(self._sources, self._views, left)
        if self._share.count == 1:
            return planned, num_foreign
        position_of = {
            name: {part.number: position for position, part in enumerate(store.parts())}
            for name, store in self._stores.items()
        }

        def is_in_share(part: PlannedPart) -> bool:
            name, stored = next(iter(part.parts.items()))
            positions = position_of[name]
            return self._share.has(positions[stored.number], len(positions))

        return [part for part in planned if is_in_share(part)], num_foreign

    def __iter__(self) -> Iterator[PlannedPart]:
        reported: set[int] = set()
        while not self._stopped.is_set():
            left, _ = self.left()
            if not left:
                return
            took_one = False
            for part in self._from_a_place_of_its_own(left):
                if self._stopped.is_set():
                    return
                if (claimed := self.claimed(part)) is not None:
                    took_one = True
                    yield claimed
            if not took_one:
                # This process still finishes the parts it holds; none will be left to hand out.
                if not self._waits or all(self._is_held_here(part) for part in left):
                    return
                reported = self._report(reported)
                self._stopped.wait(POLL_S)

    def _from_a_place_of_its_own(self, left: Sequence[PlannedPart]) -> list[PlannedPart]:
        """From where others probably do not begin, in order: neighbours share videos."""
        holder = next(iter(self._stores.values())).claims.holder
        seed = int.from_bytes(blake3(holder.encode()).digest(4), "little")
        start = seed % len(left) if self._share.count == 1 else 0
        return [*left[start:], *left[:start]]

    def claimed(self, part: PlannedPart) -> PlannedPart | None:
        """The part as far as it is still to be done, claimed; None: others have it, or did it."""
        taken: list[str] = []
        left = dict(part.parts)
        for name, of_store in part.parts.items():
            store = self._stores[name]
            # A part that this process is at work on already is not taken twice.
            is_mine = of_store.number in store.claims.held()
            # One request shows that another finished it since the list was made; a claim costs six.
            if not is_mine and store.has_receipt(of_store) and store.is_done(of_store):
                del left[name]
                continue
            if is_mine or not store.claims.take(of_store.number):
                for other in taken:
                    self._stores[other].claims.release(part.parts[other].number)
                return None
            taken.append(name)
        for name in taken:
            if self._stores[name].is_done(left[name]):
                self._stores[name].claims.release(left[name].number)
                del left[name]
        return part.only(left) if left else None

    def _is_held_here(self, part: PlannedPart) -> bool:
        return any(
            of_store.number in self._stores[name].claims.held()
            for name, of_store in part.parts.items()
        )

    def _report(self, reported: set[int]) -> set[int]:
        others: dict[int, ClaimInfo] = {}
        for store in self._stores.values():
            others |= store.claims.others()
        if others and not reported:
            who = sorted({f"{info.host} (process {info.pid})" for info in others.values()})
            self._say(
                f"Waiting for {len(others)} parts that others are at work on: {', '.join(who[:5])}"
                f"{' ...' if len(who) > 5 else ''}. What they leave will be done here."
            )
        return reported | set(others)
