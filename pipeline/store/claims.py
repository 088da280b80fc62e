"""Which process works on which part, so that many on any machines can fill one store.

A claim on a part is a chain of files NUMBER/GENERATION.json, and the newest generation counts. All
rests on one promise of the storage: of several who create one name, exactly one succeeds. A free
part is taken by creating generation 0. The holder puts its file again every quarter of its lease;
when the storage last saw that longer ago than the lease the file names, the claim has expired and
whoever creates the next generation has the part. Ages are those of the storage's clock alone: the
machines' clocks may be minutes apart. Only on its own machine a dead holder is seen at once.

A release deletes the chain with its newest file last, so a death in between leaves the newest file,
or nothing: an ordinary claim that expires, or a free part. An older generation never comes back on
top. Nothing is deleted, and nothing renewed unchecked, once the own lease has passed.

What claims cannot rule out is an act on its way for longer than a lease: a process that stops
between its last look and its request, a request that is tried again through a long outage. Then
- a late take creates a generation of a chain that was finished and deleted meanwhile: it holds a
  part that is done. The caller looks for the part's receipt after every take.
- a late renewal puts an old generation back. Beneath a newer one it means nothing; alone it holds
  the part until it expires; over a new claim of the same name it ends that claim, as the content
  no longer names its holder, and is_held shows that to the loser.
- a late deletion, or one that is sent again because its answer was lost, ends another's claim of
  the same name; is_held notices.
- somebody takes over in the moment after is_held returned True.
In each, two may work on one part, never for longer than until the next is_held. It costs time and
no data: the store fences its writes once more, and of two receipts exactly one can be created.
"""

import json
import math
import os
import re
import secrets
import socket
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from types import TracebackType
from typing import Self

from egoctl.pipeline.errors import StoreError
from egoctl.pipeline.files.place import FileInfo, Place
from egoctl.pipeline.store.process_name import is_known_dead, process_name

CLAIM_NAME = re.compile(r"(\d{5,9})/(\d{4,9})\.json")
CLOCK_FOLDER = "clock"
CLOCK_KEPT_S = 60.0
"""How long the difference between the storage's clock and ours is believed."""
CLOCK_STEP_S = 1.0
"""Buckets round times to whole seconds: a claim may be this much younger than it looks."""
OLD_PROBE_S = 24 * 3600.0
MAX_CLAIM_BYTES = 10_000


def steady_s() -> float:
    """Seconds on a clock that nobody sets and that also runs while the machine is asleep."""
    if sys.platform == "linux":
        return time.clock_gettime(time.CLOCK_BOOTTIME)
    return time.monotonic()


@dataclass(frozen=True, kw_only=True, slots=True)
class ClaimInfo:
    """Who holds a part."""

    holder: str
    """A random name of one Claims object."""
    host: str
    pid: int
    lease_s: float
    age_s: float
    """Since the last renewal, by the storage's clock."""
    process: str = ""
    """See `process_name`."""

    def __post_init__(self) -> None:
        if not (math.isfinite(self.lease_s) and self.lease_s > 0):
            raise ValueError(f"a lease is a positive number of seconds, got {self.lease_s}")

    @property
    def is_expired(self) -> bool:
        """Whether others may have the part: at once, where the holder is seen to be dead."""
        return self.age_s > self.lease_s + CLOCK_STEP_S or is_known_dead(self.process)


@dataclass(slots=True)
class _Held:
    """A claim of ours."""

    generation: int
    renewed_s: float
    """When the last renewal that succeeded was begun: from then on the lease runs."""
    beat: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock)
    """Held while its files are written or deleted: a renewal may not follow a release."""


