"""A pool of decoders: jobs are pulled when one is free, keep their order, and end with the run."""

import threading
from collections.abc import Callable, Iterator
from contextlib import closing

import pytest

from egoctl.pipeline.reading import decoder_pool
from egoctl.pipeline.reading.decoder_pool import ITEMS_PER_DECISION, DecoderPool, WaitMeter

PATIENCE_S = 20.0
Reader = Callable[[str], Iterator[int]]


def pool_of(
    jobs: Iterator[str], read: Reader, *, queue_size: int = 4, max_decoders: int = 1, **more: object
) -> DecoderPool[str, int]:
    return DecoderPool(
        jobs,
        lambda: read,
        queue_size=queue_size,
        max_decoders=max_decoders,
        **more,  # type: ignore[arg-type]
    )


def count_to_three(job: str) -> Iterator[int]:
    return iter([1, 2, 3])


def decoders_alive() -> list[str]:
    return [t.name for t in threading.enumerate() if t.name.startswith("decoder-")]


def test_every_job_comes_with_its_items_in_order_and_then_its_end() -> None:
    pool = pool_of(iter("ab"), count_to_three)

    assert list(pool) == [
        *(("a", 1), ("a", 2), ("a", 3), ("a", None)),
        *(("b", 1), ("b", 2), ("b", 3), ("b", None)),
    ]
    assert decoders_alive() == []


def test_a_job_without_items_is_done_at_once() -> None:
    assert list(pool_of(iter("a"), lambda job: iter([]))) == [("a", None)]


def test_a_job_is_pulled_only_when_a_decoder_is_free_to_begin_it() -> None:
    pulled: list[str] = []
    may_go_on = threading.Event()

    def jobs() -> Iterator[str]:
        for job in "abc":
            pulled.append(job)
            yield job

    def read(job: str) -> Iterator[int]:
        yield 1
        assert may_go_on.wait(PATIENCE_S)

    with closing(pool_of(jobs(), read)) as pool:
        found = iter(pool)
        assert next(found) == ("a", 1)
        assert pulled == ["a"]  # though the queue has room for more
        may_go_on.set()
        assert [job for job, item in found if item is None] == ["a", "b", "c"]


@pytest.mark.parametrize(
    ("max_wait_share", "max_decoders", "num_decoders"), [(-1, 3, 3), (-1, 2, 2), (2, 3, 1)]
)
def test_decoders_are_added_while_the_consumer_waits_up_to_the_limit(
    monkeypatch: pytest.MonkeyPatch, max_wait_share: int, max_decoders: int, num_decoders: int
) -> None:
    monkeypatch.setattr(decoder_pool, "MAX_WAIT_SHARE", max_wait_share)
    all_there = threading.Barrier(num_decoders, timeout=PATIENCE_S)

    def read(job: str) -> Iterator[int]:
        yield from range(ITEMS_PER_DECISION + 1)
        all_there.wait()  # nobody ends a job before so many decoders have one

    pool = pool_of(iter("abcdef"), read, max_decoders=max_decoders)

    assert sorted(job for job, item in pool if item is None) == list("abcdef")
    assert pool.num_decoders == num_decoders
    assert decoders_alive() == []


def test_no_decoder_is_added_when_no_job_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decoder_pool, "MAX_WAIT_SHARE", -1)
    none_is_left = threading.Event()

    def jobs() -> Iterator[str]:
        yield "a"
        none_is_left.set()

    pool = pool_of(jobs(), lambda job: iter(range(100)), queue_size=200, max_decoders=5)
    found = iter(pool)
    next(found)
    assert none_is_left.wait(PATIENCE_S)

    assert len(list(found)) == 100
    assert pool.num_decoders == 1


def test_a_consumer_is_starved_if_it_waits_for_more_than_a_tenth_of_the_last_32_items() -> None:
    meter = WaitMeter()

    # 5 s for the first item do not count. Then 32 items in 10 s: 0.9 s of waiting, then 1.1 s.
    asked = [meter.is_starved(5.0, 5.0)]
    asked += [meter.is_starved(5.0 + 10 * n / 32, 5.0 + 0.9 * n / 32) for n in range(1, 33)]
    assert asked == [False] * 33
    asked = [meter.is_starved(15.0 + 10 * n / 32, 5.9 + 1.1 * n / 32) for n in range(1, 33)]
    assert asked == [False] * 31 + [True]


def test_what_a_reader_raises_ends_the_iteration_and_every_thread(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(decoder_pool, "MAX_WAIT_SHARE", -1)
    monkeypatch.setattr(decoder_pool, "ITEMS_PER_DECISION", 1)

    def read(job: str) -> Iterator[int]:
        yield from range(5)
        if job == "c":
            raise ZeroDivisionError("in job c")

    with pytest.raises(ZeroDivisionError, match="in job c"):
        list(pool_of(iter("abcdefgh"), read, queue_size=1, max_decoders=3))

    assert decoders_alive() == []


def test_what_the_iterator_of_jobs_raises_ends_the_iteration_and_every_thread() -> None:
    def jobs() -> Iterator[str]:
        yield "a"
        raise PermissionError("the claim of b")

    found = []
    with pytest.raises(PermissionError, match="the claim of b"):
        for item in pool_of(jobs(), count_to_three):
            found.append(item)

    assert found[0] == ("a", 1)
    assert decoders_alive() == []


def test_a_consumer_that_is_interrupted_leaves_no_thread_behind(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(decoder_pool, "MAX_WAIT_SHARE", -1)
    monkeypatch.setattr(decoder_pool, "ITEMS_PER_DECISION", 1)
    num_taken = 0

    with pytest.raises(KeyboardInterrupt):
        # The queue is full all the time: every decoder is stopped while it waits to put an item.
        pool = pool_of(iter("abcdefgh"), lambda job: iter(range(50)), queue_size=1, max_decoders=3)
        with closing(pool):
            for _ in pool:
                num_taken += 1
                if num_taken == 60:
                    raise KeyboardInterrupt

    assert pool.num_decoders == 3
    assert decoders_alive() == []


def test_closing_ends_an_iterator_that_waits_for_others() -> None:
    stopped = threading.Event()

    def jobs() -> Iterator[str]:
        yield "a"
        assert stopped.wait(PATIENCE_S)  # until somebody else lets a job go

    pool = pool_of(jobs(), count_to_three, stop_jobs=stopped.set)
    with closing(pool):
        assert next(iter(pool)) == ("a", 1)

    assert stopped.is_set()
    assert decoders_alive() == []


def test_waiting_is_counted_on_both_sides() -> None:
    has_begun = threading.Event()

    def read(job: str) -> Iterator[int]:
        for number in range(3):
            has_begun.set()
            yield number

    pool = pool_of(iter("a"), read, queue_size=1)
    found = iter(pool)
    next(found)
    assert has_begun.wait(PATIENCE_S)
    list(found)

    assert pool.wait_s > 0
    assert pool.blocked_s > 0
    assert pool.is_empty
