"""Who holds a part: one of many, for a lease, told by the storage's clock; never two at once."""

import json
import os
import random
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from egoctl.pipeline.errors import StoreError
from egoctl.pipeline.files.place import FileInfo, Place
from egoctl.pipeline.store.claims import Claims
from egoctl.tests.worlds.claim_shelf import GONE_S, LEASE_S, chain_of_three, wait_until

pytest_plugins = ["egoctl.tests.worlds.claim_shelf"]


# --- taking and releasing ---


def test_of_two_who_want_a_free_part_the_first_has_it(shelf, new):
    a, b = new("a"), new("b")

    assert a.take(7)
    assert not b.take(7)
    assert (a.is_held(7), b.is_held(7)) == (True, False)
    assert (a.held(), b.held()) == ({7}, set())
    assert shelf.claim_files() == ["00007/0000.json"]


def test_a_released_part_leaves_no_file_and_is_free_again(shelf, new):
    a, b = new("a"), new("b")
    a.take(7)

    a.release(7)

    assert shelf.claim_files() == []
    assert not a.is_held(7)
    assert b.take(7)


def test_taking_a_free_part_is_two_requests_and_releasing_it_one(shelf, new):
    a = new("a")

    a.take(7)
    a.release(7)

    assert shelf.requests == ["list 00007", "create 00007/0000.json", "delete 00007/0000.json"]


def test_what_is_held_already_is_not_taken_twice_nor_released_twice(shelf, new):
    a = new("a")
    assert a.take(7)

    assert not a.take(7)
    a.release(7)
    b = new("b")
    b.take(7)
    a.release(7)

    assert b.is_held(7)


def test_parts_and_generations_beyond_their_digits_are_told_by_number(shelf, new):
    a, b = new("a"), new("b")
    shelf.put("123456/9999.json", b"{}")
    shelf.put("123456/10000.json", b"{}")
    shelf.pass_time(GONE_S)

    assert a.take(123456)

    assert "123456/10001.json" in shelf.claim_files()
    assert set(b.others()) == {123456}


# --- expiry ---


def test_a_claim_lives_for_its_lease_and_is_then_taken_over_once(shelf, new):
    dead, b, c = new("dead"), new("b"), new("c")
    dead.take(7)

    shelf.pass_time(LEASE_S)
    assert not b.take(7)
    shelf.pass_time(1.5)

    assert [b.take(7), c.take(7)] == [True, False]
    assert shelf.claim_files() == ["00007/0000.json", "00007/0001.json"]
    assert not dead.is_held(7)
    assert dead.held() == set()


def test_the_lease_that_counts_is_the_holders_own(shelf, new):
    patient, hasty = new("patient", lease_s=1000), new("hasty", lease_s=10)
    patient.take(1)
    hasty.take(2)

    shelf.pass_time(500)

    assert not hasty.take(1)
    assert patient.take(2)


def test_a_renewed_claim_outlives_its_lease(shelf, new):
    a, b = new("a"), new("b")
    a.take(7)

    for _ in range(10):
        shelf.pass_time(LEASE_S / 4)
        assert a.renew()
        assert not b.take(7)

    assert a.is_held(7)
    a.release(7)
    assert shelf.claim_files() == []


@pytest.mark.parametrize("fraction_s", [0.0, 0.01, 0.5, 0.99])
def test_times_in_whole_seconds_never_make_a_claim_older_than_its_lease(shelf, new, fraction_s):
    shelf.tick_s = 1.0
    shelf.storage_s += fraction_s
    a, b = new("a"), new("b")
    a.take(7)

    shelf.pass_time(LEASE_S)
    assert not b.take(7)
    shelf.pass_time(2.1)

    assert b.take(7)


def test_a_storage_whose_clock_is_an_hour_off_changes_nothing(shelf, new):
    shelf.storage_s = time.time() + 3600
    a, b = new("a"), new("b")
    a.take(7)

    shelf.pass_time(LEASE_S)
    assert not b.take(7)
    shelf.pass_time(1.5)

    assert b.take(7)


def test_a_storage_clock_that_is_set_back_costs_nobody_a_living_claim(shelf, new):
    a, b = new("a"), new("b")
    a.take(7)
    shelf.pass_time(1)
    assert not b.take(7)  # and b knows the clock from now on

    shelf.storage_s -= 3600
    a.renew()

    assert not b.take(7)


