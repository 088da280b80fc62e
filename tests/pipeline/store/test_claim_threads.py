"""Claims in the threads of one process: each part goes to one, while others are renewed."""

import json
import random
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from egoctl.pipeline.errors import StoreError
from egoctl.pipeline.files.place import FileInfo, Place
from egoctl.pipeline.store.claims import Claims
from egoctl.tests.worlds.claim_shelf import wait_until

pytest_plugins = ["egoctl.tests.worlds.claim_shelf"]


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
