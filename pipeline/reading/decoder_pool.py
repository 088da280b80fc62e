"""Threads that take jobs from one iterator and put what they read onto one bounded queue.

A job is pulled only in the moment a thread is free to begin it: pulling may claim it from others
who work on the same jobs. One thread reads a whole job, so what comes of a job, and in which
order, is the same however many threads there are.
"""

import queue
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Generic, TypeVar

MAX_WAIT_SHARE = 0.1
"""A consumer that waits longer than this share of the time gets another decoder ..."""
ITEMS_PER_DECISION = 32
"""... judged over this many items, which gives the last one added the time to show."""

J = TypeVar("J")
T = TypeVar("T")


class WaitMeter:
    """Decides now and then whether the consumer waits so much that it needs another decoder."""

    def __init__(self) -> None:
        self._num_items = 0
        self._start_s = self._start_wait_s = 0.0

    def is_starved(self, now_s: float, wait_s: float) -> bool:
        """To be asked once for every item; wait_s is all of the waiting since the beginning."""
        is_due = self._num_items % ITEMS_PER_DECISION == 0
        # Not before the first item: everybody waits for that.
        is_first = self._num_items == 0
        self._num_items += 1
        if not is_due:
            return False
        took_s, waited_s = now_s - self._start_s, wait_s - self._start_wait_s
        self._start_s, self._start_wait_s = now_s, wait_s
        return not is_first and waited_s > MAX_WAIT_SHARE * took_s


class DecoderPool(Generic[J, T]):
    """Iterate it, once, for (job, item) pairs, and (job, None) where a job is done.

    Items of one job keep their order; jobs that are read at the same time are interleaved. What
    the iterator of jobs or a reader raises, the consumer gets; no thread outlives the iteration.
    """

    def __init__(
        self,
        jobs: Iterator[J],
        new_reader: Callable[[], Callable[[J], Iterator[T]]],
        *,
        queue_size: int,
        max_decoders: int = 1,
        stop_jobs: Callable[[], object] | None = None,
    ) -> None:
        """stop_jobs ends an iterator that is waiting for a next job, as the pool is closed."""
        self.wait_s = 0.0
        """Seconds that the consumer has waited for items."""
        self._jobs = jobs
        self._jobs_lock = threading.Lock()
        self._has_jobs_left = True
        self._new_reader = new_reader
        self._max_decoders = max_decoders
        self._stop_jobs = stop_jobs
        # Bounded: what is read waits only as long as a batch needs, not a whole job of it.
        self._queue: queue.Queue[tuple[J, T | None] | BaseException | None] = queue.Queue(
            queue_size
        )
        self._is_closed = threading.Event()
        self._threads: list[threading.Thread] = []
        self._blocked_s: list[float] = []

    @property
    def num_decoders(self) -> int:
        """How many threads were started."""
        return len(self._threads)

    @property
    def blocked_s(self) -> float:
        """Seconds that the threads, added up, could not go on as the queue was full."""
        return sum(self._blocked_s)

    @property
    def is_empty(self) -> bool:
        """Whether the consumer would now have to wait."""
        return self._queue.empty()

    def __iter__(self) -> Iterator[tuple[J, T | None]]:
        num_ended = 0
        meter = WaitMeter()
        self._start_decoder()
        try:
            while num_ended < self.num_decoders:
                found = self._get()
                if found is None:
                    num_ended += 1
                    continue
                if isinstance(found, BaseException):
                    raise found
                if meter.is_starved(time.perf_counter(), self.wait_s):
                    self._start_another()
                yield found
        finally:
            self.close()

    def close(self) -> None:
        """End all threads; those that read or pull a job end as soon as that comes back."""
        self._is_closed.set()
        if self._stop_jobs is not None:
            self._stop_jobs()
        for thread in self._threads:
            while thread.is_alive():
                # It may be blocked on a full queue: make room until it has seen the flag.
                with suppress(queue.Empty):
                    while True:
                        self._queue.get_nowait()
                thread.join(timeout=0.02)

    def _get(self) -> tuple[J, T | None] | BaseException | None:
        start = time.perf_counter()
        found = self._queue.get()
        self.wait_s += time.perf_counter() - start
        return found

    def _start_another(self) -> None:
        if self._has_jobs_left and self.num_decoders < self._max_decoders:
            self._start_decoder()

    def _start_decoder(self) -> None:
        number = self.num_decoders
        thread = threading.Thread(
            target=self._decode,
            args=(number, self._new_reader()),
            name=f"decoder-{number}",
            daemon=True,
        )
        self._blocked_s.append(0.0)
        self._threads.append(thread)
        thread.start()

    def _decode(self, number: int, read: Callable[[J], Iterator[T]]) -> None:
        try:
            while (job := self._next_job()) is not None:
                for item in read(job):
                    self._put(number, (job, item))
                    if self._is_closed.is_set():
                        return
                self._put(number, (job, None))
        except BaseException as error:  # noqa: BLE001
            # Our own fault or that of whoever gives the jobs: the consumer's thread raises it.
            self._put(number, error)
        finally:
            self._put(number, None)

    def _next_job(self) -> J | None:
        with self._jobs_lock:
            if self._is_closed.is_set() or not self._has_jobs_left:
                return None
            job = next(self._jobs, None)
            self._has_jobs_left = job is not None
            return job

    def _put(self, number: int, item: tuple[J, T | None] | BaseException | None) -> None:
        start = time.perf_counter()
        self._queue.put(item)
        self._blocked_s[number] += time.perf_counter() - start