def test_the_storage_clock_is_asked_once_a_minute_and_before_a_takeover(shelf, new):
    a, b = new("a"), new("b")
    a.take(7)
    b.take(7)
    b.take(7)
    assert shelf.requests.count("put clock/b") == 1

    shelf.pass_time(61)
    b.take(7)
    assert shelf.requests.count("put clock/b") == 2

    shelf.pass_time(61)
    assert b.take(7)
    assert shelf.requests.count("put clock/b") == 4


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"[1, 2]",
        b'{"holder": "x"}',
        b"[" * 9000,
        b'{"holder": "x", "host": "h", "pid": 1, "lease_s": NaN}',
        b'{"holder": "x", "host": "h", "pid": 1e400, "lease_s": 10}',
    ],
)
def test_a_damaged_claim_is_respected_for_a_lease_like_ours(shelf, new, content):
    b = new("b")
    shelf.put("00007/0000.json", content)

    shelf.pass_time(LEASE_S)
    assert not b.take(7)
    assert b.others()[7].host == "unknown"
    shelf.pass_time(1.5)

    assert b.take(7)


# --- looking at others ---


def test_others_are_named_with_host_process_and_age(shelf, new):
    a, b, dead = new("a"), new("b"), new("dead")
    dead.take(1)
    shelf.pass_time(GONE_S)
    a.take(2)
    b.take(3)
    shelf.pass_time(30)

    assert set(b.others()) == {2}
    found = b.others()[2]
    assert (found.holder, found.host, found.pid) == ("a", os.uname().nodename, os.getpid())
    assert found.age_s == pytest.approx(30)
    assert b.live() == {2, 3}


def test_a_claim_is_read_again_only_after_its_renewal(shelf, new):
    a, b = new("a"), new("b")
    a.take(1)
    a.take(2)
    b.others()
    shelf.requests.clear()

    b.others()
    assert shelf.requests == ["list "]
    shelf.pass_time(30)
    a.renew()
    b.others()

    assert shelf.requests.count("read 00001/0000.json") == 1


def test_a_dropped_claim_is_nobodys(shelf, new):
    *_, c = chain_of_three(shelf, new)
    supervisor = new("supervisor")

    supervisor.drop(7)

    assert shelf.claim_files() == []
    assert not c.is_held(7)
    assert supervisor.take(7)
    supervisor.drop(7)
    assert supervisor.held() == set()


def test_expired_claims_and_old_probes_may_be_deleted_and_nothing_else(shelf, new):
    dead, alive, gc = new("dead"), new("alive"), new("gc")
    shelf.put("clock/long-gone", b"")
    shelf.put("00001/note.txt", b"not a claim")
    shelf.pass_time(25 * 3600)
    dead.take(3)
    dead.take(4)
    shelf.pass_time(GONE_S)
    assert alive.take(4)

    stale = gc.stale_files()

    assert stale == ["00003/0000.json", "clock/long-gone"]
    for name in stale:
        shelf.delete(name)
    assert alive.is_held(4)
    shelf.pass_time(GONE_S)
    assert gc.stale_files() == ["00004/0000.json", "00004/0001.json"]


# --- closing ---


def test_closing_releases_all_and_leaves_nothing_behind(shelf):
    with shelf.claims("a") as a:
        a.take(1)
        a.take(2)
        a.others()
        assert "clock/a" in shelf.files

    a.close()
    assert shelf.files == {}
    with pytest.raises(ValueError, match="part 3: these claims are closed"):
        a.take(3)


def test_closing_when_the_storage_is_down_tries_once_and_ends(shelf):
    """Each try may take minutes."""
    before = set(threading.enumerate())
    a = shelf.claims("a")
    a.take(1)
    a.take(2)
    a.others()
    shelf.is_down = True
    shelf.requests.clear()

    a.close()

    assert shelf.requests == ["delete 00001/0000.json"]
    assert a.held() == set()
    assert "claims" not in [thread.name for thread in set(threading.enumerate()) - before]


def test_a_lease_is_a_positive_time(shelf):
    with pytest.raises(ValueError, match="positive number of seconds, got 0"):
        shelf.claims("a", lease_s=0)


# === Holders that fail, freeze and wake: a part never has two, and none is lost for good ===


