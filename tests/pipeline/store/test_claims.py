"""Who holds a part: one of many, for a lease, told by the storage's clock; never two at once."""

import os
import threading
import time

import pytest

from egoctl.tests.worlds.claim_shelf import GONE_S, LEASE_S, chain_of_three

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
