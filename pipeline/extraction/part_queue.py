"""Hands out the parts that are left, one at a time, to this process alone.

Any number of processes draw from the same stores: each part is claimed before it is read, and
looked at again after that, as another may have finished it a moment ago. What a dead process held
comes back when its lease ends, so whoever is still there waits for it.
"""

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from blake3 import blake3

from egoctl.pipeline.errors import EgoctlError
from egoctl.pipeline.extraction.plan import PlannedPart, parts_left
from egoctl.pipeline.reading.clip_job import ClipSource
from egoctl.pipeline.store import FeatureStore
from egoctl.pipeline.store.claims import ClaimInfo
from egoctl.pipeline.store.clip_table import Part

POLL_S = 2.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Share:
    """The number-th of count equal shares of a store's parts, counted from 1: Slurm arrays."""

    number: int = 1
    count: int = 1

    def __post_init__(self) -> None:
        if not 1 <= self.number <= self.count:
            raise EgoctlError(
                f"--parts must be I/N with I from 1 to N, got {self.number}/{self.count}."
            )

    @classmethod
    def from_text(cls, text: str) -> "Share":
        """Of '3/8'.

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


class PartQueue:
    """Iterate it for claimed parts; `stop` ends the iteration from another thread."""

    def __init__(
        self,
        sources: Mapping[str, ClipSource],
        teacher_store: FeatureStore | None,
        inputs_store: FeatureStore | None,
        *,
        share: Share,
        waits: bool,
        say: Callable[[str], object],
    ) -> None:
        """With waits, it goes on until no part is left that others hold; say tells of that."""
        self._sources = dict(sources)
        self._teacher = teacher_store
        self._inputs = inputs_store
        self._share = share
        self._waits = waits
        self._say = say
        self._stopped = threading.Event()

    def stop(self) -> None:
        """Hand out no more."""
        self._stopped.set()

    def left(self) -> tuple[list[PlannedPart], int]:
        """The parts of this share that are not done, and how many are of another manifest."""
        planned, num_foreign = parts_left(
            self._sources,
            self._teacher.parts_to_do() if self._teacher is not None else (),
            self._inputs.parts_to_do() if self._inputs is not None else (),
        )
        if self._share.count == 1:
            return planned, num_foreign
        of_kind = {"teacher": self._place_of(self._teacher), "inputs": self._place_of(self._inputs)}

        def is_in_share(part: PlannedPart) -> bool:
            stored = part.teacher_part or part.inputs_part
            assert stored is not None, "a planned part belongs to a store"
            places = of_kind["teacher" if part.teacher_part else "inputs"]
            return self._share.has(places[stored.number], len(places))

        return [part for part in planned if is_in_share(part)], num_foreign

    def __iter__(self) -> Iterator[PlannedPart]:
        told: set[int] = set()
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
                # Its own are being finished: nothing of them will be left to be handed out.
                if not self._waits or all(self._is_held_here(part) for part in left):
                    return
                told = self._tell(told)
                self._stopped.wait(POLL_S)

    def _place_of(self, store: FeatureStore | None) -> dict[int, int]:
        """The how-manieth part a number is."""
        parts = store.parts() if store is not None else ()
        return {part.number: index for index, part in enumerate(parts)}

    def _from_a_place_of_its_own(self, left: Sequence[PlannedPart]) -> list[PlannedPart]:
        """From where others probably do not begin, in order: neighbours share videos."""
        store = self._teacher if self._teacher is not None else self._inputs
        assert store is not None, "extraction has a store"
        seed = int.from_bytes(blake3(store.claims.holder.encode()).digest(4), "little")
        start = seed % len(left) if self._share.count == 1 else 0
        return [*left[start:], *left[:start]]

    def claimed(self, part: PlannedPart) -> PlannedPart | None:
        """The part as far as it is still to be done, claimed; None: others have it, or did it."""
        stored = self._stored(part)
        taken: list[tuple[FeatureStore, Part]] = []
        done: list[FeatureStore] = []
        for store, of_store in stored:
            # A part that this process is at work on already is not taken twice.
            is_mine = of_store.number in store.claims.held()
            # One request tells that another finished it since the list was made; a claim costs six.
            has_receipt = not is_mine and store.has_receipt(of_store)
            if has_receipt and store.is_done(of_store):
                done.append(store)
                continue
            if is_mine or not store.claims.take(of_store.number):
                for other, of_other in taken:
                    other.claims.release(of_other.number)
                return None
            taken.append((store, of_store))
        for store, of_store in taken:
            if store.is_done(of_store):
                store.claims.release(of_store.number)
                done.append(store)
        if len(done) == len(stored):
            return None
        is_left = {
            "teacher": part.teacher_part is not None and self._teacher not in done,
            "inputs": part.inputs_part is not None and self._inputs not in done,
        }
        return replace(
            part,
            job=replace(part.job, for_teacher=is_left["teacher"], for_inputs=is_left["inputs"]),
            teacher_part=part.teacher_part if is_left["teacher"] else None,
            inputs_part=part.inputs_part if is_left["inputs"] else None,
        )

    def _is_held_here(self, part: PlannedPart) -> bool:
        return any(of_store.number in store.claims.held() for store, of_store in self._stored(part))

    def _stored(self, part: PlannedPart) -> list[tuple[FeatureStore, Part]]:
        """The stores that it fills, each with its part of them."""
        pairs = ((self._teacher, part.teacher_part), (self._inputs, part.inputs_part))
        return [(store, of_store) for store, of_store in pairs if store and of_store]

    def _tell(self, told: set[int]) -> set[int]:
        others: dict[int, ClaimInfo] = {}
        for store in (self._teacher, self._inputs):
            if store is not None:
                others |= store.claims.others()
        if others and not told:
            who = sorted({f"{info.host} (process {info.pid})" for info in others.values()})
            self._say(
                f"Waiting for {len(others)} parts that others are at work on: {', '.join(who[:5])}"
                f"{' ...' if len(who) > 5 else ''}. What they leave will be done here."
            )
        return told | set(others)
