"""verify finds what was changed, names part and rows, and repair puts right what it can."""

import json
from pathlib import Path

import numpy as np
import pytest
import simplejpeg

from egoctl.pipeline.errors import StoreError
from egoctl.pipeline.records import RowOutcome
from egoctl.pipeline.sharing.repair import repair
from egoctl.pipeline.sharing.verify import verification_lines, verify
from egoctl.pipeline.store import FeatureStore
from egoctl.pipeline.store.header import BYTES, ArraySpec
from egoctl.tests.pipeline.store.test_store import ARRAYS, clip_rows, fill, header
from egoctl.tests.soak.flips import flip_bits


def filled(url: str) -> FeatureStore:
    store = FeatureStore.create(url, header(), ARRAYS)
    store.append(clip_rows(10))
    redo(url)
    return store


def redo(url: str) -> None:
    """What a run of extraction does: fill the parts that do not count."""
    store = FeatureStore.open(url)
    for part in store.parts_to_do():
        assert fill(store, part)
    store.close()


@pytest.fixture
def store(tmp_path: Path) -> FeatureStore:
    return filled(str(tmp_path / "t.store"))


def test_sixty_flipped_bits_over_all_kinds_of_files_are_found_and_repaired(store):
    counts = flip_bits(
        store.url, count=60, seed=0, redo=lambda: redo(store.url), on_flip=lambda: None
    )

    assert len(counts.flipped) == 7 and min(counts.flipped.values()) >= 8
    assert (counts.missed, counts.unrepaired) == ([], [])
    assert sum(counts.found.values()) >= 50  # a flip in a space between JSON's words is harmless


def test_the_rows_at_fault_are_named(store):
    shard = Path(store.url) / "arrays/feature/c/1/0"
    content = bytearray(shard.read_bytes())
    content[3 * 2 + 1] ^= 4  # part 1 is rows 4 to 7; a row is 3 float16: this is row 5
    shard.write_bytes(content)

    found = verify(store.url)

    (fault,) = found.faults
    assert (fault.part, fault.rows) == (1, (5,))
    assert list(verification_lines(found)) == [
        "part 1, arrays/feature/c/1/0: was changed: its digest differs (rows 5)",
        f"1 faults. 'egoctl store verify {store.url} --repair' restores what a store has twice "
        "and takes damaged parts out of use; extract-teacher then redoes those.",
    ]


@pytest.mark.parametrize("name", ["store.json", "arrays/zarr.json", "arrays/logits/zarr.json",
                                  "clips/00000.parquet", "clips/00000.parquet.copy",
                                  "stats/00001.npz"])  # fmt: skip
def test_what_a_store_has_twice_is_restored_without_redoing_anything(store, name):
    path = Path(store.url) / name
    before = path.read_bytes()
    path.write_bytes(before[: len(before) // 2])

    found = verify(store.url)
    assert [fault.file for fault in found.faults] == [name]
    repair(found)

    assert path.read_bytes() == before
    assert verify(store.url).faults == ()


@pytest.mark.parametrize("name", ["arrays/zarr.json", "clips/00000.parquet.copy",
                                  "clips/00000.parquet", "stats/00000.npz"])  # fmt: skip
def test_what_is_missing_is_restored(store, name):
    path = Path(store.url) / name
    before = path.read_bytes()
    path.unlink()

    repair(verify(store.url))

    assert path.read_bytes() == before


def test_a_damaged_part_no_longer_counts_after_repair_and_is_redone(store):
    before = (Path(store.url) / "arrays/logits/c/0/0").read_bytes()
    (Path(store.url) / "arrays/logits/c/0/0").write_bytes(before[::-1])

    said = repair(verify(store.url))

    assert said == ["part 0 no longer counts: extract-teacher will do it again"]
    assert [part.number for part in FeatureStore.open(store.url).parts_to_do()] == [0]
    redo(store.url)
    assert (Path(store.url) / "arrays/logits/c/0/0").read_bytes() == before


def test_both_copies_lost_is_said_and_nothing_is_made_up(store):
    for name in ("clips/00000.parquet", "clips/00000.parquet.copy"):
        (Path(store.url) / name).write_bytes(b"x")

    found = verify(store.url)

    with pytest.raises(StoreError, match="and its copy are both lost"):
        repair(found)


def test_a_part_that_was_not_done_is_no_damage(store):
    (Path(store.url) / "parts/00002.json").unlink()

    (fault,) = verify(store.url).faults

    assert fault.is_undone
    assert repair(verify(store.url)) == []


def test_deep_finds_values_that_should_never_have_been_written(tmp_path):
    store = FeatureStore.create(str(tmp_path / "t.store"), header(), ARRAYS)
    store.append(clip_rows(4))
    feature = np.ones((4, 3), np.float32)
    feature[1] = np.nan  # marked ok below
    outcomes = [RowOutcome(), RowOutcome(), RowOutcome(code="past_end", reason="x"), RowOutcome()]
    (part,) = store.parts()
    logits = np.zeros((4, 2))
    logits[2] = np.nan
    store.write_part(
        part, {"feature": feature, "logits": logits}, {"outcome": outcomes}, seconds={}, versions={}
    )

    assert verify(store.url).faults == ()
    (fault,) = verify(store.url, is_deep=True).faults

    assert fault.rows == (1, 2)
    assert fault.what == "rows marked ok without finite values, or others with values"


def test_deep_finds_frames_that_are_no_jpeg_of_the_recipes_size(tmp_path):
    spec = ArraySpec(name="frames", dtype=BYTES, row_shape=(1,), chunk_rows=4)
    recipe = {"frame_px": 16}
    store = FeatureStore.create(str(tmp_path / "i.store"), header(recipe, "inputs"), [spec])
    store.append(clip_rows(3))
    frames = np.empty((3, 1), dtype=object)
    good, large = (simplejpeg.encode_jpeg(np.zeros((px, px, 3), np.uint8)) for px in (16, 32))
    frames[:] = [[good], [large], [b"GIF89a"]]
    ok = [RowOutcome()] * 3
    (part,) = store.parts()
    store.write_part(
        part, {"frames": frames}, {"outcome": ok, "imu_outcome": ok}, seconds={}, versions={}
    )

    (fault,) = verify(store.url, is_deep=True).faults

    assert fault.rows == (1, 2)
    assert "32 x 32 pixels, not 16 x 16" in fault.what


def test_statistics_of_the_store_are_those_of_its_rows(store):
    feature = store.read("feature", np.arange(10)).astype(np.float64)

    found = store.statistics()["feature"]

    np.testing.assert_allclose(found.mean_D, feature.mean(axis=0))
    np.testing.assert_allclose(found.std_D, feature.std(axis=0))
    assert found.count_D.tolist() == [10, 10, 10]


def test_metadata_that_another_zarr_wrote_with_keys_of_its_own_is_no_fault(store):
    path = Path(store.url) / "arrays/feature/zarr.json"
    found = json.loads(path.read_text())
    path.write_text(json.dumps(found | {"dimension_names": None}))

    assert verify(store.url).faults == ()
