"""What `store gc` removes: what the dead left behind; and what it never touches."""

import json
import os
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import CliRunner

from egoctl import cli
from egoctl.pipeline.sharing.copy import copy_store
from egoctl.pipeline.sharing.garbage import GcReport, collect, gc_lines
from egoctl.pipeline.sharing.selection import Selection
from egoctl.pipeline.sharing.verify import verify
from egoctl.pipeline.store import FeatureStore
from egoctl.pipeline.store import claims as claims_module
from egoctl.pipeline.store.claims import Claims
from egoctl.pipeline.store.receipt import receipt_name
from egoctl.tests.worlds.small_stores import clip_row, small_store


@pytest.fixture(params=["folder", "bucket"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> FeatureStore:
    """Parts 0 to 2 of 4, 4 and 2 rows, all done."""
    url = str(tmp_path / "store")
    if request.param == "bucket":
        url = request.getfixturevalue("s3") + "/store"
    return small_store(url, [clip_row(f"s{i}") for i in range(10)])


def files(store: FeatureStore) -> dict[str, int]:
    return {info.name: info.num_bytes for info in store.place.list()}


def files_of_part(store: FeatureStore, number: int) -> dict[str, int]:
    """Its shards and statistics."""
    names = {spec.shard_name(number) for spec in store.header.arrays} | {f"stats/{number:05d}.npz"}
    return {name: size for name, size in files(store).items() if name in names}


def died_before_the_receipt(store: FeatureStore, number: int) -> dict[str, int]:
    store.place.delete(receipt_name(number))
    return files_of_part(store, number)


def leave_claim(store: FeatureStore, number: int, *, lease_s: float) -> str:
    """The claim of a process that was killed: nobody renews it."""
    name = f"claims/{number:05d}/0000.json"
    claim = {"holder": "dead", "host": "there", "pid": 1, "process": "", "lease_s": lease_s}
    store.place.put(name, json.dumps(claim).encode())
    return name


def removed(report: GcReport) -> dict[str, int]:
    return {file.name: file.num_bytes for file in report.removed}


def test_from_a_store_where_nobody_died_nothing_is_removed(store):
    before = files(store)

    report = collect(store.url)

    assert report.removed == () and report.parts_at_work == ()
    assert files(store) == before
    assert list(gc_lines(report)) == ["0 files removed, 0 bytes."]


def test_shards_and_statistics_without_a_receipt_go_and_whole_parts_stay(store):
    orphans = died_before_the_receipt(store, 1)
    assert len(orphans) == 3
    before = files(store)

    report = collect(store.url)

    assert removed(report) == orphans
    assert report.num_bytes == sum(orphans.values())
    assert files(store) == {n: size for n, size in before.items() if n not in orphans}
    assert [(f.part, f.is_undone) for f in verify(store.url).faults] == [(1, True)]


def test_a_part_that_lost_its_receipt_can_be_written_after_it_was_cleared(store):
    source = small_store(f"{store.url}-source", [clip_row(f"s{i}") for i in range(10)])
    died_before_the_receipt(store, 1)
    collect(store.url)

    copy_store(source.url, store.url, Selection())

    assert verify(store.url).faults == ()


def test_a_dry_run_says_the_same_and_removes_nothing(store):
    orphans = died_before_the_receipt(store, 1)
    before = files(store)

    report = collect(store.url, is_dry_run=True)

    assert removed(report) == orphans
    assert files(store) == before
    assert list(gc_lines(report))[-1] == (
        f"3 files would be removed, {sum(orphans.values()):,} bytes."
    )


def test_what_a_living_claim_is_about_is_not_touched(store):
    died_before_the_receipt(store, 0)
    died_before_the_receipt(store, 1)
    before = files(store)
    at_work = FeatureStore.open(store.url)
    assert at_work.claims.take(0)
    dead = leave_claim(store, 1, lease_s=600)  # it may still live, for all anybody knows

    for is_dry_run in (True, False):
        report = collect(store.url, is_dry_run=is_dry_run)

        assert report.removed == () and report.parts_at_work == (0, 1)
    assert files(store).items() >= before.items()
    assert at_work.claims.is_held(0) and dead in files(store)
    assert "2 parts are being written; they were left alone." in gc_lines(report)
    at_work.close()


def test_an_expired_claim_goes_and_so_does_what_it_was_about(store, monkeypatch):
    orphans = died_before_the_receipt(store, 2)
    whole = files_of_part(store, 0)
    claims = {leave_claim(store, 0, lease_s=1), leave_claim(store, 2, lease_s=1)}
    # A claim may be that much younger than it looks: now it is as if it were older.
    monkeypatch.setattr(claims_module, "CLOCK_STEP_S", -10.0)

    report = collect(store.url)

    assert set(removed(report)) == claims | orphans.keys()
    assert whole.items() <= files(store).items()
    assert not any(name.startswith("claims/") for name in files(store))


def test_old_clock_probes_go_and_young_ones_stay(tmp_path):
    store = small_store(str(tmp_path / "s"), [clip_row("s0")])
    for name in ("old", "young"):
        store.place.put(f"claims/clock/{name}", b"")
    two_days_ago = time.time() - 2 * 86400
    os.utime(tmp_path / "s/claims/clock/old", (two_days_ago, two_days_ago))

    report = collect(store.url)

    assert removed(report) == {"claims/clock/old": 0}
    assert "claims/clock/young" in files(store)


def test_staged_files_go_when_nobody_has_written_to_them_for_an_hour(tmp_path):
    store = small_store(str(tmp_path / "s"), [clip_row("s0")])
    folder = tmp_path / "s"
    old = ["store.json#1", "arrays/feature/c/0/0#12", "parts/00000.json#2", "clips/0.parquet#1"]
    kept = ["arrays/feature/c/0/0#13", "holiday#1", "photos/beach#1", "parts/notes#a"]
    for name in old + kept:
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(b"half")
    two_hours_ago = time.time() - 7200
    for name in [*old, *kept[1:]]:
        os.utime(folder / name, (two_hours_ago, two_hours_ago))

    dry, report = (collect(store.url, is_dry_run=dry) for dry in (True, False))

    assert removed(dry) == removed(report) == dict.fromkeys(sorted(old), 4)
    assert [name for name in old + kept if (folder / name).exists()] == kept
    assert verify(store.url).faults == ()


def test_a_store_named_by_a_relative_path_is_cleaned_the_same(tmp_path, monkeypatch):
    small_store(str(tmp_path / "s"), [clip_row("s0")])
    staged = tmp_path / "s/parts/00000.json#1"
    staged.write_bytes(b"half")
    os.utime(staged, (0, 0))
    monkeypatch.chdir(tmp_path)

    assert removed(collect("s")) == {"parts/00000.json#1": 4}
    assert not staged.exists()


def test_what_is_not_the_stores_stays(store):
    """Nothing is removed for looking unknown: only what a part without a receipt would have."""
    strangers = [
        "notes.txt",
        "arrays/other/c/1/0",
        "arrays/feature/c/01/0",
        "arrays/feature/c/1/0/more",
        "stats/1.npz",
    ]
    if store.place.path is None:
        strangers.append("stats/00001.npz.bak")
    else:
        strangers.remove("arrays/feature/c/1/0/more")  # a folder cannot be a file, too
    for name in strangers:
        store.place.put(name, b"mine")
    orphans = died_before_the_receipt(store, 1)

    report = collect(store.url)

    assert removed(report) == orphans
    assert files(store).items() >= dict.fromkeys(strangers, 4).items()


def test_a_part_that_is_finished_while_gc_looks_is_kept(store, monkeypatch):
    text = store.place.read(receipt_name(1))
    died_before_the_receipt(store, 1)
    before = files(store)
    on_take(monkeypatch, lambda: store.place.put(receipt_name(1), text))

    report = collect(store.url)

    assert report.removed == ()
    assert files(store).items() >= before.items()
    assert verify(store.url).faults == ()


def test_a_part_whose_claim_gc_loses_is_left_to_the_winner(store, monkeypatch):
    died_before_the_receipt(store, 1)
    before = files(store)
    # While gc holds the part, it sleeps past its lease and another takes it over.
    monkeypatch.setattr(Claims, "is_held", lambda self, number: False)

    collect(store.url)

    assert files(store).items() >= before.items()


def on_take(monkeypatch: pytest.MonkeyPatch, happens: Callable[[], object]) -> None:
    """Something happens right before a claim is taken."""
    take = Claims.take

    def after_it_happened(self: Claims, number: int) -> bool:
        happens()
        return take(self, number)

    monkeypatch.setattr(Claims, "take", after_it_happened)


def test_the_command_says_what_went(tmp_path):
    store = small_store(str(tmp_path / "s"), [clip_row("s0")])
    orphans = died_before_the_receipt(store, 0)

    dry = CliRunner().invoke(cli.app, ["store", "gc", store.url, "--dry-run"])
    real = CliRunner().invoke(cli.app, ["store", "gc", store.url, "--json"])

    size = orphans["stats/00000.npz"]
    assert dry.stdout.splitlines()[2] == (
        f"stats/00000.npz: of part 0, which has no receipt, {size:,} bytes"
    )
    assert len(json.loads(real.stdout)["removed"]) == 3
    assert list(store.place.list("stats")) == []
