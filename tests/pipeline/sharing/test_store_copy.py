"""Copies of stores: whole parts, each compared with its receipt, whatever happens on the way."""

import json
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from egoctl import cli
from egoctl.pipeline.errors import StoreError, StoreMismatchError
from egoctl.pipeline.files.place import Place
from egoctl.pipeline.sharing import copy as store_copy
from egoctl.pipeline.sharing.copy import copy_lines, copy_store
from egoctl.pipeline.sharing.selection import Selection
from egoctl.pipeline.sharing.verify import verify
from egoctl.pipeline.store import FeatureStore
from egoctl.pipeline.store.clip_table import clips_frame
from egoctl.tests.worlds.copied_store import changed, content, counts
from egoctl.tests.worlds.small_stores import (
    BAD_VIDEO,
    RECIPE,
    clip_row,
    small_store,
    values_of,
)

pytest_plugins = ["egoctl.tests.worlds.s3_server", "egoctl.tests.worlds.copied_store"]

EVERYTHING = Selection()
GIVE_UP_S = 60.0


@pytest.fixture(autouse=True)
def short_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store_copy, "POLL_S", 0.02)


# --- what is copied ---


def test_a_copy_has_every_file_of_the_source_byte_for_byte(source, target):
    report = copy_store(source.url, target, EVERYTHING)

    assert content(target) == content(source.url)
    assert counts(report) == {"copied": 3}
    shards = sum(len(data) for name, data in content(source.url).items() if is_of_part(name))
    assert report.num_bytes == shards
    assert verify(target, is_deep=True).faults == ()


def is_of_part(name: str) -> bool:
    return "/c/" in name or name.startswith("stats/")


def test_there_and_back_again_is_the_same_store(source, target, tmp_path):
    copy_store(source.url, target, EVERYTHING)

    copy_store(target, str(tmp_path / "back"), EVERYTHING)

    assert content(str(tmp_path / "back")) == content(source.url)
    back = FeatureStore.open(str(tmp_path / "back"))
    feature = back.read("feature", np.array([9, 0]))
    expected = [values_of(f"s{i}@0.000-2.000", 5).astype(np.float16) for i in (9, 0)]
    np.testing.assert_array_equal(feature, expected)


def test_the_second_time_no_shard_is_read_or_written(source, target, tmp_path, monkeypatch):
    copy_store(source.url, target, EVERYTHING)
    pulled = str(tmp_path / "pulled")
    copy_store(target, pulled, EVERYTHING)
    touched = watch(monkeypatch, target)

    report = copy_store(target, pulled, EVERYTHING)

    assert (counts(report), report.num_bytes) == ({"already there": 3}, 0)
    # The header, the clips and the receipts are looked at; nothing else, and nothing is put.
    assert sorted(touched) == [
        "read 00000.parquet",
        "read 00000.parquet",
        "read parts/00000.json",
        "read parts/00001.json",
        "read parts/00002.json",
        "read store.json",
    ]


def watch(monkeypatch: pytest.MonkeyPatch, url: str) -> list[str]:
    """The names that are read, and those that are written anywhere, from now on."""
    touched: list[str] = []
    read, put, create = Place.read, Place.put, Place.create

    def watched_read(self, name, *, max_bytes=None):
        if self.url.startswith(url):
            touched.append(f"read {name}")
        return read(self, name, max_bytes=max_bytes)

    def watched_put(self, name, content):
        touched.append(f"put {name}")
        put(self, name, content)

    def watched_create(self, name, content):
        touched.append(f"create {name}")
        return create(self, name, content)

    monkeypatch.setattr(Place, "read", watched_read)
    monkeypatch.setattr(Place, "put", watched_put)
    monkeypatch.setattr(Place, "create", watched_create)
    return touched


def test_what_the_source_gained_is_all_that_is_sent(source, target):
    copy_store(source.url, target, EVERYTHING)
    source = small_store(source.url, [clip_row(f"s{i}") for i in range(10)] + [clip_row("new")])

    report = copy_store(source.url, target, EVERYTHING)

    assert counts(report) == {"already there": 3, "copied": 1}
    assert content(target) == content(source.url)


