"""Claims of real processes that die, are killed, are stopped, and share parts with others."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from egoctl.pipeline.files.place import Place
from egoctl.pipeline.store.claims import Claims
from egoctl.pipeline.store.process_name import is_known_dead, process_name
from egoctl.tests.worlds.claim_shelf import GIVE_UP_S, wait_until
from egoctl.tests.worlds.s3_server import FaultRates, FaultyProxy


class Child:
    """Claims in another process that does as it is told: `ask("take", 7)`."""

    def __init__(self, url: str, lease_s: float, clock_off_s: float = 0) -> None:
        words = ["serve", url, str(lease_s), str(clock_off_s)]
        self.process = subprocess.Popen(
            child_command(*words), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def ask(self, question: str, number: int) -> bool:
        assert self.process.stdin is not None and self.process.stdout is not None
        self.process.stdin.write(f"{question} {number}\n")
        self.process.stdin.flush()
        answer = self.process.stdout.readline().strip()
        assert answer in ("True", "False"), answer
        return answer == "True"


@contextmanager
def child(url: str, *, lease_s: float, clock_off_s: float = 0) -> Iterator[Child]:
    started = Child(url, lease_s, clock_off_s)
    try:
        yield started
    finally:
        started.process.kill()
        started.process.communicate(timeout=GIVE_UP_S)


def child_command(*words: str) -> list[str]:
    module = "from egoctl.tests.pipeline.store import test_claim_processes as t"
    code = f"import sys; {module}; getattr(t, sys.argv[1])()"
    return [sys.executable, "-c", code, *words]


def serve() -> None:
    """In the child: answer questions about claims until the end of the input."""
    url, lease_s, clock_off_s = sys.argv[2], float(sys.argv[3]), float(sys.argv[4])
    true_time = time.time
    time.time = lambda: true_time() + clock_off_s
    claims = Claims(Place(url), lease_s=lease_s)
    for line in sys.stdin:
        question, number = line.split()
        print(getattr(claims, question)(int(number)), flush=True)


def storage_age_s(place: Place, name: str) -> float:
    place.put("now", b"")
    now, info = place.info("now"), place.info(name)
    assert now is not None and info is not None
    return now.modified_s - info.modified_s


def test_the_part_of_a_process_that_died_on_this_machine_is_free_at_once(tmp_path):
    place = Place(str(tmp_path))
    with child(str(tmp_path), lease_s=120) as dead, Claims(place) as claims:
        assert dead.ask("take", 7)
        assert not claims.take(7)
        dead.process.send_signal(signal.SIGKILL)
        dead.process.wait(GIVE_UP_S)

        assert claims.others() == {}
        assert claims.take(7)


def test_a_process_number_that_was_given_to_another_process_is_known_by_its_start(tmp_path):
    mine = process_name()
    home, _, started = mine.rpartition("/")

    assert not is_known_dead(mine)
    assert is_known_dead(f"{home}/{int(started) + 1}")
    assert not is_known_dead(f"another-boot/{mine}")
    assert not is_known_dead("")


def test_the_part_of_a_killed_process_is_taken_over_after_its_lease_and_not_before(
    tmp_path, monkeypatch
):
    # As it looks from another machine.
    monkeypatch.setattr("egoctl.pipeline.store.claims.is_known_dead", lambda name: False)
    place = Place(str(tmp_path))
    with child(str(tmp_path), lease_s=1.5) as dead, Claims(place) as claims:
        assert dead.ask("take", 7)
        dead.process.send_signal(signal.SIGKILL)
        dead.process.wait(GIVE_UP_S)

        assert not claims.take(7)
        assert claims.others()[7].pid == dead.process.pid
        wait_until(lambda: claims.take(7))

        assert storage_age_s(place, "00007/0000.json") > 2.5
        assert claims.is_held(7)


def test_a_process_that_is_stopped_past_its_lease_wakes_up_without_its_parts(tmp_path):
    place = Place(str(tmp_path))
    with child(str(tmp_path), lease_s=0.5) as frozen, Claims(place) as claims:
        assert frozen.ask("take", 7) and frozen.ask("take", 8)
        frozen.process.send_signal(signal.SIGSTOP)
        wait_until(lambda: claims.take(7))
        wait_until(lambda: claims.take(8))
        claims.release(8)

        frozen.process.send_signal(signal.SIGCONT)

        assert not frozen.ask("is_held", 7)
        assert not frozen.ask("is_held", 8)
        assert claims.is_held(7)
        assert not frozen.ask("take", 7)


def test_a_machine_whose_clock_is_an_hour_off_changes_nothing(tmp_path):
    place = Place(str(tmp_path))
    with (
        Claims(place) as claims,
        child(str(tmp_path), lease_s=120, clock_off_s=3600) as ahead,
        child(str(tmp_path), lease_s=120, clock_off_s=-3600) as behind,
    ):
        assert claims.take(1) and ahead.ask("take", 2) and behind.ask("take", 3)

        assert not claims.take(2) and not claims.take(3)
        assert not ahead.ask("take", 1) and not ahead.ask("take", 3)
        assert not behind.ask("take", 1) and not behind.ask("take", 2)
        assert claims.is_held(1) and ahead.ask("is_held", 2) and behind.ask("is_held", 3)
        assert all(0 <= claim.age_s < GIVE_UP_S for claim in claims.others().values())


def fill() -> None:
    """In a child: work off every part like an extraction; say where two held one at once."""
    url, folder = sys.argv[2], Path(sys.argv[3])
    seed, num_parts = (int(word) for word in sys.argv[4:])
    chosen = random.Random(seed)
    print("ready", flush=True)
    sys.stdin.readline()
    with Claims(Place(url), lease_s=30) as claims:
        left = set(range(num_parts))
        while left:
            for number in chosen.sample(sorted(left), len(left)):
                receipt, working = folder / f"receipt-{number}", folder / f"working-{number}"
                if not receipt.exists() and claims.take(number):
                    if not receipt.exists():
                        os.close(os.open(working, os.O_CREAT | os.O_EXCL))
                        assert claims.is_held(number)
                        assert len(list(claims.place.list())) > 0  # takes a while
                        assert claims.is_held(number)
                        with receipt.open("a") as file:
                            file.write(f"{seed}\n")
                        working.unlink()
                    claims.release(number)
                if receipt.exists():
                    left.discard(number)


def fill_by_many(url: str, folder: Path, *, num_processes: int, num_parts: int) -> None:
    """Have processes share the work: each part is done once, and no claim is left behind.

    Every other part has a holder that is dead; all will want those at the same moment.
    """
    fields = {"holder": "dead", "host": "gone", "pid": 1, "lease_s": 0.01, "beat": 0}
    for number in range(0, num_parts, 2):
        assert Place(url).create(f"{number:05d}/0000.json", json.dumps(fields).encode())
    processes = [
        subprocess.Popen(
            child_command("fill", url, str(folder), str(seed), str(num_parts)),
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )
        for seed in range(num_processes)
    ]  # fmt: skip
    try:
        for process in processes:
            assert process.stdout is not None and process.stdout.readline() == "ready\n"
        for process in processes:
            assert process.stdin is not None
            process.stdin.write("go\n")
            process.stdin.flush()
        errors = [process.communicate(timeout=GIVE_UP_S)[1] for process in processes]
    finally:
        for process in processes:
            process.kill()
            process.wait()

    assert errors == [""] * num_processes
    done = [(folder / f"receipt-{number}").read_text().split() for number in range(num_parts)]
    assert [len(seeds) for seeds in done] == [1] * num_parts
    assert len(Counter(seeds[0] for seeds in done)) > 1, "one process did all: nothing was shared"
    assert list(Place(url).list()) == []


def test_eight_processes_share_forty_parts_and_no_part_has_two_holders(tmp_path):
    fill_by_many(str(tmp_path / "claims"), tmp_path, num_processes=8, num_parts=40)


def test_processes_share_parts_in_a_bucket_that_fails_now_and_then(
    s3, s3_server, tmp_path, monkeypatch
):
    rates = FaultRates(refuse=0.03, lose=0.03, drop=0.03, delay=0.03, max_delay_s=0.1)
    with FaultyProxy(s3_server.url, rates) as proxy:
        monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.url)

        fill_by_many(s3, tmp_path, num_processes=4, num_parts=16)

        assert all(proxy.counts[fault] > 0 for fault in ("refuse", "lose", "drop", "delay"))


def test_a_claim_in_a_bucket_is_taken_renewed_taken_over_and_released(s3):
    place = Place(s3)
    with Claims(place, holder="a", lease_s=60) as a, Claims(place) as b:
        assert a.take(7)
        assert not b.take(7)
        assert b.others()[7].holder == "a"
        assert a.renew() and a.is_held(7)
        a.release(7)
        assert b.take(7) and b.is_held(7)
        assert not a.is_held(7)

    assert list(place.list()) == []
