"""Copies of a part of a store: by rows, by a split, by arrays."""

from pathlib import Path

import numpy as np
import pytest

from egoctl.pipeline.errors import EgoctlError, StoreError
from egoctl.pipeline.manifest import Manifest, write_manifest
from egoctl.pipeline.records import Segment
from egoctl.pipeline.sharing import copy as store_copy
from egoctl.pipeline.sharing.copy import copy_store
from egoctl.pipeline.sharing.selection import Selection
from egoctl.pipeline.sharing.verify import verify
from egoctl.pipeline.store import FeatureStore
from egoctl.pipeline.store.clip_table import clips_frame
from egoctl.tests.worlds.copied_store import content, counts
from egoctl.tests.worlds.small_stores import (
    clip_row,
    small_store,
)

pytest_plugins = ["egoctl.tests.worlds.s3_server", "egoctl.tests.worlds.copied_store"]

EVERYTHING = Selection()


@pytest.fixture(autouse=True)
def short_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store_copy, "POLL_S", 0.02)


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