def test_parts_that_are_not_done_wait_for_the_next_copy(tmp_path, target):
    source = small_store(
        str(tmp_path / "part done"), [clip_row(f"s{i}") for i in range(10)], done=[1]
    )
    report = copy_store(source.url, target, EVERYTHING)

    assert counts(report) == {"copied": 1, "not done": 2}
    assert "2 parts are not done in" in "\n".join(copy_lines(report))
    faults = verify(target).faults
    assert [(fault.part, fault.is_undone) for fault in faults] == [(0, True), (2, True)]


def test_many_parts_are_told_apart_by_many_threads(tmp_path):
    rows = [clip_row(f"s{i}") for i in range(200)]
    source = small_store(str(tmp_path / "s"), rows, part_rows=1)

    report = copy_store(source.url, str(tmp_path / "t"), EVERYTHING)

    assert counts(report) == {"copied": 200}


# --- a target that is something else ---


def test_a_target_of_another_recipe_is_refused_field_by_field(source, tmp_path):
    other = small_store(
        str(tmp_path / "o"), [clip_row("s0")], recipe={**RECIPE, "stride_s": 0.1667}
    )
    before = content(other.url)

    with pytest.raises(StoreMismatchError, match=r"stride_s: store 0.1667, this run 0.1333"):
        copy_store(source.url, other.url, EVERYTHING)
    assert content(other.url) == before


def test_a_target_of_other_arrays_or_class_names_is_refused(source, tmp_path):
    copy_store(source.url, str(tmp_path / "f"), Selection(arrays=("feature",)))
    with pytest.raises(StoreMismatchError, match="arrays.logits"):
        copy_store(source.url, str(tmp_path / "f"), EVERYTHING)

    other = small_store(str(tmp_path / "o"), [], class_names=("a", "b", "c"))
    with pytest.raises(StoreMismatchError, match="other class names"):
        copy_store(source.url, other.url, EVERYTHING)


def test_a_target_of_other_rows_is_refused_by_the_first_that_differs(source, tmp_path):
    rows = [clip_row("s0"), clip_row("x"), clip_row("s2")]
    other = small_store(str(tmp_path / "o"), rows)
    before = content(other.url)

    with pytest.raises(
        StoreMismatchError, match=r"row 1 of 00000.parquet is x@0.000.* there, s1@0.000.* here"
    ):
        copy_store(source.url, other.url, EVERYTHING)
    assert content(other.url) == before


def test_a_target_with_more_rows_is_refused(source, target):
    copy_store(source.url, target, EVERYTHING)
    store = FeatureStore.open(target)
    store.add_clips(clips_frame([clip_row("more")], first_part=3, part_rows=4))

    with pytest.raises(StoreMismatchError, match="00001.parquet holds rows that .* has not"):
        copy_store(source.url, target, EVERYTHING)


def test_rows_written_by_another_version_of_the_file_format_are_the_same_rows(source, tmp_path):
    target = tmp_path / "t"
    copy_store(source.url, str(target), Selection(rows=(0, 4)))
    clips = target / "clips/00000.parquet"
    source.clips().write_parquet(clips, compression="uncompressed")
    theirs = clips.read_bytes()

    report = copy_store(source.url, str(target), EVERYTHING)

    assert counts(report) == {"already there": 1, "copied": 2}
    assert clips.read_bytes() == theirs


