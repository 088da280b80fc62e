"""Copying teammates' rows: by content and recipe alone, checked, counted, never half a part."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from egoctl import cli
from egoctl.pipeline.errors import StoreError, StoreMismatchError
from egoctl.pipeline.sharing.diff import difference
from egoctl.pipeline.sharing.reuse import ReusableRows, copied_rows, reuse
from egoctl.pipeline.sharing.verify import verify
from egoctl.pipeline.store import FeatureStore
from egoctl.tests.worlds.small_stores import (
    BAD_IMU,
    BAD_VIDEO,
    RECIPE,
    clip_row,
    clip_rows,
    small_store,
    values_of,
)


def keys(names):
    return [(clip_row(name).clip_key, None) for name in names]


@pytest.fixture
def mine(tmp_path):
    return str(tmp_path / "mine.store")


@pytest.fixture
def alice(tmp_path):
    return str(tmp_path / "alice.store")


@pytest.fixture
def bob(tmp_path):
    return str(tmp_path / "bob.store")


def test_values_come_in_the_order_of_the_keys_from_whichever_store_has_them(alice, bob):
    header = small_store(alice, clip_rows("abcdef")).header
    small_store(bob, clip_rows("fgh"))
    reusable = ReusableRows([alice, bob], header)

    found = reusable.fetch(keys("hafab"), "feature")

    wanted = [values_of(f"{name}@0.000-2.000", 5) for name in "hafab"]
    np.testing.assert_array_equal(found, np.array(wanted).astype(np.float16))


def test_only_finished_rows_with_data_are_offered(alice):
    header = small_store(alice, clip_rows("abcdef"), failed={"b": BAD_VIDEO}, done=[0]).header
    reusable = ReusableRows([alice], header)

    assert [key in reusable for key in keys("abcdef")] == [True, False, True, True, False, False]


def test_a_row_whose_content_is_unknown_matches_nothing(alice, mine):
    unknown = replace(clip_row("a"), clip_key=None)
    header = small_store(alice, [unknown]).header
    reusable = ReusableRows([alice], header)

    assert (None, None) not in reusable


def test_inputs_are_found_by_video_and_imu_together(alice):
    header = small_store(
        alice,
        [clip_row("a", imu_key="i1"), clip_row("b", imu_key="i1"), clip_row("c")],
        kind="inputs",
        failed_imu={"b": BAD_IMU},
    ).header
    reusable = ReusableRows([alice], header)
    key_of = {name: clip_row(name).clip_key for name in "abc"}

    assert (key_of["a"], "i1") in reusable
    assert (key_of["a"], "i2") not in reusable
    assert (key_of["b"], "i1") not in reusable
    assert (key_of["c"], None) not in reusable


def test_seconds_are_the_rows_share_of_what_their_parts_took(alice, bob):
    header = small_store(alice, clip_rows("abcd"), seconds=2.0).header
    small_store(bob, clip_rows("ef"), seconds=8.0)
    reusable = ReusableRows([alice, bob], header)

    assert reusable.gpu_seconds(keys("abe")) == 2 * 0.5 + 4.0


def test_another_recipe_is_refused_by_field_but_other_class_names_are_fine(alice, bob, mine):
    header = small_store(mine, clip_rows("a"), done=[]).header
    small_store(alice, clip_rows("a"), class_names=None)
    small_store(bob, clip_rows("a"), recipe={**RECIPE, "stride_s": 0.2})

    assert keys("a")[0] in ReusableRows([alice], header)
    with pytest.raises(StoreMismatchError, match=r"bob.store.*\n  recipe.stride_s: 0.2 there, 0.1"):
        ReusableRows([alice, bob], header)


def test_arrays_of_another_shape_are_refused_whatever_the_recipe_says(alice, mine):
    store = small_store(alice, clip_rows("a"))
    narrow = (replace(store.header.arrays[0], row_shape=(1,)), store.header.arrays[1])
    wanted = replace(store.header, arrays=narrow)

    with pytest.raises(StoreMismatchError, match=r'feature: "float16 5" there, "float16 1" here'):
        ReusableRows([alice], wanted)


def test_a_part_knows_which_of_its_rows_are_found_and_copies_them(alice, mine):
    small_store(alice, clip_rows("db"), seconds=3.0)
    (part,) = small_store(mine, clip_rows("abcd"), done=[]).parts()
    reusable = ReusableRows([alice], FeatureStore.open(mine).header)

    indices = reusable.rows_of(part)
    found = copied_rows(part, indices, reusable)

    assert indices == [1, 3]
    wanted = [values_of(f"{name}@0.000-2.000", 3) for name in "bd"]
    np.testing.assert_array_equal(found.arrays["logits"], np.array(wanted).astype(np.float16))
    assert (found.seconds, found.versions) == ({"teacher": 3.0}, {"egoctl": "test"})


def test_whole_parts_are_filled_and_the_others_counted(alice, bob, mine):
    small_store(alice, clip_rows("abc"), seconds=3.0)
    small_store(bob, clip_rows("defx"), seconds=4.0)
    small_store(mine, clip_rows("abcdefghij"), part_rows=2, done=[])

    report = reuse(mine, [alice, bob])

    assert (report.num_rows, report.num_parts, report.teacher_s) == (6, 3, 3 * 1.0 + 3 * 1.0)
    assert (report.num_parts_partly_found, report.num_parts_not_found) == (0, 2)
    store = FeatureStore.open(mine)
    assert store.rows()["outcome"].to_list() == ["ok"] * 6 + [None] * 4
    assert {receipt.num_reused for receipt in store.valid_receipts().values()} == {2}
    assert not [fault for fault in verify(mine, is_deep=True).faults if not fault.is_undone]


def test_what_is_copied_is_what_would_have_been_computed(alice, mine, tmp_path):
    names = "abcdef"
    small_store(alice, clip_rows(reversed(names)), part_rows=3, kind="inputs")
    computed = str(tmp_path / "computed.store")
    small_store(alice + "2", clip_rows(reversed(names), imu_key="i"), part_rows=3, kind="inputs")
    small_store(computed, clip_rows(names, imu_key="i"), kind="inputs")
    small_store(mine, clip_rows(names, imu_key="i"), kind="inputs", done=[])

    assert reuse(mine, [alice]).num_rows == 0  # its rows have no IMU
    assert reuse(mine, [alice, alice + "2"]).num_rows == 6
    assert difference(mine, computed).is_none


def test_a_part_with_one_new_clip_is_left_to_extraction(alice, mine):
    small_store(alice, clip_rows("abc"))
    small_store(mine, clip_rows("abcd"), done=[])

    report = reuse(mine, [alice])

    assert (report.num_parts, report.num_parts_partly_found) == (0, 1)
    assert report.num_rows_partly_found == 3
    assert FeatureStore.open(mine).rows()["outcome"].to_list() == [None] * 4


def test_a_part_that_somebody_is_at_work_on_is_left_to_them(alice, mine):
    small_store(alice, clip_rows("ab"))
    other = small_store(mine, clip_rows("ab"), done=[])
    assert other.claims.take(0)

    assert reuse(mine, [alice]).num_parts_held == 1
    other.close()
    assert reuse(mine, [alice]).num_parts == 1


def test_a_damaged_store_costs_its_rows_and_is_named(alice, bob, mine):
    small_store(alice, clip_rows("ab"))
    small_store(bob, clip_rows("cd"))
    small_store(mine, clip_rows("abcd"), part_rows=2, done=[])
    shard = Path(alice) / "arrays/logits/c/0/0"
    content = bytearray(shard.read_bytes())
    content[0] ^= 1
    shard.write_bytes(content)

    report = reuse(mine, [alice, bob])

    assert report.num_rows == 2
    (fault,) = report.faults
    assert fault.startswith(f"part 0: {alice}/arrays/logits/c/0/0 was changed")
    assert FeatureStore.open(mine).claims.live() == set()


def test_rows_that_a_receipt_does_not_vouch_for_are_not_copied(alice, mine):
    store = small_store(alice, clip_rows("ab"))
    receipt = store.receipt(0)
    forged = replace(receipt, rows_blake3={**receipt.rows_blake3, "feature": "0" * 32})
    store.place.put("parts/00000.json", forged.to_json())
    reusable = ReusableRows([alice], store.header)

    with pytest.raises(StoreError, match="holds other rows than its receipt"):
        reusable.fetch(keys("a"), "feature")


def test_the_command_copies_between_buckets_and_says_what_it_saved(s3):
    small_store(f"{s3}/alice.store", clip_rows("abc"), seconds=3.0)
    small_store(f"{s3}/bob.store", clip_rows("cd"), seconds=1.0)
    small_store(f"{s3}/mine.store", clip_rows("dcba"), done=[])

    args = ["store", "reuse", f"{s3}/mine.store"]
    args += ["--from", f"{s3}/alice.store", "--from", f"{s3}/bob.store"]
    first, second = (CliRunner().invoke(cli.app, args) for _ in range(2))

    assert first.exit_code == second.exit_code == 0, first.output
    assert "4 rows copied in 1 parts; computing them had taken a teacher 3.5 s." in first.output
    assert "0 rows copied in 0 parts" in second.output
