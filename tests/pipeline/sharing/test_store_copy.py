"""Copies of stores: whole parts, each compared with its receipt, whatever happens on the way."""

import json
import multiprocessing
import random
import signal
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from multiprocessing.context import ForkServerContext
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from blake3 import blake3
from typer.testing import CliRunner

from egoctl import cli
from egoctl.pipeline.errors import EgoctlError, StoreError, StoreMismatchError
from egoctl.pipeline.files.place import Place
from egoctl.pipeline.manifest import Manifest, write_manifest
from egoctl.pipeline.records import Segment
from egoctl.pipeline.sharing import copy as store_copy
from egoctl.pipeline.sharing.copy import copy_lines, copy_store
from egoctl.pipeline.sharing.selection import Selection
from egoctl.pipeline.sharing.verify import verify
from egoctl.pipeline.store import FeatureStore
from egoctl.pipeline.store.clip_table import ClipTable, clips_frame
from egoctl.pipeline.store.clips_file import COPY, copy_of
from egoctl.pipeline.store.header import StoreHeader
from egoctl.pipeline.store.receipt import Receipt
from egoctl.tests.worlds import copied_store
from egoctl.tests.worlds.copied_store import changed, content, counts
from egoctl.tests.worlds.s3_server import FaultRates, FaultyProxy, S3Server, s3_environment
from egoctl.tests.worlds.small_stores import (
    BAD_VIDEO,
    RECIPE,
    TEACHER_ARRAYS,
    clip_row,
    small_store,
    values_of,
)

pytest_plugins = ["egoctl.tests.worlds.copied_store"]

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


# === Copies of a part of a store: by rows, by a split, by arrays ===


def test_rows_bring_the_whole_parts_that_hold_them(source, target, tmp_path):
    report = copy_store(source.url, target, Selection(rows=(3, 8)))

    assert counts(report) == {"copied": 2}
    assert [fault.part for fault in verify(target).faults] == [2]
    pulled = str(tmp_path / "pulled")
    copy_store(target, pulled, Selection(rows=(3, 8)))
    ok = FeatureStore.open(pulled).rows().filter(outcome="ok")
    assert ok["row"].to_list() == list(range(8))
    np.testing.assert_array_equal(
        FeatureStore.open(pulled).read("feature", ok["row"]),
        source.read("feature", ok["row"]),
    )


def test_a_split_brings_the_parts_that_its_clips_are_in(source, tmp_path):
    manifest = manifest_of({"s0": "train", "s2": "train", "s5": "val", "s9": "train"}, tmp_path)
    selection = Selection.of(arrays=None, rows=None, split="train", manifest=manifest)

    copy_store(source.url, str(tmp_path / "t"), selection)

    assert set(selection.clip_ids or ()) == {"s0@0.000-2.000", "s2@0.000-2.000", "s9@0.000-2.000"}
    store = FeatureStore.open(str(tmp_path / "t"))
    assert sorted(store.valid_receipts()) == [0, 2]
    with pytest.raises(EgoctlError, match=r"no split 'tset'; it has train, val"):
        Selection.of(arrays=None, rows=None, split="tset", manifest=manifest)


def manifest_of(split_of: dict[str, str], folder: Path) -> str:
    segments = [
        Segment(
            segment_id=name, video_id="v", video_path="v.mp4", imu_path=None,
            participant_id="P", start_s=0.0, stop_s=2.0, label=None, split=split,
        )
        for name, split in split_of.items()
    ]  # fmt: skip
    manifest = Manifest(
        segments=tuple(segments), class_names=(), dataset_name="d", window_s=2.0, stride_s=None,
        root=folder,
    )  # fmt: skip
    write_manifest(manifest, folder / "m.parquet")
    return str(folder / "m.parquet")


def test_a_clip_that_was_added_again_comes_with_its_last_row_only(tmp_path):
    store = small_store(str(tmp_path / "s"), [clip_row(f"s{i}") for i in range(4)], part_rows=2)
    again = clips_frame([clip_row("s0", video="mended")], first_part=2, part_rows=2)
    store.add_clips(again)

    wanted = Selection(clip_ids=frozenset({"s0@0.000-2.000"})).parts(FeatureStore.open(store.url))

    assert [part.number for part in wanted] == [2]