def test_a_folder_with_other_things_is_left_alone(source, tmp_path):
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos/holiday.jpg").write_bytes(b"x")

    with pytest.raises(StoreError, match="folder with other files"):
        copy_store(source.url, str(tmp_path / "photos"), EVERYTHING)


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        ({}, {"shifts": {"s5": 1.0}}),
        ({"failed": {"s5": BAD_VIDEO}}, {"failed": {"s5": replace(BAD_VIDEO, reason="other")}}),
    ],
)
def test_a_part_that_others_computed_is_kept_and_told(tmp_path, ours, theirs):
    rows = [clip_row(f"s{i}") for i in range(10)]
    source = small_store(str(tmp_path / "ours"), rows, **ours)
    theirs = small_store(str(tmp_path / "theirs"), rows, seconds=3.0, **theirs)
    before = content(theirs.url)

    report = copy_store(source.url, theirs.url, EVERYTHING)

    # Part 0 took other seconds, but has the same values.
    assert counts(report) == {"already there": 2, "differs": 1}
    assert [fault.part for fault in report.faults] == [1]
    assert "has it whole, with other values" in next(copy_lines(report))
    assert content(theirs.url) == before


# --- several at once ---


def test_two_who_copy_at_once_share_the_parts(tmp_path, target):
    source = small_store(str(tmp_path / "s"), [clip_row(f"s{i}") for i in range(24)], part_rows=2)

    with ThreadPoolExecutor(2) as pool:
        runs = [pool.submit(copy_store, source.url, target, EVERYTHING) for _ in range(2)]
        reports = [run.result() for run in runs]

    assert content(target) == content(source.url)
    assert sum(counts(report).get("copied", 0) for report in reports) == 12
    for report in reports:
        assert sum(counts(report).values()) == 12 and not report.faults


def test_two_sources_with_different_parts_done_make_one_whole_store(tmp_path, target):
    rows = [clip_row(f"s{i}") for i in range(10)]
    sources = [small_store(str(tmp_path / f"{d}"), rows, done=d) for d in ([0, 1], [1, 2])]

    with ThreadPoolExecutor(2) as pool:
        list(pool.map(lambda store: copy_store(store.url, target, EVERYTHING), sources))

    assert verify(target).faults == ()


def test_it_waits_for_a_part_that_somebody_is_computing_in_the_target(source, target):
    copy_store(source.url, target, Selection(rows=(0, 4)))
    other = FeatureStore.open(target)
    assert other.claims.take(2)
    said: list[str] = []

    with ThreadPoolExecutor(1) as pool:
        run = pool.submit(copy_store, source.url, target, EVERYTHING, say=said.append)
        give_up = time.monotonic() + GIVE_UP_S
        while not said and time.monotonic() < give_up:
            time.sleep(0.005)
        assert not run.done()
        assert "parts/00002.json" not in content(target)
        other.close()
        report = run.result(GIVE_UP_S)

    assert said == ["Waiting for 1 parts that others are writing."]
    assert counts(report) == {"already there": 1, "copied": 2}


# --- the commands ---


@pytest.fixture
def run() -> Callable[..., tuple[int, list[str]]]:
    def invoke(*words: str) -> tuple[int, list[str]]:
        result = CliRunner().invoke(cli.app, ["store", *words])
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            raise result.exception
        return result.exit_code, result.stdout.splitlines()

    return invoke


def test_push_and_pull_end_with_a_line_and_an_exit_code(source, s3, tmp_path, run):
    code, lines = run("push", source.url, f"{s3}/a")
    assert code == 0 and lines[-1].startswith("3 parts copied, 0 already there, 0 damaged: 0.0 MB")

    pull = ("pull", f"{s3}/a", str(tmp_path / "b"), "--rows", "0:4", "--arrays", "feature")
    code, lines = run(*pull, "--json")
    assert (code, json.loads("\n".join(lines))["num_parts"]) == (0, {"copied": 1})
    assert [s.name for s in FeatureStore.open(str(tmp_path / "b")).header.arrays] == ["feature"]


def test_a_push_that_left_something_out_exits_1(source, tmp_path, run):
    changed(Path(source.url) / "arrays/feature/c/1/0")

    code, lines = run("push", source.url, str(tmp_path / "t"))

    assert code == 1
    assert lines[0].startswith("part 1: arrays/feature/c/1/0 was changed")
    assert lines[-1].startswith("2 parts copied, 0 already there, 1 damaged: ")