def test_a_renewal_that_fails_is_tried_again(shelf, new):
    a, b = new("a"), new("b")
    a.take(7)

    shelf.is_down = True
    shelf.pass_time(LEASE_S / 2)
    assert not a.renew()
    shelf.is_down = False
    assert a.renew()
    shelf.pass_time(LEASE_S)

    assert not b.take(7)
    assert a.is_held(7)


def test_a_renewal_within_the_lease_is_one_request(shelf, new):
    a = new("a")
    a.take(7)
    shelf.requests.clear()

    a.renew()

    assert shelf.requests == ["put 00007/0000.json"]


def test_who_wakes_after_its_lease_and_finds_nobody_holds_on(shelf, new):
    a, b = new("a"), new("b")
    a.take(7)
    shelf.pass_time(GONE_S)

    assert a.is_held(7)
    assert a.renew()

    assert not b.take(7)


@pytest.mark.parametrize("then", ["holds it", "released it"])
def test_who_wakes_after_a_takeover_gives_up_and_writes_nothing(shelf, new, then):
    a, b = new("a"), new("b")
    a.take(7)
    shelf.pass_time(GONE_S)
    b.take(7)
    if then == "released it":
        b.release(7)
    before = dict(shelf.files)

    assert a.renew()

    assert a.held() == set()
    assert not a.is_held(7)
    assert shelf.files == before


def test_who_wakes_to_a_new_claim_of_the_same_name_has_lost(shelf, new):
    a, b, c = new("a"), new("b"), new("c")
    a.take(7)
    shelf.pass_time(GONE_S)
    b.take(7)
    b.release(7)
    c.take(7)  # generation 0 again

    assert a.renew()

    assert (a.is_held(7), c.is_held(7)) == (False, True)


def test_a_renewal_a_lease_late_over_a_new_claim_leaves_one_holder(shelf, new):
    a, b, c = new("a"), new("b"), new("c")
    a.take(7)
    late = shelf.files["00007/0000.json"][0]
    shelf.pass_time(GONE_S)
    b.take(7)
    b.release(7)
    c.take(7)

    shelf.put("00007/0000.json", late)

    assert (a.is_held(7), c.is_held(7)) == (True, False)
    assert c.held() == set()


def test_a_late_take_of_a_part_that_was_finished_meanwhile_succeeds(shelf, new):
    """So whoever takes a part looks for its receipt afterwards."""
    dead, b, late = new("dead"), new("b"), new("late")
    dead.take(7)
    shelf.pass_time(GONE_S)
    create = shelf.create

    def finish_first(name: str, content: bytes) -> bool:
        shelf.create = create
        assert b.take(7)
        b.release(7)
        return bool(create(name, content))

    shelf.create = finish_first

    assert late.take(7)

    assert late.is_held(7)
    assert shelf.claim_files() == ["00007/0001.json"]


def test_nothing_is_deleted_once_the_lease_has_passed(shelf, new):
    a, b = new("a"), new("b")
    a.take(7)
    shelf.pass_time(GONE_S)

    a.release(7)

    assert shelf.claim_files() == ["00007/0000.json"]
    assert b.take(7)


def test_a_release_deletes_the_newest_file_last(shelf, new):
    *_, c = chain_of_three(shelf, new)
    shelf.requests.clear()

    c.release(7)

    assert shelf.requests == [f"delete 00007/000{generation}.json" for generation in (0, 1, 2)]


@pytest.mark.parametrize("num_deleted", [0, 1, 2])
def test_a_release_killed_in_the_middle_leaves_a_claim_that_expires(shelf, new, num_deleted):
    a, b, c = chain_of_three(shelf, new)
    shelf.dies_after = num_deleted

    with pytest.raises(KeyboardInterrupt):
        c.release(7)

    shelf.dies_after = None
    d, e = new("d"), new("e")
    assert len(shelf.claim_files()) == 3 - num_deleted
    assert set(d.others()) == {7}
    assert not d.take(7)
    assert [claims.is_held(7) for claims in (a, b, c)] == [False] * 3
    shelf.pass_time(GONE_S)
    assert [d.take(7), e.take(7)] == [True, False]
    assert shelf.claim_files()[-1] == "00007/0003.json"
    d.release(7)
    assert shelf.claim_files() == []


