"""A copy that is killed, at any moment: run it again and nothing tells that it happened."""

import multiprocessing
import random
import signal
import time
from multiprocessing.context import ForkServerContext
from pathlib import Path

import pytest

from egoctl.pipeline.sharing import copy as store_copy
from egoctl.pipeline.sharing.copy import copy_store
from egoctl.pipeline.sharing.selection import Selection
from egoctl.pipeline.sharing.verify import verify
from egoctl.pipeline.store import FeatureStore
from egoctl.tests.worlds import copied_store
from egoctl.tests.worlds.copied_store import content
from egoctl.tests.worlds.s3_server import FaultRates, FaultyProxy, S3Server, s3_environment
from egoctl.tests.worlds.small_stores import clip_row, small_store

pytest_plugins = ["egoctl.tests.worlds.s3_server"]

EVERYTHING = Selection()
NUM_KILLS = 5
GIVE_UP_S = 60.0


@pytest.fixture(scope="module")
def processes() -> ForkServerContext:
    """Starts real processes that have imported everything already."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(
        ["egoctl.tests.worlds.copied_store", "egoctl.pipeline.store.zarr_files"]
    )
    return context


@pytest.mark.parametrize("direction", ["push", "pull"])
def test_a_copy_killed_at_five_moments_never_counts_half_parts_and_ends_whole(
    processes: ForkServerContext,
    tmp_path: Path,
    s3: str,
    s3_server: S3Server,
    direction: str,
) -> None:
    local = small_store(
        str(tmp_path / "local"), [clip_row(f"s{i}") for i in range(32)], part_rows=2
    )
    source, target = local.url, f"{s3}/killed"
    if direction == "pull":
        source, target = f"{s3}/source", str(tmp_path / "killed")
        copy_store(local.url, source, EVERYTHING)
    chosen = random.Random(direction)
    with FaultyProxy(s3_server.url, FaultRates()) as proxy:
        copy_store_through(processes, proxy, source, target + "-undisturbed", kill_after=None)
        num_requests = proxy.counts["requests"]

        exit_codes = []
        for _ in range(NUM_KILLS):
            moment = int(num_requests * chosen.uniform(0.02, 0.3))
            exit_codes.append(
                copy_store_through(processes, proxy, source, target, kill_after=moment)
            )
            if FeatureStore.exists(target):
                # What is there is whole: everything else is told to be undone.
                faults = verify(target).faults
                wrong = [f for f in faults if not f.is_undone and f.part is not None]
                assert wrong == []

    assert exit_codes[:3] == [-signal.SIGKILL] * 3
    copy_store(source, target, EVERYTHING)
    assert content(target) == content(source)
    assert verify(target).faults == ()


def copy_store_through(
    processes: ForkServerContext,
    proxy: FaultyProxy,
    source: str,
    target: str,
    *,
    kill_after: int | None,
) -> int | None:
    """Copy in a process, killed after that many requests; its exit code."""
    before = proxy.counts["requests"]
    args = (source, target, s3_environment(proxy.url))
    process = processes.Process(target=copied_store.run, args=args)
    process.start()
    give_up = time.monotonic() + GIVE_UP_S
    while process.is_alive():
        assert time.monotonic() < give_up
        if kill_after is not None and proxy.counts["requests"] - before >= kill_after:
            process.kill()
        process.join(0.001)
    if kill_after is None:
        assert process.exitcode == 0
    return process.exitcode


def test_what_a_copier_held_that_died_elsewhere_is_copied_when_its_lease_has_ended(
    tmp_path, monkeypatch
):
    monkeypatch.setattr(store_copy, "POLL_S", 0.02)
    source = small_store(str(tmp_path / "source"), [clip_row(f"s{i}") for i in range(10)])
    target = str(tmp_path / "t")
    copy_store(source.url, target, Selection(rows=(0, 4)))
    dead = FeatureStore.open(target, lease_s=0.05)
    dead.claims._renewer = _NeverStarts()
    assert dead.claims.take(1)

    report = copy_store(source.url, target, EVERYTHING, say=lambda sentence: None)

    assert report.num_parts == {"already there": 1, "copied": 2}


class _NeverStarts:
    """A thread that would have renewed the claims of a process that is dead."""

    ident = None

    def start(self) -> None:
        """Not in this test."""


def test_a_bucket_that_loses_answers_gets_the_same_store(
    tmp_path: Path, s3: str, s3_server: S3Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = small_store(str(tmp_path / "source"), [clip_row(f"s{i}") for i in range(10)])
    rates = FaultRates(refuse=0.1, lose=0.1, drop=0.05)
    with FaultyProxy(s3_server.url, rates, seed=5, max_faults=20) as proxy:
        monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.url)
        copy_store(source.url, f"{s3}/t", EVERYTHING)
        copy_store(f"{s3}/t", str(tmp_path / "back"), EVERYTHING)

        assert proxy.counts["refuse"] and proxy.counts["lose"] and proxy.counts["drop"]
        assert content(f"{s3}/t") == content(source.url) == content(str(tmp_path / "back"))