def test_arrays_make_a_store_of_these_arrays(source, target, tmp_path):
    copy_store(source.url, target, Selection(arrays=("logits",)))

    assert [spec.name for spec in FeatureStore.open(target).header.arrays] == ["logits"]
    assert not any("feature" in name for name in content(target))
    assert verify(target, is_deep=True).faults == ()
    pulled = str(tmp_path / "pulled")
    copy_store(target, pulled, EVERYTHING)
    rows = np.arange(10)
    np.testing.assert_array_equal(
        FeatureStore.open(pulled).read("logits", rows), source.read("logits", rows)
    )
    # Receipts are those of the whole store, so that two copies can be told to be the same.
    assert content(pulled)["parts/00001.json"] == content(source.url)["parts/00001.json"]


def test_what_is_not_there_is_refused_before_anything_is_made(source, tmp_path):
    target = str(tmp_path / "t")
    with pytest.raises(StoreError, match="has no array 'logit'; it has feature, logits"):
        copy_store(source.url, target, Selection(arrays=("logit",)))
    with pytest.raises(EgoctlError, match="holds no row of those that were asked for"):
        copy_store(source.url, target, Selection(rows=(10, 20)))
    with pytest.raises(StoreError, match="is source and target"):
        copy_store(source.url, source.url + "/", EVERYTHING)
    with pytest.raises(StoreError, match="no store at"):
        copy_store(str(tmp_path / "none"), target, EVERYTHING)
    assert not Path(target).exists()


@pytest.mark.parametrize(
    ("rows", "span"), [("2:7", (2, 7)), (":7", (0, 7)), ("2:", (2, 2**63 - 1))]
)
def test_rows_are_written_like_slices(rows, span):
    assert Selection.of(arrays=None, rows=rows, split=None, manifest=None).rows == span


@pytest.mark.parametrize("rows", ["7", "a:b", "-1:3", "1:2:3", ""])
def test_other_rows_are_refused(rows):
    with pytest.raises(EgoctlError, match="--rows must be like 0:1000"):
        Selection.of(arrays=None, rows=rows, split=None, manifest=None)


def test_a_split_needs_the_manifest_that_tells_it():
    with pytest.raises(EgoctlError, match="--split needs --manifest"):
        Selection.of(arrays=None, rows=None, split="train", manifest=None)


# === Copies of stores that are damaged or hostile: what is bad is named and left out ===


@pytest.mark.parametrize(
    ("damage", "what"),
    [
        (lambda s: changed(s / "arrays/feature/c/1/0"), "feature/c/1/0 was changed: its digest"),
        (lambda s: changed(s / "stats/00001.npz"), "stats/00001.npz was changed: its digest"),
        (lambda s: (s / "arrays/logits/c/1/0").unlink(), "logits/c/1/0 is missing"),
        (lambda s: (s / "arrays/logits/c/1/0").write_bytes(b""), "logits/c/1/0 has 0 bytes, not"),
        (lambda s: changed(s / "parts/00001.json", at=100), "00001.json is not as it was written"),
        (
            lambda s: (s / "parts/00001.json").write_bytes((s / "parts/00000.json").read_bytes()),
            "parts/00001.json belongs to other rows or another recipe",
        ),
    ],
)
def test_a_damaged_part_is_named_and_left_out_and_the_others_are_copied(
    source, target, damage, what
):
    damage(Path(source.url))

    report = copy_store(source.url, target, EVERYTHING)

    assert counts(report) == {"copied": 2, "damaged": 1}
    (fault,) = report.faults
    assert fault.part == 1 and what in fault.what and "not copied" in fault.what
    assert "parts/00001.json" not in content(target)
    assert [(f.part, f.is_undone) for f in verify(target).faults] == [(1, True)]


def test_no_byte_of_a_damaged_shard_reaches_the_target(source, target):
    changed(Path(source.url) / "arrays/feature/c/1/0")

    copy_store(source.url, target, EVERYTHING)

    assert "arrays/feature/c/1/0" not in content(target)


def test_damaged_rows_are_not_spread(source, target):
    changed(Path(source.url) / "clips/00000.parquet", at=60)

    with pytest.raises(StoreError, match=r"00000.parquet was changed. .*verify .*--repair"):
        copy_store(source.url, target, EVERYTHING)
    assert not any(name.startswith("clips/") for name in content(target))


def test_a_shard_that_was_damaged_in_a_local_target_is_copied_anew(source, tmp_path):
    target = tmp_path / "t"
    copy_store(source.url, str(target), EVERYTHING)
    changed(target / "arrays/feature/c/1/0")

    report = copy_store(source.url, str(target), EVERYTHING)

    assert counts(report) == {"already there": 2, "copied": 1}
    shard = Path(source.url) / "arrays/feature/c/1/0"
    assert report.num_bytes == shard.stat().st_size
    assert content(str(target)) == content(source.url)