class Claims:
    """The claims on a store's parts, as one process sees and makes them. Threads may share it."""

    def __init__(
        self,
        place: Place,
        *,
        lease_s: float = 120.0,
        holder: str | None = None,
        clock: Callable[[], float] = steady_s,
    ) -> None:
        """Claims kept in place, a folder of their own.

        A process that dies blocks its parts for lease_s. Less than about 100 s is not safe on NFS,
        whose clients may remember a file's age for a minute.
        """
        self.place = place
        self.lease_s = lease_s
        self.holder = holder or secrets.token_hex(8)
        self._clock = clock
        self._held: dict[int, _Held] = {}
        self._being_taken: set[int] = set()
        self._seen: dict[str, tuple[FileInfo, bytes]] = {}
        """What listed files held: a claim is read again only after its renewal."""
        self._probe: tuple[float, float] | None = None
        """The storage's clock less ours, and when that was found."""
        self._lock = threading.Lock()
        self._is_closing = threading.Event()
        self._renewer = threading.Thread(target=self._keep, name="claims", daemon=True)
        self._me = ClaimInfo(
            holder=self.holder,
            host=socket.gethostname(),
            pid=os.getpid(),
            lease_s=lease_s,
            age_s=0,
            process=process_name(),
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    # --- own claims ---

    def take(self, number: int) -> bool:
        """Whether the part is ours from now on; False if anybody holds it, be it another thread.

        Look for the part's receipt afterwards: it may have been finished a moment ago.
        """
        with self._lock:
            if self._is_closing.is_set():
                raise ValueError(f"part {number}: these claims are closed")
            if number in self._held or number in self._being_taken:
                return False
            self._being_taken.add(number)
            if self._renewer.ident is None:
                self._renewer.start()
        try:
            begun_s = self._clock()
            generation = self._next_generation(number)
            if generation is None:
                return False
            if not self.place.create(_name(number, generation), self._content(beat=0)):
                return False
            with self._lock:
                self._held[number] = _Held(generation=generation, renewed_s=begun_s)
            return True
        finally:
            with self._lock:
                self._being_taken.discard(number)

    def is_held(self, number: int) -> bool:
        """Whether the storage names us as the holder right now; if not, the claim is given up."""
        mine = self._held.get(number)
        if mine is None:
            return False
        if self._is_newest(number, mine.generation):
            return self._held.get(number) is mine
        self._forget(number, mine)
        return False

    def release(self, number: int) -> None:
        """Let others take the part. What cannot be deleted expires by itself."""
        with suppress(StoreError):
            self._let_go(number)

    def renew(self) -> bool:
        """Renew what is held; whether that worked. A thread does this every quarter of a lease."""
        with self._lock:
            held = list(self._held.items())
        return all([self._renew(number, mine) for number, mine in held])

    def held(self) -> set[int]:
        """The parts we believe to hold; is_held asks the storage."""
        with self._lock:
            return set(self._held)

    def close(self) -> None:
        """Release everything and stop renewing; once is enough."""
        with self._lock:
            self._is_closing.set()
        if self._renewer.ident is not None:
            self._renewer.join()
        # A storage that is down may take minutes to fail: it is asked once, the rest expires.
        with suppress(StoreError):
            for number in sorted(self.held()):
                self._let_go(number)
            if self._probe is not None:
                self.place.delete(self._probe_name)
        with self._lock:
            self._held.clear()
            self._probe = None

    # --- everybody's claims ---

    def others(self) -> dict[int, ClaimInfo]:
        """The parts that living others hold."""
        found = self._newest(self._chains())
        return {n: c for n, c in found.items() if c.holder != self.holder and not c.is_expired}

    def live(self) -> set[int]:
        """The parts that anybody holds, we included: not worth a take."""
        return self.held() | set(self.others())

    def drop(self, number: int) -> None:
        """Delete whoever's claim on a part, for who knows that its holder is dead."""
        mine = self._held.get(number)
        if mine is not None:
            self._forget(number, mine)
        for generation in sorted(self._chains(_folder(number)).get(number, ())):
            self.place.delete(_name(number, generation))

    def stale_files(self) -> list[str]:
        """What nobody misses: expired claims and clock probes older than a day.

        Delete them in this order, soon: a claim may be taken over at any time.
        """
        chains = self._chains()
        expired = [n for n, claim in self._newest(chains).items() if claim.is_expired]
        claims = [_name(n, generation) for n in expired for generation in sorted(chains[n])]
        old_s = self._now_s() - OLD_PROBE_S
        probes = [p.name for p in self.place.list(CLOCK_FOLDER) if p.modified_s < old_s]
        return claims + probes

    # --- inside ---

    def _next_generation(self, number: int) -> int | None:
        """The generation that would take a part; None while its claim lives."""
        chain = self._chains(_folder(number)).get(number)
        if not chain:
            return 0
        newest = max(chain)
        # Not the listing's times: opening a file makes an NFS client ask the server again.
        content = self.place.read(_name(number, newest), max_bytes=MAX_CLAIM_BYTES)
        info = self.place.info(_name(number, newest))
        if content is None or info is None:
            return None  # it is being released
        # Before a takeover the clock is read anew: a kept difference outlives a clock that was set.
        for kept_s in (CLOCK_KEPT_S, 0.0):
            age_s = self._now_s(kept_s) - info.modified_s
            if not self._claim_info(content, age_s).is_expired:
                return None
        return newest + 1

    def _keep(self) -> None:
        """Renew until closed; after a failure sooner, so that a lease survives a few of them."""
        pause_s = self.lease_s / 4
        while not self._is_closing.wait(pause_s):
            pause_s = self.lease_s / 4 if self.renew() else self.lease_s / 16

    def _renew(self, number: int, mine: _Held) -> bool:
        with mine.lock:
            if self._held.get(number) is not mine:
                return True
            begun_s = self._clock()
            try:
                if self._is_past(mine) and not self._is_newest(number, mine.generation):
                    self._forget(number, mine)
                    return True
                content = self._content(beat=mine.beat + 1)
                self.place.put(_name(number, mine.generation), content)
            except (StoreError, OSError):
                return False
            mine.renewed_s = begun_s
            mine.beat += 1
            return True

    def _let_go(self, number: int) -> None:
        with self._lock:
            mine = self._held.pop(number, None)
        if mine is None:
            return
        with mine.lock:
            # Never beyond our own generation: what is above it is another's.
            for generation in range(mine.generation + 1):
                if self._is_past(mine):
                    return
                self.place.delete(_name(number, generation))

    def _is_past(self, mine: _Held) -> bool:
        """Whether others may have taken it over."""
        return self._clock() - mine.renewed_s > self.lease_s

    def _is_newest(self, number: int, generation: int) -> bool:
        """Whether a generation exists, is the newest and names us."""
        # In this order: a takeover's file goes after ours when its holder releases the part.
        if self.place.info(_name(number, generation + 1)) is not None:
            return False
        content = self.place.read(_name(number, generation), max_bytes=MAX_CLAIM_BYTES)
        return content is not None and self._claim_info(content, 0).holder == self.holder

    def _forget(self, number: int, mine: _Held) -> None:
        with self._lock:
            if self._held.get(number) is mine:
                del self._held[number]

    def _chains(self, folder: str = "") -> dict[int, dict[int, FileInfo]]:
        """Part to generation to file."""
        chains: dict[int, dict[int, FileInfo]] = {}
        for info in self.place.list(folder):
            if name := CLAIM_NAME.fullmatch(info.name):
                chains.setdefault(int(name[1]), {})[int(name[2])] = info
        return chains

    def _newest(self, chains: dict[int, dict[int, FileInfo]]) -> dict[int, ClaimInfo]:
        """The claim that counts of every part, expired or not."""
        seen: dict[str, tuple[FileInfo, bytes]] = {}
        found = {}
        for number, chain in chains.items():
            info = chain[max(chain)]
            before, content = self._seen.get(info.name, (None, None))
            if before != info:
                content = self.place.read(info.name, max_bytes=MAX_CLAIM_BYTES)
            if content is not None:  # else it was released just now
                seen[info.name] = (info, content)
                found[number] = self._claim_info(content, self._now_s() - info.modified_s)
        self._seen = seen
        return found

    def _claim_info(self, content: bytes, age_s: float) -> ClaimInfo:
        try:
            fields = json.loads(content)
            return ClaimInfo(
                holder=str(fields["holder"]), host=str(fields["host"]), pid=int(fields["pid"]),
                lease_s=float(fields["lease_s"]), age_s=age_s, process=str(fields["process"]),
            )  # fmt: skip
        except (ValueError, KeyError, TypeError, OverflowError, RecursionError):
            # Damaged, or not of our making: respected for a lease like ours, then taken over.
            return ClaimInfo(
                holder="unknown", host="unknown", pid=0, lease_s=self.lease_s, age_s=age_s
            )

    def _content(self, *, beat: int) -> bytes:
        me = self._me
        fields = {"holder": me.holder, "host": me.host, "pid": me.pid, "lease_s": me.lease_s}
        return json.dumps({**fields, "process": me.process, "beat": beat}).encode()

    @property
    def _probe_name(self) -> str:
        return f"{CLOCK_FOLDER}/{self.holder}"

    def _now_s(self, kept_s: float = CLOCK_KEPT_S) -> float:
        """The storage's time, or a little less: never a claim older than it is.

        Raises:
            StoreError: if the probe cannot be written and looked up.
        """
        probe = self._probe
        if probe is None or self._clock() - probe[1] >= kept_s:
            self.place.put(self._probe_name, b"")
            info = self.place.info(self._probe_name)
            if info is None:
                raise StoreError(
                    f"{self.place.url}/{self._probe_name} vanished as soon as it was written. "
                    "Let nobody else clean that folder while a store is being filled."
                )
            found_s = self._clock()
            self._probe = probe = (info.modified_s - found_s, found_s)
        return probe[0] + self._clock()


def _folder(number: int) -> str:
    return f"{number:05d}"


def _name(number: int, generation: int) -> str:
    return f"{_folder(number)}/{generation:04d}.json"
