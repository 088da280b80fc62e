"""Holders of parts that fail, freeze and wake: a part never has two, and none is lost for good."""

import pytest

from egoctl.pipeline.errors import StoreError
from egoctl.tests.worlds.claim_shelf import GONE_S, LEASE_S, chain_of_three

pytest_plugins = ["egoctl.tests.worlds.claim_shelf"]


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
