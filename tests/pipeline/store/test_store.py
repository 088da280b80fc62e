"""The store's promises: parts, receipts, recipes, append-only rows, plain Zarr."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import zarr

from egoctl.pipeline.errors import StoreError, StoreMismatchError
from egoctl.pipeline.records import RowOutcome
from egoctl.pipeline.sharing.verify import verify
from egoctl.pipeline.store import FeatureStore
from egoctl.pipeline.store.clip_table import StoreRow, clip_key, clips_frame, parts_of
from egoctl.pipeline.store.header import BYTES, ArraySpec, StoreHeader

RECIPE = {"teacher": {"name": "means", "stride_s": 0.1333}, "size": 224}
ARRAYS = (
    ArraySpec(name="feature", dtype="float16", row_shape=(3,), chunk_rows=2),
    ArraySpec(name="logits", dtype="float32", row_shape=(2,), chunk_rows=2),
)


def header(recipe=RECIPE, kind="teacher"):
    return StoreHeader(kind=kind, recipe=recipe, class_names=("cut", "stir"), part_rows=4)


def clip_rows(count: int, prefix: str = "s") -> list[StoreRow]:
    return [
        StoreRow(
            clip_id=f"{prefix}{i}@0.000-2.000",
            segment_id=f"{prefix}{i}",
            video_id="v",
            start_s=0.0,
            stop_s=2.0,
            clip_key=clip_key(prefix, i, i + 2),
        )
        for i in range(count)
    ]


def fill(store: FeatureStore, part) -> bool:
    n = part.num_rows
    numbers = np.arange(part.first_row, part.first_row + n, dtype=np.float32)
    return store.write_part(
        part,
        {
            "feature": np.repeat(numbers[:, None], 3, axis=1),
            "logits": np.repeat(-numbers[:, None], 2, axis=1),
        },
        {"outcome": [RowOutcome()] * n},
        seconds={"teacher": 0.5},
        versions={"egoctl": "test"},
    )


@pytest.fixture
def store(tmp_path: Path) -> FeatureStore:
    store = FeatureStore.create(str(tmp_path / "t.store"), header(), ARRAYS)
    store.append(clip_rows(6))
    return store


def test_a_row_exists_when_its_receipt_says_so(store):
    first, second = store.parts()
    fill(store, first)

    assert store.rows()["outcome"].to_list() == ["ok"] * 4 + [None] * 2
    assert [part.number for part in store.parts_to_do()] == [second.number]


def test_values_come_back_in_the_order_asked_for(store):
    for part in store.parts():
        fill(store, part)

    feature = store.read("feature", np.array([5, 0, 3, 0]))

    assert feature.dtype == np.float16
    np.testing.assert_array_equal(feature[:, 0], [5, 0, 3, 0])


def test_a_plain_zarr_reader_opens_the_arrays_without_a_warning(store):
    for part in store.parts():
        fill(store, part)

    group = zarr.open_group(f"{store.url}/arrays", mode="r")  # a warning would fail this test

    assert group["feature"].shape == (6, 3)
    np.testing.assert_array_equal(group["logits"][:, 1], [0, -1, -2, -3, -4, -5])
    assert group.attrs["egoctl"]["fingerprint"] == store.header.fingerprint


def test_jpeg_bytes_and_imu_rows_come_back_as_they_went_in(tmp_path):
    specs = (
        ArraySpec(name="frames", dtype=BYTES, row_shape=(2,), chunk_rows=64),
        ArraySpec(name="imu", dtype="float32", row_shape=(5, 6), chunk_rows=64),
    )
    store = FeatureStore.create(str(tmp_path / "i.store"), header(kind="inputs"), specs)
    store.append(clip_rows(3))
    frames = np.empty((3, 2), dtype=object)
    frames[:] = [[b"a", b""], [b"\x00\xff" * 1000, b"c"], [b"d", b"e"]]
    imu = np.random.default_rng(0).normal(size=(3, 5, 6)).astype(np.float32)
    (part,) = store.parts()

    store.write_part(
        part,
        {"frames": frames, "imu": imu},
        {
            "outcome": [RowOutcome()] * 3,
            "imu_outcome": [RowOutcome(), RowOutcome(code="imu_nan", reason="3 NaN"), RowOutcome()],
        },
        seconds={},
        versions={},
    )

    assert store.read("frames", np.array([1]))[0, 0] == b"\x00\xff" * 1000
    np.testing.assert_array_equal(store.read("imu", np.arange(3)), imu)
    assert store.rows()["imu_outcome"].to_list() == ["ok", "imu_nan", "ok"]
    assert store.rows()["imu_reason"].to_list() == [None, "3 NaN", None]
    assert zarr.open_group(f"{store.url}/arrays", mode="r")["frames"][2, 1] == b"e"


def test_threads_that_ask_for_digests_of_parts_get_the_same(tmp_path):
    table = clips_frame(clip_rows(800), first_part=0, part_rows=4)
    expected = [part.clips_blake3 for part in parts_of(table)]

    for _ in range(5):
        parts = parts_of(table)
        with ThreadPoolExecutor(16) as pool:
            assert list(pool.map(lambda part: part.clips_blake3, parts)) == expected
    assert len(set(expected)) == 200


def test_threads_that_ask_for_the_claims_at_once_get_the_same(store):
    # Else one would take a part in the name of a holder that another has never heard of.
    opened = FeatureStore.open(store.url)
    with ThreadPoolExecutor(16) as pool:
        assert len(set(pool.map(lambda _: id(opened.claims), range(64)))) == 1


def test_a_larger_manifest_adds_rows_behind_a_new_part_and_moves_none(store):
    for part in store.parts():
        fill(store, part)

    added = store.append(clip_rows(6) + clip_rows(2, "new"))

    assert added == 2
    assert store.clips()["row"].to_list() == [0, 1, 2, 3, 4, 5, 8, 9]
    (new_part,) = store.parts_to_do()
    assert (new_part.number, new_part.first_row) == (2, 8)
    fill(store, new_part)
    np.testing.assert_array_equal(store.read("feature", np.array([9, 4]))[:, 0], [9, 4])
    assert store.parts_to_do() == []


def test_another_recipe_is_refused_field_by_field(store):
    other = {"teacher": {"name": "means", "stride_s": 0.1667}, "size": 256}

    with pytest.raises(StoreMismatchError) as caught:
        FeatureStore.create(store.url, header(other), ARRAYS)

    assert "size: store 224, this run 256" in str(caught.value)
    assert "teacher.stride_s: store 0.1333, this run 0.1667" in str(caught.value)


def test_the_same_recipe_opens_the_store_whatever_the_order_of_its_fields(store):
    turned = {"size": 224, "teacher": {"stride_s": 0.1333, "name": "means"}}

    again = FeatureStore.create(store.url, header(turned), ARRAYS)

    assert len(again.clips()) == 6


def test_a_clip_whose_video_changed_is_refused(store):
    changed = [
        StoreRow(clip_id="s0@0.000-2.000", segment_id="s0", video_id="v", start_s=0.0,
                 stop_s=2.0, clip_key="other")
    ]  # fmt: skip

    with pytest.raises(StoreMismatchError, match="s0@0.000-2.000.*its video .*other content"):
        store.append(changed)


def test_a_torn_shard_is_redone_and_a_flipped_bit_is_found(store):
    for part in store.parts():
        fill(store, part)
    shard = Path(store.url) / "arrays/feature/c/1/0"
    whole = shard.read_bytes()

    shard.write_bytes(whole[:-1])
    assert [part.number for part in store.parts_to_do()] == [1]

    shard.write_bytes(bytes([whole[0] ^ 1]) + whole[1:])
    (fault,) = verify(store.url).faults
    assert (fault.part, fault.file, fault.rows) == (1, "arrays/feature/c/1/0", (4,))
    assert fault.what == "was changed: its digest differs"


@pytest.mark.parametrize(
    ("damage", "fault"),
    [
        (lambda folder: (folder / "arrays/logits/c/0/0").unlink(), "is missing"),
        (lambda folder: (folder / "parts/00000.json").unlink(), "no receipt"),
        (lambda folder: (folder / "parts/00000.json").write_text("{"), "is not JSON"),
        (
            lambda folder: (folder / "parts/00000.json").write_bytes(
                (folder / "parts/00001.json").read_bytes()
            ),
            "belongs to another recipe, other rows",
        ),
    ],
)
def test_verify_names_the_damaged_part_and_a_rerun_would_redo_it(store, damage, fault):
    for part in store.parts():
        fill(store, part)

    damage(Path(store.url))

    (found,) = verify(store.url).faults
    assert found.part == 0 and fault in found.what
    assert [part.number for part in FeatureStore.open(store.url).parts_to_do()] == [0]


def test_a_value_too_large_for_float16_is_refused_before_the_part_counts(store):
    part = store.parts()[0]
    huge = np.full((4, 3), 1e6, dtype=np.float32)

    with pytest.raises(StoreError, match="1e\\+06, too large for float16.*--dtype float32"):
        store.write_part(
            part,
            {"feature": huge, "logits": np.zeros((4, 2), np.float32)},
            {"outcome": [RowOutcome()] * 4},
            seconds={},
            versions={},
        )

    assert len(store.parts_to_do()) == 2


def test_failed_rows_stay_nan_and_keep_their_reason(store):
    part = store.parts()[0]
    values = np.ones((4, 3), np.float32)
    values[2] = np.nan
    outcomes = [RowOutcome()] * 4
    outcomes[2] = RowOutcome(code="past_end", reason="the video ends at 1.00 s")

    store.write_part(
        part,
        {"feature": values, "logits": values[:, :2]},
        {"outcome": outcomes},
        seconds={},
        versions={},
    )

    assert np.isnan(store.read("feature", np.array([2]))).all()
    row = store.rows().row(2, named=True)
    assert (row["outcome"], row["reason"]) == ("past_end", "the video ends at 1.00 s")


def test_the_digest_of_rows_follows_their_content(store):
    for part in store.parts():
        fill(store, part)
    before = store.digest_of(np.array([0, 1]))

    assert store.digest_of(np.array([1, 0])) == before
    assert store.digest_of(np.array([0, 2])) != before
    part = store.parts()[0]
    store.write_part(
        part,
        {"feature": np.zeros((4, 3)), "logits": np.zeros((4, 2))},
        {"outcome": [RowOutcome()] * 4},
        seconds={},
        versions={},
    )
    assert store.digest_of(np.array([0, 1])) != before


def test_creation_that_was_killed_after_any_step_can_be_repeated(tmp_path):
    folder = tmp_path / "s.store"
    folder.mkdir()
    (folder / "store.json#1").write_bytes(b"{")  # a staged put that never finished

    store = FeatureStore.create(str(folder), header(), ARRAYS)
    (folder / "arrays/logits/zarr.json").unlink()  # died before the second array

    again = FeatureStore.create(str(folder), header(), ARRAYS)
    assert sorted(again.array_specs()) == ["feature", "logits"]
    assert store.header == again.header


def test_a_folder_with_other_things_is_left_alone(tmp_path):
    (tmp_path / "holiday.jpg").write_bytes(b"x")

    with pytest.raises(StoreError, match="folder with other files"):
        FeatureStore.create(str(tmp_path), header(), ARRAYS)


def test_opening_what_is_no_store_says_what_makes_one(tmp_path):
    with pytest.raises(StoreError, match="no store at .*extract-teacher"):
        FeatureStore.open(str(tmp_path / "none.store"))


def test_a_header_whose_recipe_was_edited_is_refused(store):
    path = Path(store.url) / "store.json"
    path.write_text(path.read_text().replace("0.1333", "0.1667"))

    with pytest.raises(StoreError, match="its digest does not belong to its content"):
        FeatureStore.open(store.url)


def test_two_writers_append_and_each_row_is_there_once(store):
    second = FeatureStore.open(store.url)

    assert second.append(clip_rows(6) + clip_rows(1, "x")) == 1
    assert store.append(clip_rows(6) + clip_rows(2, "x")) == 1

    ids = FeatureStore.open(store.url).clips()["clip_id"].to_list()
    assert ids[:6] == [row.clip_id for row in clip_rows(6)]
    assert ids[6:] == [row.clip_id for row in clip_rows(2, "x")]


def test_rows_that_another_writer_adds_in_between_are_not_numbered_twice(store, monkeypatch):
    # The other's file comes after our look at the table, and before we name ours.
    second = FeatureStore.open(store.url)
    look = second._table.file_names
    looks = []

    def look_and_let_the_other_add():
        names = look()
        if not looks:
            looks.append(store.append(clip_rows(6) + clip_rows(2, "first")))
        return names

    table = second._table
    monkeypatch.setattr(table, "_mend_copies", lambda: None)
    known = second.rows(), second.parts_to_do()
    assert len(known[0]) == 6
    monkeypatch.setattr(table, "file_names", look_and_let_the_other_add)
    assert table.append(clip_rows(2, "second")) is None  # it has to look again
    monkeypatch.undo()
    assert second.append(clip_rows(2, "second")) == 2

    clips = FeatureStore.open(store.url).clips()
    assert clips["row"].to_list() == [0, 1, 2, 3, 4, 5, 8, 9, 12, 13]


def test_a_part_that_another_process_holds_is_not_written(store):
    other = FeatureStore.open(store.url)
    part = store.parts()[0]
    assert other.claims.take(0)

    assert fill(store, part) is False
    other.close()

    assert fill(store, part) is True


def test_rows_of_a_part_that_a_smaller_manifest_cannot_finish_are_added_again(store):
    first, second = store.parts()
    fill(store, second)  # rows 4 and 5; the first part was interrupted

    added = store.append(clip_rows(6)[1:])  # row 0 is no longer in the manifest

    assert added == 3
    assert store.clips()["clip_id"].to_list()[6:] == [row.clip_id for row in clip_rows(4)[1:]]
    assert store.append(clip_rows(6)[1:]) == 0  # and only once
    (new,) = [part for part in store.parts_to_do() if part.number == 2]
    fill(store, new)
    outcome = dict(store.rows().select("clip_id", "outcome").iter_rows())
    assert outcome == {"s0@0.000-2.000": None} | {f"s{i}@0.000-2.000": "ok" for i in range(1, 6)}


@pytest.mark.parametrize("file", ["arrays/logits/c/0/0", "parts/00000.json"])
def test_rows_of_a_damaged_part_are_not_taken_for_data_and_do_not_block_a_rerun(store, file):
    for part in store.parts():
        fill(store, part)
    path = Path(store.url) / file
    path.write_bytes(path.read_bytes()[:-7])

    assert store.rows()["outcome"].to_list() == [None] * 4 + ["ok"] * 2
    with pytest.raises(StoreError, match="part 0 is not done, or was damaged"):
        store.digest_of(np.array([1]))
    assert store.append(clip_rows(6)) == 0
    assert [part.number for part in store.parts_to_do()] == [0]


def test_a_clip_that_moved_by_less_than_its_id_shows_is_refused_by_name(store):
    moved = [
        StoreRow(clip_id="s0@0.000-2.000", segment_id="s0", video_id="v", start_s=0.0002,
                 stop_s=2.0002, clip_key=None)
    ]  # fmt: skip

    with pytest.raises(StoreMismatchError, match=r"is \[0.0, 2.0\) s in .*another segment_id"):
        store.append(moved)