@pytest.mark.parametrize("num_deleted", [0, 1, 2])
def test_a_release_that_freezes_in_the_middle_never_ends_the_next_claim(shelf, new, num_deleted):
    *_, c = chain_of_three(shelf, new)
    d = new("d")
    delete = shelf.delete

    def freeze(name: str) -> None:
        delete(name)
        if name == f"00007/000{num_deleted}.json":
            shelf.delete = delete
            shelf.pass_time(GONE_S)
            assert d.take(7)

    shelf.delete = freeze

    c.release(7)

    assert d.is_held(7)


def test_what_cannot_be_deleted_is_left_to_expire(shelf, new):
    a, b = new("a"), new("b")
    a.take(7)
    shelf.is_down = True

    a.release(7)

    shelf.is_down = False
    assert a.held() == set()
    a.renew()
    shelf.pass_time(GONE_S)
    assert b.take(7)


def test_a_storage_that_cannot_be_asked_is_an_error_not_an_answer(shelf, new):
    a = new("a")
    a.take(7)
    shelf.is_down = True

    with pytest.raises(StoreError, match="connection refused"):
        a.is_held(7)
    with pytest.raises(StoreError, match="connection refused"):
        a.take(8)

    shelf.is_down = False
    assert a.is_held(7)
    assert a.take(8)


# === Claims in the threads of one process: each part goes to one, while others are renewed ===


def test_of_many_threads_each_part_goes_to_one(shelf, new):
    claims = new("a")
    wins: list[int] = []

    def take_all(seed: int) -> None:
        for number in random.Random(seed).sample(range(50), 50):
            if claims.take(number):
                wins.append(number)

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(take_all, range(8)))

    assert sorted(wins) == list(range(50))
    assert claims.held() == set(range(50))


def test_a_part_that_another_thread_is_about_to_take_is_not_taken_twice(shelf, new):
    a = new("a")
    listed = shelf.list
    second = []

    def want_it_too(folder: str = "") -> Iterator[FileInfo]:
        shelf.list = listed
        second.append(a.take(7))
        yield from listed(folder)

    shelf.list = want_it_too

    assert a.take(7)

    assert second == [False]


def test_a_release_waits_for_the_renewal_that_is_on_its_way(shelf, new):
    a = new("a")
    a.take(7)
    put = shelf.put
    release = threading.Thread(target=a.release, args=(7,))

    def be_slow(name: str, content: bytes) -> None:
        release.start()
        release.join(0.1)
        assert release.is_alive()
        put(name, content)

    shelf.put = be_slow

    a.renew()

    release.join()
    assert shelf.claim_files() == []


def test_a_part_that_was_released_while_others_were_renewed_is_not_renewed(shelf, new):
    a = new("a")
    a.take(1)
    a.take(2)
    put = shelf.put

    def release_the_next(name: str, content: bytes) -> None:
        shelf.put = put
        a.release(2)
        put(name, content)

    shelf.put = release_the_next

    a.renew()

    assert shelf.claim_files() == ["00001/0000.json"]


def test_threads_that_take_and_release_while_others_renew_leave_no_file(tmp_path):
    place = Place(str(tmp_path))
    claims = Claims(place)
    is_done = threading.Event()

    def renew() -> None:
        while not is_done.is_set():
            claims.renew()

    def work(seed: int) -> int:
        taken = [n for n in random.Random(seed).choices(range(5), k=100) if take_and_release(n)]
        return len(taken)

    def take_and_release(number: int) -> bool:
        if not claims.take(number):
            return False
        claims.release(number)
        return True

    with ThreadPoolExecutor(6) as pool:
        renewers = [pool.submit(renew) for _ in range(2)]
        num_taken = sum(pool.map(work, range(4)))
        is_done.set()
        for renewer in renewers:
            renewer.result()
    claims.close()

    assert num_taken > 50
    assert list(place.list()) == []


def test_the_thread_renews_and_survives_a_storage_that_fails_for_a_while(tmp_path):
    class Flaky(Place):
        num_failures = 3

        def put(self, name: str, content: bytes | Path) -> None:
            if self.num_failures:
                self.num_failures -= 1
                raise StoreError("connection refused")
            super().put(name, content)

    place = Flaky(str(tmp_path))
    with Claims(place, lease_s=0.4) as claims:
        assert claims.take(7)

        def num_beats() -> int:
            return int(json.loads(place.read("00007/0000.json") or b"{}").get("beat", 0))

        wait_until(lambda: num_beats() >= 2)
        assert place.num_failures == 0
        assert claims.is_held(7)