def test_a_shard_of_the_same_size_that_somebody_left_in_the_target_is_not_trusted(source, target):
    copy_store(source.url, target, Selection(rows=(0, 4)))
    stranger = content(target)["arrays/feature/c/0/0"]
    assert len(stranger) == len(content(source.url)["arrays/feature/c/1/0"])
    Place(target).put("arrays/feature/c/1/0", stranger)  # then its writer died

    copy_store(source.url, target, EVERYTHING)

    assert content(target) == content(source.url)


# --- hostile sources ---


def rehashed(found: dict[str, Any]) -> bytes:
    """The JSON of a header or a receipt, with a digest that fits."""
    found.pop("blake3", None)
    digest = blake3(json.dumps(found, sort_keys=True).encode()).hexdigest()
    return json.dumps(found | {"blake3": digest}).encode()


def outside(tmp_path: Path) -> list[str]:
    """What lies beside source and target."""
    return sorted(p.name for p in tmp_path.iterdir() if p.name not in ("source", "inner"))


def test_names_in_a_hostile_header_or_receipt_cannot_leave_the_target(source, tmp_path):
    folder, target = Path(source.url), str(tmp_path / "inner/target")
    evil = {"blake3": blake3(b"evil").hexdigest(), "bytes": 4}
    (tmp_path / "source/evil").write_bytes(b"evil")
    receipt = json.loads((folder / "parts/00001.json").read_bytes())
    receipt["shards"] |= {"../../evil": evil, "/tmp/evil": evil, "evil": evil}
    receipt["rows_blake3"]["../../evil"] = ""
    (folder / "parts/00001.json").write_bytes(rehashed(receipt))

    report = copy_store(source.url, target, EVERYTHING)

    # Files are named by the header's arrays and the part's number, never by the receipt.
    assert counts(report) == {"copied": 3}
    assert outside(tmp_path) == []
    assert sorted(content(target)) == sorted(content(source.url).keys() - {"evil"})

    header = json.loads((folder / "store.json").read_bytes())
    header["arrays"]["../../evil"] = header["arrays"]["feature"]
    (folder / "store.json").write_bytes(rehashed(header))
    with pytest.raises(StoreError, match=r"may not be called '../../evil'.*Nothing .* was read"):
        copy_store(source.url, str(tmp_path / "inner/other"), EVERYTHING)
    assert outside(tmp_path) == [] and not (tmp_path / "inner/other").exists()


@pytest.mark.parametrize("number", [-1, 10**15])
def test_absurd_part_numbers_stay_in_the_target_too(tmp_path, number):
    header = StoreHeader(kind="teacher", recipe=RECIPE, class_names=None, part_rows=4)
    url = str(tmp_path / "source")
    store = FeatureStore.create(url, header, TEACHER_ARRAYS)
    frame = clips_frame([clip_row("s0")], first_part=0, part_rows=4)
    frame = frame.with_columns(part=pl.lit(number, dtype=pl.Int64))
    ClipTable(Place(f"{url}/clips"), 4).add_file(frame, number=0)
    assert store.parts()[0].number == number

    report = copy_store(url, str(tmp_path / "inner/target"), EVERYTHING)

    assert counts(report) == {"not done": 1}
    assert outside(tmp_path) == []


def test_a_receipt_cannot_make_a_copy_read_more_than_a_shard_can_have(source, tmp_path):
    folder = Path(source.url)
    shard = folder / "arrays/feature/c/1/0"
    shard.write_bytes(shard.read_bytes() + bytes(1_000_000))
    receipt = Receipt.from_json((folder / "parts/00001.json").read_bytes(), "")
    grown = {**receipt.shards, "feature": receipt.shards["feature"].of(shard.read_bytes())}
    (folder / "parts/00001.json").write_bytes(replace(receipt, shards=grown).to_json())

    report = copy_store(source.url, str(tmp_path / "t"), EVERYTHING)

    assert counts(report) == {"copied": 2, "damaged": 1}


def test_a_hostile_copy_of_the_rows_is_of_no_use(source, tmp_path):
    clips = Path(source.url) / f"clips/00000.parquet{COPY}"
    clips.write_bytes(copy_of(b"other rows"))

    with pytest.raises(StoreError, match="00000.parquet was changed"):
        copy_store(source.url, str(tmp_path / "t"), EVERYTHING)


# === A copy that is killed, at any moment: run it again and nothing tells that it happened ===


NUM_KILLS = 5


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
