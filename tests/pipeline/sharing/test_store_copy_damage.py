"""Copies of stores that are damaged or hostile: what is bad is named and left out."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from blake3 import blake3

from egoctl.pipeline.errors import StoreError
from egoctl.pipeline.files.place import Place
from egoctl.pipeline.sharing import copy as store_copy
from egoctl.pipeline.sharing.copy import copy_store
from egoctl.pipeline.sharing.selection import Selection
from egoctl.pipeline.sharing.verify import verify
from egoctl.pipeline.store import FeatureStore
from egoctl.pipeline.store.clip_table import ClipTable, clips_frame
from egoctl.pipeline.store.clips_file import COPY, copy_of
from egoctl.pipeline.store.header import StoreHeader
from egoctl.pipeline.store.receipt import Receipt
from egoctl.tests.worlds.copied_store import changed, content, counts
from egoctl.tests.worlds.small_stores import (
    RECIPE,
    TEACHER_ARRAYS,
    clip_row,
)

pytest_plugins = ["egoctl.tests.worlds.s3_server", "egoctl.tests.worlds.copied_store"]

EVERYTHING = Selection()


@pytest.fixture(autouse=True)
def short_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store_copy, "POLL_S", 0.02)


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
